//! `nsqbridge doctor`: looks at everything a migration stands on, and says what to do about what is not as it should be.
//!
//! It changes nothing. Every question has its time, all are asked side by side, and what cannot be asked is a finding too.
//!
//! ```text
//! rocketmq    name servers, brokers, their settings and clocks
//! nsq         nsqlookupds, nsqds, the topics' names
//! finding     what is found, as a table or as JSON
//! checks      what things are looked at for, by stable names
//! ```

pub mod checks;
mod finding;
mod nsq;
mod rocketmq;

use std::time::Duration;

use futures_util::future::join;

pub(crate) use self::finding::reasons;
pub use self::finding::{Finding, Report, Severity};
use crate::{
    mapping::Names,
    nsq::{names::TopicName, nsqd::Nsqd, nsqlookupd::Nsqlookupd},
    rocketmq::ClusterConfig,
};

/// Clocks that differ by more than this make delays, retention and traces hard to read.
const CLOCKS_DIFFER: Duration = Duration::from_secs(2);

/// How long brokers had better keep messages, if nobody says otherwise.
pub const RETENTION: Duration = Duration::from_secs(24 * 3_600);

/// What to look at, and what it will have to bear.
#[derive(Debug)]
pub struct DoctorConfig {
    /// How to reach RocketMQ.
    pub cluster: ClusterConfig,
    /// The nsqlookupds, whose nsqds are looked at as well.
    pub nsqlookupds: Vec<Nsqlookupd>,
    /// Nsqds.
    pub nsqds: Vec<Nsqd>,
    /// Topics beside those the nsqds have.
    pub topics: Vec<TopicName>,
    /// What topics are called in RocketMQ.
    pub names: Names,
    /// The gateway's `--max-msg-size`.
    pub max_msg_size: usize,
    /// The gateway's `--max-req-timeout`.
    pub max_req_timeout: Duration,
    /// How long the brokers are to keep messages.
    pub retention: Duration,
    /// How long each question may take.
    pub timeout: Duration,
}

/// Looks at all of it.
pub async fn examine(config: &DoctorConfig) -> Report {
    let ((mut findings, reserved), (nsq, topics)) =
        join(rocketmq::examine(config), nsq::examine(config)).await;
    findings.extend(nsq);
    findings.extend(nsq::names(config, &topics, &reserved));
    Report::new(findings)
}

/// A clock, measured against this machine's.
fn clock(what: &str, theirs_ms: i64, ours_ms: i64, precision: Duration) -> Finding {
    let apart = Duration::from_millis((theirs_ms - ours_ms).unsigned_abs()).saturating_sub(precision);
    let direction = if theirs_ms > ours_ms { "ahead of" } else { "behind" };
    if apart > CLOCKS_DIFFER {
        return Finding::warn(
            what,
            checks::CLOCK_DIFFERS,
            format!("its clock is {apart:.1?} {direction} this machine's"),
        )
        .advise("run NTP on both machines; deferred messages are due by the broker's clock");
    }
    Finding::ok(what, checks::CLOCK_DIFFERS, "its clock agrees with this machine's")
}
