//! The command line: what can be asked of `nsqbridge`.
//!
//! Every setting of a role is a flag, an environment variable and a key of the configuration file, with the same check
//! ([`crate::config`]). What several settings must be together is checked in [`crate::run`], wherever they came from.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod gateway;
mod intake;
mod migration;
mod moving;
mod shared;
mod tools;
mod transfer;
mod verify;

pub use gateway::*;
pub use intake::*;
pub use migration::*;
pub use moving::*;
pub use shared::{AddressOrNone, AdminArgs, NamesArgs, Output, PlanArg, ProcessArgs, RocketmqArgs};
pub use tools::*;
pub use transfer::*;
pub use verify::*;

/// Moves a running NSQ installation to Apache RocketMQ: no flag day, no lost message.
///
/// Point producers at `nsqbridge gateway` instead of nsqd, run `nsqbridge transfer` for the topics, and NSQ consumers
/// notice nothing.
#[derive(Debug, Parser)]
#[command(name = "nsqbridge", version, max_term_width = 110, propagate_version = true)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 blocked by checks, 3 usage.\n\
    SIGTERM or SIGINT: finish what was begun, then exit 0; a second signal stops at once with 1.")]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
    /// Read settings from this TOML file; flags win over the environment, and both over the file.
    #[arg(
        short = 'c',
        long,
        global = true,
        value_name = "FILE",
        env = "NSQBRIDGE_CONFIG",
        help_heading = "Configuration file"
    )]
    pub config: Option<PathBuf>,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// How to log.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// Log at this level and above: error, warn, info, debug, trace.
    #[arg(
        id = "log_level",
        long = "log-level",
        value_name = "LEVEL",
        global = true,
        default_value = "info",
        env = "NSQBRIDGE_LOG_LEVEL"
    )]
    pub level: tracing::level_filters::LevelFilter,
    /// Log for people, or one JSON object a line.
    #[arg(
        id = "log_format",
        long = "log-format",
        value_name = "FORMAT",
        global = true,
        value_enum,
        default_value = "human",
        env = "NSQBRIDGE_LOG_FORMAT"
    )]
    pub format: LogFormat,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// What to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// One role.
    #[command(flatten)]
    Role(Role),
    /// Run every role the configuration file has a section for, in one process.
    #[command(after_help = "Example:\n  \
        nsqbridge run -c bridge.toml     (docs/bridge.toml is an annotated one)")]
    Run(RunArgs),
    /// What is asked or done once.
    #[command(flatten)]
    Ask(Question),
}

/// What goes on until it is told to stop.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Stand in for nsqd: store what producers publish over HTTP or TCP in RocketMQ.
    ///
    /// Serves nsqd's HTTP API and, to producers, its TCP protocol. A publish is answered `OK` only when RocketMQ has answered `SEND_OK`
    /// or, with --on-unavailable spool, when it is synced to this machine's disk; otherwise the producer gets an error, as from nsqd.
    #[command(after_help = "Example:\n  \
        nsqbridge gateway --namesrv rmq-1:9876 --http-address 0.0.0.0:4151 --tcp-address 0.0.0.0:4150\n  \
        curl -d 'hello' 'http://127.0.0.1:4151/pub?topic=bridge-test'\n  \
        echo hello | to_nsq -topic bridge-test -nsqd-tcp-address 127.0.0.1:4150")]
    Gateway(Box<GatewayArgs>),
    /// Relay topics from RocketMQ back into nsqd, for consumers that have not moved yet.
    ///
    /// Start as many instances as you like with the same topics: they share the queues, and no two relay one at a time.
    /// Before the first message, the topic and every known channel are created on each nsqd, but for #ephemeral channels.
    #[command(after_help = "Examples:\n  \
        nsqbridge transfer --namesrv rmq-1:9876 --topic orders --lookupd-http-address lookup-1:4161\n  \
        nsqbridge transfer --namesrv rmq-1:9876 --topic orders --nsqd-http-address nsqd-1:4151")]
    Transfer(Box<TransferArgs>),
    /// Take in what producers still publish to an nsqd: store it in RocketMQ, for consumers that have moved.
    ///
    /// Each nsqd is written either by such producers or by the relay: one that a relay writes to is refused, with exit code 2. What is
    /// taken in is marked, and never relayed back.
    #[command(after_help = "Examples:\n  \
        nsqbridge intake --namesrv rmq-1:9876 --topic orders --nsqd-http-address nsqd-1:4151\n  \
        nsqbridge intake --namesrv rmq-1:9876 --topic orders --nsqd-http-address nsqd-1:4151 --retire")]
    Intake(Box<IntakeArgs>),
}

/// What is asked or done once.
#[derive(Debug, Subcommand)]
pub enum Question {
    /// Check RocketMQ and NSQ before or during a migration, and say what to do about each problem.
    ///
    /// Changes nothing. Exits with 2 when something keeps the bridge from working.
    #[command(after_help = "Example:\n  \
        nsqbridge doctor --namesrv rmq-1:9876 --lookupd-http-address lookup-1:4161")]
    Doctor(Box<DoctorArgs>),
    /// Show which instance relays which topic, how far behind it is, and why.
    ///
    /// The running instances are asked through the brokers, so this works from wherever RocketMQ can be reached.
    #[command(after_help = "Examples:\n  \
        nsqbridge status --namesrv rmq-1:9876\n  \
        nsqbridge status --namesrv rmq-1:9876 orders -w")]
    Status(Box<StatusArgs>),
    /// Pause, resume or slow down every running relay of a topic.
    ///
    /// Acts at once, without --execute or a question, and lasts as long as the instances run: one that starts later begins with its
    /// own settings.
    #[command(after_help = "Examples:\n  \
        nsqbridge relay pause orders --namesrv rmq-1:9876\n  \
        nsqbridge relay rate orders 500 --namesrv rmq-1:9876")]
    Relay(Box<RelayArgs>),
    /// List, show, retry or drop the messages of a topic that nsqd would not take.
    ///
    /// `retry` and `drop` act at once, without --execute or a question.
    #[command(after_help = "Examples:\n  \
        nsqbridge parked list orders --namesrv rmq-1:9876\n  \
        nsqbridge parked show orders broker-a:3:1712 --namesrv rmq-1:9876\n  \
        nsqbridge parked retry orders --nsqd-http-address nsqd-1:4151 --namesrv rmq-1:9876")]
    Parked(Box<ParkedArgs>),
    /// Check that every message accepted in a time window reached every hop, and list those that did not.
    ///
    /// Gateways and relays record what passes through them; `verify` compares that with what RocketMQ has. Exits with 0 when nothing
    /// is missing, 1 for a loss, 2 when it cannot tell. Changes nothing without --repair.
    #[command(after_help = "Examples:\n  \
        nsqbridge verify orders --namesrv rmq-1:9876\n  \
        nsqbridge verify orders --namesrv rmq-1:9876 --window 1d --lookupd-http-address lookup-1:4161\n  \
        nsqbridge verify orders --namesrv rmq-1:9876 --nsqd-http-address nsqd-1:4151 --repair")]
    Verify(Box<VerifyArgs>),
    /// Show what a running NSQ has: topics, channels, rates, producers and consumers; and draft a plan from it.
    ///
    /// Changes nothing.
    #[command(after_help = "Examples:\n  \
        nsqbridge scan --lookupd-http-address lookup-1:4161\n  \
        nsqbridge scan --lookupd-http-address lookup-1:4161 -n rmq-1:9876 --write-plan orders.toml")]
    Scan(Box<ScanArgs>),
    /// Check a plan against the running systems: what blocks it, what to know, and what it would create and change.
    ///
    /// Changes nothing. Exits with 2 when something blocks.
    #[command(after_help = "Example:\n  \
        nsqbridge plan -f orders.toml     (migration-plans/ has examples)")]
    Plan(Box<PlanArgs>),
    /// Move a channel's consumer to a RocketMQ consumer group, exactly and with a way back.
    ///
    /// Shows what it would do; with --execute, does it. The topic's relay is held until the channel's consumers have finished all they
    /// have; then the channel is paused, and the group begins exactly there: nothing is lost, nor doubled by a consumer that lets go
    /// of what nsqd takes back from it. Started again after an interruption, it finishes or undoes what was begun.
    #[command(after_help = "Examples:\n  \
        nsqbridge cutover orders/billing --namesrv rmq-1:9876\n  \
        nsqbridge cutover orders/billing --namesrv rmq-1:9876 --execute --max-pause 10s")]
    Cutover(Box<CutoverArgs>),
    /// Give a channel that was cut over back to its NSQ consumers.
    ///
    /// With --mode healthy nothing comes twice. With --mode broken what the group has consumed since the cutover comes again; the
    /// command shows how much before it asks. Nothing is lost either way, but for what docs/playbook.md names in section 6: what an
    /// nsqd that crashes meanwhile had in memory.
    #[command(after_help = "Example:\n  \
        nsqbridge rollback orders/billing --mode broken --namesrv rmq-1:9876 --execute")]
    Rollback(Box<RollbackArgs>),
    /// Delete a channel whose consumer has moved for good. There is no way back.
    ///
    /// Where there are nsqlookupds, give all of them with --lookupd-http-address: one that is left out still lists the channel, and an
    /// nsqd that gets the topic later creates it again.
    #[command(after_help = "Example:\n  \
        nsqbridge complete orders/billing --namesrv rmq-1:9876 --lookupd-http-address lookup-1:4161 --execute")]
    Complete(Box<CompleteArgs>),
    /// Rehearse cutover and rollback on a scratch channel of a topic, with a small counting consumer on each side.
    ///
    /// It works with the topic's live traffic: the relay of all its channels is held five times, each time for at most --max-pause.
    #[command(after_help = "Example:\n  \
        nsqbridge rehearse orders --namesrv rmq-1:9876 --lookupd-http-address lookup-1:4161 --execute")]
    Rehearse(Box<RehearseArgs>),
}

/// `nsqbridge run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Where monitoring finds the process.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// How the process works.
    #[command(flatten)]
    pub process: ProcessArgs,
}
