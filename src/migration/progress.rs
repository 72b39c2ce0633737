//! Says where a command stands, as it goes.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;
use tokio::time::Instant;

use super::refusal::{Reason, Trouble};

/// The steps, as the model has them. The names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Step {
    /// No other driver moves a channel of this topic.
    Locked,
    /// The relay sends nothing new.
    Fenced,
    /// The topic is paused where it is taken in.
    Held,
    /// Every nsqd has been seen empty.
    Quiet,
    /// The barrier is written down.
    BarrierWritten,
    /// The group stands at the barrier on every queue.
    OffsetsSet,
    /// The channel is paused on every nsqd.
    Paused,
    /// Nothing was published meanwhile.
    Same,
    /// The group may consume.
    Opened,
    /// What a cutover by share leaves to the old consumer may be relayed.
    RestOpened,
    /// The new consumers have what the relay has sent.
    Reached,
    /// It is written down that a rollback has begun.
    Returning,
    /// The group may not consume any more.
    Closed,
    /// The old consumer has had what was left to it, and no more of that is relayed.
    RestEnded,
    /// The relay stands where the group does.
    Followed,
    /// The channel has nothing left.
    Emptied,
    /// The channel delivers again.
    Unpaused,
    /// All relays know that the channel is done with.
    Recorded,
    /// The channel is gone.
    Deleted,
    /// What was begun is taken back.
    Undone,
    /// The relay goes on.
    Released,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}

impl std::str::FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let steps = [
            Step::Locked,
            Step::Fenced,
            Step::Held,
            Step::Quiet,
            Step::BarrierWritten,
            Step::OffsetsSet,
            Step::Paused,
            Step::Same,
            Step::Opened,
            Step::RestOpened,
            Step::Reached,
            Step::Returning,
            Step::Closed,
            Step::RestEnded,
            Step::Followed,
            Step::Emptied,
            Step::Unpaused,
            Step::Recorded,
            Step::Deleted,
            Step::Undone,
            Step::Released,
        ];
        steps.into_iter().find(|step| step.to_string() == text).ok_or_else(|| format!("no step {text:?}"))
    }
}

/// One thing that is said.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase", tag = "event")]
pub enum Event<'a> {
    /// A step is done.
    Step {
        /// Which.
        step: Step,
        /// In words.
        message: &'a str,
        /// Since the command began.
        seconds: f64,
    },
    /// It waits.
    Waiting {
        /// For what kind of thing.
        reason: Reason,
        /// In words.
        message: &'a str,
        /// Since the command began.
        seconds: f64,
    },
    /// Something to know.
    Note {
        /// In words.
        message: &'a str,
        /// Since the command began.
        seconds: f64,
    },
}

/// Who hears of it.
pub type Tell = Box<dyn Fn(&Event<'_>) + Send + Sync>;

/// Where a command stands.
pub struct Progress {
    tell: Tell,
    began: Instant,
    waiting: Mutex<Option<Trouble>>,
    /// Ends as if killed after this step.
    stop_after: Option<Step>,
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("stop_after", &self.stop_after).finish_non_exhaustive()
    }
}

impl Progress {
    /// Tells `tell`. With `stop_after` nothing at all is done after that step, as if the process had been killed.
    #[must_use]
    pub fn new(tell: Tell, stop_after: Option<Step>) -> Self {
        Self { tell, began: Instant::now(), waiting: Mutex::default(), stop_after }
    }

    fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// A step is done.
    ///
    /// # Errors
    /// [`Reason::Stopped`] when it is the one to stop after; nothing may be done then, not even undone.
    pub(super) fn step(&self, step: Step, message: &str) -> Result<(), Trouble> {
        (self.tell)(&Event::Step { step, message, seconds: self.seconds() });
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if self.stop_after == Some(step) {
            return Err(Trouble::new(Reason::Stopped, format!("after {step}")));
        }
        Ok(())
    }

    /// It waits for this; said when it is not what was said before.
    pub(super) fn waiting(&self, trouble: &Trouble) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.as_ref() != Some(trouble) {
            let (reason, message) = (trouble.reason, &*trouble.detail);
            (self.tell)(&Event::Waiting { reason, message, seconds: self.seconds() });
            *waiting = Some(trouble.clone());
        }
    }

    /// Something to know.
    pub(super) fn note(&self, message: &str) {
        (self.tell)(&Event::Note { message, seconds: self.seconds() });
    }
}
