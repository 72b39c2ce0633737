//! Publishes of a topic that may be spooled: to RocketMQ while it takes them, else to the disk.

use std::{ops::Range, panic, sync::Arc, time::Duration};

use bytes::Bytes;

use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, timeout_at},
};
use tracing::{info, warn};

use super::{
    drain::drain,
    topic::{Appended, NotSpooled, TopicSpool},
};
use crate::{
    gateway::{
        audited,
        lane::{Like, Publish, parts},
        publish::{PublishError, Publisher},
        store,
        topic::Topic,
    },
    rocketmq::{Message, Outcome, unique_key::UniqueKey},
};

/// What is left of a publish's time for the disk when RocketMQ takes all that is before it.
pub const DISK_TIME: Duration = Duration::from_millis(500);

/// Sends publishes, or spools them; each has its outcome then. Returns those that RocketMQ refused together, or that are not to
/// be spooled.
///
/// It waits no longer for the disk than for RocketMQ: the next publishes are to hear in time that it is stuck.
pub(in crate::gateway) async fn enter(
    publisher: &Arc<Publisher>,
    topic: &Arc<Topic>,
    spool: &Arc<TopicSpool>,
    mut group: Vec<Publish>,
    deliver_at: Option<i64>,
) -> Vec<Publish> {
    let stuck = || {
        spool.not_taken();
        PublishError::Unavailable("the spool's disk did not take what came before it in time".to_owned())
    };
    let gate = gate_in_time(spool, &mut group, stuck).await;
    let now = Instant::now();
    let late = group.extract_if(.., |publish| gate.is_none() || !publish.has_time(now));
    late.for_each(|publish| publish.settle(Err(stuck())));
    let Some(gate) = gate.filter(|_| !group.is_empty()) else { return Vec::new() };
    if !topic.spools && !spool.is_spooling() {
        // Drained since somebody looked.
        return group;
    }
    let kept = |there, messages, later, reason| {
        let (publisher, topic, spool) = (Arc::clone(publisher), Arc::clone(topic), Arc::clone(spool));
        Kept { publisher, topic, spool, there, messages, later, deliver_at, reason }
    };
    if spool.is_spooling() {
        let (messages, later) = match &mut group[..] {
            [alone] => (Vec::new(), Later::of(alone, 0)),
            _ => (made(publisher, &group, 0..0, deliver_at), None),
        };
        let kept = kept(There::default(), messages, later, "behind spooled messages".to_owned());
        kept.keep(group, gate).await;
        return Vec::new();
    }
    drop(gate);
    let deadline = (Instant::now() + publisher.spool_after()).min(latest(&group) - DISK_TIME);
    // Several publishes fit one batch; a single one may not.
    let lengths: Vec<usize> = match &group[..] {
        [alone] => parts(alone).into_iter().map(<[_]>::len).collect(),
        _ => vec![group.iter().map(|publish| publish.bodies.len()).sum()],
    };
    let wants_ids = group.iter().any(|publish| publish.wants_ids);
    let (mut stored, mut ids, mut queue, mut failed) = (0, Vec::new(), None, None);
    for length in lengths {
        let part = made(publisher, &group, stored..stored + length, deliver_at);
        let late = || PublishError::Unknown("RocketMQ did not answer in time".to_owned());
        let delivering = store::deliver(publisher, topic, &part, queue.as_ref(), deadline);
        match store::in_time(&mut group, late, delivering).await {
            Outcome::Delivered(receipt) => {
                store::count(publisher, topic, &part, &receipt);
                stored += length;
                if wants_ids {
                    ids.extend(part.iter().map(|message| message.unique_key));
                }
                queue = Some(store::queue_of(topic, receipt));
            }
            Outcome::Rejected(_) if stored == 0 => return group,
            Outcome::Rejected(failure) => {
                let error = PublishError::Refused(format!("{stored} messages are stored, then: {failure}"));
                group.into_iter().for_each(|publish| publish.settle(Err(error.clone())));
                return Vec::new();
            }
            Outcome::NotSent(failure) => {
                failed = Some((part, failure.to_string(), false));
                break;
            }
            Outcome::Unknown(failure) => {
                failed = Some((part, failure.to_string(), true));
                break;
            }
        }
    }
    let Some((messages, reason, perhaps)) = failed else {
        store::acknowledge(group, ids.into_iter());
        return Vec::new();
    };
    let stuck = || {
        spool.not_taken();
        PublishError::Unknown(format!("{reason}; the spool's disk did not answer in time"))
    };
    match gate_in_time(spool, &mut group, stuck).await {
        Some(gate) => {
            let later = match &mut group[..] {
                [alone] => Later::of(alone, stored + messages.len()),
                _ => None,
            };
            let there = There { stored, ids, perhaps };
            kept(there, messages, later, reason.clone()).keep(group, gate).await;
        }
        None => group.into_iter().for_each(|publish| publish.settle(Err(stuck()))),
    }
    Vec::new()
}

/// Messages with their ids: all of several publishes, which fit one batch; of a single one, which may have a million, a part.
fn made(
    publisher: &Publisher,
    group: &[Publish],
    part: Range<usize>,
    deliver_at: Option<i64>,
) -> Vec<Message> {
    let later = |message| Message { deliver_at, ..message };
    match group {
        [alone] => publisher.messages(alone, &alone.bodies[part]).map(later).collect(),
        several => several.iter().flat_map(|one| publisher.messages(one, &one.bodies)).map(later).collect(),
    }
}

/// When the last of some publishes must have its answer.
fn latest(group: &[Publish]) -> Instant {
    group.iter().map(|publish| publish.deadline).max().unwrap_or_else(Instant::now)
}

/// The gate, unless everybody's time is up before. Whose time is up meanwhile hears that the disk is `stuck`.
async fn gate_in_time(
    spool: &TopicSpool,
    group: &mut [Publish],
    stuck: impl Fn() -> PublishError,
) -> Option<OwnedMutexGuard<()>> {
    timeout_at(latest(group), store::in_time(group, stuck, spool.gate())).await.ok()
}

/// What RocketMQ has of some messages.
#[derive(Debug, Default)]
struct There {
    /// So many of the first.
    stored: usize,
    /// Their ids, if somebody wants them.
    ids: Vec<UniqueKey>,
    /// And perhaps those that were tried last.
    perhaps: bool,
}

/// Bodies of one publish that were not tried; their messages are made as they are written.
struct Later {
    bodies: Vec<Bytes>,
    like: Like,
}

impl Later {
    /// Those from a place on, which are taken out of it: it is answered, and nothing else, from now on.
    fn of(publish: &mut Publish, from: usize) -> Option<Self> {
        Some(Self { like: publish.like(), bodies: publish.bodies.split_off(from) })
    }
}

/// Messages to spool, and why.
struct Kept {
    publisher: Arc<Publisher>,
    topic: Arc<Topic>,
    spool: Arc<TopicSpool>,
    there: There,
    /// First those that have their ids.
    messages: Vec<Message>,
    later: Option<Later>,
    deliver_at: Option<i64>,
    reason: String,
}

impl Kept {
    /// Spools what is not stored, and answers. When everybody has an answer it ends, though the disk may not have taken them yet.
    async fn keep(self, mut group: Vec<Publish>, gate: OwnedMutexGuard<()>) {
        let (last, publisher) = (latest(&group), Arc::clone(&self.publisher));
        let (spool, reason) = (Arc::clone(&self.spool), self.reason.clone());
        let keeping = publisher.spawn(async move {
            let stuck = || {
                spool.not_taken();
                PublishError::Unknown(format!("{reason}; the spool's disk did not answer in time"))
            };
            let spooled = store::in_time(&mut group, stuck, self.append()).await;
            drop(gate);
            match spooled {
                Ok((ids, appended)) => {
                    let appended = appended.into_iter().map(|message| message.unique_key);
                    store::acknowledge(group, ids.into_iter().chain(appended));
                }
                Err(error) => group.into_iter().for_each(|publish| publish.settle(Err(error.clone()))),
            }
        });
        if let Ok(Err(fault)) = timeout_at(last, keeping).await
            && fault.is_panic()
        {
            panic::resume_unwind(fault.into_panic());
        }
    }

    /// The ids of what is in RocketMQ, if somebody wants them, and what is on the disk behind it.
    async fn append(self) -> Result<(Vec<UniqueKey>, Vec<Appended>), PublishError> {
        let Self { publisher, topic, spool, there, messages, later, deliver_at, reason } = self;
        let There { stored, ids, perhaps } = there;
        let (tried, maker) = (messages.len(), Arc::clone(&publisher));
        let later = later.into_iter().flat_map(move |Later { bodies, like }| {
            let maker = Arc::clone(&maker);
            bodies.into_iter().map(move |body| Message { deliver_at, ..maker.message(&like, body) })
        });
        let appended = spool.append(messages.into_iter().chain(later)).await;
        // Also what is only perhaps there keeps its place before later ones.
        let perhaps_there = matches!(&appended, Err(NotSpooled::Disk(error)) if error.perhaps_there);
        if appended.is_ok() || perhaps_there {
            topic.named(publisher.metrics());
            if spool.begin() {
                info!(topic = %topic.name, reason, "spooling: RocketMQ does not take this topic's messages");
                publisher.spawn(drain(Arc::clone(&publisher), Arc::clone(&topic), Arc::clone(&spool)));
            }
            if perhaps {
                publisher.metrics().perhaps_doubled(tried);
                warn!(topic = %topic.name, messages = tried, reason,
                    "perhaps stored; spooled with the same ids, and stored again, perhaps twice");
            }
        }
        match appended {
            Ok(appended) => {
                audited::spooled(&publisher, &topic, &appended);
                Ok((ids, appended))
            }
            Err(error) => {
                publisher.forget(&topic);
                let why = format!("{reason}; {error}");
                let unknown = perhaps || perhaps_there || stored > 0;
                Err(if unknown { PublishError::Unknown(why) } else { PublishError::Unavailable(why) })
            }
        }
    }
}
