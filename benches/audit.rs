//! What the audit costs: a gateway and a relay with `--audit true` and with `--audit false`, on one broker.
//!
//! `cargo bench --bench audit`, 12 minutes. A round measures both, each with processes and topics of its own, publishing by turns: one, the
//! other, the other, the one. What counts is the median of the rounds' comparisons, for single figures differ by more than the audit costs.
//! Three are compared: messages a second; the processor time for each message of the process itself; and that of process, broker and nsqd
//! together. On a machine that is kept busy by these, what the last one rises by is what the speed falls by; the first of the two times is
//! the steadiest figure.

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
use nsqbridge_brokers::{Line, Rig, RigOptions, Server, http, ports::Ports, shipped};

/// Rounds that count, after some in which Java's code is compiled.
const ROUNDS: usize = 24;
const WARM_UP: usize = 3;
const BODY: [u8; 200] = [b'x'; 200];
/// `/pub`: connections, and messages of each.
const PUB: (usize, usize) = (64, 1_000);
/// `/mpub`: connections, requests of each, and messages of each request. The relay has the same messages.
const MPUB: (usize, usize, usize) = (8, 400, 200);

/// Broker and nsqd rest while they take less of a processor than this; a broker looks for new messages a thousand times a second.
const QUIET: f64 = 0.2;
const QUIET_WITHIN: Duration = Duration::from_secs(60);

const NAMES: [&str; 3] = ["gateway /pub", "gateway /mpub", "relay"];

/// What was measured: messages, and the seconds they took.
#[derive(Clone, Copy, Default)]
struct Cost {
    messages: f64,
    seconds: f64,
    /// Of a processor, of the process itself.
    own: f64,
    /// Of process, broker and nsqd.
    all: f64,
}

impl Cost {
    fn and(self, other: Self) -> Self {
        Self {
            messages: self.messages + other.messages,
            seconds: self.seconds + other.seconds,
            own: self.own + other.own,
            all: self.all + other.all,
        }
    }
}

/// Without and with the audit.
type Sides = [Cost; 2];
/// Of [`NAMES`].
type Round = [Sides; 3];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let broker = shipped::settings(shipped::heap_mib(1));
    let rig =
        Rig::start(Line::V5, &RigOptions { brokers: 1, nsqds: 1, broker, ..RigOptions::default() }).unwrap();
    let mut rounds: Vec<Round> = Vec::new();
    for round in 0..WARM_UP + ROUNDS {
        let costs = measured(&rig, round).await;
        if round >= WARM_UP {
            rounds.push(costs);
            println!("after {} rounds: median of the comparisons, and the middle half of them", rounds.len());
            show(&rounds);
        }
    }
}

/// The sides in turn, and back again: what grows or fades meanwhile meets both alike.
fn turns(round: usize) -> [usize; 4] {
    if round.is_multiple_of(2) { [0, 1, 1, 0] } else { [1, 0, 0, 1] }
}

async fn measured(rig: &Rig, round: usize) -> Round {
    let gateways = [false, true].map(|audited| Gateway::start(rig, audited));
    // Names of one length: each message carries its topic's.
    let topic = |what: &str, side: usize| format!("{what}.{round}.{side}");
    // The topics are there, their audit's too, and connections open, before anything is measured: that is paid once.
    for (side, gateway) in gateways.iter().enumerate() {
        gateway.publish(&topic("pub", side), 1).await;
        gateway.publish_many(&topic("mpub", side), 1).await;
    }
    until_audited(rig, &topic("pub", 1)).await;
    until_audited(rig, &topic("mpub", 1)).await;
    let [mut lone, mut batched, mut relayed] = Round::default();
    for side in turns(round) {
        let (gateway, topic) = (&gateways[side], topic("pub", side));
        let work = gateway.publish(&topic, PUB.1);
        lone[side] = lone[side].and(measure(rig, &gateway.process, PUB.0 * PUB.1, work).await);
    }
    for side in turns(round) {
        let (gateway, topic) = (&gateways[side], topic("mpub", side));
        let work = gateway.publish_many(&topic, MPUB.1);
        batched[side] =
            batched[side].and(measure(rig, &gateway.process, MPUB.0 * MPUB.1 * MPUB.2, work).await);
    }
    let [first, second, ..] = turns(round);
    for side in [first, second] {
        let topic = topic("mpub", side);
        relayed[side] = relay(rig, &topic, gateways[side].count(&topic), side == 1).await;
    }
    [lone, batched, relayed]
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
        let sides = |side: usize| rounds.iter().map(move |round| value(&round[what][side]));
        let compared: Vec<f64> =
            sides(0).zip(sides(1)).map(|(without, with)| (with / without - 1.0) * 100.0).collect();
        let [low, median, high] = [0.25, 0.5, 0.75].map(|part| quantile(&compared, part));
        let [without, with] = [0, 1].map(|side| quantile(&sides(side).collect::<Vec<_>>(), 0.5));
        format!("{without:>9.2} {with:>9.2} {median:>+6.1} % ({low:+.1} to {high:+.1})")
    };
    for (what, name) in NAMES.iter().enumerate() {
        println!("{name:<14} messages/s        {}", of(what, |cost| cost.messages / cost.seconds));
        println!("{:<14} own µs/message    {}", "", of(what, |cost| cost.own * 1e6 / cost.messages));
        println!("{:<14} all µs/message    {}", "", of(what, |cost| cost.all * 1e6 / cost.messages));
    }
}

fn quantile(values: &[f64], part: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}

async fn measure(rig: &Rig, process: &Server, messages: usize, work: impl Future<Output = ()>) -> Cost {
    until_quiet(rig).await;
    spent(rig, process, messages, work).await
}

async fn spent(rig: &Rig, process: &Server, messages: usize, work: impl Future<Output = ()>) -> Cost {
    let (started, own, all) = (Instant::now(), threads_seconds(process), others(rig));
    work.await;
    let seconds = started.elapsed().as_secs_f64();
    let own = threads_seconds(process) - own;
    Cost { messages: messages as f64, seconds, own, all: others(rig) - all + own }
}

/// The time broker and nsqd have had a processor so far.
fn others(rig: &Rig) -> f64 {
    ticked_seconds(&rig.brokers[0]) + ticked_seconds(&rig.nsqds[0])
}

/// Waits until broker and nsqd rest: what they have still to do for one measurement would be part of the next.
async fn until_quiet(rig: &Rig) {
    const LOOK: Duration = Duration::from_millis(500);
    let began = Instant::now();
    loop {
        let before = others(rig);
        tokio::time::sleep(LOOK).await;
        let busy = (others(rig) - before) / LOOK.as_secs_f64();
        if busy < QUIET {
            return;
        }
        assert!(began.elapsed() < QUIET_WITHIN, "broker and nsqd still take {busy:.2} of a processor");
    }
}

/// The time a process has had a processor so far, with that of threads that have ended; in steps of 10 ms.
fn ticked_seconds(process: &Server) -> f64 {
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
    // Behind the name, which may hold anything: `utime` and `stime` are fields 14 and 15 of all.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / TICKS
}

/// The same to the nanosecond, of a process none of whose threads ends.
fn threads_seconds(process: &Server) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
    let ran = threads.filter_map(|thread| {
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
                "--tcp-address",
                "",
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
    // What is left of publishing is not the relay's.
    until_quiet(rig).await;
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
    let cost = spent(rig, &process, messages - begun, async {
        while has().await < messages {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // nsqd keeps what nobody consumes.
    let delete = format!("http://{address}/topic/delete?topic={topic}");
    reqwest::Client::new().post(delete).send().await.unwrap().error_for_status().unwrap();
    cost
}
