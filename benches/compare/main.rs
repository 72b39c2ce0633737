//! nsqbridge beside what its users have otherwise, measured side by side.
//!
//! `make bench`, or `cargo bench --bench compare -- publish relay` for some of it; `BENCH_ROUNDS` and `BENCH_SECONDS` make it longer. Every
//! round measures both sides, one right after the other and in turn first; what counts is the median of the rounds' ratios. Brokers
//! and nsqds are its own, and gone afterwards. `benches/README.md` says how to read the result.

#![allow(missing_docs, clippy::unwrap_used, reason = "a measurement, not an interface")]

mod client;
mod load;
mod parts;
mod publish;
mod relay;
mod table;

use std::{env, fs, path::Path, time::Duration};

use nsqbridge_brokers::Flush;

use self::{parts::Fresh, table::Row};

/// How long to measure.
pub struct Plan {
    pub rounds: usize,
    pub lasting: Duration,
}

fn number(name: &str, default: usize) -> usize {
    env::var(name)
        .ok()
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no number")))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let wanted: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wants = |section: &str| wanted.is_empty() || wanted.iter().any(|name| name == section);
    let plan = Plan {
        rounds: number("BENCH_ROUNDS", 5),
        lasting: Duration::from_secs(number("BENCH_SECONDS", 4) as u64),
    };
    let mut fresh = Fresh::default();
    let mut rows: Vec<Row> = Vec::new();
    if wants("publish") {
        rows.extend(publish::rows(&plan, Flush::Async, &mut fresh).await);
        rows.extend(publish::rows(&plan, Flush::Sync, &mut fresh).await);
    }
    if wants("client") {
        rows.extend(client::rows(&plan, &mut fresh).await);
    }
    if wants("relay") {
        rows.extend(relay::rows(&plan, &mut fresh).await);
    }
    println!("{}", table::text(&rows));
    if wanted.is_empty() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
        fs::write(folder.join("results.md"), table::markdown(&rows)).unwrap();
        fs::write(folder.join("results.svg"), table::svg(&rows)).unwrap();
    }
}
