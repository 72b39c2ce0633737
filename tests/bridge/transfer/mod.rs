//! The relay as an operator runs it.

mod instances;
mod nsqds;
mod offsets;
mod parked;
mod queues;
mod replay;

use std::process::{Command, Output};

use nsqbridge_brokers::{Nsqd, Rig, http};
use serde_json::Value;

use crate::bridge::blocking;

pub(super) fn run(rig: &Rig, arguments: &[&str]) -> Output {
    let name_server = rig.name_server.addr().to_string();
    let run = || {
        Command::new(env!("CARGO_BIN_EXE_nsqbridge"))
            .args(arguments)
            .env_clear()
            .env("NAMESRV_ADDR", &name_server)
            .output()
    };
    blocking(run).unwrap()
}

/// What `nsqbridge ...` says, which must succeed.
fn say(rig: &Rig, arguments: &[&str]) -> String {
    let output = run(rig, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub(super) fn status(rig: &Rig, topic: &str) -> Value {
    let all: Value = serde_json::from_str(&say(rig, &["status", topic, "-o", "json"])).unwrap();
    all["topics"][0].clone()
}

/// Messages waiting in a topic and in each of its channels.
fn depths(nsqd: &Nsqd, topic: &str) -> (u64, Vec<u64>) {
    let (_, stats) =
        blocking(|| http::get(nsqd.http_addr(), &format!("/stats?format=json&topic={topic}"))).unwrap();
    let stats: Value = serde_json::from_str(&stats).unwrap();
    let depth = |value: &Value| value["depth"].as_u64().unwrap();
    let Some(topic) = stats["topics"].get(0) else { return (0, Vec::new()) };
    (depth(topic), topic["channels"].as_array().unwrap().iter().map(depth).collect())
}
