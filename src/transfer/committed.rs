//! What the brokers hold as committed, looked at for all queues of a topic at once.
//!
//! A relay reads each commit back. But one that has nothing to commit would not hear of a broker that went back to older offsets
//! when it crashed, or of somebody who has set them; so this asks every broker of the topic now and then, with one request each.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tracing::debug;

use crate::rocketmq::{Cluster, Queue};

/// The offsets are looked at this often.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(15);

/// The looks, the last of which can be seen.
pub(super) type Looks = watch::Receiver<Arc<Look>>;

/// The committed offsets of a topic's queues at one look.
#[derive(Debug)]
pub(super) struct Look {
    began: Instant,
    offsets: BTreeMap<Queue, i64>,
}

impl Look {
    /// What is committed for a queue; `None` if its broker did not say.
    pub(super) fn holds(&self, queue: &Queue) -> Option<i64> {
        self.offsets.get(queue).copied()
    }

    /// A commit that was answered before is seen.
    pub(super) fn began(&self) -> Instant {
        self.began
    }
}

/// Before the first look.
pub(super) fn unseen() -> (watch::Sender<Arc<Look>>, Looks) {
    watch::channel(Arc::new(Look { began: Instant::now(), offsets: BTreeMap::new() }))
}

/// Looks for as long as the topic is relayed.
pub(super) async fn keep_looking(
    cluster: Cluster,
    group: String,
    topic: String,
    every: Duration,
    looks: watch::Sender<Arc<Look>>,
) {
    loop {
        tokio::time::sleep(every).await;
        let began = Instant::now();
        match cluster.consume_stats(&group, &topic).await {
            Ok(stats) => {
                let offsets = stats.into_iter().map(|(queue, progress)| (queue, progress.consumer_offset));
                looks.send_replace(Arc::new(Look { began, offsets: offsets.collect() }));
            }
            Err(error) => debug!(topic, %error, "what is committed is not known now"),
        }
    }
}
