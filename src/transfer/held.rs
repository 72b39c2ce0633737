//! Why a queue is held, and what may be done about it.

use super::undrained::journal::JournalError;
use crate::rocketmq::{
    ClusterError, Queue,
    reader::{Bounds, Problem},
};

/// What a relay does at an offset its queue does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnGap {
    /// Nothing, until a person has decided.
    Hold,
    /// Go on with the nearest message there is, giving up those between.
    Continue,
    /// Begin again with the oldest message there is.
    Replay,
}

/// Why a queue cannot be relayed further. The queue is held where it stands; nothing is skipped.
#[derive(Debug, thiserror::Error)]
pub(super) enum Held {
    /// RocketMQ cannot be asked; it will be asked again.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// What a former owner knew of the nsqds' memory cannot be read; it will be asked again.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Something in the queue cannot be read.
    #[error(
        "{0}. The relay stands before it. To give that message up, stop the relay and set the group's offset past it"
    )]
    Unreadable(#[from] Problem),
    /// The position is not in the queue any more, or not yet.
    #[error(
        "{queue}: the committed offset {offset} lies outside the queue, which holds {} to {}: {}",
        bounds.min, bounds.max, out_of_range(*offset, *bounds)
    )]
    OutOfRange {
        /// The queue.
        queue: Queue,
        /// What is committed.
        offset: i64,
        /// What the queue holds.
        bounds: Bounds,
    },
    /// A delivery ended without an outcome: a defect of this program. What it had is relayed again.
    #[error("{queue}: a delivery task failed: {error}")]
    DeliveryFailed {
        /// The queue.
        queue: Queue,
        /// What the runtime says of it.
        error: String,
    },
    /// The broker holds another committed offset than the relay gave it.
    #[error(
        "{queue}: committed {offset}, but the broker holds {holds:?}: another client commits for this group, or it was reset"
    )]
    CommitIgnored {
        /// The queue.
        queue: Queue,
        /// What was committed.
        offset: i64,
        /// What the broker holds.
        holds: Option<i64>,
    },
}

impl Held {
    /// Whether the queue stays held until somebody decides what to do about it.
    pub(super) fn needs_a_person(&self, on_gap: OnGap) -> bool {
        match self {
            Held::Cluster(_) | Held::Journal(_) | Held::DeliveryFailed { .. } => false,
            Held::OutOfRange { .. } => on_gap == OnGap::Hold,
            Held::Unreadable(_) | Held::CommitIgnored { .. } => true,
        }
    }
}

fn out_of_range(offset: i64, bounds: Bounds) -> String {
    if offset < bounds.min {
        format!(
            "the messages {offset} to {} expired before they were relayed. To go on without them, start the relay once with \
             --on-gap continue",
            bounds.min - 1
        )
    } else {
        "the broker lost its newest messages, or the offset was set by hand. To go on, start the relay once with --on-gap \
         continue or replay"
            .to_owned()
    }
}
