//! Which channels are done with, and are not to be created again; and which are parked, because their consumer has moved.
//!
//! A channel that is missing on an nsqd was lost with it, as far as a relay can tell, and is created there. One whose consumer has moved
//! for good is deleted with `nsqbridge complete`; that leaves a consumer group in RocketMQ, named after the channel, whose being
//! there is the word to all relays, running or started later. Nothing is created before the groups were read once. A cutover leaves a group
//! as well, which says in the same way that a paused channel is parked.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tracing::{debug, warn};

use crate::{
    retry::Backoff,
    rocketmq::{Cluster, ClusterError},
};

/// The groups are read again this often: an instance that was away when a channel was completed hears of it here.
const READ_EVERY: Duration = Duration::from_secs(30);

/// The groups that say so.
#[derive(Debug)]
pub(super) struct Completed {
    groups: Mutex<Groups>,
    read: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Groups {
    /// As last read.
    read: BTreeSet<String>,
    /// Told by whoever completes a channel, perhaps while they were being read.
    told: BTreeSet<String>,
}

impl Default for Completed {
    fn default() -> Self {
        Self { groups: Mutex::default(), read: watch::channel(false).0 }
    }
}

impl Completed {
    /// Reads the groups again and again.
    pub(super) async fn keep_reading(self: std::sync::Arc<Self>, cluster: Cluster) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut refused = false;
        loop {
            // They are on every master, so one that answers is enough.
            let wait = match cluster.groups_known().await {
                Ok(groups) => {
                    self.lock().read = groups;
                    self.read.send_replace(true);
                    backoff.reset();
                    READ_EVERY
                }
                Err(error @ ClusterError::Refused { .. }) => {
                    if !std::mem::replace(&mut refused, true) {
                        warn!(%error, "this account may not list consumer groups, so a completed channel may be created again");
                    }
                    self.read.send_replace(true);
                    READ_EVERY
                }
                Err(error) => {
                    debug!(%error, "which channels are completed is not known yet");
                    backoff.next_delay()
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the groups were read once.
    pub(super) async fn known(&self) {
        // The sender is part of this value.
        let _ = self.read.subscribe().wait_for(|read| *read).await;
    }

    /// Takes note that this group will be there.
    pub(super) fn add(&self, group: String) {
        self.lock().told.insert(group);
    }

    /// What the groups with this beginning are called behind it.
    pub(super) fn of_topic(&self, beginning: &str) -> Vec<String> {
        let groups = self.lock();
        let all = groups.read.union(&groups.told);
        all.filter_map(|group| group.strip_prefix(beginning).map(str::to_owned)).collect()
    }

    pub(super) fn has(&self, group: &str) -> bool {
        let groups = self.lock();
        groups.read.contains(group) || groups.told.contains(group)
    }
}
