//! The world against a plan. Functions of what was seen: no question is asked here.
//!
//! ```text
//! stands     where a channel's consumers are now
//! servers    what the doctor finds, weighed by the plan
//! topics     a topic: its name, its relay, its producers
//! channels   a channel: nsqds, depth, consumers, its group
//! reasons    the names of the findings
//! ```
//!
//! A finding of a phase whose turn has not come blocks nothing yet, and one of a channel that is where it is to be blocks nothing any
//! more: both are told as something to know.

mod channels;
pub mod reasons;
mod servers;
mod stands;
mod topics;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::Serialize;

pub use self::stands::Stands;
pub(super) use self::stands::stands;
use super::{
    plan::Plan,
    scan::Inventory,
    steps::{self, Step},
    world::World,
};
use crate::doctor::{Finding, Report, Severity};

/// What there is to say of a plan.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// Whether something blocks it now.
    pub blocked: bool,
    /// The phase whose turn it is; none when every channel is where it is to be.
    pub phase: Option<u32>,
    /// Everything found, worst first.
    pub findings: Vec<Finding>,
    /// What carrying the plan out creates and changes, in order.
    pub steps: Vec<Step>,
}

/// Holds the world against the plan.
#[must_use]
pub fn judge(plan: &Plan, world: &World) -> Verdict {
    let phase = phase(plan, world);
    let mut findings = servers::check(plan, world);
    for (topic, planned) in &plan.topics {
        // A topic's turn is that of its first channel that has to move.
        let turns = planned
            .iter()
            .filter(|(channel, planned)| !stands(world, topic, channel, planned).is(planned.goal));
        let turn = turns.map(|(_, planned)| planned.phase).min();
        findings.extend(in_turn(topics::check(plan, world, topic), turn, phase));
        for (channel, planned) in planned {
            let standing = stands(world, topic, channel, planned);
            let turn = (!standing.is(planned.goal)).then_some(planned.phase);
            let found = channels::check(plan, world, topic, channel, planned, standing);
            findings.extend(in_turn(found, turn, phase));
        }
    }
    let report = Report::new(findings);
    let steps = steps::steps(plan, world);
    Verdict { blocked: report.blocks(), phase, findings: report.findings, steps }
}

/// The lowest phase with a channel that is not where it is to be.
fn phase(plan: &Plan, world: &World) -> Option<u32> {
    let waiting = plan
        .channels()
        .into_iter()
        .filter(|(topic, channel, planned)| !stands(world, topic, channel, planned).is(planned.goal));
    waiting.map(|(_, _, planned)| planned.phase).min()
}

/// Blocks only what has its turn.
fn in_turn(findings: Vec<Finding>, turn: Option<u32>, phase: Option<u32>) -> Vec<Finding> {
    let weighed = findings.into_iter().map(|finding| match turn {
        Some(turn) if Some(turn) == phase => finding,
        _ if finding.severity != Severity::Block => finding,
        Some(turn) => Finding {
            severity: Severity::Info,
            finding: format!("before phase {turn}: {}", finding.finding),
            ..finding
        },
        None => Finding { severity: Severity::Info, ..finding },
    });
    weighed.collect()
}

/// What can be said of an NSQ without a plan: what would block one is a warning.
#[must_use]
pub fn inventory(nsq: &Inventory, taken: &BTreeSet<String>) -> Report {
    let lookupds = nsq.nsqlookupds.iter().map(|one| (format!("nsqlookupd {}", one.address), &one.error));
    let nsqds = nsq.nsqds.iter().map(|one| (format!("nsqd {}", one.address), &one.error));
    let silent = lookupds.chain(nsqds).filter_map(|(what, error)| Some((what, error.as_deref()?)));
    let mut findings: Vec<Finding> =
        silent.map(|(what, error)| topics::not_looked_at(&what, error)).collect();
    for topic in &nsq.topics {
        findings.extend(topics::named(topic, taken));
        findings.extend(topics::producers(topic, super::plan::Tolerance::Refuse));
        for channel in &topic.channels {
            findings.extend(channels::alone(topic, channel, &super::plan::Policies::default()));
        }
    }
    let weighed = findings.into_iter().map(|finding| match finding.severity {
        Severity::Block => Finding { severity: Severity::Warn, ..finding },
        _ => finding,
    });
    Report::new(weighed.collect())
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn listed(items: impl IntoIterator<Item = impl ToString>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}
