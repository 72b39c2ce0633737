//! Commands that look at a running bridge, or tell it something.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::shared::{NamesArgs, Output, PlanArg, RocketmqArgs, size};
use crate::{
    mapping::Feed,
    nsq::{
        address::HttpAddress,
        names::{ChannelPath, InvalidName, TopicName},
    },
};

/// `nsqbridge doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Look at this nsqlookupd and the nsqds it lists; repeat it for several.
    #[arg(long, value_name = "HOST:PORT", env = "NSQBRIDGE_LOOKUPD_HTTP_ADDRESS", value_delimiter = ',')]
    pub lookupd_http_address: Vec<HttpAddress>,
    /// Look at this nsqd; repeat it for several.
    #[arg(long, value_name = "HOST:PORT", env = "NSQBRIDGE_NSQD_HTTP_ADDRESS", value_delimiter = ',')]
    pub nsqd_http_address: Vec<HttpAddress>,
    /// Check this topic's name, too, beside those of the nsqds' topics; repeat it for several.
    #[arg(long, value_name = "TOPIC", env = "NSQBRIDGE_TOPIC", value_delimiter = ',')]
    pub topic: Vec<TopicName>,
    /// The gateway's --max-msg-size.
    #[arg(long, value_name = "BYTES", default_value = "1048576", value_parser = size(4_194_304), env = "NSQBRIDGE_MAX_MSG_SIZE")]
    pub max_msg_size: usize,
    /// The gateway's --max-req-timeout.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration, env = "NSQBRIDGE_MAX_REQ_TIMEOUT")]
    pub max_req_timeout: Duration,
    /// How long each request may take.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = humantime::parse_duration, env = "NSQBRIDGE_DOCTOR_TIMEOUT")]
    pub timeout: Duration,
    /// How to show what was found.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table", env = "NSQBRIDGE_OUTPUT")]
    pub output: Output,
    /// A plan in the place of other flags.
    #[command(flatten)]
    pub plan: PlanArg,
    /// What topics are called.
    #[command(flatten)]
    pub names: NamesArgs,
    /// How to reach RocketMQ.
    #[command(flatten)]
    pub rocketmq: RocketmqArgs,
}

/// `nsqbridge status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Topics, or channels as TOPIC/CHANNEL, by their NSQ names; by default all topics that are or were relayed, or, with -f, the
    /// plan's topics and channels.
    #[arg(value_name = "TOPIC[/CHANNEL]")]
    pub of: Vec<StatusOf>,
    /// The consumer group of the channels; TOPIC%%CHANNEL by default.
    #[arg(long, value_name = "GROUP", env = "NSQBRIDGE_GROUP")]
    pub group: Option<String>,
    /// For channels: find nsqds in this nsqlookupd, beside those the relays know; repeat it for several.
    #[arg(long, value_name = "HOST:PORT", env = "NSQBRIDGE_LOOKUPD_HTTP_ADDRESS", value_delimiter = ',')]
    pub lookupd_http_address: Vec<HttpAddress>,
    /// For channels: look at this nsqd, too; repeat it for several.
    #[arg(long, value_name = "HOST:PORT", env = "NSQBRIDGE_NSQD_HTTP_ADDRESS", value_delimiter = ',')]
    pub nsqd_http_address: Vec<HttpAddress>,
    /// Show it again every two seconds.
    #[arg(short, long, env = "NSQBRIDGE_WATCH")]
    pub watch: bool,
    /// How to show it.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table", env = "NSQBRIDGE_OUTPUT")]
    pub output: Output,
    /// A plan in the place of other flags.
    #[command(flatten)]
    pub plan: PlanArg,
    /// What topics are called.
    #[command(flatten)]
    pub names: NamesArgs,
    /// How to reach RocketMQ.
    #[command(flatten)]
    pub rocketmq: RocketmqArgs,
}

/// What a status is asked of.
#[derive(Debug, Clone)]
pub enum StatusOf {
    /// A topic's relay.
    Topic(TopicName),
    /// A channel's move.
    Channel(ChannelPath),
}

impl std::str::FromStr for StatusOf {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.contains('/') { text.parse().map(Self::Channel) } else { text.parse().map(Self::Topic) }
    }
}

/// `nsqbridge relay`.
#[derive(Debug, Args)]
pub struct RelayArgs {
    /// What to do.
    #[arg(value_enum)]
    pub action: RelayAction,
    /// The topic, by its NSQ name; TOPIC/CHANNEL for what is left to a channel that is moved by share.
    #[arg(value_name = "TOPIC[/CHANNEL]")]
    pub topic: Feed,
    /// For `rate`: the most messages a second from each instance; 0 means no limit.
    #[arg(required_if_eq("action", "rate"))]
    pub rate: Option<u64>,
    /// A plan in the place of other flags.
    #[command(flatten)]
    pub plan: PlanArg,
    /// What topics are called.
    #[command(flatten)]
    pub names: NamesArgs,
    /// How to reach RocketMQ.
    #[command(flatten)]
    pub rocketmq: RocketmqArgs,
}

/// What a running relay can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RelayAction {
    /// Send nothing.
    Pause,
    /// Send again.
    Resume,
    /// Send at most so many messages a second.
    Rate,
}

/// `nsqbridge parked`.
#[derive(Debug, Args)]
pub struct ParkedArgs {
    /// What to do.
    #[arg(value_enum)]
    pub action: ParkedAction,
    /// The topic, by its NSQ name; TOPIC/CHANNEL for what is left to a channel that is moved by share.
    #[arg(value_name = "TOPIC[/CHANNEL]")]
    pub topic: Feed,
    /// For `show` and `drop`: the place of the message, as `list` tells it.
    #[arg(required_if_eq_any([("action", "show"), ("action", "drop")]))]
    pub place: Option<String>,
    /// For `retry`: publish to this nsqd.
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "NSQBRIDGE_NSQD_HTTP_ADDRESS",
        required_if_eq("action", "retry")
    )]
    pub nsqd_http_address: Option<HttpAddress>,
    /// How to show what is listed.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table", env = "NSQBRIDGE_OUTPUT")]
    pub output: Output,
    /// A plan in the place of other flags.
    #[command(flatten)]
    pub plan: PlanArg,
    /// What topics are called.
    #[command(flatten)]
    pub names: NamesArgs,
    /// How to reach RocketMQ.
    #[command(flatten)]
    pub rocketmq: RocketmqArgs,
}

/// What can be done with parked messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ParkedAction {
    /// List them.
    List,
    /// Write the body of one to standard output, unchanged.
    Show,
    /// Publish all of them to an nsqd, in the order of each parking queue; behind one that is refused again the rest of its queue stays.
    Retry,
    /// Discard the oldest one.
    Drop,
}
