//! One queue's part in the audit: which messages went to which nsqd, written down before the offset is committed.
//!
//! What is confirmed is handed to the topic's ledger once nothing before it is in flight, and the offset behind it may be committed
//! when that is written. So a relay that is killed has told of everything it has committed. The loop never waits for
//! this: it commits what it may. Where nothing can be written for a while, it may all the same ([`Ledger::is_settled`]): then the
//! queue's record says of which minutes the audit is not written, and if this relay never writes it, the next owner tells that it lacks
//! them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    batch::Batch,
    undrained::{Landing, Process},
};
use crate::{
    audit::{
        Entry, Ledger, Ticket,
        record::{self, Delta, Hop, spanning},
    },
    rocketmq::Queue,
};

/// A stop waits this long for its last record.
const LAST_WITHIN: Duration = Duration::from_secs(3);

/// What a queue's relay has still to tell.
pub(super) struct Audited {
    ledger: Option<Arc<Ledger>>,
    queue: Queue,
    sent: Sent,
    /// Everything below is handed over.
    handed_to: i64,
    /// Offsets handed over, and what must be written before they are committed.
    open: VecDeque<(i64, Owed)>,
    /// What may be committed, and perhaps before it is written.
    owed: Option<Owed>,
    /// What a former owner's audit lacks, where this one has none to tell it: the next may.
    handed_on: Option<(i64, i64)>,
    committable: i64,
}

/// What is handed over, and perhaps not written.
#[derive(Debug, Clone, Copy)]
struct Owed {
    ticket: Ticket,
    /// The first and the last minute of its messages.
    minutes: Option<(i64, i64)>,
}

impl Owed {
    /// Together with what was handed over before.
    fn and(self, before: Option<Self>) -> Option<Self> {
        let minutes = before.into_iter().chain([self]).filter_map(|owed| owed.minutes);
        Some(Self { ticket: self.ticket, minutes: spanning(minutes) })
    }
}

/// Messages by offset, and where they went.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// None for what nsqd was not given, as it was taken in from it: no gateway has told of it.
    runs: BTreeMap<i64, Vec<Option<Entry>>>,
    landings: Vec<Landing>,
}

impl Sent {
    /// Takes note of a batch that begins at `start`.
    pub(super) fn batch(&mut self, start: i64, batch: &mut Batch) {
        self.runs.insert(start, batch.take_entries());
    }

    /// Takes note of where messages went.
    pub(super) fn landed(&mut self, landing: &Landing) {
        self.landings.push(landing.clone());
    }

    /// Takes out what lies below an offset, which no batch spans.
    fn below(&mut self, offset: i64) -> Self {
        let kept = self.runs.split_off(&offset);
        let runs = std::mem::replace(&mut self.runs, kept);
        let (landings, kept) =
            std::mem::take(&mut self.landings).into_iter().partition(|landing| landing.from < offset);
        self.landings = kept;
        Self { runs, landings }
    }

    /// The first and the last minute of its messages.
    fn minutes(&self) -> Option<(i64, i64)> {
        spanning(self.runs.values().flatten().flatten().map(|entry| (entry.minute, entry.minute)))
    }

    /// Counts all of it: at the nsqds where it went, and what went to none by `elsewhere`.
    fn count(&self, delta: &mut Delta, landed: impl Fn(record::Process) -> Hop, elsewhere: Option<&Hop>) {
        for (start, entries) in &self.runs {
            let offsets = *start..*start + entries.len() as i64;
            let mut rest = vec![true; entries.len()];
            for Landing { process, from, to, .. } in &self.landings {
                let (from, to) = ((*from).max(offsets.start), (*to).min(offsets.end));
                if from < to {
                    let part = (from - start) as usize..(to - start) as usize;
                    rest[part.clone()].fill(false);
                    delta.count(&landed(of(process)), entries[part].iter().copied().flatten());
                }
            }
            if let Some(hop) = elsewhere {
                let left = entries.iter().zip(rest).filter(|(_, rest)| *rest);
                delta.count(hop, left.filter_map(|(entry, _)| *entry));
            }
        }
    }
}

fn of(process: &Process) -> record::Process {
    record::Process { nsqd: process.nsqd.clone(), start_time: process.start_time }
}

impl Audited {
    /// `unaudited` is what a former owner's audit lacks.
    pub(super) fn new(
        ledger: Option<Arc<Ledger>>,
        queue: Queue,
        start: i64,
        unaudited: Option<(i64, i64)>,
    ) -> Self {
        let owed = ledger.as_ref().zip(unaudited).map(|(ledger, minutes)| Owed {
            ticket: ledger.record(|delta| delta.lacks(minutes)),
            minutes: Some(minutes),
        });
        Self {
            owed,
            handed_on: unaudited.filter(|_| ledger.is_none()),
            ledger,
            queue,
            sent: Sent::default(),
            handed_to: start,
            open: VecDeque::new(),
            committable: start,
        }
    }

    /// Takes note of a batch that is on its way.
    pub(super) fn sent(&mut self, start: i64, batch: &mut Batch) {
        if self.ledger.is_some() {
            self.sent.batch(start, batch);
        }
    }

    /// Takes note of where messages went.
    pub(super) fn landed(&mut self, landing: &Landing) {
        if self.ledger.is_some() {
            self.sent.landed(landing);
        }
    }

    /// Tells what was relayed again after an nsqd was lost.
    pub(super) fn replayed(&self, sent: &Sent) {
        if let Some(ledger) = &self.ledger {
            ledger.record(|delta| sent.count(delta, Hop::Replayed, None));
        }
    }

    /// Hands over what lies below `low`, where everything is confirmed; what was read there and went to no nsqd is parked.
    pub(super) fn hand_over(&mut self, low: i64) {
        let Some(ledger) = &self.ledger else {
            self.committable = low;
            return;
        };
        if low <= self.handed_to {
            return;
        }
        let done = self.sent.below(low);
        let minutes = done.minutes();
        let Queue { broker, id, .. } = &self.queue;
        let ticket = ledger.record(|delta| {
            done.count(delta, Hop::Relayed, Some(&Hop::Parked));
            delta.cover(broker, *id, self.handed_to, low);
        });
        self.handed_to = low;
        self.open.push_back((low, Owed { ticket, minutes }));
    }

    /// The offset that may be committed, now that everything below `low` is confirmed.
    pub(super) fn committable(&mut self, low: i64) -> i64 {
        self.hand_over(low);
        if let Some(ledger) = &self.ledger {
            while let Some((offset, owed)) =
                self.open.pop_front_if(|(_, owed)| ledger.is_settled(owed.ticket))
            {
                self.committable = offset;
                self.owed = owed.and(self.owed.take().filter(|before| !ledger.is_written(before.ticket)));
            }
        }
        self.committable
    }

    /// The first and the last minute of what may be committed and is not written.
    pub(super) fn unaudited(&self) -> Option<(i64, i64)> {
        let Some(ledger) = &self.ledger else { return self.handed_on };
        self.owed.filter(|owed| !ledger.is_written(owed.ticket))?.minutes
    }

    /// Hands over the rest and waits until it is written, but not for ever.
    pub(super) async fn finish(&mut self, low: i64) {
        self.hand_over(low);
        if let Some(ledger) = &self.ledger
            && tokio::time::timeout(LAST_WITHIN, ledger.write_now()).await.is_err()
        {
            // The last commits go on: repeating messages helps no audit.
            for (_, owed) in self.open.drain(..) {
                self.owed = owed.and(self.owed.take());
            }
            self.committable = low;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::{Pace, Recorder},
        mapping::Names,
        rocketmq::{Cluster, ClusterConfig},
    };

    fn process(start_time: i64) -> Process {
        Process { nsqd: "nsqd:4151".parse().unwrap(), start_time }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_committed_without_its_audit_is_told_by_its_minutes() {
        // Nobody answers there.
        let cluster = Cluster::new(ClusterConfig::new(vec!["127.0.0.1:1".to_owned()]));
        let pace = Pace { every: Duration::from_secs(1), spread: false };
        let recorder = Recorder::new(cluster, Names::default(), "test", pace);
        let ledger = recorder.topic(&"orders".parse().unwrap());
        let queue = Queue { topic: "orders".to_owned(), broker: "b".to_owned(), id: 0 };
        let mut audited = Audited::new(Some(ledger), queue.clone(), 10, Some((2, 3)));
        assert_eq!(audited.unaudited(), Some((2, 3)), "a former owner's, as long as that is not written");
        audited.sent.runs.insert(10, vec![Some(Entry { minute: 5, id: 1 }), None]);
        assert_eq!(audited.committable(12), 10);
        assert_eq!(audited.unaudited(), Some((2, 3)), "what is not committed is not told of");
        audited.finish(12).await;
        assert_eq!((audited.committable(12), audited.unaudited()), (12, Some((2, 5))));
        // Who has no audit hands it on.
        assert_eq!(Audited::new(None, queue, 10, Some((2, 3))).unaudited(), Some((2, 3)));
    }

    #[test]
    fn each_message_is_counted_where_it_went_and_the_rest_as_parked() {
        // 14 and 19 were taken in from nsqd.
        let entry = |id| (id != 14 && id != 19).then_some(Entry { minute: 1, id });
        let entries = |ids: std::ops::Range<u128>| ids.map(entry).collect::<Vec<_>>();
        let landing = |start, from, to| Landing { process: process(start), from, to, look: 0 };
        let mut sent = Sent {
            runs: BTreeMap::from([(10, entries(10..15)), (15, entries(15..18)), (18, entries(18..20))]),
            landings: vec![
                landing(1, 15, 18),
                landing(1, 10, 11),
                landing(2, 12, 13),
                landing(1, 13, 15),
                landing(1, 18, 20),
            ],
        };
        let mut delta = Delta::default();
        sent.below(18).count(&mut delta, Hop::Relayed, Some(&Hop::Parked));
        let told = |hop: Hop| -> Vec<u128> {
            delta.tallies[&(1, hop)].sketch.decode().unwrap().into_keys().collect()
        };
        assert_eq!(told(Hop::Relayed(of(&process(1)))), [10, 13, 15, 16, 17]);
        assert_eq!(told(Hop::Relayed(of(&process(2)))), [12]);
        assert_eq!(told(Hop::Parked), [11]);
        let mut rest = Delta::default();
        sent.below(100).count(&mut rest, Hop::Replayed, None);
        assert_eq!(rest.tallies.len(), 1);
        assert_eq!(rest.tallies[&(1, Hop::Replayed(of(&process(1))))].sketch.count(), 1);
    }
}
