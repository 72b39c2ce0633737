//! What gateways and relays have written down of a topic.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use super::{
    VerifyError,
    coverage::Coverage,
    read::{Met, each, patiently},
    reconcile::Minute,
    record::{Delta, Hop, Process, Record, spanning},
};
use crate::rocketmq::{
    Cluster, ClusterError, Queue, QueueReader,
    producer::unix_millis,
    reader::{Bounds, Pull},
};

/// Of the oldest records so many show since when there is an audit.
const OLDEST: u32 = 32;
const OLDEST_PULLS: i64 = 16;
/// Where reading begins, brokers' clocks decide what is read, and where it ends, which queue is read first; so much later, and so much
/// earlier, every record must be there.
const FIRM_WITHIN_MS: i64 = 60_000;

/// The audit topic's queues, and since when gateways and relays write there.
#[derive(Debug)]
pub(super) struct AuditTopic {
    reader: QueueReader,
    cluster: Cluster,
    queues: Vec<Queue>,
    /// The store time of the oldest record of a relay, in milliseconds since 1970.
    pub(super) relays_since: Option<i64>,
    /// Of what was written before this time, in milliseconds since 1970, some has expired; `None` while all is there.
    pub(super) expired_until: Option<i64>,
}

/// What is known from the records of a stretch of time.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// By broker and queue.
    pub(super) coverage: BTreeMap<(String, i32), Coverage>,
    /// The highest id gateways have told of, by who minted it.
    pub(super) highest: BTreeMap<u64, u128>,
    /// Brokers that have stored messages.
    pub(super) brokers: BTreeSet<String>,
    /// Messages of these minutes, first and last, were counted and forgotten.
    pub(super) incomplete: Option<(i64, i64)>,
    /// Records that cannot be read.
    pub(super) unreadable: u64,
    /// Records that others before and after them tell of.
    pub(super) missing: u64,
    /// Given to each nsqd process, in the minutes asked for.
    pub(super) given: BTreeMap<Process, i64>,
    /// The store time of the first that covers something.
    first_covered: Option<i64>,
}

impl AuditTopic {
    /// Finds it.
    ///
    /// # Errors
    /// When there is none, or RocketMQ cannot be asked.
    pub(super) async fn find(cluster: &Cluster, name: &str) -> Result<Self, VerifyError> {
        let route = match patiently(async || cluster.fresh_route(name).await).await {
            Ok(route) => route,
            Err(ClusterError::UnknownTopic(name)) => return Err(VerifyError::NoAudit(name)),
            Err(error) => return Err(error.into()),
        };
        let mut topic = Self {
            reader: QueueReader::new(cluster.clone(), super::verify::GROUP),
            cluster: cluster.clone(),
            queues: route.read_queues.clone(),
            relays_since: None,
            expired_until: None,
        };
        for queue in topic.queues.clone() {
            let bounds = topic.bounds(&queue).await?;
            let oldest = topic.look_at_oldest(&queue, bounds).await?;
            if bounds.min > 0 {
                // Where nothing is left, up to now.
                topic.expired_until = topic.expired_until.max(Some(oldest.unwrap_or_else(unix_millis)));
            }
        }
        Ok(topic)
    }

    async fn bounds(&self, queue: &Queue) -> Result<Bounds, ClusterError> {
        patiently(async || self.cluster.queue_bounds(queue).await).await
    }

    /// When the oldest record of a queue was stored; looks for the oldest of a relay on the way.
    async fn look_at_oldest(&mut self, queue: &Queue, bounds: Bounds) -> Result<Option<i64>, VerifyError> {
        let (mut offset, mut oldest) = (bounds.min, None);
        for _ in 0..OLDEST_PULLS {
            if offset >= bounds.max {
                break;
            }
            let pull = async || self.reader.pull(queue, offset, OLDEST, Duration::ZERO).await;
            let Pull::Messages { messages, .. } = patiently(pull).await? else { break };
            let Some(first) = messages.first() else { break };
            oldest.get_or_insert(first.store_timestamp);
            offset += messages.len() as i64;
            let of_a_relay = messages.iter().find(|message| {
                Record::decode(&message.body).is_ok_and(|record| !record.delta.covered.is_empty())
            });
            if let Some(message) = of_a_relay {
                self.saw_relay(message.store_timestamp);
                break;
            }
        }
        Ok(oldest)
    }

    fn saw_relay(&mut self, ms: i64) {
        self.relays_since = Some(self.relays_since.map_or(ms, |since| since.min(ms)));
    }

    /// Adds up what was written from `from_ms` on, of the minutes there are.
    ///
    /// # Errors
    /// When RocketMQ cannot be asked.
    pub(super) async fn read(
        &mut self,
        from_ms: i64,
        minutes: &mut BTreeMap<i64, Minute>,
    ) -> Result<Written, VerifyError> {
        let mut written = Written::default();
        let mut seen: HashMap<u64, Sequences> = HashMap::new();
        // A queue whose end was asked for later may hold what was written after a record that was not there yet.
        let firm = from_ms + FIRM_WITHIN_MS..unix_millis() - FIRM_WITHIN_MS;
        for queue in &self.queues {
            let from = patiently(async || self.cluster.offset_at(queue, from_ms).await).await?;
            let to = self.bounds(queue).await?.max;
            each(&self.reader, queue, from, to, |piece| {
                for met in piece {
                    let record = match &met {
                        Met::Message(message) => Record::decode(&message.body).ok(),
                        Met::Unreadable(_) => None,
                    };
                    let (Met::Message(message), Some(record)) = (met, record) else {
                        written.unreadable += 1;
                        continue;
                    };
                    let firm = firm.contains(&message.store_timestamp);
                    if seen.entry(record.instance).or_default().insert(record.sequence, firm) {
                        written.take(record.delta, message.store_timestamp, minutes);
                    }
                }
                Ok(())
            })
            .await?;
        }
        written.missing = seen.values().map(Sequences::missing).sum();
        if let Some(ms) = written.first_covered {
            self.saw_relay(ms);
        }
        Ok(written)
    }

    /// What each nsqd process was given since `from_ms`, in every minute.
    ///
    /// # Errors
    /// When RocketMQ cannot be asked.
    pub(super) async fn given_since(&mut self, from_ms: i64) -> Result<BTreeMap<Process, i64>, VerifyError> {
        Ok(self.read(from_ms, &mut BTreeMap::new()).await?.given)
    }
}

/// The records of one process.
#[derive(Debug, Default)]
struct Sequences {
    seen: BTreeSet<u64>,
    /// Between these, the first and the last, none may be missing.
    firm: Option<(u64, u64)>,
}

impl Sequences {
    /// `false` when it was seen before.
    fn insert(&mut self, sequence: u64, firm: bool) -> bool {
        if firm {
            self.firm = spanning(self.firm.into_iter().chain([(sequence, sequence)]));
        }
        self.seen.insert(sequence)
    }

    fn missing(&self) -> u64 {
        let Some((first, last)) = self.firm else { return 0 };
        (last - first + 1).saturating_sub(self.seen.range(first..=last).count() as u64)
    }
}

impl Written {
    fn take(&mut self, delta: Delta, stored_ms: i64, minutes: &mut BTreeMap<i64, Minute>) {
        for ((minute, hop), tally) in &delta.tallies {
            if let Hop::Relayed(process) | Hop::Replayed(process) = hop {
                *self.given.entry(process.clone()).or_default() += tally.sketch.count();
            }
            if let Some(minute) = minutes.get_mut(minute) {
                minute.count(hop, tally);
            }
        }
        if !delta.covered.is_empty() {
            self.first_covered = Some(self.first_covered.map_or(stored_ms, |first| first.min(stored_ms)));
        }
        for covered in delta.covered {
            self.brokers.insert(covered.broker.clone());
            let queue = self.coverage.entry((covered.broker, covered.queue)).or_default();
            queue.add(covered.from, covered.to);
        }
        for (minter, id) in delta.highest {
            let known = self.highest.entry(minter).or_default();
            *known = id.max(*known);
        }
        self.brokers.extend(delta.brokers);
        self.incomplete = spanning(self.incomplete.into_iter().chain(delta.incomplete));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_missing_among_others_is_noticed() {
        let sequences = |seen: &[(u64, bool)]| {
            let mut sequences = Sequences::default();
            for (sequence, firm) in seen {
                sequences.insert(*sequence, *firm);
            }
            sequences.missing()
        };
        assert_eq!(sequences(&[]), 0);
        assert_eq!(sequences(&[(7, true), (9, true), (8, true), (8, true)]), 0);
        assert_eq!(sequences(&[(7, true), (11, true)]), 3);
        // Where reading began nothing is sure: 5 may lie before it on another broker.
        assert_eq!(sequences(&[(4, false), (6, false), (7, true), (8, true)]), 0);
        // Nor where it ended: 9 was written to a queue that had been read before.
        assert_eq!(sequences(&[(7, true), (8, true), (10, false)]), 0);
        assert_eq!(sequences(&[(10, false), (9, true), (7, true)]), 1);
    }
}
