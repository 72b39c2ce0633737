//! Stores what was taken in, however long that takes.
//!
//! Messages that came together leave as one batch. One without an answer may be stored: it is sent again, under the same keys, and
//! counted. A refused batch is taken apart, so that each message has its own outcome.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tracing::{debug, warn};

use super::{
    Shared,
    hand::{Identity, identity},
    metrics::Standing,
};
use crate::{
    mapping::{ACCEPTED_MS, NSQ_TOPIC, TAKEN_IN, taken_in_mark},
    nsq::{deliveries::Delivered, names::TopicName},
    retry::Backoff,
    rocketmq::{
        Message, Outcome,
        outcome::{Failure, Hint},
        properties::{PropertiesBuilder, PropertyError},
        unique_key::UniqueKey,
    },
};

/// How long one attempt may take before it is looked at again.
const BUDGET: Duration = Duration::from_secs(10);
const NS_PER_MS: i64 = 1_000_000;

/// Where the messages of one topic of one nsqd go.
pub(super) struct Store {
    pub(super) shared: Arc<Shared>,
    pub(super) standing: Arc<Standing>,
    pub(super) topic: TopicName,
    /// Tells this nsqd's messages of this topic from others with the same ids.
    source: u32,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// RocketMQ has it.
    Stored,
    /// RocketMQ will never take it, and this is why.
    Refused(String),
}

impl Store {
    /// `nsqd` is what it calls itself, the same however it is reached and whenever it was started. Ids are its own for each topic.
    pub(super) fn new(shared: Arc<Shared>, standing: Arc<Standing>, topic: TopicName, nsqd: &str) -> Self {
        let source = crc32fast::hash(format!("{nsqd}/{topic}").as_bytes());
        Self { shared, standing, topic, source }
    }

    /// Stores all of them, or says which RocketMQ will never take.
    ///
    /// # Cancellation
    /// Dropping the future leaves some of them perhaps stored; delivered again, they are stored under the same keys.
    pub(super) async fn store(&self, batch: Vec<Delivered>) -> Vec<(Identity, Fate)> {
        let mut fates = Vec::with_capacity(batch.len());
        let mut parts = VecDeque::from([batch]);
        while let Some(mut part) = parts.pop_front() {
            let messages: Result<Vec<Message>, String> =
                part.iter().map(|delivered| self.message(delivered)).collect();
            let refused = match messages {
                Ok(messages) => self.until_stored(&messages).await.err(),
                Err(error) => Some(error),
            };
            match refused {
                Some(_) if part.len() > 1 => {
                    let rest = part.split_off(part.len() / 2);
                    parts.push_front(rest);
                    parts.push_front(part);
                }
                refused => {
                    let fate = refused.map_or(Fate::Stored, Fate::Refused);
                    fates.extend(part.iter().map(|message| (identity(message), fate.clone())));
                }
            }
        }
        fates
    }

    fn message(&self, delivered: &Delivered) -> Result<Message, String> {
        let born_at = delivered.published_ns / NS_PER_MS;
        let id = delivered.id.number().ok_or_else(|| format!("{:?} is no id of nsqd's", delivered.id))?;
        let unique_key = UniqueKey::derived(self.source, id, u64::try_from(born_at).unwrap_or(0));
        Ok(Message {
            body: delivered.body.clone(),
            properties: self
                .properties(delivered, born_at, &unique_key)
                .map_err(|error| error.to_string())?,
            unique_key,
            born_at,
            deliver_at: None,
        })
    }

    fn properties(
        &self,
        delivered: &Delivered,
        born_at: i64,
        key: &UniqueKey,
    ) -> Result<PropertiesBuilder, PropertyError> {
        let properties = PropertiesBuilder::new()
            .user(NSQ_TOPIC, self.topic.as_str())?
            .user(ACCEPTED_MS, &born_at.to_string())?
            .user(TAKEN_IN, &taken_in_mark(self.standing.nsqd.as_str(), key.as_str()))?;
        match delivered.attempts {
            0 | 1 => Ok(properties),
            more => properties.user("nsq_attempts", &more.to_string()),
        }
    }

    /// Sends until RocketMQ has all of them; why it will not take them is the error.
    async fn until_stored(&self, messages: &[Message]) -> Result<(), String> {
        let Shared { cluster, producer, config, .. } = &*self.shared;
        let topic = config.names.rocketmq_topic(&self.topic);
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let (mut failing, mut doubted) = (false, false);
        loop {
            let failure = match producer.deliver(&topic, messages, None, BUDGET).await {
                Outcome::Delivered(receipt) => {
                    self.standing.rocketmq(None);
                    self.standing.stored_at(&receipt, messages.len());
                    if receipt.perhaps_twice || doubted {
                        self.standing.perhaps_doubled(messages.len());
                        warn!(topic = %self.topic, messages = messages.len(),
                            "stored after a try without an answer: perhaps twice, with the same ids");
                    }
                    return Ok(());
                }
                Outcome::Rejected(failure) => return Err(failure.to_string()),
                Outcome::NotSent(failure) => failure,
                Outcome::Unknown(failure) => {
                    doubted = true;
                    failure
                }
            };
            self.standing.retried(messages.len());
            self.standing.rocketmq(Some(format!("not stored yet: {failure}")));
            if !std::mem::replace(&mut failing, true) {
                warn!(topic = %self.topic, messages = messages.len(), error = %failure,
                    "not stored yet; trying until it is");
            }
            if let Failure { hint: Hint::UnknownTopic, .. } = failure
                && let Err(error) = cluster.create_topic(&topic, config.topic_queues).await
            {
                debug!(topic, %error, "not created yet");
            }
            backoff.wait().await;
        }
    }
}
