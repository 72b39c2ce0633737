//! What a topic holds of the minutes that are looked at, held against what the relays have covered.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    VerifyError,
    coverage::Coverage,
    entry::{Entry, key_of, minter_of, start_of, was_deferred},
    read::{Met, each, patiently},
    reconcile::Minute,
    written::Written,
};
use crate::rocketmq::{Cluster, ClusterError, Queue, QueueReader, record::StoredMessage};

/// A message may be stored this much before or after it was accepted, by clocks that differ and tries that last.
pub(super) const SLACK_MS: i64 = 10 * 60_000;
/// Queues read at a time.
const AT_A_TIME: usize = 8;
/// When something is missing, so many messages more of each queue are read at a time.
const MORE: i64 = 20_000;

/// Offsets that the relay has passed without relaying them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// The queue.
    pub queue: Queue,
    /// The first offset.
    pub from: i64,
    /// One past the last.
    pub to: i64,
}

/// When the oldest message each broker still has was stored, of all topics; without those that did not say.
pub(super) type Oldest = BTreeMap<String, i64>;

/// Whether a queue may no longer hold all that was stored since then. That its own oldest message is younger says nothing: perhaps it
/// had none for long. What its broker has of that time, of any topic, says it: a broker deletes what is oldest, for whatever reason.
fn may_lack(oldest: &Oldest, broker: &str, since_ms: i64) -> bool {
    oldest.get(broker).is_none_or(|oldest| since_ms - SLACK_MS <= *oldest)
}

/// How far one queue was read.
#[derive(Debug)]
struct Cursor {
    queue: Queue,
    /// Where the relay's group stands.
    committed: i64,
    next: i64,
    /// What may hold messages of the minutes looked at; behind it only late ones.
    likely: i64,
    end: i64,
}

/// A topic's queues.
#[derive(Debug)]
pub(super) struct Stored {
    reader: QueueReader,
    cursors: Vec<Cursor>,
    /// When the first relay wrote a record, in milliseconds since 1970.
    relays_since: Option<i64>,
    pub(super) passed: Vec<Passed>,
    /// Records that cannot be read and no relay has covered.
    pub(super) unreadable: u64,
    /// What was stored before this time, in milliseconds since 1970, is not there any more.
    pub(super) expired_until: Option<i64>,
}

impl Stored {
    /// Finds the queues' stretches for these minutes. `committed` was asked before the records were read, and this is called
    /// after: so what lies below the committed offset has its record among those, and what they tell of is here.
    ///
    /// # Errors
    /// When RocketMQ cannot be asked.
    pub(super) async fn find(
        cluster: &Cluster,
        committed: &BTreeMap<Queue, i64>,
        minutes: &BTreeMap<i64, Minute>,
        oldest: &Oldest,
        relays_since: Option<i64>,
    ) -> Result<Self, VerifyError> {
        let reader = QueueReader::new(cluster.clone(), super::verify::GROUP);
        let mut stored = Self {
            reader,
            cursors: Vec::new(),
            relays_since,
            passed: Vec::new(),
            unreadable: 0,
            expired_until: None,
        };
        let first = minutes.keys().next().copied().unwrap_or(0);
        let last = minutes.keys().next_back().copied().unwrap_or(0);
        let (from_ms, to_ms) = (start_of(first) - SLACK_MS, start_of(last + 1) + SLACK_MS);
        for (queue, committed) in committed {
            let next = patiently(async || cluster.offset_at(queue, from_ms).await).await?;
            let likely = patiently(async || cluster.offset_at(queue, to_ms).await).await?;
            let bounds = patiently(async || cluster.queue_bounds(queue).await).await?;
            let may_lack = may_lack(oldest, &queue.broker, start_of(first));
            if may_lack && bounds.min > 0 && next == bounds.min {
                let oldest = stored.oldest(queue, bounds.min, bounds.max).await?;
                if oldest > start_of(first) {
                    stored.expired_until = Some(stored.expired_until.unwrap_or(oldest).max(oldest));
                }
            }
            stored.cursors.push(Cursor {
                queue: queue.clone(),
                committed: *committed,
                next,
                likely: (likely + 1).min(bounds.max),
                end: bounds.max,
            });
        }
        Ok(stored)
    }

    /// When the oldest message of a queue was stored; in an empty queue everything has expired.
    async fn oldest(&self, queue: &Queue, min: i64, max: i64) -> Result<i64, VerifyError> {
        let mut oldest = i64::MAX;
        each(&self.reader, queue, min, (min + 1).min(max), |piece| {
            for met in piece {
                if let Met::Message(message) = met {
                    oldest = message.store_timestamp;
                }
            }
            Ok(())
        })
        .await?;
        Ok(oldest)
    }

    /// Counts what was likely stored in time, and then late messages, as long as some are missing.
    ///
    /// # Errors
    /// When RocketMQ cannot be asked.
    pub(super) async fn count(
        &mut self,
        written: &Written,
        minutes: &mut BTreeMap<i64, Minute>,
        now_ms: i64,
    ) -> Result<(), VerifyError> {
        let mut ends: Vec<i64> = self.cursors.iter().map(|cursor| cursor.likely).collect();
        loop {
            self.read_to(&ends, written, minutes).await?;
            let done = self.cursors.iter().all(|cursor| cursor.next >= cursor.end);
            if done || !minutes.values().any(|minute| minute.looks_for_more(now_ms)) {
                return Ok(());
            }
            ends = self.cursors.iter().map(|cursor| (cursor.next + MORE).min(cursor.end)).collect();
        }
    }

    async fn read_to(
        &mut self,
        ends: &[i64],
        written: &Written,
        minutes: &mut BTreeMap<i64, Minute>,
    ) -> Result<(), VerifyError> {
        let tally = Mutex::new((minutes, &mut self.passed, &mut self.unreadable));
        let nothing = Coverage::default();
        let reads = self.cursors.iter_mut().zip(ends).map(|(cursor, end)| {
            let key = (cursor.queue.broker.clone(), cursor.queue.id);
            let mut depths = written.coverage.get(&key).unwrap_or(&nothing).depths();
            let (reader, tally, relays_since) = (&self.reader, &tally, self.relays_since);
            async move {
                let from = cursor.next;
                each(reader, &cursor.queue, from, *end, |piece| {
                    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    let (minutes, passed, unreadable) = &mut *tally;
                    for met in piece {
                        match met {
                            Met::Message(message) => {
                                let depth = depths.at(message.queue_offset);
                                if cursor.meets(&message, depth, relays_since, written, minutes) {
                                    note(passed, &cursor.queue, message.queue_offset);
                                }
                            }
                            Met::Unreadable(offset) => {
                                let missed = offset < cursor.committed && depths.at(offset) == 0;
                                **unreadable += u64::from(missed);
                            }
                        }
                    }
                    Ok(())
                })
                .await?;
                cursor.next = from.max(*end);
                Ok::<_, VerifyError>(())
            }
        });
        stream::iter(reads.collect::<Vec<_>>()).buffer_unordered(AT_A_TIME).try_collect::<()>().await
    }
}

impl Cursor {
    /// Counts a message; `true` when the relay has passed it.
    fn meets(
        &self,
        message: &StoredMessage,
        depth: u32,
        relays_since: Option<i64>,
        written: &Written,
        minutes: &mut BTreeMap<i64, Minute>,
    ) -> bool {
        let Some(entry) = Entry::of(message) else { return false };
        let Some(minute) = minutes.get_mut(&entry.minute) else { return false };
        if written.highest.get(&minter_of(entry.id)).is_none_or(|highest| *highest < entry.id) {
            // No gateway has told of it, so it is in nothing this is held against.
            minute.stored_untold.add(|| key_of(message));
        } else if was_deferred(message) {
            minute.stored_deferred.add(entry.id);
        } else {
            minute.stored.add(entry.id);
        }
        match depth {
            0 if message.queue_offset >= self.committed => minute.pending += 1,
            0 if relays_since.is_none_or(|since| message.store_timestamp < since) => {
                minute.passed_before += 1;
            }
            0 => {
                minute.passed.add(|| key_of(message));
                return true;
            }
            depth => {
                minute.covered.add_times(entry.id, i64::from(depth));
                if depth > 1 {
                    minute.covered_twice.add(|| key_of(message));
                }
            }
        }
        false
    }
}

fn note(passed: &mut Vec<Passed>, queue: &Queue, offset: i64) {
    let follows = |run: &&mut Passed| run.queue == *queue && run.to == offset;
    match passed.iter_mut().rev().find(follows) {
        Some(run) => run.to += 1,
        None => passed.push(Passed { queue: queue.clone(), from: offset, to: offset + 1 }),
    }
}

/// How far the relay's group is in each queue of the topic. Asked before anything else: what is written down later covers it.
///
/// # Errors
/// When RocketMQ cannot be asked.
pub(super) async fn committed(
    cluster: &Cluster,
    topic: &str,
    group: &str,
) -> Result<BTreeMap<Queue, i64>, ClusterError> {
    let route = patiently(async || cluster.fresh_route(topic).await).await?;
    let mut committed = BTreeMap::new();
    for queue in &route.read_queues {
        let offset = patiently(async || cluster.committed_offset(group, queue).await).await?;
        committed.insert(queue.clone(), offset.unwrap_or(0));
    }
    Ok(committed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_had_no_message_for_long_lacks_none() {
        const HOUR_MS: i64 = 3_600_000;
        let oldest = Oldest::from([("b".to_owned(), 900 * HOUR_MS)]);
        assert!(!may_lack(&oldest, "b", 999 * HOUR_MS));
        assert!(may_lack(&oldest, "b", 899 * HOUR_MS), "however it came to delete what is older");
        assert!(may_lack(&oldest, "another", 999 * HOUR_MS), "nobody knows what it has");
    }
}
