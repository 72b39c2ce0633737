//! Relays again what an nsqd had when it went.
//!
//! The offsets are known ([`super::undrained`]), RocketMQ still has the messages, and they go to nsqd by the same way as the first
//! time. A piece at a time, so that a relay that stops or loses its queue on the way repeats no more than that.

use std::{collections::VecDeque, time::Duration};

use tokio::{sync::watch, time::Instant};
use tracing::{error, warn};

use super::{
    audited::Sent,
    batch::{Batch, held_bytes},
    deliver::Delivery,
    undrained::{Landing, Process},
    window::Window,
};
use crate::rocketmq::{ClusterError, Queue, QueueReader, reader::Pull};

/// What is read for one piece, as far as single messages allow.
pub(super) const PIECE_BYTES: usize = 256 * 1024;
const PULL_MAX: i64 = 32;

/// A piece of what a process had.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) process: Process,
    pub(super) from: i64,
    pub(super) to: i64,
}

/// What relaying a piece came to.
#[derive(Debug)]
pub(super) struct Replayed {
    pub(super) process: Process,
    pub(super) from: i64,
    /// All of the piece up to here is done.
    pub(super) to: i64,
    /// Where its messages are now.
    pub(super) landings: Vec<Landing>,
    /// The messages, for the audit.
    pub(super) sent: Sent,
}

/// Relays the beginning of a piece again, until nsqd has answered `OK` to all that was read.
///
/// # Errors
/// When RocketMQ cannot be asked: nothing is done, and repeating is safe.
///
/// # Cancellation
/// Dropping the future leaves some of it relayed and not known to be: it is relayed once more.
pub(super) async fn replay(
    delivery: &Delivery,
    reader: &QueueReader,
    queue: &Queue,
    lease: watch::Receiver<Option<Instant>>,
    piece: Piece,
) -> Result<Replayed, ClusterError> {
    let Piece { process, from, to } = piece;
    let (mut waiting, mut next, mut bytes) = (VecDeque::new(), from, 0);
    while next < to && bytes < PIECE_BYTES {
        let most = PULL_MAX.min(to - next) as u32;
        match reader.pull(queue, next, most, Duration::ZERO).await? {
            Pull::Messages { messages, problem, .. } => {
                next += messages.len() as i64;
                bytes += messages.iter().map(held_bytes).sum::<usize>();
                waiting.extend(messages);
                if let Some(problem) = problem {
                    // It never went to nsqd: the relay parked it, or was told to leave it out.
                    warn!(%problem, "left out, as it was the first time");
                    next += 1;
                    break;
                }
            }
            Pull::OffsetMoved { bounds, .. } if next < bounds.min => {
                // What was read before it is done first.
                if waiting.is_empty() {
                    let missed = bounds.min.min(to) - next;
                    error!(%queue, from = next, to = next + missed - 1, missed, nsqd = %process.nsqd,
                        "messages this nsqd may have lost have expired in RocketMQ, and cannot be relayed again");
                    delivery.metrics.missed(missed);
                    next += missed;
                }
                break;
            }
            Pull::Empty { bounds } | Pull::OffsetMoved { bounds, .. } => {
                if waiting.is_empty() && next >= bounds.max {
                    error!(%queue, from = next, to = to - 1, end = bounds.max, nsqd = %process.nsqd,
                        "messages this nsqd may have lost are beyond the queue's end: the broker has lost them, too");
                    next = to;
                }
                break;
            }
        }
    }
    let mut window = Window::new(from);
    let mut sent = Sent::default();
    let mut landings = Vec::new();
    let messages = waiting.len();
    while let Some(batch) = Batch::cut(&mut waiting, delivery.limits) {
        let claim = window.claim(batch.messages(), batch.held_bytes(), batch.stored_ms());
        sent.batch(claim.start(), &batch);
        let confirmed = delivery.until_confirmed(queue, lease.clone(), claim, batch).await;
        let landed = window.confirm(confirmed);
        landed.iter().for_each(|landing| sent.landed(landing));
        landings.extend(landed);
    }
    delivery.metrics.replayed(process.nsqd.as_str(), messages);
    Ok(Replayed { process, from, to: next, landings, sent })
}
