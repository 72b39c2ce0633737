//! One driver at a time for each topic.
//!
//! The brokers' queue locks, taken in the name of a group of their own on every queue of the topic. A lock ends 60 s after its last
//! renewal, so a driver that died holds the next one up for that long.
//!
//! One that was frozen for longer could have it again, but must not go on: another one may have had it meanwhile, and done all there was to
//! do. So a lock that may have lapsed is lost for good, whatever a broker answers, and every write looks at it first ([`Lock::keep`]).
//! Between that look and the write itself no driver can be told from one that is late: neither RocketMQ nor nsqd takes a write for a
//! lock's sake.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    progress::Progress,
    refusal::{Reason, Trouble},
    subject::Subject,
};
use crate::rocketmq::{Cluster, Queue, group::Member};

/// A little longer than the lock of a dead driver lasts.
const WAIT_AT_MOST: Duration = Duration::from_secs(65);
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// For so long after it was asked for a lock is nobody else's: somewhat less than it lasts, for a write that is on its way.
const LEASE: Duration = Duration::from_secs(50);
/// A lock that was had for less is not asked for again between two writes.
const FRESH: Duration = Duration::from_secs(5);

/// The lock, until it is released or its lease ends.
#[derive(Debug)]
pub(super) struct Lock {
    cluster: Cluster,
    member: Member,
    queues: Vec<Queue>,
    lease: Lease,
}

/// When a lock that was had was asked for, by two clocks: one of them stands still while the machine sleeps, the other may be set.
#[derive(Debug)]
struct Lease(Mutex<Asked>);

#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    wall: SystemTime,
}

impl Asked {
    fn now() -> Self {
        Self { at: Instant::now(), wall: SystemTime::now() }
    }

    fn age(self) -> Duration {
        self.at.elapsed().max(self.wall.elapsed().unwrap_or_default())
    }
}

impl Lease {
    fn new() -> Self {
        Self(Mutex::new(Asked::now()))
    }

    fn known(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn age(&self) -> Duration {
        self.known().age()
    }

    fn begin(&self, asked: Asked) {
        let mut known = self.known();
        if asked.at > known.at {
            *known = asked;
        }
    }

    fn has_held(&self) -> Result<(), Trouble> {
        let age = self.age();
        if age < LEASE {
            return Ok(());
        }
        let detail =
            format!("this one was frozen or cut off for {} s, longer than its lock lasts", age.as_secs());
        Err(Trouble::new(Reason::AnotherDriver, detail))
    }
}

impl Lock {
    /// Takes the lock, as soon as nobody else has it.
    ///
    /// # Errors
    /// When somebody has it for longer than a dead driver could, or RocketMQ cannot be asked.
    pub(super) async fn take(
        subject: &Subject,
        progress: &Progress,
        stop: &CancellationToken,
    ) -> Result<Self, Trouble> {
        let (cluster, topic) = (subject.cluster.clone(), subject.rocketmq_topic());
        let queues = cluster.fresh_route(&topic).await?.read_queues.clone();
        let member =
            Member::unannounced(cluster.clone(), &subject.names.driver_group(&subject.topic), &topic);
        let lock = Self { cluster, member, queues, lease: Lease::new() };
        let give_up_at = Instant::now() + WAIT_AT_MOST;
        loop {
            let asked = Asked::now();
            let Err(trouble) = lock.ask().await else {
                lock.lease.begin(asked);
                return Ok(lock);
            };
            if trouble.reason != Reason::AnotherDriver || Instant::now() > give_up_at {
                return Err(trouble);
            }
            progress.waiting(&trouble);
            if stop.run_until_cancelled(tokio::time::sleep(AGAIN_AFTER)).await.is_none() {
                return Err(Trouble::new(Reason::Interrupted, "while waiting for another driver"));
            }
        }
    }

    /// Renews it. Whoever acts next on what was seen before does so only with this.
    ///
    /// # Errors
    /// When another driver has it by now or may have had it, or a broker does not answer.
    pub(super) async fn renew(&self) -> Result<(), Trouble> {
        self.lease.has_held()?;
        let asked = Asked::now();
        self.ask().await?;
        // What was granted after it had lapsed says nothing of who had it in between.
        self.lease.has_held()?;
        self.lease.begin(asked);
        Ok(())
    }

    /// Sees that it is held before a write, and renews it where that is some time ago. A broker that does not answer takes nothing away.
    ///
    /// # Errors
    /// [`Reason::AnotherDriver`] when another driver has it by now, or may have had it: then nothing must be written any more, not even
    /// to undo anything.
    pub(super) async fn keep(&self) -> Result<(), Trouble> {
        if self.lease.age() < FRESH {
            return Ok(());
        }
        match self.renew().await {
            Err(trouble) if trouble.reason != Reason::AnotherDriver => self.lease.has_held(),
            renewed => renewed,
        }
    }

    /// Opens or closes a group on every master, with a look at the lock before each.
    ///
    /// # Errors
    /// As [`Self::keep`], and when a master does not do it.
    pub(super) async fn set_consuming(&self, group: &str, may: bool) -> Result<(), Trouble> {
        self.cluster.set_consuming_while(group, may, async || self.keep().await).await
    }

    /// Takes a group off every master, with a look at the lock before each.
    ///
    /// # Errors
    /// As [`Self::keep`], and when a master does not do it.
    pub(super) async fn delete_group(&self, group: &str) -> Result<(), Trouble> {
        self.cluster.delete_group_while(group, async || self.keep().await).await
    }

    async fn ask(&self) -> Result<(), Trouble> {
        let locked = self.member.lock(&self.queues).await;
        if locked.granted.len() == self.queues.len() {
            return Ok(());
        }
        if let Some(queue) = locked.refused.iter().min() {
            // Two that each have some would wait for each other.
            self.member.unlock(&Vec::from_iter(locked.granted.iter().cloned())).await;
            let detail = format!("somebody else moves a channel of this topic ({queue} is locked)");
            return Err(Trouble::new(Reason::AnotherDriver, detail));
        }
        let missing = self.queues.iter().find(|queue| !locked.granted.contains(queue));
        let missing = missing.map(ToString::to_string).unwrap_or_default();
        Err(Trouble::new(Reason::RocketmqUnavailable, format!("no answer about the lock of {missing}")))
    }

    /// Gives it back.
    pub(super) async fn release(self) {
        self.member.unlock(&self.queues).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_may_have_ended_is_lost() {
        let lease = Lease::new();
        tokio::time::advance(LEASE - Duration::from_millis(1)).await;
        lease.has_held().unwrap();
        let asked = Asked::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        let lost = lease.has_held().unwrap_err();
        assert_eq!(lost.reason, Reason::AnotherDriver);
        assert!(lost.is_over(), "nobody undoes anything after that");
        lease.begin(asked);
        lease.has_held().unwrap();
    }

    #[test]
    fn a_machine_that_slept_has_lost_its_lease_too() {
        let slept = Asked { at: Instant::now(), wall: SystemTime::now() - LEASE };
        assert!(Lease(Mutex::new(slept)).has_held().is_err());
        let set_back = Asked { at: Instant::now(), wall: SystemTime::now() + LEASE };
        Lease(Mutex::new(set_back)).has_held().unwrap();
    }
}
