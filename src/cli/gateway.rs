//! `nsqbridge gateway`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use crate::{
    gateway::spool::OnUnavailable,
    mapping::{Share, ShareError},
    nsq::names::TopicName,
};

use super::shared::{
    AddressOrNone, AdminArgs, NamesArgs, ProcessArgs, RocketmqArgs, listen_address, listen_address_or_none,
    size,
};

/// `nsqbridge gateway`.
#[derive(Debug, Args)]
pub struct GatewayArgs {
    /// Listen here for producers that speak HTTP; nsqd's own port by default.
    #[arg(
        long,
        value_name = "IP:PORT",
        default_value = "0.0.0.0:4151",
        value_parser = listen_address,
        env = "NSQBRIDGE_HTTP_ADDRESS"
    )]
    pub http_address: SocketAddr,
    /// Listen here for producers that speak nsqd's TCP protocol; nsqd's own port by default. An empty address serves none.
    #[arg(
        long,
        value_name = "IP:PORT",
        default_value = "0.0.0.0:4150",
        value_parser = listen_address_or_none,
        env = "NSQBRIDGE_TCP_ADDRESS"
    )]
    pub tcp_address: AddressOrNone,
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
    /// Record in RocketMQ (topic %audit%TOPIC) how many messages were accepted and a digest of their ids, for `nsqbridge verify`.
    #[arg(long, env = "NSQBRIDGE_AUDIT", action = clap::ArgAction::Set, value_name = "BOOL", default_value = "true")]
    pub audit: bool,
    /// For a channel moved by share: stamp this percentage (0 to 100) of the topic's messages for its consumer group, with the property
    /// nsq_share_CHANNEL. The body alone decides: its CRC-32 modulo 100 is below PERCENT. Repeat it for several.
    #[arg(long, value_name = "TOPIC/CHANNEL=PERCENT", value_parser = share, env = "NSQBRIDGE_SHARE", value_delimiter = ',')]
    pub share: Vec<(Share, u8)>,
    /// What each topic is to be.
    #[command(flatten)]
    pub topics: TopicsArgs,
    /// What may be held in memory.
    #[command(flatten)]
    pub bounds: BoundsArgs,
    /// What becomes of publishes while RocketMQ is not available.
    #[command(flatten)]
    pub spool: SpoolArgs,
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
    /// A `defer` that a RocketMQ 4 broker cannot keep exactly: round it up to the next delay level, or refuse it with 400 INVALID_DEFER.
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
#[command(next_help_heading = "Limits (beyond them HTTP gets 503 at once; TCP waits first)")]
pub struct BoundsArgs {
    /// Bytes of requests being read or waiting for RocketMQ.
    #[arg(long, value_name = "BYTES", default_value = "268435456", value_parser = size(1 << 40), env = "NSQBRIDGE_MAX_IN_FLIGHT_BYTES")]
    pub max_in_flight_bytes: usize,
    /// Of these, bytes that wait for one topic, so that a stuck topic leaves room for the others.
    #[arg(long, value_name = "BYTES", default_value = "67108864", value_parser = size(1 << 40), env = "NSQBRIDGE_MAX_TOPIC_BYTES")]
    pub max_topic_bytes: usize,
    /// HTTP requests being read or waiting for RocketMQ; TCP is limited by its bytes, and per connection.
    #[arg(long, value_name = "N", default_value = "10000", value_parser = size(1 << 24), env = "NSQBRIDGE_MAX_IN_FLIGHT_REQUESTS")]
    pub max_in_flight_requests: usize,
    /// How long a request's body may take to arrive; slower ones are refused, for they hold memory.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration, env = "NSQBRIDGE_BODY_TIMEOUT")]
    pub body_timeout: Duration,
    /// Open connections; more are closed at once.
    #[arg(long, value_name = "N", default_value = "20000", value_parser = size(1 << 20), env = "NSQBRIDGE_MAX_CONNECTIONS")]
    pub max_connections: usize,
    /// Topics with metrics of their own; the rest share one label.
    #[arg(long, value_name = "N", default_value = "200", value_parser = size(100_000), env = "NSQBRIDGE_MAX_TOPIC_LABELS")]
    pub max_topic_labels: usize,
}

/// What becomes of publishes while RocketMQ is not available.
#[derive(Debug, Args)]
#[command(next_help_heading = "Spool (while RocketMQ is not available)")]
pub struct SpoolArgs {
    /// Publishes that RocketMQ does not take: answer 503, or keep them on this machine's disk, answer OK, and send them to RocketMQ when
    /// it is back.
    #[arg(long, value_name = "POLICY", default_value = "refuse", value_parser = policy, env = "NSQBRIDGE_ON_UNAVAILABLE")]
    pub on_unavailable: OnUnavailable,
    /// The same for one topic; repeat it for several.
    #[arg(long, value_name = "TOPIC=POLICY", value_parser = topic_policy, env = "NSQBRIDGE_ON_UNAVAILABLE_OF", value_delimiter = ',')]
    pub on_unavailable_of: Vec<(TopicName, OnUnavailable)>,
    /// Keep them in this folder, which no other gateway may use. What was left there is sent to RocketMQ whatever the policies are.
    #[arg(long, value_name = "FOLDER", env = "NSQBRIDGE_SPOOL_PATH")]
    pub spool_path: Option<PathBuf>,
    /// How long a publish is tried before it is spooled; at least 500ms less than --publish-timeout.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration, env = "NSQBRIDGE_SPOOL_AFTER")]
    pub spool_after: Duration,
    /// The largest spool, in bytes; beyond it publishes are answered 503.
    #[arg(long, value_name = "BYTES", default_value = "1073741824", value_parser = size(1 << 50), env = "NSQBRIDGE_SPOOL_MAX_BYTES")]
    pub spool_max_bytes: usize,
    /// The same for the spooled messages of one topic.
    #[arg(long, value_name = "BYTES", default_value = "1073741824", value_parser = size(1 << 50), env = "NSQBRIDGE_SPOOL_MAX_TOPIC_BYTES")]
    pub spool_max_topic_bytes: usize,
    /// A topic whose oldest spooled message has waited longer is spooled no further: 503.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration, env = "NSQBRIDGE_SPOOL_MAX_AGE")]
    pub spool_max_age: Duration,
    /// Percent of the disk in use, by anything, beyond which nothing more is spooled.
    #[arg(long, value_name = "PERCENT", default_value = "80", value_parser = clap::value_parser!(u8).range(1..=100), env = "NSQBRIDGE_SPOOL_MAX_DISK_USE")]
    pub spool_max_disk_use: u8,
    /// How long a graceful stop waits for RocketMQ to take what is spooled; the rest is kept for the next start.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration, env = "NSQBRIDGE_SPOOL_DRAIN_ON_STOP")]
    pub spool_drain_on_stop: Duration,
}

fn policy(text: &str) -> Result<OnUnavailable, String> {
    match text {
        "refuse" => Ok(OnUnavailable::Refuse),
        "spool" => Ok(OnUnavailable::Spool),
        _ => Err("refuse or spool is accepted".to_owned()),
    }
}

fn topic_policy(text: &str) -> Result<(TopicName, OnUnavailable), String> {
    let (topic, to) = text.split_once('=').ok_or("TOPIC=refuse or TOPIC=spool is accepted")?;
    Ok((topic.parse().map_err(|error| format!("{error}"))?, policy(to)?))
}

fn share(text: &str) -> Result<(Share, u8), String> {
    let accepted = "TOPIC/CHANNEL=PERCENT with 0 to 100 percent is accepted";
    let (channel, percent) = text.split_once('=').ok_or(accepted)?;
    let percent = percent.parse().ok().filter(|percent| *percent <= 100).ok_or(accepted)?;
    Ok((channel.parse().map_err(|error: ShareError| error.to_string())?, percent))
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
