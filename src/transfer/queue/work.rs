//! What the loop of one queue carries from one round to the next: what it has in hand, and what keeps failing.
//!
//! It tells when something is due, and sends what there is room for. What comes first, and what ends a queue, is the loop's alone, which
//! is to be read in one piece.

use std::{collections::VecDeque, fmt::Display, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinSet, time::Instant};
use tracing::{info, warn};

use super::{DRAINED_EVERY, QueueRelay};
use crate::{
    retry::Backoff,
    rocketmq::{ClusterError, Queue, group::LOCKED_BEYOND, record::StoredMessage},
    transfer::{
        audited::Audited,
        batch::{Batch, Cut},
        deliver::Delivery,
        replay::Replayed,
        start::Begun,
        undrained::{
            Process, Undrained,
            journal::{self, Page},
        },
        window::{Confirmed, Window},
    },
};

/// Batches of one queue on their way to nsqd at a time.
const BATCHES_IN_FLIGHT: usize = 2;

/// Failures in a row of one kind: logged when they begin and end, repeated with growing pauses.
pub(super) struct Streak {
    doing: &'static str,
    backoff: Backoff,
    failing: Option<String>,
}

impl Streak {
    pub(super) fn new(doing: &'static str) -> Self {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        Self { doing, backoff, failing: None }
    }

    pub(super) fn works(&mut self, queue: &Queue) {
        if self.failing.take().is_some() {
            info!(%queue, "{} works again", self.doing);
            self.backoff.reset();
        }
    }

    /// How long to wait before the next try.
    pub(super) fn fails(&mut self, queue: &Queue, error: &dyn Display) -> Duration {
        if self.failing.is_none() {
            warn!(%queue, %error, "{} fails; trying again until it works", self.doing);
            self.failing = Some(format!("{} {queue} fails: {error}", self.doing));
        }
        self.backoff.next_delay()
    }

    /// What fails, as it began.
    pub(super) fn failing(&self) -> Option<String> {
        self.failing.clone()
    }
}

/// What one queue's loop has in hand.
pub(super) struct Work {
    begun: Instant,
    /// Until when the lock may be relied on, by whatever sends: its last grant, once it is known that nobody else had the queue before.
    pub(super) lease: watch::Sender<Option<Instant>>,
    pub(super) window: Window,
    pub(super) page: Page,
    /// Up to where the record says that everything is relayed.
    pub(super) recorded: i64,
    pub(super) recorded_at: Instant,
    /// The minutes it says are not audited.
    pub(super) recorded_unaudited: Option<(i64, i64)>,
    /// What has left the nsqds is written down no earlier.
    pub(super) drained_after: Instant,
    pub(super) committed: i64,
    pub(super) committed_at: Instant,
    /// Read, and not yet on its way to nsqd.
    pub(super) waiting: VecDeque<StoredMessage>,
    pub(super) waiting_bytes: usize,
    pub(super) in_flight: JoinSet<Confirmed>,
    pub(super) undrained: Undrained,
    pub(super) audited: Audited,
    pub(super) reading: Streak,
    pub(super) committing: Streak,
    /// A piece of what an nsqd may have lost, on its way once more.
    pub(super) replaying: JoinSet<Result<Replayed, ClusterError>>,
    /// The process whose share is being relayed again.
    pub(super) lost: Option<Process>,
    /// The first offset that must not be sent, while there is a fence.
    pub(super) limit: Option<i64>,
    /// The offset of a record that could not be read, and how often it was tried.
    pub(super) unreadable: Option<(i64, usize)>,
}

impl Work {
    pub(super) fn new(begun: Begun, audited: Audited, lease: Option<Instant>) -> Self {
        let Begun { offset, stored_ms, page, undrained, unaudited } = begun;
        Self {
            begun: Instant::now(),
            lease: watch::Sender::new(lease),
            audited,
            window: Window::new(offset).behind(stored_ms),
            page,
            recorded: offset,
            recorded_at: Instant::now(),
            recorded_unaudited: unaudited,
            drained_after: Instant::now() + DRAINED_EVERY,
            committed: offset,
            committed_at: Instant::now(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            in_flight: JoinSet::new(),
            undrained,
            reading: Streak::new("reading"),
            committing: Streak::new("committing"),
            replaying: JoinSet::new(),
            lost: None,
            limit: None,
            unreadable: None,
        }
    }

    /// Long ago, when the lock is lost.
    pub(super) fn leased_until(&self) -> Instant {
        self.lease.borrow().unwrap_or(self.begun)
    }

    /// Whether the lock can have been nobody else's since it could last be relied on.
    pub(super) fn is_locked(&self) -> bool {
        self.lease.borrow().is_some_and(|until| Instant::now() < until + LOCKED_BEYOND)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.waiting_bytes + self.window.in_flight_bytes()
    }

    /// When there is something to commit, or to write down.
    pub(super) fn commit_due(&self) -> Instant {
        let offset = self.window.committable();
        if offset > self.committed { self.recorded_at } else { self.record_due(offset) }
    }

    /// When the record is to be written: with each commit before it, and else rarely, for it lies among the messages.
    pub(super) fn record_due(&self, offset: i64) -> Instant {
        if offset > self.recorded || self.recorded_unaudited != self.audited.unaudited() {
            self.recorded_at
        } else if self.undrained.outdated() {
            self.drained_after
        } else {
            self.recorded_at + journal::AGAIN_AFTER
        }
    }

    /// Whether this relay has left the committed offset there: a commit without an answer may have been taken.
    pub(super) fn left(&self, committed: i64) -> bool {
        (self.committed..=self.recorded).contains(&committed)
    }

    pub(super) fn read_to(&self) -> i64 {
        self.window.next_offset() + self.waiting.len() as i64
    }

    /// How many messages a fence lets on their way.
    pub(super) fn may_send(&self) -> usize {
        let next = self.window.next_offset();
        self.limit.map_or(usize::MAX, |limit| usize::try_from(limit - next).unwrap_or(0))
    }

    /// Sends waiting messages on their way while there is room for another batch.
    pub(super) fn send(&mut self, relay: &QueueRelay) {
        let at_a_time = if relay.delivery.ordered { 1 } else { BATCHES_IN_FLIGHT };
        while self.in_flight.len() < at_a_time {
            let Delivery { limits, feed, audited, .. } = &*relay.delivery;
            let cut = Cut { feed, limits: *limits, audited: *audited, most: self.may_send() };
            let Some(mut batch) = Batch::cut(&mut self.waiting, cut) else { return };
            self.waiting_bytes -= batch.held_bytes();
            let claim = self.window.claim(batch.messages(), batch.held_bytes(), batch.stored_ms());
            self.audited.sent(claim.start(), &mut batch);
            self.window.ends_with(&claim, batch.last_stored_ms());
            let delivery = Arc::clone(&relay.delivery);
            let queue = relay.queue.clone();
            let lease = self.lease.subscribe();
            self.in_flight.spawn(async move { delivery.until_confirmed(&queue, lease, claim, batch).await });
        }
    }
}
