//! Flags that several commands have.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum};

use crate::nsq::{address::HttpAddress, names::TopicName};

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
    /// Use TLS, trusting the certificate authorities in this PEM file.
    #[arg(long, value_name = "FILE", env = "NSQBRIDGE_ROCKETMQ_TLS_CA")]
    pub rocketmq_tls_ca: Option<PathBuf>,
    /// Present this certificate chain (PEM) to brokers that ask for one.
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

/// A plan in the place of other flags.
#[derive(Debug, Args)]
pub struct PlanArg {
    /// Take servers, names, groups and limits from this plan. Servers, --group and --max-pause given as flags or in the environment win
    /// over it; --rename and --group-prefix do not.
    #[arg(short = 'f', long = "plan", value_name = "FILE", env = "NSQBRIDGE_PLAN")]
    pub plan: Option<PathBuf>,
}

/// What topics are called.
#[derive(Debug, Args)]
pub struct NamesArgs {
    /// Keep an NSQ topic under another name in RocketMQ; repeat it for several. All gateways, relays and intakes must agree.
    #[arg(long, value_name = "TOPIC=ROCKETMQ_TOPIC", value_parser = rename, env = "NSQBRIDGE_RENAME", value_delimiter = ',')]
    pub rename: Vec<(TopicName, String)>,
    /// The consumer group of a topic's relay is this, a dash and the topic. All gateways, relays and intakes must agree.
    #[arg(long, value_name = "PREFIX", default_value = "nsqbridge-transfer", env = "NSQBRIDGE_GROUP_PREFIX")]
    pub group_prefix: String,
}

/// Where monitoring finds the process.
#[derive(Debug, Args)]
#[command(next_help_heading = "Monitoring")]
pub struct AdminArgs {
    /// Serve /livez, /readyz and /metrics here; an empty address serves them nowhere. By default loopback, port 4153 for a
    /// gateway, 4154 for a relay, 4155 for `run`, 4156 for an intake.
    #[arg(long, value_name = "IP:PORT", env = "NSQBRIDGE_ADMIN_ADDRESS", value_parser = address_or_none)]
    pub admin_address: Option<AddressOrNone>,
    /// Serve them over TLS, with the certificate chain in this PEM file. Beyond loopback this or a token is needed.
    #[arg(long, value_name = "FILE", env = "NSQBRIDGE_ADMIN_TLS_CERT")]
    pub admin_tls_cert: Option<PathBuf>,
    /// The private key (PEM) of that certificate.
    #[arg(long, value_name = "FILE", env = "NSQBRIDGE_ADMIN_TLS_KEY")]
    pub admin_tls_key: Option<PathBuf>,
    /// Require the token in this file (`Authorization: Bearer TOKEN`); /livez stays open. The token may also come from the
    /// environment variable NSQBRIDGE_ADMIN_TOKEN.
    #[arg(long, value_name = "FILE", env = "NSQBRIDGE_ADMIN_TOKEN_FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// Serve them beyond loopback to anybody, with neither TLS nor a token.
    #[arg(long, value_name = "BOOL", env = "NSQBRIDGE_ADMIN_INSECURE", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub admin_insecure: bool,
}

/// How the process works.
#[derive(Debug, Args)]
#[command(next_help_heading = "Process")]
pub struct ProcessArgs {
    /// Worker threads. One costs the least processor time for each message; more use more than one processor.
    #[arg(long, value_name = "N", default_value = "1", value_parser = size(1024), env = "NSQBRIDGE_THREADS")]
    pub threads: usize,
}

/// An address to listen on, or none.
#[derive(Debug, Clone, Copy)]
pub struct AddressOrNone(pub Option<SocketAddr>);

/// An address to listen on; `:4151` is every address of this machine, as for nsqd.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let whole = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    whole.parse().map_err(|_| "IP:PORT or :PORT is accepted, such as 0.0.0.0:4151".to_owned())
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
pub(super) fn size(max: u64) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| match text.parse::<u64>() {
        Ok(number) if (1..=max).contains(&number) => {
            usize::try_from(number).map_err(|error| error.to_string())
        }
        _ => Err(format!("a number from 1 to {max} is accepted")),
    }
}

fn rename(text: &str) -> Result<(TopicName, String), String> {
    let (topic, to) = text.split_once('=').ok_or("TOPIC=ROCKETMQ_TOPIC is accepted")?;
    Ok((topic.parse().map_err(|error| format!("{error}"))?, to.to_owned()))
}

fn address_or_none(text: &str) -> Result<AddressOrNone, String> {
    or_none(text, |text| text.parse().map_err(|_| "IP:PORT, or nothing, is accepted".to_owned()))
}

/// As [`listen_address`]; nothing is nowhere, as for nsqd.
pub(super) fn listen_address_or_none(text: &str) -> Result<AddressOrNone, String> {
    let accepted = |_| "IP:PORT, :PORT or nothing is accepted, such as 0.0.0.0:4150".to_owned();
    or_none(text, |text| listen_address(text).map_err(accepted))
}

fn or_none(
    text: &str,
    read: impl FnOnce(&str) -> Result<SocketAddr, String>,
) -> Result<AddressOrNone, String> {
    let address = if text.is_empty() { None } else { Some(read(text)?) };
    Ok(AddressOrNone(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_every_address_of_this_machine() {
        assert_eq!(listen_address(":4151"), Ok(SocketAddr::from(([0, 0, 0, 0], 4151))));
        assert_eq!(listen_address("[::1]:1"), Ok(SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 1))));
        assert!(listen_address("4151").is_err());
        let address = |text| listen_address_or_none(text).map(|AddressOrNone(address)| address);
        assert_eq!(address(":4150"), Ok(Some(SocketAddr::from(([0, 0, 0, 0], 4150)))));
        assert_eq!(address(""), Ok(None));
        assert!(address("4150").is_err());
    }
}
