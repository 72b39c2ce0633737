//! What one minute's counts at each hop say, held against each other.
//!
//! ```text
//! accepted + deferred  =  stored  +  in the spool  +  held back    what is left over on the left is lost
//! relayed  + parked    =  stored, as often as relays covered it    what is left over on the right is lost
//! stored below the committed offset, and covered by no relay       lost
//! ```
//!
//! Ids are told as far as a sketch can tell them; beyond that counts are, and where counts decide nothing, that is said.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    entry::name_of,
    record::{Hop, Tally},
    sketch::Sketch,
};

/// Ids named for each finding.
const NAMED: usize = 50;
/// RocketMQ may deliver what it held back this much later than it is due.
const DUE_WITHIN_MS: i64 = 60_000;

/// What a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// Worth knowing, and no loss.
    Note,
    /// It cannot be said whether something is lost.
    Doubt,
    /// Messages are missing.
    Loss,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Accepted, and not in RocketMQ.
    NotStored,
    /// In RocketMQ, passed by the relay's committed offset, and never relayed.
    NotRelayed,
    /// In RocketMQ, and no gateway has told of it.
    NotAccountedFor,
    /// In RocketMQ, though its producer heard an error.
    StoredAfterError,
    /// In RocketMQ more than once, under one id.
    StoredTwice,
    /// Relayed more than once.
    RelayedTwice,
    /// Relayed, and not in RocketMQ any more.
    GoneSince,
    /// RocketMQ holds it back until it is due.
    HeldBack,
    /// On a gateway's disk still.
    InSpool,
    /// The relay has not come to it yet.
    Pending,
    /// More differs than can be told.
    Differs,
    /// Something needed to judge is not there.
    Incomplete,
    /// An nsqd has more than the relays gave it.
    Bypass,
    /// An nsqd has less than the relays gave it.
    NotInNsqd,
}

/// Where it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum At {
    /// Between the producers and RocketMQ.
    Gateway,
    /// Between RocketMQ and nsqd.
    Relay,
    /// In an nsqd.
    Nsqd,
    /// In the audit itself.
    Audit,
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The minute, in minutes since 1970; none when it is about all.
    pub minute: Option<i64>,
    /// Where.
    pub at: At,
    /// What it weighs.
    pub weight: Weight,
    /// What.
    pub what: What,
    /// How many messages; at least so many where not all ids could be told.
    pub messages: u64,
    /// Their ids, the first of many.
    pub ids: Vec<String>,
    /// What else is to be said.
    pub detail: String,
}

/// Messages that are named one by one.
#[derive(Debug, Clone, Default)]
pub struct Named {
    /// How many.
    pub messages: u64,
    /// The first of them.
    pub ids: Vec<String>,
}

impl Named {
    /// One more.
    pub fn add(&mut self, id: impl FnOnce() -> String) {
        self.messages += 1;
        if self.ids.len() < NAMED {
            self.ids.push(id());
        }
    }
}

/// What a verdict rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// RocketMQ has shown everything it was ever given in that time.
    pub all_stored: bool,
    /// Every record was read.
    pub all_written: bool,
}

/// What the hops have counted of one minute.
#[derive(Debug, Clone, Default)]
pub struct Minute {
    /// Answered `OK`.
    pub accepted: Sketch,
    /// Answered `OK`, and to be held back.
    pub deferred: Sketch,
    /// When the last of those is due at the latest.
    pub due_ms: i64,
    /// Answered with an error, and perhaps stored.
    pub unknown: Sketch,
    /// Put in a spool, less what was taken from it.
    pub in_spool: Sketch,
    /// In nsqd or the parking topic, as the relays counted it.
    pub relayed: Sketch,
    /// Of those, parked.
    pub parked: i64,
    /// Given to nsqd again on purpose.
    pub replayed: i64,
    /// In RocketMQ, and was never held back; as the next, of what gateways may have told of.
    pub stored: Sketch,
    /// In RocketMQ, after it was held back.
    pub stored_deferred: Sketch,
    /// In RocketMQ, and from nobody who had written anything when it was stored: other producers, and a gateway's last seconds.
    pub stored_untold: Named,
    /// In RocketMQ, each as often as a relay covered it.
    pub covered: Sketch,
    /// Covered more than once.
    pub covered_twice: Named,
    /// Passed by the committed offset, and covered by none.
    pub passed: Named,
    /// The same, from before the first relay wrote a record.
    pub passed_before: u64,
    /// Not relayed yet.
    pub pending: u64,
}

impl Minute {
    /// Adds what a record says.
    pub fn count(&mut self, hop: &Hop, tally: &Tally) {
        let Tally { sketch, due_ms } = tally;
        match hop {
            Hop::Accepted => self.accepted.merge(sketch, 1),
            Hop::Deferred => {
                self.deferred.merge(sketch, 1);
                self.due_ms = self.due_ms.max(*due_ms);
            }
            Hop::Unknown => self.unknown.merge(sketch, 1),
            Hop::Spooled => self.in_spool.merge(sketch, 1),
            Hop::Unspooled => self.in_spool.merge(sketch, -1),
            Hop::Relayed(_) => self.relayed.merge(sketch, 1),
            Hop::Parked => {
                self.relayed.merge(sketch, 1);
                self.parked += sketch.count();
            }
            Hop::Replayed(_) => self.replayed += sketch.count(),
        }
    }

    /// Accepted, less what is in RocketMQ, in a spool or, if that may still be, held back.
    fn not_stored(&self, now_ms: i64) -> Sketch {
        let mut left = self.accepted.less(&self.stored).less(&self.in_spool);
        if !self.holds_back(now_ms) {
            left.merge(&self.deferred, 1);
            left.merge(&self.stored_deferred, -1);
        }
        left
    }

    fn holds_back(&self, now_ms: i64) -> bool {
        self.due_ms.saturating_add(DUE_WITHIN_MS) > now_ms
    }

    /// Whether messages are not found that may have been stored later.
    #[must_use]
    pub fn looks_for_more(&self, now_ms: i64) -> bool {
        [self.not_stored(now_ms), self.relayed.less(&self.covered)].iter().any(|left| {
            !left.is_empty() && left.decode().is_none_or(|ids| ids.values().any(|count| *count > 0))
        })
    }

    /// What is wrong, as far as `seen` lets that be known.
    #[must_use]
    pub fn judge(&self, minute: i64, now_ms: i64, seen: Seen) -> Vec<Finding> {
        let mut findings = Findings { minute, list: Vec::new() };
        self.judge_gateway(now_ms, seen, &mut findings);
        self.judge_relay(seen, &mut findings);
        findings.list
    }

    fn judge_gateway(&self, now_ms: i64, seen: Seen, findings: &mut Findings) {
        findings.named(At::Gateway, Weight::Note, What::NotAccountedFor, &self.stored_untold);
        let missing = if seen.all_stored { Weight::Loss } else { Weight::Doubt };
        let left = self.not_stored(now_ms);
        let (mut held_back, mut in_spool) =
            (self.deferred.count() - self.stored_deferred.count(), self.in_spool.count());
        if let Some(ids) = left.decode() {
            let known = |sketch: &Sketch| sketch.decode().unwrap_or_default();
            let (held, spool, unknown) = (
                known(&self.deferred.less(&self.stored_deferred)),
                known(&self.in_spool),
                known(&self.unknown),
            );
            let (lost, more) = split(&ids);
            // What is due at once is stored as if it had never been held back; what left a spool may not be written down yet.
            let (at_once, more): (Vec<_>, Vec<_>) = more.into_iter().partition(|id| held.contains_key(id));
            let (unspooled, more): (Vec<_>, Vec<_>) = more.into_iter().partition(|id| spool.contains_key(id));
            held_back -= at_once.len() as i64;
            in_spool -= unspooled.len() as i64;
            let (heard_error, unaccounted): (Vec<_>, Vec<_>) =
                more.into_iter().partition(|id| unknown.contains_key(id));
            findings.ids(At::Gateway, missing, What::NotStored, &lost);
            findings.ids(At::Gateway, Weight::Note, What::StoredAfterError, &heard_error);
            findings.ids(At::Gateway, Weight::Note, What::NotAccountedFor, &unaccounted);
        } else if left.plus(&self.unknown).is_empty() {
            findings.number(At::Gateway, Weight::Note, What::StoredAfterError, self.unknown.count());
        } else if left.count() > 0 {
            findings.number(At::Gateway, missing, What::NotStored, left.count());
        } else {
            findings.number(At::Gateway, Weight::Doubt, What::Differs, left.count().abs().max(1));
        }
        findings.number(At::Gateway, Weight::Note, What::InSpool, in_spool);
        if self.holds_back(now_ms) {
            findings.number(At::Gateway, Weight::Note, What::HeldBack, held_back);
        }
    }

    fn judge_relay(&self, seen: Seen, findings: &mut Findings) {
        let missing = if seen.all_written { Weight::Loss } else { Weight::Doubt };
        findings.named(At::Relay, missing, What::NotRelayed, &self.passed);
        findings.named(At::Relay, Weight::Note, What::RelayedTwice, &self.covered_twice);
        findings.number(At::Relay, Weight::Note, What::Pending, self.pending as i64);
        if self.passed_before > 0 {
            findings.number(At::Relay, Weight::Doubt, What::Incomplete, self.passed_before as i64);
            findings
                .detail("stored before the first relay with an audit, which passed them without a record");
        }
        let left = self.relayed.less(&self.covered);
        if let Some(ids) = left.decode() {
            let (gone, lost) = split(&ids);
            findings.ids(At::Relay, missing, What::NotRelayed, &lost);
            findings.ids(At::Relay, Weight::Note, What::GoneSince, &gone);
        } else if left.count() < 0 {
            findings.number(At::Relay, missing, What::NotRelayed, -left.count());
        } else {
            findings.number(At::Relay, Weight::Doubt, What::Differs, left.count().max(1));
        }
    }
}

/// Ids that are too many on the left, and on the right; each once for each time.
fn split(ids: &BTreeMap<u128, i64>) -> (Vec<u128>, Vec<u128>) {
    let repeated = |wanted: i64| {
        let of_sign = ids.iter().filter(move |(_, count)| count.signum() == wanted);
        of_sign.flat_map(|(id, count)| std::iter::repeat_n(*id, count.unsigned_abs() as usize)).collect()
    };
    (repeated(1), repeated(-1))
}

struct Findings {
    minute: i64,
    list: Vec<Finding>,
}

impl Findings {
    fn named(&mut self, at: At, weight: Weight, what: What, named: &Named) {
        if named.messages > 0 {
            let (messages, ids) = (named.messages, named.ids.clone());
            self.list.push(Finding {
                minute: Some(self.minute),
                at,
                weight,
                what,
                messages,
                ids,
                detail: String::new(),
            });
        }
    }

    fn ids(&mut self, at: At, weight: Weight, what: What, ids: &[u128]) {
        let mut named = Named::default();
        ids.iter().for_each(|id| named.add(|| name_of(*id)));
        self.named(at, weight, what, &named);
    }

    fn number(&mut self, at: At, weight: Weight, what: What, messages: i64) {
        let messages = u64::try_from(messages).unwrap_or(0);
        self.named(at, weight, what, &Named { messages, ids: Vec::new() });
    }

    fn detail(&mut self, detail: &str) {
        if let Some(last) = self.list.last_mut() {
            detail.clone_into(&mut last.detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000_000;
    const ALL: Seen = Seen { all_stored: true, all_written: true };

    fn of(ids: impl IntoIterator<Item = u128>) -> Sketch {
        let mut sketch = Sketch::default();
        ids.into_iter().for_each(|id| sketch.add(id));
        sketch
    }

    fn found(minute: &Minute) -> Vec<(Weight, What, u64, Vec<String>)> {
        let findings = minute.judge(7, NOW, ALL).into_iter();
        findings.map(|finding| (finding.weight, finding.what, finding.messages, finding.ids)).collect()
    }

    fn named(ids: &[u128]) -> Vec<String> {
        ids.iter().map(|id| name_of(*id)).collect()
    }

    fn clean() -> Minute {
        let all = || of(0..1_000);
        Minute { accepted: all(), stored: all(), covered: all(), relayed: all(), ..Minute::default() }
    }

    #[test]
    fn hops_that_agree_are_not_mentioned() {
        assert_eq!(found(&clean()), []);
        assert!(!clean().looks_for_more(NOW));
    }

    #[test]
    fn what_is_missing_in_rocketmq_is_named() {
        let lost = Minute { accepted: of(0..1_002), ..clean() };
        assert!(lost.looks_for_more(NOW));
        assert_eq!(found(&lost), [(Weight::Loss, What::NotStored, 2, named(&[1_000, 1_001]))]);
        let part = Seen { all_stored: false, ..ALL };
        assert_eq!(lost.judge(7, NOW, part)[0].weight, Weight::Doubt, "not all of RocketMQ was read");
        // Beyond what can be told, as many as are missing at least.
        let many = Minute { accepted: of(0..1_500), ..clean() };
        assert_eq!(found(&many), [(Weight::Loss, What::NotStored, 500, vec![])]);
        let both = Minute { accepted: of(0..1_500), stored: of(500..2_000), ..Minute::default() };
        assert_eq!(found(&both)[0], (Weight::Doubt, What::Differs, 1, vec![]), "as many more as less");
    }

    #[test]
    fn what_a_producer_heard_an_error_for_is_no_surprise() {
        let stored = Minute { unknown: of(1_000..1_003), stored: of(0..1_002), ..clean() };
        let seen = found(&Minute { covered: of(0..1_000), ..stored.clone() });
        assert_eq!(seen, [(Weight::Note, What::StoredAfterError, 2, named(&[1_000, 1_001]))]);
        let many =
            Minute { accepted: of(0..1_000), unknown: of(1_000..1_500), stored: of(0..1_500), ..clean() };
        assert_eq!(found(&many), [(Weight::Note, What::StoredAfterError, 500, vec![])]);
        let from_elsewhere = Minute { stored: of(0..1_001), ..clean() };
        assert_eq!(found(&from_elsewhere), [(Weight::Note, What::NotAccountedFor, 1, named(&[1_000]))]);
    }

    #[test]
    fn what_is_in_a_spool_or_held_back_is_not_lost_until_it_should_be_there() {
        let spooled = Minute { accepted: of(0..1_700), in_spool: of(1_000..1_700), ..clean() };
        assert_eq!(found(&spooled), [(Weight::Note, What::InSpool, 700, vec![])]);
        let held = Minute { deferred: of(1_000..1_200), due_ms: NOW, ..clean() };
        assert_eq!(found(&held), [(Weight::Note, What::HeldBack, 200, vec![])]);
        // One of them was due before it could be held back.
        let at_once = Minute { stored: of(0..1_001), deferred: of(1_000..1_002), due_ms: NOW, ..clean() };
        assert_eq!(found(&at_once), [(Weight::Note, What::HeldBack, 1, vec![])]);
        let due = Minute { deferred: of(1_000..1_002), stored_deferred: of([1_000]), due_ms: 1, ..clean() };
        assert_eq!(found(&due), [(Weight::Loss, What::NotStored, 1, named(&[1_001]))]);
    }

    #[test]
    fn what_the_relay_did_not_relay_is_named_and_what_it_relayed_twice() {
        let mut passed = Minute { covered: of(0..998), relayed: of(0..998), ..clean() };
        (998..1_000).for_each(|id| passed.passed.add(|| name_of(id)));
        assert_eq!(found(&passed), [(Weight::Loss, What::NotRelayed, 2, named(&[998, 999]))]);
        let part = Seen { all_written: false, ..ALL };
        assert_eq!(passed.judge(7, NOW, part)[0].weight, Weight::Doubt, "not all records were read");
        let mut twice =
            Minute { covered: of((0..1_000).chain([5])), relayed: of((0..1_000).chain([5])), ..clean() };
        twice.covered_twice.add(|| name_of(5));
        assert_eq!(found(&twice), [(Weight::Note, What::RelayedTwice, 1, named(&[5]))]);
        let other = Minute { relayed: of((0..999).chain([2_000])), ..clean() };
        assert_eq!(
            found(&other),
            [
                (Weight::Loss, What::NotRelayed, 1, named(&[999])),
                (Weight::Note, What::GoneSince, 1, named(&[2_000]))
            ],
            "a topic that was recreated has other messages at the same offsets"
        );
        let waiting = Minute { covered: of(0..900), relayed: of(0..900), pending: 100, ..clean() };
        assert_eq!(found(&waiting), [(Weight::Note, What::Pending, 100, vec![])]);
    }
}
