//! The processes that are measured.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use nsqbridge::rocketmq::{Cluster, ClusterConfig, Queue};
use nsqbridge_brokers::{
    Flush, Line, Nsqd, NsqdOptions, Rig, RigOptions, Server, Settings, http, ports::Ports,
};

use crate::{Plan, load, publish::Kind};

/// Queues of every topic.
pub const QUEUES: u32 = 8;
/// For what must happen; `nsq_to_nsq` takes a minute for its backlog on a small machine.
pub const SOON: Duration = Duration::from_secs(240);

/// Waits until something holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// RocketMQ and an nsqlookupd, at full speed; the files as large as RocketMQ makes them, where tests want small ones.
pub fn rig(brokers: usize, flush: Flush) -> Rig {
    let broker = Settings::new()
        .conf("mappedFileSizeCommitLog", 1 << 30)
        .conf("mappedFileSizeConsumeQueue", 300_000 * 20)
        .conf("maxHashSlotNum", 5_000_000)
        .conf("maxIndexNum", 5_000_000 * 4);
    let options = RigOptions { brokers, nsqds: 0, flush, broker, ..RigOptions::default() };
    Rig::start(Line::V5, &options).unwrap()
}

/// Lets a broker's Java compile what publishing runs through: a cold one is several times slower.
pub async fn warm_up(rig: &Rig, plan: &Plan, fresh: &mut Fresh) {
    let gateway = Bridge::gateway(rig);
    let topic = fresh.topic("warm");
    let (single, batch) = (Kind::single(), Kind::batch());
    for (connections, lasting, kind) in [(64, 2 * plan.lasting, &single), (4, plan.lasting / 2, &batch)] {
        let request = kind.request(gateway.address, &topic);
        load::run(gateway.address, connections, lasting, &request).await;
    }
}

/// A client of a rig.
pub fn cluster(rig: &Rig) -> Cluster {
    Cluster::new(ClusterConfig::new(vec![rig.name_server.addr().to_string()]))
}

/// An nsqd nobody has used.
pub fn fresh_nsqd() -> Nsqd {
    Nsqd::start(&NsqdOptions::default()).unwrap()
}

/// A running `nsqbridge`.
pub struct Bridge {
    pub process: Server,
    pub address: SocketAddr,
    _ports: Ports,
}

impl Bridge {
    fn start(role: &str, rig: &Rig, flags: impl FnOnce(SocketAddr) -> Vec<String>) -> Self {
        let ports = Ports::claim().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], ports.get(0)));
        let mut arguments: Vec<String> =
            [role, "--log-level", "warn", "--admin-address", "", "--namesrv"].map(str::to_owned).into();
        arguments.push(rig.name_server.addr().to_string());
        arguments.extend(flags(address));
        let run = |_: &Path| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_nsqbridge"));
            command.args(&arguments);
            command
        };
        Self { process: Server::run(role, run).unwrap(), address, _ports: ports }
    }

    /// A gateway, in good health.
    pub fn gateway(rig: &Rig) -> Self {
        let flags = |address: SocketAddr| {
            ["--http-address", &address.to_string(), "--topic-queues", &QUEUES.to_string()]
                .map(str::to_owned)
                .into()
        };
        let gateway = Self::start("gateway", rig, flags);
        eventually("the gateway is healthy", || {
            http::get(gateway.address, "/ping").is_ok_and(|(status, _)| status == 200)
        });
        gateway
    }

    /// A relay of a topic into one nsqd.
    pub fn relay(rig: &Rig, topic: &str, nsqd: &Nsqd) -> Self {
        let flags = |_: SocketAddr| {
            ["--topic", topic, "--nsqd-http-address", &nsqd.http_addr().to_string()].map(str::to_owned).into()
        };
        Self::start("transfer", rig, flags)
    }
}

/// Processor seconds a process has used.
pub fn cpu_seconds(server: &Server) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap_or_default();
    // The name in parentheses may hold blanks; user and system time are fields 14 and 15.
    let behind = stat.rsplit_once(") ").map_or("", |(_, behind)| behind);
    let ticks: u64 = behind.split(' ').skip(11).take(2).map(|field| field.parse().unwrap_or(0)).sum();
    ticks as f64 / 100.0
}

/// Peak memory of a process, in MiB.
pub fn peak_mib(server: &Server) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

/// Messages an nsqd has counted for a topic.
pub fn published(nsqd: &Nsqd, topic: &str) -> u64 {
    let path = format!("/stats?format=json&include_clients=false&include_mem=false&topic={topic}");
    let Ok((200, body)) = http::get(nsqd.http_addr(), &path) else { return 0 };
    let stats: serde_json::Value = serde_json::from_str(&body).unwrap();
    stats["topics"][0]["message_count"].as_u64().unwrap_or(0)
}

/// Holds a figure to what RocketMQ has: all that was acknowledged, and nothing else. A broker shows what it has stored a moment later.
pub async fn all_stored<T: AsRef<str>>(cluster: &Cluster, topics: &[T], acknowledged: u64) {
    let deadline = Instant::now() + SOON;
    loop {
        let mut stored = 0;
        for topic in topics {
            let bounds = cluster.topic_stats(topic.as_ref()).await.unwrap();
            stored += bounds.values().map(|bounds| (bounds.max - bounds.min).unsigned_abs()).sum::<u64>();
        }
        if stored >= acknowledged || Instant::now() > deadline {
            assert_eq!(stored, acknowledged, "stored and acknowledged differ: the figure is void");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A new topic, and its queues.
pub async fn new_topic(cluster: &Cluster, topic: &str) -> Vec<Queue> {
    cluster.create_topic(topic, QUEUES).await.unwrap();
    cluster.fresh_route(topic).await.unwrap().write_queues.clone()
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Names that were never used before.
#[derive(Debug, Default)]
pub struct Fresh(BTreeMap<&'static str, usize>);

impl Fresh {
    pub fn topic(&mut self, stem: &'static str) -> String {
        let n = self.0.entry(stem).or_default();
        *n += 1;
        format!("{stem}_{n}")
    }
}
