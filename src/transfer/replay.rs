//! Relays again what an nsqd had when it went.
//!
//! The offsets are known ([`super::undrained`]), RocketMQ still has the messages, and they go to nsqd by the same way as the first
//! time. A piece at a time, so that a relay that stops or loses its queue on the way repeats no more than that.

use std::{collections::VecDeque, time::Duration};

use tokio::{sync::watch, time::Instant};
use tracing::{error, warn};

use super::{
    audited::Sent,
    batch::{Batch, Cut, held_bytes},
    deliver::Delivery,
    undrained::{Landing, Process},
    window::Window,
};
use crate::rocketmq::{
    ClusterError, Queue, QueueReader,
    reader::{PULL_MAX, Problem, Pull},
    record::StoredMessage,
};

/// What is read for one piece, as far as single messages allow.
pub(super) const PIECE_BYTES: usize = 256 * 1024;
/// What cannot be read is asked for so many times before it is left out: bytes may be damaged on their way.
const UNREADABLE_TRIES: usize = 3;
/// What RocketMQ does not give is asked for this often, with this pause: it takes some ten seconds to say what it has deleted.
const GIVEN_UP_AFTER: usize = 60;
const AGAIN_AFTER: Duration = Duration::from_secs(1);

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
    let mut read = Reading { waiting: VecDeque::new(), next: from, bytes: 0, unreadable: 0 };
    while read.next < to && read.bytes < PIECE_BYTES {
        let most = i64::from(PULL_MAX).min(to - read.next) as u32;
        match read.take(reader.pull(queue, read.next, most, Duration::ZERO).await?, to) {
            Step::More => {}
            Step::Enough => break,
            Step::Later => tokio::time::sleep(AGAIN_AFTER).await,
            Step::Missed { from, why } => {
                let missed = read.next - from;
                error!(%queue, from, to = read.next - 1, missed, nsqd = %process.nsqd,
                    "messages this nsqd may have lost {why}, and cannot be relayed again");
                delivery.metrics.missed(missed);
                break;
            }
        }
    }
    let Reading { mut waiting, next, .. } = read;
    let mut window = Window::new(from);
    let mut sent = Sent::default();
    let mut landings = Vec::new();
    let mut messages = 0;
    let Delivery { feed, limits, audited, .. } = delivery;
    let cut = Cut { feed, limits: *limits, audited: *audited, most: usize::MAX };
    while let Some(mut batch) = Batch::cut(&mut waiting, cut) {
        let claim = window.claim(batch.messages(), batch.held_bytes(), batch.stored_ms());
        if *audited {
            sent.batch(claim.start(), &mut batch);
        }
        messages += batch.relayed().count();
        let confirmed = delivery.until_confirmed(queue, lease.clone(), claim, batch).await;
        let landed = window.confirm(confirmed);
        if *audited {
            landed.iter().for_each(|landing| sent.landed(landing));
        }
        landings.extend(landed);
    }
    delivery.metrics.replayed(process.nsqd.as_str(), messages);
    Ok(Replayed { process, from, to: next, landings, sent })
}

/// What of a piece has been read.
struct Reading {
    waiting: VecDeque<StoredMessage>,
    next: i64,
    bytes: usize,
    /// How often the next one could not be read.
    unreadable: usize,
}

/// What comes after a pull.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    More,
    /// What was read is to be done now.
    Enough,
    /// The same is to be asked for in a moment.
    Later,
    /// The messages from here on up to the next are gone.
    Missed {
        from: i64,
        why: &'static str,
    },
}

impl Reading {
    fn take(&mut self, pulled: Pull, to: i64) -> Step {
        match pulled {
            Pull::Messages { messages, problem, .. } => {
                self.next += messages.len() as i64;
                self.bytes += messages.iter().map(held_bytes).sum::<usize>();
                self.waiting.extend(messages);
                let Some(problem) = problem else { return Step::More };
                // What was read before it is done first.
                if !self.waiting.is_empty() {
                    return Step::Enough;
                }
                self.unreadable += 1;
                if self.unreadable < UNREADABLE_TRIES {
                    return Step::More;
                }
                match problem {
                    // It never went to nsqd: the relay parked it.
                    Problem::Record { .. } => {
                        warn!(%problem, "left out, as it was the first time");
                        self.next += 1;
                        Step::Enough
                    }
                    // The broker may be deleting these just now: in a moment its bounds say so.
                    _ if self.unreadable < GIVEN_UP_AFTER => Step::Later,
                    // What lies behind is not to wait for ever, nor what another nsqd has lost.
                    Problem::Gap { to: last, .. } => {
                        self.miss((last + 1).min(to), "are not given by RocketMQ")
                    }
                    Problem::Displaced { .. } | Problem::Stray { .. } => {
                        self.miss(self.next + 1, "are not given by RocketMQ")
                    }
                }
            }
            Pull::OffsetMoved { bounds, .. } if self.next < bounds.min && self.waiting.is_empty() => {
                self.miss(bounds.min.min(to), "have expired in RocketMQ")
            }
            Pull::Empty { bounds } | Pull::OffsetMoved { bounds, .. }
                if self.next >= bounds.max && self.waiting.is_empty() =>
            {
                self.miss(to, "are beyond the queue's end, for the broker has lost them, too")
            }
            Pull::Empty { .. } | Pull::OffsetMoved { .. } => Step::Enough,
        }
    }

    fn miss(&mut self, to: i64, why: &'static str) -> Step {
        let from = std::mem::replace(&mut self.next, to);
        Step::Missed { from, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rocketmq::{reader::Bounds, record::decode_records};

    const BOUNDS: Bounds = Bounds { min: 5, max: 20 };

    fn reading(next: i64) -> Reading {
        Reading { waiting: VecDeque::new(), next, bytes: 0, unreadable: 0 }
    }

    fn queue() -> Queue {
        Queue { topic: "t".to_owned(), broker: "b".to_owned(), id: 0 }
    }

    fn pulled(problem: Problem) -> Pull {
        Pull::Messages { messages: Vec::new(), problem: Some(problem), bounds: BOUNDS }
    }

    fn broken() -> Pull {
        let error = decode_records(bytes::Bytes::from_static(b"damaged")).find_map(Result::err).unwrap();
        pulled(Problem::Record { queue: queue(), offset: 7, error })
    }

    #[test]
    fn what_was_damaged_on_its_way_is_asked_for_again() {
        let mut read = reading(7);
        assert_eq!((read.take(broken(), 10), read.next), (Step::More, 7));
        assert_eq!((read.take(broken(), 10), read.next), (Step::More, 7));
        assert_eq!((read.take(broken(), 10), read.next), (Step::Enough, 8), "it is left out at last");
    }

    #[test]
    fn what_the_broker_does_not_give_is_asked_for_until_its_bounds_tell_that_it_is_gone_and_not_for_ever() {
        let gap = || pulled(Problem::Gap { queue: queue(), from: 7, to: 9 });
        let displaced = || pulled(Problem::Displaced { queue: queue(), offset: 7, found: 10 });
        let mut read = reading(7);
        let waits = |step| matches!(step, Step::More | Step::Later);
        for _ in 0..10 {
            assert!(waits(read.take(gap(), 12)) && waits(read.take(displaced(), 12)));
        }
        assert_eq!(read.next, 7, "nothing is passed over");
        let bounds = Bounds { min: 10, max: 20 };
        let why = "have expired in RocketMQ";
        assert_eq!(read.take(Pull::OffsetMoved { next: 10, bounds }, 12), Step::Missed { from: 7, why });
        assert_eq!(read.next, 10);

        for (problem, behind) in [(gap as fn() -> Pull, 10), (displaced, 8)] {
            let mut read = reading(7);
            assert!((1..GIVEN_UP_AFTER).all(|_| waits(read.take(problem(), 12))));
            assert!(matches!(read.take(problem(), 12), Step::Missed { from: 7, .. }));
            assert_eq!(read.next, behind);
        }
    }

    #[test]
    fn what_is_gone_is_told_exactly() {
        let moved = || Pull::OffsetMoved { next: 5, bounds: BOUNDS };
        let mut read = reading(1);
        assert!(matches!(read.take(moved(), 10), Step::Missed { from: 1, .. }));
        assert_eq!(read.next, 5);
        let mut read = reading(1);
        assert!(matches!(read.take(moved(), 3), Step::Missed { from: 1, .. }));
        assert_eq!(read.next, 3, "no more than was asked for");
        let mut read = reading(20);
        assert!(matches!(read.take(Pull::Empty { bounds: BOUNDS }, 25), Step::Missed { from: 20, .. }));
        assert_eq!(read.next, 25);
        // Told elsewhere for another reason, such as a reset: nothing is missed, and it is asked for again later.
        let mut read = reading(7);
        assert_eq!((read.take(moved(), 10), read.next), (Step::Enough, 7));
    }
}
