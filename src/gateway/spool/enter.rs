//! Publishes of a topic that may be spooled: to RocketMQ while it takes them, else to the disk.

use std::sync::Arc;

use tokio::time::Instant;
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

/// Sends publishes, or spools them; each has its outcome then. Returns those that RocketMQ refused together: they are for
/// trying one by one.
pub(in crate::gateway) async fn enter(
    publisher: &Arc<Publisher>,
    topic: &Arc<Topic>,
    spool: &Arc<TopicSpool>,
    group: Vec<Publish>,
    deliver_at: Option<i64>,
) -> Vec<Publish> {
    let messages: Vec<Message> = group
        .iter()
        .flat_map(|publish| publisher.messages(publish, &publish.bodies))
        .map(|message| Message { deliver_at, ..message })
        .collect();
    let gate = spool.gate().await;
    if spool.is_spooling() {
        keep(publisher, topic, spool, group, messages, There::default(), "behind spooled messages").await;
        return Vec::new();
    }
    drop(gate);
    let budget = publisher.spool_after();
    let deadline = group.iter().map(|publish| publish.deadline).max().unwrap_or_else(Instant::now);
    let deadline = deadline.min(Instant::now() + budget);
    // Several publishes fit one batch; a single one may not.
    let lengths: Vec<usize> = match &group[..] {
        [alone] => parts(alone).into_iter().map(<[_]>::len).collect(),
        _ => vec![messages.len()],
    };
    let (mut stored, mut queue) = (0, None);
    let (reason, perhaps) = loop {
        let Some(length) = lengths
            .iter()
            .scan(0, |sum, length| {
                *sum += length;
                Some((*sum, *length))
            })
            .find_map(|(end, length)| (end > stored).then_some(length))
        else {
            store::acknowledge(group, &messages);
            return Vec::new();
        };
        let part = &messages[stored..stored + length];
        match store::deliver(publisher, topic, part, queue.as_ref(), deadline).await {
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
            Outcome::NotSent(failure) => break (failure.to_string(), false),
            Outcome::Unknown(failure) => break (failure.to_string(), true),
        }
    };
    let _gate = spool.gate().await;
    let there = There { stored, perhaps };
    keep(publisher, topic, spool, group, messages, there, &reason).await;
    Vec::new()
}

/// What RocketMQ has of some messages.
#[derive(Debug, Clone, Copy, Default)]
struct There {
    /// So many of the first.
    stored: usize,
    /// And perhaps some of the others.
    perhaps: bool,
}

/// Spools what is not stored, and answers. The gate must be held.
async fn keep(
    publisher: &Arc<Publisher>,
    topic: &Arc<Topic>,
    spool: &Arc<TopicSpool>,
    group: Vec<Publish>,
    messages: Vec<Message>,
    there: There,
    reason: &str,
) {
    let spooled_ms = unix_millis();
    let There { stored, perhaps } = there;
    let rest = messages[stored..].iter().map(|message| Spooled { message: message.clone(), spooled_ms });
    let appended = spool.append(rest.collect()).await;
    // Also what is only perhaps there keeps its place before later ones.
    let perhaps_there = matches!(&appended, Err(NotSpooled::Disk(error)) if error.perhaps_there);
    if (appended.is_ok() || perhaps_there) && spool.begin() {
        info!(topic = %topic.name, reason, "spooling: RocketMQ does not take this topic's messages");
        topic.named(publisher.metrics());
        publisher.spawn(drain(Arc::clone(publisher), Arc::clone(topic), Arc::clone(spool)));
    }
    match appended {
        Ok(()) => {
            if perhaps {
                publisher.metrics().perhaps_doubled(messages.len() - stored);
                warn!(topic = %topic.name, messages = messages.len() - stored, reason,
                    "perhaps stored; spooled with the same ids, and stored again, perhaps twice");
            }
            audited::spooled(publisher, topic, &messages[stored..]);
            store::acknowledge(group, &messages);
        }
        Err(error) => {
            let why = format!("{reason}; {error}");
            let error = if perhaps || perhaps_there || stored > 0 {
                PublishError::Unknown(why)
            } else {
                PublishError::Unavailable(why)
            };
            group.into_iter().for_each(|publish| publish.settle(Err(error.clone())));
        }
    }
}
