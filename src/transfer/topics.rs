//! Which topics are relayed: those named, or those RocketMQ has whose NSQ names match, new ones are found while running; and what is left
//! of which shares.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Shared, topic::TopicRelay};
use crate::{
    mapping::{Feed, Share},
    nsq::names::{TopicName, TopicPattern},
    rocketmq::ClusterError,
};

/// New topics are looked for this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Which topics to relay.
#[derive(Debug, Clone, Default)]
pub struct Topics {
    /// These, whether RocketMQ has them yet or not.
    pub named: BTreeSet<TopicName>,
    /// And every one RocketMQ has whose NSQ name this matches.
    pub pattern: Option<TopicPattern>,
    /// And what is left to these channels of theirs.
    pub shares: BTreeSet<Share>,
}

impl Topics {
    /// Those that need not be looked for.
    fn named(&self) -> BTreeSet<Feed> {
        let shares = self.shares.iter().cloned().map(Feed::Share);
        self.named.iter().map(Feed::from).chain(shares).collect()
    }
}

/// Relays until `drain`, and then until every topic's relay has ended.
pub(super) async fn relay_all(shared: Arc<Shared>, drain: CancellationToken) {
    let mut relays = JoinSet::new();
    let mut relayed = BTreeSet::new();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            () = drain.cancelled() => break,
            Some(ended) = relays.join_next() => {
                let ended: Result<Feed, tokio::task::JoinError> = ended;
                match ended {
                    // Ended by a drain, or by its gate; that is looked at again with the next look.
                    Ok(feed) => drop(relayed.remove(&feed)),
                    Err(error) => {
                        error!(%error, "a relay failed by a fault of this program; all are begun again");
                        relays.shutdown().await;
                        relayed.clear();
                    }
                }
            }
            _ = looks.tick() => {
                let wanted = match wanted(&shared).await {
                    Ok(wanted) => {
                        failing = false;
                        wanted
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut failing, true) {
                            warn!(%error, "cannot look for topics; will keep trying");
                        }
                        shared.config.topics.named()
                    }
                };
                shared.topics.store(wanted.len().max(relayed.len()), Ordering::Relaxed);
                for feed in wanted {
                    if relayed.insert(feed.clone()) {
                        let (shared, drain) = (Arc::clone(&shared), drain.clone());
                        relays.spawn(async move {
                            TopicRelay::new(shared, feed.clone()).run(drain).await;
                            feed
                        });
                    }
                }
            }
        }
    }
    while relays.join_next().await.is_some() {}
}

async fn wanted(shared: &Shared) -> Result<BTreeSet<Feed>, ClusterError> {
    let Shared { cluster, config, .. } = shared;
    let mut wanted = config.topics.named();
    let Some(pattern) = &config.topics.pattern else { return Ok(wanted) };
    // RocketMQ keeps a topic for each broker and for the cluster under their own names.
    let kept = cluster.kept_topics().await?;
    let before = wanted.len();
    for topic in cluster.topics().await?.difference(&kept) {
        let Some(name) = config.names.nsq_topic(topic) else { continue };
        if pattern.matches(&name) {
            wanted.insert(Feed::Topic(name));
        }
    }
    if wanted.len() != before && wanted.len() != shared.topics.load(Ordering::Relaxed) {
        info!(topics = wanted.len(), "topics to relay");
    }
    Ok(wanted)
}
