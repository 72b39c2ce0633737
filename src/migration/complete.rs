//! The end of a channel whose consumer has moved for good: the one step without a way back.
//!
//! A relay cannot tell a deleted channel from one that was lost, and would create it again. So first it is written down that the channel
//! is done with, as a consumer group in RocketMQ that every relay reads when it starts, and every running one is told; only when all of
//! them say they know it is the channel deleted.

use tokio_util::sync::CancellationToken;

use super::{
    driver::{Done, with_lock},
    lock::Lock,
    nsqds::Nsqds,
    progress::{Progress, Step},
    refusal::{Left, Reason, Refusal, Trouble},
    rest,
    subject::{Stage, Subject, World},
};
use crate::transfer::control::Change;

/// Deletes the channel everywhere, for good.
///
/// # Errors
/// Why it did not, and what is left.
///
/// # Cancellation
/// Dropping the future leaves it on some nsqds; another run goes on.
pub async fn complete(
    subject: &Subject,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Done, Refusal> {
    let world = subject.read().await.map_err(Refusal::untouched)?;
    may_begin(subject, &world).await.map_err(Refusal::untouched)?;
    with_lock(subject, progress, stop, async |lock| {
        let world = subject.read().await.map_err(Refusal::untouched)?;
        may_begin(subject, &world).await.map_err(Refusal::untouched)?;
        tell_relays(subject, None).await.map_err(Refusal::untouched)?;
        let left =
            "it is done with, and may be deleted on some nsqds: there is no way back any more; run it again";
        let left = Left::InForce(left.to_owned());
        match delete(subject, lock, &world, progress).await {
            Ok(()) => Ok(Done::at_once(format!("{} is completed: {}", subject.path(), what_is_left(&world)))),
            Err(trouble) => Err(Refusal { trouble, left }),
        }
    })
    .await
}

async fn may_begin(subject: &Subject, world: &World) -> Result<(), Trouble> {
    match world.stage() {
        Stage::Completed => return Ok(()),
        Stage::CutOver => world.is_ours()?,
        Stage::Missing => world.look.is_complete()?,
        stage => {
            let detail = format!("{} is {stage:?}", subject.path());
            return Err(Trouble::new(Reason::ChannelNotCutOver, detail));
        }
    }
    let at = subject.places_of(&subject.group).await?;
    let beyond = |(queue, barrier): (_, &i64)| at.get(queue).is_some_and(|at| at > barrier);
    if !world.barrier.iter().flatten().any(beyond) {
        let detail = format!("{} has consumed nothing since the cutover", subject.group);
        return Err(Trouble::new(Reason::GroupNotConsuming, detail));
    }
    rest::is_had(subject, world).await
}

async fn delete(subject: &Subject, lock: &Lock, world: &World, progress: &Progress) -> Result<(), Trouble> {
    lock.keep().await?;
    record(subject).await?;
    progress.step(Step::Recorded, "every relay knows that the channel is done with")?;
    rest::close(subject, lock, world, progress).await?;
    delete_channel(subject, Some(lock), &world.nsqds).await?;
    if let Some((nsqd, _)) = world.nsqds.look().await?.channels().next() {
        let detail = format!("{nsqd} has the channel again: a consumer of it is still connected");
        return Err(Trouble::new(Reason::NsqdUnavailable, detail));
    }
    let deleted = match subject.nsqlookupds.is_empty() {
        true => "no nsqd has the channel any more; no nsqlookupd was told (--lookupd-http-address)",
        false => "no nsqd and no nsqlookupd has the channel any more",
    };
    progress.step(Step::Deleted, deleted)?;
    subject.forget_marks(Some(lock)).await
}

/// Writes down that the channel is done with, and sees that every running relay knows.
pub(super) async fn record(subject: &Subject) -> Result<(), Trouble> {
    // Kept closed, for nobody consumes with it.
    subject.cluster.set_consuming(&subject.completed_group(), false).await?;
    tell_relays(subject, Some(Change::Completed(subject.channel.clone()))).await
}

/// Deletes the channel on these nsqds and in nsqlookupd; without a lock where nobody else moves it.
pub(super) async fn delete_channel(
    subject: &Subject,
    lock: Option<&Lock>,
    nsqds: &Nsqds,
) -> Result<(), Trouble> {
    nsqds.delete_everywhere(lock).await?;
    for nsqlookupd in &subject.nsqlookupds {
        let deleted = nsqlookupd.delete_channel(&subject.topic, &subject.channel).await;
        deleted.map_err(|error| Trouble::new(Reason::NsqlookupdUnavailable, error.to_string()))?;
    }
    Ok(())
}

/// Tells every running relay that the channel is done with, and hears from each that it knows; without a `change`, that each can be
/// told.
async fn tell_relays(subject: &Subject, change: Option<Change>) -> Result<(), Trouble> {
    let Subject { names, topic, .. } = subject;
    let must_know = change.is_some();
    let group = subject.completed_group();
    let name = group.strip_prefix(&names.completed_prefix(topic)).unwrap_or(&group);
    for instance in subject.relays(&topic.into(), change).await? {
        let silent = |reason: String| Trouble::new(Reason::RelaySilent, format!("{}: {reason}", instance.id));
        let report = instance.report.map_err(silent)?;
        if must_know && !report.completed.iter().any(|known| known == name) {
            return Err(silent("it does not leave the channel alone; an older version?".to_owned()));
        }
    }
    Ok(())
}

fn what_is_left(world: &World) -> String {
    let others = world.look.0.values().filter_map(|look| look.topic.as_ref()).map(|topic| topic.others);
    match others.max() {
        Some(0) => {
            "it was the topic's last channel; stop its relay, or nsqd keeps what is relayed".to_owned()
        }
        others => format!("the topic has {} other channels", others.unwrap_or(0)),
    }
}

/// What it would do, for people.
///
/// # Errors
/// What stands in the way.
pub async fn preview(subject: &Subject) -> Result<Vec<String>, Refusal> {
    let world = subject.read().await.map_err(Refusal::untouched)?;
    may_begin(subject, &world).await.map_err(Refusal::untouched)?;
    let [waiting, ..] = world.look.messages();
    let nsqds = world.look.channels().count();
    let nsqlookupds = subject.nsqlookupds.len();
    let mut lines = vec![
        format!("{} is {:?}, its consumer group is {}", subject.path(), world.stage(), subject.group),
        format!(
            "the channel would be deleted on {nsqds} nsqds and in {nsqlookupds} nsqlookupds, with the {waiting} messages it collected"
        ),
        "relays would never create it again, and there would be no way back".to_owned(),
    ];
    lines.extend(subject.dead_letters_in_words().await.map_err(Refusal::untouched)?);
    Ok(lines)
}
