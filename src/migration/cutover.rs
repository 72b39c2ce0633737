//! The cutover of a channel to its consumer group.
//!
//! ```text
//! fence ─ quiet? ─ barrier ─ group's offsets := barrier ─ pause the channel ─ still the same? ─ open the group ─ unfence
//! ```
//!
//! Where an intake takes messages in, the topic is paused on its nsqds between fence and quiet: see [`super::intakes`].
//! By share ([`super::rest`]) a second group is set to the barrier with the first, and opened right after it.
//!
//! `tests/models/` checks this protocol with every order of events and a crash at every step; [`up_to_the_same`] is it,
//! line by line. Everything before the group is opened can be done over, and is undone when it does not come to an end in time. Opening
//! it is the one write that counts, and is never taken back here. At its end every message lies on one side of the barrier:
//! below it the old consumer has finished it, above it the new one will get it, and it alone.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    driver::{Done, Driver, Options, Proof, Side, see_through, with_lock},
    fence::Fence,
    group::Before,
    lock::Lock,
    nsqds::APART,
    plan::Deferred,
    progress::{Progress, Step},
    recover::{forget, half_done, recover},
    refusal::{Left, Reason, Refusal, Trouble},
    rest::{self, Prepared},
    subject::{Stage, Subject, World},
};

/// What is deferred may be so for hours.
const DEFERRED_EVERY: Duration = Duration::from_secs(2);

/// Cuts the channel over, or finishes what another run began.
///
/// # Errors
/// Why it did not, and what is left.
///
/// # Cancellation
/// Dropping the future is as if the process were killed: the fence ends by itself, and another run finishes or undoes it. To have it
/// undone, cancel `stop`.
pub async fn cut_over(
    subject: &Subject,
    options: Options,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Done, Refusal> {
    let world = subject.read().await.map_err(Refusal::untouched)?;
    is_free(subject, options, &world).await.map_err(Refusal::untouched)?;
    if options.deferred == Deferred::Wait {
        until_delivered(subject, progress, stop).await.map_err(Refusal::untouched)?;
    }
    with_lock(subject, progress, stop, async |lock| {
        let world = recover(subject, lock, progress).await?;
        if world.stage() == Stage::CutOver {
            if options.by_share {
                world.is_by_share().map_err(Refusal::untouched)?;
            }
            let how = if world.rest.is_some() { " by share" } else { "" };
            return Ok(Done::at_once(format!("{} is cut over{how} already", subject.path())));
        }
        // Once more: waiting for messages put off, or for another driver, may have taken hours.
        is_free(subject, options, &world).await.map_err(Refusal::untouched)?;
        let before = subject.group_now(&world).await.map_err(Refusal::untouched)?;
        let mut rest = match options.by_share {
            true => Some(Prepared::new(subject, lock, &world).await.map_err(Refusal::untouched)?),
            false => None,
        };
        let began = Instant::now();
        let mut driver = drive(subject, options, progress, stop, lock, &world, None);
        let proof = match up_to_the_same(&mut driver, rest.as_mut()).await {
            Ok(proof) => proof,
            Err(trouble) => return Err(undo(&driver, &before, trouble).await),
        };
        open(&driver, began, &proof, rest.as_ref()).await
    })
    .await
}

/// Whether nothing stands in the way that can be seen before the lock is had.
async fn is_free(subject: &Subject, options: Options, world: &World) -> Result<(), Trouble> {
    may_begin(subject, world)?;
    if options.by_share {
        rest::may_begin(subject, world).await?;
    }
    subject.is_not_paused(world).await?;
    has_nothing_parked(subject, world).await
}

/// Whether no message was passed by the relay and left for a person: it lies below any barrier, and the channel has not had it.
async fn has_nothing_parked(subject: &Subject, world: &World) -> Result<(), Trouble> {
    if matches!(world.stage(), Stage::CutOver | Stage::Opening) {
        return Ok(());
    }
    subject.has_nothing_parked(&(&subject.topic).into()).await
}

/// Waits until no message of the channel waits for its time. Nothing is held meanwhile: it may take hours.
async fn until_delivered(
    subject: &Subject,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<(), Trouble> {
    loop {
        let [_, _, deferred] = subject.read().await?.look.messages();
        if deferred == 0 {
            return Ok(());
        }
        let trouble = Trouble::new(Reason::DeferredMessagesPending, format!("{deferred} messages"));
        progress.waiting(&trouble);
        if stop.run_until_cancelled(tokio::time::sleep(DEFERRED_EVERY)).await.is_none() {
            return Err(Trouble::new(Reason::Interrupted, format!("while waiting: {trouble}")));
        }
    }
}

pub(super) fn drive<'a>(
    subject: &'a Subject,
    options: Options,
    progress: &'a Progress,
    stop: &'a CancellationToken,
    lock: &'a Lock,
    world: &World,
    rest: Option<Side>,
) -> Driver<'a> {
    let main = Side { feed: (&subject.topic).into(), nsqds: world.nsqds.clone() };
    let feeds = [Some(&main), rest.as_ref()].into_iter().flatten().map(|side| side.feed.clone());
    let fence = Fence::new(subject, feeds.collect());
    let (apart, deadline) = (APART.max(options.quiet), Instant::now() + options.max_pause);
    Driver {
        subject,
        progress,
        stop,
        lock,
        main,
        rest,
        fence,
        holds: Vec::new(),
        pause_unanswered: false,
        held: None,
        apart,
        deadline,
    }
}

/// What stands in the way before anything is begun.
pub(super) fn may_begin(subject: &Subject, world: &World) -> Result<(), Trouble> {
    match world.stage() {
        Stage::Completed => {
            return Err(Trouble::new(Reason::ChannelCompleted, subject.completed_group()));
        }
        Stage::Missing => world.look.is_complete()?,
        Stage::CutOver | Stage::Opening => return world.is_ours(),
        Stage::HalfDone | Stage::HalfPaused | Stage::Paused => world.is_ours()?,
        Stage::Active => {}
    }
    if subject.channel.is_ephemeral() {
        return Err(Trouble::new(Reason::EphemeralChannel, subject.channel.as_str()));
    }
    world.look.is_complete()?;
    if world.instances.is_empty() {
        return Err(Trouble::new(Reason::RelayMissing, format!("no instance relays {}", subject.topic)));
    }
    if !world.is_half_done() {
        // Else what is paused must go on first, and who runs is looked at after that.
        world.intakes_run()?;
    }
    if let Some(queue) = &world.unrelayed {
        return Err(Trouble::new(Reason::RelayMissing, format!("{queue} is relayed by nobody now")));
    }
    match world.members.first() {
        Some(first) => {
            let detail = format!("{} of {}: {first}", world.members.len(), subject.group);
            Err(Trouble::new(Reason::GroupHasConsumers, detail))
        }
        None => Ok(()),
    }
}

/// The protocol, up to the last step that can be undone.
async fn up_to_the_same(driver: &mut Driver<'_>, rest: Option<&mut Prepared>) -> Result<Proof, Trouble> {
    let Driver { subject, progress, lock, .. } = *driver;
    // Open it would consume as soon as it has offsets.
    lock.set_consuming(&subject.group, false).await?;
    driver.renew().await?;
    progress.step(Step::Fenced, "the relay sends nothing new; producers notice nothing")?;

    let empty = |look: &super::nsqds::Look, _: &_| look.is_complete().and_then(|()| look.is_empty());
    let proof = driver.until_level(empty).await?;
    progress.step(Step::Quiet, "every nsqd was seen empty twice, with nothing published between")?;
    // The relay stands still now, and may have passed one on its way here.
    subject.has_nothing_parked(&driver.main.feed).await?;

    subject.claim_barrier(lock).await?;
    driver.renew().await?;
    subject.place(lock, &subject.barrier_group(), &proof.places).await?;
    let end: i64 = proof.places.values().sum();
    progress.step(
        Step::BarrierWritten,
        &format!("the barrier stands behind {end} messages, in {} queues", proof.places.len()),
    )?;

    subject.has_no_members().await?;
    driver.renew().await?;
    subject.place(lock, &subject.group, &proof.places).await?;
    driver.renew().await?;
    match rest {
        Some(rest) => rest.place(subject, lock, &proof.places).await?,
        None => subject.forget_share(lock).await?,
    }
    subject.forget_retries(lock).await?;
    subject.forget_returning(lock).await?;
    subject.has_no_members().await?;
    driver.renew().await?;
    progress.step(Step::OffsetsSet, "the group stands at the barrier on every queue, and is closed")?;

    driver.main.nsqds.pause(lock, &proof.look).await?;
    progress.step(Step::Paused, "the channel is paused on every nsqd")?;

    driver.is_same(&proof).await?;
    progress.step(Step::Same, "nothing was published meanwhile")?;
    Ok(proof)
}

/// The one write that counts, and the end.
async fn open(
    driver: &Driver<'_>,
    began: Instant,
    proof: &Proof,
    rest: Option<&Prepared>,
) -> Result<Done, Refusal> {
    let Driver { subject, progress, lock, .. } = driver;
    let opened = async {
        see_through(lock, progress, async || lock.set_consuming(&subject.group, true).await).await?;
        progress.step(Step::Opened, &format!("{} may consume", subject.group))?;
        if let Some(rest) = rest {
            // Only now: what is left is the old consumer's as soon as the other side is the group's.
            see_through(lock, progress, async || subject.open_rest(lock).await).await?;
            progress
                .step(Step::RestOpened, &format!("what is not stamped is relayed to {}", rest.topic()))?;
        }
        // Told is only what nobody may have undone meanwhile.
        lock.keep().await
    };
    let opened = opened.await;
    driver.let_go_after(&opened).await;
    opened.map_err(|trouble| Refusal { trouble, left: half_open(subject) })?;
    let (path, group, end) = (subject.path(), &subject.group, proof.places.values().sum::<i64>());
    let message = match rest {
        None => {
            format!("{path} is cut over: start the consumers of {group}; they begin behind {end} messages")
        }
        Some(rest) => format!(
            "{path} is cut over by share: start the consumers of {group}, which take what has {}, and let the old one read {}; both begin \
             behind {end} messages",
            rest.property(),
            rest.topic()
        ),
    };
    let done = Done::after(message, began);
    let released = format!("the relay goes on, after {:.2} s", began.elapsed().as_secs_f64());
    match progress.step(Step::Released, &released) {
        Ok(()) => Ok(done),
        Err(trouble) => Err(Refusal { trouble, left: Left::InForce("the channel is cut over".to_owned()) }),
    }
}

fn half_open(subject: &Subject) -> Left {
    let group = &subject.group;
    Left::InForce(format!(
        "the channel is paused, and {group} is open on some brokers; run it again to finish"
    ))
}

/// Takes everything back.
async fn undo(driver: &Driver<'_>, before: &Before, trouble: Trouble) -> Refusal {
    if trouble.is_over() {
        // Killed, or no longer in charge: whoever comes next reads how things stand.
        return Refusal { trouble, left: half_done() };
    }
    let Driver { subject, lock, .. } = driver;
    let undone = see_through(lock, driver.progress, async || {
        subject.unpause(lock, &driver.main.nsqds).await?;
        subject.restore(lock, before).await
    });
    let undone = match undone.await {
        Err(lost) if lost.is_over() => return Refusal { trouble: lost, left: half_done() },
        undone => undone.and(driver.let_go().await),
    };
    let left = match undone {
        Ok(()) => {
            forget(subject, lock).await;
            let _ =
                driver.progress.step(Step::Undone, "the relay goes on, and the channel delivers as before");
            Left::Undone
        }
        Err(failed) => Left::InForce(format!(
            "channel or topic may be paused on some nsqds, and the group closed ({failed}); run it again"
        )),
    };
    Refusal { trouble, left }
}

/// What it would do, for people.
///
/// # Errors
/// What stands in the way.
pub async fn preview(subject: &Subject, options: Options) -> Result<Vec<String>, Refusal> {
    let world = subject.read().await.map_err(Refusal::untouched)?;
    is_free(subject, options, &world).await.map_err(Refusal::untouched)?;
    let (path, group) = (subject.path(), &subject.group);
    let [waiting, in_flight, deferred] = world.look.messages();
    let mut lines =
        vec![format!("{path} is {:?}, and would become the consumer group {group}", world.stage())];
    match world.stage() {
        Stage::CutOver => {
            lines.push("nothing is to be done".to_owned());
            return Ok(lines);
        }
        Stage::Opening => {
            lines.push("an interrupted run would be finished: the group opened everywhere".to_owned());
            return Ok(lines);
        }
        Stage::HalfDone | Stage::HalfPaused => {
            lines.push("what an interrupted run left would be finished or undone first".to_owned());
        }
        Stage::Active | Stage::Missing | Stage::Completed | Stage::Paused => {}
    }
    lines.push(format!(
        "the channel has {waiting} messages waiting, {in_flight} in flight, {deferred} deferred; they must be finished within {}",
        humantime::format_duration(options.max_pause)
    ));
    lines.push(format!(
        "meanwhile {} instances of the relay send nothing, and no channel of {} gets anything new; producers notice nothing",
        world.instances.len(),
        subject.topic
    ));
    lines.extend(world.held_meanwhile());
    lines.push(format!("then the channel is paused, and {group} begins exactly where it ended"));
    if options.by_share {
        let share = subject.share().map_err(Refusal::untouched)?;
        lines.push(format!(
            "{group} is to take what has the property {} alone; the rest goes to the NSQ topic {}, which the channel's old consumer is to read",
            share.property(),
            share.topic()
        ));
    }
    let brokers: BTreeSet<String> =
        subject.queues().await.map_err(Refusal::untouched)?.into_iter().map(|queue| queue.broker).collect();
    lines.push(format!(
        "its messages lie on {}: a broker that is away now must be back first, or what it has is neither side's",
        brokers.into_iter().collect::<Vec<_>>().join(", ")
    ));
    if deferred > 0 {
        lines.push("messages that consumers put back for later must come due first".to_owned());
    }
    Ok(lines)
}
