//! The record of each queue's relay, in RocketMQ: up to where it is relayed, and what nsqd may still lose.
//!
//! One topic beside each relayed topic, with a queue for each of its queues on the same broker: the newest record there says all there
//! is to know. It is written before an offset is committed. A broker has one log for all it stores, so one that lost its newest
//! messages has lost the records about them, too: a record that can be read never tells of messages that are not those relayed.
//!
//! Only the owner of a queue writes its record, but a former owner that was frozen, or a write that was given up as unanswered,
//! may come late. So each record names the place it was written for, one past the last its writer had read, and counts only there:
//! of two that were written without knowledge of each other, the first counts and the second is void, for every reader alike. An
//! owner begins with a record of its own. Whatever a former one writes from then on is void.

use std::{cmp::Ordering, collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::error;

use super::Snapshot;
use crate::{
    mapping::{Feed, Names},
    nsq::address::HttpAddress,
    rocketmq::{
        Cluster, ClusterError, Message, Outcome, Producer, Queue, QueueReader, outcome::Failure,
        producer::unix_millis, properties::PropertiesBuilder, reader::Pull, record::StoredMessage,
        unique_key::UniqueKeys,
    },
};

/// A record that has not changed is written again after this long: brokers keep it no longer than messages.
pub(in crate::transfer) const AGAIN_AFTER: Duration = Duration::from_secs(3600);
const WITHIN: Duration = Duration::from_secs(3);
/// So many records are read at a time, the newest first.
const READ: i64 = 8;
/// A record that cannot be read is asked for so many times before it counts as none: bytes may be damaged on their way.
const UNREADABLE_TRIES: usize = 3;

/// The journal of one feed.
pub(in crate::transfer) struct Journal {
    cluster: Cluster,
    producer: Producer,
    reader: QueueReader,
    keys: UniqueKeys,
    /// The queues of a topic are begun together.
    ensuring: Mutex<()>,
    topic: String,
    relayed_topic: String,
}

/// What an owner of a queue wrote down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Where it must stand to count.
    place: i64,
    /// Tells one owner from the next.
    writer: u64,
    #[serde(flatten)]
    entry: Entry,
    /// When the broker stored it, in milliseconds since 1970, once it has.
    #[serde(skip)]
    stored_ms: i64,
}

/// What is known of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::transfer) struct Entry {
    /// Every message below is in nsqd, or parked, or was given up by somebody's decision.
    pub(in crate::transfer) relayed: i64,
    /// When the last of them was stored, by which it is known again.
    pub(in crate::transfer) stored_ms: Option<i64>,
    pub(in crate::transfer) undrained: Snapshot,
    /// The nsqds that have had the topic ([`Homes`](super::super::homes::Homes)).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(in crate::transfer) homes: BTreeSet<HttpAddress>,
    /// The first and the last minute of messages below `relayed` whose audit is not written: were it never, this is all that tells
    /// that they are not lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::transfer) unaudited: Option<(i64, i64)>,
}

/// The part of the journal that is one queue's, in the hands of its owner.
pub(in crate::transfer) struct Page {
    journal: Arc<Journal>,
    queue: Queue,
    writer: u64,
    end: End,
    /// When the record that was found there was stored, in milliseconds since 1970.
    found_ms: Option<i64>,
}

/// Where the next record must come to stand.
#[derive(Debug, Clone, Copy)]
enum End {
    /// Here, as far as its owner can know.
    At(i64),
    /// Here or behind: it is not known where the last one stands.
    From(i64),
    /// Nowhere: the page is another's, or the broker lost a part of it.
    Over,
}

/// Why the journal was not read or written.
#[derive(Debug, thiserror::Error)]
pub(in crate::transfer) enum JournalError {
    /// RocketMQ cannot be asked, or refuses.
    #[error("the relay's record in {topic}: {error}")]
    Cluster {
        topic: String,
        #[source]
        error: ClusterError,
    },
    /// It does not take the record.
    #[error(
        "the relay's record is not written to {topic}: {failure}. Until it is, offsets are not committed; an account without the \
         right to that topic needs it"
    )]
    NotWritten { topic: String, failure: Failure },
    /// The record cannot be put into bytes: a defect of this program.
    #[error("the relay's record cannot be encoded: {0}")]
    Encoding(#[from] serde_json::Error),
    /// There are records that the broker does not give now.
    #[error("{queue}: the broker has records up to {end}, and gives none at {offset}")]
    Missing { queue: Queue, offset: i64, end: i64 },
    /// It stands elsewhere than it was meant to, and is void.
    #[error("{queue}: a record meant for {place} stands at {found}, behind one that came late")]
    Displaced { queue: Queue, place: i64, found: i64 },
    /// Another owner has written since.
    #[error("{queue}: another instance has begun to relay the queue")]
    Taken { queue: Queue },
    /// Records that were stored are gone.
    #[error(
        "{queue}: the broker has lost its newest records (up to {known}, now {end}), and the newest messages with them"
    )]
    Shortened { queue: Queue, known: i64, end: i64 },
}

impl JournalError {
    /// Whether what the writer has in mind is no longer what counts, so that it must begin anew.
    pub(in crate::transfer) fn is_final(&self) -> bool {
        matches!(self, Self::Taken { .. } | Self::Shortened { .. })
    }
}

impl Journal {
    pub(in crate::transfer) fn new(cluster: Cluster, names: &Names, feed: &Feed, group: &str) -> Self {
        Self {
            producer: Producer::new(cluster.clone(), "nsqbridge-transfer"),
            reader: QueueReader::new(cluster.clone(), group),
            cluster,
            keys: UniqueKeys::new(),
            ensuring: Mutex::new(()),
            topic: names.journal_topic(feed),
            relayed_topic: names.rocketmq_topic(feed.source()),
        }
    }

    /// The page of a queue, and what the last owner wrote there.
    ///
    /// # Errors
    /// When RocketMQ cannot be asked; repeating is safe.
    pub(in crate::transfer) async fn open(
        self: &Arc<Self>,
        queue: &Queue,
    ) -> Result<(Page, Option<Entry>), JournalError> {
        let queue = Queue { topic: self.topic.clone(), ..queue.clone() };
        self.ensure(&queue).await.map_err(|error| self.failed(error))?;
        let bounds = self.cluster.queue_bounds(&queue).await.map_err(|error| self.failed(error))?;
        let mut newest = None;
        let mut to = bounds.max;
        while newest.is_none() && to > bounds.min {
            let from = bounds.min.max(to.saturating_sub(READ));
            newest = self.records(&queue, from, to).await?.pop();
            to = from;
        }
        let (writer, end) = (fastrand::u64(..), End::At(bounds.max));
        let found_ms = newest.as_ref().map(|record| record.stored_ms);
        let page = Page { journal: Arc::clone(self), queue, writer, end, found_ms };
        Ok((page, newest.map(|record| record.entry)))
    }

    fn failed(&self, error: ClusterError) -> JournalError {
        JournalError::Cluster { topic: self.topic.clone(), error }
    }

    /// The records between two places that count, in order.
    async fn records(&self, queue: &Queue, from: i64, to: i64) -> Result<Vec<Record>, JournalError> {
        let (mut records, mut offset, mut unreadable) = (Vec::new(), from, 0);
        while offset < to {
            let most = READ.min(to - offset) as u32;
            let pulled = self.reader.pull(queue, offset, most, Duration::ZERO).await;
            match pulled.map_err(|error| self.failed(error))? {
                Pull::Messages { messages, problem, .. } => {
                    offset += messages.len() as i64;
                    records.extend(messages.iter().filter_map(|message| counted(queue, message)));
                    if let Some(problem) = problem {
                        unreadable += 1;
                        if unreadable >= UNREADABLE_TRIES {
                            error!(%problem, "a record that cannot be read; passed over");
                            (offset, unreadable) = (offset + 1, 0);
                        }
                    }
                }
                Pull::OffsetMoved { bounds, .. } if offset < bounds.min => offset = bounds.min,
                Pull::Empty { .. } | Pull::OffsetMoved { .. } => {
                    return Err(JournalError::Missing { queue: queue.clone(), offset, end: to });
                }
            }
        }
        Ok(records)
    }

    /// Sees that the queue exists.
    async fn ensure(&self, queue: &Queue) -> Result<(), ClusterError> {
        match self.cluster.route(&self.topic).await {
            Ok(route) if route.read_queues.contains(queue) => return Ok(()),
            Ok(_) | Err(ClusterError::UnknownTopic(_)) => {}
            Err(error) => return Err(error),
        }
        let _ensuring = self.ensuring.lock().await;
        // Somebody else may just have made it.
        match self.cluster.fresh_route(&self.topic).await {
            Ok(route) if route.read_queues.contains(queue) => return Ok(()),
            Ok(_) | Err(ClusterError::UnknownTopic(_)) => {}
            Err(error) => return Err(error),
        }
        // All relays of the topic find the same number, so that none takes queues from another.
        let relayed = self.cluster.route(&self.relayed_topic).await?;
        let most = relayed.read_queues.iter().map(|queue| queue.id).max().unwrap_or(0).max(queue.id);
        self.cluster.widen_topic(&self.topic, u32::try_from(most).unwrap_or(0) + 1).await
    }
}

impl Record {
    fn counts_at(&self, offset: i64) -> bool {
        self.place == offset
    }
}

impl End {
    /// After a record was written for `place`, and stands at `found`.
    fn after(place: i64, found: i64) -> Self {
        match found.cmp(&place) {
            Ordering::Equal => Self::At(place + 1),
            Ordering::Greater => Self::From(place),
            Ordering::Less => Self::Over,
        }
    }

    /// After the end, once `known`, was found at `end`, with these records that count since.
    fn found_again(known: i64, end: i64, since: &[Record], writer: u64) -> Self {
        if end < known || since.iter().any(|record| record.writer != writer) {
            Self::Over
        } else {
            Self::At(end)
        }
    }
}

fn is_old(stored_ms: i64, now_ms: i64) -> bool {
    u128::try_from(now_ms - stored_ms).is_ok_and(|age| age > AGAIN_AFTER.as_millis())
}

/// The record in a message, if it counts.
fn counted(queue: &Queue, message: &StoredMessage) -> Option<Record> {
    match serde_json::from_slice::<Record>(&message.body) {
        Ok(record) => record
            .counts_at(message.queue_offset)
            .then_some(Record { stored_ms: message.store_timestamp, ..record }),
        Err(error) => {
            error!(%queue, offset = message.queue_offset, %error, "a record that is none of a relay's; passed over");
            None
        }
    }
}

impl Page {
    /// Whether what was found there is so old that it is to be written again, for brokers keep it no longer than messages.
    pub(in crate::transfer) fn is_old(&self) -> bool {
        self.found_ms.is_some_and(|found| is_old(found, unix_millis()))
    }

    /// Writes what is to be known of the queue from now on.
    ///
    /// # Errors
    /// When RocketMQ did not take it as what counts, as far as is known. Repeating is safe, unless the error is
    /// [final](JournalError::is_final).
    ///
    /// # Cancellation
    /// Dropping the future leaves it perhaps written; the next one finds out.
    pub(in crate::transfer) async fn write(&mut self, entry: Entry) -> Result<(), JournalError> {
        let place = match self.end {
            End::At(place) => place,
            End::From(known) => self.catch_up(known).await?,
            End::Over => return Err(JournalError::Taken { queue: self.queue.clone() }),
        };
        let record = Record { place, writer: self.writer, entry, stored_ms: 0 };
        let message = Message {
            body: Bytes::from(serde_json::to_vec(&record)?),
            properties: PropertiesBuilder::new(),
            unique_key: self.journal.keys.mint(),
            born_at: unix_millis(),
            deliver_at: None,
        };
        self.end = End::From(place);
        match self.journal.producer.send(&self.queue, std::slice::from_ref(&message), WITHIN).await {
            Outcome::Delivered(receipt) => {
                let (queue, found) = (self.queue.clone(), receipt.queue_offset);
                self.end = End::after(place, found);
                match self.end {
                    End::At(_) => Ok(()),
                    End::From(_) => Err(JournalError::Displaced { queue, place, found }),
                    End::Over => Err(JournalError::Shortened { queue, known: place, end: found }),
                }
            }
            Outcome::Rejected(failure) | Outcome::NotSent(failure) | Outcome::Unknown(failure) => {
                Err(JournalError::NotWritten { topic: self.queue.topic.clone(), failure })
            }
        }
    }

    /// Finds the end anew, after a write of which nobody knows where it stands.
    async fn catch_up(&mut self, known: i64) -> Result<i64, JournalError> {
        let queue = self.queue.clone();
        let bounds = self.journal.cluster.queue_bounds(&queue).await;
        let end = bounds.map_err(|error| self.journal.failed(error))?.max;
        let since = self.journal.records(&queue, known, end).await?;
        self.end = End::found_again(known, end, &since, self.writer);
        match self.end {
            End::At(end) => Ok(end),
            _ if end < known => Err(JournalError::Shortened { queue, known, end }),
            _ => Err(JournalError::Taken { queue }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rocketmq::properties::Properties;

    /// The queue of a page, and what is on its way there.
    #[derive(Debug, Default)]
    struct Model {
        log: Vec<Record>,
        in_the_air: Vec<Flight>,
        writers: Vec<Writer>,
        flights: usize,
    }

    #[derive(Debug)]
    struct Flight {
        number: usize,
        writer: usize,
        record: Record,
    }

    /// An owner, who may have been frozen, or given up a write as unanswered, at any time.
    #[derive(Debug)]
    struct Writer {
        end: End,
        knows: i64,
        /// The write whose answer it waits for.
        waits: Option<usize>,
    }

    #[derive(Debug, Clone)]
    enum Step {
        Open,
        Write(prop::sample::Index),
        Arrive { which: prop::sample::Index, answered: bool },
        GiveUp(prop::sample::Index),
        CatchUp(prop::sample::Index),
    }

    impl Model {
        fn counting(&self, from: i64) -> Vec<Record> {
            let placed = self.log.iter().enumerate().skip(from as usize);
            placed
                .filter(|(at, record)| record.counts_at(*at as i64))
                .map(|(_, record)| record.clone())
                .collect()
        }

        fn newest(&self) -> i64 {
            self.counting(0).last().map_or(0, |record| record.entry.relayed)
        }

        /// What a writer takes for written from here on, if anything.
        fn take(&mut self, step: &Step) -> Option<i64> {
            let end = self.log.len() as i64;
            let writers = self.writers.len();
            match step {
                Step::Open => {
                    let knows = self.newest();
                    self.writers.push(Writer { end: End::At(end), knows, waits: None });
                    None
                }
                _ if writers == 0 => None,
                Step::Write(which) => {
                    let nth = which.index(writers);
                    let writer = &mut self.writers[nth];
                    let (End::At(place), None) = (writer.end, writer.waits) else { return None };
                    self.flights += 1;
                    let entry = Entry {
                        relayed: writer.knows + 1,
                        stored_ms: None,
                        undrained: Snapshot::default(),
                        homes: BTreeSet::new(),
                        unaudited: None,
                    };
                    (writer.end, writer.waits) = (End::From(place), Some(self.flights));
                    let record = Record { place, writer: nth as u64, entry, stored_ms: 0 };
                    self.in_the_air.push(Flight { number: self.flights, writer: nth, record });
                    None
                }
                Step::Arrive { which, answered } => {
                    if self.in_the_air.is_empty() {
                        return None;
                    }
                    let flight = self.in_the_air.remove(which.index(self.in_the_air.len()));
                    let (place, relayed) = (flight.record.place, flight.record.entry.relayed);
                    self.log.push(flight.record);
                    let writer = &mut self.writers[flight.writer];
                    if !answered || writer.waits != Some(flight.number) {
                        return None;
                    }
                    writer.waits = None;
                    writer.end = End::after(place, end);
                    let End::At(_) = writer.end else { return None };
                    writer.knows = relayed;
                    Some(relayed)
                }
                Step::GiveUp(which) => {
                    self.writers[which.index(writers)].waits = None;
                    None
                }
                Step::CatchUp(which) => {
                    let nth = which.index(writers);
                    let (End::From(known), None) = (self.writers[nth].end, self.writers[nth].waits) else {
                        return None;
                    };
                    let since = self.counting(known);
                    self.writers[nth].end = End::found_again(known, end, &since, nth as u64);
                    None
                }
            }
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        let index = any::<prop::sample::Index>;
        prop_oneof![
            1 => Just(Step::Open),
            4 => index().prop_map(Step::Write),
            4 => (index(), any::<bool>()).prop_map(|(which, answered)| Step::Arrive { which, answered }),
            1 => index().prop_map(Step::GiveUp),
            2 => index().prop_map(Step::CatchUp),
        ]
    }

    #[test]
    fn a_record_is_old_after_an_hour_whatever_the_clocks_say() {
        assert!(!is_old(1_000, 1_000 + 3_600_000));
        assert!(is_old(1_000, 1_001 + 3_600_000));
        assert!(!is_old(10_000, 1_000), "the broker's clock is ahead");
    }

    #[test]
    fn a_record_is_read_with_the_time_it_was_stored_at() {
        let queue = Queue { topic: "j".to_owned(), broker: "b".to_owned(), id: 0 };
        let entry = Entry {
            relayed: 7,
            stored_ms: None,
            undrained: Snapshot::default(),
            homes: BTreeSet::new(),
            unaudited: None,
        };
        let record = Record { place: 3, writer: 1, entry, stored_ms: 0 };
        let body = serde_json::to_vec(&record).unwrap();
        let message = StoredMessage {
            topic: "j".into(),
            queue_offset: 3,
            store_timestamp: 42,
            ..StoredMessage::for_tests(body, Properties::default())
        };
        assert_eq!(counted(&queue, &message), Some(Record { stored_ms: 42, ..record }));
        assert_eq!(counted(&queue, &StoredMessage { queue_offset: 4, ..message }), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]
        #[test]
        fn what_one_owner_took_for_written_every_later_one_reads(steps in proptest::collection::vec(step(), 1..60)) {
            let (mut model, mut written) = (Model::default(), 0);
            for step in steps {
                if let Some(relayed) = model.take(&step) {
                    prop_assert!(relayed > written, "{relayed} was written over {written}");
                    written = relayed;
                }
                prop_assert!(model.newest() >= written, "{written} was written, and {} is read", model.newest());
            }
        }
    }
}
