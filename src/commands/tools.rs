//! `doctor`, `status`, `relay` and `parked`: how things stand, and small changes to what runs.

use std::{io::Write, process::ExitCode, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{moving, plan_file, target::may_get};
use crate::{
    cli::{DoctorArgs, Output, ParkedAction, ParkedArgs, RelayAction, RelayArgs, StatusArgs, StatusOf},
    doctor::{self, DoctorConfig},
    intake,
    migration::{self, plan::Plan},
    nsq::{
        names::{ChannelPath, TopicName},
        nsqd::Nsqd,
        nsqlookupd::Nsqlookupd,
    },
    rocketmq::ClusterError,
    settings::{BLOCKED, RunError, cluster_config, failed, names, reach},
    transfer::{
        commands::{parked, status},
        control::{self, Change},
        parking,
    },
};

const WATCHED_EVERY: Duration = Duration::from_secs(2);
/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Shows what the doctor finds; 2 when something keeps the bridge from its work.
pub(super) async fn doctor(mut args: DoctorArgs) -> Result<ExitCode, RunError> {
    let plan = plan_file::fill(
        &args.plan,
        &mut args.rocketmq,
        &mut args.names,
        &mut args.lookupd_http_address,
        &mut args.nsqd_http_address,
    )?;
    args.topic.extend(plan.iter().flat_map(|plan| plan.topics.keys().cloned()));
    let mut problems = Vec::new();
    let cluster = cluster_config(&args.rocketmq, &mut problems);
    let names = names(&args.names, &mut problems);
    let (Some(cluster), Some(names)) = (cluster, names) else { return Err(RunError::Usage(problems)) };
    let report = doctor::examine(&DoctorConfig {
        cluster,
        nsqlookupds: args.lookupd_http_address.into_iter().map(Nsqlookupd::new).collect(),
        nsqds: args.nsqd_http_address.into_iter().map(Nsqd::new).collect(),
        topics: args.topic,
        names,
        max_msg_size: args.max_msg_size,
        max_req_timeout: args.max_req_timeout,
        retention: plan.map_or(doctor::RETENTION, |plan| plan.gates.retention),
        timeout: args.timeout,
    })
    .await;
    match args.output {
        Output::Table => say!("{}", report.table()),
        Output::Json => say!("{}", report.json().map_err(failed)?),
    }
    Ok(if report.blocks() { ExitCode::from(BLOCKED) } else { ExitCode::SUCCESS })
}

pub(super) async fn status(mut args: StatusArgs, stop: &CancellationToken) -> Result<ExitCode, RunError> {
    let plan = plan_file::fill(
        &args.plan,
        &mut args.rocketmq,
        &mut args.names,
        &mut args.lookupd_http_address,
        &mut args.nsqd_http_address,
    )?;
    if let Some(plan) = plan.as_ref().filter(|_| args.of.is_empty()) {
        args.of = all_of(plan);
    }
    let (cluster, names) = reach(&args.rocketmq, &args.names)?;
    let (mut topics, mut channels) = (Vec::new(), Vec::new());
    for of in &args.of {
        match of {
            StatusOf::Topic(topic) => topics.push(topic.clone()),
            StatusOf::Channel(channel) => {
                let planned = plan.as_ref().map(|plan| plan_file::channel(plan, channel)).transpose()?;
                let group = args.group.clone().or_else(|| planned.map(|planned| planned.group.clone()));
                channels.push(moving::subject(
                    channel.clone(),
                    group,
                    &args.names,
                    &args.rocketmq,
                    &args.lookupd_http_address,
                    &args.nsqd_http_address,
                )?);
            }
        }
    }
    loop {
        let statuses = if channels.is_empty() || !topics.is_empty() {
            let asked = status::ask(&cluster, &names, &args.names.group_prefix, &topics).await;
            Some(asked.map_err(failed)?)
        } else {
            None
        };
        let mut intakes = Vec::new();
        for topic in statuses.iter().flatten().filter_map(|status| status.topic.parse::<TopicName>().ok()) {
            let found = intake::control::ask(&cluster, &names, &topic).await.map_err(failed)?;
            intakes.push((topic, found));
        }
        intakes.retain(|(_, found)| !found.is_empty());
        let mut moved = Vec::new();
        for channel in &channels {
            moved.push(migration::status::status(channel).await.map_err(failed)?);
        }
        let clear = if args.watch && args.output == Output::Table { CLEAR } else { "" };
        let shown = match args.output {
            Output::Table => {
                let table = statuses.as_deref().map(status::table).unwrap_or_default();
                let moved: Vec<String> = moved.iter().map(migration::status::text).collect();
                let intakes = intake::control::table(&intakes);
                format!("{clear}{table}{intakes}{}", moved.join("\n"))
            }
            Output::Json => {
                let shown = serde_json::json!({
                    "topics": statuses.unwrap_or_default(),
                    "intakes": intake::control::json(&intakes),
                    "channels": moved,
                });
                format!("{shown}\n")
            }
        };
        let mut out = std::io::stdout();
        let is_heard = out.write_all(shown.as_bytes()).and_then(|()| out.flush()).is_ok();
        if !is_heard
            || !args.watch
            || stop.run_until_cancelled(tokio::time::sleep(WATCHED_EVERY)).await.is_none()
        {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Every topic of a plan, and every channel.
fn all_of(plan: &Plan) -> Vec<StatusOf> {
    let topics = plan.topics.keys().cloned().map(StatusOf::Topic);
    let channels = plan.channels().into_iter().map(|(topic, channel, _)| {
        StatusOf::Channel(ChannelPath { topic: topic.clone(), channel: channel.clone() })
    });
    topics.chain(channels).collect()
}

/// Tells every instance of a topic's relay what to do; 1 when one did not answer, or there is none.
pub(super) async fn relay(mut args: RelayArgs) -> Result<ExitCode, RunError> {
    plan_file::names_of(&args.plan, &mut args.rocketmq, &mut args.names)?;
    let (cluster, names) = reach(&args.rocketmq, &args.names)?;
    let change = match args.action {
        RelayAction::Pause => Change::Pause(true),
        RelayAction::Resume => Change::Pause(false),
        RelayAction::Rate => Change::Rate(args.rate.unwrap_or(0)),
    };
    let told = control::ask(&cluster, &names, &args.names.group_prefix, &args.topic, Some(change)).await;
    let instances = told.map_err(failed)?;
    if instances.is_empty() {
        return Err(failed(format!("no instance relays {}", args.topic)));
    }
    let mut code = ExitCode::SUCCESS;
    for instance in instances {
        match instance.report {
            Ok(report) if report.paused => say!("{}: paused", instance.id),
            Ok(report) if report.max_rate > 0 => {
                say!("{}: at most {} a second", instance.id, report.max_rate);
            }
            Ok(_) => say!("{}: relaying", instance.id),
            Err(error) => {
                tell!("{}: not told: {error}", instance.id);
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

pub(super) async fn parked(mut args: ParkedArgs) -> Result<ExitCode, RunError> {
    plan_file::names_of(&args.plan, &mut args.rocketmq, &mut args.names)?;
    let (cluster, names) = reach(&args.rocketmq, &args.names)?;
    let asked: Result<_, ClusterError> = parking::parked(&cluster, &names, &args.topic).await;
    let found = asked.map_err(failed)?;
    match (args.action, args.nsqd_http_address) {
        (ParkedAction::List, _) | (ParkedAction::Retry, None) => match args.output {
            Output::Table => say_as_is!("{}", parked::table(&found)),
            Output::Json => say!("{}", parked::json(&found)),
        },
        (ParkedAction::Show, _) => {
            let place = args.place.unwrap_or_default();
            let message = found.iter().find(|message| message.place == place);
            let message = message.ok_or_else(|| failed(format!("nothing from {place} is parked")))?;
            let topic = names.rocketmq_topic(args.topic.source());
            let body = parked::body(message, &topic).map_err(failed)?;
            std::io::stdout().write_all(body).map_err(failed)?;
        }
        (ParkedAction::Drop, _) => {
            let place = args.place.unwrap_or_default();
            let message = parked::droppable(&found, &place).map_err(failed)?;
            parking::settled(&cluster, message).await.map_err(failed)?;
            say!("{place} dropped; RocketMQ keeps it in the parking topic until it expires");
        }
        (ParkedAction::Retry, Some(address)) => {
            let (topic, nsqd) = (args.topic.topic(), Nsqd::new(address));
            may_get(&nsqd, topic).await.map_err(|why| failed(format!("nothing was relayed: {why}")))?;
            let retried = parked::retry(&cluster, found, topic, &nsqd).await;
            let parked::Retried { relayed, stuck } = retried.map_err(failed)?;
            say!("{relayed} relayed");
            for (place, error) in &stuck {
                tell!("the message from {place} stays parked: {error}");
            }
            if !stuck.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
