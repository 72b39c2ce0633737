//! Moves a consumer as the command line says: shows what would be done, asks, does it, and tells how it ended.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{
        CompleteArgs, CutoverArgs, MovingArgs, NamesArgs, Output, PauseArgs, RehearseArgs, RocketmqArgs,
        RollbackArgs, RollbackMode,
    },
    migration::{
        Done, Options, Subject, complete, cutover,
        progress::{Event, Progress},
        refusal::{Left, Refusal},
        rehearse, rollback,
    },
    nsq::{address::HttpAddress, names::ChannelPath, nsqd::Nsqd, nsqlookupd::Nsqlookupd},
    run::{self, RunError},
};

/// The channel that flags speak of, and where to find it.
///
/// # Errors
/// Everything wrong with the flags.
pub(crate) fn subject(
    channel: ChannelPath,
    group: Option<String>,
    names: &NamesArgs,
    rocketmq: &RocketmqArgs,
    nsqlookupds: &[HttpAddress],
    nsqds: &[HttpAddress],
) -> Result<Subject, RunError> {
    let mut problems = Vec::new();
    let cluster = run::cluster(rocketmq, &mut problems);
    let mapping = run::names(names, &mut problems);
    let (Some(cluster), Some(mapping)) = (cluster, mapping) else { return Err(RunError::Usage(problems)) };
    let mut subject = Subject::new(cluster, mapping, names.group_prefix.clone(), channel, group);
    subject.nsqlookupds = nsqlookupds.iter().cloned().map(Nsqlookupd::new).collect();
    subject.nsqds = nsqds.iter().cloned().map(Nsqd::new).collect();
    Ok(subject)
}

fn moved(channel: ChannelPath, group: Option<String>, args: &MovingArgs) -> Result<Subject, RunError> {
    let MovingArgs { names, rocketmq, lookupd_http_address, nsqd_http_address, .. } = args;
    subject(channel, group, names, rocketmq, lookupd_http_address, nsqd_http_address)
}

fn options(pause: &PauseArgs) -> Options {
    Options { max_pause: pause.max_pause }
}

/// `nsqbridge cutover`.
///
/// # Errors
/// See [`RunError`].
pub async fn cut_over(args: CutoverArgs, stop: &CancellationToken) -> Result<ExitCode, RunError> {
    let (options, moving) = (options(&args.pause), &args.moving);
    let subject = moved(args.channel, args.group, moving)?;
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
pub async fn roll_back(args: RollbackArgs, stop: &CancellationToken) -> Result<ExitCode, RunError> {
    let (options, moving) = (options(&args.pause), &args.moving);
    let mode = match args.mode {
        RollbackMode::Healthy => rollback::Mode::Healthy,
        RollbackMode::Broken => rollback::Mode::Broken { accept_missing: args.accept_missing },
    };
    let subject = moved(args.channel, args.group, moving)?;
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
pub async fn complete(args: CompleteArgs, stop: &CancellationToken) -> Result<ExitCode, RunError> {
    let moving = &args.moving;
    if moving.execute && moving.yes && args.name.as_ref() != Some(&args.channel) {
        let needed = format!("--yes needs the name as well here: --name {}", args.channel);
        return Err(RunError::Usage(vec![needed]));
    }
    let name = args.channel.to_string();
    let subject = moved(args.channel, args.group, moving)?;
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
pub async fn rehearse(args: RehearseArgs, stop: &CancellationToken) -> Result<ExitCode, RunError> {
    let (options, moving) = (options(&args.pause), &args.moving);
    let channel = rehearse::scratch_channel(args.topic);
    let subject = moved(channel, None, moving)?;
    let preview = Ok(rehearse::preview(&subject, options));
    if let Some(code) = unless_agreed(preview, moving, "rehearse it?", "yes")? {
        return Ok(code);
    }
    let progress = progress(moving);
    Ok(tell(rehearse::rehearse(&subject, options, &progress, stop).await, moving.output))
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
        Output::Table => lines.iter().for_each(|line| println!("{line}")),
        Output::Json => println!("{}", json!({ "event": "plan", "lines": lines })),
    }
    if !args.execute {
        if args.output == Output::Table {
            println!("nothing was changed; --execute does it");
        }
        return Ok(Some(ExitCode::SUCCESS));
    }
    if args.yes || answer(question, agreed)? {
        return Ok(None);
    }
    eprintln!("nothing was changed");
    Ok(Some(ExitCode::from(2)))
}

/// Asks on the terminal.
fn answer(question: &str, agreed: &str) -> Result<bool, RunError> {
    if !std::io::stdin().is_terminal() {
        return Err(RunError::Usage(vec!["nobody can be asked here: give --yes".to_owned()]));
    }
    eprint!("{question} ({agreed}) ");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    read.map_err(|error| RunError::Failed(format!("the answer cannot be read: {error}")))?;
    Ok(line.trim() == agreed)
}

fn progress(args: &MovingArgs) -> Progress {
    let tell: fn(&Event<'_>) = match args.output {
        Output::Table => |event| match event {
            Event::Step { step, message, seconds } => println!("{seconds:7.2} s  {step:<15} {message}"),
            Event::Waiting { reason, message, seconds } => {
                println!("{seconds:7.2} s  waiting         {reason}: {message}");
            }
            Event::Note { message, seconds } => println!("{seconds:7.2} s                  {message}"),
        },
        Output::Json => |event| println!("{}", serde_json::to_string(event).unwrap_or_default()),
    };
    Progress::new(Box::new(tell), args.stop_after)
}

/// Tells how it ended: 0 done, 1 failed, 2 blocked before anything was changed.
fn tell(ended: Result<Done, Refusal>, output: Output) -> ExitCode {
    let refusal = match ended {
        Ok(done) => {
            match output {
                Output::Table if done.paused_ms > 0 => {
                    println!("{}; the relay was held for {:.2} s", done.message, done.paused_ms as f64 / 1e3);
                }
                Output::Table => println!("{}", done.message),
                Output::Json => {
                    println!(
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
        Output::Table => eprintln!("{refusal}"),
        Output::Json => {
            let in_force = match &refusal.left {
                Left::InForce(what) => Some(what),
                Left::Untouched | Left::Undone => None,
            };
            println!(
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
    if refusal.is_blocked() { ExitCode::from(2) } else { ExitCode::FAILURE }
}
