//! Whether what is left of a share may be relayed: from the cutover that parts the two sides until the rollback that joins them.
//!
//! Before and after, the channel itself gets everything, and whatever came to its own topic as well would come twice. So the relay's consumer
//! group is not its own to create: a cutover creates it with a place on every queue, closed, and opens it once the two sides are parted;
//! a rollback closes it before the channel delivers again. Brokers refuse every pull of a closed group. One that is open without the
//! word of a cutover by share, which is a group as well, was created by the heartbeat of an instance.
//!
//! It is looked at before any queue is locked. So whoever has closed it, and finds no queue locked, knows that nobody relays.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    mapping::{Names, Share},
    rocketmq::{Cluster, ClusterError},
};

/// It is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The gate of one share.
#[derive(Debug)]
pub(super) struct Gate {
    cluster: Cluster,
    share: Share,
    /// The relay's group, the word of the cutover, and the topic that the NSQ topic would be in RocketMQ.
    group: String,
    word: String,
    namesake: String,
    look_at: Instant,
}

impl Gate {
    pub(super) fn new(cluster: Cluster, names: &Names, share: Share, group: String) -> Self {
        let word = names.share_group(&share.channel().topic, &share.channel().channel);
        let namesake = names.rocketmq_topic(share.topic());
        Self { cluster, share, group, word, namesake, look_at: Instant::now() }
    }

    /// Why it may not be begun; nothing when it may.
    ///
    /// # Errors
    /// When that cannot be said now.
    pub(super) async fn keeps_out(&self) -> Result<Option<String>, ClusterError> {
        let Self { cluster, share, group, word, namesake, .. } = self;
        let [consuming, word] = cluster.consuming_known([group, word]).await?;
        if !consuming.exists() || !word.exists() {
            return Ok(Some(format!("by share only after `nsqbridge cutover {share} --share`")));
        }
        if consuming.closed > 0 {
            let why = "a cutover or rollback of the channel is under way, or was interrupted";
            return Ok(Some(format!("{why}: see `nsqbridge status {share}`")));
        }
        match cluster.fresh_route(namesake).await {
            Ok(_) => Ok(Some(format!("RocketMQ has a topic {namesake}, to which {} belongs", share.topic()))),
            Err(ClusterError::UnknownTopic(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it is open.
    ///
    /// # Errors
    /// When that cannot be said now: then no queue is to be locked.
    pub(super) async fn look(&self) -> Result<bool, ClusterError> {
        let [consuming, word] = self.cluster.consuming_known([&self.group, &self.word]).await?;
        Ok(consuming.open > 0 && consuming.closed == 0 && word.exists())
    }

    /// The same, as it was seen a moment ago at the earliest.
    ///
    /// # Errors
    /// When that cannot be said now.
    pub(super) async fn is_open(&mut self) -> Result<bool, ClusterError> {
        if Instant::now() < self.look_at {
            return Ok(true);
        }
        let open = self.look().await?;
        self.look_at = Instant::now() + LOOK_EVERY;
        Ok(open)
    }
}
