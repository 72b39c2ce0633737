//! The audit: whether every message that was accepted has reached every hop it should have.
//!
//! ```text
//! producer ─▶ gateway ─▶ RocketMQ ─▶ relay ─▶ nsqd
//!               │           │          │        │
//!               ▼           │          ▼        │        recorder   a ledger for each topic, written to %audit%TOPIC
//!            accepted       │       relayed     │        record     what is written: counts, digests, offsets covered
//!               └───────────┴──────────┴────────┘        sketch     the digest: differences tell the ids
//!                           │
//!                           ▼
//!                        verify     reads the records and the topic, and asks the nsqds
//!                          ├ read        stretches of queues      coverage   how often offsets were relayed
//!                          ├ reconcile   one minute's counts, held against each other
//!                          ├ nsqds       what each nsqd has counted
//!                          ├ repair      relays what is missing
//!                          └ report      the findings, for people and programs
//! ```
//!
//! Each hop counts messages by NSQ topic and by the minute they were accepted in, with a digest of their ids that does not depend on
//! their order. What is stored is counted by nobody: `verify` reads it.
//!
//! What it promises:
//! - A message called lost is missing where it is called missing: it was looked for to the end of the topic, and what could not be read
//!   makes a doubt of it. Clocks of gateways and brokers that differ by more than ten minutes break this; the doctor warns much earlier.
//! - A relay writes what it has relayed before it commits; so one that is killed never makes relayed messages look lost. A gateway that
//!   is killed loses what it accepted in its last seconds: messages nobody has accounted for, which hides a loss of just these.
//! - It costs memory for the minutes that are not written yet, and no message's body.

mod coverage;
mod entry;
mod nsqds;
mod read;
pub mod reconcile;
pub mod record;
pub mod recorder;
pub mod repair;
pub mod report;
pub mod sketch;
mod stored;
pub mod verify;
mod written;

pub use self::{
    entry::{Entry, id_of, minute_of},
    recorder::{Ledger, Pace, Recorder, Ticket},
};
use crate::rocketmq::{ClusterError, Queue};

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// RocketMQ cannot be asked, or refuses.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A broker does not show what it says it has.
    #[error("{queue}: the broker says it has a message at {offset}, and does not show it")]
    NotShown {
        /// The queue.
        queue: Queue,
        /// The offset.
        offset: i64,
    },
    /// No process has ever written a record.
    #[error(
        "the audit topic {0} does not exist: no gateway and no relay has counted anything of this topic. They do with --audit=true, \
         and need the right to create that topic or to write to it"
    )]
    NoAudit(String),
}
