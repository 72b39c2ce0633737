//! What carrying a plan out creates and changes, in the order in which it is done.

use std::time::Duration;

use serde::Serialize;

use super::{
    checks::Stands,
    plan::{ChannelPlan, Goal, Plan},
    scan::Channel,
    world::{Group, World},
};
use crate::nsq::names::{ChannelName, TopicName};

/// One change, or what an operator does for one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// The phase it belongs to.
    pub phase: u32,
    /// What is changed.
    pub what: String,
    /// How.
    pub change: String,
    /// The command that does this and the steps before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// How long the topic's consumers get nothing meanwhile, if that can be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_seconds: Option<f64>,
}

impl Step {
    fn new(phase: u32, what: &str, change: impl Into<String>) -> Self {
        Self { phase, what: what.to_owned(), change: change.into(), command: None, pause_seconds: None }
    }
}

/// How long a channel takes to drain when nothing more comes, at the rate of now; `None` when nothing is finished, or it is not
/// known.
#[must_use]
pub fn drain(channel: &Channel) -> Option<Duration> {
    let waiting = (channel.depth + channel.in_flight) as f64;
    if waiting == 0.0 {
        return Some(Duration::ZERO);
    }
    let rate = channel.finish_rate.filter(|rate| *rate > 0.0)?;
    Duration::try_from_secs_f64(waiting / rate).ok()
}

/// The steps from how the world is to what the plan says.
pub(super) fn steps(plan: &Plan, world: &World) -> Vec<Step> {
    let mut steps = Vec::new();
    for (topic, channels) in &plan.topics {
        let phase = channels.values().map(|channel| channel.phase).min().unwrap_or(1);
        steps.extend(prepare(plan, world, topic, phase));
    }
    for (topic, channel, planned) in plan.channels() {
        let stands = super::checks::stands(world, topic, channel, planned);
        if stands.is(planned.goal) {
            continue;
        }
        let group = world.topics.get(topic).and_then(|topic| topic.groups.get(&planned.group));
        let group = group.and_then(|group| group.as_ref().ok()).cloned().unwrap_or_default();
        steps.extend(match (planned.goal, stands) {
            (Goal::Cutover, _) if channel.is_ephemeral() => vec![by_hand(topic, channel, planned)],
            (Goal::Cutover, _) => cut_over(plan, world, topic, channel, planned, &group),
            (Goal::Rollback, Stands::Group | Stands::Between) => {
                roll_back(plan, world, topic, channel, planned, true)
            }
            (Goal::RollbackBroken, Stands::Group | Stands::Between) => {
                roll_back(plan, world, topic, channel, planned, false)
            }
            // A channel that is gone cannot be gone back to, and one that is kept is not touched.
            (Goal::Rollback | Goal::RollbackBroken | Goal::Keep, _) => Vec::new(),
        });
    }
    // Stable: what prepares a topic comes before what moves its channels.
    steps.sort_by_key(|step| step.phase);
    steps
}

/// What a topic needs before its first channel moves.
fn prepare(plan: &Plan, world: &World, topic: &TopicName, phase: u32) -> Vec<Step> {
    let what = format!("topic {topic}");
    let mut steps = Vec::new();
    let Some(there) = world.topics.get(topic) else { return steps };
    if matches!(there.stored, Ok(None)) {
        let name = plan.names.rocketmq_topic(topic);
        steps.push(Step::new(
            phase,
            &what,
            format!("{name} is created on every broker by the gateway's first publish"),
        ));
    }
    if there.relay.as_ref().is_ok_and(|relay| relay.instances.is_empty()) {
        let mut step = Step::new(phase, &what, "a relay is started");
        step.command = Some(format!("nsqbridge transfer --topic {topic}"));
        steps.push(step);
    }
    let Some(seen) = world.nsq.topic(topic) else { return steps };
    let served = seen.served_by();
    for channel in &seen.channels {
        for nsqd in channel.missing.iter().filter(|nsqd| served.contains(nsqd)) {
            steps.push(Step::new(
                phase,
                &what,
                format!(
                    "channel {} is created on {nsqd} by the relay, before its next message",
                    channel.channel
                ),
            ));
        }
    }
    steps
}

/// A channel that ends with its last consumer has no place to begin at, and `cutover` refuses it.
fn by_hand(topic: &TopicName, channel: &ChannelName, planned: &ChannelPlan) -> Step {
    let ChannelPlan { group, phase, .. } = planned;
    let change = format!(
        "stop its consumer and start the new one, in group {group}: no command moves an ephemeral channel"
    );
    Step::new(*phase, &format!("channel {topic}/{channel}"), change)
}

fn cut_over(
    plan: &Plan,
    world: &World,
    topic: &TopicName,
    channel: &ChannelName,
    planned: &ChannelPlan,
    group: &Group,
) -> Vec<Step> {
    let ChannelPlan { group: name, phase, .. } = planned;
    let what = format!("channel {topic}/{channel}");
    let mut steps = Vec::new();
    let stored = world.topics.get(topic).and_then(|topic| topic.stored.as_ref().ok()?.clone());
    let queues = stored.map_or(0, |stored| stored.queues.values().sum::<usize>());
    if !group.exists {
        steps.push(Step::new(*phase, &what, format!("group {name} is created on every broker, closed")));
    }
    let overwritten = match group.committed {
        0 => String::new(),
        committed => format!(", over those it has in {committed}"),
    };
    let mut fenced = Step::new(
        *phase,
        &what,
        format!("the relay rests; group {name} gets its offsets in {queues} queues{overwritten}"),
    );
    let seen = world.nsq.topic(topic).and_then(|topic| topic.channel(channel));
    fenced.pause_seconds = seen.and_then(drain).map(|drain| (drain + plan.policies.quiet).as_secs_f64());
    steps.push(fenced);
    steps.push(Step::new(
        *phase,
        &what,
        format!("the channel is paused on {}", nsqds(world, topic, channel)),
    ));
    let mut opened = Step::new(*phase, &what, format!("group {name} is opened, and the relay goes on"));
    opened.command =
        Some(format!("nsqbridge cutover {topic}/{channel} -f {} --execute", plan.file.display()));
    steps.push(opened);
    steps
}

fn roll_back(
    plan: &Plan,
    world: &World,
    topic: &TopicName,
    channel: &ChannelName,
    planned: &ChannelPlan,
    healthy: bool,
) -> Vec<Step> {
    let ChannelPlan { group, phase, .. } = planned;
    let what = format!("channel {topic}/{channel}");
    let nsqds = nsqds(world, topic, channel);
    let mut steps = Vec::new();
    if healthy {
        let change = format!("the relay rests; group {group} consumes up to it, and is closed");
        steps.push(Step::new(*phase, &what, change));
        steps.push(Step::new(
            *phase,
            &what,
            format!("the channel is emptied on {nsqds}: the group has consumed all of it"),
        ));
    } else {
        steps.push(Step::new(*phase, &what, format!("group {group} is closed where it stands")));
    }
    let mut unpaused = Step::new(*phase, &what, format!("the channel goes on on {nsqds}"));
    let mode = if healthy { "healthy" } else { "broken" };
    unpaused.command = Some(format!(
        "nsqbridge rollback {topic}/{channel} -f {} --mode {mode} --execute",
        plan.file.display()
    ));
    steps.push(unpaused);
    steps
}

fn nsqds(world: &World, topic: &TopicName, channel: &ChannelName) -> String {
    let seen = world.nsq.topic(topic).and_then(|topic| topic.channel(channel));
    let nsqds = seen.map(|channel| channel.nsqds.iter().map(ToString::to_string).collect::<Vec<_>>());
    nsqds.unwrap_or_default().join(", ")
}
