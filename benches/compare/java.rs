//! RocketMQ's own benchmark programs, once they are warm.

use std::time::{Duration, Instant};

use nsqbridge::rocketmq::Cluster;
use nsqbridge_brokers::{Rig, Server, Settings, rocketmq};

use crate::parts::{SOON, eventually};

const PACKAGE: &str = "org.apache.rocketmq.example.benchmark";
/// Its programs report each second how fast the last ten were, beginning after ten.
const REPORTS: usize = 9;
const EVERY_MS: &str = "1000";

fn start(rig: &Rig, program: &str, flags: &[&str], topic: &str) -> Server {
    let name_server = rig.name_server.addr().to_string();
    let mut arguments = flags.to_vec();
    arguments.extend(["-t", topic, "-n", &name_server, "-ri", EVERY_MS]);
    // The heap `benchmark/runclass.sh` gives them; the collector it asks for is none of today's Java.
    let java = ["-XX:-UseSerialGC", "-XX:+UseG1GC", "-Xms1g", "-Xmx1g", "-Xmn256m"];
    let java = java.into_iter().fold(Settings::new(), Settings::jvm);
    rocketmq::run(rig.line, &java, &format!("{PACKAGE}.{program}"), &arguments).unwrap()
}

/// The best ten seconds a producer reports of its first twenty, in messages a second: the first of them run code that is not compiled yet,
/// and the best are in its favour.
pub fn sending_rate(rig: &Rig, program: &str, flags: &[&str], topic: &str) -> f64 {
    let run = start(rig, program, flags, topic);
    let reports = || -> Vec<f64> { run.log_text().lines().filter_map(messages_a_second).collect() };
    eventually(&format!("{program} reports"), || {
        assert!(run.is_running(), "{program} ended: {}", run.log_tail());
        reports().len() >= REPORTS
    });
    reports().into_iter().fold(0.0, f64::max)
}

/// How fast a consumer reads the last third of a backlog, in messages a second; it is done before its own reports begin, so the broker counts.
pub async fn reading_rate(rig: &Rig, cluster: &Cluster, topic: &str, backlog: u64) -> f64 {
    let broker = rig.brokers[0].route_addr();
    let (before, deadline) = (read(cluster, broker).await, Instant::now() + SOON);
    let group = format!("{topic}_java");
    let run = start(rig, "Consumer", &["-g", &group], topic);
    let mut begun = None;
    loop {
        assert!(run.is_running() && Instant::now() < deadline, "Consumer reads no more: {}", run.log_tail());
        let (read, now) = (read(cluster, broker).await - before, Instant::now());
        match begun {
            None if read >= backlog * 2 / 3 => begun = Some((read, now)),
            Some((at_first, first)) if read >= backlog * 19 / 20 => {
                return (read - at_first) as f64 / (now - first).as_secs_f64();
            }
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Messages the broker has given to consumers.
async fn read(cluster: &Cluster, broker: &str) -> u64 {
    let runtime = cluster.broker_runtime(broker).await.unwrap();
    runtime["msgGetTotalTodayNow"].parse().unwrap()
}

/// `... Send TPS: 123 | Send MPS: 12345 ...` of a report; only programs that send batches count messages apart.
fn messages_a_second(line: &str) -> Option<f64> {
    let (_, behind) = line.split_once("MPS: ").or_else(|| line.split_once("TPS: "))?;
    behind.trim_start().split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}
