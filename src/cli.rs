//! The command line: what can be asked of `nsqbridge`, checked as far as words alone allow.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    /// Log what is at least this important: error, warn, info, debug, trace.
    #[arg(long, global = true, default_value = "info", env = "NSQBRIDGE_LOG_LEVEL", help_heading = "Logs")]
    pub log_level: tracing::level_filters::LevelFilter,
    /// Log for people, or one JSON object a line.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "human",
        env = "NSQBRIDGE_LOG_FORMAT",
        help_heading = "Logs"
    )]
    pub log_format: LogFormat,
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
    /// Serves nsqd's `POST /pub`, `POST /mpub` and `GET /ping`. A publish is answered `OK` only when RocketMQ has
    /// answered `SEND_OK`; otherwise the producer hears an error, as it would from nsqd.
    #[command(after_help = "Example:\n  \
        nsqbridge gateway --namesrv rmq-1:9876 --http-address 0.0.0.0:4151\n  \
        curl -d 'hello' 'http://127.0.0.1:4151/pub?topic=orders'")]
    Gateway(GatewayArgs),
    /// Relay topics from RocketMQ back into nsqd, for consumers that have not moved yet.
    ///
    /// Start as many instances as you like with the same topics: they share the queues, and none is relayed twice.
    /// Before the first message, the topic and every known channel are created on each nsqd.
    #[command(after_help = "Examples:\n  \
        nsqbridge transfer --namesrv rmq-1:9876 --topic orders --lookupd-http-address lookup-1:4161\n  \
        nsqbridge transfer --namesrv rmq-1:9876 --topic orders --nsqd-http-address nsqd-1:4151")]
    Transfer(TransferArgs),
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
        value_delimiter = ';',
        required = true
    )]
    pub namesrv: Vec<HttpAddress>,
    /// Speak TLS, trusting the certificate authorities in this PEM file.
    #[arg(long, value_name = "FILE", env = "NSQBRIDGE_ROCKETMQ_TLS_CA")]
    pub rocketmq_tls_ca: Option<PathBuf>,
    /// Show this certificate chain (PEM) to brokers that ask for one.
    #[arg(long, value_name = "FILE", requires_all = ["rocketmq_tls_key", "rocketmq_tls_ca"], env = "NSQBRIDGE_ROCKETMQ_TLS_CERT")]
    pub rocketmq_tls_cert: Option<PathBuf>,
    /// The private key (PEM) of that certificate.
    #[arg(long, value_name = "FILE", requires = "rocketmq_tls_cert", env = "NSQBRIDGE_ROCKETMQ_TLS_KEY")]
    pub rocketmq_tls_key: Option<PathBuf>,
    /// Sign requests with this access key. The secret key comes from the environment variable
    /// NSQBRIDGE_SECRET_KEY or from --secret-key-file, so that no process list shows it.
    #[arg(long, value_name = "KEY", env = "NSQBRIDGE_ACCESS_KEY")]
    pub access_key: Option<String>,
    /// A file that holds the secret key.
    #[arg(long, value_name = "FILE", requires = "access_key", env = "NSQBRIDGE_SECRET_KEY_FILE")]
    pub secret_key_file: Option<PathBuf>,
}

/// `nsqbridge gateway`.
#[derive(Debug, Args)]
pub struct GatewayArgs {
    /// Listen here for producers; nsqd's own port by default.
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:4151", env = "NSQBRIDGE_HTTP_ADDRESS")]
    pub http_address: SocketAddr,
    /// The largest message, in bytes (nsqd's flag and default).
    #[arg(long, value_name = "BYTES", default_value_t = 1_048_576, value_parser = size(4_194_304), env = "NSQBRIDGE_MAX_MSG_SIZE")]
    pub max_msg_size: usize,
    /// The largest request body, in bytes (nsqd's flag and default).
    #[arg(long, value_name = "BYTES", default_value_t = 5_242_880, value_parser = size(1 << 30), env = "NSQBRIDGE_MAX_BODY_SIZE")]
    pub max_body_size: usize,
    /// The longest `defer` (nsqd's flag and default).
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration, env = "NSQBRIDGE_MAX_REQ_TIMEOUT")]
    pub max_req_timeout: Duration,
    /// Queues a new topic gets on each broker.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024), env = "NSQBRIDGE_TOPIC_QUEUES")]
    pub topic_queues: u32,
    /// How long a publish is tried before the producer hears 503; keep it below the producers' own timeout.
    #[arg(long, value_name = "DURATION", default_value = "4s", value_parser = humantime::parse_duration, env = "NSQBRIDGE_PUBLISH_TIMEOUT")]
    pub publish_timeout: Duration,
    /// How to reach RocketMQ.
    #[command(flatten)]
    pub rocketmq: RocketmqArgs,
}

/// `nsqbridge transfer`.
#[derive(Debug, Args)]
pub struct TransferArgs {
    /// A topic to relay, by its NSQ name; repeat it for several.
    #[arg(long, value_name = "TOPIC", required = true, env = "NSQBRIDGE_TOPIC", value_delimiter = ',')]
    pub topic: Vec<TopicName>,
    /// Relay into the nsqds these nsqlookupds list; repeat it for several.
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "NSQBRIDGE_LOOKUPD_HTTP_ADDRESS",
        value_delimiter = ',',
        required_unless_present = "nsqd_http_address",
        conflicts_with = "nsqd_http_address"
    )]
    pub lookupd_http_address: Vec<HttpAddress>,
    /// Relay into this nsqd; repeat it for several.
    #[arg(long, value_name = "HOST:PORT", env = "NSQBRIDGE_NSQD_HTTP_ADDRESS", value_delimiter = ',')]
    pub nsqd_http_address: Vec<HttpAddress>,
    /// The consumer group of a topic's relay is this, a dash and the topic. All instances must agree on it.
    #[arg(long, value_name = "PREFIX", default_value = "nsqbridge-transfer", env = "NSQBRIDGE_GROUP_PREFIX")]
    pub group_prefix: String,
    /// The nsqds' --max-msg-size, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 1_048_576, value_parser = size(1 << 30), env = "NSQBRIDGE_MAX_MSG_SIZE")]
    pub max_msg_size: usize,
    /// The nsqds' --max-body-size, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 5_242_880, value_parser = size(1 << 30), env = "NSQBRIDGE_MAX_BODY_SIZE")]
    pub max_body_size: usize,
    /// Message bytes held in memory for each queue.
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20, value_parser = size(1 << 30), env = "NSQBRIDGE_MAX_QUEUE_BYTES")]
    pub max_queue_bytes: usize,
    /// How long a graceful stop waits for nsqd to answer; at most 10s.
    #[arg(long, value_name = "DURATION", default_value = "8s", value_parser = drain_timeout, env = "NSQBRIDGE_DRAIN_TIMEOUT")]
    pub drain_timeout: Duration,
    /// How to reach RocketMQ.
    #[command(flatten)]
    pub rocketmq: RocketmqArgs,
}

/// A number of bytes from 1 to `max`.
fn size(max: u64) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| match text.parse::<u64>() {
        Ok(bytes) if (1..=max).contains(&bytes) => usize::try_from(bytes).map_err(|error| error.to_string()),
        _ => Err(format!("a number of bytes from 1 to {max} is accepted")),
    }
}

fn drain_timeout(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    // Queue locks last 30 s and are not renewed while draining.
    if duration > Duration::from_secs(10) {
        return Err("at most 10s is accepted: queue locks are not renewed while draining".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
