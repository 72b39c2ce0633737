//! `nsqbridge intake`.

use std::time::Duration;

use clap::Args;

use super::shared::{AdminArgs, NamesArgs, ProcessArgs, RocketmqArgs, size};
use crate::{
    mapping::{INTAKE_CHANNEL, is_intake},
    nsq::{
        address::HttpAddress,
        names::{ChannelName, TopicName},
    },
};

/// `nsqbridge intake`.
#[derive(Debug, Args)]
pub struct IntakeArgs {
    /// A topic to take in, by its NSQ name; repeat it for several.
    #[arg(long, value_name = "TOPIC", env = "NSQBRIDGE_INTAKE_TOPIC", value_delimiter = ',')]
    pub topic: Vec<TopicName>,
    /// The channel to take it in through. Its name begins with nsqbridge-intake, so that relays leave its nsqd alone.
    #[arg(long, value_name = "CHANNEL", default_value = INTAKE_CHANNEL, value_parser = channel, env = "NSQBRIDGE_INTAKE_CHANNEL")]
    pub channel: ChannelName,
    /// An nsqd that producers publish to, and no relay; repeat it for several. Messages come from its TCP port on the same host, as its
    /// /info tells it. Relays leave it out with --leave-out.
    #[arg(long, value_name = "HOST:PORT", env = "NSQBRIDGE_INTAKE_NSQD_HTTP_ADDRESS", value_delimiter = ',')]
    pub nsqd_http_address: Vec<HttpAddress>,
    /// Messages in flight, of all topics and nsqds together, at least one of each.
    #[arg(long, value_name = "MESSAGES", default_value = "1000", value_parser = size(1 << 20), env = "NSQBRIDGE_INTAKE_MAX_IN_FLIGHT")]
    pub max_in_flight: usize,
    /// Message bytes in flight, beyond which nsqd is asked for no more; what it has already sent still comes.
    #[arg(long, value_name = "BYTES", default_value = "134217728", value_parser = size(1 << 40), env = "NSQBRIDGE_INTAKE_MAX_IN_FLIGHT_BYTES")]
    pub max_in_flight_bytes: usize,
    /// Queues a new topic gets on each broker.
    #[arg(long, value_name = "QUEUES", default_value = "8", value_parser = clap::value_parser!(u32).range(1..=1024), env = "NSQBRIDGE_INTAKE_TOPIC_QUEUES")]
    pub topic_queues: u32,
    /// How long a graceful stop waits for RocketMQ to answer; nsqd is told to wait meanwhile.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration, env = "NSQBRIDGE_INTAKE_DRAIN_TIMEOUT")]
    pub drain_timeout: Duration,
    /// End the intake of these topics on these nsqds, once no producer publishes there any more and everything is finished, stored and
    /// passed by the relay: delete the channels. Name all the nsqds.
    #[arg(long, value_name = "BOOL", env = "NSQBRIDGE_INTAKE_RETIRE", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub retire: bool,
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

fn channel(text: &str) -> Result<ChannelName, String> {
    let channel: ChannelName = text.parse().map_err(|error| format!("{error}"))?;
    // An ephemeral one would vanish with what it has whenever the intake is away.
    if is_intake(&channel) && !channel.is_ephemeral() {
        Ok(channel)
    } else {
        Err(format!("a name that begins with {INTAKE_CHANNEL}, and is not ephemeral, is accepted"))
    }
}
