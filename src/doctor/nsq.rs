//! The NSQ side: whether it is there, and what its topics will be called.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;

use super::{DoctorConfig, Finding, checks, clock};
use crate::{
    nsq::{address::HttpAddress, names::TopicName, nsqd::Nsqd, nsqlookupd::Nsqlookupd},
    rocketmq::producer::unix_millis,
};

/// Looks at nsqlookupds and nsqds; also returns the topics they have.
pub(super) async fn examine(config: &DoctorConfig) -> (Vec<Finding>, BTreeSet<TopicName>) {
    let mut findings = Vec::new();
    let mut topics: BTreeSet<TopicName> = config.topics.iter().cloned().collect();
    let mut nsqds: BTreeMap<HttpAddress, Nsqd> =
        config.nsqds.iter().map(|nsqd| (nsqd.address().clone(), nsqd.clone())).collect();
    let asked = join_all(config.nsqlookupds.iter().map(|lookupd| nsqlookupd(config, lookupd))).await;
    for (found, addresses) in asked {
        findings.extend(found);
        for address in addresses {
            nsqds.entry(address.clone()).or_insert_with(|| Nsqd::new(address));
        }
    }
    for (found, names) in join_all(nsqds.values().map(|server| nsqd(config, server))).await {
        findings.extend(found);
        topics.extend(names);
    }
    (findings, topics)
}

async fn nsqlookupd(config: &DoctorConfig, lookupd: &Nsqlookupd) -> (Vec<Finding>, Vec<HttpAddress>) {
    let what = format!("nsqlookupd {}", lookupd.address());
    let nodes = match tokio::time::timeout(config.timeout, lookupd.nodes()).await {
        Ok(Ok(nodes)) => nodes,
        Ok(Err(error)) => {
            return (vec![unreachable(&what, checks::NSQLOOKUPD_REACHABLE, &error.to_string())], Vec::new());
        }
        Err(_) => return (vec![silent(&what, checks::NSQLOOKUPD_REACHABLE, config.timeout)], Vec::new()),
    };
    let mut findings =
        vec![Finding::ok(&what, checks::NSQLOOKUPD_REACHABLE, format!("lists {} nsqds", nodes.len()))];
    if nodes.is_empty() {
        findings.push(
            Finding::warn(&what, checks::NO_NSQD, "no nsqd is registered there, so a relay would wait")
                .advise("start the nsqds with --lookupd-tcp-address"),
        );
    }
    for node in nodes.iter().filter(|node| !node.tombstoned.is_empty()) {
        let topics: Vec<String> = node.tombstoned.iter().map(ToString::to_string).collect();
        findings.push(Finding::info(
            &what,
            checks::TOMBSTONES,
            format!(
                "nsqd {} is tombstoned for {}: nothing is relayed there now",
                node.address,
                topics.join(", ")
            ),
        ));
    }
    (findings, nodes.into_iter().map(|node| node.address).collect())
}

async fn nsqd(config: &DoctorConfig, server: &Nsqd) -> (Vec<Finding>, Vec<TopicName>) {
    let what = format!("nsqd {}", server.address());
    let asked =
        tokio::time::timeout(config.timeout, async { (server.stats(None).await, server.clock().await) })
            .await;
    let (stats, time) = match asked {
        Ok((Ok(stats), time)) => (stats, time),
        Ok((Err(error), _)) => {
            return (vec![unreachable(&what, checks::NSQD_REACHABLE, &error.to_string())], Vec::new());
        }
        Err(_) => return (vec![silent(&what, checks::NSQD_REACHABLE, config.timeout)], Vec::new()),
    };
    let mut findings = vec![Finding::ok(
        &what,
        checks::NSQD_REACHABLE,
        format!("version {}, {} topics", stats.version, stats.topics.len()),
    )];
    if let Ok(Some(theirs)) = time {
        // An HTTP date has no fraction.
        findings.push(clock(&what, theirs + 500, unix_millis(), Duration::from_secs(1)));
    }
    if stats.health != "OK" {
        findings.push(
            Finding::warn(&what, checks::NSQD_HEALTH, stats.health.clone())
                .advise("its disk refused a write; messages relayed there may be lost"),
        );
    }
    if !stats.version.starts_with("1.") {
        findings.push(
            Finding::warn(&what, checks::NSQD_VERSION, format!("version {} is untested", stats.version))
                .advise("nsqd 1.x is tested, 1.3.0 most of all"),
        );
    }
    for topic in &stats.topics {
        let deferred: u64 = topic.channels.iter().map(|channel| channel.deferred_count).sum();
        if deferred > 0 {
            findings.push(Finding::info(
                &what,
                checks::DEFERRED_MESSAGES,
                format!("topic {} holds {deferred} deferred messages, in memory only", topic.topic_name),
            ));
        }
        if topic.paused {
            findings.push(Finding::info(
                &what,
                checks::TOPIC_PAUSED,
                format!("topic {} is paused", topic.topic_name),
            ));
        }
    }
    (findings, stats.topics.iter().filter_map(|topic| topic.topic_name.parse().ok()).collect())
}

/// What each topic will be called, where that is not its own name.
pub(super) fn names(
    config: &DoctorConfig,
    topics: &BTreeSet<TopicName>,
    reserved: &BTreeSet<String>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for topic in topics {
        let what = format!("topic {topic}");
        let name = config.names.rocketmq_topic(topic);
        if reserved.contains(&name) {
            findings.push(
                Finding::fail(
                    &what,
                    checks::TOPIC_RESERVED,
                    format!("{name} is a topic RocketMQ keeps for a broker or cluster of that name"),
                )
                .advise(format!("--rename {topic}=ANOTHER, at gateways and relays alike")),
            );
        } else if name != topic.as_str() {
            findings.push(Finding::info(&what, checks::TOPIC_NAME, format!("is called {name} in RocketMQ")));
        }
        if topic.is_ephemeral() {
            findings.push(Finding::info(
                &what,
                checks::TOPIC_EPHEMERAL,
                "is stored as durably as any other, and relayed",
            ));
        }
    }
    findings
}

fn unreachable(what: &str, check: &'static str, error: &str) -> Finding {
    Finding::fail(what, check, error).advise("check the address, and that it is the HTTP one (4151, 4161)")
}

fn silent(what: &str, check: &'static str, timeout: Duration) -> Finding {
    Finding::fail(what, check, format!("no answer within {timeout:?}")).advise("check the network between")
}
