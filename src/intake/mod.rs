//! The intake: for producers that still publish to an nsqd. What they publish is taken in through a channel of its own and stored in
//! RocketMQ, so that consumers that have moved get it as well.
//!
//! ```text
//!   old producers ──▶ nsqd A ──▶ channels ─────────────────────────▶ NSQ consumers
//!                       └──▶ channel nsqbridge-intake                     ▲
//!                                     │                                   │
//!                                  intake, marks them                     │
//!                                     ▼                                   │
//!   new producers ──▶ gateway ──▶ RocketMQ ──▶ transfer, passes what is marked ──▶ nsqd B
//!                                     └────────────────────────────▶ RocketMQ consumers
//! ```
//!
//! A message in nsqd has no headers, so nobody could tell one that a relay has put there from a producer's: taken in again, it would go
//! round for ever. Therefore each nsqd has one kind of writer: old producers (A) or the relay (B); NSQ consumers read both. It is held
//! on both sides: the relay sends nothing to an nsqd that has an intake's channel ([`crate::mapping::is_intake`]), and the intake asks
//! the running relays, and nsqd who publishes, before it begins and again and again ([`guard`]).
//!
//! ```text
//! guard    whether a relay writes to an nsqd, or may
//! control  what others ask of it
//! hold     an nsqd's topic, paused while a consumer is moved
//! inlet    one topic of one nsqd: takes, touches, finishes
//!   ├ hand     what nsqd has handed over, and what came before
//!   └ store    into RocketMQ, each message with its own outcome
//! retire   the end of it, when there are no such producers any more
//! ```
//!
//! What it promises:
//! - A message is finished only when RocketMQ has answered `SEND_OK`; until then it is tried for as long as it takes, and nsqd told that
//!   it takes longer. What RocketMQ will never take is put back, again and again, and told: nowhere is it safer than where it is.
//! - What is delivered again, to this process or another, carries the same unique key: it is made of nsqd's own id of the message.
//! - A graceful stop doubles nothing.

pub mod control;
mod guard;
mod hand;
pub mod hold;
mod inlet;
pub mod metrics;
pub mod retire;
mod store;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::Mutex, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::{control::Known, inlet::Inlet, metrics::Metrics};
use crate::{
    mapping::Names,
    nsq::{
        names::{ChannelName, TopicName},
        nsqd::Nsqd,
    },
    rocketmq::{Cluster, Producer},
};

/// What to take in, and from where.
#[derive(Debug, Clone)]
pub struct IntakeConfig {
    /// The topics.
    pub topics: Vec<TopicName>,
    /// The channel they are taken in through.
    pub channel: ChannelName,
    /// The nsqds that old producers publish to, and no relay.
    pub nsqds: Vec<Nsqd>,
    /// What the topics are called in RocketMQ.
    pub names: Names,
    /// What the relays' groups begin with.
    pub group_prefix: String,
    /// Messages in hand at a time, of all topics and nsqds together.
    pub max_in_flight: usize,
    /// Bytes of messages in hand, past which no more are asked for.
    pub max_in_flight_bytes: usize,
    /// Queues a new topic gets on each broker.
    pub topic_queues: u32,
    /// How long a graceful stop waits for RocketMQ.
    pub drain_timeout: Duration,
}

/// What all inlets share.
struct Shared {
    cluster: Cluster,
    producer: Producer,
    config: IntakeConfig,
    metrics: Arc<Metrics>,
    /// The topics, and what makes each known once something may be taken in.
    known: BTreeMap<TopicName, Mutex<Option<Known>>>,
}

impl Shared {
    /// Makes it known that the topic is taken in here.
    async fn make_known(&self, topic: &TopicName) -> Result<(), String> {
        let Some(known) = self.known.get(topic) else { return Ok(()) };
        let mut known = known.lock().await;
        if known.is_none() {
            *known = Some(Known::make(&self.cluster, &self.config, &self.metrics, topic).await?);
        }
        Ok(())
    }
}

impl IntakeConfig {
    fn inlets(&self) -> impl Iterator<Item = (&TopicName, &Nsqd)> {
        self.topics.iter().flat_map(|topic| self.nsqds.iter().map(move |nsqd| (topic, nsqd)))
    }
}

/// Why it must not begin: a relay that writes to one of the nsqds. What cannot be asked is no reason here: [`run`] waits for it.
pub async fn refusal(cluster: &Cluster, config: &IntakeConfig) -> Option<String> {
    for (topic, nsqd) in config.inlets() {
        if let guard::Found::Writer(reason) = guard::look(cluster, config, topic, nsqd).await {
            return Some(format!("{topic} is not taken in from {}: {reason}", nsqd.address()));
        }
    }
    None
}

/// Takes in until `drain`, then finishes what is in hand.
///
/// # Cancellation
/// Dropping the future ends it at once; nsqd delivers again what was not finished, and what was stored meanwhile is stored once more
/// under the same key.
pub async fn run(cluster: Cluster, config: IntakeConfig, metrics: Arc<Metrics>, drain: CancellationToken) {
    let producer = Producer::new(cluster.clone(), "nsqbridge-intake");
    let known = config.topics.iter().map(|topic| (topic.clone(), Mutex::default())).collect();
    let shared = Arc::new(Shared { cluster, producer, config, metrics, known });
    let mut inlets = JoinSet::new();
    for (topic, nsqd) in shared.config.inlets() {
        inlets.spawn(Inlet::new(Arc::clone(&shared), topic.clone(), nsqd.clone(), drain.clone()).run());
    }
    // A panic in one of them is raised here.
    inlets.join_all().await;
    for known in shared.known.values() {
        if let Some(known) = known.lock().await.take() {
            known.leave().await;
        }
    }
}
