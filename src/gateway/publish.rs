//! Stores what producers publish: names, ids, batches, and what became of them.
//!
//! `Ok` means that RocketMQ answered `SEND_OK` for every message of the request, and nothing weaker. Each message gets
//! its id once; every retry carries the same one.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::{
    mapping,
    nsq::names::TopicName,
    rocketmq::{
        Cluster, ClusterError, Message, Outcome, Producer, Queue,
        outcome::{Failure, Hint},
        producer::unix_millis,
        properties::PropertiesBuilder,
        record::batch_record_len,
        unique_key::UniqueKeys,
    },
};

/// A batch is cut here, though a broker takes 4 MiB: beyond this it only takes longer.
const BATCH_BYTES: usize = 1024 * 1024;
/// The answer to a batch carries an id of 33 bytes for each message.
const BATCH_MESSAGES: usize = 10_000;
/// What this gateway adds to each message as properties: the id, with room to spare.
const PROPERTY_BYTES: usize = 64;
/// The cluster's health is looked at this often.
const PROBE_EVERY: Duration = Duration::from_secs(2);

/// How to store what is published.
#[derive(Debug, Clone)]
pub struct PublishConfig {
    /// Queues a new topic gets on each broker.
    pub topic_queues: u32,
    /// How long a publish may be tried; below the 5 s after which producers commonly give up.
    pub budget: Duration,
}

/// Why a publish is not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Nothing was stored: repeating is safe.
    #[error("not stored: {0}")]
    Unavailable(String),
    /// Some or all of it may be stored: repeating may duplicate it.
    #[error("perhaps stored, repeating may duplicate: {0}")]
    Unknown(String),
    /// RocketMQ will never take it as it is.
    #[error("refused, repeating cannot help: {0}")]
    Refused(String),
}

/// Stores messages in one RocketMQ cluster.
#[derive(Debug)]
pub struct Publisher {
    cluster: Cluster,
    producer: Producer,
    keys: UniqueKeys,
    config: PublishConfig,
    /// Topics seen to exist.
    known: RwLock<HashSet<TopicName>>,
    /// One topic is created at a time, so that first publishes at once do not create it twice.
    creating: tokio::sync::Mutex<()>,
    health: Arc<Mutex<Result<(), String>>>,
    _probe: AbortOnDropHandle<()>,
    /// Stands in for RocketMQ where the HTTP side is tested alone.
    #[cfg(test)]
    script: Option<super::tests::Script>,
}

impl Publisher {
    /// Makes a publisher and begins to watch the cluster's health.
    #[must_use]
    pub fn new(cluster: Cluster, config: PublishConfig) -> Self {
        let health = Arc::new(Mutex::new(Err("RocketMQ was not reached yet".to_owned())));
        let probe = tokio::spawn(probe(cluster.clone(), Arc::clone(&health)));
        Self {
            producer: Producer::new(cluster.clone(), "nsqbridge-gateway"),
            cluster,
            keys: UniqueKeys::new(),
            config,
            known: RwLock::default(),
            creating: tokio::sync::Mutex::default(),
            health,
            _probe: AbortOnDropHandle::new(probe),
            #[cfg(test)]
            script: None,
        }
    }

    /// A publisher in good health that does as the script says.
    #[cfg(test)]
    pub(super) fn for_tests(script: super::tests::Script) -> Self {
        let cluster = Cluster::new(crate::rocketmq::ClusterConfig::new(Vec::new()));
        let config = PublishConfig { topic_queues: 1, budget: Duration::from_secs(1) };
        Self {
            script: Some(script),
            health: Arc::new(Mutex::new(Ok(()))),
            _probe: AbortOnDropHandle::new(tokio::spawn(async {})),
            ..Self::new(cluster, config)
        }
    }

    /// Stores all of `bodies` (one or more) of one request, in order and in one queue; `Ok` only when every one is stored.
    ///
    /// With `defer`, a single body is delivered that much later.
    ///
    /// # Errors
    /// See [`PublishError`]; of several bodies the first ones may be stored all the same.
    ///
    /// # Cancellation
    /// Dropping the future leaves the outcome unknown. Run it in a task of its own.
    pub async fn publish(
        &self,
        topic: &TopicName,
        bodies: Vec<Bytes>,
        defer: Option<Duration>,
    ) -> Result<(), PublishError> {
        #[cfg(test)]
        if let Some(script) = &self.script {
            return script.ask(topic, bodies, defer).await;
        }
        let deadline = Instant::now() + self.config.budget;
        self.ensure_topic(topic).await?;
        let now = unix_millis();
        let deliver_at =
            defer.map(|defer| now.saturating_add(i64::try_from(defer.as_millis()).unwrap_or(i64::MAX)));
        let messages: Vec<Message> = bodies
            .into_iter()
            .map(|body| Message {
                body,
                properties: PropertiesBuilder::new(),
                unique_key: self.keys.mint(),
                born_at: now,
                deliver_at,
            })
            .collect();
        let mut stored = 0;
        let mut queue = None;
        for part in parts(&messages) {
            match self.store(topic, part, queue.as_ref(), deadline).await {
                Ok(used) => queue = Some(used),
                Err(error) if stored == 0 => return Err(error),
                Err(error) => {
                    let all = messages.len();
                    return Err(PublishError::Unknown(format!(
                        "{stored} of {all} messages are stored, then: {error}"
                    )));
                }
            }
            stored += part.len();
        }
        Ok(())
    }

    /// Stores one part of a request; returns the queue that took it.
    async fn store(
        &self,
        topic: &TopicName,
        part: &[Message],
        queue: Option<&Queue>,
        deadline: Instant,
    ) -> Result<Queue, PublishError> {
        let rocketmq_topic = mapping::rocketmq_topic(topic);
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut outcome = self.producer.deliver(&rocketmq_topic, part, queue, left()).await;
        if matches!(&outcome, Outcome::NotSent(Failure { hint: Hint::UnknownTopic, .. })) {
            // Deleted since we saw it: nsqd would create it again, and so do we.
            self.known.write().unwrap_or_else(PoisonError::into_inner).remove(topic);
            self.ensure_topic(topic).await?;
            outcome = self.producer.deliver(&rocketmq_topic, part, None, left()).await;
        }
        match outcome {
            Outcome::Delivered(receipt) => {
                if receipt.perhaps_twice {
                    warn!(%topic, messages = part.len(), "stored after a try without an answer: perhaps twice, with the same ids");
                }
                Ok(Queue { topic: rocketmq_topic, broker: receipt.broker, id: receipt.queue_id })
            }
            Outcome::Rejected(failure) => Err(PublishError::Refused(failure.to_string())),
            Outcome::NotSent(failure) => Err(PublishError::Unavailable(failure.to_string())),
            Outcome::Unknown(failure) => Err(PublishError::Unknown(failure.to_string())),
        }
    }

    /// Creates the topic on every broker if it is new.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] when that cannot be done now.
    pub async fn ensure_topic(&self, topic: &TopicName) -> Result<(), PublishError> {
        #[cfg(test)]
        if let Some(script) = &self.script {
            return script.ask(topic, Vec::new(), None).await;
        }
        if self.knows(topic) {
            return Ok(());
        }
        let name = mapping::rocketmq_topic(topic);
        let unavailable = |error: ClusterError| PublishError::Unavailable(error.to_string());
        let ensure = async {
            let _one_at_a_time = self.creating.lock().await;
            if self.knows(topic) {
                return Ok(());
            }
            match self.cluster.route(&name).await {
                Ok(_) => {}
                Err(ClusterError::UnknownTopic(_)) => {
                    self.cluster.create_topic(&name, self.config.topic_queues).await.map_err(unavailable)?;
                    info!(%topic, rocketmq_topic = name, "first publish: topic created");
                }
                Err(error) => return Err(unavailable(error)),
            }
            self.known.write().unwrap_or_else(PoisonError::into_inner).insert(topic.clone());
            Ok(())
        };
        let late = || PublishError::Unavailable(format!("topic {name} could not be created in time"));
        tokio::time::timeout(self.config.budget, ensure).await.map_err(|_| late())?
    }

    fn knows(&self, topic: &TopicName) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).contains(topic)
    }

    /// Whether publishing can be expected to work now, and why not.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn health(&self) -> Result<(), String> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Cuts a request's messages into runs that fit a batch each.
fn parts(messages: &[Message]) -> impl Iterator<Item = &[Message]> {
    let mut rest = messages;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take(BATCH_MESSAGES).take_while(|message| {
            bytes += batch_record_len(message.body.len(), PROPERTY_BYTES);
            bytes <= BATCH_BYTES
        });
        // A message larger than a batch should be travels alone.
        let count = fits.count().max(1).min(rest.len());
        let (part, behind) = rest.split_at(count);
        rest = behind;
        (!part.is_empty()).then_some(part)
    })
}

/// Asks the name servers for brokers, again and again.
async fn probe(cluster: Cluster, health: Arc<Mutex<Result<(), String>>>) {
    let mut ticks = tokio::time::interval(PROBE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = match cluster.brokers().await {
            Ok(brokers) if brokers.values().any(|addresses| addresses.contains_key(&0)) => Ok(()),
            Ok(_) => Err("no RocketMQ broker is registered with the name servers".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let mut health = health.lock().unwrap_or_else(PoisonError::into_inner);
        if health.is_ok() != now.is_ok() {
            match &now {
                Ok(()) => info!("RocketMQ is reachable"),
                Err(reason) => warn!(reason, "RocketMQ is not reachable"),
            }
        }
        *health = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(sizes: &[usize]) -> Vec<Vec<usize>> {
        let keys = UniqueKeys::new();
        let messages: Vec<_> = sizes
            .iter()
            .map(|&size| Message {
                body: vec![0; size].into(),
                properties: PropertiesBuilder::new(),
                unique_key: keys.mint(),
                born_at: 0,
                deliver_at: None,
            })
            .collect();
        parts(&messages).map(|part| part.iter().map(|message| message.body.len()).collect()).collect()
    }

    #[test]
    fn a_request_is_cut_into_batches_in_order_and_nothing_is_left_out() {
        assert_eq!(cuts(&[1]), [[1]]);
        assert_eq!(cuts(&[BATCH_BYTES, 1, 2]), [vec![BATCH_BYTES], vec![1, 2]]);
        assert_eq!(cuts(&[400_000, 400_000, 400_000]), [vec![400_000, 400_000], vec![400_000]]);
        let many = cuts(&vec![1; 2 * BATCH_MESSAGES + 1]);
        assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [BATCH_MESSAGES, BATCH_MESSAGES, 1]);
    }
}
