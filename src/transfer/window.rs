//! What of a queue is in flight, and how far it may be committed.
//!
//! Messages go to nsqd in runs of consecutive offsets, and the runs are confirmed in any order. The offset that may
//! be committed is the lowest one not confirmed yet. A run enters the window as a [`Claim`] and leaves it only as a
//! [`Confirmed`]. Only a proof makes one: nsqd's `OK`, a broker's for what was parked, or that it is not nsqd's to be
//! given. So nothing can be committed that nobody has answered for. A claim that is dropped stays open, and the
//! window never moves past it.

use std::collections::{BTreeMap, VecDeque};

use super::{
    parking::Parked,
    undrained::{Landing, Process},
};
use crate::nsq::nsqd::Published;

/// So many of the offsets that could be committed lately are remembered.
const LOWS: usize = 1_024;

/// Why messages need not be relayed again.
#[derive(Debug)]
pub(super) enum Proof {
    /// nsqd answered `OK` to all of them.
    Published(Published, At),
    /// nsqd will never take it; it is in the parking topic.
    Parked(Parked),
    /// They are not nsqd's to be given: they were taken in from it, or are a consumer group's share.
    NotGiven,
}

/// Where and when nsqd answered.
#[derive(Debug)]
pub(super) struct At {
    /// Who answered.
    pub(super) process: Process,
    /// The last look at the nsqds that had begun by then.
    pub(super) look: u64,
}

/// The state of one queue.
#[derive(Debug)]
pub(super) struct Window {
    low: i64,
    /// Where `low` was lately, and when the message before it was stored; the newest last.
    lows: VecDeque<(i64, Option<i64>)>,
    next: i64,
    /// Claimed runs by first offset: where they end, and whether they are confirmed.
    runs: BTreeMap<i64, Run>,
    in_flight_bytes: usize,
}

#[derive(Debug)]
struct Run {
    end: i64,
    bytes: usize,
    stored_ms: i64,
    last_stored_ms: Option<i64>,
    confirmed: bool,
}

/// A run of consecutive offsets on its way to nsqd.
#[derive(Debug)]
pub(super) struct Claim {
    start: i64,
    messages: usize,
}

impl Claim {
    /// Spends one proof on the whole run.
    pub(super) fn confirm(self, proof: Proof) -> Confirmed {
        let landings = Vec::from_iter(proof.landing(self.start, self.messages));
        Confirmed { claim: self, landings }
    }

    /// Spends a proof on each message of the run; the run back where there are too few.
    pub(super) fn confirm_each(self, proofs: Vec<Proof>) -> Result<Confirmed, Claim> {
        if proofs.len() != self.messages {
            return Err(self);
        }
        let landings = (self.start..).zip(proofs).filter_map(|(offset, proof)| proof.landing(offset, 1));
        Ok(Confirmed { landings: landings.collect(), claim: self })
    }

    /// The first offset.
    pub(super) fn start(&self) -> i64 {
        self.start
    }
}

/// A run everything of which is in nsqd, or parked.
#[derive(Debug)]
pub(super) struct Confirmed {
    claim: Claim,
    /// Where it went.
    pub(super) landings: Vec<Landing>,
}

impl Proof {
    fn landing(self, from: i64, messages: usize) -> Option<Landing> {
        match self {
            Self::Published(_, At { process, look }) => {
                Some(Landing { process, from, to: from + messages as i64, look })
            }
            Self::Parked(_) | Self::NotGiven => None,
        }
    }

    /// A proof without an nsqd.
    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        let process = Process { nsqd: "nsqd:4151".parse().expect("an address"), start_time: 1 };
        Self::Published(Published::for_tests(), At { process, look: 1 })
    }
}

impl Window {
    /// A window in which everything below `offset` is done.
    pub(super) fn new(offset: i64) -> Self {
        let (lows, runs) = Default::default();
        Self { low: offset, lows, next: offset, runs, in_flight_bytes: 0 }
    }

    /// Says when the message before its offset was stored.
    pub(super) fn behind(mut self, stored_ms: Option<i64>) -> Self {
        self.lows.push_back((self.low, stored_ms));
        self
    }

    /// Claims the next `messages` offsets; the first was stored at `stored_ms`.
    pub(super) fn claim(&mut self, messages: usize, bytes: usize, stored_ms: i64) -> Claim {
        let start = self.next;
        // A pull has at most a few thousand messages.
        self.next += messages as i64;
        let run = Run { end: self.next, bytes, stored_ms, last_stored_ms: None, confirmed: false };
        self.runs.insert(start, run);
        self.in_flight_bytes += bytes;
        Claim { start, messages }
    }

    /// Says when the last message of a run was stored.
    pub(super) fn ends_with(&mut self, claim: &Claim, stored_ms: Option<i64>) {
        if let Some(run) = self.runs.get_mut(&claim.start) {
            run.last_stored_ms = stored_ms;
        }
    }

    /// Takes a confirmed run out of flight; returns where it went.
    pub(super) fn confirm(&mut self, Confirmed { claim, landings }: Confirmed) -> Vec<Landing> {
        if let Some(run) = self.runs.get_mut(&claim.start) {
            run.confirmed = true;
            self.in_flight_bytes -= run.bytes;
        }
        while let Some(first) = self.runs.first_entry().filter(|first| first.get().confirmed) {
            let run = first.remove();
            self.low = run.end;
            self.lows.push_back((run.end, run.last_stored_ms));
            if self.lows.len() > LOWS {
                self.lows.pop_front();
            }
        }
        landings
    }

    /// The offset that may be committed: everything below it is in nsqd.
    pub(super) fn committable(&self) -> i64 {
        self.low
    }

    /// When the last message below an offset was stored, if that is known.
    pub(super) fn stored_before(&self, offset: i64) -> Option<i64> {
        self.lows.iter().rev().find(|(low, _)| *low == offset).and_then(|(_, stored_ms)| *stored_ms)
    }

    /// The offset the next claim begins at.
    pub(super) fn next_offset(&self) -> i64 {
        self.next
    }

    /// When the oldest message in flight was stored.
    pub(super) fn oldest_ms(&self) -> Option<i64> {
        self.runs.first_key_value().map(|(_, run)| run.stored_ms)
    }

    /// Bytes on their way to nsqd.
    pub(super) fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_committable_offset_is_the_lowest_unconfirmed_one_whatever_the_order(
            sizes in proptest::collection::vec(1_usize..50, 1..30),
            order in any::<prop::sample::Index>(),
            lost in any::<prop::sample::Index>(),
            start in 0_i64..1_000,
        ) {
            let mut window = Window::new(start);
            let mut claims: Vec<_> = sizes.iter().map(|&size| window.claim(size, size, 0)).collect();
            let end = start + sizes.iter().sum::<usize>() as i64;
            let rotation = order.index(claims.len());
            claims.rotate_left(rotation);
            let lost = claims.remove(lost.index(claims.len()));
            let mut open: Vec<i64> = claims.iter().map(Claim::start).chain([lost.start()]).collect();
            for claim in claims {
                open.retain(|&start| start != claim.start());
                window.confirm(claim.confirm(Proof::for_tests()));
                prop_assert_eq!(Some(window.committable()), open.iter().min().copied());
            }
            prop_assert_eq!(window.in_flight_bytes(), lost.messages);
            window.confirm(lost.confirm(Proof::for_tests()));
            prop_assert_eq!((window.committable(), window.in_flight_bytes()), (end, 0));
        }
    }

    #[test]
    fn the_last_message_below_what_may_be_committed_is_known() {
        let mut window = Window::new(10).behind(Some(3));
        assert_eq!((window.stored_before(10), window.stored_before(9)), (Some(3), None));
        let (first, second) = (window.claim(5, 5, 0), window.claim(5, 5, 0));
        window.ends_with(&first, Some(4));
        window.ends_with(&second, Some(5));
        window.confirm(second.confirm(Proof::for_tests()));
        assert_eq!(window.stored_before(10), Some(3));
        window.confirm(first.confirm(Proof::for_tests()));
        // What is committed may lag behind.
        assert_eq!((window.stored_before(20), window.stored_before(15)), (Some(5), Some(4)));
        for _ in 0..2 * LOWS {
            let claim = window.claim(1, 1, 0);
            window.confirm(claim.confirm(Proof::for_tests()));
        }
        assert_eq!((window.lows.len(), window.stored_before(20)), (LOWS, None));
    }

    #[test]
    fn a_dropped_claim_is_never_committed_past() {
        let mut window = Window::new(10);
        let _dropped = window.claim(5, 5, 0);
        let later = window.claim(5, 5, 0);
        window.confirm(later.confirm(Proof::for_tests()));
        assert_eq!(window.committable(), 10);
    }
}
