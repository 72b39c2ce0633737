//! What an interrupted run left, finished or undone by what the world says.
//!
//! Between two stable states there is one question only, of a channel that is paused with its group closed: which of the two goes on? Once a
//! rollback has begun the channel may lack what the group has, so the group does. Before that nobody knows whether the old
//! consumer had more before the pause, so the channel does.

use super::{
    driver::see_through,
    lock::Lock,
    progress::{Progress, Step},
    refusal::{Left, Reason, Refusal, Trouble},
    rest,
    subject::{Stage, Subject, World},
};

/// Brings the channel to a stable state: active, cut over, or gone.
///
/// # Errors
/// When that fails; another run goes on.
pub(super) async fn recover(subject: &Subject, lock: &Lock, progress: &Progress) -> Result<World, Refusal> {
    let mut world = subject.read().await.map_err(Refusal::untouched)?;
    if world.look.taken_in().next().is_some() {
        // Nobody else has the lock: whoever paused the topic is gone.
        lock.keep().await.map_err(Refusal::untouched)?;
        subject.release(&world).await.map_err(Refusal::untouched)?;
        world = subject.read().await.map_err(Refusal::untouched)?;
    }
    loop {
        let recovered = match world.stage() {
            Stage::Active => {
                // Left by a run that came to its end and no further: later it would be taken for another's.
                if world.barrier.is_some() || world.returning || world.rest.is_some() {
                    forget(subject, lock).await;
                }
                return Ok(world);
            }
            Stage::CutOver | Stage::Missing | Stage::Completed | Stage::Paused => return Ok(world),
            Stage::Opening => finish_opening(subject, lock, &world, progress).await,
            Stage::HalfDone if world.returning => reopen(subject, lock, world.rest.is_some(), progress).await,
            // Paused here and not there: the last step of a rollback, or a cutover that did not come to its own last one.
            Stage::HalfDone | Stage::HalfPaused => unpause(subject, lock, &world, progress).await,
        };
        recovered.map_err(|trouble| Refusal { trouble, left: half_done() })?;
        world = subject.read().await.map_err(Refusal::untouched)?;
    }
}

/// The group was opened somewhere, so everything before that was as it must be.
async fn finish_opening(
    subject: &Subject,
    lock: &Lock,
    world: &World,
    progress: &Progress,
) -> Result<(), Trouble> {
    world.is_ours()?;
    let of_rest = world.rest.zip(subject.rest_group()).map(|(rest, group)| (rest.missing, group));
    for (missing, group) in
        [Some((world.group.missing, subject.group.clone())), of_rest].into_iter().flatten()
    {
        // A broker that has come since, or was away at the cutover: opened there without a place, the group would begin anywhere.
        if missing > 0 {
            let detail = format!(
                "{missing} masters with queues of the topic do not know {group}. On one that has come since the cutover all of the topic is \
                 the group's: create the group there (mqadmin updateSubGroup), at the beginning of these queues. On one that was away at the \
                 cutover the old consumer had a part: set the group's offsets behind that"
            );
            return Err(Trouble::new(Reason::QueuesChanged, detail));
        }
    }
    see_through(lock, progress, async || world.nsqds.pause(lock, &world.look).await).await?;
    see_through(lock, progress, async || subject.open(lock, world.rest.is_some()).await).await?;
    progress.step(Step::Opened, "an interrupted run is finished: the group may consume everywhere")
}

async fn unpause(subject: &Subject, lock: &Lock, world: &World, progress: &Progress) -> Result<(), Trouble> {
    world.is_ours()?;
    rest::shut(subject, lock, world, progress).await?;
    see_through(lock, progress, async || subject.unpause(lock, &world.nsqds).await).await?;
    forget(subject, lock).await;
    progress.step(Step::Undone, "what an interrupted run left is undone: the channel delivers again")
}

/// Lets the group go on, and what is left by a share.
pub(super) async fn reopen(
    subject: &Subject,
    lock: &Lock,
    by_share: bool,
    progress: &Progress,
) -> Result<(), Trouble> {
    see_through(lock, progress, async || subject.open(lock, by_share).await).await?;
    progress.step(Step::Undone, "the group may consume again")
}

/// Without these nothing the channel does later is taken for a cutover's or a rollback's.
pub(super) async fn forget(subject: &Subject, lock: &Lock) {
    if let Err(trouble) = subject.forget_marks(Some(lock)).await {
        tracing::warn!(%trouble, channel = %subject.path(), "marks are left behind; the next run sees to it");
    }
}

/// What is in force between two stable states.
pub(super) fn half_done() -> Left {
    Left::InForce(
        "the channel may be paused and its group closed; run it again to finish or undo it".to_owned(),
    )
}
