//! Wires roles together: builds them from the command line, runs them, drains them. The one place that does.

use std::{process::ExitCode, sync::Arc};

use tokio::net::TcpListener;
use tracing::info;

use crate::{
    cli::{Cli, Command, GatewayArgs, RocketmqArgs, TransferArgs},
    gateway::{
        self, GatewayConfig,
        publish::{PublishConfig, Publisher},
    },
    nsq::{nsqd::Nsqd, nsqlookupd::Nsqlookupd},
    rocketmq::{Cluster, ClusterConfig, credentials::Credentials, tls::Tls},
    shutdown::Shutdown,
    transfer::{self, Limits, Source, TransferConfig},
};

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Settings that do not fit together or name something unusable.
    #[error("{0}")]
    Usage(String),
    /// The process could not start.
    #[error("{doing}: {error}")]
    Start {
        /// What was being done.
        doing: String,
        /// What the system said.
        error: std::io::Error,
    },
}

impl RunError {
    /// 3 for usage, 1 for the rest.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            RunError::Usage(_) => ExitCode::from(3),
            RunError::Start { .. } => ExitCode::FAILURE,
        }
    }
}

/// Runs what the command line asks for until it is told to stop.
///
/// # Errors
/// See [`RunError`].
pub async fn run(cli: Cli) -> Result<ExitCode, RunError> {
    let shutdown = Shutdown::on_signals()
        .map_err(|error| RunError::Start { doing: "listening for signals".to_owned(), error })?;
    let force = shutdown.force.clone();
    let role = async {
        match cli.command {
            Command::Gateway(args) => run_gateway(args, shutdown).await,
            Command::Transfer(args) => run_transfer(args, shutdown).await,
        }
    };
    match force.run_until_cancelled(role).await {
        Some(result) => result.map(|()| ExitCode::SUCCESS),
        None => Ok(ExitCode::FAILURE),
    }
}

async fn run_gateway(args: GatewayArgs, shutdown: Shutdown) -> Result<(), RunError> {
    let cluster = cluster(&args.rocketmq)?;
    let listener = TcpListener::bind(args.http_address)
        .await
        .map_err(|error| RunError::Start { doing: format!("listening on {}", args.http_address), error })?;
    let publishing = PublishConfig { topic_queues: args.topic_queues, budget: args.publish_timeout };
    let publisher = Arc::new(Publisher::new(cluster, publishing));
    let config = GatewayConfig {
        max_msg_size: args.max_msg_size,
        max_body_size: args.max_body_size,
        max_req_timeout: args.max_req_timeout,
    };
    info!(http_address = %args.http_address, "gateway ready");
    gateway::serve(listener, publisher, config, shutdown.drain).await;
    info!("gateway stopped");
    Ok(())
}

async fn run_transfer(args: TransferArgs, shutdown: Shutdown) -> Result<(), RunError> {
    let cluster = cluster(&args.rocketmq)?;
    let source = if args.nsqd_http_address.is_empty() {
        Source::Lookup(args.lookupd_http_address.into_iter().map(Nsqlookupd::new).collect())
    } else {
        Source::Given(args.nsqd_http_address.into_iter().map(Nsqd::new).collect())
    };
    let config = TransferConfig {
        topics: args.topic,
        source,
        group_prefix: args.group_prefix,
        limits: Limits { max_msg_size: args.max_msg_size, max_body_size: args.max_body_size },
        max_bytes_per_queue: args.max_queue_bytes,
        drain_timeout: args.drain_timeout,
    };
    transfer::run(cluster, config, shutdown.drain).await;
    info!("transfer stopped");
    Ok(())
}

fn cluster(args: &RocketmqArgs) -> Result<Cluster, RunError> {
    let mut config = ClusterConfig::new(args.namesrv.iter().map(ToString::to_string).collect());
    if let Some(ca) = &args.rocketmq_tls_ca {
        let identity = args.rocketmq_tls_cert.as_deref().zip(args.rocketmq_tls_key.as_deref());
        config.tls = Some(Tls::new(ca, identity).map_err(|error| RunError::Usage(error.to_string()))?);
    }
    if let Some(access_key) = &args.access_key {
        config.credentials = Some(Credentials {
            access_key: access_key.clone(),
            secret_key: secret_key(args)?,
            security_token: std::env::var("NSQBRIDGE_SECURITY_TOKEN").ok(),
        });
    }
    Ok(Cluster::new(config))
}

fn secret_key(args: &RocketmqArgs) -> Result<String, RunError> {
    let Some(file) = &args.secret_key_file else {
        return std::env::var("NSQBRIDGE_SECRET_KEY").map_err(|_| {
            RunError::Usage(
                "--access-key needs a secret key: set NSQBRIDGE_SECRET_KEY or --secret-key-file".to_owned(),
            )
        });
    };
    let text = std::fs::read_to_string(file)
        .map_err(|error| RunError::Usage(format!("--secret-key-file {}: {error}", file.display())))?;
    Ok(text.trim().to_owned())
}
