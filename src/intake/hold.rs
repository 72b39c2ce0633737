//! A topic that is held on an nsqd: paused while one of its consumers is moved, so that nothing new comes to its channels.
//!
//! The fence of a relay ends by itself; nsqd's pause does not. So before it is paused it is written down, as a group in RocketMQ, that it
//! is the bridge that does: a pause of an operator's is told apart, and whoever finds the group while nobody moves a consumer lets the
//! topic go on. That is the driver at its end, the next one, and the intake of that nsqd, which looks every few seconds.

use crate::{
    mapping::Names,
    nsq::{
        names::TopicName,
        nsqd::{HttpError, Nsqd},
    },
    rocketmq::{Cluster, ClusterError},
};

/// Why a topic is not held, or not let go.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Somebody else has paused it.
    #[error("the topic is paused on {0}, and no cutover did it")]
    Paused(String),
    /// nsqd does not answer, or refuses.
    #[error(transparent)]
    Nsqd(#[from] HttpError),
    /// RocketMQ does not.
    #[error(transparent)]
    Rocketmq(#[from] ClusterError),
}

/// What says so. nsqd's own name of itself is the same however it is reached and whenever it was started.
async fn mark(names: &Names, topic: &TopicName, nsqd: &Nsqd) -> Result<String, HttpError> {
    let info = nsqd.info().await?;
    Ok(names.held_group(topic, &format!("{}:{}", info.broadcast_address, info.tcp_port)))
}

/// Whether it is written down that the bridge paused it.
///
/// # Errors
/// See [`HoldError`].
pub async fn is_held(
    cluster: &Cluster,
    names: &Names,
    topic: &TopicName,
    nsqd: &Nsqd,
) -> Result<bool, HoldError> {
    Ok(cluster.consuming(&mark(names, topic, nsqd).await?).await?.exists())
}

/// Holds it. Whoever does has a fence in force by then, or it is let go at once.
///
/// # Errors
/// See [`HoldError`]; it may be paused all the same, and [`release`] undoes that.
pub async fn hold(cluster: &Cluster, names: &Names, topic: &TopicName, nsqd: &Nsqd) -> Result<(), HoldError> {
    let mark = mark(names, topic, nsqd).await?;
    if !cluster.consuming(&mark).await?.exists() {
        let stats = nsqd.stats(Some(topic)).await?;
        if stats.topics.iter().any(|of| of.topic_name == topic.as_str() && of.paused) {
            return Err(HoldError::Paused(nsqd.address().to_string()));
        }
    }
    // Kept closed, for nobody consumes with it; on every broker, for one may go away meanwhile.
    cluster.set_consuming(&mark, false).await?;
    Ok(nsqd.pause_topic(topic).await?)
}

/// Lets it go, if it is held; whether it was.
///
/// # Errors
/// See [`HoldError`]; repeating is safe.
pub async fn release(
    cluster: &Cluster,
    names: &Names,
    topic: &TopicName,
    nsqd: &Nsqd,
) -> Result<bool, HoldError> {
    let mark = mark(names, topic, nsqd).await?;
    if !cluster.consuming(&mark).await?.exists() {
        return Ok(false);
    }
    match nsqd.unpause_topic(topic).await {
        // A topic that is gone is not paused either.
        Ok(()) | Err(HttpError::Refused { status: 404, .. }) => {}
        Err(error) => return Err(error.into()),
    }
    cluster.delete_group(&mark).await?;
    Ok(true)
}
