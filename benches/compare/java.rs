//! RocketMQ's own benchmark programs, once they are warm.

use nsqbridge_brokers::{Rig, rocketmq};

use crate::parts::eventually;

const PACKAGE: &str = "org.apache.rocketmq.example.benchmark";
/// Its programs report each second how fast the last ten were, beginning after ten.
const REPORTS: usize = 9;
const EVERY_MS: &str = "1000";

/// The best ten seconds a program reports of its first twenty, in messages a second: the first of them run code that is not compiled yet,
/// and the best are in its favour.
pub fn rate(rig: &Rig, program: &str, flags: &[&str], topic: &str) -> f64 {
    let name_server = rig.name_server.addr().to_string();
    let mut arguments = flags.to_vec();
    arguments.extend(["-t", topic, "-n", &name_server, "-ri", EVERY_MS]);
    let run = rocketmq::run(rig.line, &format!("{PACKAGE}.{program}"), &arguments).unwrap();
    let reports = || -> Vec<f64> { run.log_text().lines().filter_map(messages_a_second).collect() };
    eventually(&format!("{program} reports"), || {
        assert!(run.is_running(), "{program} ended: {}", run.log_tail());
        reports().len() >= REPORTS
    });
    reports().into_iter().fold(0.0, f64::max)
}

/// `... Send TPS: 123 | Send MPS: 12345 ...` of a report; only programs that send batches count messages apart.
fn messages_a_second(line: &str) -> Option<f64> {
    let (_, behind) = line.split_once("MPS: ").or_else(|| line.split_once("TPS: "))?;
    behind.trim_start().split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}
