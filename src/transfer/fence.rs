//! The fence: how far this instance may go on while somebody moves one of the topic's consumers.
//!
//! It is a lease on this process's own clock, and ends by itself: a driver that dies holds nobody up for longer than that. So nobody may
//! trust a fence to be there still; what is trusted is what nsqd counts. While it is in force, a queue is relayed up to its limit and no
//! further, what is in flight is finished and committed, and nothing is relayed again for an nsqd that is gone.
//!
//! Of two who want one, the first has it until it ends; the same owner renews it as often as it likes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant as Clock},
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};

use crate::rocketmq::Queue;

/// The longest lease that is granted.
const LONGEST: Duration = Duration::from_secs(60);

/// What a driver tells every instance of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceOrder {
    /// Who tells it.
    pub owner: String,
    /// It ends so many milliseconds after it was heard, unless it is told again.
    pub lease_ms: u64,
    /// How far queues may go on; the others stay where they stand.
    pub limits: Vec<FenceLimit>,
}

/// The first offset of a queue that is not to be relayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceLimit {
    /// The broker.
    pub broker: String,
    /// The queue's number there.
    pub queue: i32,
    /// The offset.
    pub offset: i64,
}

/// A fence that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceReport {
    /// Whose it is.
    pub owner: String,
    /// It ends by itself in so many milliseconds.
    pub left_ms: u64,
}

/// The fence of one topic in this process.
#[derive(Debug)]
pub(super) struct Fence(watch::Sender<Option<InForce>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct InForce {
    owner: String,
    until: Instant,
    limits: BTreeMap<(String, i32), i64>,
}

impl Default for Fence {
    fn default() -> Self {
        Self(watch::channel(None).0)
    }
}

fn in_force(fence: Option<&InForce>) -> Option<&InForce> {
    fence.filter(|fence| Instant::now() < fence.until)
}

impl Fence {
    /// Puts a fence up, or renews it; left as it is while somebody else's is in force. Whether none was in force.
    pub(super) fn raise(&self, order: FenceOrder) -> bool {
        let FenceOrder { owner, lease_ms, limits } = order;
        let until = Instant::now() + Duration::from_millis(lease_ms).min(LONGEST);
        let limits = limits.into_iter().map(|limit| ((limit.broker, limit.queue), limit.offset)).collect();
        let mut is_new = false;
        self.0.send_if_modified(|fence| match in_force(fence.as_ref()) {
            Some(other) if other.owner != owner => false,
            known => {
                is_new = known.is_none();
                *fence = Some(InForce { owner, until, limits });
                true
            }
        });
        is_new
    }

    /// Takes the owner's fence away; whether there was one.
    pub(super) fn lift(&self, owner: &str) -> bool {
        self.0.send_if_modified(|fence| {
            let theirs = fence.as_ref().is_some_and(|fence| fence.owner == owner);
            if theirs {
                *fence = None;
            }
            theirs
        })
    }

    pub(super) fn report(&self) -> Option<FenceReport> {
        let fence = self.0.borrow();
        let fence = in_force(fence.as_ref())?;
        let left = fence.until.into_std().saturating_duration_since(Clock::now());
        Some(FenceReport {
            owner: fence.owner.clone(),
            left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// The fence as one queue's loop sees it.
    pub(super) fn of_queue(&self, queue: &Queue) -> QueueFence {
        QueueFence { fence: self.0.subscribe(), queue: (queue.broker.clone(), queue.id), stood_at: None }
    }
}

/// The fence as one queue's loop sees it.
#[derive(Debug)]
pub(super) struct QueueFence {
    fence: watch::Receiver<Option<InForce>>,
    queue: (String, i32),
    /// The offset that was next when the fence was first seen.
    stood_at: Option<i64>,
}

impl QueueFence {
    /// The first offset that must not be sent, where `next` would be the next; `None` while there is no fence.
    pub(super) fn limit(&mut self, next: i64) -> Option<i64> {
        let fence = self.fence.borrow_and_update();
        match in_force(fence.as_ref()) {
            None => {
                self.stood_at = None;
                None
            }
            Some(fence) => {
                let stood_at = *self.stood_at.get_or_insert(next);
                Some(fence.limits.get(&self.queue).copied().unwrap_or(stood_at))
            }
        }
    }

    /// Waits until the fence is put up, changed, lifted, or over.
    ///
    /// # Cancellation
    /// Safe: the next call to [`Self::limit`] sees what is there.
    pub(super) async fn changed(&mut self) {
        let until = in_force(self.fence.borrow().as_ref()).map(|fence| fence.until);
        let ended = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.fence.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
            () = ended => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(owner: &str, lease_ms: u64, limits: &[(i32, i64)]) -> FenceOrder {
        let limit = |&(queue, offset)| FenceLimit { broker: "b".to_owned(), queue, offset };
        FenceOrder { owner: owner.to_owned(), lease_ms, limits: limits.iter().map(limit).collect() }
    }

    fn queue(id: i32) -> Queue {
        Queue { topic: "t".to_owned(), broker: "b".to_owned(), id }
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_stops_where_it_stands_or_at_its_limit_until_the_lease_ends() {
        let fence = Fence::default();
        let [mut stays, mut follows] = [0, 1].map(|id| fence.of_queue(&queue(id)));
        assert_eq!(stays.limit(7), None);
        fence.raise(order("me", 1_000, &[(1, 30)]));
        assert_eq!((stays.limit(7), follows.limit(20)), (Some(7), Some(30)));
        // Asked again further on, it still stands where it stood.
        fence.raise(order("me", 1_000, &[(1, 31)]));
        assert_eq!((stays.limit(8), follows.limit(25)), (Some(7), Some(31)));
        let before = Instant::now();
        stays.changed().await;
        assert_eq!(before.elapsed(), Duration::from_secs(1));
        assert_eq!((stays.limit(8), fence.report()), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fence_is_its_owners_alone_while_it_is_in_force() {
        let fence = Fence::default();
        let owner = || fence.report().map(|report| report.owner);
        fence.raise(order("first", 1_000, &[]));
        fence.raise(order("second", 1_000, &[]));
        fence.lift("second");
        assert_eq!(owner().as_deref(), Some("first"));
        tokio::time::advance(Duration::from_secs(1)).await;
        fence.raise(order("second", 1_000, &[]));
        assert_eq!(owner().as_deref(), Some("second"));
        fence.lift("second");
        assert_eq!(owner(), None);
    }
}
