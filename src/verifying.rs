//! Answers `nsqbridge verify`, and repairs what can be repaired.

use std::{
    collections::BTreeSet,
    io::{BufRead, Write},
    process::ExitCode,
    time::Duration,
};

use crate::{
    audit::{
        Pace, Recorder,
        reconcile::Weight,
        repair::{self, RepairError, Repaired},
        report,
        verify::{self, Answer, Question},
    },
    cli::{Output, VerifyArgs},
    nsq::{nsqd::Nsqd, nsqlookupd::Nsqlookupd},
    run::{self, RunError},
};

/// How long the records of a repair may take.
const RECORDS_WITHIN: Duration = Duration::from_secs(10);

/// Looks, shows, and repairs if asked to: 0 when nothing is missing, 1 for a loss, 2 when it cannot be said.
///
/// # Errors
/// See [`RunError`].
pub async fn answer(args: VerifyArgs) -> Result<ExitCode, RunError> {
    let mut problems = Vec::new();
    let cluster = run::cluster(&args.rocketmq, &mut problems);
    let names = run::names(&args.names, &mut problems);
    let (Some(cluster), Some(names)) = (cluster, names) else { return Err(RunError::Usage(problems)) };
    let nsqds = match nsqds(&args).await {
        Ok(nsqds) => nsqds,
        Err(error) => return Ok(cannot_say(&error)),
    };
    let question = Question {
        cluster,
        names,
        group_prefix: args.names.group_prefix,
        topic: args.topic,
        window: args.window,
        until: args.until,
        nsqds,
    };
    let answer = match verify::ask(&question).await {
        Ok(answer) => answer,
        Err(error) => return Ok(cannot_say(&error)),
    };
    match args.output {
        Output::Table => print!("{}", report::table(&answer)),
        Output::Json => println!("{}", report::json(&answer)),
    }
    if args.repair
        && let Some(nsqd) = args.nsqd_http_address.into_iter().next().map(Nsqd::new)
    {
        return Ok(mend(&question, &answer, &nsqd, args.yes).await);
    }
    Ok(match answer.weight() {
        Some(Weight::Loss) => ExitCode::FAILURE,
        Some(Weight::Doubt) => ExitCode::from(2),
        Some(Weight::Note) | None => ExitCode::SUCCESS,
    })
}

fn cannot_say(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("it cannot be said whether a message is missing: {error}");
    ExitCode::from(2)
}

/// The nsqds that are given, and those the nsqlookupds list.
async fn nsqds(args: &VerifyArgs) -> Result<Vec<Nsqd>, crate::nsq::nsqd::HttpError> {
    let mut addresses: BTreeSet<_> = args.nsqd_http_address.iter().cloned().collect();
    for lookupd in &args.lookupd_http_address {
        addresses.extend(Nsqlookupd::new(lookupd.clone()).lookup(&args.topic).await?.nsqds);
    }
    Ok(addresses.into_iter().map(Nsqd::new).collect())
}

/// Relays what was passed; 0 when nothing is missing any more.
async fn mend(question: &Question, answer: &Answer, nsqd: &Nsqd, yes: bool) -> ExitCode {
    let missing: u64 = answer.passed.iter().map(|run| run.to.abs_diff(run.from)).sum();
    let losses = answer.findings.iter().filter(|finding| finding.weight == Weight::Loss);
    let lost: u64 = losses.map(|finding| finding.messages).sum();
    if lost > missing {
        eprintln!(
            "{} messages cannot be brought back: RocketMQ does not have them, or has others at their offsets",
            lost - missing
        );
    }
    if missing == 0 {
        eprintln!("nothing to relay again");
    } else if !yes && !agreed(&format!("Relay {missing} messages to {}?", nsqd.address())) {
        eprintln!("nothing was done");
        return ExitCode::FAILURE;
    }
    let pace = Pace { every: Duration::from_secs(1), spread: false };
    let recorder = Recorder::new(question.cluster.clone(), question.names.clone(), "nsqbridge-verify", pace);
    let repaired = repair::repair(question, &answer.passed, nsqd, &recorder).await;
    let recorded = recorder.drain(RECORDS_WITHIN).await;
    let Repaired { relayed, stuck } = match repaired {
        Ok(repaired) => repaired,
        Err(error @ (RepairError::Verify(_) | RepairError::Nsqd(_))) => {
            eprintln!("stopped: {error}; look again before repeating it");
            return ExitCode::FAILURE;
        }
    };
    eprintln!("{relayed} messages relayed to {}", nsqd.address());
    for (id, error) in &stuck {
        eprintln!("{id} is not: {error}");
    }
    if !recorded {
        eprintln!(
            "this could not be written down: the next look will find the same messages missing once more"
        );
    }
    match answer.weight() {
        _ if lost > relayed || !recorded => ExitCode::FAILURE,
        Some(Weight::Doubt) => ExitCode::from(2),
        _ => ExitCode::SUCCESS,
    }
}

/// Whether a person says yes.
fn agreed(question: &str) -> bool {
    eprint!("{question} [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).is_ok()
        && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}
