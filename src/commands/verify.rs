//! Answers `nsqbridge verify`, and repairs what can be repaired.

use std::{collections::BTreeSet, process::ExitCode, time::Duration};

use super::{ask::agrees, plan_file, target::may_get};
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
    settings::{BLOCKED, RunError, reach},
};

/// How long the records of a repair may take.
const RECORDS_WITHIN: Duration = Duration::from_secs(10);

/// Looks, shows, and repairs if asked to: 0 when nothing is missing, 1 for a loss, 2 when it cannot be said.
///
/// # Errors
/// See [`RunError`].
pub(super) async fn verify(mut args: VerifyArgs) -> Result<ExitCode, RunError> {
    plan_file::fill(
        &args.plan,
        &mut args.rocketmq,
        &mut args.names,
        &mut args.lookupd_http_address,
        &mut args.nsqd_http_address,
    )?;
    let (cluster, names) = reach(&args.rocketmq, &args.names)?;
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
        Output::Table => say_as_is!("{}", report::table(&answer)),
        Output::Json => say!("{}", report::json(&answer)),
    }
    if args.repair
        && let Some(nsqd) = args.nsqd_http_address.into_iter().next().map(Nsqd::new)
    {
        return mend(&question, &answer, &nsqd, args.yes).await;
    }
    Ok(match answer.weight() {
        Some(Weight::Loss) => ExitCode::FAILURE,
        Some(Weight::Doubt) => ExitCode::from(BLOCKED),
        Some(Weight::Note) | None => ExitCode::SUCCESS,
    })
}

fn cannot_say(error: &dyn std::error::Error) -> ExitCode {
    tell!("it cannot be said whether a message is missing: {error}");
    ExitCode::from(BLOCKED)
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
async fn mend(question: &Question, answer: &Answer, nsqd: &Nsqd, yes: bool) -> Result<ExitCode, RunError> {
    let missing: u64 = answer.passed.iter().map(|run| run.to.abs_diff(run.from)).sum();
    let losses = answer.findings.iter().filter(|finding| finding.weight == Weight::Loss);
    let lost: u64 = losses.map(|finding| finding.messages).sum();
    if lost > missing {
        tell!(
            "{} messages cannot be brought back: RocketMQ does not have them, or has others at their offsets",
            lost - missing
        );
    }
    if missing == 0 {
        tell!("nothing to relay again");
    } else if let Err(why) = may_get(nsqd, &question.topic).await {
        tell!("nothing was relayed: {why}");
        return Ok(ExitCode::FAILURE);
    } else if !yes && !agrees(&format!("relay {missing} messages to {}?", nsqd.address()), "yes")? {
        tell!("nothing was done");
        return Ok(ExitCode::FAILURE);
    }
    let pace = Pace { every: Duration::from_secs(1), spread: false };
    let recorder = Recorder::new(question.cluster.clone(), question.names.clone(), "nsqbridge-verify", pace);
    let repaired = repair::repair(question, &answer.passed, nsqd, &recorder).await;
    let recorded = recorder.drain(RECORDS_WITHIN).await;
    let Repaired { relayed, stuck } = match repaired {
        Ok(repaired) => repaired,
        Err(error @ (RepairError::Verify(_) | RepairError::Nsqd(_))) => {
            tell!("stopped: {error}; look again before repeating it");
            return Ok(ExitCode::FAILURE);
        }
    };
    tell!("{relayed} messages relayed to {}", nsqd.address());
    for (id, error) in &stuck {
        tell!("{id} is not: {error}");
    }
    if !recorded {
        tell!("this could not be written down: the next look will find the same messages missing once more");
    }
    Ok(match answer.weight() {
        _ if lost > relayed || !recorded => ExitCode::FAILURE,
        Some(Weight::Doubt) => ExitCode::from(BLOCKED),
        _ => ExitCode::SUCCESS,
    })
}
