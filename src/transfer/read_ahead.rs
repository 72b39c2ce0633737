//! Reads a queue in order, several pulls at a time.
//!
//! A broker hands out at most 32 messages a pull, so one pull after another is slow. While more messages are known to be there,
//! pulls at the following offsets are under way as well. An answer shorter than asked for (large bodies) breaks the
//! row: the pulls behind it are dropped, and the next row asks for what the broker really gives at a time.
//!
//! A broker that was away may have lost its newest messages, and others may stand at their offsets since. So whoever has reason to
//! doubt that it was there all the time ([`ReadAhead::doubt`]) first has the message before the position looked at again: if it is
//! another, those between are not passed over in silence.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesOrdered};
use tokio::time::timeout;

use crate::rocketmq::{
    ClusterError, Queue, QueueReader,
    reader::{PULL_MAX, Problem, Pull},
    record::StoredMessage,
};

/// Pulls under way for one queue, at most.
pub(super) const LANES: usize = 4;
/// How long a broker may hold a pull when there is nothing to read.
const HOLD: Duration = Duration::from_secs(15);
/// Whoever stops waits this long for an answer to its doubt.
const LAST_LOOK_WITHIN: Duration = Duration::from_secs(3);

type PullFuture = Pin<Box<dyn Future<Output = Result<Pull, ClusterError>> + Send>>;
/// Asks for so many messages from an offset on; when there are none the broker may hold the answer back for so long.
type Ask = dyn Fn(i64, u32, Duration) -> PullFuture + Send + Sync;

/// A position in a queue, and the pulls under way from there on.
pub(super) struct ReadAhead {
    ask: Arc<Ask>,
    next: i64,
    /// When the message before the position was stored, in milliseconds since 1970; `None` when that is not known.
    last_stored_ms: Option<i64>,
    /// The pull of that message, while it is not certain that the queue is still the one that was read.
    doubt: Option<PullFuture>,
    known_end: i64,
    stride: u32,
    max_lanes: usize,
    lanes: FuturesOrdered<PullFuture>,
}

/// What reading came to.
#[derive(Debug)]
pub(super) enum Read {
    /// Messages from the position on, perhaps none yet.
    Messages(Vec<StoredMessage>),
    /// Messages, and behind them something that cannot be read.
    Broken(Vec<StoredMessage>, Problem),
    /// The broker would go on elsewhere: the position lies outside the queue, or the group's offset was reset.
    OutOfRange,
    /// Another message stands before the position than the one that was read there.
    Renewed,
}

impl ReadAhead {
    /// Reads from an offset on; `stored_ms` is when the message before it was stored, if that is known.
    pub(super) fn new(
        reader: QueueReader,
        queue: Queue,
        offset: i64,
        stored_ms: Option<i64>,
        max_lanes: usize,
    ) -> Self {
        let ask = move |offset, max, hold| -> PullFuture {
            let (reader, queue) = (reader.clone(), queue.clone());
            Box::pin(async move { reader.pull(&queue, offset, max, hold).await })
        };
        Self::asking(Arc::new(ask), offset, stored_ms, max_lanes)
    }

    fn asking(ask: Arc<Ask>, offset: i64, last_stored_ms: Option<i64>, max_lanes: usize) -> Self {
        Self {
            ask,
            next: offset,
            last_stored_ms,
            doubt: None,
            known_end: offset,
            stride: PULL_MAX,
            max_lanes,
            lanes: FuturesOrdered::new(),
        }
    }

    /// Goes on behind what cannot be read.
    pub(super) fn go_on_at(&mut self, offset: i64) {
        self.restart();
        (self.next, self.last_stored_ms, self.stride) = (offset, None, PULL_MAX);
    }

    /// The broker may have been away since the last read.
    pub(super) fn doubt(&mut self) {
        self.restart();
        self.doubt = self.last_stored_ms.map(|_| (self.ask)(self.next - 1, 1, Duration::ZERO));
    }

    /// One past the newest message known.
    pub(super) fn known_end(&self) -> i64 {
        self.known_end
    }

    /// Whether the next read only looks at what was read before.
    pub(super) fn is_doubted(&self) -> bool {
        self.doubt.is_some()
    }

    /// Whether the queue is certainly the one that was read.
    pub(super) async fn is_same(&mut self) -> bool {
        !self.is_doubted() || matches!(timeout(LAST_LOOK_WITHIN, self.look_again()).await, Ok(Ok(None)))
    }

    /// Ends the doubt; what is to be made of a queue that is not the one that was read.
    async fn look_again(&mut self) -> Result<Option<Read>, ClusterError> {
        let Some(looked) = &mut self.doubt else { return Ok(None) };
        let looked = looked.await;
        if looked.is_err() {
            self.doubt();
        }
        let answer = looked?;
        self.doubt = None;
        Ok(self.is_another(&answer))
    }

    /// The next messages; none after a doubt that was unfounded.
    ///
    /// # Errors
    /// When the broker cannot be asked; repeating goes on from the same position.
    ///
    /// # Cancellation
    /// Safe: the pulls under way are kept, and nothing is lost or read twice.
    pub(super) async fn read(&mut self) -> Result<Read, ClusterError> {
        if self.is_doubted() {
            return Ok(self.look_again().await?.unwrap_or(Read::Messages(Vec::new())));
        }
        self.fill();
        let Some(pulled) = self.lanes.next().await else { return Ok(Read::Messages(Vec::new())) };
        if pulled.is_err() {
            self.doubt();
        }
        Ok(match pulled? {
            Pull::Messages { messages, problem, bounds } => {
                self.known_end = bounds.max;
                self.next += messages.len() as i64;
                self.last_stored_ms =
                    messages.last().map(|message| message.store_timestamp).or(self.last_stored_ms);
                let count = messages.len() as u32;
                if count < self.stride || problem.is_some() {
                    self.restart();
                    // A short answer in the middle of a backlog: the broker's byte limit was met.
                    let at_tail = self.next >= self.known_end;
                    self.stride = if at_tail { PULL_MAX } else { count.max(1) };
                } else if self.lanes.is_empty() {
                    self.stride = PULL_MAX;
                }
                match problem {
                    Some(problem) => Read::Broken(messages, problem),
                    None => Read::Messages(messages),
                }
            }
            Pull::Empty { bounds } => {
                self.known_end = bounds.max;
                self.restart();
                Read::Messages(Vec::new())
            }
            Pull::OffsetMoved { .. } => {
                self.restart();
                Read::OutOfRange
            }
        })
    }

    /// What is to be made of the message before the position, if it is not the one that was read there.
    fn is_another(&self, looked: &Pull) -> Option<Read> {
        match looked {
            Pull::Messages { messages, .. } => {
                let first = messages.first().filter(|first| first.queue_offset == self.next - 1)?;
                (Some(first.store_timestamp) != self.last_stored_ms).then_some(Read::Renewed)
            }
            // It expired meanwhile, as those before it.
            Pull::OffsetMoved { bounds, .. } if self.next - 1 < bounds.min => None,
            Pull::Empty { .. } | Pull::OffsetMoved { .. } => Some(Read::OutOfRange),
        }
    }

    /// Drops the pulls under way; the next ones start at the position.
    fn restart(&mut self) {
        self.lanes = FuturesOrdered::new();
    }

    /// Starts pulls: one at the position, and more while messages are known to be there for them.
    fn fill(&mut self) {
        while self.lanes.len() < self.max_lanes {
            let offset = self.next + i64::from(self.stride) * self.lanes.len() as i64;
            if !self.lanes.is_empty() && offset >= self.known_end {
                break;
            }
            self.lanes.push_back((self.ask)(offset, self.stride, HOLD));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::rocketmq::{properties::Properties, reader::Bounds};

    /// A queue as a broker has it: when each message was stored; or nothing while the broker is away.
    type Stored = Arc<Mutex<Option<(i64, Vec<i64>)>>>;

    fn asking(stored: &Stored) -> Arc<Ask> {
        let stored = Arc::clone(stored);
        Arc::new(move |offset, max, _| {
            let stored = Arc::clone(&stored);
            Box::pin(async move { answer(stored.lock().unwrap().as_ref(), offset, max) })
        })
    }

    fn answer(stored: Option<&(i64, Vec<i64>)>, offset: i64, max: u32) -> Result<Pull, ClusterError> {
        let (min, times) = stored.ok_or(ClusterError::NoBroker)?;
        let bounds = Bounds { min: *min, max: min + times.len() as i64 };
        let message = |offset: i64| StoredMessage {
            queue_offset: offset,
            store_timestamp: times[usize::try_from(offset - min).unwrap()],
            ..StoredMessage::for_tests("", Properties::default())
        };
        let end = bounds.max.min(offset + i64::from(max));
        Ok(match offset {
            _ if offset < bounds.min || offset > bounds.max => Pull::OffsetMoved { next: bounds.min, bounds },
            _ if offset == bounds.max => Pull::Empty { bounds },
            _ => Pull::Messages { messages: (offset..end).map(message).collect(), problem: None, bounds },
        })
    }

    /// Reads a queue of ten messages to its end; then its broker is away once, and `meanwhile` has become of it.
    async fn read_after(meanwhile: (i64, Vec<i64>)) -> Read {
        let stored: Stored = Arc::new(Mutex::new(Some((0, (0..10).collect()))));
        let mut reads = ReadAhead::asking(asking(&stored), 0, None, 1);
        assert!(matches!(reads.read().await.unwrap(), Read::Messages(messages) if messages.len() == 10));
        *stored.lock().unwrap() = None;
        for _ in 0..3 {
            reads.read().await.unwrap_err();
        }
        *stored.lock().unwrap() = Some(meanwhile);
        match reads.read().await.unwrap() {
            Read::Messages(none) if none.is_empty() && !reads.is_doubted() => reads.read().await.unwrap(),
            other => other,
        }
    }

    #[tokio::test]
    async fn messages_that_took_the_place_of_lost_ones_are_noticed() {
        let same = (0..13).collect::<Vec<_>>();
        // Of the last, even the message that was read last has expired.
        for kept in [0, 9, 10] {
            let meanwhile = (kept as i64, same[kept..].to_vec());
            let read = read_after(meanwhile).await;
            assert!(matches!(&read, Read::Messages(messages) if messages.len() == 3), "{kept}: {read:?}");
        }
        let shorter = same[..8].to_vec();
        assert!(matches!(read_after((0, shorter.clone())).await, Read::OutOfRange));
        let filled_again = [shorter, (20..25).collect()].concat();
        assert!(matches!(read_after((0, filled_again)).await, Read::Renewed));
    }

    #[tokio::test]
    async fn a_queue_is_looked_at_again_when_somebody_doubts_it() {
        let stored: Stored = Arc::new(Mutex::new(Some((0, (0..10).collect()))));
        let mut reads = ReadAhead::asking(asking(&stored), 10, Some(9), 1);
        assert!(matches!(reads.read().await.unwrap(), Read::Messages(messages) if messages.is_empty()));
        *stored.lock().unwrap() = Some((0, (20..35).collect()));
        reads.doubt();
        assert!(reads.is_doubted());
        assert!(matches!(reads.read().await.unwrap(), Read::Renewed));
        reads.doubt();
        assert!(!reads.is_same().await);
        // Behind what could not be read nothing is known.
        reads.go_on_at(12);
        reads.doubt();
        assert!(reads.is_same().await);
        assert!(matches!(reads.read().await.unwrap(), Read::Messages(messages) if messages.len() == 3));
    }
}
