//! Reads a queue by explicit offset.
//!
//! The reader has no position of its own and commits nothing. Every answer is checked for gaps: the records must stand
//! at the places asked for, one after another, up to the place the broker says to go on from. Anything else is a
//! [`Problem`] that names queue and offset; whoever reads decides, and nothing is skipped in silence.
//!
//! A broker hands out at most 32 messages a pull. Pulls at known offsets may run side by side on one connection, which
//! is how a reader gets fast.

use std::time::Duration;

use super::{
    cluster::{Cluster, ClusterError, malformed, refused},
    codes::{request, response},
    command::Command,
    record::{self, RecordError, StoredMessage},
    route::Queue,
};

/// A broker may answer a long poll this much after the time it was asked to hold it.
const LONG_POLL_OVERRUN: Duration = Duration::from_secs(6);

/// Messages a broker hands out for one pull at most, by default (`maxTransferCountOnMessageInMemory`).
pub const PULL_MAX: u32 = 32;

/// Group for looking at messages: every broker has it, and a group of another name would become one by being used.
pub const LOOKER: &str = "TOOLS_CONSUMER";

/// Message bytes one pull hands out, if there is more than one message: a small record may be compressed from a body of 64 MiB, and
/// an answer holds many.
const MAX_PULL_BYTES: usize = 32 * 1024 * 1024;

const SYS_FLAG_SUSPEND: i32 = 1 << 1;
const SYS_FLAG_SUBSCRIPTION: i32 = 1 << 2;

/// The bounds of a queue as a broker tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The oldest place that still holds a message.
    pub min: i64,
    /// One past the newest.
    pub max: i64,
}

/// The answer to a pull.
#[derive(Debug)]
pub enum Pull {
    /// Messages from the offset asked for, without a gap; fewer than the broker gave when they are large.
    Messages {
        /// At least one, unless `problem` is the first record's.
        messages: Vec<StoredMessage>,
        /// What stands behind them, if it cannot be read.
        problem: Option<Problem>,
        /// The queue's bounds at the time.
        bounds: Bounds,
    },
    /// Nothing at this offset yet.
    Empty {
        /// The queue's bounds at the time.
        bounds: Bounds,
    },
    /// The offset asked for lies outside the queue: expired data, or a store that was rebuilt.
    OffsetMoved {
        /// Where the broker would go on; what lies between is the gap.
        next: i64,
        /// The queue's bounds at the time.
        bounds: Bounds,
    },
}

/// What cannot be read, and where.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A record that cannot be decoded.
    #[error("{queue} at offset {offset}: {error}")]
    Record {
        /// The queue.
        queue: Queue,
        /// The record's place.
        offset: i64,
        /// What is wrong with it.
        error: RecordError,
    },
    /// A record whose own offset is not its place: the queue's index no longer fits its data.
    #[error(
        "{queue} at offset {offset}: the record there says it is at {found}; the broker's index does not fit its data"
    )]
    Displaced {
        /// The queue.
        queue: Queue,
        /// The place asked for.
        offset: i64,
        /// The offset the record carries.
        found: i64,
    },
    /// A record of another queue.
    #[error("{queue} at offset {offset}: the record there belongs to {found}")]
    Stray {
        /// The queue.
        queue: Queue,
        /// The place asked for.
        offset: i64,
        /// Where the record says it belongs.
        found: String,
    },
    /// The broker goes on past places it gave no message for.
    #[error("{queue}: the broker gave no message for the offsets {from} to {to} and would go on behind them")]
    Gap {
        /// The queue.
        queue: Queue,
        /// The first offset without a message.
        from: i64,
        /// The last.
        to: i64,
    },
}

/// Reads queues in the name of one consumer group.
#[derive(Debug, Clone)]
pub struct QueueReader {
    cluster: Cluster,
    group: String,
}

impl QueueReader {
    /// Brokers count what is read to `group`.
    #[must_use]
    pub fn new(cluster: Cluster, group: impl Into<String>) -> Self {
        Self { cluster, group: group.into() }
    }

    /// Pulls up to `max` messages at `offset`; the broker holds the request up to `hold` when there are none.
    ///
    /// # Errors
    /// When the broker cannot be asked or refuses; repeating is always safe.
    pub async fn pull(
        &self,
        queue: &Queue,
        offset: i64,
        max: u32,
        hold: Duration,
    ) -> Result<Pull, ClusterError> {
        let asked = format!("a pull of {queue} at {offset}");
        let address = self.cluster.master_of(queue).await?;
        let suspend = if hold.is_zero() { 0 } else { SYS_FLAG_SUSPEND };
        let command = Command::request(request::PULL_MESSAGE)
            .field("consumerGroup", &self.group)
            .field("topic", &queue.topic)
            .field("queueId", queue.id)
            .field("queueOffset", offset)
            .field("maxMsgNums", max)
            .field("sysFlag", suspend | SYS_FLAG_SUBSCRIPTION)
            .field("commitOffset", 0)
            .field("suspendTimeoutMillis", hold.as_millis())
            .field("subscription", "*")
            .field("subVersion", 0)
            .field("expressionType", "TAG");
        let timeout = hold + LONG_POLL_OVERRUN.max(self.cluster.config().request_timeout);
        let answer = self.cluster.request(&address, command, timeout).await?;
        let number = |name| answer.number(name).map_err(|error| malformed(&address, &asked, error));
        match answer.code {
            response::SUCCESS
            | response::PULL_NOT_FOUND
            | response::PULL_RETRY_IMMEDIATELY
            | response::PULL_OFFSET_MOVED => {}
            _ => return Err(refused(&address, &asked, &answer)),
        }
        let bounds = Bounds { min: number("minOffset")?, max: number("maxOffset")? };
        let next = number("nextBeginOffset")?;
        Ok(match answer.code {
            response::PULL_OFFSET_MOVED => Pull::OffsetMoved { next, bounds },
            response::PULL_NOT_FOUND => Pull::Empty { bounds },
            _ => {
                let (messages, problem) =
                    check(queue, offset, next, max, record::decode_records(answer.body.clone()));
                if messages.is_empty() && problem.is_none() {
                    Pull::Empty { bounds }
                } else {
                    Pull::Messages { messages, problem, bounds }
                }
            }
        })
    }
}

/// The records up to the first that is not what must stand at its place, or that nobody asked for.
fn check(
    queue: &Queue,
    offset: i64,
    next: i64,
    max: u32,
    records: impl Iterator<Item = Result<StoredMessage, RecordError>>,
) -> (Vec<StoredMessage>, Option<Problem>) {
    // What a caller asks for may be any number.
    let mut messages = Vec::with_capacity(max.min(PULL_MAX) as usize);
    let mut place = offset;
    let mut bytes = 0;
    for record in records {
        // The rest is asked for again.
        if messages.len() >= max as usize || bytes >= MAX_PULL_BYTES {
            return (messages, None);
        }
        let message = match record {
            Ok(message) => message,
            Err(error) => {
                return (messages, Some(Problem::Record { queue: queue.clone(), offset: place, error }));
            }
        };
        if message.queue_id != queue.id || *message.topic != *queue.topic {
            let found = format!("{}/{}", message.topic, message.queue_id);
            return (messages, Some(Problem::Stray { queue: queue.clone(), offset: place, found }));
        }
        if message.queue_offset != place {
            let found = message.queue_offset;
            return (messages, Some(Problem::Displaced { queue: queue.clone(), offset: place, found }));
        }
        bytes += message.body.len();
        messages.push(message);
        place += 1;
    }
    let gap = (next > place).then(|| Problem::Gap { queue: queue.clone(), from: place, to: next - 1 });
    (messages, gap)
}
