//! Moves a consumer as the command line says: shows what would be done, asks, does it, and tells how it ended.

use std::{process::ExitCode, time::Duration};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{ask::agrees, plan_file};
use crate::{
    cli::{
        CompleteArgs, CutoverArgs, MovingArgs, NamesArgs, Output, PauseArgs, RehearseArgs, RocketmqArgs,
        RollbackArgs, RollbackMode,
    },
    doctor::{Finding, Report},
    migration::{
        Done, Options, Subject, checks, complete, cutover,
        plan::{Goal, Plan},
        progress::{Event, Progress},
        refusal::{Left, Refusal},
        rehearse, rollback,
        world::{self, Eyes},
    },
    nsq::{address::HttpAddress, names::ChannelPath, nsqd::Nsqd, nsqlookupd::Nsqlookupd},
    settings::{BLOCKED, RunError, cluster_config, failed, reach},
};

/// The channel that flags speak of, and where to find it.
///
/// # Errors
/// Everything wrong with the flags.
pub(super) fn subject(
    channel: ChannelPath,
    group: Option<String>,
    names: &NamesArgs,
    rocketmq: &RocketmqArgs,
    nsqlookupds: &[HttpAddress],
    nsqds: &[HttpAddress],
) -> Result<Subject, RunError> {
    let (cluster, mapping) = reach(rocketmq, names)?;
    let mut subject = Subject::new(cluster, mapping, names.group_prefix.clone(), channel, group);
    subject.nsqlookupds = nsqlookupds.iter().cloned().map(Nsqlookupd::new).collect();
    subject.nsqds = nsqds.iter().cloned().map(Nsqd::new).collect();
    Ok(subject)
}

/// What the plan says, put where the flags say nothing.
fn planned(args: &mut MovingArgs) -> Result<Option<Plan>, RunError> {
    let MovingArgs { plan, names, rocketmq, lookupd_http_address, nsqd_http_address, .. } = args;
    plan_file::fill(plan, rocketmq, names, lookupd_http_address, nsqd_http_address)
}

fn moved(
    channel: ChannelPath,
    group: Option<String>,
    args: &MovingArgs,
    plan: Option<&Plan>,
) -> Result<Subject, RunError> {
    let planned = plan.map(|plan| plan_file::channel(plan, &channel)).transpose()?;
    let group = group.or_else(|| planned.map(|planned| planned.group.clone()));
    let MovingArgs { names, rocketmq, lookupd_http_address, nsqd_http_address, .. } = args;
    subject(channel, group, names, rocketmq, lookupd_http_address, nsqd_http_address)
}

fn options(pause: &PauseArgs, plan: Option<&Plan>) -> Options {
    let (gates, policies) = plan.map(|plan| (plan.gates.clone(), plan.policies.clone())).unwrap_or_default();
    Options {
        max_pause: pause.max_pause.unwrap_or(gates.max_pause),
        quiet: policies.quiet,
        deferred: policies.deferred,
        by_share: false,
    }
}

/// Whether a channel can be drained within the pause.
fn has_time(options: Options) -> Result<Options, RunError> {
    let Options { max_pause, quiet, .. } = options;
    if quiet < max_pause {
        return Ok(options);
    }
    let [quiet, max_pause] = [quiet, max_pause].map(humantime::format_duration);
    Err(RunError::Usage(vec![format!(
        "--max-pause is {max_pause}, and a channel counts as drained when it was empty for {quiet} (policies.quiet): no channel would be"
    )]))
}

/// `nsqbridge cutover`.
///
/// # Errors
/// See [`RunError`].
pub(super) async fn cut_over(mut args: CutoverArgs, stop: &CancellationToken) -> Result<ExitCode, RunError> {
    let mut plan = planned(&mut args.moving)?;
    let options = Options { by_share: args.share, ..options(&args.pause, plan.as_ref()) };
    let (options, moving) = (has_time(options)?, &args.moving);
    if let Some(plan) = &mut plan {
        // It is judged by what the move goes by.
        plan.gates.max_pause = options.max_pause;
        let blocks = blocks(plan, &args.channel, &moving.rocketmq).await?;
        if !blocks.is_empty() {
            return Ok(tell_blocked(blocks, moving.output));
        }
    }
    let subject = moved(args.channel, args.group, moving, plan.as_ref())?;
    let preview = cutover::preview(&subject, options).await;
    if let Some(code) = unless_agreed(preview, moving, "cut it over?", "yes")? {
        return Ok(code);
    }
    let progress = progress(moving);
    Ok(tell(cutover::cut_over(&subject, options, &progress, stop).await, moving.output))
}

/// `nsqbridge rollback`.
///
/// # Errors
/// See [`RunError`].
pub(super) async fn roll_back(
    mut args: RollbackArgs,
    stop: &CancellationToken,
) -> Result<ExitCode, RunError> {
    let plan = planned(&mut args.moving)?;
    // It does not wait for a channel to drain.
    let options = Options { quiet: Duration::ZERO, ..options(&args.pause, plan.as_ref()) };
    let moving = &args.moving;
    let mode = match args.mode {
        RollbackMode::Healthy => rollback::Mode::Healthy { accept_more: args.accept_more },
        RollbackMode::Broken => rollback::Mode::Broken { accept_missing: args.accept_missing },
    };
    let subject = moved(args.channel, args.group, moving, plan.as_ref())?;
    let preview = rollback::preview(&subject, mode, options).await;
    if let Some(code) = unless_agreed(preview, moving, "roll it back?", "yes")? {
        return Ok(code);
    }
    let progress = progress(moving);
    Ok(tell(rollback::roll_back(&subject, mode, options, &progress, stop).await, moving.output))
}

/// `nsqbridge complete`.
///
/// # Errors
/// See [`RunError`].
pub(super) async fn complete(mut args: CompleteArgs, stop: &CancellationToken) -> Result<ExitCode, RunError> {
    let plan = planned(&mut args.moving)?;
    args.moving.yes |= args.name.as_ref() == Some(&args.channel);
    let moving = &args.moving;
    if moving.execute && moving.yes && args.name.as_ref() != Some(&args.channel) {
        let needed = format!("--yes needs the name as well here: --name {}", args.channel);
        return Err(RunError::Usage(vec![needed]));
    }
    let name = args.channel.to_string();
    let subject = moved(args.channel, args.group, moving, plan.as_ref())?;
    let preview = complete::preview(&subject).await;
    if let Some(code) = unless_agreed(preview, moving, "there is no way back; its name?", &name)? {
        return Ok(code);
    }
    let progress = progress(moving);
    Ok(tell(complete::complete(&subject, &progress, stop).await, moving.output))
}

/// `nsqbridge rehearse`.
///
/// # Errors
/// See [`RunError`].
pub(super) async fn rehearse(mut args: RehearseArgs, stop: &CancellationToken) -> Result<ExitCode, RunError> {
    let plan = planned(&mut args.moving)?;
    if let Some(plan) = &plan {
        plan_file::topic(plan, &args.topic)?;
    }
    let (options, moving) = (options(&args.pause, plan.as_ref()), &args.moving);
    // No plan speaks of the scratch channel.
    let subject = moved(rehearse::scratch_channel(args.topic), None, moving, None)?;
    let preview = Ok(rehearse::preview(&subject, options));
    if let Some(code) = unless_agreed(preview, moving, "rehearse it?", "yes")? {
        return Ok(code);
    }
    let progress = progress(moving);
    Ok(tell(rehearse::rehearse(&subject, options, &progress, stop).await, moving.output))
}

/// What the plan holds against the cutover of one of its channels.
async fn blocks(
    plan: &Plan,
    channel: &ChannelPath,
    rocketmq: &RocketmqArgs,
) -> Result<Vec<Finding>, RunError> {
    let planned = plan_file::channel(plan, channel)?;
    if planned.goal != Goal::Cutover {
        return Err(RunError::Usage(vec![format!(
            "the plan's goal for {channel} is not `cutover`: change it there, or leave -f out"
        )]));
    }
    let mut problems = Vec::new();
    let Some(cluster) = cluster_config(rocketmq, &mut problems) else {
        return Err(RunError::Usage(problems));
    };
    let world = world::look(plan, &Eyes { cluster, ..Eyes::default() }).await.map_err(failed)?;
    Ok(checks::against_cutover(plan, &world, channel))
}

/// Tells what the plan holds against it: 2, for nothing was changed.
fn tell_blocked(findings: Vec<Finding>, output: Output) -> ExitCode {
    match output {
        Output::Table => {
            tell!("{}", Report { findings }.rows().trim_end());
            tell!("the plan blocks it; nothing was changed");
        }
        Output::Json => {
            let reason = findings.first().map_or("", |finding| finding.check);
            let detail = findings.first().map_or("", |finding| &finding.finding);
            say!(
                "{}",
                json!({ "event": "refused", "reason": reason, "detail": detail, "undone": false, "in_force": null, "findings": findings })
            );
        }
    }
    ExitCode::from(BLOCKED)
}

/// Shows what would be done; the exit code when it is not to be done.
fn unless_agreed(
    preview: Result<Vec<String>, Refusal>,
    args: &MovingArgs,
    question: &str,
    agreed: &str,
) -> Result<Option<ExitCode>, RunError> {
    let lines = match preview {
        Ok(lines) => lines,
        Err(refusal) => return Ok(Some(tell(Err(refusal), args.output))),
    };
    match args.output {
        Output::Table => lines.iter().for_each(|line| say!("{line}")),
        Output::Json => say!("{}", json!({ "event": "plan", "lines": lines })),
    }
    if !args.execute {
        if args.output == Output::Table {
            say!("nothing was changed; --execute does it");
        }
        return Ok(Some(ExitCode::SUCCESS));
    }
    if args.yes || agrees(question, agreed)? {
        return Ok(None);
    }
    tell!("nothing was changed");
    Ok(Some(ExitCode::from(BLOCKED)))
}

fn progress(args: &MovingArgs) -> Progress {
    let tell: fn(&Event<'_>) = match args.output {
        Output::Table => |event| match event {
            Event::Step { step, message, seconds } => say!("{seconds:7.2} s  {step:<15} {message}"),
            Event::Waiting { reason, message, seconds } => {
                say!("{seconds:7.2} s  waiting         {reason}: {message}");
            }
            Event::Note { message, seconds } => say!("{seconds:7.2} s                  {message}"),
        },
        Output::Json => |event| say!("{}", serde_json::to_string(event).unwrap_or_default()),
    };
    Progress::new(Box::new(tell), args.stop_after)
}

/// Tells how it ended: 0 done, 1 failed, 2 blocked before anything was changed.
fn tell(ended: Result<Done, Refusal>, output: Output) -> ExitCode {
    let refusal = match ended {
        Ok(done) => {
            match output {
                Output::Table if done.paused_ms > 0 => {
                    say!("{}; the relay was held for {:.2} s", done.message, done.paused_ms as f64 / 1e3);
                }
                Output::Table => say!("{}", done.message),
                Output::Json => {
                    say!(
                        "{}",
                        json!({ "event": "done", "message": done.message, "paused_ms": done.paused_ms })
                    );
                }
            }
            return ExitCode::SUCCESS;
        }
        Err(refusal) => refusal,
    };
    match output {
        Output::Table => tell!("{refusal}"),
        Output::Json => {
            let in_force = match &refusal.left {
                Left::InForce(what) => Some(what),
                Left::Untouched | Left::Undone => None,
            };
            say!(
                "{}",
                json!({
                    "event": "refused",
                    "reason": refusal.trouble.reason,
                    "detail": refusal.trouble.detail,
                    "undone": refusal.left == Left::Undone,
                    "in_force": in_force,
                    "advice": refusal.trouble.reason.advice(),
                })
            );
        }
    }
    if refusal.is_blocked() { ExitCode::from(BLOCKED) } else { ExitCode::FAILURE }
}
