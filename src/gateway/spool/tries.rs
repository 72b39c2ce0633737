//! What the tries of a drain have told: how much to send next, whom to leave alone, and what may be stored already.
//!
//! After an outcome that is not known, messages may be stored once more with each try. So one message alone is sent until one is stored,
//! and a broker that left an outcome unknown is asked again after a pause that grows with each. What is stored then makes the requests
//! large again, each twice the one before.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::{retry::Backoff, rocketmq::outcome::Hint};

/// Messages in one request; a few requests' worth is as fast as a large one.
pub(super) const MESSAGES: usize = 2_000;
/// How long a broker that left an outcome unknown is left alone.
const FIRST_SILENCE: Duration = Duration::from_millis(500);
const LONGEST_SILENCE: Duration = Duration::from_secs(60);
/// And one that says that it is busy: it mostly is, and has stored nothing.
const LONGEST_BUSY: Duration = Duration::from_secs(5);

/// A broker that is left alone.
#[derive(Debug)]
struct Silent {
    until: Instant,
    backoff: Backoff,
}

#[derive(Debug)]
pub(super) struct Tries {
    /// So many of the first messages are perhaps stored: a try always begins with the first.
    perhaps: usize,
    most: usize,
    silent: BTreeMap<String, Silent>,
    in_vain: Backoff,
    count: u64,
}

impl Default for Tries {
    fn default() -> Self {
        Self {
            perhaps: 0,
            most: 1,
            silent: BTreeMap::new(),
            in_vain: Backoff::new(Duration::from_millis(100), Duration::from_secs(2)),
            count: 0,
        }
    }
}

impl Tries {
    /// How many of the first messages are perhaps stored.
    pub(super) fn perhaps(&self) -> usize {
        self.perhaps
    }

    /// How many messages the next request may carry.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Tries in a row that stored nothing.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Brokers that are not to be asked now.
    pub(super) fn left_out(&self) -> BTreeSet<String> {
        let now = Instant::now();
        self.silent
            .iter()
            .filter(|(_, silent)| silent.until > now)
            .map(|(broker, _)| broker.clone())
            .collect()
    }

    /// When the first of these brokers may be asked again.
    pub(super) fn asked_again(&self) -> Option<Instant> {
        let now = Instant::now();
        self.silent.values().map(|silent| silent.until).filter(|until| *until > now).min()
    }

    /// How long to wait after a try that stored nothing.
    pub(super) fn pause(&mut self) -> Duration {
        self.count += 1;
        self.in_vain.next_delay()
    }

    /// A broker has stored the first messages; how many of them perhaps once more.
    pub(super) fn stored(&mut self, broker: &str, messages: usize) -> usize {
        self.silent.remove(broker);
        self.in_vain.reset();
        self.count = 0;
        self.most = (self.most * 2).min(MESSAGES);
        self.over(messages)
    }

    /// A broker has perhaps stored the first messages; how many of them perhaps once more.
    pub(super) fn unknown(&mut self, broker: &str, messages: usize, hint: Hint) -> usize {
        let backoff = || Backoff::new(FIRST_SILENCE, LONGEST_SILENCE);
        let silent = self
            .silent
            .entry(broker.to_owned())
            .or_insert_with(|| Silent { until: Instant::now(), backoff: backoff() });
        let longest = if hint == Hint::Busy { LONGEST_BUSY } else { LONGEST_SILENCE };
        silent.until = Instant::now() + silent.backoff.next_delay().min(longest);
        self.most = 1;
        let again = self.perhaps.min(messages);
        self.perhaps = self.perhaps.max(messages);
        again
    }

    /// RocketMQ never takes some messages together; they are sent half by half.
    pub(super) fn refused_together(&mut self, messages: usize) {
        self.most = messages / 2;
    }

    /// The first messages are done with; how many of them were perhaps stored.
    pub(super) fn over(&mut self, messages: usize) -> usize {
        let perhaps = self.perhaps.min(messages);
        self.perhaps -= perhaps;
        perhaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_hour_of_unknown_outcomes_makes_few_copies_and_each_is_told() {
        let mut tries = Tries::default();
        let ended = Instant::now() + Duration::from_secs(3_600);
        let (mut sent, mut told, mut quick) = (0, 0, 0);
        while Instant::now() < ended {
            told += tries.unknown("a", tries.most(), Hint::StaleRoute);
            sent += 1;
            quick += usize::from(ended - Instant::now() > Duration::from_secs(3_595));
            tokio::time::sleep_until(tries.asked_again().unwrap()).await;
            assert!(tries.left_out().is_empty());
        }
        assert!((50..120).contains(&sent), "{sent}");
        assert!(quick >= 3, "{quick}: a broker that is back at once is found so");
        assert_eq!(told, sent - 1);
        assert_eq!(tries.stored("a", 1), 1);
        tries.unknown("a", 1, Hint::StaleRoute);
        assert!(tries.asked_again().unwrap() - Instant::now() <= FIRST_SILENCE.mul_f64(1.3));
    }

    #[tokio::test(start_paused = true)]
    async fn another_broker_is_asked_at_once_and_does_not_forgive_the_first() {
        let mut tries = Tries::default();
        for _ in 0..20 {
            tries.unknown("a", 1, Hint::StaleRoute);
        }
        assert_eq!(tries.left_out(), BTreeSet::from(["a".to_owned()]));
        assert_eq!(tries.stored("b", 1), 1);
        assert_eq!(tries.left_out(), BTreeSet::from(["a".to_owned()]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_says_it_is_busy_is_not_left_alone_for_long() {
        let mut tries = Tries::default();
        for _ in 0..20 {
            tries.unknown("a", 1, Hint::Busy);
        }
        assert!(tries.asked_again().unwrap() - Instant::now() <= LONGEST_BUSY);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_grow_with_what_is_stored_and_shrink_after_an_unknown_outcome() {
        let mut tries = Tries::default();
        let mut requests = 0;
        while tries.most() < MESSAGES {
            assert_eq!(tries.stored("a", tries.most()), 0);
            requests += 1;
        }
        assert_eq!(requests, 11);
        assert_eq!(tries.unknown("a", MESSAGES, Hint::StaleRoute), 0);
        assert_eq!((tries.most(), tries.perhaps()), (1, MESSAGES));
        // Each message is told once more, as it is sent.
        let mut told = 0;
        for _ in 0..12 {
            told += tries.stored("a", tries.most());
        }
        assert_eq!((told, tries.perhaps()), (MESSAGES, 0));
    }
}
