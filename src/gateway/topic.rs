//! One topic as this gateway knows it.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{lane::Lane, metrics::Metrics, share::Stamps, spool::TopicSpool};
use crate::{
    audit::{Ledger, Recorder},
    nsq::names::TopicName,
};

/// A topic somebody published to or created.
#[derive(Debug)]
pub struct Topic {
    pub(super) name: TopicName,
    pub(super) rocketmq_topic: String,
    /// What its messages may be stamped with.
    pub(super) stamps: Stamps,
    /// What waits to be sent.
    pub(super) lane: Lane,
    /// Whether its messages may be spooled while RocketMQ does not take them.
    pub(super) spools: bool,
    /// Where they are then; none before the first is to be sent, unless some are left there from before.
    pub(super) spool: OnceLock<Arc<TopicSpool>>,
    /// Serialises looking for it and creating it.
    pub(super) ensuring: tokio::sync::Mutex<()>,
    /// Its name in metrics, or what stands for all beyond their bound; none before it is seen to exist.
    label: OnceLock<Arc<String>>,
    exists: AtomicBool,
    /// Brokers said they do not have it, though it was seen.
    missed: AtomicBool,
    /// What is counted for the audit; none before something is.
    ledger: OnceLock<Arc<Ledger>>,
    held_bytes: AtomicUsize,
    messages: AtomicU64,
    bytes: AtomicU64,
    depth: AtomicU64,
    /// When that was asked.
    depth_at: Mutex<Option<Instant>>,
}

impl Topic {
    pub(super) fn new(
        name: TopicName,
        rocketmq_topic: String,
        stamps: Stamps,
        spools: bool,
        left: Option<Arc<TopicSpool>>,
    ) -> Self {
        Self {
            name,
            rocketmq_topic,
            stamps,
            // A publish must not overtake one that is about to be spooled.
            lane: Lane::new(spools || left.is_some()),
            spools,
            spool: left.map_or_else(OnceLock::new, OnceLock::from),
            ensuring: tokio::sync::Mutex::default(),
            label: OnceLock::new(),
            exists: AtomicBool::default(),
            missed: AtomicBool::default(),
            ledger: OnceLock::new(),
            held_bytes: AtomicUsize::default(),
            messages: AtomicU64::default(),
            bytes: AtomicU64::default(),
            depth: AtomicU64::default(),
            depth_at: Mutex::default(),
        }
    }

    /// Whether it was seen in RocketMQ.
    pub(super) fn exists(&self) -> bool {
        self.exists.load(Ordering::Relaxed)
    }

    /// It was seen, or created, just now.
    pub(super) fn seen(&self, metrics: &Metrics) {
        self.named(metrics);
        self.missed.store(false, Ordering::Relaxed);
        self.exists.store(true, Ordering::Relaxed);
    }

    /// It has a name in metrics from now on, whether RocketMQ was asked for it or not.
    pub(super) fn named(&self, metrics: &Metrics) {
        self.label.get_or_init(|| metrics.label(&self.name));
    }

    /// Whether its publishes go to the spool.
    pub(super) fn is_spooling(&self) -> bool {
        self.spool.get().is_some_and(|spool| spool.is_spooling())
    }

    /// RocketMQ does not know it any more.
    pub(super) fn gone(&self) {
        self.missed.store(true, Ordering::Relaxed);
        self.exists.store(false, Ordering::Relaxed);
    }

    /// Whether brokers do not have it, whatever a name server still lists.
    pub(super) fn missed(&self) -> bool {
        self.missed.load(Ordering::Relaxed)
    }

    pub(super) fn label(&self) -> Option<&Arc<String>> {
        self.label.get()
    }

    pub(super) fn ledger(&self, recorder: &Recorder) -> &Ledger {
        self.ledger.get_or_init(|| recorder.topic(&self.name))
    }

    /// Bytes of requests that wait for it.
    pub(super) fn held_bytes(&self) -> &AtomicUsize {
        &self.held_bytes
    }

    /// Counts what RocketMQ has stored.
    pub(super) fn count(&self, messages: usize, bytes: usize) {
        self.messages.fetch_add(messages as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Messages and body bytes stored through this gateway since it started.
    pub(super) fn counted(&self) -> (u64, u64) {
        (self.messages.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// The messages its relay has still to relay: of RocketMQ's when that was last asked, and those that are spooled now.
    pub(super) fn depth(&self) -> u64 {
        self.depth.load(Ordering::Relaxed) + self.spool.get().map_or(0, |spool| spool.messages())
    }

    pub(super) fn set_depth(&self, depth: u64) {
        self.depth.store(depth, Ordering::Relaxed);
    }

    pub(super) fn asked_for_depth(&self) {
        *self.depth_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether the depth was asked so lately.
    pub(super) fn knows_depth_for(&self, time: Duration) -> bool {
        let asked = *self.depth_at.lock().unwrap_or_else(PoisonError::into_inner);
        asked.is_some_and(|at| at.elapsed() < time)
    }
}
