//! Wires roles together: builds them from their settings, runs them, drains them. The one place that does.

use std::{collections::BTreeSet, net::SocketAddr, pin::Pin, process::ExitCode, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use crate::{
    cli::{
        Command, EphemeralTopics, GapPolicy, GatewayArgs, InexactDefer, IntakeArgs, NamesArgs, RocketmqArgs,
        SpoolArgs, TransferArgs, UnknownTopics, UnreadablePolicy,
    },
    config::{AdminListener, Invocation},
    gateway::{
        self, GatewayConfig,
        admission::AdmissionLimits,
        metrics::MetricsConfig,
        publish::{PublishConfig, Publisher},
        share::Shares,
        spool::SpoolConfig,
    },
    intake::{self, IntakeConfig, retire::NotRetired},
    mapping::Names,
    nsq::{nsqd::Nsqd, nsqlookupd::Nsqlookupd},
    observe::{
        admin::{self, Admin, Guard, GuardSettings},
        health::Readiness,
        metrics, process,
    },
    questions,
    rocketmq::{Cluster, ClusterConfig, credentials::Credentials, message::Levels, tls::Tls},
    shutdown::Shutdown,
    transfer::{self, Choice, Limits, OnGap, Source, Topics, TransferConfig},
};

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
            RunError::Usage(_) => ExitCode::from(3),
            RunError::Blocked(_) => ExitCode::from(2),
            RunError::Failed(_) | RunError::Start { .. } => ExitCode::FAILURE,
        }
    }
}

/// Open files beside producers' connections: brokers, name servers, listeners, the log.
const FILES_BESIDE: u64 = 200;

/// A start is refused within this time; what is known later only holds the intake.
const REFUSED_WITHIN: Duration = Duration::from_secs(20);

/// A role that is ready to run.
struct Role {
    name: &'static str,
    running: Pin<Box<dyn Future<Output = ()> + Send>>,
    readiness: Readiness,
}

/// Runs what was asked for until it is told to stop.
///
/// # Errors
/// See [`RunError`].
pub async fn run(invocation: Invocation) -> Result<ExitCode, RunError> {
    let shutdown = Shutdown::on_signals()
        .map_err(|error| RunError::Start { doing: "listening for signals".to_owned(), error })?;
    let open_files = process::raise_open_files();
    // Before anything listens.
    let guard = invocation.admin.as_ref().map(guard).transpose()?;
    let mut registry = metrics::registry();
    let mut roles = Vec::new();
    let alone = invocation.roles.len() == 1;
    for command in invocation.roles {
        match command {
            Command::Gateway(args) => {
                let few =
                    open_files.filter(|&files| files < args.bounds.max_connections as u64 + FILES_BESIDE);
                roles.push(build_gateway(*args, &shutdown, &mut registry).await?);
                if let Some(open_files) = few {
                    warn!(
                        open_files,
                        "fewer open files are allowed than --max-connections takes: raise LimitNOFILE"
                    );
                }
            }
            Command::Transfer(args) => roles.push(build_transfer(*args, &shutdown, &mut registry)?),
            Command::Intake(args) if args.retire => {
                let (cluster, config) = intake_config(*args)?;
                let retiring = intake::retire::retire(&cluster, &config);
                return match shutdown.drain.run_until_cancelled(retiring).await {
                    Some(Ok(())) => Ok(ExitCode::SUCCESS),
                    Some(Err(error @ NotRetired::TooEarly(_))) => Err(RunError::Blocked(error.to_string())),
                    Some(Err(error)) => Err(RunError::Failed(error.to_string())),
                    None => Ok(ExitCode::FAILURE),
                };
            }
            Command::Intake(args) => roles.push(build_intake(*args, alone, &shutdown, &mut registry).await?),
            Command::Run(_) => {}
            question => {
                // On the heap: the moves hold much over their waits.
                let answer = Box::pin(questions::answer(question, &shutdown.drain));
                let asked = shutdown.force.run_until_cancelled(answer);
                return asked.await.unwrap_or(Ok(ExitCode::FAILURE));
            }
        }
    }
    let readiness = roles.iter().map(|role| Arc::clone(&role.readiness)).collect();
    let _admin = match invocation.admin.zip(guard) {
        None => None,
        Some((at, guard)) => listen_for_admin(&at).await?.map(|listener| {
            let admin = Admin { registry, readiness, drain: shutdown.drain.clone(), guard };
            AbortOnDropHandle::new(tokio::spawn(admin::serve(listener, admin)))
        }),
    };
    match shutdown.force.run_until_cancelled(run_all(roles, &shutdown)).await {
        Some(code) => Ok(code),
        None => Ok(ExitCode::FAILURE),
    }
}

/// Runs all roles to their end; one that fails takes the others with it, for whoever started them watches one process.
async fn run_all(roles: Vec<Role>, shutdown: &Shutdown) -> ExitCode {
    let mut running = JoinSet::new();
    for Role { name, running: role, .. } in roles {
        running.spawn(async move {
            role.await;
            info!("{name} stopped");
        });
    }
    let mut code = ExitCode::SUCCESS;
    while let Some(ended) = running.join_next().await {
        if let Err(error) = ended {
            error!(%error, "a role failed by a fault of this program");
            code = ExitCode::FAILURE;
            shutdown.drain.cancel();
        }
    }
    code
}

async fn build_gateway(
    args: GatewayArgs,
    shutdown: &Shutdown,
    registry: &mut Registry,
) -> Result<Role, RunError> {
    let mut problems = Vec::new();
    let cluster = cluster(&args.rocketmq, &mut problems);
    let names = names(&args.names, &mut problems);
    if args.bounds.max_topic_bytes < args.max_body_size + (1 << 20) {
        problems.push(
            "--max-topic-bytes must leave room for a body of --max-body-size and 1 MiB more".to_owned(),
        );
    }
    if args.bounds.max_in_flight_bytes < args.bounds.max_topic_bytes {
        problems.push("--max-in-flight-bytes must be at least --max-topic-bytes".to_owned());
    }
    if args.publish_timeout < Duration::from_millis(500) {
        problems.push(
            "--publish-timeout must be at least 500ms: less fails publishes that would be stored".to_owned(),
        );
    }
    if args.max_body_size < args.max_msg_size {
        problems.push("--max-body-size must be at least --max-msg-size".to_owned());
    }
    let hostname = process::host_name();
    // An empty variable is how compose files say "not set".
    let broadcast_address = args.broadcast_address.filter(|address| !address.is_empty());
    let broadcast_address = broadcast_address.unwrap_or_else(|| hostname.clone());
    if broadcast_address.contains(|letter: char| letter.is_control()) || broadcast_address.len() > 255 {
        problems.push("--broadcast-address must be a name: it is written on each message".to_owned());
    }
    let spool = spool(args.spool, args.publish_timeout, &mut problems);
    let shares = Shares::new(args.share).unwrap_or_else(|errors| {
        problems.extend(errors.iter().map(|error| format!("--share: {error}")));
        Shares::default()
    });
    let (Some(cluster), Some(names), []) = (cluster, names, &problems[..]) else {
        return Err(RunError::Usage(problems));
    };
    let listener = listen(args.http_address).await?;
    let publishing = PublishConfig {
        names,
        create_topics: args.topics.unknown_topics == UnknownTopics::Create,
        ephemeral_topics: args.topics.ephemeral_topics == EphemeralTopics::Store,
        topic_queues: args.topics.topic_queues,
        budget: args.publish_timeout,
        levels: match args.topics.inexact_defer {
            InexactDefer::RoundUp => Levels::RoundUp,
            InexactDefer::Refuse => Levels::Refuse,
        },
        admission: AdmissionLimits {
            bytes: args.bounds.max_in_flight_bytes,
            topic_bytes: args.bounds.max_topic_bytes,
            requests: args.bounds.max_in_flight_requests,
        },
        metrics: MetricsConfig { max_topics: args.bounds.max_topic_labels },
        relay_group_prefix: args.names.group_prefix,
        spool,
        audit: args.audit,
        shares,
    };
    let publisher =
        Publisher::new(cluster, publishing).map_err(|error| RunError::Failed(error.to_string()))?;
    let publisher = Arc::new(publisher);
    publisher.resume();
    publisher.register(registry);
    let config = GatewayConfig {
        max_msg_size: args.max_msg_size,
        max_body_size: args.max_body_size,
        max_req_timeout: args.max_req_timeout,
        body_timeout: args.bounds.body_timeout,
        max_connections: args.bounds.max_connections,
        broadcast_address,
        hostname,
    };
    info!(http_address = %args.http_address, "gateway ready");
    let watched = Arc::clone(&publisher);
    Ok(Role {
        name: "gateway",
        running: Box::pin(gateway::serve(listener, publisher, config, shutdown.drain.clone())),
        readiness: Arc::new(move || watched.dependencies()),
    })
}

fn spool(args: SpoolArgs, publish_timeout: Duration, problems: &mut Vec<String>) -> SpoolConfig {
    let config = SpoolConfig {
        path: args.spool_path,
        policy: args.on_unavailable,
        policies: args.on_unavailable_of.into_iter().collect(),
        after: args.spool_after,
        max_bytes: args.spool_max_bytes as u64,
        max_topic_bytes: args.spool_max_topic_bytes as u64,
        max_age: args.spool_max_age,
        max_disk_use: args.spool_max_disk_use,
        drain_on_stop: args.spool_drain_on_stop,
    };
    if config.spools() && config.path.is_none() {
        problems
            .push("--on-unavailable spool needs --spool-path, a folder on a disk of this machine".to_owned());
    }
    if config.spools() && config.after >= publish_timeout {
        problems.push(
            "--spool-after must be less than --publish-timeout, or nothing is spooled in time".to_owned(),
        );
    }
    config
}

fn build_transfer(
    args: TransferArgs,
    shutdown: &Shutdown,
    registry: &mut Registry,
) -> Result<Role, RunError> {
    let mut problems = Vec::new();
    let cluster = cluster(&args.rocketmq, &mut problems);
    let names = names(&args.names, &mut problems);
    if args.topic.is_empty() && args.topic_pattern.is_none() && args.share.is_empty() {
        problems.push("no topic to relay: give --topic, --topic-pattern or --share".to_owned());
    }
    let renamed =
        args.share.iter().filter(|share| names.iter().any(|names| names.rename_of(share.topic()).is_some()));
    problems.extend(renamed.map(|share| {
        format!(
            "--share {share} needs the NSQ topic {}, which --rename calls a topic of its own",
            share.topic()
        )
    }));
    let source = match (&args.nsqd_http_address[..], &args.lookupd_http_address[..]) {
        ([], []) => {
            problems
                .push("nowhere to relay to: give --lookupd-http-address or --nsqd-http-address".to_owned());
            None
        }
        ([_, ..], [_, ..]) => {
            let both = "--lookupd-http-address and --nsqd-http-address cannot be given together";
            problems.push(both.to_owned());
            None
        }
        ([], _) => Some(Source::Lookup(args.lookupd_http_address.into_iter().map(Nsqlookupd::new).collect())),
        _ => Some(Source::Given(args.nsqd_http_address.into_iter().map(Nsqd::new).collect())),
    };
    let (Some(cluster), Some(names), Some(source), []) = (cluster, names, source, &problems[..]) else {
        return Err(RunError::Usage(problems));
    };
    let config = TransferConfig {
        topics: Topics {
            named: args.topic.into_iter().collect(),
            pattern: args.topic_pattern,
            shares: args.share.into_iter().collect(),
        },
        names,
        source,
        choice: Choice {
            max_depth: args.max_depth,
            left_out: args.leave_out.into_iter().collect(),
            longest_in_flight: args.max_msg_timeout,
            gone_after: args.nsqd_gone_after,
        },
        max_rate: args.max_rate,
        group_prefix: args.names.group_prefix,
        limits: Limits { max_msg_size: args.max_msg_size, max_body_size: args.max_body_size },
        max_bytes_per_queue: args.max_queue_bytes,
        max_bytes: args.max_relay_bytes,
        ordered: args.ordered,
        replay: args.replay,
        audit: args.audit,
        park_unreadable: args.on_unreadable == UnreadablePolicy::Park,
        on_gap: match args.on_gap {
            GapPolicy::Hold => OnGap::Hold,
            GapPolicy::Continue => OnGap::Continue,
            GapPolicy::Replay => OnGap::Replay,
        },
        drain_timeout: args.drain_timeout,
    };
    let counted = Arc::new(transfer::metrics::Metrics::default());
    counted.register(registry);
    let watched = Arc::clone(&counted);
    Ok(Role {
        name: "transfer",
        running: Box::pin(transfer::run(cluster, config, counted, shutdown.drain.clone())),
        readiness: Arc::new(move || watched.dependencies()),
    })
}

fn intake_config(args: IntakeArgs) -> Result<(Cluster, IntakeConfig), RunError> {
    let mut problems = Vec::new();
    let cluster = cluster(&args.rocketmq, &mut problems);
    let names = names(&args.names, &mut problems);
    if args.topic.is_empty() {
        problems.push("no topic to take in: give --topic".to_owned());
    }
    if args.nsqd_http_address.is_empty() {
        problems.push("nothing to take in from: give --nsqd-http-address".to_owned());
    }
    let (Some(cluster), Some(names), []) = (cluster, names, &problems[..]) else {
        return Err(RunError::Usage(problems));
    };
    // Named twice, each would take half, for nothing.
    let (topics, nsqds) = (BTreeSet::from_iter(args.topic), BTreeSet::from_iter(args.nsqd_http_address));
    let config = IntakeConfig {
        topics: topics.into_iter().collect(),
        channel: args.channel,
        nsqds: nsqds.into_iter().map(Nsqd::new).collect(),
        names,
        group_prefix: args.names.group_prefix,
        max_in_flight: args.max_in_flight,
        max_in_flight_bytes: args.max_in_flight_bytes,
        topic_queues: args.topic_queues,
        drain_timeout: args.drain_timeout,
    };
    Ok((cluster, config))
}

/// Beside other roles nothing is refused, for these must not end with it: it is held, and says why.
async fn build_intake(
    args: IntakeArgs,
    alone: bool,
    shutdown: &Shutdown,
    registry: &mut Registry,
) -> Result<Role, RunError> {
    let (cluster, config) = intake_config(args)?;
    if alone {
        let asked = tokio::time::timeout(REFUSED_WITHIN, intake::refusal(&cluster, &config));
        if let Some(Ok(Some(reason))) = shutdown.drain.run_until_cancelled(asked).await {
            return Err(RunError::Blocked(reason));
        }
    }
    let counted = Arc::new(intake::metrics::Metrics::default());
    counted.register(registry);
    let watched = Arc::clone(&counted);
    Ok(Role {
        name: "intake",
        running: Box::pin(intake::run(cluster, config, counted, shutdown.drain.clone())),
        readiness: Arc::new(move || watched.dependencies()),
    })
}

async fn listen(address: SocketAddr) -> Result<TcpListener, RunError> {
    let listening = TcpListener::bind(address).await;
    listening.map_err(|error| RunError::Start { doing: format!("listening on {address}"), error })
}

/// Who may ask the admin listener.
fn guard(at: &AdminListener) -> Result<Guard, RunError> {
    let settings = GuardSettings {
        address: at.address,
        tls_cert: at.tls_cert.as_deref(),
        tls_key: at.tls_key.as_deref(),
        token_file: at.token_file.as_deref(),
        token: std::env::var("NSQBRIDGE_ADMIN_TOKEN").ok(),
        insecure: at.insecure,
    };
    Guard::new(settings).map_err(|error| RunError::Usage(vec![error.to_string()]))
}

/// The admin listener. An address nobody asked for may be taken, by another role on the same machine most likely.
async fn listen_for_admin(at: &AdminListener) -> Result<Option<TcpListener>, RunError> {
    let listener = match listen(at.address).await {
        Ok(listener) => listener,
        Err(error) if at.is_default => {
            warn!(%error, "no /livez, /readyz and /metrics; choose another --admin-address");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if let Ok(address) = listener.local_addr() {
        info!(admin_address = %address, "serving /livez, /readyz and /metrics");
    }
    Ok(Some(listener))
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
