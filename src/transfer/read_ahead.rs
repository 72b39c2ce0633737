//! Reads a queue in order, several pulls at a time.
//!
//! A broker hands out at most 32 messages a pull, so one pull after another is slow. While more messages are known to be there,
//! pulls at the following offsets are under way as well. An answer shorter than asked for (large bodies) breaks the
//! row: the pulls behind it are dropped, and the next row asks for what the broker really gives at a time.

use std::{pin::Pin, time::Duration};

use futures_util::{StreamExt, stream::FuturesOrdered};

use crate::rocketmq::{
    ClusterError, Queue, QueueReader,
    reader::{PULL_MAX, Problem, Pull},
    record::StoredMessage,
};

/// Pulls under way for one queue, at most.
pub(super) const LANES: usize = 4;
/// How long a broker may hold a pull when there is nothing to read.
const HOLD: Duration = Duration::from_secs(15);

type PullFuture = Pin<Box<dyn Future<Output = Result<Pull, ClusterError>> + Send>>;

/// A position in a queue, and the pulls under way from there on.
pub(super) struct ReadAhead {
    reader: QueueReader,
    queue: Queue,
    next: i64,
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
}

impl ReadAhead {
    pub(super) fn new(reader: QueueReader, queue: Queue, offset: i64, max_lanes: usize) -> Self {
        Self {
            reader,
            queue,
            next: offset,
            known_end: offset,
            stride: PULL_MAX,
            max_lanes,
            lanes: FuturesOrdered::new(),
        }
    }

    /// What it reads with.
    pub(super) fn reader(&self) -> QueueReader {
        self.reader.clone()
    }

    /// One past the newest message known.
    pub(super) fn known_end(&self) -> i64 {
        self.known_end
    }

    /// The next messages.
    ///
    /// # Errors
    /// When the broker cannot be asked; repeating goes on from the same position.
    ///
    /// # Cancellation
    /// Safe: the pulls under way are kept, and nothing is lost or read twice.
    pub(super) async fn read(&mut self) -> Result<Read, ClusterError> {
        self.fill();
        let Some(pulled) = self.lanes.next().await else { return Ok(Read::Messages(Vec::new())) };
        if pulled.is_err() {
            self.restart();
        }
        Ok(match pulled? {
            Pull::Messages { messages, problem, bounds } => {
                self.known_end = bounds.max;
                self.next += messages.len() as i64;
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
            let (reader, queue, stride) = (self.reader.clone(), self.queue.clone(), self.stride);
            self.lanes.push_back(Box::pin(async move { reader.pull(&queue, offset, stride, HOLD).await }));
        }
    }
}
