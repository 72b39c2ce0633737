//! The one retry policy: exponential backoff with jitter.
//!
//! Every place that repeats something asks a [`Backoff`] how long to wait. This is the only file that names the
//! `backoff` crate, which is no longer maintained: replacing it must touch nothing else.

use std::time::Duration;

use backoff::backoff::Backoff as _;

/// Delays that grow from a first to a longest value, each spread at random by ±30 % so that many
/// instances that failed together do not come back together.
#[derive(Debug)]
pub struct Backoff(backoff::ExponentialBackoff);

impl Backoff {
    /// Starts at `first` and doubles up to `longest`; it never gives up by itself.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self(backoff::ExponentialBackoff {
            initial_interval: first,
            current_interval: first,
            max_interval: longest,
            multiplier: 2.0,
            randomization_factor: 0.3,
            max_elapsed_time: None,
            ..backoff::ExponentialBackoff::default()
        })
    }

    /// How long to wait before the next try.
    pub fn next_delay(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    /// Call after a success: the next failure waits the first delay again.
    pub fn reset(&mut self) {
        self.0.reset();
    }

    /// Waits [`Self::next_delay`].
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_longest_and_start_over_after_a_success() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, longest);
        assert!(backoff.next_delay() <= first.mul_f64(1.3));
        for _ in 0..1_000 {
            assert!(backoff.next_delay() <= longest.mul_f64(1.3));
        }
        assert!(backoff.next_delay() >= longest.mul_f64(0.7));
        backoff.reset();
        assert!(backoff.next_delay() <= first.mul_f64(1.3));
    }
}
