//! Commands of the migration itself.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::shared::{NamesArgs, Output, RocketmqArgs};
use crate::nsq::address::HttpAddress;

/// What every command that follows a plan has.
#[derive(Debug, Args)]
pub struct PlanFileArgs {
    /// The plan; migration-plans/ has an annotated one.
    #[arg(short = 'f', long = "plan", value_name = "FILE", env = "NSQBRIDGE_PLAN")]
    pub plan: PathBuf,
    /// How to show the outcome.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table", env = "NSQBRIDGE_OUTPUT")]
    pub output: Output,
    /// How to reach RocketMQ; --namesrv wins over the plan's.
    #[command(flatten)]
    pub rocketmq: RocketmqArgs,
}

/// `nsqbridge plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The plan, and how to reach RocketMQ.
    #[command(flatten)]
    pub file: PlanFileArgs,
    /// Time between the two samples that rates are computed from.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration, env = "NSQBRIDGE_SAMPLE")]
    pub sample: Duration,
    /// How long each request may take.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = humantime::parse_duration, env = "NSQBRIDGE_TIMEOUT")]
    pub timeout: Duration,
}

/// `nsqbridge scan`.
#[derive(Debug, Args)]
pub struct ScanArgs {
    /// Look at the nsqds this nsqlookupd lists; repeat it for several.
    #[arg(long, value_name = "HOST:PORT", env = "NSQBRIDGE_LOOKUPD_HTTP_ADDRESS", value_delimiter = ',')]
    pub lookupd_http_address: Vec<HttpAddress>,
    /// Look at this nsqd; repeat it for several.
    #[arg(long, value_name = "HOST:PORT", env = "NSQBRIDGE_NSQD_HTTP_ADDRESS", value_delimiter = ',')]
    pub nsqd_http_address: Vec<HttpAddress>,
    /// Time between the two samples that rates are computed from.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration, env = "NSQBRIDGE_SAMPLE")]
    pub sample: Duration,
    /// How long each request may take.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = humantime::parse_duration, env = "NSQBRIDGE_TIMEOUT")]
    pub timeout: Duration,
    /// How to show what is there; `plan` writes a draft of a plan.
    #[arg(
        short,
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "table",
        env = "NSQBRIDGE_SCAN_OUTPUT"
    )]
    pub output: ScanOutput,
    /// Also write a draft of a plan to this file, which must not exist yet.
    #[arg(long, value_name = "FILE", env = "NSQBRIDGE_WRITE_PLAN")]
    pub write_plan: Option<PathBuf>,
    /// What topics are to be called.
    #[command(flatten)]
    pub names: NamesArgs,
    /// How to reach RocketMQ; without --namesrv it is not looked at.
    #[command(flatten)]
    pub rocketmq: RocketmqArgs,
}

/// How an inventory is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScanOutput {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// As a draft of a plan.
    Plan,
}
