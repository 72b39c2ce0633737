//! Where a channel's consumers are, read from the world: there is no state file that could be wrong.

use crate::{
    migration::{
        plan::{ChannelPlan, Goal},
        world::World,
    },
    nsq::names::{ChannelName, TopicName},
};

/// Where a channel's consumers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stands {
    /// At the channel.
    Channel,
    /// At the consumer group, which is open: the channel is paused on every nsqd that has it, and a cutover has left its barrier. The way
    /// back is open.
    Group,
    /// Between the two: a cutover or rollback was interrupted, and the next one finishes or undoes it.
    Between,
    /// At the consumer group, and the channel is done with.
    Gone,
}

impl Stands {
    /// Whether that is where the plan wants it.
    #[must_use]
    pub fn is(self, goal: Goal) -> bool {
        match goal {
            Goal::Cutover => matches!(self, Stands::Group | Stands::Gone),
            Goal::Rollback | Goal::RollbackBroken => self == Stands::Channel,
            Goal::Keep => true,
        }
    }
}

/// Where the channel's consumers are.
pub(in crate::migration) fn stands(
    world: &World,
    topic: &TopicName,
    channel: &ChannelName,
    planned: &ChannelPlan,
) -> Stands {
    let group = world.topics.get(topic).and_then(|topic| topic.groups.get(&planned.group));
    let (has_barrier, is_open, is_completed) = match group {
        Some(Ok(group)) => (group.has_barrier, group.is_open, group.is_completed),
        _ => (false, false, false),
    };
    let seen = world.nsq.topic(topic).and_then(|topic| topic.channel(channel));
    let nsqds = seen.map_or(0, |channel| channel.nsqds.len());
    let paused = seen.map_or(0, |channel| channel.paused.len());
    match nsqds {
        _ if is_completed => Stands::Gone,
        0 if has_barrier => Stands::Gone,
        // Without a barrier somebody else has paused it.
        nsqds if has_barrier && is_open && nsqds == paused => Stands::Group,
        _ if has_barrier && paused > 0 => Stands::Between,
        _ => Stands::Channel,
    }
}
