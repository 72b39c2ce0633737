//! Everything a plan is held against, looked at once. Asks, changes nothing, judges nothing.
//!
//! What could not be asked keeps its error, so that nobody takes it for "nothing there". Messages are looked at in the name of
//! `TOOLS_CONSUMER`, a group every broker has: another name would become a group by being used.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;

use super::{
    plan::{Audit, ChannelPlan, Plan},
    scan::{self, Inventory, Sources},
};
use crate::{
    audit::{
        reconcile::{Finding, Weight},
        report,
        verify::{self, Question},
    },
    doctor::{self, DoctorConfig},
    mapping::{NSQ_TOPIC, Names},
    nsq::{
        names::{ChannelName, TopicName},
        nsqd::Nsqd,
        nsqlookupd::Nsqlookupd,
    },
    rocketmq::{
        Cluster, ClusterConfig, ClusterError, Queue, QueueReader,
        producer::unix_millis,
        reader::{Bounds, LOOKER, Pull},
        record::StoredMessage,
    },
    transfer::{control, state::TopicReport},
};

/// What the doctor holds brokers against, where no gateway says otherwise: its own defaults.
const MAX_MSG_SIZE: usize = 1_048_576;
const MAX_REQ_TIMEOUT: Duration = Duration::from_secs(3_600);
/// A message that nsqd has counted is confirmed to the relay, and counted there, within this time.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(2);

/// How far back the audit looks, and what is too young to be written down: `nsqbridge verify` does the same.
const AUDITED: Duration = Duration::from_secs(3_600);
const WRITTEN_WITHIN: Duration = Duration::from_secs(120);

/// How to look.
#[derive(Debug)]
pub struct Eyes {
    /// How to reach RocketMQ.
    pub cluster: ClusterConfig,
    /// Time between the two looks that give rates.
    pub sample: Duration,
    /// How long each question may take.
    pub timeout: Duration,
}

impl Default for Eyes {
    fn default() -> Self {
        let cluster = ClusterConfig::new(Vec::new());
        Self { cluster, sample: Duration::from_secs(5), timeout: Duration::from_secs(3) }
    }
}

/// What was seen.
#[derive(Debug, Default)]
pub struct World {
    /// What the doctor finds.
    pub doctor: Vec<doctor::Finding>,
    /// NSQ.
    pub nsq: Inventory,
    /// The plan's topics, in RocketMQ and at the relays.
    pub topics: BTreeMap<TopicName, TopicWorld>,
}

/// One topic of the plan.
#[derive(Debug)]
pub struct TopicWorld {
    /// Its RocketMQ topic; `None` while there is none.
    pub stored: Result<Option<Stored>, String>,
    /// Its relay.
    pub relay: Result<Relay, String>,
    /// The consumer groups of its channels, by name.
    pub groups: BTreeMap<String, Result<Group, String>>,
    /// Whether messages of it are taken in from nsqd.
    pub taken_in: bool,
    /// What the audit says, where the plan asks for it.
    pub audit: Option<Result<Audited, String>>,
}

/// What the audit says of a topic.
#[derive(Debug, Default, Clone)]
pub struct Audited {
    /// How many messages were accepted in the time it looked at.
    pub accepted: i64,
    /// What the worst finding weighs.
    pub weight: Option<Weight>,
    /// The worst finding, in words.
    pub worst: String,
}

/// A topic in RocketMQ.
#[derive(Debug, Default, Clone)]
pub struct Stored {
    /// Queues on each broker.
    pub queues: BTreeMap<String, usize>,
    /// Messages it holds.
    pub messages: i64,
    /// How long ago the oldest of them was stored.
    pub oldest: Option<Duration>,
    /// The NSQ topics the newest message of some queues was published to; `None` for one that no gateway stored.
    pub published_to: BTreeSet<Option<String>>,
}

/// A topic's relay.
#[derive(Debug, Default, Clone)]
pub struct Relay {
    /// The instances, by client id, with what each says.
    pub instances: BTreeMap<String, Result<TopicReport, String>>,
    /// Messages nsqd does not have yet, as the brokers know it.
    pub lag: i64,
    /// The most messages it can have sent while NSQ was looked at; `None` when an instance came, went or said nothing.
    pub sent: Option<u64>,
}

/// A consumer group.
#[derive(Debug, Default, Clone)]
pub struct Group {
    /// Whether the brokers know it.
    pub exists: bool,
    /// Its live consumers.
    pub members: Vec<String>,
    /// Queues in which it has committed an offset beyond the first message.
    pub committed: usize,
    /// Queues there are.
    pub queues: usize,
    /// Messages it has not consumed.
    pub lag: i64,
    /// Whether every broker lets it consume.
    pub is_open: bool,
    /// Whether a cutover has written down where the channel's consumer ended.
    pub has_barrier: bool,
    /// Whether the channel is done with.
    pub is_completed: bool,
}

/// Looks.
///
/// # Errors
/// When no name server answers, or no nsqd: then nothing can be said of the plan.
pub async fn look(plan: &Plan, eyes: &Eyes) -> Result<World, String> {
    let config = ClusterConfig { request_timeout: eyes.timeout, ..eyes.cluster.clone() };
    let cluster = Cluster::new(config.clone());
    cluster.brokers().await.map_err(|error| error.to_string())?;
    let groups = cluster.groups().await.map_err(|error| error.to_string());
    let before = reports(&cluster, plan).await;
    let nsqlookupds: Vec<Nsqlookupd> = plan.nsqlookupds.iter().cloned().map(Nsqlookupd::new).collect();
    let nsqds: Vec<Nsqd> = plan.nsqds.iter().cloned().map(Nsqd::new).collect();
    let sources = Sources {
        nsqlookupds: nsqlookupds.clone(),
        nsqds: nsqds.clone(),
        sample: eyes.sample,
        timeout: eyes.timeout,
    };
    let doctor = DoctorConfig {
        cluster: config,
        nsqlookupds,
        nsqds,
        topics: plan.topics.keys().cloned().collect(),
        names: plan.names.clone(),
        max_msg_size: MAX_MSG_SIZE,
        max_req_timeout: MAX_REQ_TIMEOUT,
        retention: plan.gates.retention,
        timeout: eyes.timeout,
    };
    let (seen, examined) = tokio::join!(scan::look(&sources), doctor::examine(&doctor));
    let nsq = scan::inventory(&seen, &plan.names);
    if !nsq.has_answers() {
        return Err(format!("no nsqd answers: {}", silence(&nsq)));
    }
    // What nsqd had counted at the second look, the relay has counted by now, unless nsqd's answer is lost.
    tokio::time::sleep(CONFIRMED_WITHIN).await;
    let mut after = reports(&cluster, plan).await;
    let mut topics = BTreeMap::new();
    for (topic, before) in before {
        let relay = match (before, after.remove(&topic)) {
            (Ok(before), Some(Ok(after))) => relay(&cluster, plan, &topic, &before, after).await,
            (Err(error), _) | (_, Some(Err(error))) => Err(error),
            (_, None) => Err("was not asked again".to_owned()),
        };
        let name = plan.names.rocketmq_topic(&topic);
        let bounds = bounds(&cluster, &name).await;
        let stored = match &bounds {
            Ok(Some(bounds)) => stored(&cluster, bounds).await.map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error.clone()),
        };
        let planned = plan.topics.get(&topic).into_iter().flatten();
        let asked = planned.map(|(channel, planned)| {
            let (cluster, groups, bounds, topic) = (&cluster, &groups, &bounds, &topic);
            async move {
                let known = groups.as_ref().map_err(String::clone);
                let found = match known {
                    Ok(known) => group(cluster, &plan.names, (topic, channel), planned, known, bounds).await,
                    Err(error) => Err(error),
                };
                (planned.group.clone(), found)
            }
        });
        let of_channels = join_all(asked).await.into_iter().collect();
        let audit = match plan.gates.audit {
            Audit::Clean => Some(audited(&cluster, plan, &topic, &relay).await),
            Audit::Any => None,
        };
        let intake = plan.names.intake_group(&topic);
        let taken_in = groups.as_ref().is_ok_and(|groups| groups.contains(&intake));
        topics.insert(topic, TopicWorld { stored, relay, groups: of_channels, taken_in, audit });
    }
    Ok(World { doctor: examined.findings, nsq, topics })
}

fn silence(nsq: &Inventory) -> String {
    let reasons = nsq.nsqds.iter().filter_map(|nsqd| nsqd.error.clone());
    let reasons = reasons.chain(nsq.nsqlookupds.iter().filter_map(|lookupd| lookupd.error.clone()));
    let reasons: Vec<String> = reasons.collect();
    if reasons.is_empty() { "none is registered".to_owned() } else { reasons.join("; ") }
}

type Reports = BTreeMap<String, Result<TopicReport, String>>;

/// What every instance says of each topic.
async fn reports(cluster: &Cluster, plan: &Plan) -> BTreeMap<TopicName, Result<Reports, String>> {
    let asked = plan.topics.keys().map(|topic| async move {
        let asked = control::ask(cluster, &plan.names, &plan.group_prefix, &topic.into(), None).await;
        let reports = asked
            .map(|instances| instances.into_iter().map(|instance| (instance.id, instance.report)).collect());
        (topic.clone(), reports.map_err(|error: ClusterError| error.to_string()))
    });
    join_all(asked).await.into_iter().collect()
}

async fn relay(
    cluster: &Cluster,
    plan: &Plan,
    topic: &TopicName,
    before: &Reports,
    after: Reports,
) -> Result<Relay, String> {
    let group = plan.names.relay_group(&plan.group_prefix, topic);
    let lag = match cluster.consume_stats(&group, &plan.names.rocketmq_topic(topic)).await {
        Ok(queues) => queues.values().map(|queue| (queue.broker_offset - queue.consumer_offset).max(0)).sum(),
        // A topic nobody has published to.
        Err(ClusterError::UnknownTopic(_)) => 0,
        Err(error) => return Err(error.to_string()),
    };
    Ok(Relay { sent: sent_between(before, &after), instances: after, lag })
}

/// The most messages the instances can have sent between two reports of each.
fn sent_between(before: &Reports, after: &Reports) -> Option<u64> {
    let sent = |report: &TopicReport| {
        let [_, relayed, again, ..] = report.totals;
        relayed + again
    };
    let same = before.keys().eq(after.keys());
    let differences = before.iter().map(|(id, before)| {
        let (before, after) = (before.as_ref().ok()?, after.get(id)?.as_ref().ok()?);
        sent(after).checked_sub(sent(before))
    });
    let total: Option<u64> = differences.sum();
    total.filter(|_| same)
}

/// What the audit says of the last hour, and of the nsqds the relay knows.
async fn audited(
    cluster: &Cluster,
    plan: &Plan,
    topic: &TopicName,
    relay: &Result<Relay, String>,
) -> Result<Audited, String> {
    let reports = relay.iter().flat_map(|relay| relay.instances.values().flatten());
    let nsqds: BTreeSet<&str> =
        reports.flat_map(|report| &report.nsqds).map(|nsqd| nsqd.nsqd.as_str()).collect();
    let question = Question {
        cluster: cluster.clone(),
        names: plan.names.clone(),
        group_prefix: plan.group_prefix.clone(),
        topic: topic.clone(),
        window: AUDITED,
        until: WRITTEN_WITHIN,
        nsqds: nsqds.into_iter().filter_map(|nsqd| Some(Nsqd::new(nsqd.parse().ok()?))).collect(),
    };
    let answer = verify::ask(&question).await.map_err(|error| error.to_string())?;
    let worst = answer.findings.iter().max_by_key(|finding| finding.weight);
    let text = |finding: &Finding| match finding.messages {
        0 => format!("{}: {}", report::words(finding.what), finding.detail),
        messages => format!("{messages} {}", report::words(finding.what)),
    };
    Ok(Audited {
        accepted: answer.totals.accepted,
        weight: answer.weight(),
        worst: worst.map(text).unwrap_or_default(),
    })
}

/// The bounds of the topic's queues; `None` when there is no such topic.
async fn bounds(cluster: &Cluster, topic: &str) -> Result<Option<BTreeMap<Queue, Bounds>>, String> {
    match cluster.topic_stats(topic).await {
        Ok(bounds) => Ok(Some(bounds)),
        Err(ClusterError::UnknownTopic(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

async fn stored(cluster: &Cluster, bounds: &BTreeMap<Queue, Bounds>) -> Result<Stored, String> {
    let reader = QueueReader::new(cluster.clone(), LOOKER);
    let mut stored = Stored::default();
    for (queue, bounds) in bounds {
        *stored.queues.entry(queue.broker.clone()).or_default() += 1;
        stored.messages += bounds.max - bounds.min;
    }
    let looks = bounds.iter().filter(|(_, bounds)| bounds.max > bounds.min).map(|(queue, bounds)| async {
        Ok::<_, String>((at(&reader, queue, bounds.min).await?, at(&reader, queue, bounds.max - 1).await?))
    });
    let now = unix_millis();
    for looked in join_all(looks).await {
        let (oldest, newest) = looked?;
        let age = oldest
            .map(|message| Duration::from_millis((now - message.store_timestamp).max(0).unsigned_abs()));
        stored.oldest = stored.oldest.max(age);
        if let Some(newest) = newest {
            stored.published_to.insert(newest.properties.get(NSQ_TOPIC).map(str::to_owned));
        }
    }
    Ok(stored)
}

/// The message at this place; none when it cannot be read, or has just expired.
async fn at(reader: &QueueReader, queue: &Queue, offset: i64) -> Result<Option<StoredMessage>, String> {
    let pulled = reader.pull(queue, offset, 1, Duration::ZERO).await.map_err(|error| error.to_string())?;
    match pulled {
        Pull::Messages { messages, .. } => Ok(messages.into_iter().next()),
        Pull::Empty { .. } | Pull::OffsetMoved { .. } => Ok(None),
    }
}

async fn group(
    cluster: &Cluster,
    names: &Names,
    (topic, channel): (&TopicName, &ChannelName),
    planned: &ChannelPlan,
    known: &BTreeSet<String>,
    bounds: &Result<Option<BTreeMap<Queue, Bounds>>, String>,
) -> Result<Group, String> {
    let group = planned.group.as_str();
    let members = cluster.members_of(group).await.map_err(|error| error.to_string())?;
    let exists = known.contains(group);
    let mut found = Group {
        exists,
        members: members.into_keys().collect(),
        has_barrier: known.contains(&names.barrier_group(topic, channel))
            && known.contains(&names.became_group(topic, channel, group)),
        is_open: exists && {
            let queues = bounds.iter().flatten().flat_map(BTreeMap::keys);
            cluster.consuming_from(group, queues).await.map_err(|error| error.to_string())?.is_open()
        },
        is_completed: known.contains(&names.completed_group(topic, channel)),
        ..Group::default()
    };
    let bounds = bounds.as_ref().map_err(String::clone)?;
    let Some(bounds) = bounds.as_ref().filter(|_| exists) else { return Ok(found) };
    let asked = bounds
        .iter()
        .map(|(queue, bounds)| async move { (bounds, cluster.committed_offset(group, queue).await) });
    for (bounds, committed) in join_all(asked).await {
        let committed = committed.map_err(|error| error.to_string())?.unwrap_or(0);
        found.queues += 1;
        // RocketMQ 4 cannot tell an offset of 0 from none.
        found.committed += usize::from(committed > 0);
        found.lag += (bounds.max - committed.max(bounds.min)).max(0);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(relayed: u64, again: u64) -> Result<TopicReport, String> {
        let json = serde_json::json!({
            "topic": "t", "paused": false, "max_rate": 0, "rate": 0.0, "totals": [0, relayed, again, 0, 0],
            "queues": [], "nsqds": [],
        });
        Ok(serde_json::from_value(json).unwrap())
    }

    fn reports(of: &[(&str, Result<TopicReport, String>)]) -> Reports {
        of.iter().map(|(id, report)| ((*id).to_owned(), report.clone())).collect()
    }

    #[test]
    fn what_the_relay_sent_is_known_only_when_every_instance_was_there_all_the_time() {
        let before = reports(&[("a", report(10, 0)), ("b", report(5, 1))]);
        let sent = |after: &Reports| sent_between(&before, after);
        assert_eq!(sent(&reports(&[("a", report(17, 0)), ("b", report(5, 3))])), Some(9));
        assert_eq!(sent(&reports(&[("a", report(17, 0))])), None, "one has left");
        assert_eq!(sent(&reports(&[("a", report(17, 0)), ("c", report(5, 1))])), None, "one was replaced");
        assert_eq!(sent(&reports(&[("a", report(1, 0)), ("b", report(5, 1))])), None, "one began anew");
        assert_eq!(sent(&reports(&[("a", Err("silent".to_owned())), ("b", report(5, 1))])), None);
        assert_eq!(sent_between(&Reports::new(), &Reports::new()), Some(0));
    }
}
