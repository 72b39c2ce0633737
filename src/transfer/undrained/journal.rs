//! The record of what nsqd may still lose, in RocketMQ.
//!
//! One topic beside each relayed topic, with a queue for each of its queues on the same broker: the newest record there says all there
//! is to know. Only the owner of a queue writes its record. One that was given up as unanswered may be stored late, behind
//! newer ones; so records are numbered, and a few are read.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tracing::error;

use super::Snapshot;
use crate::{
    mapping::Names,
    nsq::names::TopicName,
    rocketmq::{
        Cluster, ClusterError, Message, Outcome, Producer, Queue, QueueReader, outcome::Failure,
        producer::unix_millis, properties::PropertiesBuilder, reader::Pull, unique_key::UniqueKeys,
    },
};

const WITHIN: Duration = Duration::from_secs(3);
/// So many of the newest records are read.
const READ: i64 = 8;

/// The journal of one topic.
pub(in crate::transfer) struct Journal {
    cluster: Cluster,
    producer: Producer,
    reader: QueueReader,
    keys: UniqueKeys,
    /// The queues of a topic are begun together.
    ensuring: Mutex<()>,
    topic: String,
    relayed_topic: String,
}

/// Why the journal was not read or written.
#[derive(Debug, thiserror::Error)]
pub(in crate::transfer) enum JournalError {
    /// RocketMQ cannot be asked, or refuses.
    #[error("the record of what nsqd may still lose ({topic}): {error}")]
    Cluster {
        topic: String,
        #[source]
        error: ClusterError,
    },
    /// It does not take the record.
    #[error(
        "the record of what nsqd may still lose is not written to {topic}: {failure}. Until it is, offsets are not committed; an \
         account without the right to that topic needs it, or the relay --replay=false"
    )]
    NotWritten { topic: String, failure: Failure },
}

impl Journal {
    pub(in crate::transfer) fn new(cluster: Cluster, names: &Names, topic: &TopicName, group: &str) -> Self {
        Self {
            producer: Producer::new(cluster.clone(), "nsqbridge-transfer"),
            reader: QueueReader::new(cluster.clone(), group),
            cluster,
            keys: UniqueKeys::new(),
            ensuring: Mutex::new(()),
            topic: names.journal_topic(topic),
            relayed_topic: names.rocketmq_topic(topic),
        }
    }

    fn failed(&self, error: ClusterError) -> JournalError {
        JournalError::Cluster { topic: self.topic.clone(), error }
    }

    fn place(&self, queue: &Queue) -> Queue {
        Queue { topic: self.topic.clone(), ..queue.clone() }
    }

    /// What was last written for a queue.
    ///
    /// # Errors
    /// When RocketMQ cannot be asked; repeating is safe.
    pub(in crate::transfer) async fn read(&self, queue: &Queue) -> Result<Option<Snapshot>, JournalError> {
        self.try_read(&self.place(queue)).await.map_err(|error| self.failed(error))
    }

    async fn try_read(&self, place: &Queue) -> Result<Option<Snapshot>, ClusterError> {
        match self.cluster.route(&self.topic).await {
            Ok(route) if route.read_queues.contains(place) => {}
            Ok(_) | Err(ClusterError::UnknownTopic(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
        let bounds = self.cluster.queue_bounds(place).await?;
        let mut offset = bounds.min.max(bounds.max.saturating_sub(READ));
        let mut newest: Option<Snapshot> = None;
        while offset < bounds.max {
            let Pull::Messages { messages, .. } =
                self.reader.pull(place, offset, READ as u32, Duration::ZERO).await?
            else {
                break;
            };
            if messages.is_empty() {
                break;
            }
            offset += messages.len() as i64;
            for message in messages {
                match serde_json::from_slice::<Snapshot>(&message.body) {
                    Ok(snapshot) if newest.as_ref().is_none_or(|known| known.number < snapshot.number) => {
                        newest = Some(snapshot);
                    }
                    Ok(_) => {}
                    Err(error) => error!(%place, %error, "a record that is none of a relay's; passed over"),
                }
            }
        }
        Ok(newest)
    }

    /// Writes what is to be known of a queue.
    ///
    /// # Errors
    /// When RocketMQ did not take it, as far as is known; repeating is safe.
    pub(in crate::transfer) async fn write(
        &self,
        queue: &Queue,
        snapshot: &Snapshot,
    ) -> Result<(), JournalError> {
        let place = self.place(queue);
        self.ensure(&place).await.map_err(|error| self.failed(error))?;
        let message = Message {
            body: Bytes::from(serde_json::to_vec(snapshot).unwrap_or_default()),
            properties: PropertiesBuilder::new(),
            unique_key: self.keys.mint(),
            born_at: unix_millis(),
            deliver_at: None,
        };
        match self.producer.send(&place, std::slice::from_ref(&message), WITHIN).await {
            Outcome::Delivered(_) => Ok(()),
            Outcome::Rejected(failure) | Outcome::NotSent(failure) | Outcome::Unknown(failure) => {
                Err(JournalError::NotWritten { topic: self.topic.clone(), failure })
            }
        }
    }

    /// Sees that the queue exists.
    async fn ensure(&self, place: &Queue) -> Result<(), ClusterError> {
        match self.cluster.route(&self.topic).await {
            Ok(route) if route.read_queues.contains(place) => return Ok(()),
            Ok(_) | Err(ClusterError::UnknownTopic(_)) => {}
            Err(error) => return Err(error),
        }
        let _ensuring = self.ensuring.lock().await;
        // Somebody else may just have made it.
        match self.cluster.fresh_route(&self.topic).await {
            Ok(route) if route.read_queues.contains(place) => return Ok(()),
            Ok(_) | Err(ClusterError::UnknownTopic(_)) => {}
            Err(error) => return Err(error),
        }
        // All relays of the topic find the same number, so that none takes queues from another.
        let relayed = self.cluster.route(&self.relayed_topic).await?;
        let most = relayed.read_queues.iter().map(|queue| queue.id).max().unwrap_or(0).max(place.id);
        self.cluster.widen_topic(&self.topic, u32::try_from(most).unwrap_or(0) + 1).await
    }
}
