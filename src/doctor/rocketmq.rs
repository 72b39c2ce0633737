//! Name servers and brokers: whether they are there, what a `SEND_OK` of theirs is worth, what they take and how long they
//! keep it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;

use super::{DoctorConfig, Finding, checks, clock};
use crate::rocketmq::{
    Cluster, ClusterConfig, ClusterError, codes::response, message::FIRST_VERSION_WITH_TIMERS,
    producer::unix_millis,
};

/// The levels a gateway reckons with.
const DELAY_LEVELS: &str = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h";

type Brokers = BTreeMap<String, BTreeMap<i64, String>>;
type Settings = BTreeMap<String, String>;

/// Looks at the cluster; also returns the topic names RocketMQ keeps for the cluster and its brokers.
pub(super) async fn examine(config: &DoctorConfig) -> (Vec<Finding>, BTreeSet<String>) {
    let (mut findings, brokers) = name_servers(config).await;
    let mut reserved: BTreeSet<String> = brokers.keys().cloned().collect();
    let cluster = Cluster::new(ClusterConfig { request_timeout: config.timeout, ..config.cluster.clone() });
    let slaves = |addresses: &BTreeMap<i64, String>| addresses.keys().filter(|id| **id != 0).count();
    let looks = brokers.iter().flat_map(|(name, addresses)| {
        addresses.iter().map(|(id, address)| broker(config, &cluster, name, *id, address, slaves(addresses)))
    });
    let mut lines = BTreeSet::new();
    for Looked { findings: found, cluster_name, version } in join_all(looks).await {
        findings.extend(found);
        reserved.extend(cluster_name);
        lines.extend(version.map(|version| version >= FIRST_VERSION_WITH_TIMERS));
    }
    if lines.len() > 1 {
        findings.push(
            Finding::warn("cluster", checks::MIXED_LINES, "brokers of RocketMQ 4 and 5 side by side").advise(
                "a deferred message is exact on one and rounded up on the other; finish the upgrade first",
            ),
        );
    }
    (findings, reserved)
}

/// Asks each name server by itself; returns the brokers any of them lists.
async fn name_servers(config: &DoctorConfig) -> (Vec<Finding>, Brokers) {
    let asks = config.cluster.name_servers.iter().map(|address| async move {
        let alone = ClusterConfig {
            name_servers: vec![address.clone()],
            request_timeout: config.timeout,
            connect_timeout: config.timeout,
            ..config.cluster.clone()
        };
        (format!("name server {address}"), Cluster::new(alone).brokers().await)
    });
    let mut findings = Vec::new();
    let mut brokers = Brokers::new();
    let answers = join_all(asks).await;
    let first = answers.iter().find_map(|(_, answer)| answer.as_ref().ok()).cloned();
    for (what, answer) in answers {
        match answer {
            Ok(listed) => {
                let names: Vec<&str> = listed.keys().map(String::as_str).collect();
                findings.push(Finding::ok(
                    &what,
                    checks::NAME_SERVER_REACHABLE,
                    format!("lists {}", names.join(", ")),
                ));
                if Some(&listed) != first.as_ref() {
                    findings.push(
                        Finding::warn(
                            &what,
                            checks::NAME_SERVERS_DISAGREE,
                            "lists other brokers than the first name server",
                        )
                        .advise("every broker must be given all name servers (namesrvAddr)"),
                    );
                }
                for (name, addresses) in listed {
                    brokers.entry(name).or_default().extend(addresses);
                }
            }
            Err(error) => findings.push(
                Finding::fail(&what, checks::NAME_SERVER_REACHABLE, error.to_string())
                    .advise("check --namesrv, the network and the name server's log"),
            ),
        }
    }
    if !brokers.values().any(|addresses| addresses.contains_key(&0)) {
        findings.push(
            Finding::fail(
                "cluster",
                checks::NO_BROKER,
                "no master is registered with a name server that answers",
            )
            .advise("start brokers with namesrvAddr set to these name servers"),
        );
    }
    (findings, brokers)
}

/// What looking at one broker gave.
#[derive(Default)]
struct Looked {
    findings: Vec<Finding>,
    cluster_name: Option<String>,
    version: Option<i32>,
}

async fn broker(
    config: &DoctorConfig,
    cluster: &Cluster,
    name: &str,
    id: i64,
    address: &str,
    slaves: usize,
) -> Looked {
    let role = if id == 0 { "broker" } else { "slave" };
    let what = format!("{role} {name} {address}");
    let version = match tokio::time::timeout(config.timeout, cluster.version(address)).await {
        Ok(Ok(version)) => version,
        Ok(Err(error)) => return Looked { findings: vec![unreachable(&what, &error)], ..Looked::default() },
        Err(_) => {
            let silent = Finding::fail(
                &what,
                checks::BROKER_REACHABLE,
                format!("no answer within {:?}", config.timeout),
            )
            .advise("it may be frozen: look at its log and its garbage collector");
            return Looked { findings: vec![silent], ..Looked::default() };
        }
    };
    let (settings, runtime) = tokio::join!(cluster.broker_config(address), cluster.broker_runtime(address));
    let asked_at = unix_millis();
    let mut findings = Vec::new();
    let named = runtime.as_ref().ok().and_then(|runtime| runtime.get("brokerVersionDesc").cloned());
    let line = if version < FIRST_VERSION_WITH_TIMERS { "RocketMQ 4" } else { "RocketMQ 5" };
    let named = named.map_or_else(|| line.to_owned(), |name| name.trim_start_matches('V').replace('_', "."));
    findings.push(Finding::ok(&what, checks::BROKER_REACHABLE, format!("version {named}")));
    match runtime.as_ref().ok().and_then(now_ms) {
        Some(theirs) => findings.push(clock(&what, theirs, asked_at, Duration::from_secs(1))),
        None => findings.push(Finding::info(
            &what,
            checks::CLOCK_DIFFERS,
            "its clock cannot be read: it has only just started, or may not be asked",
        )),
    }
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => {
            findings.push(Finding::warn(&what, checks::SETTINGS_UNKNOWN, error.to_string()).advise(
                "let this user read the broker's configuration, or check it by hand: durability is not shown",
            ));
            return Looked { findings, cluster_name: None, version: Some(version) };
        }
    };
    if id == 0 {
        durability(&mut findings, &what, &settings, version, slaves);
        room(&mut findings, &what, &settings, config);
        delays(&mut findings, &what, &settings, version, config);
        permissions(&mut findings, &what, &settings);
    }
    Looked { findings, cluster_name: settings.get("brokerClusterName").cloned(), version: Some(version) }
}

fn unreachable(what: &str, error: &ClusterError) -> Finding {
    let refused = match error {
        ClusterError::Refused { code: response::NO_PERMISSION, .. } => true,
        ClusterError::Refused { remark, .. } => remark.contains("AclException"),
        _ => false,
    };
    let finding = Finding::fail(what, checks::BROKER_REACHABLE, error.to_string());
    if refused {
        finding.advise(
            "check --access-key and its secret; the gateway needs Pub on the topics, the relay Sub and Get",
        )
    } else {
        finding.advise("check that this machine can reach the address the broker registered (brokerIP1)")
    }
}

/// The broker's clock: when it started, and how long ago it says that was; to the second.
fn now_ms(runtime: &Settings) -> Option<i64> {
    let booted: i64 = runtime.get("bootTimestamp")?.parse().ok()?;
    let since = runtime.get("runtime")?;
    let numbers: Vec<i64> =
        since.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect();
    let [days, hours, minutes, seconds] = numbers[..] else { return None };
    // What is cut off is half a second on average.
    Some(booted + (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1_000 + 500)
}

fn setting<'a>(settings: &'a Settings, name: &str) -> &'a str {
    settings.get(name).map_or("", String::as_str)
}

/// What a crash can take of what was answered `SEND_OK`.
fn durability(findings: &mut Vec<Finding>, what: &str, settings: &Settings, version: i32, slaves: usize) {
    if setting(settings, "flushDiskType") == "SYNC_FLUSH" {
        findings.push(Finding::ok(what, checks::BROKER_FLUSH, "SYNC_FLUSH: on disk before SEND_OK"));
    } else {
        let every = setting(settings, "flushIntervalCommitLog");
        findings.push(
            Finding::warn(
                what,
                checks::BROKER_FLUSH,
                format!(
                    "ASYNC_FLUSH: SEND_OK comes before the disk; a power failure takes the last {every} ms"
                ),
            )
            .advise("set flushDiskType=SYNC_FLUSH, or accept it: a crash of the process alone takes nothing"),
        );
    }
    if setting(settings, "transientStorePoolEnable") == "true" {
        findings.push(
            Finding::warn(
                what,
                checks::BROKER_STORE_POOL,
                "transientStorePoolEnable: a crash of the process loses messages",
            )
            .advise("set transientStorePoolEnable=false"),
        );
    }
    let synchronous = setting(settings, "brokerRole") == "SYNC_MASTER";
    let replicas: u32 = setting(settings, "inSyncReplicas").parse().unwrap_or(1);
    // 4.9 always waits for a slave, 5.x for as many as it is told to.
    let waits = synchronous && (version < FIRST_VERSION_WITH_TIMERS || replicas > 1);
    let finding = match (slaves, synchronous) {
        (0, true) if waits => Finding::fail(
            what,
            checks::BROKER_REPLICATION,
            "SYNC_MASTER without the slaves it waits for: no publish is acknowledged",
        )
        .advise("start a slave, or set brokerRole=ASYNC_MASTER"),
        (0, _) => {
            Finding::warn(what, checks::BROKER_REPLICATION, "no slave: a lost disk takes everything it holds")
                .advise("add a slave, or rely on the disk")
        }
        (_, false) => Finding::warn(
            what,
            checks::BROKER_REPLICATION,
            "ASYNC_MASTER: SEND_OK comes before a slave has it",
        )
        .advise("set brokerRole=SYNC_MASTER"),
        (_, true) if version >= FIRST_VERSION_WITH_TIMERS && replicas < 2 => Finding::warn(
            what,
            checks::BROKER_REPLICATION,
            "SYNC_MASTER with inSyncReplicas=1: SEND_OK comes without any slave all the same",
        )
        .advise("set inSyncReplicas=2"),
        (slaves, true) => {
            Finding::ok(what, checks::BROKER_REPLICATION, format!("SYNC_MASTER with {slaves} slaves"))
        }
    };
    findings.push(finding);
}

/// How large messages may be, and how long they are kept.
fn room(findings: &mut Vec<Finding>, what: &str, settings: &Settings, config: &DoctorConfig) {
    let largest: usize = setting(settings, "maxMessageSize").parse().unwrap_or(0);
    let wanted = config.max_msg_size;
    findings.push(if largest >= wanted {
        Finding::ok(
            what,
            checks::BROKER_MESSAGE_SIZE,
            format!("takes {largest} bytes, the gateway up to {wanted}"),
        )
    } else {
        Finding::fail(
            what,
            checks::BROKER_MESSAGE_SIZE,
            format!("takes only {largest} bytes, the gateway up to {wanted}"),
        )
        .advise(format!("set maxMessageSize={wanted} or more, or lower --max-msg-size"))
    });
    let hours: u64 = setting(settings, "fileReservedTime").parse().unwrap_or(0);
    let ratio = setting(settings, "diskMaxUsedSpaceRatio");
    let kept = format!("keeps messages {hours} hours, less when the disk is {ratio} % full, relayed or not");
    findings.push(if Duration::from_secs(hours * 3_600) >= config.retention {
        Finding::info(what, checks::BROKER_RETENTION, kept)
    } else {
        Finding::warn(what, checks::BROKER_RETENTION, kept)
            .advise("set fileReservedTime beyond the longest outage of NSQ, and the longest way back, you want to survive")
    });
}

/// What becomes of `defer`.
fn delays(findings: &mut Vec<Finding>, what: &str, settings: &Settings, version: i32, config: &DoctorConfig) {
    let wanted = config.max_req_timeout;
    if version < FIRST_VERSION_WITH_TIMERS {
        let levels = setting(settings, "messageDelayLevel");
        if levels != DELAY_LEVELS {
            findings.push(
                Finding::fail(
                    what,
                    checks::BROKER_TIMERS,
                    format!("its levels of delay are not RocketMQ's own but {levels}: a `defer` would end at another time"),
                )
                .advise(format!("set messageDelayLevel={DELAY_LEVELS}, or start the gateway with --inexact-defer refuse")),
            );
            return;
        }
        findings.push(
            Finding::warn(
                what,
                checks::BROKER_TIMERS,
                format!("RocketMQ 4: `defer` is rounded up to one of {levels}"),
            )
            .advise("upgrade to 5.x for exact delays, or start the gateway with --inexact-defer refuse"),
        );
        return;
    }
    let longest = Duration::from_secs(setting(settings, "timerMaxDelaySec").parse().unwrap_or(0));
    findings.push(if setting(settings, "timerWheelEnable") != "true" {
        Finding::fail(what, checks::BROKER_TIMERS, "timerWheelEnable is off: it refuses deferred messages")
            .advise("set timerWheelEnable=true")
    } else if longest < wanted {
        Finding::warn(
            what,
            checks::BROKER_TIMERS,
            format!("timers of up to {longest:?}, the gateway takes `defer` of up to {wanted:?}"),
        )
        .advise("raise timerMaxDelaySec or lower --max-req-timeout")
    } else {
        Finding::ok(what, checks::BROKER_TIMERS, "timers, exact to a second")
    });
}

fn permissions(findings: &mut Vec<Finding>, what: &str, settings: &Settings) {
    let permission: u32 = setting(settings, "brokerPermission").parse().unwrap_or(6);
    if permission & 2 == 0 {
        findings.push(
            Finding::fail(
                what,
                checks::BROKER_PERMISSION,
                format!("brokerPermission={permission}: it takes no messages"),
            )
            .advise("set brokerPermission=6 when its maintenance is over"),
        );
    }
    if permission & 4 == 0 {
        findings.push(
            Finding::fail(
                what,
                checks::BROKER_PERMISSION,
                format!("brokerPermission={permission}: it hands out no messages"),
            )
            .advise("set brokerPermission=6 when its maintenance is over"),
        );
    }
    if setting(settings, "autoCreateSubscriptionGroup") == "false" {
        findings.push(
            Finding::warn(
                what,
                checks::BROKER_GROUPS,
                "autoCreateSubscriptionGroup=false: the relay's groups must be created",
            )
            .advise("mqadmin updateSubGroup -g nsqbridge-transfer-TOPIC for each topic"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_read_to_the_second() {
        let runtime = |text: &str| {
            now_ms(&Settings::from([
                ("bootTimestamp".to_owned(), "1000000".to_owned()),
                ("runtime".to_owned(), text.to_owned()),
            ]))
        };
        assert_eq!(runtime("[ 1 days, 2 hours, 3 minutes, 4 seconds ]"), Some(1_000_000 + 93_784_000 + 500));
        assert_eq!(runtime("unknown"), None);
    }

    #[test]
    fn what_a_crash_can_take_is_said() {
        let of = |pairs: &[(&str, &str)], version, slaves| {
            let settings =
                pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let mut findings = Vec::new();
            durability(&mut findings, "b", &settings, version, slaves);
            findings.iter().map(|finding| finding.severity as u8).collect::<Vec<_>>()
        };
        let [fail, warn, ok] =
            [super::super::Severity::Fail, super::super::Severity::Warn, super::super::Severity::Ok]
                .map(|severity| severity as u8);
        let sync = ("flushDiskType", "SYNC_FLUSH");
        let master = ("brokerRole", "SYNC_MASTER");
        assert_eq!(of(&[], 513, 0), [warn, warn]);
        assert_eq!(of(&[sync, master], 513, 1), [ok, warn], "5.x answers SEND_OK without a slave by default");
        assert_eq!(of(&[sync, master, ("inSyncReplicas", "2")], 513, 1), [ok, ok]);
        assert_eq!(of(&[sync, master], 407, 1), [ok, ok]);
        assert_eq!(of(&[sync, master], 407, 0), [ok, fail], "4.9 answers SLAVE_NOT_AVAILABLE");
        assert_eq!(of(&[sync, master, ("inSyncReplicas", "2")], 513, 0), [ok, fail]);
        assert_eq!(of(&[sync, master], 513, 0), [ok, warn]);
        assert_eq!(of(&[sync, ("transientStorePoolEnable", "true")], 407, 1), [ok, warn, warn]);
    }
}
