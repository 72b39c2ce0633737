//! Which nsqd processes there are, and what has become of those that were given messages.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::undrained::{
    Process,
    drain::{Counters, DrainWatch},
};
use crate::{nsq::address::HttpAddress, rocketmq::producer::unix_millis};

/// More time between two looks was spent otherwise.
const LOOKS_APART_AT_MOST: Duration = Duration::from_secs(10);
/// nsqd's clock and ours, in seconds.
const CLOCKS_APART_AT_MOST: i64 = 10;

/// What is known of an nsqd process that has messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It runs, or will perhaps be back. What a look of this number has seen in it has left it.
    There {
        /// 0 for nothing.
        drained: u64,
    },
    /// Another process has taken its place.
    Replaced,
    /// It has not answered for too long.
    Gone,
}

/// Every process that has answered, whether anything may go there or not, until it is gone.
#[derive(Debug)]
pub(super) struct Watched {
    /// nsqd's `--max-msg-timeout`.
    longest_in_flight: Duration,
    gone_after: Duration,
    looking: Looking,
    processes: BTreeMap<HttpAddress, Seen>,
    asked: BTreeMap<Process, Asked>,
}

/// A process whose fate is asked for. A queue's record may name one that nobody here has looked at yet.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// Looks that had begun when it was asked for first. They tell nothing: they may be older than the process.
    look: u64,
    /// When it was seen last, or else was first asked for, in time spent looking.
    unseen_since: Duration,
    /// When it was asked for last.
    last: Duration,
}

#[derive(Debug)]
struct Seen {
    start_time: i64,
    /// The last look that saw it.
    look: u64,
    since: Instant,
    /// When it was seen last, in time spent looking.
    last: Duration,
    drain: DrainWatch,
}

impl Watched {
    pub(super) fn new(longest_in_flight: Duration, gone_after: Duration) -> Self {
        let (looking, processes, asked) = Default::default();
        Self { longest_in_flight, gone_after, looking, processes, asked }
    }

    /// Takes note of a look; whether it is a new one. What was seen already tells nothing new, as often as it is looked at.
    pub(super) fn look(&mut self, look: u64) -> bool {
        self.looking.tick(look, Instant::now())
    }

    /// Takes over what a process told at the look; whether it has taken another's place.
    pub(super) fn see(&mut self, process: Process, counters: &Counters) -> bool {
        let Process { nsqd, start_time } = process;
        let Looking { look, spent, .. } = self.looking;
        let since = Instant::now();
        let drain = || DrainWatch::new(self.longest_in_flight);
        let new = || Seen { start_time, look, since, last: spent, drain: drain() };
        let known = self.processes.entry(nsqd).or_insert_with(new);
        let replaced = known.start_time != start_time;
        if replaced {
            *known = new();
        }
        (known.look, known.last) = (look, spent);
        known.drain.see(look, counters, since.into_std());
        replaced
    }

    /// Forgets who is gone, and who is asked for no more.
    pub(super) fn tidy(&mut self) {
        let (spent, gone_after) = (self.looking.spent, self.gone_after);
        self.processes.retain(|_, seen| spent - seen.last <= gone_after);
        self.asked.retain(|_, asked| spent - asked.last <= gone_after + 3 * LOOKS_APART_AT_MOST);
    }

    /// What has become of a process that was given messages. `looks` have begun so far.
    pub(super) fn fate(&mut self, process: &Process, looks: u64) -> Fate {
        let Looking { look, spent, .. } = self.looking;
        let new = || Asked { look: looks, unseen_since: spent, last: spent };
        let asked = self.asked.entry(process.clone()).or_insert_with(new);
        asked.last = spent;
        let seen = self.processes.get(&process.nsqd);
        let itself = seen.filter(|seen| seen.start_time == process.start_time);
        if let Some(seen) = itself {
            asked.unseen_since = seen.last;
        }
        match seen {
            Some(seen) if itself.is_none() && seen.look > asked.look => Fate::Replaced,
            _ if look > asked.look && spent - asked.unseen_since > self.gone_after => Fate::Gone,
            _ => Fate::There { drained: itself.map_or(0, |seen| seen.drain.drained()) },
        }
    }

    /// Whether the start time of the process that is there now means this process and no other.
    pub(super) fn is_told_apart(&self, nsqd: &HttpAddress) -> bool {
        self.processes
            .get(nsqd)
            .is_some_and(|seen| is_told_apart(unix_millis() / 1_000 - seen.start_time, seen.since.elapsed()))
    }
}

/// Time spent looking at the nsqds. What nobody sees because this process is frozen, or does not get to it, is no nsqd's fault.
#[derive(Debug, Default)]
struct Looking {
    look: u64,
    at: Option<Instant>,
    spent: Duration,
}

impl Looking {
    fn tick(&mut self, look: u64, now: Instant) -> bool {
        if look <= self.look {
            return false;
        }
        let since = self.at.map_or(Duration::ZERO, |at| now.duration_since(at));
        self.spent += since.min(LOOKS_APART_AT_MOST);
        (self.look, self.at) = (look, Some(now));
        true
    }
}

/// A start time is told in whole seconds: an nsqd that is killed in the second it started in may be followed by one with the same. So
/// nothing goes to a process before that second is over.
///
/// `age` is by our clock, in seconds; nsqd's may be a little off.
fn is_told_apart(age: i64, known_for: Duration) -> bool {
    age >= CLOCKS_APART_AT_MOST || known_for > Duration::from_secs(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(start_time: i64) -> Process {
        Process { nsqd: "nsqd:4151".parse().unwrap(), start_time }
    }

    #[tokio::test(start_paused = true)]
    async fn an_nsqd_is_gone_when_it_was_looked_for_long_enough() {
        let mut watched = Watched::new(Duration::from_secs(60), Duration::from_secs(30));
        watched.look(1);
        watched.see(process(7), &Counters::default());
        assert_eq!(watched.fate(&process(7), 1), Fate::There { drained: 0 });
        // Frozen for an hour, and then it does not answer once.
        tokio::time::advance(Duration::from_secs(3_600)).await;
        watched.look(2);
        assert_eq!(watched.fate(&process(7), 2), Fate::There { drained: 0 });
        for look in 3..14 {
            tokio::time::advance(Duration::from_secs(2)).await;
            watched.look(look);
        }
        assert_eq!(watched.fate(&process(7), 13), Fate::Gone);
        watched.tidy();
        assert_eq!((watched.processes.len(), watched.fate(&process(7), 13)), (0, Fate::Gone));
    }

    #[tokio::test(start_paused = true)]
    async fn an_nsqd_a_record_names_is_looked_for_before_it_is_judged() {
        let there = Fate::There { drained: 0 };
        let mut watched = Watched::new(Duration::from_secs(60), Duration::from_secs(30));
        for look in 1..100 {
            tokio::time::advance(Duration::from_secs(2)).await;
            watched.look(look);
        }
        // Nobody here has seen it yet; it counts as away from now on.
        assert_eq!(watched.fate(&process(7), 100), there);
        for look in 100..115 {
            tokio::time::advance(Duration::from_secs(2)).await;
            watched.look(look);
            assert_eq!(watched.fate(&process(7), look), there);
        }
        tokio::time::advance(Duration::from_secs(2)).await;
        watched.look(115);
        assert_eq!(watched.fate(&process(7), 115), Fate::Gone);
        watched.tidy();
        assert_eq!(watched.fate(&process(7), 115), Fate::Gone);
    }

    #[tokio::test(start_paused = true)]
    async fn an_nsqd_is_replaced_only_by_one_that_is_seen_later() {
        let there = Fate::There { drained: 0 };
        let mut watched = Watched::new(Duration::from_secs(60), Duration::from_secs(30));
        watched.look(1);
        watched.see(process(6), &Counters::default());
        // A record names 7, which another instance has seen already; a look of ours is under way.
        assert_eq!(watched.fate(&process(7), 2), there);
        watched.look(2);
        watched.see(process(6), &Counters::default());
        assert_eq!(watched.fate(&process(7), 2), there);
        // Without an answer nothing is new.
        watched.look(3);
        assert_eq!(watched.fate(&process(7), 3), there);
        watched.look(4);
        watched.see(process(7), &Counters::default());
        assert_eq!(watched.fate(&process(7), 4), there);
        watched.look(5);
        watched.see(process(8), &Counters::default());
        assert_eq!(watched.fate(&process(7), 5), Fate::Replaced);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_counts_once() {
        let mut watched = Watched::new(Duration::from_secs(60), Duration::from_secs(30));
        assert!(watched.look(1));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(!watched.look(1));
        assert_eq!(watched.looking.spent, Duration::ZERO);
    }

    #[test]
    fn nothing_goes_to_an_nsqd_in_the_second_it_started_in() {
        let second = Duration::from_secs(1);
        assert!(!is_told_apart(0, Duration::ZERO));
        assert!(!is_told_apart(1, second));
        assert!(is_told_apart(1, second + Duration::from_millis(1)));
        assert!(is_told_apart(100, Duration::ZERO), "it was there before");
        assert!(!is_told_apart(-5, Duration::ZERO), "its clock is ahead");
    }
}
