//! Committed offsets, asked for and set with an answer each time.
//!
//! A committed offset is the next one to read. Brokers can answer a commit with success and ignore it (5.x after an
//! offset reset), so a commit is read back before it counts.

use super::{
    cluster::{Cluster, ClusterError, malformed, refused},
    codes::{request, response},
    command::Command,
    reader::Bounds,
    route::Queue,
};

/// What a commit came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// The broker holds the offset.
    Taken,
    /// The broker answered success and holds this offset instead.
    Ignored {
        /// What it holds; `None` for nothing.
        holds: Option<i64>,
    },
}

impl Cluster {
    /// The offset `group` has committed for a queue; `None` if it never has.
    ///
    /// 4.x cannot tell "never" from 0 while a queue still holds its first message, and answers 0: the two mean the same
    /// there, for a reader that starts a new queue at its beginning.
    ///
    /// # Errors
    /// When the broker cannot be asked or refuses.
    pub async fn committed_offset(&self, group: &str, queue: &Queue) -> Result<Option<i64>, ClusterError> {
        let asked = format!("the offset of {group} in {queue}");
        let address = self.master_of(queue).await?;
        let command = Command::request(request::QUERY_CONSUMER_OFFSET)
            .field("consumerGroup", group)
            .field("topic", &queue.topic)
            .field("queueId", queue.id)
            .field("setZeroIfNotFound", false);
        let answer = self.request(&address, command, self.config().request_timeout).await?;
        match answer.code {
            response::SUCCESS => {
                Ok(Some(answer.number("offset").map_err(|error| malformed(&address, &asked, error))?))
            }
            response::QUERY_NOT_FOUND => Ok(None),
            _ => Err(refused(&address, &asked, &answer)),
        }
    }

    /// As [`Self::try_commit`], where a broker that holds another offset than it was told has failed.
    ///
    /// # Errors
    /// [`ClusterError::NotCommitted`], and as [`Self::try_commit`]. Repeating is safe.
    pub async fn commit_offset(&self, group: &str, queue: &Queue, offset: i64) -> Result<(), ClusterError> {
        match self.try_commit(group, queue, offset).await? {
            Commit::Taken => Ok(()),
            Commit::Ignored { holds } => {
                let (group, queue) = (group.to_owned(), queue.clone());
                Err(ClusterError::NotCommitted { group, queue, offset, holds })
            }
        }
    }

    /// Commits `offset` for `group`, reads it back, and leaves it to the caller what a broker that holds another one means.
    ///
    /// A group's first commits in a topic are better not made at once: a broker (`ConsumerOffsetManager.commitOffset`) makes the
    /// table that holds them without a lock, and one made at the same moment takes its place.
    ///
    /// # Errors
    /// When the broker cannot be asked or refuses; the offset may have been taken all the same. Repeating is safe.
    pub async fn try_commit(&self, group: &str, queue: &Queue, offset: i64) -> Result<Commit, ClusterError> {
        let address = self.master_of(queue).await?;
        let command = Command::request(request::UPDATE_CONSUMER_OFFSET)
            .field("consumerGroup", group)
            .field("topic", &queue.topic)
            .field("queueId", queue.id)
            .field("commitOffset", offset);
        self.ask(&address, &format!("a commit of {group} in {queue} at {offset}"), command).await?;
        let holds = self.committed_offset(group, queue).await?;
        Ok(if holds == Some(offset) { Commit::Taken } else { Commit::Ignored { holds } })
    }

    /// The queue's bounds now.
    ///
    /// # Errors
    /// When the broker cannot be asked or refuses.
    pub async fn queue_bounds(&self, queue: &Queue) -> Result<Bounds, ClusterError> {
        let min = self.bound(queue, request::GET_MIN_OFFSET).await?;
        let max = self.bound(queue, request::GET_MAX_OFFSET).await?;
        Ok(Bounds { min, max })
    }

    /// About the first offset that was stored at `ms` (milliseconds since 1970) or later, by the broker's clock; within the queue's bounds.
    ///
    /// 4.x gives the message nearest to that time, so one that was stored a little earlier may be met.
    ///
    /// # Errors
    /// When the broker cannot be asked or refuses.
    pub async fn offset_at(&self, queue: &Queue, ms: i64) -> Result<i64, ClusterError> {
        let asked = format!("the offset of {queue} at a time");
        let address = self.master_of(queue).await?;
        let command = Command::request(request::SEARCH_OFFSET_BY_TIMESTAMP)
            .field("topic", &queue.topic)
            .field("queueId", queue.id)
            .field("timestamp", ms);
        let answer = self.ask(&address, &asked, command).await?;
        let offset: i64 = answer.number("offset").map_err(|error| malformed(&address, &asked, error))?;
        let bounds = self.queue_bounds(queue).await?;
        Ok(offset.clamp(bounds.min, bounds.max.max(bounds.min)))
    }

    async fn bound(&self, queue: &Queue, code: i32) -> Result<i64, ClusterError> {
        let asked = format!("a bound of {queue}");
        let address = self.master_of(queue).await?;
        let command = Command::request(code).field("topic", &queue.topic).field("queueId", queue.id);
        let answer = self.ask(&address, &asked, command).await?;
        answer.number("offset").map_err(|error| malformed(&address, &asked, error))
    }
}
