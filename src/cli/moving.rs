//! Commands that move a consumer.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::shared::{NamesArgs, Output, PlanArg, RocketmqArgs};
use crate::{
    migration::progress::Step,
    nsq::{
        address::HttpAddress,
        names::{ChannelPath, TopicName},
    },
};

/// What all of them have.
#[derive(Debug, Args)]
pub struct MovingArgs {
    /// Find nsqds in this nsqlookupd, beside those the relays know; repeat it for several.
    #[arg(long, value_name = "HOST:PORT", env = "NSQBRIDGE_LOOKUPD_HTTP_ADDRESS", value_delimiter = ',')]
    pub lookupd_http_address: Vec<HttpAddress>,
    /// Look at this nsqd, too; repeat it for several.
    #[arg(long, value_name = "HOST:PORT", env = "NSQBRIDGE_NSQD_HTTP_ADDRESS", value_delimiter = ',')]
    pub nsqd_http_address: Vec<HttpAddress>,
    /// A plan in the place of other flags.
    #[command(flatten)]
    pub plan: PlanArg,
    /// Do it. Without this flag the command only shows what it would do, and changes nothing.
    #[arg(long, env = "NSQBRIDGE_EXECUTE")]
    pub execute: bool,
    /// Do not ask for confirmation.
    #[arg(short, long, env = "NSQBRIDGE_YES")]
    pub yes: bool,
    /// How to show what happens: lines for people, or one JSON object a line.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table", env = "NSQBRIDGE_OUTPUT")]
    pub output: Output,
    /// For tests: end after this step, as if the process had been killed.
    #[arg(long, value_name = "STEP", hide = true, env = "NSQBRIDGE_STOP_AFTER")]
    pub stop_after: Option<Step>,
    /// What topics are called.
    #[command(flatten)]
    pub names: NamesArgs,
    /// How to reach RocketMQ.
    #[command(flatten)]
    pub rocketmq: RocketmqArgs,
}

/// How long the relay may be held.
#[derive(Debug, Args)]
pub struct PauseArgs {
    /// Hold the topic's relay for at most this long; past it everything is undone. 10s by default, or the plan's gates.max_pause.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, env = "NSQBRIDGE_MAX_PAUSE")]
    pub max_pause: Option<Duration>,
}

/// `nsqbridge cutover`.
#[derive(Debug, Args)]
pub struct CutoverArgs {
    /// The channel, by its NSQ names.
    #[arg(value_name = "TOPIC/CHANNEL")]
    pub channel: ChannelPath,
    /// The consumer group it becomes; by default the plan's, or TOPIC%%CHANNEL, as the gateway's /channel/create names it.
    #[arg(long, value_name = "GROUP", env = "NSQBRIDGE_GROUP")]
    pub group: Option<String>,
    /// Move it by share: the group takes only what the gateways stamp for it (`nsqbridge gateway --share`); the rest goes to the NSQ
    /// topic TOPIC.CHANNEL, for the channel's old consumer (`nsqbridge transfer --share`).
    #[arg(long, env = "NSQBRIDGE_BY_SHARE")]
    pub share: bool,
    /// How long the relay may be held.
    #[command(flatten)]
    pub pause: PauseArgs,
    /// What all of them have.
    #[command(flatten)]
    pub moving: MovingArgs,
}

/// `nsqbridge rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The channel, by its NSQ names.
    #[arg(value_name = "TOPIC/CHANNEL")]
    pub channel: ChannelPath,
    /// The consumer group it became.
    #[arg(long, value_name = "GROUP", env = "NSQBRIDGE_GROUP")]
    pub group: Option<String>,
    /// Whether the new consumers work (healthy) or not (broken).
    #[arg(long, value_enum, value_name = "MODE", default_value = "healthy", env = "NSQBRIDGE_MODE")]
    pub mode: RollbackMode,
    /// With --mode broken: go back even if the channel holds less than was relayed since the cutover, because an nsqd died with some.
    #[arg(long, env = "NSQBRIDGE_ACCEPT_MISSING")]
    pub accept_missing: bool,
    /// With --mode healthy: empty the channel even if it holds more than arrived since the cutover. Safe only if the surplus is the
    /// relay's repeats after an nsqd restart: what was published straight to an nsqd without an intake is lost.
    #[arg(long, env = "NSQBRIDGE_ACCEPT_MORE")]
    pub accept_more: bool,
    /// How long the relay may be held.
    #[command(flatten)]
    pub pause: PauseArgs,
    /// What all of them have.
    #[command(flatten)]
    pub moving: MovingArgs,
}

/// How the new consumers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RollbackMode {
    /// They consume: nothing is lost, nothing comes twice.
    Healthy,
    /// They do not: nothing is lost, what they consumed since the cutover comes again.
    Broken,
}

/// `nsqbridge complete`.
#[derive(Debug, Args)]
pub struct CompleteArgs {
    /// The channel, by its NSQ names.
    #[arg(value_name = "TOPIC/CHANNEL")]
    pub channel: ChannelPath,
    /// The consumer group it became.
    #[arg(long, value_name = "GROUP", env = "NSQBRIDGE_GROUP")]
    pub group: Option<String>,
    /// The channel's name once more, as confirmation; needed with --yes.
    #[arg(long, value_name = "TOPIC/CHANNEL", env = "NSQBRIDGE_NAME")]
    pub name: Option<ChannelPath>,
    /// What all of them have.
    #[command(flatten)]
    pub moving: MovingArgs,
}

/// `nsqbridge rehearse`.
#[derive(Debug, Args)]
pub struct RehearseArgs {
    /// The topic, by its NSQ name.
    pub topic: TopicName,
    /// How long the relay may be held, each time.
    #[command(flatten)]
    pub pause: PauseArgs,
    /// What all of them have.
    #[command(flatten)]
    pub moving: MovingArgs,
}
