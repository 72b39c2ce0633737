//! How fast one topic may be relayed: a rate, and a pause, both of which may change while it runs.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// Unused rate is kept for this long at most.
const BURST: Duration = Duration::from_millis(250);

/// The pace of one topic in this process.
#[derive(Debug)]
pub(super) struct Pace {
    wish: watch::Sender<Wish>,
    /// When the next message is due.
    next: Mutex<Instant>,
}

/// What is wished for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    /// Messages a second; 0 for any number.
    pub(super) rate: u64,
    pub(super) paused: bool,
}

impl Pace {
    pub(super) fn new(rate: u64) -> Self {
        let (wish, _) = watch::channel(Wish { rate, paused: false });
        Self { wish, next: Mutex::new(Instant::now()) }
    }

    pub(super) fn wish(&self) -> Wish {
        *self.wish.borrow()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Wish)) {
        self.wish.send_modify(|wish| {
            let before = wish.rate;
            change(wish);
            // A batch that was large for the old rate would hold up the new one for as long as the old asks.
            if wish.rate != before {
                *self.next() = Instant::now();
            }
        });
    }

    fn next(&self) -> MutexGuard<'_, Instant> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until this many messages may go on their way.
    ///
    /// # Cancellation
    /// Safe: messages that do not go take no part of the rate, or a batch's at most.
    pub(super) async fn admit(&self, messages: usize) {
        let mut wish = self.wish.subscribe();
        loop {
            let Wish { rate, paused } = *wish.borrow_and_update();
            let wait = if paused { None } else { Some(self.due(rate, messages)) };
            match wait {
                None => {}
                Some(Ok(())) => return,
                Some(Err(at)) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => continue,
                        _ = wish.changed() => continue,
                    }
                }
            }
            if wish.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes the messages' part of the rate, or says when that may be.
    fn due(&self, rate: u64, messages: usize) -> Result<(), Instant> {
        if rate == 0 {
            return Ok(());
        }
        let now = Instant::now();
        let mut next = self.next();
        if *next > now {
            return Err(*next);
        }
        let begin = (*next).max(now.checked_sub(BURST).unwrap_or(now));
        *next = begin + Duration::from_secs_f64(messages as f64 / rate as f64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_and_changes_at_once() {
        let pace = Pace::new(1_000);
        let started = Instant::now();
        for _ in 0..40 {
            pace.admit(100).await;
        }
        let took = started.elapsed().as_secs_f64();
        assert!((3.5..=4.0).contains(&took), "{took} s for 4,000 messages");
        pace.change(|wish| wish.rate = 0);
        let started = Instant::now();
        pace.admit(1_000_000).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_raised_rate_does_not_wait_for_what_the_old_one_asked() {
        let pace = std::sync::Arc::new(Pace::new(10));
        pace.admit(2_500).await;
        let waiting = tokio::spawn({
            let pace = std::sync::Arc::clone(&pace);
            async move { pace.admit(1_000).await }
        });
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!waiting.is_finished(), "250 s for the first batch");
        let raised = Instant::now();
        pace.change(|wish| wish.rate = 10_000);
        waiting.await.unwrap();
        pace.admit(1).await;
        let took = raised.elapsed();
        assert!((0.1..0.2).contains(&took.as_secs_f64()), "{took:?} for a thousand");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_and_ends() {
        let pace = std::sync::Arc::new(Pace::new(0));
        pace.change(|wish| wish.paused = true);
        let waiting = tokio::spawn({
            let pace = std::sync::Arc::clone(&pace);
            async move { pace.admit(1).await }
        });
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!waiting.is_finished());
        pace.change(|wish| wish.paused = false);
        waiting.await.unwrap();
    }
}
