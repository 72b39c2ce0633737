//! Collects what a process counts, and writes it down in RocketMQ.
//!
//! A [`Ledger`] for each topic adds up what its hops count, and a task of its own writes that to the topic's audit topic: what has
//! gathered since it wrote last, in one record. What becomes too much for one, for hours of messages are relayed within a second or
//! nothing can be written for hours, is sealed and written at once, and of what is sealed the oldest is forgotten when that
//! becomes too much. So nothing grows but what is not written yet, and that is bounded.
//!
//! A record that was not answered is written again with the same number, before anything newer: it may be stored twice, and counts
//! once. What a process that dies has not written is lost with it; whoever must not lose it waits for [`Ledger::is_settled`].

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::record::{Delta, Record, TALLIES};
use crate::{
    mapping::Names,
    nsq::names::TopicName,
    retry::Backoff,
    rocketmq::{
        Cluster, ClusterError, Message, Outcome, Producer, producer::unix_millis,
        properties::PropertiesBuilder, unique_key::UniqueKeys,
    },
};

/// How long RocketMQ may take for a record.
const WITHIN: Duration = Duration::from_secs(3);
/// Nobody waits longer than this for an audit topic that cannot be written.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many topics are written as often as one; more, less often each.
const AS_OFTEN_AS_ONE: usize = 40;
/// However many there are: so that what is two minutes old is written down.
const SPREAD_AT_MOST: Duration = Duration::from_secs(60);

/// A record of so many minutes and hops is full.
const FULL: usize = TALLIES / 2;
/// Full records of a topic that wait to be written, at most.
const SEALED: usize = 4;

/// How often a process writes.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// A topic's records follow each other no faster.
    pub every: Duration,
    /// Where there are many topics, each is written less often.
    pub spread: bool,
}

/// Records for all topics of one process.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    ledgers: Mutex<HashMap<TopicName, Arc<Ledger>>>,
}

#[derive(Debug)]
struct Shared {
    cluster: Cluster,
    producer: Producer,
    keys: UniqueKeys,
    names: Names,
    pace: Pace,
    instance: u64,
    topics: AtomicUsize,
    /// Audit topics are created one at a time: where many topics are new, brokers have enough to do with those.
    creating: tokio::sync::Mutex<()>,
}

impl Recorder {
    /// `producer_group` is what brokers show for the records.
    #[must_use]
    pub fn new(cluster: Cluster, names: Names, producer_group: &str, pace: Pace) -> Self {
        let shared = Shared {
            producer: Producer::new(cluster.clone(), producer_group),
            cluster,
            keys: UniqueKeys::new(),
            names,
            pace,
            // Seeds that come from the operating system: two processes never share one.
            instance: RandomState::new().hash_one(std::process::id()),
            topics: AtomicUsize::default(),
            creating: tokio::sync::Mutex::default(),
        };
        Self { shared: Arc::new(shared), ledgers: Mutex::default() }
    }

    /// The ledger of a topic.
    pub fn topic(&self, topic: &TopicName) -> Arc<Ledger> {
        let mut ledgers = self.ledgers.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            self.shared.topics.fetch_add(1, Ordering::Relaxed);
            Arc::new(Ledger::new(Arc::clone(&self.shared), topic))
        };
        Arc::clone(ledgers.entry(topic.clone()).or_insert_with(make))
    }

    /// Writes what is not written, as far as that can be done in this time; whether all of it could be. Nothing more must be counted.
    pub async fn drain(&self, within: Duration) -> bool {
        let ledgers: Vec<_> =
            self.ledgers.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let all = futures_util::future::join_all(ledgers.iter().map(|ledger| ledger.write_now()));
        tokio::time::timeout(within, all).await.is_ok()
    }
}

/// What is counted up to here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What is counted of one topic.
#[derive(Debug)]
pub struct Ledger {
    inner: Arc<Inner>,
    _writing: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    audit_topic: String,
    /// Records of this topic so far: a number that is missing among them is a record that is.
    sequence: AtomicU64,
    book: Mutex<Book>,
    counted: Notify,
    hurry: Notify,
    written: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Book {
    delta: Delta,
    /// Full records, to be written before it, and the changes up to which each tells of everything; none for a part of one change.
    sealed: VecDeque<(Delta, Option<u64>)>,
    /// Changes so far.
    changes: u64,
    failing_since: Option<Instant>,
}

impl Ledger {
    fn new(shared: Arc<Shared>, topic: &TopicName) -> Self {
        let inner = Arc::new(Inner {
            audit_topic: shared.names.audit_topic(topic),
            sequence: AtomicU64::default(),
            shared,
            book: Mutex::default(),
            counted: Notify::new(),
            hurry: Notify::new(),
            written: watch::Sender::new(0),
        });
        let writing = tokio::spawn(keep_writing(Arc::clone(&inner)));
        Self { inner, _writing: AbortOnDropHandle::new(writing) }
    }

    /// Counts; it is written before long.
    pub fn record(&self, count: impl FnOnce(&mut Delta)) -> Ticket {
        let (ticket, full) = {
            let mut book = self.inner.book();
            count(&mut book.delta);
            book.changes += 1;
            (Ticket(book.changes), book.seal())
        };
        self.inner.counted.notify_one();
        if full {
            self.inner.hurry.notify_one();
        }
        ticket
    }

    /// Whether everything up to `ticket` is written.
    #[must_use]
    pub fn is_written(&self, ticket: Ticket) -> bool {
        *self.inner.written.borrow() >= ticket.0
    }

    /// Whether everything up to `ticket` is written, or has waited so long that nobody should wait for it any more.
    #[must_use]
    pub fn is_settled(&self, ticket: Ticket) -> bool {
        self.is_written(ticket)
            || self.inner.book().failing_since.is_some_and(|since| since.elapsed() > PATIENCE)
    }

    /// Writes everything counted so far without waiting for more.
    pub async fn write_now(&self) {
        let counted = self.inner.book().changes;
        let mut written = self.inner.written.subscribe();
        self.inner.hurry.notify_one();
        // The sender lives as long as the ledger.
        let _ = written.wait_for(|written| *written >= counted).await;
    }
}

impl Book {
    /// Puts what is full behind what waits to be written; whether it is.
    fn seal(&mut self) -> bool {
        if self.delta.tallies.len() < FULL {
            return false;
        }
        while let Some(part) = self.delta.overflow() {
            self.sealed.push_back((part, None));
        }
        self.sealed.push_back((std::mem::take(&mut self.delta), Some(self.changes)));
        while self.sealed.len() > SEALED
            && let Some((oldest, _)) = self.sealed.pop_front()
            && let Some((next, _)) = self.sealed.front_mut()
        {
            next.forget(oldest);
        }
        true
    }

    /// What is to be written next, the changes up to which everything is told of then, and whether it is all there is.
    fn next(&mut self) -> (Delta, Option<u64>, bool) {
        match self.sealed.pop_front() {
            Some((delta, changes)) => (delta, changes, false),
            None => (std::mem::take(&mut self.delta), Some(self.changes), true),
        }
    }
}

impl Inner {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long records must be apart.
    fn pause(&self) -> Duration {
        let Pace { every, spread } = self.shared.pace;
        let topics = self.shared.topics.load(Ordering::Relaxed);
        let factor = (topics as f64 / AS_OFTEN_AS_ONE as f64).max(1.0);
        if spread { every.mul_f64(factor).min(every.max(SPREAD_AT_MOST)) } else { every }
    }

    async fn write(&self, message: &Message) -> Result<(), String> {
        let Shared { cluster, producer, .. } = &*self.shared;
        match cluster.route(&self.audit_topic).await {
            Ok(_) => {}
            Err(ClusterError::UnknownTopic(_)) => {
                let _one_at_a_time = self.shared.creating.lock().await;
                cluster.create_topic(&self.audit_topic, 1).await.map_err(|error| error.to_string())?;
            }
            Err(error) => return Err(error.to_string()),
        }
        match producer.deliver(&self.audit_topic, std::slice::from_ref(message), None, WITHIN).await {
            Outcome::Delivered(_) => Ok(()),
            Outcome::Rejected(failure) | Outcome::NotSent(failure) | Outcome::Unknown(failure) => {
                Err(failure.to_string())
            }
        }
    }
}

async fn keep_writing(ledger: Arc<Inner>) {
    // Whoever waits for its records gets the first at once; others gather from the beginning.
    let mut next = Instant::now() + if ledger.shared.pace.spread { ledger.pause() } else { Duration::ZERO };
    loop {
        ledger.counted.notified().await;
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = ledger.hurry.notified() => {}
        }
        loop {
            let (delta, changes, is_all) = ledger.book().next();
            if !delta.is_empty() {
                write_until_stored(&ledger, delta).await;
            }
            if let Some(changes) = changes {
                ledger.written.send_replace(changes);
            }
            if is_all {
                break;
            }
        }
        next = Instant::now() + ledger.pause();
    }
}

async fn write_until_stored(ledger: &Inner, delta: Delta) {
    let Shared { keys, instance, .. } = &*ledger.shared;
    let sequence = ledger.sequence.fetch_add(1, Ordering::Relaxed);
    let record = Record { instance: *instance, sequence, delta };
    let message = Message {
        body: record.encode(),
        properties: PropertiesBuilder::new(),
        unique_key: keys.mint(),
        born_at: unix_millis(),
        deliver_at: None,
    };
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let audit_topic = &ledger.audit_topic;
    while let Err(error) = ledger.write(&message).await {
        let first = {
            let mut book = ledger.book();
            let first = book.failing_since.is_none();
            book.failing_since.get_or_insert_with(Instant::now);
            first
        };
        if first {
            warn!(
                audit_topic,
                error,
                "an audit record is not written; will keep trying. An account without the right to that topic needs it, or --audit=false"
            );
        }
        backoff.wait().await;
    }
    if ledger.book().failing_since.take().is_some() {
        info!(audit_topic, "audit records are written again");
    }
    debug!(audit_topic, bytes = message.body.len(), "audit record written");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::{Entry, record::Hop},
        rocketmq::ClusterConfig,
    };

    fn recorder() -> Recorder {
        // Nobody answers there.
        let cluster = Cluster::new(ClusterConfig::new(vec!["127.0.0.1:1".to_owned()]));
        Recorder::new(
            cluster,
            Names::default(),
            "test",
            Pace { every: Duration::from_secs(1), spread: false },
        )
    }

    fn counted(book: &mut Book, minutes: std::ops::Range<i64>) {
        for minute in minutes {
            book.delta.count(&Hop::Parked, [Entry { minute, id: 1 }]);
        }
        book.changes += 1;
        book.seal();
    }

    #[test]
    fn hours_that_are_counted_within_a_moment_become_several_records() {
        let mut book = Book::default();
        let (full, most) = (FULL as i64, TALLIES as i64);
        counted(&mut book, 0..full - 1);
        assert!(book.sealed.is_empty());
        counted(&mut book, full - 1..full);
        // One change that is too much for a record.
        counted(&mut book, full..full + most + 1);
        counted(&mut book, 0..1);
        let mut next = || {
            let (delta, changes, is_all) = book.next();
            (delta.tallies.len(), changes, is_all)
        };
        assert_eq!(next(), (FULL, Some(2), false));
        assert_eq!(next(), (TALLIES, None, false));
        assert_eq!(next(), (1, Some(3), false));
        assert_eq!(next(), (1, Some(4), true));
        assert_eq!(next(), (0, Some(4), true));
    }

    #[test]
    fn only_what_is_more_than_can_wait_is_forgotten() {
        let mut book = Book::default();
        let full = FULL as i64;
        for record in 0..SEALED as i64 + 2 {
            counted(&mut book, record * full..(record + 1) * full);
        }
        assert_eq!(book.sealed.len(), SEALED);
        let (delta, changes, _) = book.next();
        assert_eq!((delta.tallies.len(), delta.incomplete), (FULL, Some((0, 2 * full - 1))));
        assert_eq!(changes, Some(3));
        assert_eq!(book.next().0.incomplete, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_written_is_waited_for_only_so_long() {
        let recorder = recorder();
        let ledger = recorder.topic(&"orders".parse().unwrap());
        let count = || ledger.record(|delta| delta.count(&Hop::Parked, [Entry { minute: 1, id: 2 }]));
        let ticket = count();
        assert!(!ledger.is_settled(ticket));
        let begun = Instant::now();
        while !ledger.is_settled(ticket) {
            assert!(begun.elapsed() < 3 * PATIENCE);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(begun.elapsed() > PATIENCE);
        // What comes later waits no longer, for it would wait for the same.
        assert!(ledger.is_settled(count()));
        let begun = Instant::now();
        assert!(!recorder.drain(Duration::from_secs(2)).await);
        assert!(begun.elapsed() <= Duration::from_secs(3));
    }
}
