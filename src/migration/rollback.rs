//! The way back, from the group to the channel.
//!
//! ```text
//! healthy    fence at R ─ group at R? ─ write down ─ close the group, at S ─ relay up to S ─ empty the channel ─ same? ─ unpause ─ unfence
//! broken     close the group ─ unpause
//! ```
//!
//! By share ([`super::rest`]) what was left to the old consumer must come as far as S as well, and is ended there, before the channel is
//! emptied.
//!
//! While a channel is cut over it goes on collecting everything relayed since the barrier. *Healthy* is for new consumers that work: they
//! consume up to a place S, the relay follows up to the same place, what the channel collected is dropped, and it goes on from S:
//! nothing is lost or doubled. *Broken* is for new consumers that do not: the channel delivers all it collected, and
//! whatever the group had consumed since the barrier comes again; nothing is lost, and how much is doubled is told beforehand. What it
//! collected the relay has forgotten, though: an nsqd that crashes before the old consumer has it takes along what it had in memory.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    cutover::drive,
    driver::{Done, Driver, Options, see_through, with_lock},
    fence::follows,
    group::reaches,
    nsqds::Look,
    progress::{Progress, Step},
    recover::{forget, half_done, recover, reopen},
    refusal::{Left, Reason, Refusal, Trouble},
    rest,
    subject::{Places, Stage, Subject, World, further},
};

/// The channel is counted so often before it counts as incomplete.
const COUNTED: usize = 5;
const COUNT_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// How the new consumers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They consume, and come as far as the relay.
    Healthy {
        /// Even when the channel holds more than came since the cutover: what it holds is dropped.
        accept_more: bool,
    },
    /// They do not.
    Broken {
        /// Even when the channel holds less than was relayed since the cutover.
        accept_missing: bool,
    },
}

impl Mode {
    /// Whether intakes run, where they are needed: to count what the channel must hold, or to part it.
    fn needs_intakes(self, world: &World) -> Result<(), Trouble> {
        world.share_is_alone(world.rest.is_some())?;
        match self {
            Mode::Broken { accept_missing: true } => Ok(()),
            Mode::Healthy { .. } | Mode::Broken { .. } => world.intakes_run(),
        }
    }
}

/// What would come twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubled {
    /// Where the group stands.
    pub at: Places,
    /// Messages it has consumed since the barrier, by queue.
    pub since_barrier: Places,
}

impl Doubled {
    /// Over all queues.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.since_barrier.values().sum()
    }
}

/// Rolls the channel back, or finishes what another run began.
///
/// # Errors
/// Why it did not, and what is left.
///
/// # Cancellation
/// As [`super::cutover::cut_over`].
pub async fn roll_back(
    subject: &Subject,
    mode: Mode,
    options: Options,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Done, Refusal> {
    let world = subject.read().await.map_err(Refusal::untouched)?;
    may_begin(subject, &world).map_err(Refusal::untouched)?;
    subject.is_not_paused(&world).await.map_err(Refusal::untouched)?;
    with_lock(subject, progress, stop, async |lock| {
        let world = recover(subject, lock, progress).await?;
        if world.stage() != Stage::CutOver {
            return Ok(Done::at_once(format!("the consumers of {} are NSQ's", subject.path())));
        }
        mode.needs_intakes(&world).map_err(Refusal::untouched)?;
        let began = Instant::now();
        let rest = subject.rest(&world).await.map_err(Refusal::untouched)?;
        let mut driver = drive(subject, options, progress, stop, lock, &world, rest);
        let accept_more = match mode {
            Mode::Healthy { accept_more } => accept_more,
            Mode::Broken { accept_missing } => {
                if !accept_missing {
                    until_complete(&mut driver).await.map_err(Refusal::untouched)?;
                }
                return give_up_group(&mut driver, &world).await;
            }
        };
        let mut emptied = false;
        match up_to_the_same(&mut driver, accept_more, &mut emptied).await {
            Ok(accepted) => unpause(&driver, began, accepted).await,
            Err(trouble) => Err(undo(&driver, emptied, trouble).await),
        }
    })
    .await
}

fn may_begin(subject: &Subject, world: &World) -> Result<(), Trouble> {
    match world.stage() {
        Stage::Completed => Err(Trouble::new(Reason::ChannelCompleted, subject.completed_group())),
        Stage::Missing => world.look.is_complete(),
        // Closed while the channel runs: what a rollback leaves.
        Stage::Active if world.group.open == 0 && world.group.exists() => Ok(()),
        Stage::Active => Err(Trouble::new(Reason::ChannelNotCutOver, "the channel is not paused")),
        Stage::CutOver | Stage::Opening | Stage::HalfDone | Stage::HalfPaused | Stage::Paused => {
            world.is_ours()
        }
    }
}

/// The protocol, up to the last step that can be undone. What the channel held and should not have, if that is accepted.
async fn up_to_the_same(
    driver: &mut Driver<'_>,
    accept_more: bool,
    emptied: &mut bool,
) -> Result<Option<String>, Trouble> {
    let Driver { subject, progress, lock, .. } = *driver;
    subject.has_no_retries().await?;
    until_reached(driver).await?;

    lock.set_consuming(&subject.returning_group(), false).await?;
    progress.step(Step::Returning, "it is written down that a rollback has begun")?;

    lock.set_consuming(&subject.group, false).await?;
    progress.step(Step::Closed, "the group is closed; its consumers finish what they have in hand")?;
    let stands = driver.until_put_down().await?;
    subject.has_no_retries().await?;

    driver.fence.follow(&stands);
    driver.renew().await?;
    let had = driver.until_rest_is_had(|places| follows(places, &stands)).await?;
    driver.end_rest(had).await?;
    // Seen twice with everything copied: what is relayed by now is in the channel, and not on its way there.
    let followed = |look: &Look, places: &Places| follows(places, &stands).and_then(|()| look.is_copied());
    let proof = driver.until_proved(&driver.main, followed).await?;
    progress.step(Step::Followed, "the relay stands where the group does")?;

    let accepted = match has_no_more(driver, &proof.look, &stands).await {
        Ok(()) => None,
        Err(Trouble { reason: Reason::ChannelHoldsMore, detail }) if accept_more => Some(detail),
        Err(trouble) => return Err(trouble),
    };

    lock.keep().await?;
    *emptied = true;
    driver.main.nsqds.empty(lock, &proof.look).await?;
    progress.step(Step::Emptied, "the channel has nothing of what the group consumed")?;
    driver.renew().await?;
    // From here on the channel collects.
    subject.place(lock, &subject.barrier_group(), &stands).await?;

    driver.is_same(&proof).await?;
    progress.step(Step::Same, "nothing was published meanwhile")?;
    Ok(accepted)
}

/// Waits until the group has all that was ever relayed; up to where that is.
async fn until_reached(driver: &mut Driver<'_>) -> Result<Places, Trouble> {
    let Driver { subject, progress, .. } = *driver;
    driver.renew().await?;
    progress.step(Step::Fenced, "the relay sends nothing new; producers notice nothing")?;
    let reached = driver.until_level(|look, _| look.is_copied()).await?.places;
    let reached = driver.or_rest(reached).await?;
    // What is left may be relayed meanwhile, as far as it will have to be anyway.
    driver.fence.follow(&reached);
    driver.until(async || reaches(&subject.places_of(&subject.group).await?, &reached)).await?;
    progress.step(Step::Reached, "the group has come as far as the relay")?;
    Ok(reached)
}

async fn unpause(driver: &Driver<'_>, began: Instant, accepted: Option<String>) -> Result<Done, Refusal> {
    let Driver { subject, progress, lock, .. } = driver;
    let unpaused = async {
        see_through(lock, progress, async || subject.unpause(lock, &driver.main.nsqds).await).await?;
        progress.step(Step::Unpaused, "the channel delivers again")
    };
    let unpaused: Result<(), Trouble> = unpaused.await;
    driver.let_go_after(&unpaused).await;
    unpaused.map_err(|trouble| Refusal { trouble, left: half_done() })?;
    forget(subject, lock).await;
    let lost = match accepted {
        Some(detail) => format!("what only the channel had is dropped ({detail})"),
        None => "nothing was lost".to_owned(),
    };
    let message = format!("{} is rolled back: {lost}, nothing comes twice", subject.path());
    let done = Done::after(message, began);
    let released = format!("the relay goes on, after {:.2} s", began.elapsed().as_secs_f64());
    match progress.step(Step::Released, &released) {
        Ok(()) => Ok(done),
        Err(trouble) => Err(Refusal { trouble, left: Left::InForce("it is rolled back".to_owned()) }),
    }
}

/// Lets the group go on.
async fn undo(driver: &Driver<'_>, emptied: bool, trouble: Trouble) -> Refusal {
    if trouble.is_over() {
        return Refusal { trouble, left: half_done() };
    }
    let Driver { subject, lock, .. } = *driver;
    let reopened = async {
        reopen(subject, lock, driver.rest.is_some(), driver.progress).await?;
        // What was dropped from the channel only the group has: it stays written down.
        if emptied { Ok(()) } else { subject.forget_returning(lock).await }
    };
    let undone = match reopened.await {
        Err(lost) if lost.is_over() => return Refusal { trouble: lost, left: half_done() },
        undone => undone.and(driver.let_go().await),
    };
    let left = match undone {
        Ok(()) => Left::Undone,
        Err(failed) => Left::InForce(format!(
            "the group may be closed on some brokers, or the topic paused on some nsqds ({failed}); run it again"
        )),
    };
    Refusal { trouble, left }
}

/// Whether the channel holds all that was relayed since the barrier. An nsqd that dies takes with it what it had in memory, and for a parked
/// channel that is not relayed again.
async fn until_complete(driver: &mut Driver<'_>) -> Result<(), Trouble> {
    if driver.main.nsqds.look().await?.taken_in().next().is_none() {
        return is_complete(driver).await;
    }
    // Else what the relay has yet to pass would make up for what is missing.
    let complete = match driver.until_level(|look, _| look.is_copied()).await {
        Ok(_) => is_complete(driver).await,
        Err(trouble) => Err(trouble),
    };
    driver.let_go_after(&complete).await;
    complete
}

/// Whether the channel holds nothing that RocketMQ has not: what was published straight to an nsqd before its intake began, since the cutover.
/// What the relay has sent twice counts as well, so it is refused only where both counts say so.
async fn has_no_more(driver: &Driver<'_>, look: &Look, stands: &Places) -> Result<(), Trouble> {
    let (held, since) = (look.held(), driver.subject.since_barrier(stands).await?);
    if !look.is_beyond_intakes() || i64::try_from(held).is_ok_and(|held| held <= since) {
        return Ok(());
    }
    let detail = format!("it holds {held} messages, and {since} came since the cutover");
    Err(Trouble::new(Reason::ChannelHoldsMore, detail))
}

async fn is_complete(driver: &Driver<'_>) -> Result<(), Trouble> {
    let Driver { subject, .. } = *driver;
    let mut short = None;
    for _ in 0..COUNTED {
        let relayed = subject.places_of(&subject.relay_group()).await?;
        let since = subject.since_barrier(&relayed).await?;
        let held = i64::try_from(driver.main.nsqds.look().await?.held()).unwrap_or(i64::MAX);
        if held >= since {
            return Ok(());
        }
        let detail = format!("it holds {held} of {since} messages relayed since the cutover");
        short = Some(Trouble::new(Reason::ChannelIncomplete, detail));
        // What is on its way from the topic is in no count for a moment.
        tokio::time::sleep(COUNT_AGAIN_AFTER).await;
    }
    short.map_or(Ok(()), Err)
}

/// Closes the group where it stands, and lets the channel deliver all it collected.
async fn give_up_group(driver: &mut Driver<'_>, world: &World) -> Result<Done, Refusal> {
    let Driver { subject, progress, lock, .. } = *driver;
    if world.returning {
        // An earlier rollback may have dropped messages from the channel that only the group has, or the topic of a share: first they
        // must have been consumed.
        let consumed = async {
            let reached = until_reached(driver).await?;
            driver.until_rest_is_had(|places| reaches(places, &reached)).await
        };
        let consumed: Result<_, Trouble> = consumed.await;
        if consumed.is_err() {
            driver.let_go_after(&consumed).await;
        }
        consumed.map_err(|trouble| Refusal { trouble, left: Left::Undone })?;
    }
    let given_up = async {
        see_through(lock, progress, async || lock.set_consuming(&subject.group, false).await).await?;
        progress.step(Step::Closed, "the group is closed where it stands")?;
        // Whoever relays what was left has a moment to leave: here a few messages may come twice, and nobody is to wait.
        rest::shut(subject, lock, world, progress).await?;
        let doubled = doubled(subject, world.rest.is_some()).await?;
        see_through(lock, progress, async || subject.unpause(lock, &driver.main.nsqds).await).await?;
        progress.step(Step::Unpaused, "the channel delivers all it has collected")?;
        Ok(doubled)
    };
    let given_up: Result<Doubled, Trouble> = given_up.await;
    if world.returning {
        driver.let_go_after(&given_up).await;
    }
    let doubled = given_up.map_err(|trouble| Refusal { trouble, left: half_done() })?;
    forget(subject, lock).await;
    let unknown = match world.intakes_answer() {
        Ok(()) => "",
        Err(_) => {
            "; the channel stays paused on an nsqd that only a silent intake knows: name such a one with --nsqd-http-address"
        }
    };
    Ok(Done::at_once(format!(
        "{} is rolled back: nothing was lost, {} messages the group had consumed come again{unknown}",
        subject.path(),
        doubled.total()
    )))
}

/// What would come twice if it were rolled back now as broken: what the group has committed since the barrier, or the relay of what was left
/// by a share. What the group's consumers have in hand and not committed is not among it.
///
/// # Errors
/// When it cannot be read, or there is no barrier.
async fn doubled(subject: &Subject, by_share: bool) -> Result<Doubled, Trouble> {
    let mut at = subject.places_of(&subject.group).await?;
    if by_share && let Some(rest) = subject.rest_group() {
        further(&mut at, subject.places_of(&rest).await?);
    }
    let barrier = subject.barrier().await?;
    let since = at.iter().map(|(queue, at)| (queue.clone(), (at - barrier.get(queue).unwrap_or(at)).max(0)));
    Ok(Doubled { since_barrier: since.collect(), at })
}

/// What it would do, for people.
///
/// # Errors
/// What stands in the way.
pub async fn preview(subject: &Subject, mode: Mode, options: Options) -> Result<Vec<String>, Refusal> {
    let world = subject.read().await.map_err(Refusal::untouched)?;
    may_begin(subject, &world).map_err(Refusal::untouched)?;
    let (path, group) = (subject.path(), &subject.group);
    let [waiting, ..] = world.look.messages();
    let mut lines = vec![format!("{path} is {:?}, its consumer group is {group}", world.stage())];
    if world.stage() == Stage::Active {
        lines.push("nothing is to be done".to_owned());
        return Ok(lines);
    }
    if !world.is_half_done() {
        mode.needs_intakes(&world).map_err(Refusal::untouched)?;
    }
    let doubled = doubled(subject, world.rest.is_some()).await.map_err(Refusal::untouched)?;
    match mode {
        Mode::Broken { accept_missing } => {
            if !accept_missing || world.returning {
                lines.extend(world.held_meanwhile());
            }
            lines.push(format!("{group} is closed where it stands, and the channel delivers the {waiting} messages it collected"));
            if waiting > 0 {
                lines.push(
                    "until its consumer has these, keep the nsqds up: what one that crashes had of them in memory is lost, for it is not \
                     relayed again"
                        .to_owned(),
                );
            }
            lines.push(format!(
                "otherwise nothing is lost; {} messages that the group has consumed since the barrier come again:",
                doubled.total()
            ));
            let queues = doubled.since_barrier.iter().filter(|(_, messages)| **messages > 0);
            lines.extend(queues.map(|(queue, messages)| format!("  {queue}: {messages}")));
        }
        Mode::Healthy { accept_more } => {
            lines.extend(world.held_meanwhile());
            lines.push(format!(
                "{group} consumes up to where the relay is, and is closed; its consumers must finish what they have in hand, or be \
                 stopped, within {}",
                humantime::format_duration(options.max_pause)
            ));
            if world.rest.is_some() {
                lines.push("what is left by the share is relayed up to the same place, and its consumer must finish all of it".to_owned());
            }
            lines.push(format!(
                "the {waiting} messages the channel collected are dropped, and it goes on where the group ended: nothing is lost, \
                 nothing comes twice"
            ));
            lines.extend(subject.dead_letters_in_words().await.map_err(Refusal::untouched)?);
            if accept_more {
                lines.push(
                    "but what was published straight to an nsqd while it had no intake is lost by it, for more than came since the cutover is \
                     accepted"
                        .to_owned(),
                );
            }
        }
    }
    Ok(lines)
}
