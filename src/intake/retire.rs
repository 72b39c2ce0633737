//! The end of an intake, when no producer publishes to its nsqds any more.
//!
//! From then on a cutover takes the topic for one that only relays write to nsqd, and no longer pauses it. So that it is exact from
//! here on, everything the nsqds have had must be finished by their consumers, stored, and passed by the relay. Then the channels are
//! deleted, and last the group that says that there is an intake.

use std::time::Duration;

use super::IntakeConfig;
use crate::{
    nsq::{
        clients::ClientStats,
        names::TopicName,
        nsqd::{Nsqd, Stats},
    },
    rocketmq::Cluster,
};

/// Between two looks nothing must be published.
const APART: Duration = Duration::from_secs(5);

/// Why it is not retired.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRetired {
    /// It is too early.
    #[error("{0}")]
    TooEarly(String),
    /// Somebody does not answer, or refuses; repeating is safe.
    #[error("{0}")]
    Failed(String),
}

fn failed(error: impl ToString) -> NotRetired {
    NotRetired::Failed(error.to_string())
}

/// Deletes the channels and the mark of each topic.
///
/// # Errors
/// See [`NotRetired`]; what is deleted by then stays so.
pub async fn retire(cluster: &Cluster, config: &IntakeConfig) -> Result<(), NotRetired> {
    for topic in &config.topics {
        nobody_takes_in(cluster, config, topic).await?;
        let before = published(config, topic).await?;
        tokio::time::sleep(APART).await;
        if published(config, topic).await? != before {
            return Err(still_published(topic));
        }
        is_passed(cluster, config, topic).await?;
        nobody_takes_in(cluster, config, topic).await?;
        // As late as can be: what comes between this and the end is in no channel of ours.
        if published(config, topic).await? != before {
            return Err(still_published(topic));
        }
        for nsqd in &config.nsqds {
            nsqd.delete_channel(topic, &config.channel).await.map_err(failed)?;
        }
        cluster.delete_group(&config.names.intake_group(topic)).await.map_err(failed)?;
    }
    Ok(())
}

fn still_published(topic: &TopicName) -> NotRetired {
    NotRetired::TooEarly(format!("somebody still publishes {topic} to one of these nsqds"))
}

/// Whether no intake of the topic runs, here or elsewhere.
async fn nobody_takes_in(
    cluster: &Cluster,
    config: &IntakeConfig,
    topic: &TopicName,
) -> Result<(), NotRetired> {
    let group = config.names.intake_group(topic);
    match cluster.members_of(&group).await.map_err(failed)?.into_keys().next() {
        Some(intake) => {
            let reason =
                format!("{intake} still takes {topic} in, perhaps from another nsqd: stop that first");
            Err(NotRetired::TooEarly(reason))
        }
        None => Ok(()),
    }
}

/// What every nsqd process has had published, once everything of it is finished.
async fn published(config: &IntakeConfig, topic: &TopicName) -> Result<Vec<(i64, u64)>, NotRetired> {
    let mut published = Vec::new();
    for nsqd in &config.nsqds {
        let stats = nsqd.stats_with_clients(Some(topic)).await.map_err(failed)?;
        published.push(finished(config, topic, nsqd, &stats)?);
    }
    Ok(published)
}

fn finished(
    config: &IntakeConfig,
    topic: &TopicName,
    nsqd: &Nsqd,
    stats: &Stats,
) -> Result<(i64, u64), NotRetired> {
    let early = |what: String| Err(NotRetired::TooEarly(format!("{} {what}", nsqd.address())));
    let publishes = |client: &&ClientStats| client.pub_counts.iter().any(|of| of.topic == topic.as_str());
    if let Some(producer) = stats.producers.iter().find(publishes) {
        let from = &producer.remote_address;
        return early(format!("has a producer of {topic} connected, {from}, however seldom it publishes"));
    }
    let Some(of) = stats.topics.iter().find(|of| of.topic_name == topic.as_str()) else {
        return Ok((stats.start_time, 0));
    };
    if of.paused || of.depth > 0 {
        return early(format!("has messages of {topic} that are in no channel yet, or the topic is paused"));
    }
    for channel in &of.channels {
        let ours = channel.channel_name == config.channel.as_str();
        if ours && !channel.clients.is_empty() {
            return early(format!("still has an intake of {topic}: stop that first"));
        }
        // A consumer that was cut over has left its channel paused, and has these from RocketMQ.
        if channel.paused && !ours {
            continue;
        }
        let left = channel.depth + channel.in_flight_count + channel.deferred_count;
        if left > 0 {
            return early(format!("has {left} messages in {topic}/{}", channel.channel_name));
        }
    }
    Ok((stats.start_time, of.message_count))
}

/// Whether the relay, if there is one, has passed everything that is stored by now.
async fn is_passed(cluster: &Cluster, config: &IntakeConfig, topic: &TopicName) -> Result<(), NotRetired> {
    let group = config.names.relay_group(&config.group_prefix, topic);
    if !cluster.groups().await.map_err(failed)?.contains(&group) {
        return Ok(());
    }
    let queues = cluster.consume_stats(&group, &config.names.rocketmq_topic(topic)).await.map_err(failed)?;
    match queues.iter().find(|(_, progress)| progress.consumer_offset < progress.broker_offset) {
        Some((queue, progress)) => Err(NotRetired::TooEarly(format!(
            "the relay has {} messages of {queue} before it: wait for it, or try again",
            progress.broker_offset - progress.consumer_offset
        ))),
        None => Ok(()),
    }
}
