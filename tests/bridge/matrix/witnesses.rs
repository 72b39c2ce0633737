//! What the parts themselves say of messages that may come twice, read from their logs and counters.
//!
//! A log outlives the process that is killed; a counter does not.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    time::UNIX_EPOCH,
};

use nsqbridge_brokers::{Nsqd, Server, http};
use serde_json::Value;

use super::ledger::Takeover;
use crate::bridge::blocking;

/// What was said since the last question.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Messages a gateway stored after a try without an answer.
    pub gateway_doubts: usize,
    /// Messages a relay sent to nsqd again after a try without an answer.
    pub relay_doubts: usize,
    /// Messages a relay sent again because the nsqd that had them was lost.
    pub replayed: usize,
    /// Messages nsqd sent again because a consumer had not finished them.
    pub timeouts: usize,
    pub takeovers: Vec<Takeover>,
}

impl Told {
    pub fn add(&mut self, other: &Told) {
        self.gateway_doubts += other.gateway_doubts;
        self.relay_doubts += other.relay_doubts;
        self.replayed += other.replayed;
        self.timeouts += other.timeouts;
        self.takeovers.extend_from_slice(&other.takeovers);
    }

    /// How many messages a relay or an nsqd may have sent twice.
    pub fn relayed_again(&self) -> usize {
        self.relay_doubts + self.replayed + self.timeouts
    }
}

/// Logs, and how far each was read.
pub struct Witnesses {
    logs: Vec<(PathBuf, u64)>,
    /// Of each nsqd process: when it started and how often it sent again.
    nsqds: Vec<(i64, usize)>,
}

impl Witnesses {
    pub fn new<'a>(servers: impl Iterator<Item = &'a Server>, nsqds: usize) -> Self {
        Self { logs: servers.map(|server| (server.log(), 0)).collect(), nsqds: vec![(0, 0); nsqds] }
    }

    pub fn ask(&mut self, nsqds: &[Nsqd]) -> Told {
        let mut told = Told::default();
        for (path, read) in &mut self.logs {
            for line in lines_from(path, read).lines() {
                hear(line, &mut told);
            }
        }
        for (nsqd, known) in nsqds.iter().zip(&mut self.nsqds) {
            let now = sent_again(nsqd);
            // Another process counts from nothing.
            told.timeouts += if now.0 == known.0 { now.1 - known.1 } else { now.1 };
            *known = now;
        }
        told
    }
}

/// The whole lines behind what was read.
fn lines_from(path: &PathBuf, read: &mut u64) -> String {
    let mut file = File::open(path).unwrap();
    file.seek(SeekFrom::Start(*read)).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    bytes.truncate(whole);
    *read += whole as u64;
    String::from_utf8(bytes).unwrap()
}

fn hear(line: &str, told: &mut Told) {
    const WORDS: [&str; 6] = [
        "perhaps stored twice, with the same ids",
        "stored after a try without an answer",
        "perhaps stored; spooled with the same ids",
        "no answer from nsqd; relaying again",
        "relaying again what this nsqd may have lost",
        r#""message":"relaying""#,
    ];
    let Some(said) = WORDS.iter().position(|words| line.contains(words)) else { return };
    let line: Value = serde_json::from_str(line).unwrap();
    let fields = &line["fields"];
    let messages = || fields["messages"].as_u64().unwrap() as usize;
    match said {
        0..=2 => told.gateway_doubts += messages(),
        3 => told.relay_doubts += messages(),
        4 => told.replayed += messages(),
        // A topic's relay says so, too, with no queue.
        _ => told.takeovers.extend(fields["queue"].as_str().map(|queue| Takeover {
            queue: queue.to_owned(),
            offset: fields["offset"].as_i64().unwrap(),
            at_ms: millis(line["timestamp"].as_str().unwrap()),
        })),
    }
}

fn millis(timestamp: &str) -> i64 {
    let at = humantime::parse_rfc3339(timestamp).unwrap();
    at.duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// When this nsqd started, and how often it sent a message again; the worst of its channels.
fn sent_again(nsqd: &Nsqd) -> (i64, usize) {
    let stats = stats(nsqd);
    let again = |channel: &Value| {
        let count = |name: &str| channel[name].as_u64().unwrap() as usize;
        count("timeout_count") + count("requeue_count")
    };
    (stats["start_time"].as_i64().unwrap(), channels(&stats).map(again).max().unwrap_or(0))
}

/// Messages that have not left this nsqd.
pub fn held(nsqd: &Nsqd) -> u64 {
    let stats = stats(nsqd);
    let topics = stats["topics"].as_array().into_iter().flatten();
    let waiting: u64 = topics.map(|topic| topic["depth"].as_u64().unwrap()).sum();
    let in_channel = |channel: &Value| {
        ["depth", "in_flight_count", "deferred_count"]
            .map(|name| channel[name].as_u64().unwrap())
            .iter()
            .sum::<u64>()
    };
    waiting + channels(&stats).map(in_channel).sum::<u64>()
}

fn stats(nsqd: &Nsqd) -> Value {
    let (_, stats) = blocking(|| http::get(nsqd.http_addr(), "/stats?format=json")).unwrap();
    serde_json::from_str(&stats).unwrap()
}

fn channels(stats: &Value) -> impl Iterator<Item = &Value> {
    let topics = stats["topics"].as_array().into_iter().flatten();
    topics.flat_map(|topic| topic["channels"].as_array().into_iter().flatten())
}
