//! The doctor, looking at real servers.

use std::process::{Command, Output};

use nsqbridge_brokers::{Line, RigOptions, rocketmq::Settings};
use serde_json::Value;

use crate::bridge::{SOON, blocking, create_channel, eventually, own, shared, topic};

fn doctor(arguments: &[&str]) -> Output {
    let run =
        || Command::new(env!("CARGO_BIN_EXE_nsqbridge")).arg("doctor").args(arguments).env_clear().output();
    blocking(run).unwrap()
}

/// Severity, what and check of each finding.
fn findings(output: &Output) -> Vec<(String, String, String)> {
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let all = report["findings"].as_array().unwrap();
    all.iter()
        .map(|finding| (text(finding, "severity"), text(finding, "what"), text(finding, "check")))
        .collect()
}

fn has(findings: &[(String, String, String)], severity: &str, what: &str, check: &str) {
    let found = findings.iter().any(|(is, of, by)| is == severity && of.starts_with(what) && by == check);
    assert!(found, "no {severity} {what} {check} in {findings:#?}");
}

async fn a_test_cluster_is_described(line: Line) {
    let rig = shared(line);
    let topic = topic("doctor");
    create_channel(&rig.nsqds[0], &topic, "ch").await;
    let (name_server, lookupd) = (rig.name_server.addr().to_string(), rig.nsqlookupd.http_addr().to_string());
    let mut found = Vec::new();
    // 4.9 cannot tell its clock in its first seconds, and nsqd registers when it likes.
    eventually("everything has settled", SOON, async || {
        let arguments = [
            "-n",
            &name_server,
            "--lookupd-http-address",
            &lookupd,
            "--topic",
            "nsqbridge",
            "--topic",
            "orders",
            "-o",
            "json",
        ];
        let output = doctor(&arguments);
        assert_eq!(output.status.code(), Some(2), "a topic has the cluster's name: {output:?}");
        found = findings(&output);
        let settled = |what: &str| {
            found.iter().any(|(is, of, by)| is == "OK" && of.starts_with(what) && by == "ClockDiffers")
        };
        settled("broker broker-a") && settled("broker broker-b") && settled("nsqd ")
    })
    .await;
    has(&found, "OK", &format!("name server {name_server}"), "NameServerReachable");
    for broker in ["broker broker-a", "broker broker-b"] {
        has(&found, "OK", broker, "BrokerReachable");
        has(&found, "WARN", broker, "BrokerFlush");
        has(&found, "WARN", broker, "BrokerReplication");
        has(&found, "OK", broker, "BrokerMessageSize");
        has(&found, "INFO", broker, "BrokerRetention");
        has(&found, if line == Line::V5 { "OK" } else { "WARN" }, broker, "BrokerTimers");
    }
    has(&found, "OK", &format!("nsqlookupd {lookupd}"), "NsqlookupdReachable");
    has(&found, "OK", "nsqd ", "NsqdReachable");
    has(&found, "INFO", &format!("topic {topic}"), "TopicName");
    has(&found, "FAIL", "topic nsqbridge", "TopicReserved");
    assert!(!found.iter().any(|(_, what, _)| what == "topic orders"), "a plain name is nothing to tell");
    let severities: Vec<_> = found
        .iter()
        .map(|(severity, _, _)| ["FAIL", "WARN", "INFO", "OK"].iter().position(|is| is == severity))
        .collect();
    assert!(severities.is_sorted(), "{severities:?}");

    let output = doctor(&["-n", &name_server]);
    assert_eq!(output.status.code(), Some(0));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("ASYNC_FLUSH: SEND_OK comes before the disk") && table.contains("0 failed"),
        "{table}"
    );
}

on_both_lines!(a_test_cluster_is_described);

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_the_bridge_from_its_work_is_a_failure() {
    let broker = Settings::new()
        .conf("maxMessageSize", 65_536)
        .conf("flushDiskType", "SYNC_FLUSH")
        .conf("fileReservedTime", 5)
        .conf("brokerPermission", 4);
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 0, broker, ..RigOptions::default() });
    let name_servers = format!("{};127.0.0.1:1", rig.name_server.addr());
    let arguments =
        ["-n", &name_servers, "--nsqd-http-address", "127.0.0.1:1", "-o", "json", "--timeout", "2s"];
    let output = doctor(&arguments);
    assert_eq!(output.status.code(), Some(2));
    let found = findings(&output);
    has(&found, "FAIL", "name server 127.0.0.1:1", "NameServerReachable");
    has(&found, "FAIL", "broker broker-a", "BrokerMessageSize");
    has(&found, "FAIL", "broker broker-a", "BrokerPermission");
    has(&found, "FAIL", "nsqd 127.0.0.1:1", "NsqdReachable");
    has(&found, "OK", "broker broker-a", "BrokerFlush");
    has(&found, "WARN", "broker broker-a", "BrokerRetention");

    blocking(|| rig.brokers[0].pause()).unwrap();
    let started = std::time::Instant::now();
    let found = findings(&doctor(&arguments));
    has(&found, "FAIL", "broker broker-a", "BrokerReachable");
    assert!(started.elapsed() < SOON / 2, "{:?}", started.elapsed());
    blocking(|| rig.brokers[0].resume()).unwrap();
    assert_eq!(doctor(&[]).status.code(), Some(3));
}
