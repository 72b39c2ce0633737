//! `nsqbridge verify`.

use std::time::Duration;

use clap::Args;

use super::shared::{NamesArgs, Output, PlanArg, RocketmqArgs};
use crate::nsq::{address::HttpAddress, names::TopicName};

/// `nsqbridge verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The topic, by its NSQ name.
    pub topic: TopicName,
    /// Length of the window, in whole minutes: messages accepted in it are checked.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration, env = "NSQBRIDGE_VERIFY_WINDOW")]
    pub window: Duration,
    /// How long ago the window ends; younger messages may not be recorded yet.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = humantime::parse_duration, env = "NSQBRIDGE_VERIFY_UNTIL")]
    pub until: Duration,
    /// Also compare with the counters of the nsqds this nsqlookupd lists; repeat it for several.
    #[arg(long, value_name = "HOST:PORT", env = "NSQBRIDGE_LOOKUPD_HTTP_ADDRESS", value_delimiter = ',')]
    pub lookupd_http_address: Vec<HttpAddress>,
    /// Also compare with this nsqd's counters, by the address the relay knows it by; repeat it for several.
    #[arg(long, value_name = "HOST:PORT", env = "NSQBRIDGE_NSQD_HTTP_ADDRESS", value_delimiter = ',')]
    pub nsqd_http_address: Vec<HttpAddress>,
    /// Relay missing messages that the relay has passed to the first nsqd given, after asking.
    #[arg(long, env = "NSQBRIDGE_VERIFY_REPAIR", requires = "nsqd_http_address")]
    pub repair: bool,
    /// Do not ask for confirmation.
    #[arg(short, long, env = "NSQBRIDGE_YES")]
    pub yes: bool,
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
