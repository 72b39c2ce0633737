//! What every driver has in hand, and how it waits: never for longer than it may keep the relay fenced.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    fence::{Fence, Told},
    intakes::Held,
    lock::Lock,
    nsqds::{APART, Look, Nsqds, Published},
    plan::Deferred,
    progress::{Progress, Step},
    refusal::{Reason, Refusal, Trouble},
    subject::{Places, Subject},
};
use crate::{mapping::Feed, nsq::nsqd::Nsqd};

const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(150);
/// What must not be left half done is tried for so long.
const FINISH_WITHIN: Duration = Duration::from_secs(20);

/// How a command goes about it.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The relay is fenced for no longer than this; then everything is undone.
    pub max_pause: Duration,
    /// For so long at least a channel must have been empty to count as drained.
    pub quiet: Duration,
    /// What a cutover does about messages that wait for their time.
    pub deferred: Deferred,
    /// A cutover gives the group what is stamped for it, and leaves the rest to the old consumer.
    pub by_share: bool,
}

/// What a command that did it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Done {
    /// In words.
    pub message: String,
    /// For how long the relay was fenced, in milliseconds.
    pub paused_ms: u64,
}

impl Done {
    /// What was asked for was so already, or needed no pause.
    pub(super) fn at_once(message: impl Into<String>) -> Self {
        Self { message: message.into(), paused_ms: 0 }
    }

    pub(super) fn after(message: String, began: Instant) -> Self {
        Self { message, paused_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX) }
    }
}

/// A relay, and the nsqds as they have its topic.
pub(super) struct Side {
    pub(super) feed: Feed,
    pub(super) nsqds: Nsqds,
}

/// What every driver has in hand.
pub(super) struct Driver<'a> {
    pub(super) subject: &'a Subject,
    pub(super) progress: &'a Progress,
    pub(super) stop: &'a CancellationToken,
    pub(super) lock: &'a Lock,
    /// The topic's.
    pub(super) main: Side,
    /// That of what is left, where the channel is moved by share.
    pub(super) rest: Option<Side>,
    pub(super) fence: Fence<'a>,
    /// Where the topic is paused, or may be.
    pub(super) holds: Vec<Nsqd>,
    /// An nsqd has not answered the last pause.
    pub(super) pause_unanswered: bool,
    /// What is so since nothing new is taken in.
    pub(super) held: Option<Held>,
    /// How far apart two looks are that prove something.
    pub(super) apart: Duration,
    /// When the relay must go on.
    pub(super) deadline: Instant,
}

/// What was seen twice.
#[derive(Debug)]
pub(super) struct Proof {
    /// The nsqds, the first time.
    pub(super) look: Look,
    /// What they had had published.
    pub(super) published: Published,
    /// Where the relay stood.
    pub(super) places: Places,
}

impl Driver<'_> {
    /// Waits until a side's relay stands still and `holds` of its nsqds, seen twice with the same counts.
    ///
    /// # Errors
    /// When that is not so in time, and at once when somebody else publishes.
    pub(super) async fn until_proved(
        &self,
        side: &Side,
        holds: impl Fn(&Look, &Places) -> Result<(), Trouble>,
    ) -> Result<Proof, Trouble> {
        // The relay stood still here with so many published: any more are somebody else's.
        let mut stood: Option<(Places, Published)> = None;
        let mut first: Option<(Instant, Look, Places)> = None;
        loop {
            let seen = self.look(side, &holds).await;
            if let Ok((look, places, _)) = &seen {
                match &stood {
                    Some((before, published)) if before == places => published.compare(&look.published())?,
                    _ => stood = Some((places.clone(), look.published())),
                }
            }
            match seen {
                Ok((look, places, Ok(()))) => match first.take() {
                    Some((at, before, same)) if same == places && before.put_back() == look.put_back() => {
                        if at.elapsed() >= self.apart {
                            let published = before.published();
                            if let Some(Held(before)) = &self.held {
                                before.compare(&published)?;
                            }
                            return Ok(Proof { look: before, published, places });
                        }
                        first = Some((at, before, same));
                    }
                    _ => first = Some((Instant::now(), look, places)),
                },
                Ok((_, _, Err(trouble))) | Err(trouble) => {
                    first = None;
                    self.wait(trouble).await?;
                }
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    /// Waits until a side's relay stands still; where that is.
    ///
    /// # Errors
    /// When it does not in time.
    pub(super) async fn until_settled(&self, side: &Side) -> Result<Places, Trouble> {
        loop {
            match self.look(side, |_, _| Ok(())).await {
                Ok((_, places, _)) => return Ok(places),
                Err(trouble) => self.wait(trouble).await?,
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    /// Where a side's relay stands, and whether it `holds` of its nsqds.
    async fn look(
        &self,
        side: &Side,
        holds: impl Fn(&Look, &Places) -> Result<(), Trouble>,
    ) -> Result<(Look, Places, Result<(), Trouble>), Trouble> {
        let told = self.renew().await?;
        let look = side.nsqds.look().await?;
        let places = self.fence.settled(&side.feed, &told, &look).await?;
        let holds = holds(&look, &places);
        Ok((look, places, holds))
    }

    /// Whether nothing is as it was not: the relay stands where it stood, nothing was published, and the same nsqds have the
    /// channel, paused.
    pub(super) async fn is_same(&self, proof: &Proof) -> Result<(), Trouble> {
        self.subject.nsqds_now().await?.look().await?.is_paused_as(&proof.look)?;
        let (look, places, empty) = self.look(&self.main, |look, _| look.is_empty()).await?;
        if places != proof.places {
            return Err(Trouble::new(Reason::FenceLost, "the relay went on meanwhile"));
        }
        proof.published.compare(&look.published())?;
        empty
    }

    /// Waits a little for what is not so yet.
    ///
    /// # Errors
    /// What it waits for, when there is no more time; and at once for what waiting cannot mend.
    pub(super) async fn wait(&self, trouble: Trouble) -> Result<(), Trouble> {
        // A topic that somebody let go is not held again: what came meanwhile is on no known side.
        let is_lost = trouble.reason == Reason::FenceLost && !self.holds.is_empty();
        let hopeless = is_lost || matches!(trouble.reason, Reason::AnotherDriver | Reason::RelayAhead);
        if hopeless || Instant::now() > self.deadline {
            return Err(trouble);
        }
        if self.stop.is_cancelled() {
            return Err(Trouble::new(Reason::Interrupted, format!("while waiting: {trouble}")));
        }
        self.progress.waiting(&trouble);
        Ok(())
    }

    /// Where the closed group stands, once its consumers have finished all they had: seen twice, for what a broker has just answered
    /// is nowhere for a moment.
    ///
    /// # Errors
    /// When they have not in time.
    pub(super) async fn until_put_down(&self) -> Result<Places, Trouble> {
        self.until_same(async || {
            self.subject.has_nothing_in_hand().await?;
            self.subject.places_of(&self.subject.group).await
        })
        .await
    }

    /// What is seen twice, [`APART`] or more, the same.
    ///
    /// # Errors
    /// Why it is not in time.
    pub(super) async fn until_same<T: PartialEq>(
        &self,
        look: impl AsyncFn() -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let mut first: Option<(Instant, T)> = None;
        loop {
            let seen = async {
                self.renew().await?;
                look().await
            };
            match seen.await {
                Ok(seen) => match &first {
                    Some((at, before)) if *before == seen => {
                        if at.elapsed() >= APART {
                            return Ok(seen);
                        }
                    }
                    _ => first = Some((Instant::now(), seen)),
                },
                Err(trouble) => {
                    first = None;
                    self.wait(trouble).await?;
                }
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    /// Keeps lock and fence for another while: between steps that may take long, as offsets of many queues do.
    pub(super) async fn renew(&self) -> Result<Told, Trouble> {
        self.lock.renew().await?;
        self.fence.renew().await
    }

    /// Waits until `holds`, with the relay fenced.
    pub(super) async fn until(&self, holds: impl AsyncFn() -> Result<(), Trouble>) -> Result<(), Trouble> {
        loop {
            let held = async {
                self.renew().await?;
                holds().await
            };
            match held.await {
                Ok(()) => return Ok(()),
                Err(trouble) => self.wait(trouble).await?,
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }
}

/// Runs `act` with the topic's lock.
///
/// # Errors
/// As `act`, or because the lock is not to be had.
pub(super) async fn with_lock<T>(
    subject: &Subject,
    progress: &Progress,
    stop: &CancellationToken,
    act: impl AsyncFnOnce(&Lock) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let lock = Lock::take(subject, progress, stop).await.map_err(Refusal::untouched)?;
    let step = progress.step(Step::Locked, "no other driver moves a channel of this topic");
    let done = match step {
        Ok(()) => act(&lock).await.map_err(Refusal::of_a_lost_lock),
        Err(trouble) => Err(Refusal::untouched(trouble)),
    };
    // A driver that is killed does not give it back either.
    if !matches!(&done, Err(refusal) if refusal.trouble.reason == Reason::Stopped) {
        lock.release().await;
    }
    done
}

/// Tries what must not be left half done until it is done.
///
/// # Errors
/// What went wrong last, after a while; at once when the lock is lost.
pub(super) async fn see_through(
    lock: &Lock,
    progress: &Progress,
    act: impl AsyncFn() -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let until = Instant::now() + FINISH_WITHIN;
    loop {
        let done = async {
            lock.keep().await?;
            act().await
        };
        let Err(trouble) = done.await else { return Ok(()) };
        if trouble.is_over() || Instant::now() > until {
            return Err(trouble);
        }
        progress.waiting(&trouble);
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
}
