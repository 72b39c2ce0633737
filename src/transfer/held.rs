//! Why a queue is held, and what may be done about it.

use super::undrained::journal::JournalError;
use crate::rocketmq::{
    ClusterError, Queue,
    reader::{Bounds, Problem},
};

/// What a relay does about an offset that is not where it left it, or that its queue does not have ([`super::start`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnGap {
    /// Nothing that misses a message, until a person has decided.
    Hold,
    /// Go on, giving up messages that lie between.
    Continue,
    /// Relay rather twice than not at all.
    Replay,
}

/// Why a queue cannot be relayed further. The queue is held where it stands; nothing is skipped.
#[derive(Debug, thiserror::Error)]
pub(super) enum Held {
    /// RocketMQ cannot be asked; it will be asked again.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The record of what is relayed cannot be read, or is no longer this owner's to write; it will be asked again.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Something in the queue cannot be read.
    #[error(
        "{0}. The relay stands before it. To give up what cannot be read, stop the relay, set the group's offset past it, and start the relay \
         once with --on-gap continue"
    )]
    Unreadable(#[from] Problem),
    /// The position is not in the queue any more, or not yet.
    #[error(
        "{queue}: the offset to go on from, {offset}, lies outside the queue, which holds {} to {}: {}",
        bounds.min, bounds.max, out_of_range(*offset, *bounds)
    )]
    OutOfRange {
        /// The queue.
        queue: Queue,
        /// Where to go on.
        offset: i64,
        /// What the queue holds.
        bounds: Bounds,
    },
    /// Somebody has committed an offset ahead of what was relayed.
    #[error(
        "{queue}: the committed offset is {committed}, and only what lies below {relayed} was relayed: {}. It was set by hand, another \
         client commits for the group, or the broker lost its newest messages and has others in their place. To leave these messages \
         out, start the relay once with --on-gap continue; to relay them, with --on-gap replay, or set the offset back",
        messages(*relayed, *committed)
    )]
    Ahead {
        /// The queue.
        queue: Queue,
        /// Everything below is relayed.
        relayed: i64,
        /// What is committed.
        committed: i64,
    },
    /// Other messages stand where the relay's record says.
    #[error(
        "{queue}: other messages stand where those below {relayed} were relayed: the topic was recreated, or the broker lost its newest \
         messages and has others in their place. The committed offset is {committed}, and the queue holds {} to {}. Start the relay once \
         with --on-gap replay to relay all of them, or with --on-gap continue to go on at the committed offset",
        bounds.min, bounds.max
    )]
    Renewed {
        /// The queue.
        queue: Queue,
        /// Everything below was relayed, by the record.
        relayed: i64,
        /// What is committed.
        committed: i64,
        /// What the queue holds.
        bounds: Bounds,
    },
    /// What is left of a share has no place in this queue.
    #[error(
        "{queue}: the queue was not there when the channel was moved by share, so nobody knows what of it the channel had. Start the relay \
         once with --on-gap replay to relay all it holds"
    )]
    NoPlace {
        /// The queue.
        queue: Queue,
    },
    /// The committed offset changed under a running relay; it begins anew, and --on-gap decides.
    #[error(
        "{queue}: the relay committed {committed}, and the broker holds {}: it crashed, another client commits for the group, or \
         the offset was set; looking where to go on",
        holds.map_or_else(|| "none".to_owned(), |offset| offset.to_string())
    )]
    Moved {
        /// The queue.
        queue: Queue,
        /// What was committed.
        committed: i64,
        /// What the broker holds.
        holds: Option<i64>,
    },
    /// The broker does not give the messages at the relay's position; it begins anew, and --on-gap decides.
    #[error("{queue}: the broker wants the relay elsewhere than at {offset}; looking where to go on")]
    Reset {
        /// The queue.
        queue: Queue,
        /// The next offset to be read.
        offset: i64,
    },
    /// The broker lost its newest messages while it was away, and has taken others since; the relay begins anew, where its record says.
    #[error(
        "{queue}: another message stands before {offset} than was read there: the broker lost its newest messages and has others in their \
         place, or the topic was recreated; looking where to go on"
    )]
    Replaced {
        /// The queue.
        queue: Queue,
        /// The next offset to be read.
        offset: i64,
    },
    /// A delivery, or the queue's loop, ended without an outcome: a defect of this program. What it had is relayed again.
    #[error(
        "{queue}: a task of this program failed, which is a defect; what it had is relayed again: {error}"
    )]
    DeliveryFailed {
        /// The queue.
        queue: Queue,
        /// What the runtime says of it.
        error: String,
    },
}

impl Held {
    /// Whether the queue stays held until somebody decides what to do about it.
    pub(super) fn needs_a_person(&self) -> bool {
        match self {
            Held::Cluster(_)
            | Held::Journal(_)
            | Held::Moved { .. }
            | Held::Reset { .. }
            | Held::Replaced { .. }
            | Held::DeliveryFailed { .. } => false,
            Held::OutOfRange { .. }
            | Held::Ahead { .. }
            | Held::Renewed { .. }
            | Held::NoPlace { .. }
            | Held::Unreadable(_) => true,
        }
    }
}

/// The messages from one offset up to another, in words.
fn messages(from: i64, to: i64) -> String {
    format!("the {} messages {from} to {} would be left out", to - from, to - 1)
}

fn out_of_range(offset: i64, bounds: Bounds) -> String {
    if offset < bounds.min {
        format!(
            "the messages {offset} to {} expired before they were relayed. To go on without them, start the relay once with \
             --on-gap continue",
            bounds.min - 1
        )
    } else {
        "the broker lost its newest messages, the topic was recreated, or the offset was set by hand. To go on, start the relay once \
         with --on-gap continue (at the end) or replay (with the oldest)"
            .to_owned()
    }
}
