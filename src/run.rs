//! Wires roles together: builds them from their settings, runs them, drains them. The one place that does.

use std::{collections::BTreeSet, net::SocketAddr, pin::Pin, process::ExitCode, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use crate::{
    cli::{
        AddressOrNone, EphemeralTopics, GapPolicy, GatewayArgs, InexactDefer, IntakeArgs, Role as Wanted,
        SpoolArgs, TransferArgs, UnknownTopics, UnreadablePolicy,
    },
    commands,
    config::{AdminListener, Work},
    gateway::{
        self, GatewayConfig, Listeners,
        admission::AdmissionLimits,
        metrics::MetricsConfig,
        publish::{PublishConfig, Publisher},
        share::Shares,
        spool::{DISK_TIME, SpoolConfig},
    },
    intake::{self, IntakeConfig, retire::NotRetired},
    nsq::{nsqd::Nsqd, nsqlookupd::Nsqlookupd},
    observe::{
        admin::{self, Admin, Guard, GuardSettings},
        health::Readiness,
        metrics, process,
    },
    rocketmq::{Cluster, message::Levels},
    settings::{RunError, cluster, names},
    shutdown::Shutdown,
    transfer::{self, Choice, Limits, OnGap, Source, Topics, TransferConfig},
};

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

/// Does what was asked for, and runs until it is told to stop.
///
/// # Errors
/// See [`RunError`].
pub async fn run(work: Work) -> Result<ExitCode, RunError> {
    let shutdown = Shutdown::on_signals()
        .map_err(|error| RunError::Start { doing: "listening for signals".to_owned(), error })?;
    let open_files = process::raise_open_files();
    // On the heap: the moves hold much over their waits.
    let working: Pin<Box<dyn Future<Output = _>>> = match work {
        Work::Run { roles, admin } => Box::pin(run_roles(roles, admin, open_files, &shutdown)),
        Work::Retire(args) => Box::pin(retire(*args, &shutdown)),
        Work::Ask(question) => Box::pin(commands::answer(question, &shutdown.drain)),
    };
    shutdown.force.run_until_cancelled(working).await.unwrap_or(Ok(ExitCode::FAILURE))
}

async fn run_roles(
    wanted: Vec<Wanted>,
    admin: Option<AdminListener>,
    open_files: Option<u64>,
    shutdown: &Shutdown,
) -> Result<ExitCode, RunError> {
    if wanted.iter().any(|role| matches!(role, Wanted::Intake(args) if args.retire)) {
        let told = "`run` ends no intake: leave intake.retire out, and run `nsqbridge intake --retire`";
        return Err(RunError::Usage(vec![told.to_owned()]));
    }
    // Before anything listens.
    let guard = admin.as_ref().map(guard).transpose()?;
    let mut registry = metrics::registry();
    let mut roles = Vec::new();
    let alone = wanted.len() == 1;
    for role in wanted {
        roles.push(match role {
            Wanted::Gateway(args) => {
                let few =
                    open_files.filter(|&files| files < args.bounds.max_connections as u64 + FILES_BESIDE);
                let gateway = build_gateway(*args, shutdown, &mut registry).await?;
                if let Some(open_files) = few {
                    warn!(
                        open_files,
                        "fewer open files are allowed than --max-connections takes: raise LimitNOFILE"
                    );
                }
                gateway
            }
            Wanted::Transfer(args) => build_transfer(*args, shutdown, &mut registry)?,
            Wanted::Intake(args) => build_intake(*args, alone, shutdown, &mut registry).await?,
        });
    }
    let readiness = roles.iter().map(|role| Arc::clone(&role.readiness)).collect();
    let _admin = match admin.zip(guard) {
        None => None,
        Some((at, guard)) => listen_for_admin(&at).await?.map(|listener| {
            let admin = Admin { registry, readiness, drain: shutdown.drain.clone(), guard };
            AbortOnDropHandle::new(tokio::spawn(admin::serve(listener, admin)))
        }),
    };
    Ok(run_all(roles, shutdown).await)
}

/// Ends an intake for good.
async fn retire(args: IntakeArgs, shutdown: &Shutdown) -> Result<ExitCode, RunError> {
    let (cluster, config) = intake_config(args)?;
    let retiring = intake::retire::retire(&cluster, &config);
    match shutdown.drain.run_until_cancelled(retiring).await {
        Some(Ok(())) => Ok(ExitCode::SUCCESS),
        Some(Err(error @ NotRetired::TooEarly(_))) => Err(RunError::Blocked(error.to_string())),
        Some(Err(error)) => Err(RunError::Failed(error.to_string())),
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
    // Not everybody who starts a gateway knows that it listens there.
    const ABOUT_TCP: &str =
        " for nsqd's TCP protocol (choose another --tcp-address, or an empty one for none)";
    let AddressOrNone(tcp_address) = args.tcp_address;
    let listeners = Listeners {
        http: listen(args.http_address, "").await?,
        tcp: match tcp_address {
            None => None,
            Some(address) => Some(listen(address, ABOUT_TCP).await?),
        },
    };
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
    let tcp_address = tcp_address.map(tracing::field::display);
    info!(http_address = %args.http_address, tcp_address, "gateway ready");
    let watched = Arc::clone(&publisher);
    Ok(Role {
        name: "gateway",
        running: Box::pin(gateway::serve(listeners, publisher, config, shutdown.drain.clone())),
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
    if config.spools() && config.after + DISK_TIME > publish_timeout {
        let disk_time = humantime::format_duration(DISK_TIME);
        problems.push(format!(
            "--spool-after must be at least {disk_time} less than --publish-timeout: the disk needs the rest"
        ));
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

/// Listens; where that cannot be done, `about` stands behind the address.
async fn listen(address: SocketAddr, about: &str) -> Result<TcpListener, RunError> {
    let listening = TcpListener::bind(address).await;
    listening.map_err(|error| RunError::Start { doing: format!("listening on {address}{about}"), error })
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
    let listener = match listen(at.address, "").await {
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
