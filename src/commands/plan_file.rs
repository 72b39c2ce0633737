//! A plan file in the place of flags: servers, names, groups and limits.
//!
//! Every command that looks at a migration or moves one takes `-f PLAN`. Servers that are given as flags win over the plan's; names never
//! do, for a topic under another name would be another topic.

use std::path::Path;

use crate::{
    cli::{NamesArgs, PlanArg, RocketmqArgs},
    migration::plan::{ChannelPlan, Plan},
    nsq::{
        address::HttpAddress,
        names::{ChannelPath, TopicName},
    },
    settings::RunError,
};

/// Reads the plan, if one is named, and puts what it says where nothing was given; servers that were given take the place of the plan's.
///
/// # Errors
/// [`RunError::Usage`] with everything wrong with the file.
pub(super) fn fill(
    plan: &PlanArg,
    rocketmq: &mut RocketmqArgs,
    names: &mut NamesArgs,
    nsqlookupds: &mut Vec<HttpAddress>,
    nsqds: &mut Vec<HttpAddress>,
) -> Result<Option<Plan>, RunError> {
    let Some(mut plan) = names_of(plan, rocketmq, names)? else { return Ok(None) };
    if nsqlookupds.is_empty() && nsqds.is_empty() {
        nsqlookupds.clone_from(&plan.nsqlookupds);
        nsqds.clone_from(&plan.nsqds);
    } else {
        plan.nsqlookupds.clone_from(nsqlookupds);
        plan.nsqds.clone_from(nsqds);
    }
    Ok(Some(plan))
}

/// As [`fill`], for a command that does not look at NSQ.
///
/// # Errors
/// As [`fill`].
pub(super) fn names_of(
    plan: &PlanArg,
    rocketmq: &mut RocketmqArgs,
    names: &mut NamesArgs,
) -> Result<Option<Plan>, RunError> {
    let Some(path) = &plan.plan else { return Ok(None) };
    let plan = load(path, rocketmq)?;
    names.group_prefix.clone_from(&plan.group_prefix);
    let renamed =
        plan.topics.keys().filter_map(|topic| Some((topic.clone(), plan.names.rename_of(topic)?.to_owned())));
    names.rename = renamed.collect();
    Ok(Some(plan))
}

/// Reads the plan, and takes its name servers where none are given.
///
/// # Errors
/// As [`fill`].
pub(super) fn load(path: &Path, rocketmq: &mut RocketmqArgs) -> Result<Plan, RunError> {
    let plan = Plan::load(path).map_err(|error| RunError::Usage(vec![error.to_string()]))?;
    if rocketmq.namesrv.is_empty() {
        rocketmq.namesrv.clone_from(&plan.name_servers);
    }
    Ok(plan)
}

/// What the plan says of a channel.
///
/// # Errors
/// [`RunError::Usage`] when it says nothing of it.
pub(super) fn channel<'a>(plan: &'a Plan, channel: &ChannelPath) -> Result<&'a ChannelPlan, RunError> {
    let planned = plan.topics.get(&channel.topic).and_then(|channels| channels.get(&channel.channel));
    planned.ok_or_else(|| unplanned(channel))
}

/// Whether the plan speaks of a topic.
///
/// # Errors
/// [`RunError::Usage`] when it does not.
pub(super) fn topic(plan: &Plan, topic: &TopicName) -> Result<(), RunError> {
    if plan.topics.contains_key(topic) { Ok(()) } else { Err(unplanned(topic)) }
}

fn unplanned(what: impl std::fmt::Display) -> RunError {
    RunError::Usage(vec![format!("the plan says nothing of {what}: add it there, or leave -f out")])
}
