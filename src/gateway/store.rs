//! Sends what gathered in a topic's lane, and gives every caller its own outcome.
//!
//! - Stored: each publish of the batch is answered `OK`.
//! - Certainly not stored: the publishes go back to the lane, as long as each has time left.
//! - Perhaps stored: each is told so.
//! - Refused: what was refused together is sent again half by half, and so is a refused publish of several messages: one message
//!   never stands for others, and a broker that only takes smaller requests has them after a few more.
//!
//! An unknown outcome stays one: what may be stored is never put back.
//!
//! Publishes of a topic that may be spooled go through [`spool::enter`] instead, half by half as well; one that is refused alone comes
//! here.

use std::{
    collections::{BTreeSet, VecDeque},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::{error, warn};

use super::{
    audited,
    lane::{Publish, Stored, parts},
    publish::{PublishError, Publisher},
    spool,
    topic::Topic,
};
use crate::{
    retry::Backoff,
    rocketmq::{
        Message, Outcome, Producer, Queue,
        outcome::{Failure, Hint, Receipt},
        unique_key::UniqueKey,
    },
};

/// Sends until nothing waits for the topic, or what does is left to another who is sending.
pub(super) async fn send_all(publisher: Arc<Publisher>, topic: Arc<Topic>) {
    // Who is ready to publish at this moment joins the first batch; without that it would carry a single message.
    tokio::task::yield_now().await;
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
    let sending = async {
        while let Some(group) = topic.lane.take() {
            let again = send_group(&publisher, &topic, group).await;
            if again.is_empty() {
                backoff.reset();
            } else {
                topic.lane.put_back(again);
                backoff.wait().await;
            }
        }
    };
    if AssertUnwindSafe(sending).catch_unwind().await.is_err() {
        error!(topic = %topic.name, "sending failed by a fault of this program; what waited is not stored");
        topic.lane.abandon();
    }
}

/// Sends a batch, half by half where it is refused together; returns the publishes to try again.
async fn send_group(publisher: &Arc<Publisher>, topic: &Arc<Topic>, group: Vec<Publish>) -> Vec<Publish> {
    let mut again = Vec::new();
    // The next one is the last.
    let mut groups = vec![group];
    while let Some(mut group) = groups.pop() {
        let now = Instant::now();
        again.extend(group.extract_if(.., |publish| !publish.has_time(now)));
        let mut refused = match publisher.spool_of(topic) {
            _ if group.is_empty() => continue,
            Some(spool) => spool::enter(publisher, topic, spool, group, None).await,
            None if group.len() > 1 => send_together(publisher, topic, group, &mut again).await,
            None => group,
        };
        if refused.len() > 1 {
            let behind = refused.split_off(refused.len() / 2);
            groups.extend([behind, refused]);
        } else if let Some(alone) = refused.pop() {
            again.extend(send_one(publisher, topic, alone).await);
        }
    }
    again
}

/// Sends several publishes at once; returns them when they are refused together. Those that are not stored come to `again`.
async fn send_together(
    publisher: &Publisher,
    topic: &Topic,
    mut group: Vec<Publish>,
    again: &mut Vec<Publish>,
) -> Vec<Publish> {
    // The last one's time, not the first one's: under load the first has little left, and an answer that is late for it alone
    // would leave the fate of all unknown, batch after batch.
    let deadline = group.iter().map(|publish| publish.deadline).max().unwrap_or_else(Instant::now);
    let messages: Vec<Message> =
        group.iter().flat_map(|publish| publisher.messages(publish, &publish.bodies)).collect();
    let late = || PublishError::Unknown("RocketMQ did not answer in time".to_owned());
    let delivering = deliver(publisher, topic, &messages, None, deadline);
    match in_time(&mut group, late, delivering).await {
        Outcome::Delivered(receipt) => {
            count(publisher, topic, &messages, &receipt);
            acknowledge(group, messages.iter().map(|message| message.unique_key));
        }
        Outcome::Rejected(_) => return group,
        Outcome::NotSent(failure) => {
            again.extend(group.into_iter().map(|publish| not_stored(publish, &failure)));
        }
        Outcome::Unknown(failure) => {
            let error = PublishError::Unknown(failure.to_string());
            group.into_iter().for_each(|publish| publish.settle(Err(error.clone())));
        }
    }
    Vec::new()
}

/// Tells each publish of a batch that its messages are stored, by their ids in order; none where nobody wants them. Who is alone gets all.
pub(super) fn acknowledge(group: Vec<Publish>, mut ids: impl Iterator<Item = UniqueKey>) {
    let alone = group.len() == 1;
    for publish in group {
        let mine = ids.by_ref().take(if alone { usize::MAX } else { publish.bodies.len() });
        let ids = if publish.wants_ids {
            mine.collect()
        } else {
            mine.for_each(drop);
            Vec::new()
        };
        publish.settle(Ok(Stored { ids }));
    }
}

/// Where a batch went, for what is to go behind it.
pub(super) fn queue_of(topic: &Topic, receipt: Receipt) -> Queue {
    Queue { topic: topic.rocketmq_topic.clone(), broker: receipt.broker, id: receipt.queue_id }
}

/// Waits for what a batch waits for. Whose time is up meanwhile hears that it is late; the batch waits on for the others.
pub(super) async fn in_time<T>(
    group: &mut [Publish],
    late: impl Fn() -> PublishError,
    awaited: impl Future<Output = T>,
) -> T {
    tokio::pin!(awaited);
    loop {
        let waiting = group.iter().filter(|publish| publish.answer.is_some());
        let Some(next) = waiting.map(|publish| publish.deadline).min() else { return awaited.await };
        tokio::select! {
            biased;
            done = &mut awaited => return done,
            () = tokio::time::sleep_until(next) => {
                let up = group.iter_mut().filter(|publish| publish.deadline <= next);
                up.for_each(|publish| publish.settle_early(&late));
            }
        }
    }
}

/// Sends one publish, in as many batches as it takes; returns it when it is to be tried again.
async fn send_one(publisher: &Publisher, topic: &Topic, publish: Publish) -> Option<Publish> {
    let mut ids: Vec<UniqueKey> = Vec::new();
    let (mut stored, mut queue) = (0, None);
    let mut parts: VecDeque<&[Bytes]> = parts(&publish).into();
    let failed = loop {
        let Some(part) = parts.pop_front() else { break None };
        let messages: Vec<Message> = publisher.messages(&publish, part).collect();
        match deliver(publisher, topic, &messages, queue.as_ref(), publish.deadline).await {
            Outcome::Delivered(receipt) => {
                count(publisher, topic, &messages, &receipt);
                stored += part.len();
                if publish.wants_ids {
                    ids.extend(messages.iter().map(|message| message.unique_key));
                }
                queue = Some(queue_of(topic, receipt));
            }
            Outcome::Rejected(_) if part.len() > 1 => {
                let (half, rest) = part.split_at(part.len() / 2);
                parts.push_front(rest);
                parts.push_front(half);
            }
            failed => break Some(failed),
        }
    };
    let all = publish.bodies.len();
    let error = match failed {
        None | Some(Outcome::Delivered(_)) => {
            publish.settle(Ok(Stored { ids }));
            return None;
        }
        Some(Outcome::NotSent(failure)) if stored == 0 => return Some(not_stored(publish, &failure)),
        Some(Outcome::Rejected(failure)) => PublishError::Refused(format!(
            "message {} of {all}, {stored} before it are stored: {failure}",
            stored + 1
        )),
        Some(Outcome::NotSent(failure) | Outcome::Unknown(failure)) if stored > 0 => {
            PublishError::Unknown(format!("{stored} of {all} messages are stored, then: {failure}"))
        }
        Some(Outcome::NotSent(failure) | Outcome::Unknown(failure)) => {
            PublishError::Unknown(failure.to_string())
        }
    };
    publish.settle(Err(error));
    None
}

/// Sends a message that RocketMQ is to hold back. It never shares a batch: a broker would drop the delay, or worse.
pub(super) async fn send_deferred(
    publisher: Arc<Publisher>,
    topic: Arc<Topic>,
    publish: Publish,
    deliver_at: i64,
) {
    let publish = match publisher.spool_of(&topic) {
        Some(spool) => {
            match spool::enter(&publisher, &topic, spool, vec![publish], Some(deliver_at)).await.pop() {
                Some(refused) => refused,
                None => return,
            }
        }
        None => publish,
    };
    let messages: Vec<Message> = publisher
        .messages(&publish, &publish.bodies)
        .map(|message| Message { deliver_at: Some(deliver_at), ..message })
        .collect();
    let outcome = match deliver(&publisher, &topic, &messages, None, publish.deadline).await {
        Outcome::Delivered(receipt) => {
            count(&publisher, &topic, &messages, &receipt);
            Ok(Stored { ids: messages.iter().map(|message| message.unique_key).collect() })
        }
        Outcome::Rejected(failure) => Err(PublishError::DeferRefused(failure.to_string())),
        Outcome::NotSent(failure) => Err(PublishError::Unavailable(failure.to_string())),
        Outcome::Unknown(failure) => Err(PublishError::Unknown(failure.to_string())),
    };
    publish.settle(outcome);
}

fn not_stored(publish: Publish, failure: &Failure) -> Publish {
    Publish { failure: Some(failure.to_string()), ..publish }
}

pub(super) fn count(publisher: &Publisher, topic: &Topic, messages: &[Message], receipt: &Receipt) {
    let bytes = messages.iter().map(|message| message.body.len()).sum();
    topic.count(messages.len(), bytes);
    publisher.metrics().stored(topic.label(), messages.len(), bytes);
    if receipt.perhaps_twice {
        publisher.metrics().perhaps_doubled(messages.len());
        warn!(topic = %topic.name, messages = messages.len(),
            "stored after a try without an answer: perhaps twice, with the same ids");
    }
}

pub(super) async fn deliver(
    publisher: &Publisher,
    topic: &Topic,
    messages: &[Message],
    queue: Option<&Queue>,
    deadline: Instant,
) -> Outcome {
    let producer = publisher.producer();
    let name = &topic.rocketmq_topic;
    let mut outcome = producer.deliver(name, messages, queue, left(deadline)).await;
    if created_again(publisher, topic, &mut outcome, deadline).await {
        outcome = producer.deliver(name, messages, None, left(deadline)).await;
    }
    // Before anybody hears of it, so that what was answered is counted.
    audited::count(publisher, topic, messages, &outcome);
    outcome
}

/// Sends what is counted as accepted already, to none of the brokers left out; ends with the first outcome that is not known.
pub(super) async fn send_again(
    publisher: &Publisher,
    producer: &Producer,
    topic: &Topic,
    messages: &[Message],
    left_out: &BTreeSet<String>,
) -> Outcome {
    let deadline = Instant::now() + publisher.budget();
    let name = &topic.rocketmq_topic;
    let mut outcome = producer.deliver_without(name, messages, left_out, left(deadline)).await;
    if created_again(publisher, topic, &mut outcome, deadline).await {
        outcome = producer.deliver_without(name, messages, left_out, left(deadline)).await;
    }
    outcome
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Whether the topic was deleted since it was seen, and is there again: nsqd would create it, and so does this.
async fn created_again(
    publisher: &Publisher,
    topic: &Topic,
    outcome: &mut Outcome,
    deadline: Instant,
) -> bool {
    if !matches!(outcome, Outcome::NotSent(Failure { hint: Hint::UnknownTopic, .. })) {
        return false;
    }
    topic.gone();
    match publisher.ensure(topic, publisher.creates_topics(), deadline).await {
        Ok(()) => true,
        Err(error) => {
            let (broker, reason) = ("-".to_owned(), error.to_string());
            *outcome = Outcome::NotSent(Failure { broker, reason, hint: Hint::None });
            false
        }
    }
}
