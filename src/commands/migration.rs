//! The migration's questions: what a running NSQ has, and what stands between a plan and the world.

use std::{
    collections::BTreeSet, fmt::Write as _, fs::OpenOptions, io::Write as _, path::Path, process::ExitCode,
};

use super::plan_file;
use crate::{
    cli::{Output, PlanArgs, PlanFileArgs, RocketmqArgs, ScanArgs, ScanOutput},
    doctor::{Report, Severity},
    migration::{
        checks::{self, Verdict},
        plan::{Plan, Where, draft},
        scan::{self, Inventory, Sources},
        world::{self, Eyes},
    },
    nsq::{nsqd::Nsqd, nsqlookupd::Nsqlookupd},
    rocketmq::{Cluster, ClusterConfig},
    settings::{BLOCKED, RunError, cluster, cluster_config, failed, names},
    table::align,
};

/// Reads the plan, and how to reach the RocketMQ it names.
///
/// # Errors
/// [`RunError::Usage`] with everything wrong with either.
pub(super) fn plan_file(args: PlanFileArgs) -> Result<(Plan, ClusterConfig, Output), RunError> {
    let mut rocketmq: RocketmqArgs = args.rocketmq;
    let plan = plan_file::load(&args.plan, &mut rocketmq)?;
    let mut problems = Vec::new();
    match cluster_config(&rocketmq, &mut problems) {
        Some(cluster) => Ok((plan, cluster, args.output)),
        None => Err(RunError::Usage(problems)),
    }
}

/// Shows what a running NSQ has; 1 when no nsqd answers.
pub(super) async fn scan(args: ScanArgs) -> Result<ExitCode, RunError> {
    let mut problems = Vec::new();
    if args.lookupd_http_address.is_empty() && args.nsqd_http_address.is_empty() {
        problems.push("nothing to look at: give --lookupd-http-address or --nsqd-http-address".to_owned());
    }
    let names = names(&args.names, &mut problems);
    let cluster = match args.rocketmq.namesrv.is_empty() {
        true => None,
        false => cluster(&args.rocketmq, &mut problems),
    };
    let Some(names) = names.filter(|_| problems.is_empty()) else { return Err(RunError::Usage(problems)) };
    let sources = Sources {
        nsqlookupds: args.lookupd_http_address.iter().cloned().map(Nsqlookupd::new).collect(),
        nsqds: args.nsqd_http_address.iter().cloned().map(Nsqd::new).collect(),
        sample: args.sample,
        timeout: args.timeout,
    };
    let inventory = scan::inventory(&scan::look(&sources).await, &names);
    if !inventory.has_answers() {
        return Err(failed(format!("no nsqd answers\n{}", scan::table(&inventory).trim_end())));
    }
    let report = checks::inventory(&inventory, &taken(cluster.as_ref()).await?);
    let draft = draft(
        &inventory,
        &Where {
            name_servers: &args.rocketmq.namesrv,
            nsqlookupds: &args.lookupd_http_address,
            nsqds: &args.nsqd_http_address,
            names: &names,
            group_prefix: &args.names.group_prefix,
        },
    );
    if let Some(path) = &args.write_plan {
        write_new(path, &draft)?;
    }
    match args.output {
        ScanOutput::Table => say_as_is!("{}", shown(&inventory, &report)),
        ScanOutput::Json => {
            let whole = serde_json::json!({ "inventory": inventory, "findings": report.findings });
            say!("{}", serde_json::to_string_pretty(&whole).map_err(failed)?);
        }
        ScanOutput::Plan => say_as_is!("{draft}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The topic names RocketMQ keeps for itself; none when it is not to be looked at.
async fn taken(cluster: Option<&Cluster>) -> Result<BTreeSet<String>, RunError> {
    match cluster {
        Some(cluster) => cluster.kept_topics().await.map_err(failed),
        None => Ok(BTreeSet::new()),
    }
}

/// A plan may have been worked on for days: it is never written over.
fn write_new(path: &Path, text: &str) -> Result<(), RunError> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| failed(format!("{}: {error}", path.display())))
}

fn shown(inventory: &Inventory, report: &Report) -> String {
    let mut text = scan::table(inventory);
    if !report.findings.is_empty() {
        let _ = write!(text, "\n{}", report.rows());
    }
    text
}

/// Shows what stands between the plan and the world; 2 when something blocks it.
pub(super) async fn plan(args: PlanArgs) -> Result<ExitCode, RunError> {
    let (plan, cluster, output) = plan_file(args.file)?;
    let servers = cluster.name_servers.join(";");
    let eyes = Eyes { cluster, sample: args.sample, timeout: args.timeout };
    let world = world::look(&plan, &eyes).await.map_err(failed)?;
    let verdict = checks::judge(&plan, &world);
    match output {
        Output::Table => say_as_is!("{}", told(&verdict, &servers)),
        Output::Json => {
            let whole = serde_json::json!({ "namesrv": servers, "verdict": verdict });
            say!("{}", serde_json::to_string_pretty(&whole).map_err(failed)?);
        }
    }
    Ok(if verdict.blocked { ExitCode::from(BLOCKED) } else { ExitCode::SUCCESS })
}

/// The verdict, for people.
fn told(verdict: &Verdict, servers: &str) -> String {
    let report = Report { findings: verdict.findings.clone() };
    let mut text = format!("RocketMQ at {servers}\n\n{}", report.rows());
    if verdict.steps.is_empty() {
        text.push_str("\nEvery channel is where the plan wants it.\n");
    } else {
        let mut rows = vec![["PHASE", "WHAT", "CHANGE", "PAUSE", "BY"].map(str::to_owned)];
        for step in &verdict.steps {
            let pause = step.pause_seconds.map_or_else(String::new, |pause| format!("{pause:.1}s"));
            rows.push([
                step.phase.to_string(),
                step.what.clone(),
                step.change.clone(),
                pause,
                step.command.clone().unwrap_or_default(),
            ]);
        }
        let _ = write!(text, "\n{}", align(&rows));
    }
    let phase = match (verdict.phase, verdict.blocked) {
        (_, true) => "blocked".to_owned(),
        (Some(phase), false) => format!("phase {phase} can begin"),
        (None, false) => "nothing to do".to_owned(),
    };
    let _ = writeln!(
        text,
        "\n{phase}: {} block, {} warnings, {} to know, {} as they should be",
        report.count(Severity::Block),
        report.count(Severity::Warn),
        report.count(Severity::Info),
        report.count(Severity::Ok),
    );
    text
}
