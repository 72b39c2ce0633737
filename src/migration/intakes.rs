//! A topic that producers still publish straight to an nsqd, while one of its consumers is moved.
//!
//! What they publish comes to the channel at once, and through the intake to RocketMQ, where no relay gives it to the channel again. To part what the
//! channel has had from what the group will get, the topic is paused on every nsqd with an intake's channel: publishes are taken and
//! wait in the topic, and nothing new comes to any of its channels. When the intake's channel is empty, all the channel ever had from there
//! lies in RocketMQ, below the ends of the queues. The relay follows up to these, and there the barrier stands. What waits comes to
//! the channel and the intake afterwards, and so lies behind it.
//!
//! The pause is believed no more than a fence: what proves it is that channel and intake have received nothing since before the ends were
//! read ([`Held`]). Where it would outlive its driver, the intake ends it ([`crate::intake::hold`]).

use std::collections::BTreeSet;

use futures_util::future::join_all;

use super::{
    driver::{Driver, Proof, see_through},
    fence::follows,
    nsqds::{Look, Published},
    progress::Step,
    refusal::{Reason, Trouble},
    subject::{Places, Stage, Subject, World},
};
use crate::{
    intake::{
        control::{self, Instance},
        hold::{self, HoldError},
    },
    rocketmq::Queue,
};

/// What channel and intake had received on each nsqd with an intake, before the ends of the queues were read.
#[derive(Debug)]
pub(super) struct Held(pub(super) Published);

impl From<HoldError> for Trouble {
    fn from(error: HoldError) -> Self {
        let reason = match &error {
            HoldError::Paused(_) => Reason::TopicPaused,
            HoldError::LetGo(_) => Reason::FenceLost,
            HoldError::Nsqd(_) => Reason::NsqdUnavailable,
            HoldError::Rocketmq(_) => Reason::RocketmqUnavailable,
        };
        Self::new(reason, error.to_string())
    }
}

impl Driver<'_> {
    /// As [`Self::until_proved`]; where messages are taken in, the relay stands at the end of all that was, and no more is until
    /// [`Self::let_go`].
    pub(super) async fn until_level(
        &mut self,
        holds: impl Fn(&Look, &Places) -> Result<(), Trouble>,
    ) -> Result<Proof, Trouble> {
        let Some(ends) = self.hold().await? else { return self.until_proved(&self.main, holds).await };
        self.fence.follow(&ends);
        self.until_proved(&self.main, |look, places| {
            follows(places, &ends).and_then(|()| holds(look, places))
        })
        .await
    }

    /// Holds the topic wherever it is taken in; the ends of the queues when everything that came to the intakes is stored.
    async fn hold(&mut self) -> Result<Option<Places>, Trouble> {
        let Driver { subject, progress, .. } = *self;
        let before = self.main.nsqds.look().await?;
        if before.taken_in().next().is_none() {
            return Ok(None);
        }
        let intakes = subject.intakes().await?;
        for (nsqd, _) in self.main.nsqds.taken_in(&before) {
            // Before anything is paused: an intake lets go what nobody has fenced.
            self.renew().await?;
            hold::may_begin(&subject.cluster, &subject.names, &subject.topic, nsqd).await?;
            self.holds.push(nsqd.clone());
            self.pause_unanswered = true;
            hold::hold(&subject.cluster, &subject.names, &subject.topic, nsqd).await?;
            self.pause_unanswered = false;
        }
        progress.step(
            Step::Held,
            "the topic is paused where producers publish straight to nsqd; what they publish waits",
        )?;
        let stored = async || {
            let look = self.main.nsqds.look().await?;
            look.is_stored()?;
            // One that was cut off from its nsqd may be about to store what another one has stored since.
            subject.intakes_have_nothing_in_hand().await?;
            Ok::<_, Trouble>((look.published().taken_in(), look.put_back()))
        };
        let (published, _) = self.until_same(stored).await?;
        let ends = subject.ends_of(&intakes).await?;
        self.held = Some(Held(published));
        Ok(Some(ends))
    }

    /// Lets go of everything that is held: the topics, and the relay.
    ///
    /// # Errors
    /// When an nsqd does not answer for a while. Its intake lets the topic go when it finds the fence gone.
    pub(super) async fn let_go(&self) -> Result<(), Trouble> {
        let Driver { subject, progress, lock, .. } = self;
        let unpaused = self.holds.iter().map(async |nsqd| {
            let unpause = async || Ok(hold::unpause(&subject.topic, nsqd).await?);
            see_through(lock, progress, unpause).await.map_err(|Trouble { reason, detail }| {
                let until =
                    format!("until its intake lets it go the topic may be paused on {}", nsqd.address());
                Trouble::new(reason, format!("{detail}; {until}"))
            })
        });
        let unpaused = join_all(unpaused).await;
        self.fence.lift().await;
        if self.pause_unanswered {
            // That pause may arrive yet: what is written down stays, and whoever finds it lets the topic go again.
            return unpaused.into_iter().collect();
        }
        for (nsqd, _) in self.holds.iter().zip(&unpaused).filter(|(_, unpaused)| unpaused.is_ok()) {
            if lock.keep().await.is_err() {
                break;
            }
            if let Err(error) = hold::forget(&subject.cluster, &subject.names, &subject.topic, nsqd).await {
                tracing::debug!(%error, "the intake finds what is still written down of the pause");
            }
        }
        unpaused.into_iter().collect()
    }

    /// The same, and tells of what went wrong with it; nothing when another driver has taken over, or a kill is played: whoever comes next
    /// sees to it.
    pub(super) async fn let_go_after<T>(&self, done: &Result<T, Trouble>) {
        if done.as_ref().is_err_and(Trouble::is_over) {
            return;
        }
        if let Err(trouble) = self.let_go().await {
            tracing::warn!(%trouble, "the command has ended, but a topic or fence could not be released");
        }
    }
}

impl Subject {
    /// The intakes of the topic that run.
    pub(super) async fn intakes(&self) -> Result<Vec<Instance>, Trouble> {
        Ok(control::ask(&self.cluster, &self.names, &self.topic).await?)
    }

    /// Lets the topic go wherever it is held.
    pub(super) async fn release(&self, world: &World) -> Result<(), Trouble> {
        for (nsqd, _) in world.nsqds.taken_in(&world.look) {
            hold::release(&self.cluster, &self.names, &self.topic, nsqd).await?;
        }
        Ok(())
    }

    /// Whether no intake is storing anything.
    async fn intakes_have_nothing_in_hand(&self) -> Result<(), Trouble> {
        for intake in self.intakes().await? {
            let inlets = &answered(&intake)?.nsqds;
            if let Some(inlet) = inlets.iter().find(|inlet| inlet.in_hand > 0) {
                let detail = format!("{}: {} messages of {}", intake.id, inlet.in_hand, inlet.nsqd);
                return Err(Trouble::new(Reason::IntakeLags, detail));
            }
        }
        Ok(())
    }

    /// Whether nobody but an earlier run has paused the topic where it is taken in.
    pub(super) async fn is_not_paused(&self, world: &World) -> Result<(), Trouble> {
        for (nsqd, paused) in world.nsqds.taken_in(&world.look) {
            if paused {
                hold::may_begin(&self.cluster, &self.names, &self.topic, nsqd).await?;
            }
        }
        Ok(())
    }

    /// The ends of all queues, as brokers show them and as the same intakes as before know them from where they have stored: a broker shows a
    /// message a moment after it has answered that it is stored.
    async fn ends_of(&self, before: &[Instance]) -> Result<Places, Trouble> {
        let intakes = self.intakes().await?;
        let ids = |intakes: &[Instance]| -> BTreeSet<String> {
            intakes.iter().map(|intake| intake.id.clone()).collect()
        };
        if ids(before) != ids(&intakes) {
            return Err(Trouble::new(Reason::NsqdsChanged, "an intake came or went"));
        }
        let topic = self.rocketmq_topic();
        let bounds = self.cluster.topic_stats(&topic).await?;
        let mut ends: Places = bounds.into_iter().map(|(queue, bounds)| (queue, bounds.max)).collect();
        for intake in intakes {
            for stored in answered(&intake)?.stored_to.iter().cloned() {
                let queue = Queue { topic: topic.clone(), broker: stored.broker, id: stored.queue };
                let Some(end) = ends.get_mut(&queue) else {
                    let detail = format!("messages were taken in to {queue}, which is away now");
                    return Err(Trouble::new(Reason::QueuesChanged, detail));
                };
                *end = (*end).max(stored.offset);
            }
        }
        Ok(ends)
    }
}

impl World {
    /// Whether every intake there is can be asked, and is at work: it stores what comes, and lets the topic go should its driver die.
    pub(super) fn intakes_run(&self) -> Result<(), Trouble> {
        self.intakes_answer()?;
        self.look.intakes_run()
    }

    /// Whether everybody answers who may know of an nsqd that messages are taken in from.
    pub(super) fn intakes_answer(&self) -> Result<(), Trouble> {
        if self.taken_in && self.intakes.is_empty() {
            let detail = "the topic is taken in from nsqd, and no intake of it runs";
            return Err(Trouble::new(Reason::IntakeSilent, detail));
        }
        self.intakes.iter().try_for_each(|intake| answered(intake).map(drop))
    }

    /// Whether an earlier run has left something that the next one finishes or undoes.
    pub(super) fn is_half_done(&self) -> bool {
        let is_held = self.nsqds.taken_in(&self.look).any(|(_, paused)| paused);
        is_held || matches!(self.stage(), Stage::Opening | Stage::HalfDone | Stage::HalfPaused)
    }

    /// What is told beforehand of a topic that is taken in.
    pub(super) fn held_meanwhile(&self) -> Option<String> {
        let nsqds: Vec<String> = self.look.taken_in().map(ToString::to_string).collect();
        (!nsqds.is_empty()).then(|| {
            format!(
                "meanwhile the topic is paused on {}: what producers publish there is taken, and waits",
                nsqds.join(", ")
            )
        })
    }
}

fn answered(intake: &Instance) -> Result<&control::IntakeReport, Trouble> {
    let Instance { id, report } = intake;
    report.as_ref().map_err(|reason| Trouble::new(Reason::IntakeSilent, format!("{id}: {reason}")))
}
