//! `nsqbridge transfer`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::shared::{AdminArgs, NamesArgs, ProcessArgs, RocketmqArgs, size};
use crate::{
    mapping::Share,
    nsq::{
        address::HttpAddress,
        names::{TopicName, TopicPattern},
    },
};

/// `nsqbridge transfer`.
#[derive(Debug, Args)]
pub struct TransferArgs {
    /// A topic to relay, by its NSQ name; repeat it for several.
    #[arg(long, value_name = "TOPIC", env = "NSQBRIDGE_TOPIC", value_delimiter = ',')]
    pub topic: Vec<TopicName>,
    /// Relay every topic RocketMQ has whose whole NSQ name matches this regular expression; `.*` is all of them. New ones are
    /// found while running.
    #[arg(long, value_name = "REGEX", env = "NSQBRIDGE_TOPIC_PATTERN")]
    pub topic_pattern: Option<TopicPattern>,
    /// For a channel moved by share (`nsqbridge cutover --share`): relay the messages that are not its consumer group's into the NSQ
    /// topic TOPIC.CHANNEL; repeat it for several. Waits before the cutover and after a rollback.
    #[arg(long, value_name = "TOPIC/CHANNEL", env = "NSQBRIDGE_RELAY_SHARE", value_delimiter = ',')]
    pub share: Vec<Share>,
    /// Relay into the nsqds these nsqlookupds list; repeat it for several.
    #[arg(long, value_name = "HOST:PORT", env = "NSQBRIDGE_LOOKUPD_HTTP_ADDRESS", value_delimiter = ',')]
    pub lookupd_http_address: Vec<HttpAddress>,
    /// Relay into this nsqd; repeat it for several. Batches go to its TCP port on the same host, as its /info tells it.
    #[arg(long, value_name = "HOST:PORT", env = "NSQBRIDGE_NSQD_HTTP_ADDRESS", value_delimiter = ',')]
    pub nsqd_http_address: Vec<HttpAddress>,
    /// Send nothing to this nsqd (its HTTP address), for maintenance; its channels still count. Repeat it for several.
    #[arg(long, value_name = "HOST:PORT", env = "NSQBRIDGE_LEAVE_OUT", value_delimiter = ',')]
    pub leave_out: Vec<HttpAddress>,
    /// Messages that may wait in an nsqd, in a topic and its fullest channel together, before the relay waits for its consumers;
    /// 0 means no limit. RocketMQ is the better place for a backlog.
    #[arg(long, value_name = "MESSAGES", default_value = "0", env = "NSQBRIDGE_MAX_DEPTH")]
    pub max_depth: u64,
    /// The most messages of one topic that this instance sends a second; 0 means no limit. `nsqbridge relay rate` changes it.
    #[arg(long, value_name = "MESSAGES", default_value = "0", env = "NSQBRIDGE_MAX_RATE")]
    pub max_rate: u64,
    /// The nsqds' --max-msg-size, in bytes.
    #[arg(long, value_name = "BYTES", default_value = "1048576", value_parser = size(1 << 30), env = "NSQBRIDGE_NSQD_MAX_MSG_SIZE")]
    pub max_msg_size: usize,
    /// The nsqds' --max-body-size, in bytes.
    #[arg(long, value_name = "BYTES", default_value = "5242880", value_parser = size(1 << 30), env = "NSQBRIDGE_NSQD_MAX_BODY_SIZE")]
    pub max_body_size: usize,
    /// Message bytes held in memory for each queue.
    #[arg(long, value_name = "BYTES", default_value = "4194304", value_parser = size(1 << 30), env = "NSQBRIDGE_MAX_QUEUE_BYTES")]
    pub max_queue_bytes: usize,
    /// Message bytes held in memory for all queues together.
    #[arg(long, value_name = "BYTES", default_value = "134217728", value_parser = size(1 << 40), env = "NSQBRIDGE_MAX_RELAY_BYTES")]
    pub max_relay_bytes: usize,
    /// A record in RocketMQ that cannot be read: park it as it is and continue, or hold its queue before it.
    #[arg(long, value_enum, value_name = "POLICY", default_value = "park", env = "NSQBRIDGE_ON_UNREADABLE")]
    pub on_unreadable: UnreadablePolicy,
    /// Keep the order of each queue as far as NSQ can: always into the same nsqd, one batch after the other. Slower, and an nsqd
    /// that is away moves its queues to another.
    #[arg(long, value_name = "BOOL", env = "NSQBRIDGE_ORDERED", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub ordered: bool,
    /// The committed offset is not where the relay left it, or messages have expired. What to do then. hold: ignore an offset that
    /// moved back; stop the queue for an operator rather than skip messages. continue: ignore it; skip what must be skipped.
    /// replay: follow it; relay again rather than skip.
    #[arg(long, value_enum, value_name = "POLICY", default_value = "hold", env = "NSQBRIDGE_ON_GAP")]
    pub on_gap: GapPolicy,
    /// Relay again what an nsqd had in memory, in flight or deferred when it crashed, was restarted or went away: for this the relay
    /// remembers in RocketMQ (topic %undrained%TOPIC) what each nsqd has not let go of yet. With false those messages are
    /// lost; the topic then records only how far each queue has been relayed.
    #[arg(long, env = "NSQBRIDGE_REPLAY", action = clap::ArgAction::Set, value_name = "BOOL", default_value = "true")]
    pub replay: bool,
    /// Record in RocketMQ (topic %audit%TOPIC) what was relayed and where to, before offsets are committed, for `nsqbridge verify`.
    /// Messages relayed with `--audit false` look lost to `verify`.
    #[arg(long, env = "NSQBRIDGE_AUDIT", action = clap::ArgAction::Set, value_name = "BOOL", default_value = "true")]
    pub audit: bool,
    /// The nsqds' --max-msg-timeout: a message in flight for longer has been finished, or is counted as timed out. In a channel that
    /// is never idle nothing else shows that. Where no consumer uses TOUCH, their --msg-timeout (60s) is enough, and fewer messages
    /// come twice after a crash.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = humantime::parse_duration, env = "NSQBRIDGE_NSQD_MAX_MSG_TIMEOUT")]
    pub max_msg_timeout: Duration,
    /// Treat an nsqd that has not answered for this long as lost, and relay its messages again.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration, env = "NSQBRIDGE_NSQD_GONE_AFTER")]
    pub nsqd_gone_after: Duration,
    /// How long a graceful stop waits for nsqd to answer; at most 10s.
    #[arg(long, value_name = "DURATION", default_value = "8s", value_parser = drain_timeout, env = "NSQBRIDGE_DRAIN_TIMEOUT")]
    pub drain_timeout: Duration,
    /// What topics are called.
    #[command(flatten)]
    pub names: NamesArgs,
    /// How to reach RocketMQ.
    #[command(flatten)]
    pub rocketmq: RocketmqArgs,
    /// Where monitoring finds the process.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// How the process works.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// What a relay does with a record it cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UnreadablePolicy {
    /// Park it.
    Park,
    /// Hold the queue for an operator.
    Hold,
}

/// What a relay does at an offset that is not where it left it, or that its queue does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GapPolicy {
    /// Stop the queue for an operator rather than skip messages.
    Hold,
    /// Skip what must be skipped.
    Continue,
    /// Relay again rather than skip.
    Replay,
}

fn drain_timeout(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    // Queue locks last 30 s and are not renewed while draining.
    if duration > Duration::from_secs(10) {
        return Err("at most 10s is accepted".to_owned());
    }
    Ok(duration)
}
