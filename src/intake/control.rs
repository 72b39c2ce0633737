//! What other programs ask an intake, through the brokers, as they ask the relays.
//!
//! An intake is a member of the topic's intake group, in which nobody consumes: so it can be found and asked from anywhere that reaches
//! RocketMQ. It makes itself known before it takes anything in, and asks for a fence afterwards; whoever moves a consumer puts a fence up, and
//! asks for intakes afterwards. So one of the two always sees the other.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{IntakeConfig, metrics::Metrics};
use crate::{
    mapping::Names,
    nsq::names::TopicName,
    rocketmq::{Cluster, ClusterError, Described, admin::Answer, group::Member},
    table::align,
};

const REPORT: &str = "intake";

/// What one intake says of one topic.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct IntakeReport {
    /// Where it takes the topic in from.
    pub nsqds: Vec<InletReport>,
    /// Up to where it has stored messages, in each queue it has stored any in since it was started.
    pub stored_to: Vec<StoredTo>,
}

/// One nsqd of an [`IntakeReport`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InletReport {
    /// Its HTTP address, as the intake was told it.
    pub nsqd: String,
    /// Messages delivered and not finished.
    pub in_hand: i64,
    /// Messages stored since it was started.
    pub stored: u64,
    /// Why nothing is taken in; none while it is.
    pub waiting: Option<String>,
}

/// The end of what an intake has stored in a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredTo {
    /// The queue's broker.
    pub broker: String,
    /// Its number there.
    pub queue: i32,
    /// One past the last offset.
    pub offset: i64,
}

/// What one intake answered.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Its client id: host, process id and a random number.
    pub id: String,
    /// What it says; or why it says nothing.
    pub report: Result<IntakeReport, String>,
}

/// Asks every intake of the topic how it stands.
///
/// # Errors
/// When no broker can say which there are.
pub async fn ask(cluster: &Cluster, names: &Names, topic: &TopicName) -> Result<Vec<Instance>, ClusterError> {
    let group = names.intake_group(topic);
    let answers = cluster.ask_members(&group, &BTreeMap::new()).await?;
    let instance = |(id, answered): (_, Answer)| {
        let report = answered.map_err(|error| error.to_string()).and_then(|properties| {
            let report = properties.get(REPORT).ok_or("it is no intake of this program")?;
            serde_json::from_str(report).map_err(|error| error.to_string())
        });
        Instance { id, report }
    };
    Ok(answers.into_iter().map(instance).collect())
}

/// For people: a row for each nsqd of each intake; nothing where there is none.
#[must_use]
pub fn table(intakes: &[(TopicName, Vec<Instance>)]) -> String {
    let mut rows = Vec::new();
    for (topic, instances) in intakes {
        for Instance { id, report } in instances {
            let report = match report {
                Ok(report) => report,
                Err(error) => {
                    let state = format!("no answer: {error}");
                    rows.push([topic.as_str(), id, "?", "?", "?", &state].map(str::to_owned));
                    continue;
                }
            };
            for InletReport { nsqd, in_hand, stored, waiting } in &report.nsqds {
                let (in_hand, stored) = (in_hand.to_string(), stored.to_string());
                let state = waiting
                    .as_ref()
                    .map_or_else(|| "taking in".to_owned(), |reason| format!("HELD: {reason}"));
                rows.push([topic.as_str(), id, nsqd, &in_hand, &stored, &state].map(str::to_owned));
            }
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    rows.insert(0, ["TOPIC", "INTAKE", "NSQD", "IN HAND", "STORED", "STATE"].map(str::to_owned));
    align(&rows)
}

/// For programs.
#[must_use]
pub fn json(intakes: &[(TopicName, Vec<Instance>)]) -> Value {
    let instance = |Instance { id, report }: &Instance| match report {
        Ok(report) => json!({ "instance": id, "report": report }),
        Err(error) => json!({ "instance": id, "error": error }),
    };
    let topics = intakes.iter().map(|(topic, instances)| {
        let instances: Vec<Value> = instances.iter().map(instance).collect();
        json!({ "topic": topic.as_str(), "instances": instances })
    });
    topics.collect()
}

/// An intake that others can ask.
#[derive(Debug)]
pub(super) struct Known {
    member: Member,
    _described: Described,
}

impl Known {
    /// Makes it known. The group stays when it ends: what it has taken in has not gone away.
    pub(super) async fn make(
        cluster: &Cluster,
        config: &IntakeConfig,
        metrics: &Arc<Metrics>,
        topic: &TopicName,
    ) -> Result<Self, String> {
        let (group, stored_in) = (config.names.intake_group(topic), config.names.rocketmq_topic(topic));
        let (metrics, topic) = (Arc::clone(metrics), topic.clone());
        let answer = move |_: &BTreeMap<String, String>| {
            let report = serde_json::to_string(&metrics.report(&topic)).unwrap_or_default();
            BTreeMap::from([(REPORT.to_owned(), report)])
        };
        let joined = async {
            cluster.create_group(&group).await?;
            cluster.create_topic(&stored_in, config.topic_queues).await?;
            let described = cluster.describe(&group, Arc::new(answer));
            let member = Member::join(cluster.clone(), &group, &stored_in).await?;
            let members = member.members().await?;
            Ok::<_, ClusterError>((Self { member, _described: described }, members))
        };
        let (known, members) = joined.await.map_err(|error| error.to_string())?;
        if !members.contains(&cluster.config().client_id) {
            return Err(format!("no broker lists it among {group} yet"));
        }
        Ok(known)
    }

    /// Says goodbye.
    pub(super) async fn leave(self) {
        self.member.leave().await;
    }
}
