//! How far one channel is, and why it is not further.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    refusal::Trouble,
    subject::{Places, Stage, Subject, World},
};
use crate::{
    rocketmq::{Queue, reader::Bounds},
    transfer::fence::FenceReport,
};

/// How far one channel is.
#[derive(Debug, Serialize)]
pub struct ChannelStatus {
    /// `TOPIC/CHANNEL`.
    pub channel: String,
    /// The group it becomes, or has become.
    pub group: String,
    /// How far it is.
    pub stage: Stage,
    /// What that means, and what comes next.
    pub reason: &'static str,
    /// Messages of the channel in all nsqds: waiting, in flight, deferred.
    pub messages: [u64; 3],
    /// Whether the group may consume; nothing while there is no group.
    pub group_open: Option<bool>,
    /// Consumers of the group.
    pub consumers: usize,
    /// Messages the group has still to consume.
    pub lag: Option<i64>,
    /// Messages its consumers failed too often, in `%DLQ%GROUP`; RocketMQ counts them as consumed.
    pub dead_letters: Option<i64>,
    /// Messages it has consumed since the cutover; they come again after a rollback that takes the new consumers for broken.
    pub since_barrier: Option<i64>,
    /// Where the cutover drew the line, queue by queue.
    pub barrier: Vec<Place>,
    /// What a cutover by share has left to the old consumer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest: Option<RestStatus>,
    /// The fence, while there is one.
    pub fence: Option<FenceReport>,
}

/// What a cutover by share has left to the old consumer.
#[derive(Debug, Serialize)]
pub struct RestStatus {
    /// The NSQ topic it goes to.
    pub topic: String,
    /// Whether it may be relayed.
    pub open: bool,
    /// Instances that relay it.
    pub relays: usize,
    /// Messages that have still to be looked at for it.
    pub lag: i64,
    /// Messages in the topic in all nsqds: waiting, in flight, deferred.
    pub messages: [u64; 3],
}

/// A place in a queue.
#[derive(Debug, Serialize)]
pub struct Place {
    /// The queue's broker.
    pub broker: String,
    /// Its number there.
    pub queue: i32,
    /// The offset.
    pub offset: i64,
}

/// Reads it.
///
/// # Errors
/// When somebody who must be asked does not answer.
pub async fn status(subject: &Subject) -> Result<ChannelStatus, Trouble> {
    let world = subject.read().await?;
    let stage = world.stage();
    let (mut lag, mut since_barrier, mut dead_letters) = (None, None, None);
    if world.group.exists() {
        let at = subject.places_of(&subject.group).await?;
        let bounds = subject.cluster.topic_stats(&subject.rocketmq_topic()).await?;
        lag = Some(self::lag(&at, &bounds));
        dead_letters = Some(subject.dead_letters().await?);
        let beyond = |(queue, barrier): (_, &i64)| (at.get(queue).unwrap_or(barrier) - barrier).max(0);
        since_barrier = world.barrier.as_ref().map(|barrier| barrier.iter().map(beyond).sum());
    }
    let rest = rest(subject, &world).await?;
    let fences = world.instances.iter().filter_map(|instance| instance.report.as_ref().ok()?.fence.clone());
    let place = |(queue, offset): (Queue, i64)| Place { broker: queue.broker, queue: queue.id, offset };
    Ok(ChannelStatus {
        channel: subject.path().to_string(),
        group: subject.group.clone(),
        stage,
        reason: match (world.elsewhere, stage, &rest) {
            (true, ..) => ELSEWHERE,
            (_, Stage::CutOver, Some(_)) => BY_SHARE,
            _ => meaning(stage),
        },
        messages: world.look.messages(),
        group_open: world.group.exists().then_some(world.group.open > 0),
        consumers: world.members.len(),
        lag,
        dead_letters,
        since_barrier,
        rest,
        fence: fences.max_by_key(|fence| fence.left_ms),
        barrier: world.barrier.into_iter().flatten().map(place).collect(),
    })
}

async fn rest(subject: &Subject, world: &World) -> Result<Option<RestStatus>, Trouble> {
    let (Some(side), Some(consuming)) = (subject.rest(world).await?, world.rest) else { return Ok(None) };
    let group = subject.feed_group(&side.feed);
    let (stands, look) = subject.rest_stands(&side).await?;
    let bounds = subject.cluster.topic_stats(&subject.rocketmq_topic()).await?;
    let [waiting, in_flight, deferred] = look.messages();
    Ok(Some(RestStatus {
        topic: side.feed.topic().to_string(),
        open: consuming.is_open(),
        relays: subject.cluster.members_of(&group).await?.len(),
        lag: lag(&stands, &bounds),
        messages: [waiting + look.uncopied(), in_flight, deferred],
    }))
}

/// Messages from these places to the ends of their queues.
pub(super) fn lag(places: &Places, bounds: &BTreeMap<Queue, Bounds>) -> i64 {
    let behind =
        |(queue, bounds): (_, &Bounds)| (bounds.max - places.get(queue).unwrap_or(&bounds.max)).max(0);
    bounds.iter().map(behind).sum()
}

const ELSEWHERE: &str =
    "it was cut over to a consumer group of another name: give that with --group, or a plan with -f";

const BY_SHARE: &str = "it is moved by share: what is stamped is the group's, the rest its old consumer's; `nsqbridge rollback` is the way back";

fn meaning(stage: Stage) -> &'static str {
    match stage {
        Stage::Active => "its consumers are NSQ's; `nsqbridge cutover` moves it",
        Stage::Paused => "somebody paused it, and no cutover did: unpause it, or leave it alone",
        Stage::HalfPaused | Stage::HalfDone => {
            "a cutover or rollback was interrupted, and nobody consumes: run it again"
        }
        Stage::Opening => "a cutover was interrupted at its end: run it again",
        Stage::CutOver => {
            "its consumers are RocketMQ's; `nsqbridge rollback` is the way back, `complete` ends it"
        }
        Stage::Completed => "it is done with, and no relay creates it again",
        Stage::Missing => "no nsqd has it",
    }
}

/// For people.
#[must_use]
pub fn text(status: &ChannelStatus) -> String {
    let [waiting, in_flight, deferred] = status.messages;
    let number = |value: Option<i64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let group = match status.group_open {
        None => "not there",
        Some(true) => "open",
        Some(false) => "closed",
    };
    let rest = status.rest.as_ref().map_or_else(String::new, |rest| {
        let RestStatus { topic, open, relays, lag, messages: [waiting, in_flight, deferred] } = rest;
        let closed = if *open { "" } else { ", closed" };
        format!(
            "the rest       {topic}: {relays} relays{closed}, lag {lag}; in nsqd {waiting} waiting, {in_flight} in flight, {deferred} deferred\n"
        )
    });
    let fence = status.fence.as_ref().map_or_else(String::new, |fence| {
        format!("fence          {}, {} ms left\n", fence.owner, fence.left_ms)
    });
    format!(
        "channel        {}\nstage          {:?}: {}\nin nsqd        {waiting} waiting, {in_flight} in flight, {deferred} deferred\n\
         group          {} ({group}), {} consumers\nlag            {}\ndead letters   {}\nsince barrier  {}\n{rest}{fence}",
        status.channel,
        status.stage,
        status.reason,
        status.group,
        status.consumers,
        number(status.lag),
        number(status.dead_letters),
        number(status.since_barrier),
    )
}
