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
    Flush, Line, Nsqd, NsqdOptions, Rig, RigOptions, Server, http, ports::Ports, shipped,
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

/// One broker with all the heap it may have; see [`rig`].
pub fn one_broker(flush: Flush) -> Rig {
    rig(1, shipped::heap_mib(1), flush)
}

/// RocketMQ as it is shipped, and an nsqlookupd.
pub fn rig(brokers: usize, heap_mib: u64, flush: Flush) -> Rig {
    let broker = shipped::settings(heap_mib);
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
    /// Of a gateway's HTTP, and of its TCP protocol.
    pub address: SocketAddr,
    pub tcp_address: SocketAddr,
    _ports: Ports,
}

impl Bridge {
    fn start(role: &str, rig: &Rig, flags: impl FnOnce([SocketAddr; 2]) -> Vec<String>) -> Self {
        let ports = Ports::claim().unwrap();
        let [address, tcp_address] = [0, 1].map(|n| SocketAddr::from(([127, 0, 0, 1], ports.get(n))));
        let mut arguments: Vec<String> =
            [role, "--log-level", "warn", "--admin-address", "", "--namesrv"].map(str::to_owned).into();
        arguments.push(rig.name_server.addr().to_string());
        arguments.extend(flags([address, tcp_address]));
        let run = |_: &Path| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_nsqbridge"));
            command.args(&arguments);
            command
        };
        Self { process: Server::run(role, run).unwrap(), address, tcp_address, _ports: ports }
    }

    /// A gateway, in good health.
    pub fn gateway(rig: &Rig) -> Self {
        let flags = |[http, tcp]: [SocketAddr; 2]| {
            [
                "--http-address",
                &http.to_string(),
                "--tcp-address",
                &tcp.to_string(),
                "--topic-queues",
                &QUEUES.to_string(),
            ]
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
        let flags = |_| {
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

/// Where the processors' time went, in ticks since the machine began.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    idle: u64,
    /// Kept by the host, where this machine is a virtual one.
    kept: u64,
    all: u64,
}

/// Until now.
pub fn spent() -> Spent {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let of_all = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = of_all.map(|field| field.parse().unwrap_or(0)).collect();
    let of = |field: usize| ticks.get(field).copied().unwrap_or(0);
    Spent { idle: of(3) + of(4), kept: of(7), all: ticks.iter().take(8).sum() }
}

impl Spent {
    /// Percent idle, and percent kept by the host, since then.
    pub fn since(self, then: Spent) -> [f64; 2] {
        let all = self.all.saturating_sub(then.all).max(1) as f64;
        [self.idle.saturating_sub(then.idle), self.kept.saturating_sub(then.kept)]
            .map(|ticks| ticks as f64 / all * 100.0)
    }
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
