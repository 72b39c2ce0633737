//! `nsqbridge status`: which instance relays what, how far it is, and why it is not further.
//!
//! The running instances are asked, and the brokers, which know how far the group is in queues nobody relays.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use serde::Serialize;

use super::super::{control, state::TopicReport};
use crate::{
    mapping::{Feed, Names},
    nsq::names::TopicName,
    rocketmq::{Cluster, ClusterError, Queue, admin::Progress},
    table::align,
};

/// One topic, everywhere it is relayed.
#[derive(Debug, Serialize)]
pub struct TopicStatus {
    /// The NSQ topic; `TOPIC/CHANNEL` for what is left to a channel that is moved by share.
    pub topic: String,
    /// Messages of the whole topic that nsqd does not have yet, as the brokers know it.
    pub lag: i64,
    /// Messages a second of all instances.
    pub rate: f64,
    /// Until nsqd has all there is, at this rate.
    pub eta_seconds: Option<f64>,
    /// Queues no instance relays.
    pub unowned_queues: usize,
    /// The instances.
    pub instances: Vec<InstanceStatus>,
}

/// One instance's share.
#[derive(Debug, Serialize)]
pub struct InstanceStatus {
    /// Its client id.
    pub instance: String,
    /// What it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<TopicReport>,
    /// Why it says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Asks for these topics, or for all that are or were relayed.
///
/// # Errors
/// When no broker can be asked.
pub async fn ask(
    cluster: &Cluster,
    names: &Names,
    group_prefix: &str,
    topics: &[TopicName],
) -> Result<Vec<TopicStatus>, ClusterError> {
    let feeds: Vec<Feed> = if topics.is_empty() {
        let groups = cluster.groups().await?;
        // The group of the relay of a share that has ended is still there, closed.
        let is_relayed = |feed: &Feed| match feed {
            Feed::Topic(_) => true,
            Feed::Share(share) => {
                let channel = share.channel();
                groups.contains(&names.share_group(&channel.topic, &channel.channel))
            }
        };
        groups.iter().filter_map(|group| names.feed_of(group_prefix, group)).filter(is_relayed).collect()
    } else {
        topics.iter().map(Feed::from).collect()
    };
    let asks = feeds.iter().map(|feed| one(cluster, names, group_prefix, feed));
    let mut statuses = Vec::new();
    for status in join_all(asks).await {
        match status {
            Ok(status) => statuses.push(status),
            // A group outlives its topic.
            Err(ClusterError::UnknownTopic(_)) if feeds.len() > 1 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(statuses)
}

/// Asks for one feed.
///
/// # Errors
/// As [`ask`].
pub async fn one(
    cluster: &Cluster,
    names: &Names,
    group_prefix: &str,
    feed: &Feed,
) -> Result<TopicStatus, ClusterError> {
    let group = names.feed_group(group_prefix, feed);
    let queues: BTreeMap<Queue, Progress> =
        cluster.consume_stats(&group, &names.rocketmq_topic(feed.source())).await?;
    let instances = control::ask(cluster, names, group_prefix, feed, None).await?;
    let reports = || instances.iter().filter_map(|instance| instance.report.as_ref().ok());
    let owned = reports().flat_map(|report| &report.queues).count();
    let rate: f64 = reports().map(|report| report.rate).sum();
    let lag = queues.values().map(|queue| (queue.broker_offset - queue.consumer_offset).max(0)).sum();
    Ok(TopicStatus {
        topic: feed.to_string(),
        lag,
        rate,
        eta_seconds: (rate > 0.0).then(|| lag as f64 / rate),
        unowned_queues: queues.len().saturating_sub(owned),
        instances: instances
            .into_iter()
            .map(|instance| {
                let (report, error) = match instance.report {
                    Ok(report) => (Some(report), None),
                    Err(error) => (None, Some(error)),
                };
                InstanceStatus { instance: instance.id, report, error }
            })
            .collect(),
    })
}

/// For people: a row for each instance, and below it why it does not go on.
#[must_use]
pub fn table(statuses: &[TopicStatus]) -> String {
    let mut rows =
        vec![["TOPIC", "INSTANCE", "QUEUES", "LAG", "OLDEST", "RATE/S", "ETA", "STATE"].map(str::to_owned)];
    for status in statuses {
        let eta = status.eta_seconds.map_or_else(|| "-".to_owned(), span);
        let eta = if status.lag == 0 { "0s".to_owned() } else { eta };
        if status.instances.is_empty() || status.unowned_queues > 0 {
            let (queues, lag) = (status.unowned_queues.to_string(), status.lag.to_string());
            let state = if status.instances.is_empty() { "NOT RELAYED" } else { "queues without an owner" };
            rows.push([&status.topic, "-", &queues, &lag, "-", "-", "-", state].map(str::to_owned));
        }
        for instance in &status.instances {
            let Some(report) = &instance.report else {
                let state = format!("no answer: {}", instance.error.as_deref().unwrap_or_default());
                rows.push(
                    [&status.topic, &instance.instance, "?", "?", "?", "?", "?", &state].map(str::to_owned),
                );
                continue;
            };
            let lag: i64 = report.queues.iter().map(|queue| queue.lag).sum();
            let oldest = report.queues.iter().map(|queue| queue.lag_seconds).fold(0.0, f64::max);
            rows.push([
                status.topic.clone(),
                instance.instance.clone(),
                report.queues.len().to_string(),
                lag.to_string(),
                span(oldest),
                format!("{:.0}", report.rate),
                eta.clone(),
                state(report, lag),
            ]);
        }
    }
    align(&rows)
}

fn state(report: &TopicReport, lag: i64) -> String {
    let doing = doing(report, lag);
    report.expiring.as_ref().map_or_else(|| doing.clone(), |expiring| format!("{doing}; {expiring}"))
}

fn doing(report: &TopicReport, lag: i64) -> String {
    let held: Vec<&str> = report.queues.iter().filter_map(|queue| queue.held.as_deref()).collect();
    if let Some(fence) = &report.fence {
        return format!("fenced by {}, {} ms left", fence.owner, fence.left_ms);
    }
    match (&report.waiting, held.first()) {
        (_, Some(first)) => format!("HELD {} queues: {first}", held.len()),
        (Some(reason), _) if lag > 0 || report.paused => format!("waiting: {reason}"),
        _ if lag == 0 => "idle".to_owned(),
        _ if report.max_rate > 0 => format!("relaying, at most {}/s", report.max_rate),
        _ => "relaying".to_owned(),
    }
}

fn span(seconds: f64) -> String {
    let whole = Duration::from_secs(seconds.clamp(0.0, 1e9) as u64);
    humantime::format_duration(whole).to_string().replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_who_does_what_and_why_not() {
        let report = |lag, waiting: Option<&str>| TopicReport {
            topic: "orders".to_owned(),
            waiting: waiting.map(str::to_owned),
            paused: false,
            fence: None,
            completed: Vec::new(),
            max_rate: 0,
            rate: 100.0,
            totals: [0; 5],
            retention_seconds: Some(259_200.0),
            expires_in_seconds: Some(80_000.0),
            undrained_expires_in_seconds: None,
            expiring: waiting.map(|_| "the oldest expires in 22h 13m".to_owned()),
            queues: vec![super::super::super::state::QueueReport {
                broker: "b".to_owned(),
                queue: 0,
                relayed: 0,
                sent: 0,
                committed: 0,
                replaying: false,
                lag,
                lag_seconds: 61.5,
                held: None,
            }],
            nsqds: Vec::new(),
            undrained: Vec::new(),
        };
        let instance = |instance: &str, report, error: Option<&str>| InstanceStatus {
            instance: instance.to_owned(),
            report,
            error: error.map(str::to_owned),
        };
        let status = TopicStatus {
            topic: "orders".to_owned(),
            lag: 300,
            rate: 100.0,
            eta_seconds: Some(3.0),
            unowned_queues: 0,
            instances: vec![
                instance("host-a", Some(report(300, Some("nsqd-3: depth 12000 of at most 10000"))), None),
                instance("b", None, Some("timed out")),
            ],
        };
        let expected = "\
TOPIC   INSTANCE  QUEUES  LAG  OLDEST  RATE/S  ETA  STATE
orders  host-a    1       300  1m1s    100     3s   waiting: nsqd-3: depth 12000 of at most 10000; the oldest expires in 22h 13m
orders  b         ?       ?    ?       ?       ?    no answer: timed out
";
        assert_eq!(table(&[status]), expected);
    }
}
