//! The transfer daemon: relays topics from RocketMQ back into nsqd, so that NSQ consumers notice nothing.
//!
//! ```text
//! topic   which queues are mine: membership, allocation, locks
//!   └ queue   one loop a queue: confirmed? commit. Room? read.
//!       ├ read_ahead    several pulls at a time, in order
//!       ├ window        what is in flight, how far may be committed
//!       ├ batch         what nsqd takes in one request
//!       └ deliver       until nsqd has answered OK
//!   └ destinations      which nsqds are ready: topic and every channel exist
//! ```
//!
//! What it promises:
//! - An offset is committed only when nsqd has answered `OK` to every message below it. Whatever else happens, the
//!   message is relayed again.
//! - No queue is relayed by two instances at once, as far as the brokers' locks and clocks can tell.
//! - A graceful stop relays and commits what is in flight: nothing is doubled by it.
//! - A queue that cannot go on (unreadable record, offset out of range) is held and named, never skipped.

mod batch;
mod deliver;
mod destinations;
mod queue;
mod read_ahead;
mod topic;
mod window;

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::topic::TopicRelay;
pub use self::{batch::Limits, destinations::Source};
use crate::{mapping::Names, nsq::names::TopicName, rocketmq::Cluster};

/// What to relay, and where to.
#[derive(Debug, Clone)]
pub struct TransferConfig {
    /// The topics, by their NSQ names.
    pub topics: Vec<TopicName>,
    /// What the topics are called in RocketMQ.
    pub names: Names,
    /// Where the nsqds come from.
    pub source: Source,
    /// The consumer group of a topic's relay is this, a dash and the topic.
    pub group_prefix: String,
    /// What the nsqds take.
    pub limits: Limits,
    /// Body bytes held in memory for each queue.
    pub max_bytes_per_queue: usize,
    /// How long a graceful stop waits for nsqd to answer. Locks are not renewed meanwhile: below 10 s.
    pub drain_timeout: Duration,
}

/// Relays until `drain`, then finishes what is in flight and leaves.
///
/// # Cancellation
/// Dropping the future ends the relay at once; what nsqd has not confirmed, or was not committed yet, is relayed again.
pub async fn run(cluster: Cluster, config: TransferConfig, drain: CancellationToken) {
    let config = Arc::new(config);
    let mut relays = JoinSet::new();
    for topic in &config.topics {
        let relay = TopicRelay::new(cluster.clone(), Arc::clone(&config), topic.clone());
        relays.spawn(relay.run(drain.clone()));
    }
    while relays.join_next().await.is_some() {}
}
