//! One driver at a time for each topic.
//!
//! The brokers' queue locks, taken in the name of a group of their own on every queue of the topic. A lock ends 60 s after its last
//! renewal, so a driver that died holds the next one up for that long, and one that was frozen for longer finds it lost.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    progress::Progress,
    refusal::{Reason, Trouble},
    subject::Subject,
};
use crate::rocketmq::{Queue, group::Member};

/// A little longer than the lock of a dead driver lasts.
const WAIT_AT_MOST: Duration = Duration::from_secs(65);
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The lock, until it is released or its lease ends.
#[derive(Debug)]
pub(super) struct Lock {
    member: Member,
    queues: Vec<Queue>,
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
        let member = Member::unannounced(cluster, &subject.names.driver_group(&subject.topic), &topic);
        let lock = Self { member, queues };
        let give_up_at = Instant::now() + WAIT_AT_MOST;
        loop {
            let Err(trouble) = lock.renew().await else { return Ok(lock) };
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
    /// When another driver has it by now, or a broker does not answer.
    pub(super) async fn renew(&self) -> Result<(), Trouble> {
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
