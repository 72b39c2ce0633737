//! What the command line's words come to: a way to RocketMQ, NSQ's names there; or everything wrong with them.

use std::process::ExitCode;

use crate::{
    cli::{NamesArgs, RocketmqArgs},
    mapping::Names,
    rocketmq::{Cluster, ClusterConfig, credentials::Credentials, tls::Tls},
};

/// The exit code for what a check blocks, a person does not agree to, or `verify` cannot say.
pub const BLOCKED: u8 = 2;
/// The exit code for wrong flags or settings.
pub const USAGE: u8 = 3;

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Settings that are missing, do not fit together or name something unusable: all of them.
    #[error("{}", .0.join("\n  "))]
    Usage(Vec<String>),
    /// A check stands in the way.
    #[error("{0}")]
    Blocked(String),
    /// What was asked for cannot be had now.
    #[error("{0}")]
    Failed(String),
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
    /// 3 for usage, 2 for what a check has blocked, 1 for the rest.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            RunError::Usage(_) => ExitCode::from(USAGE),
            RunError::Blocked(_) => ExitCode::from(BLOCKED),
            RunError::Failed(_) | RunError::Start { .. } => ExitCode::FAILURE,
        }
    }
}

/// What is wrong, where that is nothing about the settings.
pub(crate) fn failed(error: impl ToString) -> RunError {
    RunError::Failed(error.to_string())
}

/// The cluster, and the names its topics have.
///
/// # Errors
/// [`RunError::Usage`] with everything wrong with either.
pub(crate) fn reach(rocketmq: &RocketmqArgs, mapping: &NamesArgs) -> Result<(Cluster, Names), RunError> {
    let mut problems = Vec::new();
    match (cluster(rocketmq, &mut problems), names(mapping, &mut problems)) {
        (Some(cluster), Some(names)) => Ok((cluster, names)),
        _ => Err(RunError::Usage(problems)),
    }
}

pub(crate) fn names(args: &NamesArgs, problems: &mut Vec<String>) -> Option<Names> {
    match Names::new(args.rename.iter().cloned()) {
        Ok(names) => Some(names),
        Err(errors) => {
            problems.extend(errors.iter().map(|error| format!("--rename: {error}")));
            None
        }
    }
}

pub(crate) fn cluster(args: &RocketmqArgs, problems: &mut Vec<String>) -> Option<Cluster> {
    cluster_config(args, problems).map(Cluster::new)
}

/// How to reach the cluster, unless something is wrong with it.
pub(crate) fn cluster_config(args: &RocketmqArgs, problems: &mut Vec<String>) -> Option<ClusterConfig> {
    let known = problems.len();
    if args.namesrv.is_empty() {
        problems.push("no name server: give --namesrv, NAMESRV_ADDR or rocketmq.namesrv".to_owned());
    }
    let mut config = ClusterConfig::new(args.namesrv.iter().map(ToString::to_string).collect());
    if args.rocketmq_tls_cert.is_some() != args.rocketmq_tls_key.is_some() {
        problems.push("--rocketmq-tls-cert and --rocketmq-tls-key need each other".to_owned());
    }
    match &args.rocketmq_tls_ca {
        Some(ca) => {
            let identity = args.rocketmq_tls_cert.as_deref().zip(args.rocketmq_tls_key.as_deref());
            match Tls::new(ca, identity) {
                Ok(tls) => config.tls = Some(tls),
                Err(error) => problems.push(error.to_string()),
            }
        }
        None if args.rocketmq_tls_cert.is_some() => {
            problems
                .push("--rocketmq-tls-cert needs --rocketmq-tls-ca: without it no TLS is spoken".to_owned());
        }
        None => {}
    }
    match (&args.access_key, secret_key(args)) {
        (Some(access_key), Ok(Some(secret_key))) => {
            config.credentials = Some(Credentials {
                access_key: access_key.clone(),
                secret_key,
                security_token: std::env::var("NSQBRIDGE_SECURITY_TOKEN").ok(),
            });
        }
        (Some(_), Ok(None)) => {
            let needed = "--access-key needs a secret key: set NSQBRIDGE_SECRET_KEY or --secret-key-file";
            problems.push(needed.to_owned());
        }
        (None, _) if args.secret_key_file.is_some() => {
            problems.push("--secret-key-file needs --access-key".to_owned());
        }
        (Some(_), Err(error)) => problems.push(error),
        (None, _) => {}
    }
    (problems.len() == known).then_some(config)
}

fn secret_key(args: &RocketmqArgs) -> Result<Option<String>, String> {
    let Some(file) = &args.secret_key_file else { return Ok(std::env::var("NSQBRIDGE_SECRET_KEY").ok()) };
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("--secret-key-file {}: {error}", file.display()))?;
    Ok(Some(text.trim().to_owned()))
}
