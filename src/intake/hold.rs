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
    /// Whoever lets go of what nobody holds has done so meanwhile.
    #[error("the topic was let go on {0} while it was being held")]
    LetGo(String),
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

/// Whether it is there. It is on every broker, so one that answers is enough.
async fn is_written(cluster: &Cluster, mark: &str) -> Result<bool, ClusterError> {
    let [mark] = cluster.consuming_known([mark]).await?;
    Ok(mark.exists())
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
    Ok(is_written(cluster, &mark(names, topic, nsqd).await?).await?)
}

/// Whether the topic is paused, whoever did it.
///
/// # Errors
/// When nsqd does not say.
pub async fn is_paused(topic: &TopicName, nsqd: &Nsqd) -> Result<bool, HttpError> {
    let stats = nsqd.stats(Some(topic)).await?;
    Ok(stats.topics.iter().any(|of| of.topic_name == topic.as_str() && of.paused))
}

/// Whether nobody else has paused it.
///
/// # Errors
/// See [`HoldError`].
pub async fn may_begin(
    cluster: &Cluster,
    names: &Names,
    topic: &TopicName,
    nsqd: &Nsqd,
) -> Result<(), HoldError> {
    // In this order: a driver unpauses it first, and then deletes what is written down.
    if !is_held(cluster, names, topic, nsqd).await? && is_paused(topic, nsqd).await? {
        return Err(HoldError::Paused(nsqd.address().to_string()));
    }
    Ok(())
}

/// Holds it. Whoever does has a fence in force by then, or it is let go at once.
///
/// # Errors
/// See [`HoldError`]. It may be paused all the same, now or when a question that went unanswered arrives late: [`unpause`] it, and leave
/// written down that it is held, for whoever finds it so.
pub async fn hold(cluster: &Cluster, names: &Names, topic: &TopicName, nsqd: &Nsqd) -> Result<(), HoldError> {
    let mark = mark(names, topic, nsqd).await?;
    // Kept closed, for nobody consumes with it; on every broker, for one may go away meanwhile.
    cluster.set_consuming(&mark, false).await?;
    nsqd.pause_topic(topic).await?;
    // Without it nobody would let the topic go.
    match is_written(cluster, &mark).await? {
        true => Ok(()),
        false => {
            // It was let go before this pause came: nobody else knows of it.
            unpause(topic, nsqd).await?;
            Err(HoldError::LetGo(nsqd.address().to_string()))
        }
    }
}

/// Lets it go, whatever is written down.
///
/// # Errors
/// See [`HoldError`]; repeating is safe.
pub async fn let_go(
    cluster: &Cluster,
    names: &Names,
    topic: &TopicName,
    nsqd: &Nsqd,
) -> Result<(), HoldError> {
    unpause(topic, nsqd).await?;
    forget(cluster, names, topic, nsqd).await
}

/// Forgets that it was held, once it is not.
///
/// # Errors
/// See [`HoldError`]; repeating is safe.
pub async fn forget(
    cluster: &Cluster,
    names: &Names,
    topic: &TopicName,
    nsqd: &Nsqd,
) -> Result<(), HoldError> {
    Ok(cluster.delete_group(&mark(names, topic, nsqd).await?).await?)
}

/// Lets it go, if it is held.
///
/// # Errors
/// See [`HoldError`]; repeating is safe.
pub async fn release(
    cluster: &Cluster,
    names: &Names,
    topic: &TopicName,
    nsqd: &Nsqd,
) -> Result<(), HoldError> {
    if is_held(cluster, names, topic, nsqd).await? {
        let_go(cluster, names, topic, nsqd).await?;
    }
    Ok(())
}

/// Lets the topic be copied to its channels again.
///
/// # Errors
/// When nsqd does not do it; repeating is safe.
pub async fn unpause(topic: &TopicName, nsqd: &Nsqd) -> Result<(), HttpError> {
    match nsqd.unpause_topic(topic).await {
        // A topic that is gone is not paused either.
        Ok(()) | Err(HttpError::Refused { status: 404, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
