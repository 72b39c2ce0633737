//! What other programs ask a relay, through the brokers.
//!
//! A broker forwards the question for a consumer's running information (code 307), with everything the asker wrote in it,
//! to that consumer, and its answer back. So a relay can be asked from anywhere that reaches RocketMQ, without an address
//! of its own.

use std::collections::BTreeMap;

use tracing::info;

use super::{
    fence::FenceOrder,
    state::{TopicReport, TopicState},
};
use crate::{
    mapping::{Feed, Names},
    nsq::names::ChannelName,
    rocketmq::{Cluster, ClusterError, admin::Answer},
};

const REPORT: &str = "relay";
const PAUSE: &str = "relayPause";
const RATE: &str = "relayRate";
const FENCE: &str = "relayFence";
const LIFT: &str = "relayLift";
const COMPLETED: &str = "relayCompleted";

/// What may be changed while a relay runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Send nothing, or go on.
    Pause(bool),
    /// Send so many messages a second at most; 0 for any number.
    Rate(u64),
    /// Go no further than this for a while; what it reports says whether it does.
    Fence(FenceOrder),
    /// Take this owner's fence away.
    Lift(String),
    /// Create this channel no more: it is done with.
    Completed(ChannelName),
}

/// What one instance answered.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Its client id: host, process id and a random number.
    pub id: String,
    /// What it says; or why it says nothing.
    pub report: Result<TopicReport, String>,
}

/// Does what is asked, and tells how the relay stands.
pub(super) fn answer(state: &TopicState, asked: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    if let Some(paused) = asked.get(PAUSE).and_then(|text| text.parse().ok()) {
        info!(topic = %state.topic, paused, "paused or resumed by an operator");
        state.pace.change(|wish| wish.paused = paused);
    }
    if let Some(rate) = asked.get(RATE).and_then(|text| text.parse().ok()) {
        info!(topic = %state.topic, rate, "rate limit changed by an operator");
        state.pace.change(|wish| wish.rate = rate);
    }
    if let Some(order) = asked.get(FENCE).and_then(|text| serde_json::from_str::<FenceOrder>(text).ok()) {
        let owner = order.owner.clone();
        if state.fence.raise(order) {
            info!(topic = %state.topic, owner, "fenced: nothing new is sent");
        }
    }
    if let Some(owner) = asked.get(LIFT)
        && state.fence.lift(owner)
    {
        info!(topic = %state.topic, owner, "the fence is lifted");
    }
    if let Some(channel) = asked.get(COMPLETED).and_then(|text| text.parse().ok()) {
        state.destinations.complete(&channel);
    }
    let report = serde_json::to_string(&state.report()).unwrap_or_default();
    BTreeMap::from([(REPORT.to_owned(), report)])
}

/// Asks every instance that relays this how it stands, and to change something first.
///
/// # Errors
/// When no broker can say which instances there are.
pub async fn ask(
    cluster: &Cluster,
    names: &Names,
    group_prefix: &str,
    feed: &Feed,
    change: Option<Change>,
) -> Result<Vec<Instance>, ClusterError> {
    let group = names.feed_group(group_prefix, feed);
    let mut asked = BTreeMap::new();
    if let Some(change) = change {
        let (word, text) = match change {
            Change::Pause(paused) => (PAUSE, paused.to_string()),
            Change::Rate(rate) => (RATE, rate.to_string()),
            Change::Fence(order) => (FENCE, serde_json::to_string(&order).unwrap_or_default()),
            Change::Lift(owner) => (LIFT, owner),
            Change::Completed(channel) => (COMPLETED, channel.to_string()),
        };
        asked.insert(word.to_owned(), text);
    }
    let answers = cluster.ask_members(&group, &asked).await?;
    let instance = |(id, answered): (_, Answer)| {
        let report = answered.map_err(|error| error.to_string()).and_then(|properties| {
            let report =
                properties.get(REPORT).ok_or("it is no relay of this program, or of an older version")?;
            serde_json::from_str(report).map_err(|error| error.to_string())
        });
        Instance { id, report }
    };
    Ok(answers.into_iter().map(instance).collect())
}
