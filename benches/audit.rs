//! What the audit costs: a gateway and a relay with `--audit true` and with `--audit false`, on one broker.
//!
//! `cargo bench --bench audit`, 8 minutes. A round measures both, in turn first, each with processes and topics of their own; what counts is the
//! median of the rounds' comparisons, for single figures differ by more than the audit costs. Three are compared: messages a second; the processor
//! time for each message of the process itself; and that of process, broker and nsqd together. On a machine that is kept busy by these, what
//! the last one rises by is what the speed falls by; the first of the two times is the steadiest figure.

#![allow(missing_docs, clippy::unwrap_used, reason = "a measurement, not an interface")]

use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use nsqbridge::{
    mapping::Names,
    nsq::{mpub, nsqd::Nsqd},
    rocketmq::{Cluster, ClusterConfig},
};
use nsqbridge_brokers::{Line, Rig, RigOptions, Server, http, ports::Ports};

/// Rounds that count, after some in which Java's code is compiled.
const ROUNDS: usize = 30;
const WARM_UP: usize = 3;
const BODY: [u8; 200] = [b'x'; 200];
/// `/pub`: connections, and messages of each.
const PUB: (usize, usize) = (64, 500);
/// `/mpub`: connections, requests of each, and messages of each request. The relay has the same messages.
const MPUB: (usize, usize, usize) = (8, 150, 200);

const NAMES: [&str; 3] = ["gateway /pub", "gateway /mpub", "relay"];

/// One measurement: what a message took.
#[derive(Clone, Copy)]
struct Cost {
    messages_per_second: f64,
    /// Microseconds of a processor, of the process itself.
    own: f64,
    /// Of process, broker and nsqd.
    all: f64,
}

/// Without and with the audit, of [`NAMES`].
type Round = [[Cost; 3]; 2];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let rig = Rig::start(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() }).unwrap();
    let mut rounds: Vec<Round> = Vec::new();
    for round in 0..WARM_UP + ROUNDS {
        let first = round % 2 == 0;
        let mut costs = [measured(&rig, round, first).await, measured(&rig, round, !first).await];
        if first {
            costs.swap(0, 1);
        }
        if round >= WARM_UP {
            rounds.push(costs);
            println!("after {} rounds: median of the comparisons, and the middle half of them", rounds.len());
            show(&rounds);
        }
    }
}

async fn measured(rig: &Rig, round: usize, audited: bool) -> [Cost; 3] {
    let gateway = Gateway::start(rig, audited);
    let topic = |what: &str| format!("{what}.{round}.{audited}");
    let (single, many) = (topic("pub"), topic("mpub"));
    // The topics are there, their audit's too, and connections open, before anything is measured: that is paid once.
    gateway.publish(&single, 1).await;
    gateway.publish_many(&many, 1).await;
    if audited {
        for topic in [&single, &many] {
            until_audited(rig, topic).await;
        }
    }
    let messages = PUB.0 * PUB.1;
    let lone = measure(rig, &gateway.process, messages, gateway.publish(&single, PUB.1)).await;
    let messages = MPUB.0 * MPUB.1 * MPUB.2;
    let batched = measure(rig, &gateway.process, messages, gateway.publish_many(&many, MPUB.1)).await;
    [lone, batched, relay(rig, &many, gateway.count(&many), audited).await]
}

/// Waits until the first audit record of a topic had its own topic created.
async fn until_audited(rig: &Rig, topic: &str) {
    let cluster = Cluster::new(ClusterConfig::new(vec![rig.name_server.addr().to_string()]));
    let audit_topic = Names::default().audit_topic(&topic.parse().unwrap());
    while cluster.route(&audit_topic).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn show(rounds: &[Round]) {
    let of = |what: usize, value: fn(&Cost) -> f64| {
        let compared: Vec<f64> = rounds
            .iter()
            .map(|[without, with]| (value(&with[what]) / value(&without[what]) - 1.0) * 100.0)
            .collect();
        let [low, median, high] = [0.25, 0.5, 0.75].map(|part| quantile(&compared, part));
        let [without, with] = [0, 1].map(|side| {
            quantile(&rounds.iter().map(|round| value(&round[side][what])).collect::<Vec<_>>(), 0.5)
        });
        format!("{without:>9.2} {with:>9.2} {median:>+6.1} % ({low:+.1} to {high:+.1})")
    };
    for (what, name) in NAMES.iter().enumerate() {
        println!("{name:<14} messages/s        {}", of(what, |cost| cost.messages_per_second));
        println!("{:<14} own µs/message    {}", "", of(what, |cost| cost.own));
        println!("{:<14} all µs/message    {}", "", of(what, |cost| cost.all));
    }
}

fn quantile(values: &[f64], part: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}

async fn measure(rig: &Rig, process: &Server, messages: usize, work: impl Future<Output = ()>) -> Cost {
    let others = || busy_seconds(&rig.brokers[0]) + busy_seconds(&rig.nsqds[0]);
    let (started, own, all) = (Instant::now(), busy_seconds(process), others());
    work.await;
    let took = started.elapsed().as_secs_f64();
    let own = busy_seconds(process) - own;
    let all = others() - all + own;
    let each = |seconds: f64| seconds * 1e6 / messages as f64;
    Cost { messages_per_second: messages as f64 / took, own: each(own), all: each(all) }
}

/// The time a process has had a processor so far, to the nanosecond.
fn busy_seconds(process: &Server) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
    let ran = threads.filter_map(|thread| {
        // A thread may just have ended.
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    ran.sum::<f64>() / 1e9
}

fn start(title: &str, arguments: &[&str]) -> Server {
    let run = |_: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nsqbridge"));
        command.args(arguments);
        command
    };
    Server::run(title, run).unwrap()
}

struct Gateway {
    process: Server,
    address: SocketAddr,
    client: reqwest::Client,
    _ports: Ports,
}

impl Gateway {
    fn start(rig: &Rig, audited: bool) -> Self {
        let ports = Ports::claim().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], ports.get(0)));
        let name_server = rig.name_server.addr().to_string();
        let http_address = address.to_string();
        let process = start(
            "gateway",
            &[
                "gateway",
                "--namesrv",
                &name_server,
                "--http-address",
                &http_address,
                "--admin-address",
                "",
                "--audit",
                &audited.to_string(),
            ],
        );
        while !http::get(address, "/ping").is_ok_and(|(status, _)| status == 200) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(PUB.0).build().unwrap();
        Self { process, address, client, _ports: ports }
    }

    async fn publish(&self, topic: &str, each: usize) {
        let url = format!("http://{}/pub?topic={topic}", self.address);
        self.post(&url, PUB.0, each, BODY.to_vec()).await;
    }

    async fn publish_many(&self, topic: &str, each: usize) {
        let url = format!("http://{}/mpub?binary=true&topic={topic}", self.address);
        let payload = mpub::encode_binary((0..MPUB.2).map(|_| &BODY[..]));
        self.post(&url, MPUB.0, each, payload.to_vec()).await;
    }

    async fn post(&self, url: &str, connections: usize, each: usize, body: Vec<u8>) {
        let body = bytes::Bytes::from(body);
        join_all((0..connections).map(|_| async {
            for _ in 0..each {
                let answer = self.client.post(url).body(body.clone()).send().await.unwrap();
                assert_eq!(answer.text().await.unwrap(), "OK");
            }
        }))
        .await;
    }

    /// Messages of a topic it has stored.
    fn count(&self, topic: &str) -> usize {
        let (_, stats) = http::get(self.address, &format!("/stats?format=json&topic={topic}")).unwrap();
        let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
        stats["topics"][0]["message_count"].as_u64().unwrap_or(0) as usize
    }
}

async fn relay(rig: &Rig, topic: &str, messages: usize, audited: bool) -> Cost {
    let nsqd = Nsqd::new(rig.nsqds[0].http_addr().to_string().parse().unwrap());
    let (name_server, address) = (rig.name_server.addr().to_string(), nsqd.address().to_string());
    let has = async || {
        let stats = nsqd.stats(Some(&topic.parse().unwrap())).await.unwrap();
        stats.topics.first().map_or(0, |topic| topic.message_count as usize)
    };
    let process = start(
        "transfer",
        &[
            "transfer",
            "--namesrv",
            &name_server,
            "--topic",
            topic,
            "--nsqd-http-address",
            &address,
            "--admin-address",
            "",
            "--audit",
            &audited.to_string(),
        ],
    );
    // What it takes to begin is no part of it.
    while has().await == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let begun = has().await;
    measure(rig, &process, messages - begun, async {
        while has().await < messages {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}
