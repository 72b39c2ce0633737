//! A rehearsal: cutover and rollback, both ways, on a channel of its own.
//!
//! The scratch channel gets what the topic gets, and has a small consumer on either side that counts. As the relay is fenced when the channel
//! appears and at each barrier, the offsets say exactly how many messages each side must have had. The topic's other channels wait
//! for each of the pauses; nothing else is touched, and everything is taken away at the end.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    complete::{delete_channel, record},
    cutover::{cut_over, drive},
    driver::{Done, Driver, Options, with_lock},
    nsqds::Look,
    progress::Progress,
    refusal::{Left, Reason, Refusal, Trouble},
    rollback::{Mode, roll_back},
    subject::{Places, Subject},
};
use crate::{
    nsq::{
        finisher::Finisher,
        names::{ChannelPath, TopicName},
    },
    rocketmq::{
        ClusterError, QueueReader,
        codes::response,
        group::Member,
        reader::{PULL_MAX, Pull},
    },
};

/// Each side consumes for so long.
const ACT: Duration = Duration::from_secs(3);
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// What the channel's name begins with.
const SCRATCH: &str = "nsqbridge-rehearsal-";

/// A channel nobody else has.
#[must_use]
pub fn scratch_channel(topic: TopicName) -> ChannelPath {
    let name = format!("{SCRATCH}{:08x}", fastrand::u32(..));
    let channel = name.parse().unwrap_or_else(|_| unreachable!("letters, digits and dashes"));
    ChannelPath { topic, channel }
}

/// What it would do, for people.
#[must_use]
pub fn preview(subject: &Subject, options: Options) -> Vec<String> {
    vec![
        format!(
            "a channel {} would be created, cut over to {}, and rolled back, both ways",
            subject.path(),
            subject.group
        ),
        format!(
            "five times the relay of {} is held, each time for at most {}; producers notice nothing",
            subject.topic,
            humantime::format_duration(options.max_pause)
        ),
        "at the end channel and group are deleted".to_owned(),
    ]
}

/// Rehearses, checks what each side had, and cleans up.
///
/// # Errors
/// Why it failed, or which count was wrong.
pub async fn rehearse(
    subject: &Subject,
    options: Options,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Done, Refusal> {
    let played = play(subject, options, progress, stop).await;
    let cleaned = clean_up(subject).await;
    let refusal = |trouble: Trouble| match &cleaned {
        Ok(()) => Refusal { trouble, left: Left::Undone },
        Err(failed) => {
            let left = format!("the channel {} and groups of its name ({failed})", subject.path());
            Refusal { trouble, left: Left::InForce(left) }
        }
    };
    match (played, &cleaned) {
        (Ok(message), Ok(())) => Ok(Done::at_once(message)),
        (Ok(_), Err(failed)) => Err(refusal(failed.clone())),
        (Err(trouble), _) => Err(refusal(trouble)),
    }
}

async fn play(
    subject: &Subject,
    options: Options,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<String, Trouble> {
    sweep(subject, progress).await?;
    // The channel appears where the relay stands.
    let created = async |driver: &Driver<'_>| driver.main.nsqds.create().await;
    let (begin, ()) = fenced(subject, options, progress, stop, |look, _| look.is_copied(), created).await?;
    let nsqds = subject.read().await?.nsqds;
    let old = Finisher::start(nsqds.all(), &subject.path()).await?;
    let mut expected = 0;

    progress.note("the old consumer consumes");
    tokio::time::sleep(ACT).await;
    cut_over(subject, options, progress, stop).await.map_err(|refusal| refusal.trouble)?;
    let barrier = subject.barrier().await?;
    expected += between(&begin, &barrier);
    check("the old consumer", expected, old.finished())?;

    progress.note("the new consumer consumes");
    let new = GroupReader::start(subject).await?;
    tokio::time::sleep(ACT).await;
    roll_back(subject, Mode::Healthy { accept_more: false }, options, progress, stop)
        .await
        .map_err(|refusal| refusal.trouble)?;
    let stands = subject.places_of(&subject.group).await?;
    let by_new = between(&barrier, &stands);
    check("the new consumer", by_new, new.consumed())?;

    progress.note("the old consumer consumes again");
    tokio::time::sleep(ACT).await;
    cut_over(subject, options, progress, stop).await.map_err(|refusal| refusal.trouble)?;
    let barrier = subject.barrier().await?;
    expected += between(&stands, &barrier);
    check("the old consumer", expected, old.finished())?;

    progress.note("the new consumer consumes, and is taken for broken");
    let new = GroupReader::start(subject).await?;
    tokio::time::sleep(ACT).await;
    roll_back(subject, Mode::Broken { accept_missing: false }, options, progress, stop)
        .await
        .map_err(|refusal| refusal.trouble)?;
    let empty = |look: &Look, _: &Places| look.is_empty();
    let (end, finished) =
        fenced(subject, options, progress, stop, empty, async |_| Ok(old.finished())).await?;
    expected += between(&barrier, &end);
    check("the old consumer", expected, finished)?;
    Ok(format!(
        "rehearsed on {}: {expected} messages to the old consumer, {by_new} to the new one, none lost or doubled; {} more came to both, as told, \
         when the new one was taken for broken",
        subject.path(),
        new.consumed(),
    ))
}

/// Where the relay stands with all nsqds as they must be, and what `act` comes to before it goes on.
async fn fenced<T>(
    subject: &Subject,
    options: Options,
    progress: &Progress,
    stop: &CancellationToken,
    holds: impl Fn(&Look, &Places) -> Result<(), Trouble>,
    act: impl AsyncFnOnce(&Driver<'_>) -> Result<T, Trouble>,
) -> Result<(Places, T), Trouble> {
    let done = with_lock(subject, progress, stop, async |lock| {
        let world = subject.read().await.map_err(Refusal::untouched)?;
        world.intakes_run().map_err(Refusal::untouched)?;
        let mut driver = drive(subject, options, progress, stop, lock, &world, None);
        let acted = async {
            let proof = driver.until_level(holds).await?;
            Ok((proof.places, act(&driver).await?))
        };
        let acted: Result<_, Trouble> = acted.await;
        match &acted {
            Ok(_) => driver.let_go().await.map_err(Refusal::untouched)?,
            Err(_) => driver.let_go_after(&acted).await,
        }
        acted.map_err(Refusal::untouched)
    });
    done.await.map_err(|refusal| refusal.trouble)
}

fn between(from: &Places, to: &Places) -> i64 {
    to.iter().map(|(queue, to)| to - from.get(queue).unwrap_or(&0)).sum()
}

fn check(who: &str, expected: i64, had: impl TryInto<i64>) -> Result<(), Trouble> {
    let had = had.try_into().unwrap_or(i64::MAX);
    if had == expected {
        return Ok(());
    }
    let detail = format!("{who} had {had} messages, and {expected} were its part");
    Err(Trouble::new(Reason::RehearsalMiscounted, detail))
}

/// Takes away what a rehearsal left that was killed: nobody would consume its channel, and it would grow.
async fn sweep(subject: &Subject, progress: &Progress) -> Result<(), Trouble> {
    let mut left = BTreeSet::new();
    for nsqd in subject.read().await?.nsqds.all() {
        let stats = nsqd.stats_with_clients(Some(&subject.topic)).await?;
        let channels = stats.topics.into_iter().flat_map(|topic| topic.channels);
        // One with a consumer may be somebody else's, who rehearses now.
        let lonely = channels.filter(|of| of.channel_name.starts_with(SCRATCH) && of.clients.is_empty());
        left.extend(lonely.map(|channel| channel.channel_name));
    }
    for channel in left.iter().filter_map(|channel| channel.parse().ok()) {
        let group = subject.names.channel_group(&subject.topic, &channel);
        let abandoned = Subject { channel, group, ..subject.clone() };
        clean_up(&abandoned).await?;
        progress
            .note(&format!("{} was left by a rehearsal that was killed, and is deleted", abandoned.path()));
    }
    Ok(())
}

/// Deletes channel and groups. That the channel is done with stays written down, for a relay that starts later may learn of it from an
/// nsqlookupd.
async fn clean_up(subject: &Subject) -> Result<(), Trouble> {
    record(subject).await?;
    delete_channel(subject, None, &subject.read().await?.nsqds).await?;
    subject.cluster.delete_group(&subject.group).await?;
    subject.forget_marks(None).await
}

/// A consumer of the group: counts and commits, and leaves when the group is closed.
struct GroupReader {
    consumed: Arc<AtomicI64>,
    _reading: AbortOnDropHandle<()>,
}

impl GroupReader {
    async fn start(subject: &Subject) -> Result<Self, Trouble> {
        let member = Member::join(subject.cluster.clone(), &subject.group, &subject.rocketmq_topic()).await?;
        let consumed = Arc::new(AtomicI64::new(0));
        let (subject, counted) = (subject.clone(), Arc::clone(&consumed));
        let reading = tokio::spawn(async move {
            if let Err(error) = read_until_closed(&subject, &counted).await {
                tracing::debug!(%error, group = subject.group, "the group is closed, or cannot be read");
            }
            member.leave().await;
        });
        Ok(Self { consumed, _reading: AbortOnDropHandle::new(reading) })
    }

    fn consumed(&self) -> i64 {
        self.consumed.load(Ordering::SeqCst)
    }
}

async fn read_until_closed(subject: &Subject, consumed: &AtomicI64) -> Result<(), Trouble> {
    let reader = QueueReader::new(subject.cluster.clone(), &subject.group);
    let mut places = subject.places_of(&subject.group).await?;
    loop {
        let mut idle = true;
        for (queue, at) in &mut places {
            let pulled = match reader.pull(queue, *at, PULL_MAX, Duration::ZERO).await {
                Ok(Pull::Messages { messages, .. }) => messages.len(),
                Ok(Pull::Empty { .. } | Pull::OffsetMoved { .. }) => 0,
                Err(ClusterError::Refused { code: response::NO_PERMISSION, .. }) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            if pulled > 0 {
                idle = false;
                *at += pulled as i64;
                consumed.fetch_add(pulled as i64, Ordering::SeqCst);
                subject.cluster.commit_offset(&subject.group, queue, *at).await?;
            }
        }
        if idle {
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}
