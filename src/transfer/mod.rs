//! The transfer daemon: relays topics from RocketMQ back into nsqd, so that NSQ consumers notice nothing.
//!
//! ```text
//! topics  which topics are relayed, found while running
//!   └ topic   which of its queues are mine: membership, allocation, locks
//!       └ queue   one loop a queue: confirmed? commit. Room? read.
//!           ├ work          what it has in hand
//!           ├ start         where it begins, and what is made of an offset that is not where it was left
//!           ├ read_ahead    several pulls at a time, in order
//!           ├ window        what is in flight, how far may be committed
//!           ├ undrained     what is in which nsqd and could still be lost there; the record of what is relayed
//!           ├ replay        relays that again when that nsqd is gone
//!           ├ audited       what went where, written down before it is committed
//!           ├ batch         what nsqd takes in one request
//!           └ deliver       until nsqd has answered OK, at the pace allowed
//!               ├ watched        which nsqd processes there are, and what has become of them
//!               ├ homes          which nsqds are the topic's
//!               ├ destinations   which of them is next: ready, with room
//!               │   └ ready      topic and every channel exist there
//!               └ parking        what nsqd will never take
//! fleet   the nsqds, looked at for all topics at once
//! committed   what the brokers hold as committed, looked at for all queues of a topic at once
//! retention   whether messages are relayed well before they expire
//! fence   how far a topic may be relayed while one of its consumers is moved; completed, which channels are done with
//! gate    whether what is left of a share may be relayed; placed, where it begins
//! state   how each topic stands, for metrics, and for control, which other programs ask through the brokers
//! ```
//!
//! What it promises:
//! - An offset is committed only when nsqd has answered `OK` to every message below it, or a broker to parking it. Whatever
//!   else happens, the message is relayed again.
//! - No queue is relayed by two instances at once, as far as the brokers' locks and clocks can tell.
//! - A graceful stop relays and commits what is in flight: nothing is doubled by it.
//! - What nsqd has in memory when it dies, or in flight when it stops, is relayed again: that nsqd's share, and no more than its
//!   counters leave in doubt.
//! - What is left of a share ([`crate::mapping::Share`]) is relayed by the same way, to a topic of its own, and only while the channel itself
//!   gets nothing. The audit leaves it out: it is about a topic's messages, which each go one way there.
//! - A queue that cannot go on (unreadable record, offset out of range) is held and named, never skipped.
//! - A committed offset that this bridge has not committed is noticed, and what is made of it is somebody's choice ([`OnGap`]).
//!
//! Batches go over nsqd's TCP protocol, not HTTP. The two are equally fast (`cargo bench --bench transport`: 1.05 to
//! 1, within the noise); but a TCP connection of our own is bound to one nsqd process, and a batch cannot reach one
//! that came up empty in its place ([`crate::nsq::tcp`]).

mod audited;
mod batch;
pub mod commands;
mod committed;
mod completed;
pub mod control;
mod deliver;
mod destinations;
pub mod fence;
mod fleet;
mod gate;
mod held;
mod homes;
mod memory;
pub mod metrics;
mod pace;
pub mod parking;
mod placed;
mod queue;
mod read_ahead;
mod replay;
mod retention;
mod start;
pub mod state;
mod topic;
mod topics;
pub(crate) mod undrained;
mod watched;
mod window;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::warn;

pub use self::{
    batch::Limits,
    destinations::Choice,
    fleet::Source,
    held::OnGap,
    placed::{NotPlaced, Record},
    topics::Topics,
};
use self::{completed::Completed, fleet::Fleet, memory::Memory, metrics::Metrics, retention::Reserves};
use crate::{
    audit::{Pace, Recorder},
    mapping::Names,
    rocketmq::Cluster,
};

/// So many topics are looked after as often as one; more, less often each.
const AS_OFTEN_AS_ONE: usize = 40;
/// A topic's audit records follow each other no faster; offsets are committed behind them.
const AUDITED_EVERY: Duration = Duration::from_secs(1);
/// A stop waits this long for the last audit records.
const LAST_RECORDS_WITHIN: Duration = Duration::from_secs(2);

/// What to relay, and where to.
#[derive(Debug, Clone)]
pub struct TransferConfig {
    /// Which topics.
    pub topics: Topics,
    /// What the topics are called in RocketMQ.
    pub names: Names,
    /// Where the nsqds come from.
    pub source: Source,
    /// Which of them get what.
    pub choice: Choice,
    /// The consumer group of a topic's relay is this, a dash and the topic.
    pub group_prefix: String,
    /// What the nsqds take.
    pub limits: Limits,
    /// Messages a second of one topic, to begin with; 0 for any number.
    pub max_rate: u64,
    /// Bytes of messages held in memory for each queue.
    pub max_bytes_per_queue: usize,
    /// Bytes of messages held in memory for all of them.
    pub max_bytes: usize,
    /// What to do at an offset a queue does not have, or that is not where it was left.
    pub on_gap: OnGap,
    /// Park what cannot be read, and go on behind it; otherwise its queue is held.
    pub park_unreadable: bool,
    /// Keep the order of each queue as far as NSQ can.
    pub ordered: bool,
    /// Relay again what an nsqd had when it went.
    pub replay: bool,
    /// Write down what was relayed, for `nsqbridge verify`.
    pub audit: bool,
    /// How long a graceful stop waits for nsqd to answer. Locks are not renewed meanwhile: below 10 s.
    pub drain_timeout: Duration,
}

/// What the relays of all topics share.
struct Shared {
    cluster: Cluster,
    config: Arc<TransferConfig>,
    fleet: Arc<Fleet>,
    metrics: Arc<Metrics>,
    memory: Arc<Memory>,
    recorder: Option<Recorder>,
    /// How long the brokers keep messages.
    reserves: watch::Sender<Reserves>,
    completed: Arc<Completed>,
    /// Topics relayed now.
    topics: AtomicUsize,
}

impl Shared {
    /// Pulls of one queue at a time: a row of them is for speed where there are few queues, and for memory too much where there are
    /// many.
    fn lanes(&self) -> usize {
        let topics = self.topics.load(Ordering::Relaxed).max(1);
        (2 * read_ahead::LANES / topics).clamp(1, read_ahead::LANES)
    }

    /// How often one of many topics does what a single one would do this often.
    fn paced(&self, every: Duration) -> Duration {
        let topics = self.topics.load(Ordering::Relaxed);
        every.mul_f64((topics as f64 / AS_OFTEN_AS_ONE as f64).max(1.0))
    }
}

/// Relays until `drain`, then finishes what is in flight and leaves.
///
/// # Cancellation
/// Dropping the future ends the relay at once; what nsqd has not confirmed, or was not committed yet, is relayed again.
pub async fn run(cluster: Cluster, config: TransferConfig, metrics: Arc<Metrics>, drain: CancellationToken) {
    let fleet = Fleet::new(config.source.clone());
    let _looking = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&fleet).keep_looking()));
    let pace = Pace { every: AUDITED_EVERY, spread: false };
    let recorder = || Recorder::new(cluster.clone(), config.names.clone(), "nsqbridge-transfer", pace);
    let reserves = watch::Sender::new(Reserves::new());
    let asking = retention::keep_asking(cluster.clone(), reserves.clone());
    let _asking = AbortOnDropHandle::new(tokio::spawn(asking));
    let completed = Arc::<Completed>::default();
    let _completed =
        AbortOnDropHandle::new(tokio::spawn(Arc::clone(&completed).keep_reading(cluster.clone())));
    let shared = Arc::new(Shared {
        recorder: config.audit.then(recorder),
        cluster,
        reserves,
        completed,
        fleet,
        metrics,
        memory: Arc::new(Memory::new(config.max_bytes)),
        config: Arc::new(config),
        topics: AtomicUsize::default(),
    });
    topics::relay_all(Arc::clone(&shared), drain).await;
    if let Some(recorder) = &shared.recorder
        && !recorder.drain(LAST_RECORDS_WITHIN).await
    {
        warn!(
            "audit records are not written; `nsqbridge verify` cannot tell of what was relayed last whether it is missing"
        );
    }
}
