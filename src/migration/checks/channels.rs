//! A channel: where it is, what waits in it, who consumes, and the group that is to stand for it.

use super::{Stands, listed, reasons, topics::not_looked_at};
use crate::{
    doctor::{Finding, Severity},
    migration::{
        plan::{ChannelPlan, Deferred, Goal, Plan, Policies, Tolerance},
        scan::{Channel, Topic},
        steps::drain,
        world::{Group, World},
    },
    nsq::names::{ChannelName, TopicName},
    problems::nearest,
};

pub(super) fn check(
    plan: &Plan,
    world: &World,
    topic: &TopicName,
    channel: &ChannelName,
    planned: &ChannelPlan,
    stands: Stands,
) -> Vec<Finding> {
    let what = what(topic, channel);
    let group = world.topics.get(topic).and_then(|topic| topic.groups.get(&planned.group));
    let group = match group {
        Some(Ok(group)) => group.clone(),
        Some(Err(error)) => return vec![not_looked_at(&what, error)],
        None => Group::default(),
    };
    match (planned.goal, stands) {
        (_, Stands::Between) => vec![
            Finding::warn(
                &what,
                reasons::MOVE_INTERRUPTED,
                format!("a cutover to group {}, or a rollback, was interrupted", planned.group),
            )
            .advise("run the one that is wanted: it finishes or undoes what was begun"),
        ],
        (Goal::Cutover, Stands::Channel) => to_group(plan, world, topic, channel, planned, &group),
        (Goal::Cutover, Stands::Group) => vec![Finding::info(
            &what,
            reasons::ALREADY_THERE,
            format!(
                "its consumers are group {}; the channel is paused, and the way back open",
                planned.group
            ),
        )],
        (Goal::Cutover, Stands::Gone) => vec![Finding::info(
            &what,
            reasons::ALREADY_THERE,
            format!("its consumers are group {}; the channel is gone", planned.group),
        )],
        (Goal::Rollback | Goal::RollbackBroken, stands) => back(&what, planned, &group, stands),
        (Goal::Keep, stands) => kept(world, topic, channel, &what, planned, stands),
    }
}

fn what(topic: &TopicName, channel: &ChannelName) -> String {
    format!("channel {topic}/{channel}")
}

fn to_group(
    plan: &Plan,
    world: &World,
    topic: &TopicName,
    channel: &ChannelName,
    planned: &ChannelPlan,
    group: &Group,
) -> Vec<Finding> {
    let what = what(topic, channel);
    let Some(seen_topic) = world.nsq.topic(topic) else { return vec![unknown(&what, channel, None)] };
    let seen = match seen_topic.channel(channel) {
        Some(seen) if !seen.nsqds.is_empty() => seen,
        _ => return vec![unknown(&what, channel, Some(seen_topic))],
    };
    let mut findings = alone(seen_topic, seen, &plan.policies);
    findings.extend(too_long(plan, &what, seen));
    findings.extend(occupied(&what, &planned.group, group));
    if !findings.iter().any(|finding| finding.severity == Severity::Block) {
        let pause = drain(seen).map(|drain| drain + plan.policies.quiet);
        let pause = pause
            .map_or_else(String::new, |pause| format!(", a pause of about {:.1} s", pause.as_secs_f64()));
        findings.push(Finding::ok(
            &what,
            reasons::CHANNEL_READY,
            format!("can become group {}{pause}", planned.group),
        ));
    }
    findings
}

fn unknown(what: &str, channel: &ChannelName, topic: Option<&Topic>) -> Finding {
    let known = topic.into_iter().flat_map(|topic| &topic.channels).filter(|known| !known.nsqds.is_empty());
    let known: Vec<String> = known.map(|known| known.channel.to_string()).collect();
    let advice = match nearest(channel.as_str(), &known) {
        Some(near) => format!("did you mean {near}?"),
        None => "check the name, or take the channel out of the plan".to_owned(),
    };
    Finding::block(what, reasons::CHANNEL_UNKNOWN, "no nsqd has it").advise(advice)
}

/// What a channel shows by itself.
pub(super) fn alone(topic: &Topic, channel: &Channel, policies: &Policies) -> Vec<Finding> {
    let what = what(&topic.topic, &channel.channel);
    let mut findings = Vec::new();
    let served = topic.served_by();
    let missing: Vec<_> = channel.missing.iter().filter(|nsqd| served.contains(nsqd)).collect();
    if !missing.is_empty() {
        findings.push(
            Finding::block(
                &what,
                reasons::CHANNEL_MISSING_ON_NSQD,
                format!("is missing on {}: messages there never reach it", listed(missing)),
            )
            .advise(
                "create it there (POST /channel/create); a running relay does so before its next message",
            ),
        );
    }
    if !channel.paused.is_empty() {
        findings.push(
            Finding::block(
                &what,
                reasons::CHANNEL_PAUSED,
                format!("is paused on {}: it does not drain", listed(&channel.paused)),
            )
            .advise("ask `nsqbridge status` first: one that was cut over stays paused; unpause any other (nsqadmin, or POST /channel/unpause)"),
        );
    }
    if channel.channel.is_ephemeral() {
        let finding =
            "is ephemeral: nsqd deletes it with its last consumer, and then there is no way back".to_owned();
        let finding = match policies.ephemeral_channels {
            Tolerance::Refuse => Finding::block(&what, reasons::EPHEMERAL_CHANNEL, finding),
            Tolerance::Warn => Finding::warn(&what, reasons::EPHEMERAL_CHANNEL, finding),
        };
        findings.push(finding.advise(
            "policies.ephemeral_channels = \"warn\" accepts that; goal = \"keep\" leaves the channel where it is",
        ));
    }
    if channel.deferred > 0 {
        let found = format!("{} deferred, which nobody can read or move", counted_messages(channel.deferred));
        findings.push(match policies.deferred {
            Deferred::Abort => Finding::block(&what, reasons::DEFERRED_MESSAGES_PENDING, found)
                .advise("wait until they are due, or let the cutover wait: policies.deferred = \"wait\""),
            Deferred::Wait => Finding::warn(&what, reasons::DEFERRED_MESSAGES_PENDING, found)
                .advise("the cutover begins when they are delivered and finished"),
        });
    }
    findings.extend(consumers(&what, channel));
    findings
}

fn counted_messages(number: u64) -> String {
    if number == 1 { "1 message is".to_owned() } else { format!("{number} messages are") }
}

fn consumers(what: &str, channel: &Channel) -> Vec<Finding> {
    let mut findings = Vec::new();
    let dropping = channel.consumers.iter().filter(|consumer| consumer.drops_after.is_some());
    let mut dropping: Vec<String> =
        dropping.map(|consumer| format!("{} on {}", consumer.user_agent, consumer.hostname)).collect();
    dropping.sort_unstable();
    dropping.dedup();
    if !dropping.is_empty() {
        findings.push(
            Finding::warn(
                what,
                reasons::CONSUMER_DROPS_AFTER_FIVE_ATTEMPTS,
                format!(
                    "unless told otherwise, these finish a message unhandled after 5 attempts: {}",
                    listed(dropping)
                ),
            )
            .advise(
                "max_attempts=0 (max_tries=0 in pynsq) tries for ever; what is dropped so, no audit sees",
            ),
        );
    }
    if channel.consumers.is_empty() && !channel.nsqds.is_empty() {
        findings.push(Finding::warn(
            what,
            reasons::CHANNEL_WITHOUT_CONSUMERS,
            format!("nobody consumes it; messages that wait: {}", channel.depth),
        ));
    }
    findings
}

/// How long the topic would have to rest, where that is too long.
fn too_long(plan: &Plan, what: &str, channel: &Channel) -> Option<Finding> {
    let limit = plan.gates.max_pause;
    let (finding, advice) = match drain(channel) {
        Some(drain) if drain + plan.policies.quiet <= limit => return None,
        Some(drain) => (
            format!(
                "{} messages wait; at the rate of now they take {:.1} s, and {:.1} s of quiet come after, with gates.max_pause at {:.1} s",
                channel.depth + channel.in_flight,
                drain.as_secs_f64(),
                plan.policies.quiet.as_secs_f64(),
                limit.as_secs_f64()
            ),
            "let the consumers catch up, add some, or raise gates.max_pause",
        ),
        None if channel.finish_rate.is_none() => (
            format!(
                "{} messages wait, and at which rate they are finished is not known",
                channel.depth + channel.in_flight
            ),
            "an nsqd was started, or did not answer, while it was looked at: run plan once more",
        ),
        None => (
            format!(
                "{} messages wait, and nothing was finished while it was looked at",
                channel.depth + channel.in_flight
            ),
            "look at the consumers: a channel that does not drain cannot be cut over",
        ),
    };
    Some(Finding::block(what, reasons::DRAIN_LONGER_THAN_PAUSE, finding).advise(advice))
}

/// Who is in the group already.
fn occupied(what: &str, name: &str, group: &Group) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !group.members.is_empty() {
        findings.push(
            Finding::block(
                what,
                reasons::GROUP_HAS_CONSUMERS,
                format!("group {name} has live consumers: {}", listed(&group.members)),
            )
            .advise(
                "stop them until the cutover: what they consume now, the channel's consumers get as well",
            ),
        );
    }
    if group.committed > 0 {
        findings.push(
            Finding::warn(
                what,
                reasons::GROUP_HAS_OFFSETS,
                format!(
                    "group {name} has offsets in {} of {} queues, {} messages behind",
                    group.committed, group.queues, group.lag
                ),
            )
            .advise("a cutover overwrites them; if they are somebody's, choose another group"),
        );
    }
    findings
}

fn back(what: &str, planned: &ChannelPlan, group: &Group, stands: Stands) -> Vec<Finding> {
    match (stands, planned.goal) {
        // What was interrupted is told of before.
        (Stands::Channel | Stands::Between, _) => {
            vec![Finding::info(what, reasons::ALREADY_THERE, "its consumers are at the channel")]
        }
        (Stands::Gone, _) => vec![
            Finding::block(
                what,
                reasons::ROLLBACK_IMPOSSIBLE,
                "the channel is gone: there is nothing to go back to",
            )
            .advise("create the channel on every nsqd, and let the group be its consumer"),
        ],
        (Stands::Group, Goal::RollbackBroken) => vec![
            Finding::warn(
                what,
                reasons::ROLLBACK_DOUBLES,
                format!(
                    "what group {} has consumed since the cutover comes to the channel as well",
                    planned.group
                ),
            )
            .advise("goal = \"rollback\" doubles nothing, if the group's consumers still work"),
        ],
        (Stands::Group, _) => vec![Finding::ok(
            what,
            reasons::CHANNEL_READY,
            format!(
                "can go back to the channel once group {} has consumed {} more messages",
                planned.group, group.lag
            ),
        )],
    }
}

fn kept(
    world: &World,
    topic: &TopicName,
    channel: &ChannelName,
    what: &str,
    planned: &ChannelPlan,
    stands: Stands,
) -> Vec<Finding> {
    if stands != Stands::Channel {
        let finding = format!("is to be kept, but its consumers are group {}", planned.group);
        return vec![
            Finding::warn(what, reasons::CHANNEL_PAUSED, finding)
                .advise("goal = \"rollback\" brings them back"),
        ];
    }
    let seen = world.nsq.topic(topic).and_then(|topic| Some((topic, topic.channel(channel)?)));
    match seen {
        // What concerns a cutover does not concern it.
        Some((topic, channel)) => {
            let kept = [reasons::CHANNEL_MISSING_ON_NSQD, reasons::CONSUMER_DROPS_AFTER_FIVE_ATTEMPTS];
            let found = alone(topic, channel, &Policies::default());
            found.into_iter().filter(|finding| kept.contains(&finding.check)).collect()
        }
        None => vec![unknown(what, channel, world.nsq.topic(topic))],
    }
}
