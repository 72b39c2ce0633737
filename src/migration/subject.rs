//! What is moved, and how far it is, as the world tells it.
//!
//! There is no state file. Where a channel stands is read from the channel (active, paused, gone), the group (open, closed, its offsets)
//! and groups that say something by being there: the barrier, that a rollback has begun, that a channel is completed, and that it is moved by
//! share.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    lock::Lock,
    nsqds::{Look, Nsqds},
    refusal::{Reason, Trouble},
};
use crate::{
    intake,
    mapping::{Feed, MAX_GROUP_BYTES, Names},
    nsq::{
        names::{ChannelName, ChannelPath, TopicName},
        nsqd::Nsqd,
        nsqlookupd::Nsqlookupd,
    },
    rocketmq::{Cluster, Queue, subscription::Consuming},
    transfer::{
        control::{self, Change, Instance},
        parking,
    },
};

/// First offsets by queue.
pub type Places = BTreeMap<Queue, i64>;

/// Moves places on to where others are further.
pub(super) fn further(places: &mut Places, others: Places) {
    for (queue, other) in others {
        let place = places.entry(queue).or_insert(other);
        *place = other.max(*place);
    }
}

/// A channel, the group it becomes, and where to find both.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The RocketMQ cluster.
    pub cluster: Cluster,
    /// What topics are called there.
    pub names: Names,
    /// What the relays' groups begin with.
    pub group_prefix: String,
    /// The channel's topic.
    pub topic: TopicName,
    /// The channel.
    pub channel: ChannelName,
    /// The consumer group it becomes.
    pub group: String,
    /// Where nsqds are found, beside those the relays know.
    pub nsqlookupds: Vec<Nsqlookupd>,
    /// nsqds beside those.
    pub nsqds: Vec<Nsqd>,
}

/// How far a channel has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Stage {
    /// Its consumers are NSQ's.
    Active,
    /// Paused on some nsqds, and no cutover did it.
    Paused,
    /// Paused on some nsqds, and the group closed: a cutover or rollback was interrupted, and the channel is to go on.
    HalfPaused,
    /// Paused, and the group closed: a cutover or rollback was interrupted.
    HalfDone,
    /// The group is open, and not everything else is as it must be: a cutover was interrupted at its end.
    Opening,
    /// Its consumers are RocketMQ's.
    CutOver,
    /// It is done with; the channel may be there still.
    Completed,
    /// No nsqd has it.
    Missing,
}

/// Everything that tells the stage.
#[derive(Debug)]
pub(super) struct World {
    pub(super) nsqds: Nsqds,
    pub(super) look: Look,
    pub(super) instances: Vec<Instance>,
    /// The topic's intakes, and whether there ever was one that was not ended.
    pub(super) intakes: Vec<intake::control::Instance>,
    pub(super) taken_in: bool,
    /// A queue no instance relays.
    pub(super) unrelayed: Option<Queue>,
    pub(super) group: Consuming,
    /// The group's members.
    pub(super) members: BTreeSet<String>,
    /// Where the old consumer ended; none when there was no cutover.
    pub(super) barrier: Option<Places>,
    /// The barrier belongs to another group than this one.
    pub(super) elsewhere: bool,
    /// A rollback has begun since the last cutover, and may have emptied the channel.
    pub(super) returning: bool,
    pub(super) completed: bool,
    /// Where what a cutover by share has left may be relayed; none when there is nothing of the kind.
    pub(super) rest: Option<Consuming>,
}

impl Subject {
    /// The channel, and the group named after it unless another is given.
    #[must_use]
    pub fn new(
        cluster: Cluster,
        names: Names,
        group_prefix: String,
        path: ChannelPath,
        group: Option<String>,
    ) -> Self {
        let ChannelPath { topic, channel } = path;
        let group = group.unwrap_or_else(|| names.channel_group(&topic, &channel));
        let (nsqlookupds, nsqds) = Default::default();
        Self { cluster, names, group_prefix, topic, channel, group, nsqlookupds, nsqds }
    }

    /// `TOPIC/CHANNEL`.
    #[must_use]
    pub fn path(&self) -> ChannelPath {
        ChannelPath { topic: self.topic.clone(), channel: self.channel.clone() }
    }

    pub(super) fn rocketmq_topic(&self) -> String {
        self.names.rocketmq_topic(&self.topic)
    }

    pub(super) fn relay_group(&self) -> String {
        self.feed_group(&(&self.topic).into())
    }

    /// The group a relay reads with.
    pub(super) fn feed_group(&self, feed: &Feed) -> String {
        self.names.feed_group(&self.group_prefix, feed)
    }

    pub(super) fn barrier_group(&self) -> String {
        self.names.barrier_group(&self.topic, &self.channel)
    }

    /// Says that the barrier is this group's.
    pub(super) fn became_group(&self) -> String {
        self.names.became_group(&self.topic, &self.channel, &self.group)
    }

    /// Which of `groups` say whose the barrier is.
    pub(super) fn became_of<'a>(&self, groups: &'a BTreeSet<String>) -> Vec<&'a String> {
        let [begin, end] = self.names.became_groups(&self.topic, &self.channel);
        // Between them stand eight digits: a channel may be called like the end of another's group.
        let whole = begin.len() + 8 + end.len();
        let ours =
            |group: &&String| group.len() == whole && group.starts_with(&begin) && group.ends_with(&end);
        groups.iter().filter(ours).collect()
    }

    pub(super) fn returning_group(&self) -> String {
        self.names.returning_group(&self.topic, &self.channel)
    }

    pub(super) fn share_group(&self) -> String {
        self.names.share_group(&self.topic, &self.channel)
    }

    pub(super) fn completed_group(&self) -> String {
        self.names.completed_group(&self.topic, &self.channel)
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// When anybody who must be asked does not answer.
    pub(super) async fn read(&self) -> Result<World, Trouble> {
        for group in [&self.group, &self.became_group(), &self.completed_group()] {
            if group.len() > MAX_GROUP_BYTES {
                let detail = format!("group {group} has more than {MAX_GROUP_BYTES} characters");
                return Err(Trouble::new(Reason::NameTooLong, detail));
            }
        }
        let cluster = &self.cluster;
        let instances = self.instances().await?;
        let reports = instances.iter().filter_map(|instance| instance.report.as_ref().ok());
        let relayed: BTreeSet<(&str, i32)> =
            reports.flat_map(|report| &report.queues).map(|queue| (&*queue.broker, queue.queue)).collect();
        let queues = self.queues().await?;
        let unrelayed = queues.iter().find(|queue| !relayed.contains(&(&*queue.broker, queue.id))).cloned();
        let intakes = self.intakes().await?;
        let nsqds = self.nsqds_known_to(&instances, &intakes).await?;
        let look = nsqds.look().await?;
        let groups = cluster.groups().await?;
        let barrier = match groups.contains(&self.barrier_group()) {
            true => Some(self.barrier().await?),
            false => None,
        };
        let rest = match self.rest_group().filter(|_| groups.contains(&self.share_group())) {
            Some(group) => Some(cluster.consuming_from(&group, &queues).await?),
            None => None,
        };
        let became = self.became_of(&groups);
        let elsewhere = barrier.is_some() && !became.is_empty() && !became.contains(&&self.became_group());
        Ok(World {
            nsqds,
            look,
            unrelayed,
            instances,
            intakes,
            taken_in: groups.contains(&self.names.intake_group(&self.topic)),
            group: cluster.consuming_from(&self.group, &queues).await?,
            members: cluster.members_of(&self.group).await?.into_keys().collect(),
            barrier,
            elsewhere,
            returning: groups.contains(&self.returning_group()),
            completed: groups.contains(&self.completed_group()),
            rest,
        })
    }

    /// Asks every instance of a relay where it stands, and tells it of a change if there is one.
    ///
    /// # Errors
    /// When no broker can say which instances there are.
    pub(super) async fn relays(&self, feed: &Feed, change: Option<Change>) -> Result<Vec<Instance>, Trouble> {
        Ok(control::ask(&self.cluster, &self.names, &self.group_prefix, feed, change).await?)
    }

    async fn instances(&self) -> Result<Vec<Instance>, Trouble> {
        self.relays(&(&self.topic).into(), None).await
    }

    async fn nsqds_known_to(
        &self,
        instances: &[Instance],
        intakes: &[intake::control::Instance],
    ) -> Result<Nsqds, Trouble> {
        let reports = instances.iter().filter_map(|instance| instance.report.as_ref().ok());
        let relayed = reports.flat_map(|report| &report.nsqds).map(|nsqd| &nsqd.nsqd);
        let reports = intakes.iter().filter_map(|intake| intake.report.as_ref().ok());
        let taken_in = reports.flat_map(|report| &report.nsqds).map(|nsqd| &nsqd.nsqd);
        let known = relayed.chain(taken_in).filter_map(|nsqd| nsqd.parse().ok());
        Nsqds::find(&self.topic, &self.channel, &self.nsqds, &self.nsqlookupds, known).await
    }

    /// The nsqds there are now: some may have come since anybody looked.
    pub(super) async fn nsqds_now(&self) -> Result<Nsqds, Trouble> {
        self.nsqds_known_to(&self.instances().await?, &self.intakes().await?).await
    }

    /// Lets the channel deliver wherever it is paused, and sees that it does: on the nsqds there are now, and on those where it was
    /// paused, which may be known to nobody by now.
    pub(super) async fn unpause(&self, lock: &Lock, paused: &Nsqds) -> Result<(), Trouble> {
        let nsqds = self.nsqds_now().await?.and(paused);
        nsqds.unpause(lock, &nsqds.look().await?).await?;
        let look = nsqds.look().await?;
        match look.channels().find(|(_, channel)| channel.paused) {
            Some((nsqd, _)) => {
                Err(Trouble::new(Reason::NsqdUnavailable, format!("the channel is still paused on {nsqd}")))
            }
            None => Ok(()),
        }
    }

    /// Whether a relay has passed no message and left it for a person.
    pub(super) async fn has_nothing_parked(&self, feed: &Feed) -> Result<(), Trouble> {
        match parking::parked(&self.cluster, &self.names, feed).await?.len() {
            0 => Ok(()),
            parked => Err(Trouble::new(Reason::MessagesParked, format!("{parked} of {feed}"))),
        }
    }

    /// The queues there are, from every master.
    pub(super) async fn queues(&self) -> Result<BTreeSet<Queue>, Trouble> {
        Ok(self.cluster.topic_stats(&self.rocketmq_topic()).await?.into_keys().collect())
    }

    /// Where a group stands on every queue; where it never committed, at the queue's beginning.
    pub(super) async fn places_of(&self, group: &str) -> Result<Places, Trouble> {
        self.places(group, |committed, begin| committed.max(begin)).await
    }

    /// Where the cutover drew the line, though what lies there may have expired by now.
    pub(super) async fn barrier(&self) -> Result<Places, Trouble> {
        self.places(&self.barrier_group(), |committed, _| committed).await
    }

    /// How many messages lie between the barrier and these places.
    pub(super) async fn since_barrier(&self, places: &Places) -> Result<i64, Trouble> {
        let barrier = self.barrier().await?;
        Ok(places.iter().map(|(queue, at)| (at - barrier.get(queue).unwrap_or(&0)).max(0)).sum())
    }

    async fn places(&self, group: &str, place: fn(i64, i64) -> i64) -> Result<Places, Trouble> {
        let bounds = self.cluster.topic_stats(&self.rocketmq_topic()).await?;
        let places = bounds.into_iter().map(async |(queue, bounds)| {
            let committed = self.cluster.committed_offset(group, &queue).await?;
            Ok::<_, Trouble>((queue, place(committed.unwrap_or(bounds.min), bounds.min)))
        });
        Ok(futures_util::future::try_join_all(places).await?.into_iter().collect())
    }
}

impl World {
    /// How far the channel is.
    pub(super) fn stage(&self) -> Stage {
        let (mut has, mut paused) = (0, 0);
        for (_, channel) in self.look.channels() {
            has += 1;
            paused += usize::from(channel.paused);
        }
        if self.completed {
            return Stage::Completed;
        }
        match (paused, self.group.open > 0) {
            _ if has == 0 => Stage::Missing,
            (0, _) => Stage::Active,
            // Nothing is ever paused before the barrier is written.
            _ if self.barrier.is_none() => Stage::Paused,
            (_, true)
                if paused == has && self.group.is_open() && self.rest.is_none_or(Consuming::is_open) =>
            {
                Stage::CutOver
            }
            (_, true) => Stage::Opening,
            (_, false) if paused == has => Stage::HalfDone,
            (_, false) => Stage::HalfPaused,
        }
    }

    /// Whether the pause is a cutover's to this group.
    pub(super) fn is_ours(&self) -> Result<(), Trouble> {
        if self.barrier.is_none() {
            let detail = "the channel is paused, and no cutover did it";
            return Err(Trouble::new(Reason::ChannelPaused, detail));
        }
        if self.elsewhere {
            let detail = "the channel was cut over to a consumer group of another name";
            return Err(Trouble::new(Reason::AnotherGroup, detail));
        }
        Ok(())
    }
}
