//! Publishes of a topic that may be spooled: to RocketMQ while it takes them, else to the disk.

use std::{panic, sync::Arc, time::Duration};

use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, timeout_at},
};
use tracing::{info, warn};

use super::{
    drain::drain,
    record::Spooled,
    topic::{NotSpooled, TopicSpool},
};
use crate::{
    gateway::{
        audited,
        lane::{Publish, parts},
        publish::{PublishError, Publisher},
        store,
        topic::Topic,
    },
    rocketmq::{Message, Outcome, producer::unix_millis},
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
    let messages: Vec<Message> = group
        .iter()
        .flat_map(|publish| publisher.messages(publish, &publish.bodies))
        .map(|message| Message { deliver_at, ..message })
        .collect();
    let kept = |messages, there, reason| {
        let (publisher, topic, spool) = (Arc::clone(publisher), Arc::clone(topic), Arc::clone(spool));
        Kept { publisher, topic, spool, messages, there, reason }
    };
    if spool.is_spooling() {
        let kept = kept(messages, There::default(), "behind spooled messages".to_owned());
        kept.keep(group, gate).await;
        return Vec::new();
    }
    drop(gate);
    let deadline = (Instant::now() + publisher.spool_after()).min(latest(&group) - DISK_TIME);
    // Several publishes fit one batch; a single one may not.
    let lengths: Vec<usize> = match &group[..] {
        [alone] => parts(alone).into_iter().map(<[_]>::len).collect(),
        _ => vec![messages.len()],
    };
    let (mut stored, mut queue, mut failed) = (0, None, None);
    for length in lengths {
        let part = &messages[stored..stored + length];
        let late = || PublishError::Unknown("RocketMQ did not answer in time".to_owned());
        let delivering = store::deliver(publisher, topic, part, queue.as_ref(), deadline);
        match store::in_time(&mut group, late, delivering).await {
            Outcome::Delivered(receipt) => {
                store::count(publisher, topic, part, &receipt);
                stored += length;
                queue = Some(store::queue_of(topic, receipt));
            }
            Outcome::Rejected(_) if stored == 0 => return group,
            Outcome::Rejected(failure) => {
                let error = PublishError::Refused(format!("{stored} messages are stored, then: {failure}"));
                group.into_iter().for_each(|publish| publish.settle(Err(error.clone())));
                return Vec::new();
            }
            Outcome::NotSent(failure) => {
                failed = Some((failure.to_string(), false));
                break;
            }
            Outcome::Unknown(failure) => {
                failed = Some((failure.to_string(), true));
                break;
            }
        }
    }
    let Some((reason, perhaps)) = failed else {
        store::acknowledge(group, &messages);
        return Vec::new();
    };
    let stuck = || {
        spool.not_taken();
        PublishError::Unknown(format!("{reason}; the spool's disk did not answer in time"))
    };
    match gate_in_time(spool, &mut group, stuck).await {
        Some(gate) => {
            let there = There { stored, perhaps };
            kept(messages, there, reason.clone()).keep(group, gate).await;
        }
        None => group.into_iter().for_each(|publish| publish.settle(Err(stuck()))),
    }
    Vec::new()
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
#[derive(Debug, Clone, Copy, Default)]
struct There {
    /// So many of the first.
    stored: usize,
    /// And perhaps some of the others.
    perhaps: bool,
}

/// Messages to spool, and why.
struct Kept {
    publisher: Arc<Publisher>,
    topic: Arc<Topic>,
    spool: Arc<TopicSpool>,
    messages: Vec<Message>,
    there: There,
    reason: String,
}

impl Kept {
    /// Spools what is not stored, and answers. When everybody has an answer it ends, though the disk may not have taken them yet.
    async fn keep(self, mut group: Vec<Publish>, gate: OwnedMutexGuard<()>) {
        let (last, publisher) = (latest(&group), Arc::clone(&self.publisher));
        let keeping = publisher.spawn(async move {
            let stuck = || {
                self.spool.not_taken();
                PublishError::Unknown(format!("{}; the spool's disk did not answer in time", self.reason))
            };
            let spooled = store::in_time(&mut group, stuck, self.append()).await;
            drop(gate);
            match spooled {
                Ok(()) => store::acknowledge(group, &self.messages),
                Err(error) => group.into_iter().for_each(|publish| publish.settle(Err(error.clone()))),
            }
        });
        if let Ok(Err(fault)) = timeout_at(last, keeping).await
            && fault.is_panic()
        {
            panic::resume_unwind(fault.into_panic());
        }
    }

    async fn append(&self) -> Result<(), PublishError> {
        let Self { publisher, topic, spool, messages, reason, .. } = self;
        let There { stored, perhaps } = self.there;
        let spooled_ms = unix_millis();
        let rest = messages[stored..].iter().map(|message| Spooled { message: message.clone(), spooled_ms });
        let appended = spool.append(rest.collect()).await;
        // Also what is only perhaps there keeps its place before later ones.
        let perhaps_there = matches!(&appended, Err(NotSpooled::Disk(error)) if error.perhaps_there);
        if appended.is_ok() || perhaps_there {
            topic.named(publisher.metrics());
            if spool.begin() {
                info!(topic = %topic.name, reason, "spooling: RocketMQ does not take this topic's messages");
                publisher.spawn(drain(Arc::clone(publisher), Arc::clone(topic), Arc::clone(spool)));
            }
            if perhaps {
                publisher.metrics().perhaps_doubled(messages.len() - stored);
                warn!(topic = %topic.name, messages = messages.len() - stored, reason,
                    "perhaps stored; spooled with the same ids, and stored again, perhaps twice");
            }
        }
        if let Err(error) = appended {
            publisher.forget(topic);
            let why = format!("{reason}; {error}");
            let unknown = perhaps || perhaps_there || stored > 0;
            return Err(if unknown { PublishError::Unknown(why) } else { PublishError::Unavailable(why) });
        }
        audited::spooled(publisher, topic, &messages[stored..]);
        Ok(())
    }
}
