//! A topic: what it is called, who relays it, who publishes past the gateway.

use std::{collections::BTreeSet, time::Duration};

use super::{counted, listed, reasons};
use crate::{
    audit::reconcile::Weight,
    doctor::Finding,
    migration::{
        plan::{Plan, Tolerance},
        scan::Topic,
        world::{Audited, Relay, Stored, TopicWorld, World},
    },
    nsq::names::TopicName,
    problems::nearest,
};

pub(super) fn check(plan: &Plan, world: &World, topic: &TopicName) -> Vec<Finding> {
    let what = format!("topic {topic}");
    let mut findings = Vec::new();
    let seen = world.nsq.topic(topic);
    match seen {
        Some(seen) if !seen.nsqds.is_empty() => {
            if !seen.paused.is_empty() {
                findings.push(
                    Finding::block(
                        &what,
                        reasons::TOPIC_PAUSED,
                        format!("is paused on {}: what is relayed reaches no channel", listed(&seen.paused)),
                    )
                    .advise("unpause it (nsqadmin, or POST /topic/unpause)"),
                );
            }
            findings.extend(producers(seen, plan.policies.bypass));
            findings.extend(unplanned(plan, topic, seen));
        }
        _ => findings.push(unknown(world, topic, &what)),
    }
    let Some(there) = world.topics.get(topic) else {
        findings.push(not_looked_at(&what, "it was not looked at"));
        return findings;
    };
    findings.extend(stored(plan, topic, &what, there));
    match &there.relay {
        Ok(relay) => {
            findings.extend(relayed(plan, topic, &what, relay));
            // Whose producers publish to nsqd by intent.
            findings.extend(match there.taken_in {
                true => Some(taken_in(topic, &what)),
                false => seen.and_then(|seen| bypass(plan, &what, seen, relay)),
            });
        }
        Err(error) => findings.push(not_looked_at(&what, error)),
    }
    findings.extend(there.audit.as_ref().and_then(|audit| audited(topic, &what, audit)));
    findings
}

fn taken_in(topic: &TopicName, what: &str) -> Finding {
    Finding::info(
        what,
        reasons::INTAKE_RUNNING,
        "messages are taken in from nsqd: the topic is paused there while a consumer is moved",
    )
    .advise(format!(
        "see that the intake runs and keeps up; when no such producer is left: nsqbridge intake --retire --topic {topic}"
    ))
}

/// What the audit has against it, where the plan asks for it.
fn audited(topic: &TopicName, what: &str, audit: &Result<Audited, String>) -> Option<Finding> {
    let audit = match audit {
        Ok(audit) => audit,
        Err(error) => return Some(not_looked_at(what, &format!("the audit: {error}"))),
    };
    let look = format!("nsqbridge verify {topic} tells all of it");
    match audit.weight {
        Some(Weight::Loss) => {
            Some(Finding::block(what, reasons::AUDIT_FOUND_LOSS, audit.worst.clone()).advise(look))
        }
        Some(Weight::Doubt) => {
            Some(Finding::block(what, reasons::AUDIT_IN_DOUBT, audit.worst.clone()).advise(look))
        }
        Some(Weight::Note) | None => {
            let finding = format!("nothing of {} messages of the last hour is missing", audit.accepted);
            Some(Finding::ok(what, reasons::AUDIT_CLEAN, finding))
        }
    }
}

pub(super) fn not_looked_at(what: &str, error: &str) -> Finding {
    Finding::block(what, reasons::NOT_LOOKED_AT, error)
        .advise("until it can be looked at, nothing is known of it; try again, or look at the broker's log")
}

fn unknown(world: &World, topic: &TopicName, what: &str) -> Finding {
    let known: Vec<String> = world.nsq.topics.iter().map(|topic| topic.topic.to_string()).collect();
    let advice = match nearest(topic.as_str(), &known) {
        Some(near) if near != topic.as_str() => format!("did you mean {near}?"),
        _ => "check the name; a relay creates the topic with its first message".to_owned(),
    };
    Finding::block(what, reasons::TOPIC_UNKNOWN, "no nsqd has it").advise(advice)
}

/// What two sides call it, where that is not the same or is taken.
pub(super) fn named(topic: &Topic, taken: &BTreeSet<String>) -> Vec<Finding> {
    let what = format!("topic {}", topic.topic);
    if !taken.contains(&topic.rocketmq_topic) {
        return Vec::new();
    }
    let finding = Finding::block(
        &what,
        reasons::NAME_COLLISION,
        format!("{} is a topic RocketMQ keeps for a broker or cluster of that name", topic.rocketmq_topic),
    );
    vec![finding.advise(format!("give it another name: [topics.\"{}\"] rename", topic.topic))]
}

/// Who publishes to nsqd itself.
pub(super) fn producers(topic: &Topic, tolerance: Tolerance) -> Option<Finding> {
    let direct: Vec<String> = topic
        .producers
        .iter()
        .filter(|producer| !producer.is_relay)
        .map(|producer| {
            let agent = if producer.user_agent.is_empty() { "no user agent" } else { &producer.user_agent };
            format!("{} ({agent}, {} messages, at {})", producer.hostname, producer.messages, producer.nsqd)
        })
        .collect();
    if direct.is_empty() {
        return None;
    }
    let finding = format!(
        "{} connected that published to nsqd itself: {}",
        counted(direct.len(), "TCP producer"),
        direct.join(", ")
    );
    let finding =
        tolerated(tolerance, &format!("topic {}", topic.topic), reasons::TCP_PRODUCER_CONNECTED, finding);
    Some(finding.advise("point it at the gateway's --tcp-address and let it connect again"))
}

fn tolerated(tolerance: Tolerance, what: &str, reason: &'static str, finding: String) -> Finding {
    match tolerance {
        Tolerance::Refuse => Finding::block(what, reason, finding),
        Tolerance::Warn => Finding::warn(what, reason, finding),
    }
}

/// Channels the plan does not speak of.
fn unplanned(plan: &Plan, topic: &TopicName, seen: &Topic) -> Option<Finding> {
    let planned = plan.topics.get(topic)?;
    let others = seen.channels.iter().map(|channel| &channel.channel);
    let others: Vec<_> = others.filter(|channel| !planned.contains_key(*channel)).collect();
    (!others.is_empty()).then(|| {
        Finding::info(
            &format!("topic {topic}"),
            reasons::CHANNEL_NOT_PLANNED,
            format!("{} not in the plan: {}", counted(others.len(), "channel"), listed(others)),
        )
    })
}

fn stored(plan: &Plan, topic: &TopicName, what: &str, there: &TopicWorld) -> Vec<Finding> {
    let name = plan.names.rocketmq_topic(topic);
    let stored = match &there.stored {
        Ok(Some(stored)) => stored,
        Ok(None) => {
            return vec![
                Finding::block(what, reasons::TOPIC_NOT_STORED, format!("RocketMQ has no topic {name}"))
                    .advise("start a gateway and point the producers at it, or create the topic there"),
            ];
        }
        Err(error) => return vec![not_looked_at(what, error)],
    };
    let mut findings = others(topic, what, &name, stored);
    let wanted = plan.gates.time_in_stage;
    let held = stored.oldest.unwrap_or_default();
    if held < wanted {
        findings.push(
            Finding::block(
                what,
                reasons::TIME_IN_STAGE_TOO_SHORT,
                format!("the oldest message RocketMQ has of it is {} old", span(held)),
            )
            .advise(format!("wait until it is {} old, or lower gates.time_in_stage", span(wanted))),
        );
    }
    findings
}

/// Messages of others in the topic.
fn others(topic: &TopicName, what: &str, name: &str, stored: &Stored) -> Vec<Finding> {
    let theirs =
        |published: &&Option<String>| published.as_deref().is_some_and(|other| other != topic.as_str());
    let mut findings = Vec::new();
    let others: Vec<&String> = stored.published_to.iter().filter(theirs).flatten().collect();
    if !others.is_empty() {
        findings.push(
            Finding::block(
                what,
                reasons::NAME_COLLISION,
                format!("{name} holds messages that were published to {}", listed(others)),
            )
            .advise(
                "give one of them another name, with the same renames at gateways, relays and in the plan",
            ),
        );
    }
    if stored.published_to.contains(&None) {
        findings.push(
            Finding::warn(
                what,
                reasons::FOREIGN_MESSAGES,
                format!("{name} holds messages that no gateway stored; they are relayed as well"),
            )
            .advise("if they are not meant for this topic's consumers, give the topic another name"),
        );
    }
    findings
}

fn relayed(plan: &Plan, topic: &TopicName, what: &str, relay: &Relay) -> Vec<Finding> {
    let mut findings = Vec::new();
    if relay.instances.is_empty() {
        findings.push(
            Finding::block(what, reasons::RELAY_MISSING, "no instance relays it").advise(
                "start nsqbridge transfer for it, with the plan's renames and group prefix, before producers move",
            ),
        );
    }
    for (id, report) in &relay.instances {
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                findings.push(
                    Finding::block(
                        what,
                        reasons::RELAY_SILENT,
                        format!("instance {id} says nothing: {error}"),
                    )
                    .advise("look at its log; a relay that cannot be asked cannot be fenced"),
                );
                continue;
            }
        };
        if report.topic != topic.as_str() {
            findings.push(
                Finding::block(
                    what,
                    reasons::NAME_COLLISION,
                    format!("instance {id} relays {} from this topic's RocketMQ topic", report.topic),
                )
                .advise("gateways, relays and the plan must have the same renames"),
            );
        }
        let held = report.queues.iter().filter_map(|queue| queue.held.as_deref());
        if let Some(reason) = held.chain(report.waiting.as_deref()).next() {
            findings.push(
                Finding::block(what, reasons::RELAY_HELD, format!("instance {id} does not go on: {reason}"))
                    .advise(
                        "nsqbridge status says more; a relay that does not go on cannot be brought to rest",
                    ),
            );
        }
    }
    let reports = relay.instances.values().flatten();
    let oldest = reports.flat_map(|report| &report.queues).map(|queue| queue.lag_seconds).fold(0.0, f64::max);
    let lag = relay.lag.max(0).unsigned_abs();
    if lag > plan.gates.lag_messages || oldest > plan.gates.lag_age.as_secs_f64() {
        findings.push(
            Finding::block(
                what,
                reasons::RELAY_LAG_ABOVE_THRESHOLD,
                format!("nsqd does not have {lag} messages yet, the oldest for {oldest:.0} s"),
            )
            .advise("wait for the relay, find what slows it (nsqbridge status), or raise gates.lag_messages and lag_age"),
        );
    }
    findings
}

/// More messages in nsqd than the relay can have sent.
fn bypass(plan: &Plan, what: &str, seen: &Topic, relay: &Relay) -> Option<Finding> {
    if relay.instances.is_empty() {
        return None;
    }
    let (Some(arrived), Some(sent)) = (seen.arrived, relay.sent) else {
        let finding = "an nsqd or relay was started, or did not answer, while it was looked at: who publishes is not known";
        return Some(Finding::info(what, reasons::BYPASS_NOT_CHECKED, finding).advise("run plan once more"));
    };
    let excess = arrived.checked_sub(sent).filter(|excess| *excess > 0)?;
    let finding = format!(
        "nsqd took {arrived} messages while the relay sent {sent} at most: {excess} came past the gateway"
    );
    let finding = tolerated(plan.policies.bypass, what, reasons::BYPASS_PRODUCER_DETECTED, finding);
    Some(finding.advise("find the producer (nsqbridge scan shows TCP ones) and point it at the gateway"))
}

pub(super) fn span(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}
