//! nsqbridge beside what its users have otherwise, measured side by side.
//!
//! `make bench`, or `cargo bench --bench compare -- publish relay` for some of it. Every round measures both sides, one right after
//! the other and in turn first; what counts is the median of the rounds' comparisons. Brokers and nsqds are its own, and gone
//! afterwards. `benches/README.md` says how to read the result.
//!
//! ```text
//! sections (publish, client, relay, latency, curves) ─▶ report: rows, curves ─▶ table, picture ─▶ benches/results.{md,svg}
//!      └─▶ parts: brokers, gateway, relay; load: HTTP; java: RocketMQ's own programs
//! ```

#![allow(missing_docs, clippy::unwrap_used, reason = "a measurement, not an interface")]

mod client;
mod curves;
mod java;
mod latency;
mod load;
mod parts;
mod picture;
mod publish;
mod relay;
mod report;
mod table;

use std::{env, path::Path, process::ExitCode, time::Duration};

use nsqbridge_brokers::Flush;

use self::{parts::Fresh, report::Report};

const SECTIONS: [&str; 9] =
    ["publish", "sync", "sends", "batches", "pull", "relay", "latency", "curves", "brokers"];
/// Less than this is for trying the program out: it is not written where results are.
const ROUNDS: usize = 5;
const SECONDS: usize = 3;
const BACKLOG: usize = 1_000_000;

/// How long to measure.
pub struct Plan {
    pub rounds: usize,
    /// One side, one round.
    pub lasting: Duration,
    /// Messages the relays have before them.
    pub backlog: u64,
}

impl Plan {
    /// Rounds of what takes long.
    pub fn few_rounds(&self) -> usize {
        self.rounds.div_ceil(2)
    }
}

fn number(name: &str, default: usize) -> usize {
    env::var(name)
        .ok()
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no number")))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let wanted: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let (rounds, seconds) = (number("BENCH_ROUNDS", ROUNDS), number("BENCH_SECONDS", SECONDS));
    let backlog = number("BENCH_BACKLOG", BACKLOG);
    // Filled in whole batches, evenly over the queues.
    let whole = (backlog as u64).next_multiple_of(8_000);
    let plan = Plan { rounds, lasting: Duration::from_secs(seconds as u64), backlog: whole };
    nsqbridge::observe::process::raise_open_files();
    let unknown: Vec<&String> = wanted.iter().filter(|name| !SECTIONS.contains(&name.as_str())).collect();
    assert!(unknown.is_empty(), "no such sections: {unknown:?}; there are {SECTIONS:?}");
    let (report, mut fresh) = (Report::begin(), Fresh::default());
    env::var("BENCH_REMARK").into_iter().for_each(|remark| report.remark(remark));
    for name in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            report.section(name, section(name, &plan, &mut fresh, &report)).await;
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let whole = wanted.is_empty() && rounds >= ROUNDS && seconds >= SECONDS && backlog >= BACKLOG;
    let folder = root.join(if whole { "benches" } else { "target/bench" });
    let written = report.write(&folder, &plan).unwrap();
    println!("\n{written}\nin {}", folder.join("results.md").display());
    if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn section(name: &str, plan: &Plan, fresh: &mut Fresh, report: &Report) {
    match name {
        "publish" => publish::measure(plan, Flush::Async, fresh, report).await,
        "sync" => publish::measure(plan, Flush::Sync, fresh, report).await,
        "sends" => client::sends(plan, fresh, report).await,
        "batches" => client::batches(plan, fresh, report).await,
        "pull" => client::pulls(plan, fresh, report).await,
        "relay" => relay::measure(plan, fresh, report).await,
        "latency" => latency::measure(plan, fresh, report).await,
        "curves" => curves::measure(plan, fresh, report).await,
        _ => curves::brokers(plan, fresh, report).await,
    }
}
