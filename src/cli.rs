//! The command line: what can be asked of `nsqbridge`.
//!
//! Every setting is a flag, an environment variable and a key of the configuration file, by the same name and with the same
//! check ([`crate::config`]). What several settings must be together is checked in [`crate::run`], wherever they came from.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use regex_lite::Regex;

use crate::nsq::{address::HttpAddress, names::TopicName};

/// Moves a running NSQ installation to Apache RocketMQ: no flag day, no lost message.
///
/// Point producers at `nsqbridge gateway` instead of nsqd, run `nsqbridge transfer` for each topic, and NSQ consumers
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
    /// Log what is at least this important: error, warn, info, debug, trace.
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

/// The roles.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take nsqd's place for producers: store what they publish over HTTP in RocketMQ.
    ///
    /// Serves nsqd's HTTP API. A publish is answered `OK` only when RocketMQ has answered `SEND_OK`; otherwise the
    /// producer hears an error, as it would from nsqd.
    #[command(after_help = "Example:\n  \
        nsqbridge gateway --namesrv rmq-1:9876 --http-address 0.0.0.0:4151\n  \
        curl -d 'hello' 'http://127.0.0.1:4151/pub?topic=orders'")]
    Gateway(Box<GatewayArgs>),
    /// Relay topics from RocketMQ back into nsqd, for consumers that have not moved yet.
    ///
    /// Start as many instances as you like with the same topics: they share the queues, and none is relayed twice.
    /// Before the first message, the topic and every known channel are created on each nsqd.
    #[command(after_help = "Examples:\n  \
        nsqbridge transfer --namesrv rmq-1:9876 --topic orders --lookupd-http-address lookup-1:4161\n  \
        nsqbridge transfer --namesrv rmq-1:9876 --topic orders --nsqd-http-address nsqd-1:4151")]
    Transfer(Box<TransferArgs>),
    /// Run every role the configuration file has a section for, in one process.
    #[command(after_help = "Example:\n  \
        nsqbridge run -c bridge.toml     (docs/bridge.toml is an annotated one)")]
    Run(RunArgs),
    /// Look at RocketMQ and NSQ before or during a migration, and say what to do about what is not as it should be.
    ///
    /// Changes nothing. Exits with 2 when something keeps the bridge from its work.
    #[command(after_help = "Example:\n  \
        nsqbridge doctor --namesrv rmq-1:9876 --lookupd-http-address lookup-1:4161")]
    Doctor(Box<DoctorArgs>),
    /// Show which instance relays what, how far it is, and why it is not further.
    ///
    /// The running instances are asked through the brokers, so this works from wherever RocketMQ can be reached.
    #[command(after_help = "Examples:\n  \
        nsqbridge status --namesrv rmq-1:9876\n  \
        nsqbridge status --namesrv rmq-1:9876 orders -w")]
    Status(Box<StatusArgs>),
    /// Pause, resume or slow down every running relay of a topic.
    ///
    /// Lasts as long as the instances run: one that starts later begins with its own settings.
    #[command(after_help = "Examples:\n  \
        nsqbridge relay pause orders --namesrv rmq-1:9876\n  \
        nsqbridge relay rate orders 500 --namesrv rmq-1:9876")]
    Relay(Box<RelayArgs>),
    /// List, show or try again the messages of a topic that nsqd would not take.
    #[command(after_help = "Examples:\n  \
        nsqbridge parked list orders --namesrv rmq-1:9876\n  \
        nsqbridge parked show orders broker-a:3:1712 --namesrv rmq-1:9876\n  \
        nsqbridge parked retry orders --nsqd-http-address nsqd-1:4151 --namesrv rmq-1:9876")]
    Parked(Box<ParkedArgs>),
}

/// How to reach RocketMQ.
#[derive(Debug, Args)]
#[command(next_help_heading = "RocketMQ")]
pub struct RocketmqArgs {
    /// Name servers, separated by semicolons.
    #[arg(
        short = 'n',
        long,
        value_name = "HOST:PORT[;HOST:PORT]",
        env = "NAMESRV_ADDR",
        value_delimiter = ';'
    )]
    pub namesrv: Vec<HttpAddress>,
    /// Speak TLS, trusting the certificate authorities in this PEM file.
    #[arg(long, value_name = "FILE", env = "NSQBRIDGE_ROCKETMQ_TLS_CA")]
    pub rocketmq_tls_ca: Option<PathBuf>,
    /// Show this certificate chain (PEM) to brokers that ask for one.
    #[arg(long, value_name = "FILE", env = "NSQBRIDGE_ROCKETMQ_TLS_CERT")]
    pub rocketmq_tls_cert: Option<PathBuf>,
    /// The private key (PEM) of that certificate.
    #[arg(long, value_name = "FILE", env = "NSQBRIDGE_ROCKETMQ_TLS_KEY")]
    pub rocketmq_tls_key: Option<PathBuf>,
    /// Sign requests with this access key. The secret key comes from the environment variable
    /// NSQBRIDGE_SECRET_KEY or from --secret-key-file, so that no process list shows it.
    #[arg(long, value_name = "KEY", env = "NSQBRIDGE_ACCESS_KEY")]
    pub access_key: Option<String>,
    /// A file that holds the secret key.
    #[arg(long, value_name = "FILE", env = "NSQBRIDGE_SECRET_KEY_FILE")]
    pub secret_key_file: Option<PathBuf>,
}

/// What topics are called.
#[derive(Debug, Args)]
pub struct NamesArgs {
    /// Keep an NSQ topic under another name in RocketMQ; repeat it for several. All gateways and relays must agree.
    #[arg(long, value_name = "TOPIC=ROCKETMQ_TOPIC", value_parser = rename, env = "NSQBRIDGE_RENAME", value_delimiter = ',')]
    pub rename: Vec<(TopicName, String)>,
    /// The consumer group of a topic's relay is this, a dash and the topic. All gateways and relays must agree.
    #[arg(long, value_name = "PREFIX", default_value = "nsqbridge-transfer", env = "NSQBRIDGE_GROUP_PREFIX")]
    pub group_prefix: String,
}

/// Where monitoring finds the process.
#[derive(Debug, Args)]
#[command(next_help_heading = "Monitoring")]
pub struct AdminArgs {
    /// Serve /livez, /readyz and /metrics here; an empty address serves them nowhere. By default loopback, port 4153 for a
    /// gateway, 4154 for a relay, 4155 for `run`.
    #[arg(long, value_name = "HOST:PORT", env = "NSQBRIDGE_ADMIN_ADDRESS", value_parser = address_or_none)]
    pub admin_address: Option<AdminAddress>,
}

/// An address to listen on, or none.
#[derive(Debug, Clone, Copy)]
pub struct AdminAddress(pub Option<SocketAddr>);

/// `nsqbridge gateway`.
#[derive(Debug, Args)]
pub struct GatewayArgs {
    /// Listen here for producers; nsqd's own port by default.
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:4151", env = "NSQBRIDGE_HTTP_ADDRESS")]
    pub http_address: SocketAddr,
    /// What this gateway calls itself in /info and on each message; the host's name by default (nsqd's flag).
    #[arg(long, value_name = "HOST", env = "NSQBRIDGE_BROADCAST_ADDRESS")]
    pub broadcast_address: Option<String>,
    /// The largest message, in bytes (nsqd's flag and default).
    #[arg(long, value_name = "BYTES", default_value = "1048576", value_parser = size(4_194_304), env = "NSQBRIDGE_MAX_MSG_SIZE")]
    pub max_msg_size: usize,
    /// The largest request body, in bytes (nsqd's flag and default).
    #[arg(long, value_name = "BYTES", default_value = "5242880", value_parser = size(1 << 30), env = "NSQBRIDGE_MAX_BODY_SIZE")]
    pub max_body_size: usize,
    /// The longest `defer` (nsqd's flag and default).
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration, env = "NSQBRIDGE_MAX_REQ_TIMEOUT")]
    pub max_req_timeout: Duration,
    /// How long a publish is tried before the producer hears 503; keep it below the producers' own timeout.
    #[arg(long, value_name = "DURATION", default_value = "4s", value_parser = humantime::parse_duration, env = "NSQBRIDGE_PUBLISH_TIMEOUT")]
    pub publish_timeout: Duration,
    /// What each topic is to be.
    #[command(flatten)]
    pub topics: TopicsArgs,
    /// What may be held in memory.
    #[command(flatten)]
    pub bounds: BoundsArgs,
    /// What topics are called.
    #[command(flatten)]
    pub names: NamesArgs,
    /// How to reach RocketMQ.
    #[command(flatten)]
    pub rocketmq: RocketmqArgs,
    /// Where monitoring finds the process.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// What the topics of a gateway are to be.
#[derive(Debug, Args)]
#[command(next_help_heading = "Topics")]
pub struct TopicsArgs {
    /// Queues a new topic gets on each broker.
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u32).range(1..=1024), env = "NSQBRIDGE_TOPIC_QUEUES")]
    pub topic_queues: u32,
    /// Topics nobody has created: create them on every broker, as nsqd does, or refuse them with 404 TOPIC_NOT_FOUND.
    #[arg(
        long,
        value_enum,
        value_name = "POLICY",
        default_value = "create",
        env = "NSQBRIDGE_UNKNOWN_TOPICS"
    )]
    pub unknown_topics: UnknownTopics,
    /// Topics that end in #ephemeral: store them as durably as the others, or refuse them with 400 INVALID_TOPIC.
    #[arg(
        long,
        value_enum,
        value_name = "POLICY",
        default_value = "store",
        env = "NSQBRIDGE_EPHEMERAL_TOPICS"
    )]
    pub ephemeral_topics: EphemeralTopics,
    /// A `defer` a RocketMQ 4 broker can only keep roughly: wait longer, or refuse it with 400 INVALID_DEFER.
    #[arg(
        long,
        value_enum,
        value_name = "POLICY",
        default_value = "round-up",
        env = "NSQBRIDGE_INEXACT_DEFER"
    )]
    pub inexact_defer: InexactDefer,
}

/// What may be held in memory.
#[derive(Debug, Args)]
#[command(next_help_heading = "Bounds (past them a publish is answered 503 at once)")]
pub struct BoundsArgs {
    /// Bytes of requests being read or waiting for RocketMQ.
    #[arg(long, value_name = "BYTES", default_value = "268435456", value_parser = size(1 << 40), env = "NSQBRIDGE_MAX_IN_FLIGHT_BYTES")]
    pub max_in_flight_bytes: usize,
    /// Of these, bytes that wait for one topic, so that one that is stuck leaves room for the others.
    #[arg(long, value_name = "BYTES", default_value = "67108864", value_parser = size(1 << 40), env = "NSQBRIDGE_MAX_TOPIC_BYTES")]
    pub max_topic_bytes: usize,
    /// Requests being read or waiting for RocketMQ.
    #[arg(long, value_name = "N", default_value = "10000", value_parser = size(1 << 24), env = "NSQBRIDGE_MAX_IN_FLIGHT_REQUESTS")]
    pub max_in_flight_requests: usize,
    /// Open connections; more are closed at once.
    #[arg(long, value_name = "N", default_value = "20000", value_parser = size(1 << 20), env = "NSQBRIDGE_MAX_CONNECTIONS")]
    pub max_connections: usize,
    /// Topics with metrics of their own; the rest share one label.
    #[arg(long, value_name = "N", default_value = "200", value_parser = size(100_000), env = "NSQBRIDGE_MAX_TOPIC_LABELS")]
    pub max_topic_labels: usize,
}

/// What to do with a publish to a topic nobody has created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UnknownTopics {
    /// Create it.
    Create,
    /// 404.
    Refuse,
}

/// What to do with a publish to an ephemeral topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EphemeralTopics {
    /// Store it like any other.
    Store,
    /// 400.
    Refuse,
}

/// What to do with a delay that cannot be kept exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InexactDefer {
    /// The next longer one.
    RoundUp,
    /// 400.
    Refuse,
}

/// `nsqbridge transfer`.
#[derive(Debug, Args)]
pub struct TransferArgs {
    /// A topic to relay, by its NSQ name; repeat it for several.
    #[arg(long, value_name = "TOPIC", env = "NSQBRIDGE_TOPIC", value_delimiter = ',')]
    pub topic: Vec<TopicName>,
    /// Relay every topic RocketMQ has whose whole NSQ name matches this regular expression; `.*` is all of them. New ones are
    /// found while running.
    #[arg(long, value_name = "REGEX", env = "NSQBRIDGE_TOPIC_PATTERN", value_parser = pattern)]
    pub topic_pattern: Option<Regex>,
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
    /// 0 for any number. RocketMQ is the better place to wait.
    #[arg(long, value_name = "MESSAGES", default_value = "0", env = "NSQBRIDGE_MAX_DEPTH")]
    pub max_depth: u64,
    /// Messages a second of one topic that this instance sends; 0 for any number. `nsqbridge relay rate` changes it.
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
    /// A record in RocketMQ that cannot be read: park it as it came and go on, or hold its queue before it.
    #[arg(long, value_enum, value_name = "POLICY", default_value = "park", env = "NSQBRIDGE_ON_UNREADABLE")]
    pub on_unreadable: UnreadablePolicy,
    /// Keep the order of each queue as far as NSQ can: always into the same nsqd, one batch after the other. Slower, and an nsqd
    /// that is away moves its queues to another.
    #[arg(long, env = "NSQBRIDGE_ORDERED", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub ordered: bool,
    /// When the committed offset lies outside its queue (messages expired, or it was reset): hold the queue, continue with the
    /// nearest message there is, or replay from the oldest.
    #[arg(long, value_enum, value_name = "POLICY", default_value = "hold", env = "NSQBRIDGE_ON_GAP")]
    pub on_gap: GapPolicy,
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
}

/// What a relay does with a record it cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UnreadablePolicy {
    /// Park it.
    Park,
    /// Wait for a person.
    Hold,
}

/// What a relay does at an offset its queue does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GapPolicy {
    /// Wait for a person.
    Hold,
    /// Give up what is missing.
    Continue,
    /// Relay all there is again.
    Replay,
}

/// `nsqbridge run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Where monitoring finds the process.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// `nsqbridge doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Look at this nsqlookupd and the nsqds it lists; repeat it for several.
    #[arg(long, value_name = "HOST:PORT", env = "NSQBRIDGE_LOOKUPD_HTTP_ADDRESS", value_delimiter = ',')]
    pub lookupd_http_address: Vec<HttpAddress>,
    /// Look at this nsqd; repeat it for several.
    #[arg(long, value_name = "HOST:PORT", env = "NSQBRIDGE_NSQD_HTTP_ADDRESS", value_delimiter = ',')]
    pub nsqd_http_address: Vec<HttpAddress>,
    /// Look at this topic's name, beside those the nsqds have; repeat it for several.
    #[arg(long, value_name = "TOPIC", env = "NSQBRIDGE_TOPIC", value_delimiter = ',')]
    pub topic: Vec<TopicName>,
    /// The gateway's --max-msg-size.
    #[arg(long, value_name = "BYTES", default_value = "1048576", value_parser = size(4_194_304), env = "NSQBRIDGE_MAX_MSG_SIZE")]
    pub max_msg_size: usize,
    /// The gateway's --max-req-timeout.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration, env = "NSQBRIDGE_MAX_REQ_TIMEOUT")]
    pub max_req_timeout: Duration,
    /// How long each question may take.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = humantime::parse_duration, env = "NSQBRIDGE_DOCTOR_TIMEOUT")]
    pub timeout: Duration,
    /// How to show what was found.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table", env = "NSQBRIDGE_OUTPUT")]
    pub output: Output,
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
    /// The topics, by their NSQ names; all that are or were relayed by default.
    pub topic: Vec<TopicName>,
    /// Show it again every two seconds.
    #[arg(short, long, env = "NSQBRIDGE_WATCH")]
    pub watch: bool,
    /// How to show it.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table", env = "NSQBRIDGE_OUTPUT")]
    pub output: Output,
    /// What topics are called.
    #[command(flatten)]
    pub names: NamesArgs,
    /// How to reach RocketMQ.
    #[command(flatten)]
    pub rocketmq: RocketmqArgs,
}

/// `nsqbridge relay`.
#[derive(Debug, Args)]
pub struct RelayArgs {
    /// What to do.
    #[arg(value_enum)]
    pub action: RelayAction,
    /// The topic, by its NSQ name.
    pub topic: TopicName,
    /// For `rate`: messages a second of each instance; 0 for any number.
    #[arg(required_if_eq("action", "rate"))]
    pub rate: Option<u64>,
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
    /// Go on.
    Resume,
    /// Send no more than this.
    Rate,
}

/// `nsqbridge parked`.
#[derive(Debug, Args)]
pub struct ParkedArgs {
    /// What to do.
    #[arg(value_enum)]
    pub action: ParkedAction,
    /// The topic, by its NSQ name.
    pub topic: TopicName,
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
    /// Say what there is.
    List,
    /// Write the body of one to standard output, as it is.
    Show,
    /// Publish all of them to an nsqd, in order, until one is refused again.
    Retry,
    /// Give the oldest one up.
    Drop,
}

/// How results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// A number from 1 to `max`.
fn size(max: u64) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| match text.parse::<u64>() {
        Ok(number) if (1..=max).contains(&number) => {
            usize::try_from(number).map_err(|error| error.to_string())
        }
        _ => Err(format!("a number from 1 to {max} is accepted")),
    }
}

fn drain_timeout(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    // Queue locks last 30 s and are not renewed while draining.
    if duration > Duration::from_secs(10) {
        return Err("at most 10s is accepted".to_owned());
    }
    Ok(duration)
}

fn pattern(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| error.to_string())
}

fn rename(text: &str) -> Result<(TopicName, String), String> {
    let (topic, to) = text.split_once('=').ok_or("TOPIC=ROCKETMQ_TOPIC is accepted")?;
    Ok((topic.parse().map_err(|error| format!("{error}"))?, to.to_owned()))
}

fn address_or_none(text: &str) -> Result<AdminAddress, String> {
    if text.is_empty() {
        return Ok(AdminAddress(None));
    }
    let address = text.parse().map_err(|_| "IP:PORT, or nothing, is accepted")?;
    Ok(AdminAddress(Some(address)))
}
