//! The consumer group: its offsets, and what its consumers have in hand.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join_all;

use super::{
    lock::Lock,
    refusal::{Reason, Trouble},
    subject::{Places, Subject, World},
};
use crate::rocketmq::{ClusterError, Queue, reader::Bounds};

/// Where consumers of a group send what they want to have again.
fn retry_topic(group: &str) -> String {
    format!("%RETRY%{group}")
}

/// Where RocketMQ puts what the group's consumers have failed too often (`retryMaxTimes`), and counts as consumed.
fn dead_letter_topic(group: &str) -> String {
    format!("%DLQ%{group}")
}

impl Subject {
    /// Closes a group, creates it so where it is missing, and sets it to these places. Each is read back.
    ///
    /// # Errors
    /// When a broker does not do it, or holds another offset; repeating is safe.
    pub(super) async fn place(&self, lock: &Lock, group: &str, places: &Places) -> Result<(), Trouble> {
        lock.set_consuming(group, false).await?;
        // One after the other: of a group's first offsets, set at once, a broker may lose all but the last.
        for (queue, offset) in places {
            self.set_offset(lock, group, queue, *offset).await?;
        }
        if self.queues().await? != places.keys().cloned().collect() {
            return Err(Trouble::new(Reason::QueuesChanged, "while the offsets were set"));
        }
        Ok(())
    }

    async fn set_offset(&self, lock: &Lock, group: &str, queue: &Queue, offset: i64) -> Result<(), Trouble> {
        lock.keep().await?;
        Ok(self.cluster.commit_offset(group, queue, offset).await?)
    }

    /// Whether nobody consumes with the group. A consumer that is connected keeps offsets of its own, and may write them over those that
    /// are set here.
    pub(super) async fn has_no_members(&self) -> Result<(), Trouble> {
        let members: BTreeSet<String> = self.cluster.members_of(&self.group).await?.into_keys().collect();
        match members.first() {
            None => Ok(()),
            Some(first) => {
                let detail = format!("{} of {}: {first}", members.len(), self.group);
                Err(Trouble::new(Reason::GroupHasConsumers, detail))
            }
        }
    }

    /// Whether the group's consumers have finished and committed all they were given. One that is connected must say so of its queues;
    /// of one that does not, only its leaving tells.
    pub(super) async fn has_nothing_in_hand(&self) -> Result<(), Trouble> {
        let members = self.cluster.members_of(&self.group).await?;
        let places = self.places_of(&self.group).await?;
        let mut done = BTreeSet::new();
        for (member, broker) in &members {
            let hands = self.cluster.in_hand(broker, &self.group, member).await.unwrap_or_default();
            let finished = hands.into_iter().filter(|(queue, hand)| {
                hand.messages == 0 && places.get(queue).is_some_and(|committed| hand.consumed <= *committed)
            });
            done.extend(finished.map(|(queue, _)| queue));
        }
        match places.keys().find(|queue| !done.contains(*queue)) {
            Some(queue) if !members.is_empty() => {
                let detail = format!(
                    "{} consumers of {}, which do not say that they have finished {queue}",
                    members.len(),
                    self.group
                );
                Err(Trouble::new(Reason::GroupHasConsumers, detail))
            }
            _ => Ok(()),
        }
    }

    /// What waits for another try, queue by queue; nothing when nothing was ever tried again.
    async fn retries(&self) -> Result<Vec<(Queue, i64, i64)>, Trouble> {
        let bounds = self.bounds_of(&retry_topic(&self.group)).await?;
        let queues = bounds.into_iter().map(async |(queue, bounds)| {
            let committed = self.cluster.committed_offset(&self.group, &queue).await?;
            Ok::<_, Trouble>((queue, committed.unwrap_or(bounds.min).max(bounds.min), bounds.max))
        });
        try_join_all(queues).await
    }

    /// A topic that a broker creates when it needs it; empty until then.
    async fn bounds_of(&self, topic: &str) -> Result<BTreeMap<Queue, Bounds>, Trouble> {
        match self.cluster.fresh_route(topic).await {
            Ok(_) => Ok(self.cluster.topic_stats(topic).await?),
            Err(ClusterError::UnknownTopic(_)) => Ok(BTreeMap::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// How many messages the group's consumers have failed too often.
    pub(super) async fn dead_letters(&self) -> Result<i64, Trouble> {
        let bounds = self.bounds_of(&dead_letter_topic(&self.group)).await?;
        Ok(bounds.values().map(|bounds| bounds.max - bounds.min).sum())
    }

    /// The same for people who are about to take them for consumed; nothing when there are none.
    pub(super) async fn dead_letters_in_words(&self) -> Result<Option<String>, Trouble> {
        let dead = self.dead_letters().await?;
        let topic = dead_letter_topic(&self.group);
        let words = format!(
            "but {dead} messages are in {topic}: its consumers failed them too often, and they count as consumed"
        );
        Ok((dead > 0).then_some(words))
    }

    /// Whether none of the group's messages waits for another try. One that RocketMQ still holds back for its delay is not seen.
    pub(super) async fn has_no_retries(&self) -> Result<(), Trouble> {
        let waiting: i64 = self.retries().await?.iter().map(|(_, at, end)| (end - at).max(0)).sum();
        if waiting > 0 {
            let detail = format!("{waiting} messages in {}", retry_topic(&self.group));
            return Err(Trouble::new(Reason::RetriesPending, detail));
        }
        Ok(())
    }

    /// No cutover and no rollback has happened; without a lock where nobody else moves the channel. The barrier goes first: without it the
    /// others mean nothing.
    pub(super) async fn forget_marks(&self, lock: Option<&Lock>) -> Result<(), Trouble> {
        let groups = self.cluster.groups().await?;
        let barrier = [self.barrier_group(), self.returning_group()];
        let share = self.share_group();
        let there = |group: &&String| groups.contains(*group);
        let marks = barrier.iter().filter(there).chain(self.became_of(&groups));
        for group in marks.chain(Some(&share).filter(there)) {
            match lock {
                Some(lock) => lock.delete_group(group).await?,
                None => self.cluster.delete_group(group).await?,
            }
        }
        Ok(())
    }

    /// The barrier that is written next is this group's, and nobody else's.
    pub(super) async fn claim_barrier(&self, lock: &Lock) -> Result<(), Trouble> {
        let ours = self.became_group();
        lock.set_consuming(&ours, false).await?;
        let groups = self.cluster.groups().await?;
        for group in self.became_of(&groups).into_iter().filter(|group| **group != ours) {
            lock.delete_group(group).await?;
        }
        Ok(())
    }

    /// No rollback has begun.
    pub(super) async fn forget_returning(&self, lock: &Lock) -> Result<(), Trouble> {
        self.forget(lock, &self.returning_group()).await
    }

    /// What comes is no share, whatever an earlier cutover was.
    pub(super) async fn forget_share(&self, lock: &Lock) -> Result<(), Trouble> {
        self.forget(lock, &self.share_group()).await
    }

    async fn forget(&self, lock: &Lock, mark: &str) -> Result<(), Trouble> {
        if self.cluster.groups().await?.contains(mark) {
            lock.delete_group(mark).await?;
        }
        Ok(())
    }

    /// Leaves out what an earlier life of the group wanted to try again: the channel had it.
    pub(super) async fn forget_retries(&self, lock: &Lock) -> Result<(), Trouble> {
        for (queue, at, end) in self.retries().await? {
            if at != end {
                self.set_offset(lock, &self.group, &queue, end).await?;
            }
        }
        Ok(())
    }
}

/// What a group was set to before its channel was moved.
#[derive(Debug)]
pub(super) struct Before {
    is_open: bool,
    offsets: Vec<(Queue, i64)>,
}

impl Subject {
    /// What the group is set to now.
    pub(super) async fn group_now(&self, world: &World) -> Result<Before, Trouble> {
        let is_open = world.group.open > 0;
        let offsets = self.queues().await?.into_iter().map(async |queue| {
            let committed = self.cluster.committed_offset(&self.group, &queue).await?;
            Ok::<_, Trouble>(committed.map(|offset| (queue, offset)))
        });
        let offsets = match is_open {
            true => try_join_all(offsets).await?.into_iter().flatten().collect(),
            // Nobody has consumed with it: there is nothing to go back to.
            false => Vec::new(),
        };
        Ok(Before { is_open, offsets })
    }

    /// Sets the group to what it was; one that could not consume stays closed.
    pub(super) async fn restore(&self, lock: &Lock, before: &Before) -> Result<(), Trouble> {
        if !before.is_open {
            return Ok(());
        }
        for (queue, offset) in &before.offsets {
            self.set_offset(lock, &self.group, queue, *offset).await?;
        }
        lock.set_consuming(&self.group, true).await
    }
}

/// Whether every queue of `places` has come as far as there.
pub(super) fn reaches(at: &Places, places: &Places) -> Result<(), Trouble> {
    let behind = |(queue, wanted): (&Queue, &i64)| (wanted - at.get(queue).unwrap_or(&0)).max(0);
    let lag: i64 = places.iter().map(behind).sum();
    if lag > 0 {
        return Err(Trouble::new(Reason::GroupLags, format!("by {lag} messages")));
    }
    Ok(())
}
