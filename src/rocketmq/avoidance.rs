//! Which brokers to leave alone for a while.
//!
//! A frozen broker stays in the route for up to two minutes. One failed or slow send is enough to send the next ones elsewhere; the
//! broker is tried again after a penalty that doubles with each failure in a row. With nobody else to ask, it is
//! asked all the same.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

const FIRST_PENALTY: Duration = Duration::from_secs(2);
const LONGEST_PENALTY: Duration = Duration::from_secs(30);

/// A broker slower than this is avoided for [`FIRST_PENALTY`], though it answered.
const SLOW: Duration = Duration::from_millis(550);

#[derive(Debug, Default)]
pub(super) struct Avoidance(Mutex<HashMap<String, Penalty>>);

#[derive(Debug)]
struct Penalty {
    until: Instant,
    length: Duration,
}

impl Avoidance {
    pub(super) fn avoids(&self, broker: &str) -> bool {
        let penalties = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        penalties.get(broker).is_some_and(|penalty| Instant::now() < penalty.until)
    }

    /// Takes note of how a request to `broker` ended.
    pub(super) fn observe(&self, broker: &str, took: Duration, failed: bool) {
        let mut penalties = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let length = match (failed, penalties.get(broker)) {
            (false, None) if took < SLOW => return,
            (false, _) if took < SLOW => {
                penalties.remove(broker);
                return;
            }
            (false, _) | (true, None) => FIRST_PENALTY,
            (true, Some(penalty)) => (penalty.length * 2).min(LONGEST_PENALTY),
        };
        penalties.insert(broker.to_owned(), Penalty { until: Instant::now() + length, length });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failed_or_slow_broker_is_avoided_for_a_while_and_a_good_answer_forgives() {
        let avoidance = Avoidance::default();
        let fast = Duration::from_millis(1);
        avoidance.observe("a", fast, true);
        assert!(avoidance.avoids("a") && !avoidance.avoids("b"));
        tokio::time::advance(FIRST_PENALTY).await;
        assert!(!avoidance.avoids("a"));
        avoidance.observe("a", fast, true);
        tokio::time::advance(FIRST_PENALTY).await;
        assert!(avoidance.avoids("a"), "the second failure in a row costs twice as much");
        avoidance.observe("a", fast, false);
        assert!(!avoidance.avoids("a"));
        avoidance.observe("a", SLOW, false);
        assert!(avoidance.avoids("a"));
    }
}
