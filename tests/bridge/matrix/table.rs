//! The table a run leaves: a line for each fault, printed, and in `docs/soak.md` after a soak.
//!
//! Soaks may run in pieces. Each keeps its rows in `docs/soak.json`, where a row of the same fault and brokers replaces an older one, and
//! the document is written from all rows there are.

use std::{
    fmt::Write as _,
    fs::{self, File},
    path::Path,
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

/// One fault, or several at once, on one kind of brokers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    pub fault: String,
    /// RocketMQ's version and how it flushes.
    pub brokers: String,
    /// When it ended.
    pub at: String,
    pub seed: u64,
    pub acknowledged: usize,
    pub lost: usize,
    pub doubled: usize,
    /// By cause, with what admits it.
    pub causes: String,
    /// Seconds.
    pub lasted: f64,
    pub stall: f64,
    pub delivery: f64,
    pub recovery: f64,
    /// What was promised and did not hold.
    pub failures: Vec<String>,
}

const HEAD: &str = "| fault | acknowledged | lost | doubled (why) | lasted | longest stall | longest delivery | recovered |\n\
                    |---|---|---|---|---|---|---|---|\n";

impl Row {
    pub fn text(&self) -> String {
        let Row { fault, acknowledged, lost, doubled, causes, .. } = self;
        let causes = if causes.is_empty() { String::new() } else { format!(" ({causes})") };
        let [lasted, stall, delivery, recovery] =
            [self.lasted, self.stall, self.delivery, self.recovery].map(|seconds| format!("{seconds:.1} s"));
        let failed = if self.failures.is_empty() {
            String::new()
        } else {
            format!(" **{}**", self.failures.join("; "))
        };
        format!(
            "| {fault}{failed} | {acknowledged} | {lost} | {doubled}{causes} | {lasted} | {stall} | {delivery} | {recovery} |\n"
        )
    }
}

/// Now, to the second.
pub fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Prints these rows.
pub fn print(rows: &[Row]) {
    let lines: String = rows.iter().map(Row::text).collect();
    println!("{HEAD}{lines}");
}

/// Adds these rows to those of earlier pieces and writes the document.
pub fn keep(rows: &[Row]) {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let kept = docs.join("soak.json");
    // A piece may run beside another.
    let alone = File::open(&kept).unwrap();
    alone.lock().unwrap();
    let mut all: Vec<Row> = serde_json::from_str(&fs::read_to_string(&kept).unwrap()).unwrap();
    for row in rows {
        let same = |old: &&mut Row| old.fault == row.fault && old.brokers == row.brokers;
        match all.iter_mut().find(same) {
            Some(old) => *old = row.clone(),
            None => all.push(row.clone()),
        }
    }
    fs::write(&kept, serde_json::to_string_pretty(&all).unwrap() + "\n").unwrap();
    fs::write(docs.join("soak.md"), text(&all)).unwrap();
}

fn text(rows: &[Row]) -> String {
    let mut text = INTRODUCTION.to_owned();
    let mut brokers: Vec<_> = rows.iter().map(|row| row.brokers.as_str()).collect();
    brokers.sort_unstable();
    brokers.dedup();
    for brokers in brokers {
        let rows: Vec<_> = rows.iter().filter(|row| row.brokers == brokers).collect();
        let ats = || rows.iter().map(|row| row.at.as_str());
        let (first, last) = (ats().min().unwrap_or_default(), ats().max().unwrap_or_default());
        let sum = |of: fn(&Row) -> usize| rows.iter().map(|row| of(row)).sum::<usize>();
        let _ = write!(
            text,
            "\n## RocketMQ {brokers}, nsqd {}\n\nFrom {first} to {last}: {} faults, {} messages acknowledged, {} lost, {} doubled; \
             {} faults broke a promise.\n\n{HEAD}",
            nsqbridge_brokers::versions::NSQ,
            rows.len(),
            sum(|row| row.acknowledged),
            sum(|row| row.lost),
            sum(|row| row.doubled),
            rows.iter().filter(|row| !row.failures.is_empty()).count(),
        );
        rows.iter().for_each(|row| text.push_str(&row.text()));
    }
    text
}

const INTRODUCTION: &str = "\
# What a fault costs

Written by `make soak`; do not edit. Six producers, three by HTTP and three by nsqd's TCP protocol, publish through two gateways
into two RocketMQ masters, one of which has a slave; two transfer daemons relay into two nsqds; two channels consume and finish
every message. Each row does one thing to this, undoes it, and then compares every byte of every message on both sides. Gateways
spool in the last rows only, where they are said to.

- **lost**: acknowledged and not in RocketMQ, or stored and not at every consumer as often.
- **doubled**: copies beyond the first, by cause. *producer*: it published again after a refusal or no answer. *gateway*: it tried
  again after no answer of a broker. *rewound*: an instance took a queue over before its last messages were committed. *relay*: it
  had no answer from nsqd, relayed a lost nsqd's share again, or nsqd's consumer was too slow. Behind *of* stands how many
  the parts themselves said may be double.
- **lasted**: how long the fault was there. A killed gateway or transfer daemon is started again after 1 s, as a service manager does.
- **longest stall**: the longest a producer waited for `OK`, its own repeats included.
- **longest delivery**: the longest from an `OK` to the slower of the consumers.
- **recovered**: from the end of the fault until nothing acknowledged was missing anywhere; from its beginning for a transfer
  daemon that was killed, whose queues' locks RocketMQ holds for 60 s, or frozen, which RocketMQ takes for a member of its group
  for 120 s. A relay learns of a master that is back with its next look at the routes: every 2 s for three
  minutes, then every 30 s.
";
