//! Why a consumer is not moved, in words that programs can rely on.

use std::fmt;

use crate::{nsq::nsqd::HttpError, rocketmq::ClusterError, transfer::NotPlaced};

/// What stands in the way. The names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub enum Reason {
    /// Somebody else moves a channel of this topic now, or may have done so while this driver was frozen.
    AnotherDriver,
    /// The channel became another consumer group than the one that is named.
    AnotherGroup,
    /// Somebody publishes straight to nsqd.
    BypassProducerDetected,
    /// The channel is moved by share, and not all of it is the group's yet.
    ByShare,
    /// The channel was completed: there is no way back.
    ChannelCompleted,
    /// No nsqd has the channel, or one that has the topic lacks it.
    ChannelMissingOnNsqd,
    /// The channel is not cut over.
    ChannelNotCutOver,
    /// Somebody paused the channel, and no cutover did.
    ChannelPaused,
    /// The channel holds more than came since the cutover, and an nsqd was restarted or had no intake for a while: messages were
    /// published straight to it, or relayed twice.
    ChannelHoldsMore,
    /// The channel holds less than was relayed since the cutover: an nsqd lost some, somebody emptied it, or an intake stored some twice.
    ChannelIncomplete,
    /// Messages wait for their time, put back by consumers or published to be deferred.
    DeferredMessagesPending,
    /// An ephemeral channel vanishes with its last consumer.
    EphemeralChannel,
    /// An instance does not keep to the fence, or to somebody else's; or a topic that was paused meanwhile is not any more.
    FenceLost,
    /// Consumers of the group are connected, and may have messages in hand or offsets of their own.
    GroupHasConsumers,
    /// The new consumers have not come as far as the relay.
    GroupLags,
    /// The group has consumed nothing since the cutover.
    GroupNotConsuming,
    /// Messages of the topic are taken in from nsqd.
    IntakeRunning,
    /// The channel was cut over as a whole.
    NotByShare,
    /// The intake has not stored yet what came to it.
    IntakeLags,
    /// An intake of the topic does not answer, or does not run.
    IntakeSilent,
    /// It was told to stop.
    Interrupted,
    /// The topic has messages that were parked, and not dealt with.
    MessagesParked,
    /// A name is too long for RocketMQ.
    NameTooLong,
    /// The channel's consumers did not finish in time.
    NsqChannelNotDrained,
    /// An nsqd does not answer, or refuses.
    NsqdUnavailable,
    /// An nsqd came or went meanwhile, or delivers the channel.
    NsqdsChanged,
    /// An nsqd restarted meanwhile.
    NsqdRestarted,
    /// nsqlookupd does not answer.
    NsqlookupdUnavailable,
    /// The topic got or lost queues meanwhile.
    QueuesChanged,
    /// A side of a rehearsal had another number of messages than the offsets say.
    RehearsalMiscounted,
    /// The relay went further than it was let.
    RelayAhead,
    /// A queue of the relay is held.
    RelayHeld,
    /// The relay still waits for nsqd.
    RelayInFlight,
    /// Nobody relays the topic, or a queue of it.
    RelayMissing,
    /// An instance of the relay does not answer.
    RelaySilent,
    /// RocketMQ keeps messages of the group for another try.
    RetriesPending,
    /// RocketMQ does not answer, or refuses.
    RocketmqUnavailable,
    /// As `--stop-after` asked.
    Stopped,
    /// The topic is paused in nsqd.
    TopicPaused,
    /// The NSQ topic that a share needs is another's.
    TopicTaken,
    /// The relay has yet to relay again what an nsqd lost.
    UndrainedMessages,
}

impl Reason {
    /// What to do about it.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Reason::AnotherDriver => {
                "wait for it to end, look with `nsqbridge status TOPIC/CHANNEL`, and run it again where that is needed; the lock of one that \
                 died ends within a minute"
            }
            Reason::AnotherGroup => "name the group it became, with --group or a plan (-f)",
            Reason::BypassProducerDetected => {
                "point every producer of the topic at the gateway, then try again"
            }
            Reason::ByShare => {
                "set every gateway's share of it to 100, and wait until its own topic gets nothing more and is drained"
            }
            Reason::ChannelHoldsMore => {
                "roll back with --mode broken, which delivers all the channel holds; or with --accept-more, when nothing was published \
                 straight to an nsqd while it had no intake"
            }
            Reason::ChannelCompleted => "there is nothing to do: its consumer has moved for good",
            Reason::ChannelMissingOnNsqd => "see the spelling, and that the relay of the topic runs",
            Reason::ChannelNotCutOver => "cut it over first",
            Reason::ChannelPaused => "unpause it in nsqadmin, or leave it alone",
            Reason::ChannelIncomplete => {
                "roll back with --mode healthy; or with --accept-missing, when the new consumers have had what is missing"
            }
            Reason::DeferredMessagesPending => {
                "wait until nothing was put back or deferred for a while, or give more --max-pause"
            }
            Reason::EphemeralChannel => {
                "stop its consumer, and start the new one: nobody else knows the channel"
            }
            Reason::FenceLost | Reason::RelayInFlight | Reason::RelaySilent => {
                "see `nsqbridge status TOPIC`, then try again"
            }
            Reason::GroupHasConsumers => {
                "stop the group's consumers; those of a cutover are started once it is done"
            }
            Reason::GroupLags => "let the new consumers catch up, or use --mode broken",
            Reason::GroupNotConsuming => "see that the new consumers run and consume",
            Reason::IntakeRunning => {
                "point the topic's last producers at the gateway, stop `nsqbridge intake`, and end it with --retire"
            }
            Reason::IntakeLags => {
                "see that RocketMQ takes what the intake sends, and that the intake keeps up, or give more --max-pause"
            }
            Reason::IntakeSilent => {
                "start the topic's `nsqbridge intake`, or end it with --retire; a frozen one must be ended"
            }
            Reason::Interrupted | Reason::Stopped => "run it again",
            Reason::MessagesParked => {
                "retry or drop them first (`nsqbridge parked`): retried later, they would come to every channel but this one"
            }
            Reason::NameTooLong => "give a shorter --group, or rename the topic with --rename",
            Reason::NotByShare => "roll it back, then cut it over with --share",
            Reason::NsqChannelNotDrained => {
                "see that the channel's consumers keep up and finish what they take, or give more --max-pause"
            }
            Reason::NsqdUnavailable | Reason::NsqlookupdUnavailable | Reason::RocketmqUnavailable => {
                "see that it runs and can be reached from here, then try again"
            }
            Reason::NsqdRestarted | Reason::NsqdsChanged | Reason::QueuesChanged | Reason::RelayAhead => {
                "try again"
            }
            Reason::RelayHeld => "see `nsqbridge status TOPIC`: a person must look at the queue",
            Reason::RelayMissing => {
                "start `nsqbridge transfer` for the topic; after an instance has died its queues are taken over within a minute"
            }
            Reason::RehearsalMiscounted => {
                "see whether a consumer's connection broke; rehearse again, and cut nothing over before it counts right"
            }
            Reason::RetriesPending => {
                "let the group consume them, or use --mode broken, which gives the old consumer everything again"
            }
            Reason::TopicPaused => "unpause the topic in nsqadmin",
            Reason::TopicTaken => {
                "it cannot be moved by share while there is a topic of that name: move it as a whole"
            }
            Reason::UndrainedMessages => {
                "wait until the relay has relayed them and the channel's consumers have them"
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}

/// What a step met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Trouble {
    /// Of what kind it is.
    pub reason: Reason,
    /// Where, and what exactly.
    pub detail: String,
}

impl Trouble {
    /// Whether nothing is to be undone by this driver: another one is in charge, or it plays being killed.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.reason, Reason::Stopped | Reason::AnotherDriver)
    }

    /// Trouble of this kind.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl From<ClusterError> for Trouble {
    fn from(error: ClusterError) -> Self {
        Self::new(Reason::RocketmqUnavailable, error.to_string())
    }
}

impl From<NotPlaced> for Trouble {
    fn from(error: NotPlaced) -> Self {
        Self::new(Reason::RocketmqUnavailable, error.to_string())
    }
}

impl From<HttpError> for Trouble {
    fn from(error: HttpError) -> Self {
        Self::new(Reason::NsqdUnavailable, error.to_string())
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What stood in the way.
    pub trouble: Trouble,
    /// How far it went.
    pub left: Left,
}

/// What a refused command leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// Nothing was begun.
    Untouched,
    /// What was begun has been undone.
    Undone,
    /// This is still in force.
    InForce(String),
}

impl Refusal {
    /// Refused before anything was changed.
    pub(super) fn untouched(trouble: Trouble) -> Self {
        Self { trouble, left: Left::Untouched }
    }

    /// What is left by a driver that was frozen or cut off for too long: whatever whoever came after it has made of it.
    pub(super) fn of_a_lost_lock(self) -> Self {
        if self.trouble.reason != Reason::AnotherDriver {
            return self;
        }
        let left = "what was begun is not undone, nor anything else changed: another driver may have finished or undone it";
        Self { left: Left::InForce(left.to_owned()), ..self }
    }

    /// Whether nothing was begun.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.left == Left::Untouched
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trouble: Trouble { reason, detail }, left } = self;
        let left = match left {
            Left::Untouched => "nothing was changed",
            Left::Undone => "what was begun has been undone",
            Left::InForce(what) => what,
        };
        write!(f, "{reason}: {detail}\n  left: {left}\n  do: {}", reason.advice())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The names and what is said of them, as they stand above.
    fn documented() -> Vec<(String, String)> {
        let (_, reasons) = include_str!("refusal.rs").split_once("pub enum Reason {\n").unwrap();
        let (reasons, _) = reasons.split_once("\n}").unwrap();
        let (mut documented, mut said) = (Vec::new(), Vec::new());
        for line in reasons.lines().map(str::trim) {
            match line.strip_prefix("/// ") {
                Some(part) => said.push(part),
                None => {
                    let what = std::mem::take(&mut said).join(" ");
                    documented
                        .push((line.trim_matches(',').to_owned(), what.trim_end_matches('.').to_owned()));
                }
            }
        }
        documented
    }

    #[test]
    fn the_playbook_lists_every_reason_with_its_advice() {
        let playbook = include_str!("../../docs/playbook.md");
        let (_, table) = playbook.split_once("| name | what | what to do |\n|---|---|---|\n").unwrap();
        let rows: Vec<String> =
            table.lines().take_while(|line| line.starts_with('|')).map(str::to_lowercase).collect();
        // Only `--stop-after`, which the help does not show, has that.
        let shown = documented().into_iter().filter(|(name, _)| name != "Stopped");
        let expected = shown.map(|(name, what)| {
            let reason: Reason = serde_json::from_str(&format!("\"{name}\"")).unwrap();
            format!("| `{name}` | {what} | {} |", reason.advice()).to_lowercase()
        });
        let (rows, expected): (BTreeSet<_>, BTreeSet<_>) = (rows.into_iter().collect(), expected.collect());
        let missing: Vec<_> = expected.difference(&rows).collect();
        let unknown: Vec<_> = rows.difference(&expected).collect();
        assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:#?}\nunknown {unknown:#?}");
        assert!(rows.len() > 30);
    }
}
