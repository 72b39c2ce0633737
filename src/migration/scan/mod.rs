//! A running NSQ, looked at twice: what `nsqbridge scan` shows, and what a plan is held against.
//!
//! ```text
//! here         asks nsqlookupds and nsqds; changes nothing
//! inventory    what two looks amount to: topics, channels, rates, clients
//! libraries    what is known of a consumer by the name of its library
//! show         the inventory, for people
//! ```

mod inventory;
mod libraries;
mod show;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::Instant;

pub use self::{
    inventory::{
        Channel, Client, Inventory, Nsqd as NsqdSeen, Nsqlookupd as NsqlookupdSeen, Topic, inventory,
    },
    show::table,
};
use crate::nsq::{
    address::HttpAddress,
    clients::ClientStats,
    names::{ChannelName, TopicName},
    nsqd::{HttpError, Nsqd, Stats},
    nsqlookupd::{Node, Nsqlookupd},
};

/// Where to look.
#[derive(Debug)]
pub struct Sources {
    /// The nsqlookupds, whose nsqds are looked at as well.
    pub nsqlookupds: Vec<Nsqlookupd>,
    /// Nsqds.
    pub nsqds: Vec<Nsqd>,
    /// Time between the two looks.
    pub sample: Duration,
    /// How long each question may take.
    pub timeout: Duration,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// What each nsqlookupd listed, or why nothing.
    pub nsqlookupds: BTreeMap<HttpAddress, Result<Vec<Node>, String>>,
    /// The channels nsqlookupds know of each topic; they outlive the nsqds that had them.
    pub registered: BTreeMap<TopicName, BTreeSet<ChannelName>>,
    /// Each nsqd.
    pub nsqds: BTreeMap<HttpAddress, SeenNsqd>,
    /// The time between the looks.
    pub apart: Duration,
}

/// One nsqd.
#[derive(Debug)]
pub struct SeenNsqd {
    /// The topics it is not to be used for, as an nsqlookupd says.
    pub tombstoned: BTreeSet<TopicName>,
    /// What it said at first; or why nothing.
    pub before: Result<Stats, String>,
    /// What it said then.
    pub after: Result<Stats, String>,
    /// Who publishes to each topic over TCP.
    pub producers: BTreeMap<TopicName, Vec<ClientStats>>,
}

/// Looks twice.
pub async fn look(sources: &Sources) -> Seen {
    let mut seen = Seen::default();
    let mut nsqds: BTreeMap<HttpAddress, Nsqd> =
        sources.nsqds.iter().map(|nsqd| (nsqd.address().clone(), nsqd.clone())).collect();
    let mut tombstoned: BTreeMap<HttpAddress, BTreeSet<TopicName>> = BTreeMap::new();
    let asked = sources.nsqlookupds.iter().map(|lookupd| async move {
        let nodes = within(sources.timeout, lookupd.nodes()).await;
        (lookupd.address().clone(), nodes)
    });
    for (lookupd, nodes) in join_all(asked).await {
        for node in nodes.iter().flatten() {
            nsqds.entry(node.address.clone()).or_insert_with(|| Nsqd::new(node.address.clone()));
            tombstoned.entry(node.address.clone()).or_default().extend(node.tombstoned.iter().cloned());
        }
        seen.nsqlookupds.insert(lookupd, nodes);
    }
    let before = all(&nsqds, sources.timeout).await;
    let started = Instant::now();
    tokio::time::sleep(sources.sample).await;
    let mut after = all(&nsqds, sources.timeout).await;
    seen.apart = started.elapsed();

    let mut topics = BTreeSet::new();
    for (address, before) in before {
        let after = after.remove(&address).unwrap_or_else(|| Err("was not asked again".to_owned()));
        let own =
            |stats: &Stats| stats.topics.iter().filter_map(|topic| topic.topic_name.parse().ok()).collect();
        let own: Vec<TopicName> = after.as_ref().map(own).unwrap_or_default();
        let publishes = after.as_ref().is_ok_and(|stats| !stats.producers.is_empty());
        let producers = match nsqds.get(&address) {
            Some(nsqd) if publishes => producers(nsqd, &own, sources.timeout).await,
            _ => BTreeMap::new(),
        };
        topics.extend(own);
        let tombstoned = tombstoned.remove(&address).unwrap_or_default();
        seen.nsqds.insert(address, SeenNsqd { tombstoned, before, after, producers });
    }
    let listed = seen.nsqlookupds.values().flatten().flatten();
    topics.extend(listed.flat_map(|node| node.topics.iter().cloned()));
    for lookupd in &sources.nsqlookupds {
        for topic in &topics {
            // One that does not answer has been told of already.
            let Ok(channels) = within(sources.timeout, lookupd.channels(topic)).await else { break };
            seen.registered.entry(topic.clone()).or_default().extend(channels);
        }
    }
    seen
}

async fn all(
    nsqds: &BTreeMap<HttpAddress, Nsqd>,
    timeout: Duration,
) -> BTreeMap<HttpAddress, Result<Stats, String>> {
    let asked = nsqds.iter().map(|(address, nsqd)| async move {
        (address.clone(), within(timeout, nsqd.stats_with_clients(None)).await)
    });
    join_all(asked).await.into_iter().collect()
}

/// Who publishes to each topic. Without a topic in the question, nsqd tells only one topic of each producer.
async fn producers(
    nsqd: &Nsqd,
    topics: &[TopicName],
    timeout: Duration,
) -> BTreeMap<TopicName, Vec<ClientStats>> {
    let mut producers = BTreeMap::new();
    for topic in topics {
        let Ok(mut stats) = within(timeout, nsqd.stats_with_clients(Some(topic))).await else { break };
        stats
            .producers
            .retain(|producer| producer.pub_counts.iter().any(|published| published.topic == topic.as_str()));
        producers.insert(topic.clone(), stats.producers);
    }
    producers
}

async fn within<T>(
    timeout: Duration,
    asked: impl Future<Output = Result<T, HttpError>>,
) -> Result<T, String> {
    match tokio::time::timeout(timeout, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}
