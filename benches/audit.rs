//! What the audit costs: a gateway and a relay with `--audit true` and with `--audit false`, on one broker.
//!
//! `cargo bench --bench audit`. Rounds alternate, each with processes and topics of their own; the medians count. Beside the
//! speed, which is the whole machine's, stands the processor time of the process itself for a thousand messages.

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

const ROUNDS: usize = 7;
const BODY: [u8; 200] = [b'x'; 200];
/// `/pub`: connections, and messages of each.
const PUB: (usize, usize) = (64, 1_000);
/// `/mpub`: connections, requests of each, and messages of each request.
const MPUB: (usize, usize, usize) = (8, 600, 200);
/// Messages for the relay, published beforehand.
const BACKLOG: usize = 400_000;

/// One measurement: seconds, and processor seconds.
#[derive(Clone, Copy)]
struct Cost {
    took: f64,
    busy: f64,
    messages: usize,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let rig = Rig::start(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() }).unwrap();
    let mut costs: [[Vec<Cost>; 2]; 3] = Default::default();
    for round in 0..ROUNDS {
        for audited in [round % 2 == 0, round % 2 != 0] {
            let gateway = Gateway::start(&rig, audited);
            let topic = |what: &str| format!("{what}.{round}.{audited}");
            let backlog = topic("backlog");
            // The topics are there, their audit's too, and connections open, before anything is measured: that is paid once.
            gateway.publish(&topic("pub"), 1).await;
            gateway.publish_many(&topic("mpub"), 1).await;
            gateway.publish_many(&backlog, 1).await;
            if audited {
                for topic in [topic("pub"), topic("mpub"), backlog.clone()] {
                    until_audited(&rig, &topic).await;
                }
            }
            let messages = PUB.0 * PUB.1;
            let cost = measure(&gateway.process, messages, gateway.publish(&topic("pub"), PUB.1)).await;
            costs[0][usize::from(audited)].push(cost);
            let messages = MPUB.0 * MPUB.1 * MPUB.2;
            let cost =
                measure(&gateway.process, messages, gateway.publish_many(&topic("mpub"), MPUB.1)).await;
            costs[1][usize::from(audited)].push(cost);

            while gateway.count(&backlog) < BACKLOG {
                gateway.publish_many(&backlog, (BACKLOG / MPUB.0 / MPUB.2).div_ceil(4)).await;
            }
            costs[2][usize::from(audited)]
                .push(relay(&rig, &backlog, gateway.count(&backlog), audited).await);
        }
        println!("after round {}", round + 1);
        show(&costs);
    }
}

/// Waits until the first audit record of a topic had its own topic created.
async fn until_audited(rig: &Rig, topic: &str) {
    let cluster = Cluster::new(ClusterConfig::new(vec![rig.name_server.addr().to_string()]));
    let audit_topic = Names::default().audit_topic(&topic.parse().unwrap());
    while cluster.route(&audit_topic).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Medians so far: a round takes a while.
fn show(costs: &[[Vec<Cost>; 2]; 3]) {
    println!(
        "{:<14} {:>14} {:>14} {:>8} {:>14} {:>14} {:>8}",
        "", "msg/s without", "with", "", "CPU s/1M w/o", "with", ""
    );
    for (name, [without, with]) in ["gateway /pub", "gateway /mpub", "relay"].iter().zip(costs) {
        let [speed_without, speed] =
            [without, with].map(|costs| median(costs, |cost| cost.messages as f64 / cost.took));
        let [busy_without, busy] =
            [without, with].map(|costs| median(costs, |cost| cost.busy * 1e6 / cost.messages as f64));
        println!(
            "{name:<14} {speed_without:>14.0} {speed:>14.0} {:>+7.1}% {busy_without:>14.2} {busy:>14.2} {:>+7.1}%",
            (speed / speed_without - 1.0) * 100.0,
            (busy / busy_without - 1.0) * 100.0
        );
    }
}

fn median(costs: &[Cost], value: impl Fn(&Cost) -> f64) -> f64 {
    let mut values: Vec<f64> = costs.iter().map(value).collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn measure(process: &Server, messages: usize, work: impl Future<Output = ()>) -> Cost {
    let (started, busy) = (Instant::now(), busy_seconds(process));
    work.await;
    Cost { took: started.elapsed().as_secs_f64(), busy: busy_seconds(process) - busy, messages }
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
    measure(&process, messages - begun, async {
        while has().await < messages {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}
