//! What the doctor finds, weighed by the plan: what keeps the bridge from its work blocks, and two of its findings have gates and
//! policies of their own.

use super::reasons;
use crate::{
    doctor::{Finding, Severity, checks},
    migration::{
        plan::{Plan, Tolerance},
        world::World,
    },
};

pub(super) fn check(plan: &Plan, world: &World) -> Vec<Finding> {
    let concerns = |finding: &&Finding| match finding.what.strip_prefix("topic ") {
        Some(topic) => plan.topics.keys().any(|planned| planned.as_str() == topic),
        // These are told of the plan's topics and channels, and of no others.
        None => ![checks::DEFERRED_MESSAGES, checks::TOPIC_PAUSED].contains(&finding.check),
    };
    world.doctor.iter().filter(concerns).map(|finding| weighed(plan, finding.clone())).collect()
}

fn weighed(plan: &Plan, finding: Finding) -> Finding {
    let named = |severity, check| Finding { severity, check, ..finding.clone() };
    match (finding.check, finding.severity) {
        (checks::BROKER_FLUSH, Severity::Warn) => {
            let refused = plan.policies.async_flush == Tolerance::Refuse;
            named(if refused { Severity::Block } else { Severity::Warn }, reasons::TARGET_ASYNC_FLUSH)
        }
        (checks::BROKER_RETENTION, Severity::Warn) => {
            let wanted = humantime::format_duration(plan.gates.retention);
            Finding {
                severity: Severity::Block,
                check: reasons::RETENTION_TOO_SHORT,
                advice: format!("set fileReservedTime to {wanted} or more, or lower gates.retention"),
                ..finding
            }
        }
        (checks::TOPIC_RESERVED, Severity::Fail) => named(Severity::Block, reasons::NAME_COLLISION),
        (_, Severity::Fail) => named(Severity::Block, finding.check),
        _ => finding,
    }
}
