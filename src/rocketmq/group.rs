//! Membership in a consumer group: who shares a topic's queues, and which of them are mine.
//!
//! Members find each other through heartbeats to every master. Each computes the same allocation from the sorted members and
//! queues, so views differ for a while when somebody comes or goes; the broker's queue locks decide then. A lock is a
//! lease: 60 s on the broker from the last renewal, and for its holder [`LEASE`] from the moment it *asked*.
//!
//! Brokers are asked side by side: the locks of one must not run out while others, frozen perhaps, are waited for.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{debug, warn};

use super::{
    cluster::{Cluster, ClusterError, heartbeat, malformed, those_that_answer},
    codes::request,
    command::Command,
    producer::unix_millis,
    route::{Queue, Route},
};

/// How long a granted lock may be relied on without renewal; half of what the broker grants.
pub const LEASE: Duration = Duration::from_secs(30);
/// The other half: so long after a lease has ended nobody else has the lock.
pub const LOCKED_BEYOND: Duration = LEASE;

/// A member that beats this often is missed soon by nobody, and known to a restarted broker soon.
const BEAT_EVERY: Duration = Duration::from_secs(5);

/// One client's membership in a group, for one topic. Dropping it stops the heartbeats; [`Member::leave`] says goodbye.
#[derive(Debug)]
pub struct Member {
    cluster: Cluster,
    group: String,
    topic: String,
    beating: Option<Beating>,
}

/// A member's heartbeats.
#[derive(Debug)]
struct Beating {
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

/// What became of a request for locks. A queue in neither set is one whose broker did not answer.
#[derive(Debug, Clone)]
pub struct Locked {
    /// Queues this client holds the lock of.
    pub granted: HashSet<Queue>,
    /// Queues somebody else holds the lock of.
    pub refused: HashSet<Queue>,
    /// Until when the granted locks may be relied on.
    pub until: Instant,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LockQueue {
    topic: String,
    broker_name: String,
    queue_id: i32,
}

#[derive(Deserialize)]
struct LockAnswer {
    #[serde(rename = "lockOKMQSet")]
    locked: Vec<LockQueue>,
}

#[derive(Deserialize)]
struct MembersAnswer {
    #[serde(rename = "consumerIdList")]
    members: Vec<String>,
}

/// The members, or the locked queues, that an answer names.
#[cfg(feature = "fuzzing")]
pub(crate) fn named(answer: &[u8]) -> usize {
    let members = serde_json::from_slice::<MembersAnswer>(answer).map_or(0, |answer| answer.members.len());
    members + serde_json::from_slice::<LockAnswer>(answer).map_or(0, |answer| answer.locked.len())
}

impl Member {
    /// Joins: beats once to every master of the topic, and goes on in the background.
    ///
    /// # Errors
    /// When the topic has no route. A broker that does not answer now is told later.
    pub async fn join(cluster: Cluster, group: &str, topic: &str) -> Result<Self, ClusterError> {
        let route = cluster.route(topic).await?;
        let beat = consumer_data(group, topic);
        let beats = route.masters().map(async |(broker, address)| {
            if let Err(error) = send_beat(&cluster, address, &beat).await {
                warn!(group, broker, %error, "first heartbeat failed; it will be repeated");
            }
        });
        join_all(beats).await;
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep_beating(cluster.clone(), topic.to_owned(), beat, stop.clone()));
        let beating = Some(Beating { stop, task: AbortOnDropHandle::new(task) });
        Ok(Self { cluster, group: group.to_owned(), topic: topic.to_owned(), beating })
    }

    /// For locks only: it beats to nobody, and so gets no share of the queues.
    #[must_use]
    pub fn unannounced(cluster: Cluster, group: &str, topic: &str) -> Self {
        Self { cluster, group: group.to_owned(), topic: topic.to_owned(), beating: None }
    }

    /// Everybody in the group now, as all masters that answer know it together; sorted.
    ///
    /// # Errors
    /// When no master answers, or the route has none.
    pub async fn members(&self) -> Result<Vec<String>, ClusterError> {
        let route = self.cluster.route(&self.topic).await?;
        let asking = route.masters().map(|(_, address)| self.members_known_to(address));
        let known = those_that_answer(join_all(asking).await)?;
        if known.is_empty() {
            return Err(ClusterError::NoBroker);
        }
        let members: BTreeSet<String> = known.into_iter().flatten().collect();
        Ok(members.into_iter().collect())
    }

    async fn members_known_to(&self, address: &str) -> Result<Vec<String>, ClusterError> {
        let asked = format!("the members of {}", self.group);
        let command =
            Command::request(request::GET_CONSUMER_LIST_BY_GROUP).field("consumerGroup", &self.group);
        let answer = self.cluster.ask(address, &asked, command).await?;
        let known: MembersAnswer =
            serde_json::from_slice(&answer.body).map_err(|error| malformed(address, &asked, error))?;
        Ok(known.members)
    }

    /// Locks what can be locked of `queues`, or renews it. A broker that does not answer grants nothing.
    pub async fn lock(&self, queues: &[Queue]) -> Locked {
        let until = Instant::now() + LEASE;
        let mut locked = Locked { granted: HashSet::new(), refused: HashSet::new(), until };
        let asking = by_broker(queues).into_iter().map(async |(broker, of_broker)| {
            let answer = self.lock_at(&broker, &of_broker).await;
            (broker, of_broker, answer)
        });
        for (broker, of_broker, answer) in join_all(asking).await {
            match answer {
                Ok(known) => {
                    let (granted, refused): (Vec<_>, Vec<_>) =
                        of_broker.into_iter().cloned().partition(|queue| known.contains(queue));
                    locked.granted.extend(granted);
                    locked.refused.extend(refused);
                }
                Err(error) => debug!(group = self.group, broker, %error, "no locks from this broker"),
            }
        }
        locked
    }

    async fn lock_at(&self, broker: &str, queues: &[&Queue]) -> Result<Vec<Queue>, ClusterError> {
        let (address, answer) = self.ask_about(broker, queues, request::LOCK_BATCH_MQ, "queue locks").await?;
        let granted: LockAnswer = serde_json::from_slice(&answer.body)
            .map_err(|error| malformed(&address, "queue locks", error))?;
        let granted = granted.locked.into_iter();
        Ok(granted
            .map(|queue| Queue { topic: queue.topic, broker: queue.broker_name, id: queue.queue_id })
            .collect())
    }

    /// Gives locks back, as far as brokers answer; the others end with their lease.
    pub async fn unlock(&self, queues: &[Queue]) {
        let asking = by_broker(queues).into_iter().map(async |(broker, of_broker)| {
            let unlocked = self.ask_about(&broker, &of_broker, request::UNLOCK_BATCH_MQ, "an unlock").await;
            if let Err(error) = unlocked {
                warn!(group = self.group, broker, %error, "queues not unlocked; the next owner waits up to 60 s");
            }
        });
        join_all(asking).await;
    }

    async fn ask_about(
        &self,
        broker: &str,
        queues: &[&Queue],
        code: i32,
        asked: &str,
    ) -> Result<(String, Command), ClusterError> {
        let route = self.cluster.route(&self.topic).await?;
        let address = route.master(broker).ok_or_else(|| ClusterError::NoMaster(broker.to_owned()))?;
        let set: Vec<_> = queues
            .iter()
            .map(|queue| LockQueue {
                topic: queue.topic.clone(),
                broker_name: queue.broker.clone(),
                queue_id: queue.id,
            })
            .collect();
        let body = serde_json::json!({
            "consumerGroup": self.group,
            "clientId": self.cluster.config().client_id,
            "mqSet": set,
        });
        let answer = self.cluster.ask(address, asked, Command::request(code).body(body.to_string())).await?;
        Ok((address.to_owned(), answer))
    }

    /// Leaves the group, so that the others take over at once.
    pub async fn leave(self) {
        if let Some(Beating { stop, task }) = self.beating {
            stop.cancel();
            // One that came after the goodbye would make it a member again, whose share nobody has, for two minutes.
            let _ = task.await;
        }
        let route = self.cluster.route(&self.topic).await.unwrap_or_default();
        let leaving = route.masters().map(async |(broker, address)| {
            let command = Command::request(request::UNREGISTER_CLIENT)
                .field("clientID", &self.cluster.config().client_id)
                .field("consumerGroup", &self.group);
            if let Err(error) = self.cluster.ask(address, "to leave the group", command).await {
                warn!(group = self.group, broker, %error, "could not leave; the broker notices when the connection closes");
            }
        });
        join_all(leaving).await;
    }
}

/// The share of `me` when `queues` are split evenly among `members`, neighbours together
/// (`AllocateMessageQueueAveragely`). Nothing for somebody who is not a member.
#[must_use]
pub fn allocate(queues: &[Queue], members: &[String], me: &str) -> Vec<Queue> {
    let mut queues = queues.to_vec();
    queues.sort_unstable();
    let mut members: Vec<&str> = members.iter().map(String::as_str).collect();
    members.sort_unstable();
    members.dedup();
    let Some(index) = members.iter().position(|member| *member == me) else { return Vec::new() };
    let (even, extra) = (queues.len() / members.len(), queues.len() % members.len());
    let start = index * even + index.min(extra);
    let count = even + usize::from(index < extra);
    queues[start..start + count].to_vec()
}

fn by_broker(queues: &[Queue]) -> BTreeMap<String, Vec<&Queue>> {
    let mut map: BTreeMap<String, Vec<&Queue>> = BTreeMap::new();
    for queue in queues {
        map.entry(queue.broker.clone()).or_default().push(queue);
    }
    map
}

fn consumer_data(group: &str, topic: &str) -> serde_json::Value {
    serde_json::json!([{
        "groupName": group,
        "consumeType": "CONSUME_ACTIVELY",
        "messageModel": "CLUSTERING",
        "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET",
        "subscriptionDataSet": [{
            "topic": topic,
            "subString": "*",
            "expressionType": "TAG",
            "classFilterMode": false,
            "tagsSet": [],
            "codeSet": [],
            "subVersion": unix_millis(),
        }],
        "unitMode": false,
    }])
}

async fn send_beat(cluster: &Cluster, address: &str, data: &serde_json::Value) -> Result<(), ClusterError> {
    cluster.ask(address, "a heartbeat", heartbeat(&cluster.config().client_id, data)).await.map(drop)
}

async fn keep_beating(cluster: Cluster, topic: String, data: serde_json::Value, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(BEAT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let route: Arc<Route> = cluster.route(&topic).await.unwrap_or_default();
        let beats = route.masters().map(async |(broker, address)| {
            if let Err(error) = send_beat(&cluster, address, &data).await {
                debug!(broker, %error, "heartbeat failed");
            }
        });
        join_all(beats).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_queue_has_exactly_one_owner_and_shares_differ_by_one_at_most() {
        for queue_count in 0..20 {
            let queues: Vec<_> =
                (0..queue_count).map(|id| Queue { topic: "t".into(), broker: "b".into(), id }).collect();
            for member_count in 1..8 {
                let members: Vec<_> = (0..member_count).map(|n| format!("m{n}")).collect();
                let shares: Vec<_> = members.iter().map(|me| allocate(&queues, &members, me)).collect();
                let sizes = || shares.iter().map(Vec::len);
                assert_eq!(shares.concat(), queues);
                assert!(sizes().max() <= sizes().min().map(|min| min + 1));
            }
        }
        assert_eq!(allocate(&[], &[], "stranger"), []);
    }
}
