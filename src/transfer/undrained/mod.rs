//! What nsqd was given and may still lose.
//!
//! nsqd keeps messages in memory: one that crashes loses what waits there, is in flight or deferred, and even one that stops in order
//! can lose what it is handing out. So the relay remembers for each nsqd *process* which offsets of a queue went to it, until
//! its counters show that they have left it ([`drain`]). When another process has taken its place, or it has been away for
//! too long, these offsets are relayed again, and no others ([`super::replay`]).
//!
//! The record is kept in RocketMQ ([`journal`]), written before offsets are committed, and together with the offset up to which the queue
//! is relayed. So it outlives the relay, and goes with the queue from one instance to the next. What has only left an nsqd since is written
//! down seconds later: were relay and nsqd both lost meanwhile, it would be relayed again.

pub(super) mod drain;
pub(super) mod journal;
mod ranges;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::ranges::Ranges;
use crate::nsq::address::HttpAddress;

/// Runs of offsets remembered for each process; of twice as many, the nearest are taken together with what lies between.
const EXACT_RUNS: usize = 1_024;
/// The same for what is written down, for one process and for all together: a record must fit into a message.
const WRITTEN_RUNS: usize = 256;
const ALL_WRITTEN_RUNS: usize = 16_384;

/// One nsqd process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Process {
    /// Where its HTTP API listens.
    pub(super) nsqd: HttpAddress,
    /// When it started, in seconds since 1970.
    pub(super) start_time: i64,
}

/// Consecutive offsets that one nsqd process answered `OK` to.
#[derive(Debug, Clone)]
pub(super) struct Landing {
    pub(super) process: Process,
    pub(super) from: i64,
    pub(super) to: i64,
    /// The last look at the nsqds that had begun when the answer came.
    pub(super) look: u64,
}

/// What of one queue is in which nsqd process.
#[derive(Debug, Default)]
pub(super) struct Undrained {
    processes: BTreeMap<Process, Ranges>,
    /// Whether something written down is no longer so.
    outdated: bool,
}

/// What is written down of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Snapshot(Vec<ProcessSnapshot>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ProcessSnapshot {
    #[serde(flatten)]
    process: Process,
    /// First offsets, and one past the last.
    ranges: Vec<(i64, i64)>,
}

impl Snapshot {
    /// The nsqds that may have had some of it.
    pub(super) fn nsqds(&self) -> impl Iterator<Item = &HttpAddress> {
        self.0.iter().map(|snapshot| &snapshot.process.nsqd)
    }
}

/// What an owner of the queue would write down after it has read this.
#[cfg(feature = "fuzzing")]
pub(crate) fn rewritten(record: &[u8]) -> Option<Vec<u8>> {
    let read: journal::Entry = serde_json::from_slice(record).ok()?;
    let undrained = Undrained::restore(read.undrained.clone(), 0).snapshot();
    serde_json::to_vec(&journal::Entry { undrained, ..read }).ok()
}

impl Undrained {
    /// What a former owner of the queue wrote down. `look` is the last look that has begun.
    pub(super) fn restore(snapshot: Snapshot, look: u64) -> Self {
        let mut undrained = Self::default();
        for ProcessSnapshot { process, ranges } in snapshot.0 {
            let known = undrained.processes.entry(process).or_default();
            for (from, to) in ranges {
                known.insert(from, to, look);
            }
        }
        undrained.tidy();
        undrained
    }

    /// Takes note of what went to an nsqd. It is written down before it is committed, and is relayed again if it is not.
    pub(super) fn landed(&mut self, landing: Landing) {
        let Landing { process, from, to, look } = landing;
        let ranges = self.processes.entry(process).or_default();
        ranges.insert(from, to, look);
        ranges.shrink(EXACT_RUNS);
    }

    /// Forgets what has left a process, by the look that has seen it there.
    pub(super) fn drained(&mut self, process: &Process, look: u64) {
        let Some(ranges) = self.processes.get_mut(process) else { return };
        let before = ranges.messages();
        ranges.forget_seen_by(look);
        self.outdated |= ranges.messages() != before;
        self.tidy();
    }

    /// Forgets what was relayed again.
    pub(super) fn replayed(&mut self, process: &Process, from: i64, to: i64) {
        if let Some(ranges) = self.processes.get_mut(process) {
            ranges.remove(from, to);
            self.outdated = true;
        }
        self.tidy();
    }

    fn tidy(&mut self) {
        self.processes.retain(|_, ranges| !ranges.is_empty());
    }

    /// Whether there is nothing any nsqd may lose.
    pub(super) fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Whether something written down is no longer so: whoever went by it would relay again what need not be.
    pub(super) fn outdated(&self) -> bool {
        self.outdated
    }

    /// The processes that may have some of it.
    pub(super) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.keys()
    }

    /// The first run of offsets of a process.
    pub(super) fn first(&self, process: &Process) -> Option<(i64, i64)> {
        self.processes.get(process)?.first()
    }

    /// Messages by process.
    pub(super) fn messages(&self) -> impl Iterator<Item = (&Process, u64)> {
        self.processes.iter().map(|(process, ranges)| (process, ranges.messages()))
    }

    /// Messages of one process.
    pub(super) fn messages_of(&self, process: &Process) -> u64 {
        self.processes.get(process).map_or(0, Ranges::messages)
    }

    /// The lowest offset any nsqd may still lose.
    pub(super) fn oldest(&self) -> Option<i64> {
        self.processes.values().filter_map(Ranges::first).map(|(from, _)| from).min()
    }

    /// What is to be written down.
    pub(super) fn snapshot(&self) -> Snapshot {
        let runs = WRITTEN_RUNS.min(ALL_WRITTEN_RUNS / self.processes.len().max(1));
        let processes = self.processes.iter();
        Snapshot(
            processes
                .map(|(process, ranges)| ProcessSnapshot {
                    process: process.clone(),
                    ranges: ranges.at_most(runs),
                })
                .collect(),
        )
    }

    /// Takes note that it was written, and has not changed since.
    pub(super) fn written(&mut self) {
        self.outdated = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_waits_for_its_commit_and_what_is_gone_outdates_the_record() {
        let process = Process { nsqd: "nsqd:4151".parse().unwrap(), start_time: 1 };
        let landing = |from, look| Landing { process: process.clone(), from, to: from + 10, look };
        let mut undrained = Undrained::default();
        undrained.landed(landing(0, 1));
        undrained.landed(landing(10, 2));
        assert!(!undrained.outdated());
        undrained.written();
        undrained.drained(&process, 0);
        assert!(!undrained.outdated(), "that look has seen nothing of it");
        undrained.drained(&process, 2);
        assert!(undrained.outdated());
        undrained.written();
        undrained.replayed(&process, 10, 20);
        assert!(undrained.outdated() && undrained.is_empty());
    }
}
