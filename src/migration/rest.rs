//! What is left of a channel that is moved by share: the part that stays its old consumer's, in an NSQ topic of its own.
//!
//! A cutover by share draws one barrier for two: the group gets what is stamped above it ([`crate::mapping::Share`]), and a second relay brings
//! the rest to `TOPIC.CHANNEL`. That relay is to the cutover what the group's consumers are, and is treated as they are: its own group is
//! closed, given the same place, and opened after the other; at the end it is closed and left so, for a broker would create a group that is
//! gone, open, for a pull that it still holds. That a channel is moved by share is said by another group. The relay locks no queue
//! while its group is closed, so whoever has closed it, and can lock every queue himself, knows that nobody relays, whatever sleeps or is
//! cut off.
//!
//! A rollback waits for both: the rest has been relayed as far as the group stands, and its consumer has finished all of it.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{
    driver::{Driver, Proof, Side, see_through},
    fence::has_nothing_to_repeat,
    lock::Lock,
    nsqds::{Look, Nsqds, Published},
    progress::{Progress, Step},
    refusal::{Reason, Trouble},
    status::lag,
    subject::{Places, Stage, Subject, World, further},
};
use crate::{
    mapping::{Feed, MAX_GROUP_BYTES, Share, ShareError},
    rocketmq::{ClusterError, Queue, group::Member, reader::Bounds},
    transfer::{self, control::Instance},
};

/// The longest name of a RocketMQ topic.
const MAX_TOPIC_BYTES: usize = 127;
/// Nothing more comes to a topic to which nothing came for so long.
const QUIET: Duration = Duration::from_secs(5);
/// What has just come is relayed, had and committed within this time.
const HAD_WITHIN: Duration = Duration::from_secs(15);
/// A broker that does not answer is asked again for its locks.
const LOCK_ATTEMPTS: usize = 3;
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// What a cutover by share has made ready before it holds anybody up.
#[derive(Debug)]
pub(super) struct Prepared {
    share: Share,
    feed: Feed,
    record: transfer::Record,
}

impl Subject {
    /// Its share, if its names allow one.
    ///
    /// # Errors
    /// Why they do not.
    pub(super) fn share(&self) -> Result<Share, Trouble> {
        Share::new(self.path()).map_err(|error| {
            let reason = match &error {
                ShareError::Ephemeral(_) => Reason::EphemeralChannel,
                ShareError::TooLong { .. } | ShareError::Malformed(_) => Reason::NameTooLong,
            };
            Trouble::new(reason, error.to_string())
        })
    }

    /// The group of the relay of what is left.
    pub(super) fn rest_group(&self) -> Option<String> {
        Some(self.feed_group(&Feed::Share(self.share().ok()?)))
    }

    /// The same, where the channel is moved by share.
    fn rest_group_in(&self, world: &World) -> Option<String> {
        self.rest_group().filter(|_| world.rest.is_some())
    }

    /// Lets the group consume, and what is left be relayed if there is such a thing.
    pub(super) async fn open(&self, lock: &Lock, by_share: bool) -> Result<(), Trouble> {
        lock.set_consuming(&self.group, true).await?;
        if by_share { self.open_rest(lock).await } else { Ok(()) }
    }

    pub(super) async fn open_rest(&self, lock: &Lock) -> Result<(), Trouble> {
        let Some(group) = self.rest_group() else { return Ok(()) };
        lock.set_consuming(&group, true).await
    }

    /// Whether nobody relays what is left, now that its group is closed.
    async fn rest_is_idle(&self, group: &str) -> Result<(), Trouble> {
        let trouble = |detail: String| Err(Trouble::new(Reason::RelayInFlight, detail));
        if let Some(first) = self.cluster.members_of(group).await?.keys().next() {
            return trouble(format!("{first} has still to leave {group}"));
        }
        // One that is cut off from the brokers is no member, and may rely on its locks for a while yet. Nobody locks a queue again.
        let locks = Member::unannounced(self.cluster.clone(), group, &self.rocketmq_topic());
        let mut queues = Vec::from_iter(self.queues().await?);
        for _ in 0..LOCK_ATTEMPTS {
            let locked = locks.lock(&queues).await;
            locks.unlock(&Vec::from_iter(locked.granted.iter().cloned())).await;
            if let Some(queue) = locked.refused.iter().next() {
                let holder = "by a relay that has died, for up to a minute";
                return trouble(format!("{queue} is locked for {group} {holder}"));
            }
            queues.retain(|queue| !locked.granted.contains(queue));
            if queues.is_empty() {
                return Ok(());
            }
        }
        let detail = format!("its broker does not say whether {} is locked for {group}", queues[0]);
        Err(Trouble::new(Reason::RocketmqUnavailable, detail))
    }

    /// The relay of what is left, and its nsqds; nothing of a channel that is not moved by share.
    pub(super) async fn rest(&self, world: &World) -> Result<Option<Side>, Trouble> {
        if world.rest.is_none() {
            return Ok(None);
        }
        let share = self.share()?;
        let feed = Feed::Share(share.clone());
        let instances = self.relays(&feed, None).await?;
        let reports = instances.iter().filter_map(|instance| instance.report.as_ref().ok());
        let known = reports.flat_map(|report| &report.nsqds).filter_map(|nsqd| nsqd.nsqd.parse().ok());
        let given = world.nsqds.all();
        let nsqds = Nsqds::find(share.topic(), &self.channel, given, &self.nsqlookupds, known).await?;
        Ok(Some(Side { feed, nsqds }))
    }

    /// Where the relay of what is left stands, and its nsqds hold.
    ///
    /// # Errors
    /// When somebody who must be asked does not answer.
    pub(super) async fn rest_stands(&self, side: &Side) -> Result<(Places, Look), Trouble> {
        Ok((self.places_of(&self.feed_group(&side.feed)).await?, side.nsqds.look().await?))
    }

    /// Whether what is left is relayed up to these ends, its consumer has all of it, and no nsqd may have lost any; what was published.
    async fn has_had(&self, rest: &Side, ends: &BTreeMap<Queue, Bounds>) -> Result<Published, Trouble> {
        let topic = rest.feed.topic();
        let instances = self.relays(&rest.feed, None).await?;
        let (stands, look) = self.rest_stands(rest).await?;
        if instances.is_empty() {
            let detail = format!("no instance relays {topic}, so nobody knows what its nsqds may have lost");
            return Err(Trouble::new(Reason::RelayMissing, detail));
        }
        for Instance { id, report } in &instances {
            let silent = |reason: &String| Trouble::new(Reason::RelaySilent, format!("{id}: {reason}"));
            let report = report.as_ref().map_err(silent)?;
            has_nothing_to_repeat(report, &look)?;
            if report.queues.iter().any(|queue| queue.replaying) {
                return Err(Trouble::new(
                    Reason::UndrainedMessages,
                    format!("{id} relays messages of {topic} again"),
                ));
            }
        }
        let detail = match (lag(&stands, ends), look.is_empty()) {
            (0, Ok(())) => return Ok(look.published()),
            (0, Err(trouble)) => trouble.detail,
            (lag, _) => format!("{lag} messages have still to be looked at for it"),
        };
        Err(Trouble::new(Reason::ByShare, format!("{topic}: {detail}")))
    }
}

impl World {
    /// Whether a channel that is cut over was so by share.
    pub(super) fn is_by_share(&self) -> Result<(), Trouble> {
        match self.rest {
            Some(_) => Ok(()),
            None => Err(Trouble::new(Reason::NotByShare, "its group has all of its messages")),
        }
    }

    /// Whether it is no share, or nothing is taken in: what an intake stores is the old consumer's twice, by the relay of the rest and
    /// straight from nsqd once the channel delivers again.
    pub(super) fn share_is_alone(&self, by_share: bool) -> Result<(), Trouble> {
        if by_share && self.taken_in {
            let detail = "no channel is moved by share meanwhile";
            return Err(Trouble::new(Reason::IntakeRunning, detail));
        }
        Ok(())
    }
}

/// Whether a channel can be cut over by share.
pub(super) async fn may_begin(subject: &Subject, world: &World) -> Result<(), Trouble> {
    world.share_is_alone(true)?;
    let share = subject.share()?;
    let feed = Feed::Share(share.clone());
    let names = &subject.names;
    let group = subject.feed_group(&feed);
    let topics = [names.journal_topic(&feed), names.parking_topic(&feed)];
    if group.len().max(subject.share_group().len()) > MAX_GROUP_BYTES
        || topics.iter().any(|topic| topic.len() > MAX_TOPIC_BYTES)
    {
        let detail = format!("{group} or {} is too long a name", topics.join(" or "));
        return Err(Trouble::new(Reason::NameTooLong, detail));
    }
    if matches!(world.stage(), Stage::CutOver | Stage::Opening) {
        return world.is_by_share();
    }
    let taken = |by: String| Err(Trouble::new(Reason::TopicTaken, format!("{} is {by}", share.topic())));
    if names.rename_of(share.topic()).is_some() {
        return taken("renamed, so it is a topic of its own".to_owned());
    }
    let stored = names.rocketmq_topic(share.topic());
    match subject.cluster.fresh_route(&stored).await {
        Ok(_) => return taken(format!("the topic {stored} in RocketMQ")),
        Err(ClusterError::UnknownTopic(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let nsqds = world.nsqds.of(share.topic());
    match nsqds.look().await?.others() {
        Some(nsqd) => taken(format!("a topic with other channels on {nsqd}")),
        None => Ok(()),
    }
}

impl Prepared {
    /// Makes topic, channel and record, and closes the relay's group.
    ///
    /// # Errors
    /// When somebody does not do it, or such a relay still runs.
    pub(super) async fn new(subject: &Subject, lock: &Lock, world: &World) -> Result<Self, Trouble> {
        let share = subject.share()?;
        let feed = Feed::Share(share.clone());
        let group = subject.feed_group(&feed);
        // Open it would be relayed as soon as there is a barrier.
        lock.set_consuming(&group, false).await?;
        subject.rest_is_idle(&group).await?;
        world.nsqds.of(share.topic()).create().await?;
        let queues = subject.queues().await?;
        let record = transfer::Record::open(&subject.cluster, &subject.names, &feed, &queues).await?;
        Ok(Self { share, feed, record })
    }

    /// Gives the relay its place, and leaves its group closed.
    pub(super) async fn place(
        &mut self,
        subject: &Subject,
        lock: &Lock,
        places: &Places,
    ) -> Result<(), Trouble> {
        let group = subject.feed_group(&self.feed);
        subject.rest_is_idle(&group).await?;
        lock.set_consuming(&subject.share_group(), false).await?;
        subject.place(lock, &group, places).await?;
        lock.keep().await?;
        self.record.write(places).await?;
        subject.rest_is_idle(&group).await
    }

    /// The NSQ topic.
    pub(super) fn topic(&self) -> &str {
        self.share.topic().as_str()
    }

    /// The stamp of what is the group's.
    pub(super) fn property(&self) -> &str {
        self.share.property()
    }
}

impl Driver<'_> {
    /// The later of these places and of where what is left is relayed to, as the fence holds it.
    pub(super) async fn or_rest(&self, mut places: Places) -> Result<Places, Trouble> {
        if let Some(rest) = &self.rest {
            further(&mut places, self.until_settled(rest).await?);
        }
        Ok(places)
    }

    /// Waits until what is left is relayed up to these places, and its consumer has all of it.
    pub(super) async fn until_rest_is_had(
        &self,
        holds: impl Fn(&Places) -> Result<(), Trouble>,
    ) -> Result<Option<Proof>, Trouble> {
        let Some(rest) = &self.rest else { return Ok(None) };
        let had = |look: &Look, places: &Places| holds(places).and_then(|()| look.is_empty());
        let proof = self.until_proved(rest, had).await?;
        // Neither side has had what that relay has parked.
        self.subject.has_nothing_parked(&rest.feed).await?;
        Ok(Some(proof))
    }

    /// Ends the relay of what is left: from here on it sends nothing, whatever becomes of the fence.
    pub(super) async fn end_rest(&self, proof: Option<Proof>) -> Result<(), Trouble> {
        let (Some(rest), Some(proof)) = (&self.rest, proof) else { return Ok(()) };
        let Driver { subject, progress, .. } = self;
        let group = subject.feed_group(&rest.feed);
        self.lock.set_consuming(&group, false).await?;
        self.until(async || subject.rest_is_idle(&group).await).await?;
        let (stands, look) = subject.rest_stands(rest).await?;
        if stands != proof.places {
            return Err(Trouble::new(Reason::FenceLost, "what is left was relayed on meanwhile"));
        }
        proof.published.compare(&look.published())?;
        progress.step(Step::RestEnded, "its old consumer has had what was left, and no more is relayed")
    }
}

/// Whether what is left is relayed up to where the topic ends now, its consumer has all of it, and no more comes.
///
/// # Errors
/// [`Reason::ByShare`] when it is not so within some seconds, and whatever makes that impossible to tell.
pub(super) async fn is_had(subject: &Subject, world: &World) -> Result<(), Trouble> {
    let Some(rest) = subject.rest(world).await? else { return Ok(()) };
    subject.has_nothing_parked(&rest.feed).await?;
    let ends = subject.cluster.topic_stats(&subject.rocketmq_topic()).await?;
    let give_up_at = Instant::now() + HAD_WITHIN;
    let mut quiet: Option<(Instant, Published)> = None;
    loop {
        let trouble = match subject.has_had(&rest, &ends).await {
            Ok(published) => {
                let (since, before) = quiet.get_or_insert_with(|| (Instant::now(), published.clone()));
                if *before != published {
                    (*since, *before) = (Instant::now(), published);
                } else if since.elapsed() >= QUIET {
                    return Ok(());
                }
                Trouble::new(Reason::ByShare, format!("messages still come to {}", rest.feed.topic()))
            }
            Err(trouble) => {
                quiet = None;
                trouble
            }
        };
        if Instant::now() > give_up_at {
            return Err(trouble);
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
}

/// Closes the group of the relay of what is left; whoever relays with it leaves within seconds.
pub(super) async fn shut(
    subject: &Subject,
    lock: &Lock,
    world: &World,
    progress: &Progress,
) -> Result<(), Trouble> {
    match subject.rest_group_in(world) {
        Some(group) => see_through(lock, progress, async || lock.set_consuming(&group, false).await).await,
        None => Ok(()),
    }
}

/// The same for good: nobody relays with it any more.
pub(super) async fn close(
    subject: &Subject,
    lock: &Lock,
    world: &World,
    progress: &Progress,
) -> Result<(), Trouble> {
    shut(subject, lock, world, progress).await?;
    match subject.rest_group_in(world) {
        Some(group) => {
            see_through(lock, progress, async || subject.rest_is_idle(&group).await).await?;
            progress.step(Step::RestEnded, "what was left is relayed no more")
        }
        None => Ok(()),
    }
}
