//! How one topic's relay stands: what its queue loops write, and metrics and status read.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    destinations::Destinations,
    fence::{Fence, FenceReport},
    metrics::TopicMetrics,
    pace::Pace,
    retention::Retention,
    undrained::Process,
};
use crate::{
    nsq::names::TopicName,
    rocketmq::{Queue, producer::unix_millis},
};

/// One topic's relay in this process.
#[derive(Debug)]
pub(super) struct TopicState {
    pub(super) topic: TopicName,
    pub(super) destinations: Arc<Destinations>,
    pub(super) pace: Arc<Pace>,
    pub(super) fence: Fence,
    pub(super) metrics: Arc<TopicMetrics>,
    queues: Mutex<BTreeMap<Queue, QueueState>>,
    undrained: Mutex<BTreeMap<Queue, BTreeMap<Process, u64>>>,
    retention: Mutex<Retention>,
    rate: Mutex<Rate>,
    /// Why it has not begun.
    kept_out: Mutex<Option<String>>,
}

/// One queue of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct QueueState {
    /// Everything below is in nsqd, or parked.
    pub(super) relayed: i64,
    /// Everything below is on its way to nsqd, or beyond that.
    pub(super) sent: i64,
    /// Everything below is committed.
    pub(super) committed: i64,
    /// Something is being relayed again for an nsqd that is gone.
    pub(super) replaying: bool,
    /// One past the newest message known.
    pub(super) end: i64,
    /// When the oldest message that is on its way was stored, in milliseconds since 1970.
    pub(super) oldest_ms: Option<i64>,
    /// The lowest offset an nsqd may still lose.
    pub(super) undrained: Option<i64>,
    /// What RocketMQ does not do for it now; it is tried again.
    pub(super) failing: Option<String>,
    /// Why it does not go on.
    pub(super) held: Option<String>,
}

#[derive(Debug)]
struct Rate {
    at: Instant,
    relayed: u64,
    per_second: f64,
}

/// What one instance says of one topic; what `nsqbridge status` reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TopicReport {
    /// The NSQ topic.
    pub topic: String,
    /// Why nothing is sent now, or nothing of some queue; none while everything is.
    pub waiting: Option<String>,
    /// Whether somebody paused it.
    pub paused: bool,
    /// The fence it obeys.
    #[serde(default)]
    pub fence: Option<FenceReport>,
    /// Channels it does not create, because they are done with.
    #[serde(default)]
    pub completed: Vec<String>,
    /// Messages a second it may send; 0 for any number.
    pub max_rate: u64,
    /// Messages a second it sends.
    pub rate: f64,
    /// Messages since it began: read, relayed, sent again, parked, perhaps doubled.
    pub totals: [u64; 5],
    /// How long the brokers keep messages at least; none while it is not known.
    #[serde(default)]
    pub retention_seconds: Option<f64>,
    /// Until the oldest message that nsqd does not have yet may expire; none while it is not known.
    #[serde(default)]
    pub expires_in_seconds: Option<f64>,
    /// The same for the oldest that an nsqd may still lose.
    #[serde(default)]
    pub undrained_expires_in_seconds: Option<f64>,
    /// Why somebody should see that messages are relayed sooner.
    #[serde(default)]
    pub expiring: Option<String>,
    /// Its queues.
    pub queues: Vec<QueueReport>,
    /// Where it sends to.
    pub nsqds: Vec<NsqdReport>,
    /// What nsqd processes may still lose, those that are gone included.
    #[serde(default)]
    pub undrained: Vec<UndrainedReport>,
}

/// One queue of a [`TopicReport`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueueReport {
    /// Its broker.
    pub broker: String,
    /// Its number there.
    pub queue: i32,
    /// Everything below is in nsqd, or parked.
    pub relayed: i64,
    /// Everything below is on its way to nsqd, or beyond that.
    #[serde(default)]
    pub sent: i64,
    /// Everything below is committed.
    #[serde(default)]
    pub committed: i64,
    /// Something is being relayed again for an nsqd that is gone.
    #[serde(default)]
    pub replaying: bool,
    /// Messages nsqd does not have yet.
    pub lag: i64,
    /// Age of the oldest of them.
    pub lag_seconds: f64,
    /// Why it does not go on.
    pub held: Option<String>,
}

/// What one nsqd process was given and may still lose.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UndrainedReport {
    /// Its HTTP address.
    pub nsqd: String,
    /// When the process started, in seconds since 1970.
    pub start_time: i64,
    /// How many messages.
    pub messages: u64,
}

/// One nsqd of a [`TopicReport`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NsqdReport {
    /// Its HTTP address.
    pub nsqd: String,
    /// Whether messages go there.
    pub ready: bool,
    /// Messages that wait there.
    pub depth: u64,
    /// Messages it was given that may still be in it; it gets those again if it is lost.
    #[serde(default)]
    pub undrained: u64,
    /// Whether nothing will ever go there as this instance runs: it was told so, it is no destination, or
    /// messages are taken in from there.
    #[serde(default)]
    pub left_out: bool,
    /// Why none go there.
    pub reason: Option<String>,
}

impl QueueState {
    fn lag(&self) -> i64 {
        (self.end - self.relayed).max(0)
    }

    fn lag_seconds(&self, now_ms: i64) -> f64 {
        match self.oldest_ms {
            Some(oldest) if self.lag() > 0 => ((now_ms - oldest).max(0) as f64) / 1_000.0,
            _ => 0.0,
        }
    }
}

impl TopicState {
    pub(super) fn new(
        topic: TopicName,
        destinations: Arc<Destinations>,
        pace: Arc<Pace>,
        metrics: Arc<TopicMetrics>,
    ) -> Self {
        let rate = Mutex::new(Rate { at: Instant::now(), relayed: 0, per_second: 0.0 });
        let (queues, undrained, retention, fence, kept_out) = Default::default();
        Self { topic, destinations, pace, fence, metrics, queues, undrained, retention, rate, kept_out }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Queue, QueueState>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn update(&self, queue: &Queue, state: QueueState) {
        let mut queues = self.lock();
        match queues.get_mut(queue) {
            Some(known) => *known = state,
            None => drop(queues.insert(queue.clone(), state)),
        }
    }

    pub(super) fn hold(&self, queue: &Queue, reason: String) {
        self.lock().entry(queue.clone()).or_default().held = Some(reason);
    }

    pub(super) fn forget(&self, queue: &Queue) {
        self.lock().remove(queue);
        self.undrained.lock().unwrap_or_else(PoisonError::into_inner).remove(queue);
    }

    /// Why queues do not go on.
    pub(super) fn held(&self) -> Vec<String> {
        self.lock().values().filter_map(|queue| queue.held.clone()).collect()
    }

    /// How old messages may get, and are.
    pub(super) fn retention(&self) -> Retention {
        *self.retention.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_retention(&self, retention: Retention) {
        *self.retention.lock().unwrap_or_else(PoisonError::into_inner) = retention;
    }

    /// Takes note of what of a queue each nsqd process may still lose.
    pub(super) fn undrained<'a>(&self, queue: &Queue, messages: impl Iterator<Item = (&'a Process, u64)>) {
        let mut by_nsqd = BTreeMap::new();
        for (process, messages) in messages {
            *by_nsqd.entry(process.clone()).or_default() += messages;
        }
        self.undrained.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.clone(), by_nsqd);
    }

    /// What of the queues relayed here each nsqd may still lose.
    fn undrained_by_nsqd(&self) -> BTreeMap<String, u64> {
        let mut total = BTreeMap::new();
        for (process, messages) in self.undrained_by_process() {
            *total.entry(process.nsqd.to_string()).or_default() += messages;
        }
        total
    }

    fn undrained_by_process(&self) -> BTreeMap<Process, u64> {
        let mut total = BTreeMap::new();
        for by_process in self.undrained.lock().unwrap_or_else(PoisonError::into_inner).values() {
            for (process, messages) in by_process {
                *total.entry(process.clone()).or_default() += messages;
            }
        }
        total
    }

    pub(super) fn queues(&self) -> BTreeMap<Queue, QueueState> {
        self.lock().clone()
    }

    pub(super) fn lag(&self) -> i64 {
        self.lock().values().map(QueueState::lag).sum()
    }

    pub(super) fn lag_seconds(&self) -> f64 {
        let now = unix_millis();
        self.lock().values().map(|queue| queue.lag_seconds(now)).fold(0.0, f64::max)
    }

    /// Takes note of why it may not begin.
    pub(super) fn keep_out(&self, why: Option<String>) {
        *self.kept_out.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Why nothing is sent now, or nothing of some queue.
    pub(super) fn waiting(&self) -> Option<String> {
        let kept_out = self.kept_out.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let paused = || self.pace.wish().paused.then(|| "paused".to_owned());
        let failing = || self.lock().values().find_map(|queue| queue.failing.clone());
        kept_out.or_else(paused).or_else(|| self.destinations.waiting()).or_else(failing)
    }

    /// Takes the rate anew; call it every few seconds.
    pub(super) fn measure(&self) {
        let [_, relayed, ..] = self.metrics.totals();
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = rate.at.elapsed();
        if passed >= Duration::from_secs(1) {
            rate.per_second = relayed.saturating_sub(rate.relayed) as f64 / passed.as_secs_f64();
            (rate.at, rate.relayed) = (Instant::now(), relayed);
        }
    }

    /// How the nsqds stand.
    pub(super) fn nsqds(&self) -> Vec<NsqdReport> {
        let mut undrained = self.undrained_by_nsqd();
        let mut nsqds = self.destinations.standings();
        for nsqd in &mut nsqds {
            nsqd.undrained = undrained.remove(&nsqd.nsqd).unwrap_or(0);
        }
        // Whoever is no destination any more may still have messages.
        let reason = Some("no destination any more".to_owned());
        let gone = undrained.into_iter().filter(|(_, undrained)| *undrained > 0);
        nsqds.extend(gone.map(|(nsqd, undrained)| NsqdReport {
            nsqd,
            ready: false,
            depth: 0,
            undrained,
            left_out: true,
            reason: reason.clone(),
        }));
        nsqds
    }

    pub(super) fn report(&self) -> TopicReport {
        let now = unix_millis();
        let (wish, retention) = (self.pace.wish(), self.retention());
        let queues = self.queues().into_iter().map(|(queue, state)| QueueReport {
            relayed: state.relayed,
            sent: state.sent,
            committed: state.committed,
            replaying: state.replaying,
            lag: state.lag(),
            lag_seconds: state.lag_seconds(now),
            held: state.held,
            broker: queue.broker,
            queue: queue.id,
        });
        let undrained = self.undrained_by_process().into_iter().filter(|(_, messages)| *messages > 0);
        let undrained = undrained.map(|(process, messages)| UndrainedReport {
            nsqd: process.nsqd.to_string(),
            start_time: process.start_time,
            messages,
        });
        TopicReport {
            fence: self.fence.report(),
            completed: self.destinations.completed(),
            undrained: undrained.collect(),
            topic: self.topic.to_string(),
            waiting: self.waiting(),
            paused: wish.paused,
            max_rate: wish.rate,
            rate: self.rate.lock().unwrap_or_else(PoisonError::into_inner).per_second,
            totals: self.metrics.totals(),
            retention_seconds: retention.reserve.as_ref().map(Duration::as_secs_f64),
            expires_in_seconds: retention.expires_in().as_ref().map(Duration::as_secs_f64),
            undrained_expires_in_seconds: retention
                .undrained_expires_in()
                .as_ref()
                .map(Duration::as_secs_f64),
            expiring: retention.warning(),
            queues: queues.collect(),
            nsqds: self.nsqds(),
        }
    }
}
