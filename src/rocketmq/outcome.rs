//! What became of a send: four arms, because "error" is not enough to decide whether to repeat.
//!
//! Only `SEND_OK` counts as delivered. The codes 10, 11 and 12 mean "in one broker's memory, not as durable as you asked":
//! Java's client calls them success, this one [`Outcome::Unknown`]. Classification goes by code *and* remark, because
//! the release lines disagree (an illegal topic is 29 on 5.x and 1 on 4.9; a batch too large is 1 on 5.x, 13 on 4.9).

use super::codes::response as code;

/// What became of one send, or of all its tries together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The broker answered `SEND_OK`: stored as durably as the cluster is configured for.
    Delivered(Receipt),
    /// Refused for what it is; repeating the same message cannot help.
    Rejected(Failure),
    /// Certainly not stored; repeating is safe.
    NotSent(Failure),
    /// Perhaps stored; repeating may duplicate it (under the same unique key).
    Unknown(Failure),
}

/// Where a delivered message, or the first of a batch, lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The broker that stored it.
    pub broker: String,
    /// The queue, counted per broker from 0.
    pub queue_id: i32,
    /// The place in the queue; a batch takes consecutive places. For a delayed message it is the place in an internal topic.
    pub queue_offset: i64,
    /// RocketMQ's offset message id; for a batch one per message, separated by commas.
    pub message_id: String,
    /// An earlier try has an unknown outcome: a second copy, with the same unique key, may lie elsewhere.
    pub perhaps_twice: bool,
}

/// Why a send is not delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{broker}: {reason}")]
pub struct Failure {
    /// The broker asked, or "-" when none could be.
    pub broker: String,
    /// What happened, with the broker's code and remark when it answered.
    pub reason: String,
    /// What else the failure tells the sender.
    pub hint: Hint,
}

/// What a failure tells beyond its arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// Nothing further.
    None,
    /// The route this send went by is out of date: ask the name server before repeating.
    StaleRoute,
    /// The broker does not know the topic.
    UnknownTopic,
    /// The broker has stored it, less durably than it should: asking it again would only add copies.
    StoredWeakly,
    /// The broker is busy, or too few others have what it stored: which of the two it does not say.
    Busy,
}

/// Which arm an answered code belongs to; `None` for success.
#[must_use]
pub fn classify(answer: i32, remark: &str) -> Option<(Arm, Hint)> {
    let remark_has = |parts: &[&str]| parts.iter().any(|part| remark.contains(part));
    let arm = match answer {
        code::SUCCESS => return None,
        code::MESSAGE_ILLEGAL => (Arm::Rejected, Hint::None),
        // Every broker knows how to be sent to: another kind of server has got its address.
        code::REQUEST_CODE_NOT_SUPPORTED => (Arm::NotSent, Hint::StaleRoute),
        code::INVALID_PARAMETER | code::SYSTEM_ERROR if remark.contains("queueId[") => {
            (Arm::NotSent, Hint::StaleRoute)
        }
        code::INVALID_PARAMETER => (Arm::Rejected, Hint::None),
        code::SYSTEM_ERROR if remark_has(REFUSALS_UNDER_CODE_1) => (Arm::Rejected, Hint::None),
        code::SYSTEM_ERROR if remark_has(REFUSALS_OF_THE_MOMENT) => (Arm::NotSent, Hint::None),
        code::SYSTEM_ERROR if remark_has(BUSY_OR_STORED) => (Arm::Unknown, Hint::Busy),
        code::SYSTEM_BUSY | code::FLOW_CONTROL => (Arm::NotSent, Hint::None),
        // It is a slave now, its disk is full, or it is stopping: somebody else may be the one to ask.
        code::SERVICE_NOT_AVAILABLE | code::GO_AWAY => (Arm::NotSent, Hint::StaleRoute),
        // Whether the broker, the topic or our credentials lack the permission: the message is not at fault.
        code::NO_PERMISSION => (Arm::NotSent, Hint::StaleRoute),
        code::TOPIC_NOT_EXIST => (Arm::NotSent, Hint::UnknownTopic),
        code::FLUSH_DISK_TIMEOUT | code::SLAVE_NOT_AVAILABLE | code::FLUSH_SLAVE_TIMEOUT => {
            (Arm::Unknown, Hint::StoredWeakly)
        }
        // Everything this client has not met: stored, perhaps.
        _ => (Arm::Unknown, Hint::None),
    };
    Some(arm)
}

/// An [`Outcome`] without its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arm {
    /// See [`Outcome::Rejected`].
    Rejected,
    /// See [`Outcome::NotSent`].
    NotSent,
    /// See [`Outcome::Unknown`].
    Unknown,
}

impl Arm {
    /// The outcome of this arm.
    #[must_use]
    pub fn outcome(self, failure: Failure) -> Outcome {
        match self {
            Arm::Rejected => Outcome::Rejected(failure),
            Arm::NotSent => Outcome::NotSent(failure),
            Arm::Unknown => Outcome::Unknown(failure),
        }
    }
}

/// Remarks under code 1 that refuse a message for what it is, before anything is stored: names, sizes and layout (4.9 has
/// no code 29; 5.x refuses an oversized or damaged batch with a Java exception).
const REFUSALS_UNDER_CODE_1: &[&str] = &[
    "illegal characters",
    "topic is blank",
    "topic max length",
    "message body size exceeded",
    "newPosition < 0",
    "NumberFormatException",
    "BufferUnderflowException",
    "timer message is not enabled",
];

/// Remarks under code 1 that refuse any message now, before anything is stored: 4.9's access control, and a disk that does not
/// keep up.
const REFUSALS_OF_THE_MOMENT: &[&str] = &["AclException", "create mapped file failed"];

/// Remarks under code 1 that a broker gives before it stores anything, and that a DLedger leader gives as well (the first 4.9.7,
/// the second 5.5.0) when it has stored a message and no majority has in time: that one is delivered if the leader stays.
const BUSY_OR_STORED: &[&str] = &["[PC_SYNCHRONIZED]", "in-sync replicas"];
