//! Publishing over HTTP and nsqd's TCP protocol: the gateway with RocketMQ behind it, and an nsqd; and what HTTP adds to a send.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use nsqbridge::{
    nsq::mpub,
    rocketmq::{Cluster, Outcome, Producer, unique_key::UniqueKeys},
};
use nsqbridge_brokers::{Flush, Rig};

use crate::{
    Plan,
    client::message,
    load::{self, Load, Peer, Speaks},
    parts::{
        Bridge, Fresh, all_stored, cluster, cpu_seconds, fresh_nsqd, median, new_topic, one_broker,
        published, spent, warm_up,
    },
    report::Report,
    table::{By, Row},
};

pub const BODY: usize = 256;
const BATCH: usize = 200;
const BATCH_BODY: usize = 200;
const WITHIN: Duration = Duration::from_secs(10);
/// Before each measurement: connections open, routes known.
const FIRST: Duration = Duration::from_millis(300);

/// One request of a kind.
pub struct Kind {
    /// A path of HTTP or a command's word, up to the topic.
    to: &'static str,
    body: Vec<u8>,
    pub messages: u64,
    speaks: Speaks,
}

impl Kind {
    pub fn single() -> Self {
        Self { to: "/pub?topic=", body: vec![b'x'; BODY], messages: 1, speaks: Speaks::Http }
    }

    pub fn batch() -> Self {
        let bodies = vec![[b'x'; BATCH_BODY]; BATCH];
        let body = mpub::encode_binary(bodies.iter().map(|body| &body[..])).to_vec();
        Self { to: "/mpub?binary=true&topic=", body, messages: BATCH as u64, speaks: Speaks::Http }
    }

    fn over_tcp(self, at_once: usize) -> Self {
        let to = if self.messages == 1 { "PUB " } else { "MPUB " };
        Self { to, speaks: Speaks::Tcp { at_once }, ..self }
    }

    /// Which of a server's addresses takes it.
    fn peer(&self, http: SocketAddr, tcp: SocketAddr) -> Peer {
        let address = if matches!(self.speaks, Speaks::Http) { http } else { tcp };
        Peer { address, speaks: self.speaks }
    }

    pub fn request(&self, address: SocketAddr, topic: &str) -> Vec<u8> {
        let to = format!("{}{topic}", self.to);
        match self.speaks {
            Speaks::Http => load::request(address, &to, &self.body),
            Speaks::Tcp { .. } => load::command(&to, &self.body),
        }
    }
}

/// A side's figures over the rounds.
#[derive(Debug, Default)]
struct Side {
    rates: Vec<f64>,
    medians: Vec<f64>,
    tails: Vec<f64>,
    cpu: Vec<f64>,
    /// The broker's; nsqd has none.
    behind: Vec<f64>,
    /// Percent of all processors' time.
    idle: Vec<f64>,
    kept_by_host: Vec<f64>,
}

impl Side {
    /// `cpu` is of the process that answers, and of the one behind it.
    fn take(&mut self, load: &Load, messages: u64, [cpu, behind]: [f64; 2], [idle, kept]: [f64; 2]) {
        let of_ten_thousand = |cpu: f64| cpu / (load.acknowledged * messages) as f64 * 10_000.0;
        self.rates.push(load.rate() * messages as f64);
        self.medians.push(load.within(0.5));
        self.tails.push(load.within(0.99));
        self.cpu.push(of_ten_thousand(cpu));
        self.behind.push(of_ten_thousand(behind));
        self.idle.push(idle);
        self.kept_by_host.push(kept);
    }

    /// What was idle and what the host kept.
    fn left(&self) -> String {
        format!("{:.0} and {:.0} %", median(&self.idle), median(&self.kept_by_host))
    }
}

/// All rows of publishing with brokers that flush so.
pub async fn measure(plan: &Plan, flush: Flush, fresh: &mut Fresh, report: &Report) {
    let rig = one_broker(flush);
    let cluster = cluster(&rig);
    let gateway = Bridge::gateway(&rig);
    warm_up(&rig, plan, fresh).await;
    let (suffix, singles, batch_aims): (_, &[(usize, (f64, f64))], _) = match flush {
        Flush::Async => {
            ("", &[(1, (0.35, 0.42)), (16, (0.75, 1.0)), (64, (1.5, 1.8)), (256, (1.6, 2.0))], (2.3, 3.0))
        }
        Flush::Sync => (", SYNC_FLUSH", &[(64, (1.0, 1.1)), (256, (1.3, 1.5))], (1.1, 1.5)),
    };
    if matches!(flush, Flush::Async) {
        let most = load::most(64, plan.lasting, BODY).await;
        let most = crate::table::figure(most);
        report.remark(format!(
            "the load's own limit: {most} requests/s of {BODY} B over 64 connections, against a server that only answers"
        ));
        over_a_bare_send(plan, &cluster, &gateway, fresh, report).await;
    }
    for &(connections, aims) in singles {
        let plural = if connections == 1 { "" } else { "s" };
        let what = format!("/pub {BODY} B, {connections} connection{plural}{suffix}");
        let tail_aims = (connections >= 16).then_some((1.0, 1.0));
        let figures = sides(plan, &rig, &gateway, &Kind::single(), connections, fresh).await;
        single_rows(&what, figures, Some(aims), tail_aims, Some((0.5, 0.3)), report);
    }
    let figures = sides(plan, &rig, &gateway, &Kind::batch(), 4, fresh).await;
    let what = format!("/mpub {BATCH} × {BATCH_BODY} B, 4 connections{suffix}");
    batch_rows(&what, figures, Some(batch_aims), report);
    if matches!(flush, Flush::Async) {
        over_tcp(plan, &rig, &gateway, fresh, report).await;
    }
}

/// nsqd's own protocol, with producers that wait for each answer and with such as do not.
async fn over_tcp(plan: &Plan, rig: &Rig, gateway: &Bridge, fresh: &mut Fresh, report: &Report) {
    for (connections, at_once) in [(64, 1), (4, 64)] {
        let kind = Kind::single().over_tcp(at_once);
        let figures = sides(plan, rig, gateway, &kind, connections, fresh).await;
        let what = format!("PUB {BODY} B over TCP, {connections} connections with {at_once} on the way");
        single_rows(&what, figures, None, None, None, report);
    }
    let figures = sides(plan, rig, gateway, &Kind::batch().over_tcp(1), 4, fresh).await;
    let what = format!("MPUB {BATCH} × {BATCH_BODY} B over TCP, 4 connections");
    batch_rows(&what, figures, None, report);
}

type Aims = Option<(f64, f64)>;

fn single_rows(
    what: &str,
    (ours, theirs): (Side, Side),
    aims: Aims,
    tail_aims: Aims,
    cpu_aims: Aims,
    report: &Report,
) {
    let of_processors = behind_and_left(&ours, &theirs);
    let medians = format!("p50 {:.2} against {:.2} ms", median(&ours.medians), median(&theirs.medians));
    report.row(row(what, "msg/s", (ours.rates, theirs.rates), By::Times, aims, medians));
    let (tail, cpu) = (format!("{what}: p99"), format!("{what}: CPU per 10,000"));
    report.row(row(&tail, "ms", (ours.tails, theirs.tails), By::Share, tail_aims, String::new()));
    report.row(row(&cpu, "s", (ours.cpu, theirs.cpu), By::Own, cpu_aims, of_processors));
}

fn batch_rows(what: &str, (ours, theirs): (Side, Side), aims: Aims, report: &Report) {
    let of_processors = behind_and_left(&ours, &theirs);
    let note = "all but its first 10,000 on nsqd's disk".to_owned();
    report.row(row(what, "msg/s", (ours.rates, theirs.rates), By::Times, aims, note));
    let cpu = format!("{what}: CPU per 10,000");
    report.row(row(&cpu, "s", (ours.cpu, theirs.cpu), By::Own, None, of_processors));
}

fn behind_and_left(ours: &Side, theirs: &Side) -> String {
    let (broker, ours, theirs) = (median(&ours.behind), ours.left(), theirs.left());
    format!("the broker's: {broker:.3} s; idle and kept by the host: {ours}, with nsqd {theirs}")
}

fn row(
    what: &str,
    unit: &'static str,
    (ours, theirs): (Vec<f64>, Vec<f64>),
    by: By,
    aims: Aims,
    note: String,
) -> Row {
    Row { what: what.to_owned(), unit, against: "nsqd", ours, theirs, by, aims, note }
}

async fn sides(
    plan: &Plan,
    rig: &Rig,
    gateway: &Bridge,
    kind: &Kind,
    connections: usize,
    fresh: &mut Fresh,
) -> (Side, Side) {
    let (mut ours, mut theirs) = (Side::default(), Side::default());
    let cluster = cluster(rig);
    for round in 0..plan.rounds {
        let topic = fresh.topic("publish");
        new_topic(&cluster, &topic).await;
        let nsqd = fresh_nsqd();
        let of_gateway = async |ours: &mut Side| {
            let peer = kind.peer(gateway.address, gateway.tcp_address);
            let request = kind.request(peer.address, &topic);
            let first = load::run(peer, connections, FIRST, &request).await;
            let used = || [&gateway.process, &*rig.brokers[0]].map(cpu_seconds);
            let (before, begun) = (used(), spent());
            let load = load::run(peer, connections, plan.lasting, &request).await;
            let (after, ended) = (used(), spent());
            assert_eq!(first.refused + load.refused, 0, "a figure with refusals is void");
            all_stored(&cluster, &[&topic], (first.acknowledged + load.acknowledged) * kind.messages).await;
            let cpu = [after[0] - before[0], after[1] - before[1]];
            ours.take(&load, kind.messages, cpu, ended.since(begun));
        };
        let of_nsqd = async |theirs: &mut Side| {
            let peer = kind.peer(nsqd.http_addr(), nsqd.tcp_addr());
            let request = kind.request(peer.address, &topic);
            let first = load::run(peer, connections, FIRST, &request).await;
            let (before, begun) = (cpu_seconds(&nsqd), spent());
            let load = load::run(peer, connections, plan.lasting, &request).await;
            let (cpu, ended) = (cpu_seconds(&nsqd) - before, spent());
            assert_eq!(first.refused + load.refused, 0, "a figure with refusals is void");
            let acknowledged = (first.acknowledged + load.acknowledged) * kind.messages;
            assert_eq!(published(&nsqd, &topic), acknowledged, "the figure of nsqd is void");
            theirs.take(&load, kind.messages, [cpu, 0.0], ended.since(begun));
        };
        if round % 2 == 0 {
            of_gateway(&mut ours).await;
            of_nsqd(&mut theirs).await;
        } else {
            of_nsqd(&mut theirs).await;
            of_gateway(&mut ours).await;
        }
    }
    (ours, theirs)
}

/// One connection, beside one caller of our own client: what the gateway adds to the way to the broker and back.
async fn over_a_bare_send(
    plan: &Plan,
    cluster: &Cluster,
    gateway: &Bridge,
    fresh: &mut Fresh,
    report: &Report,
) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let topic = fresh.topic("bare");
        new_topic(cluster, &topic).await;
        let request = Kind::single().request(gateway.address, &topic);
        let mut stored = load::run(gateway.address, 1, FIRST, &request).await.acknowledged;
        let mut take = async |of_gateway: bool| {
            let load = if of_gateway {
                load::run(gateway.address, 1, plan.lasting, &request).await
            } else {
                bare_sends(cluster, &topic, plan.lasting).await
            };
            assert_eq!(load.refused, 0, "a figure with refusals is void");
            stored += load.acknowledged;
            all_stored(cluster, &[&topic], stored).await;
            let figures = if of_gateway { &mut ours } else { &mut theirs };
            figures.push(load.within(0.5));
        };
        take(round % 2 == 0).await;
        take(round % 2 != 0).await;
    }
    report.row(Row {
        what: format!("/pub {BODY} B, 1 connection: p50"),
        unit: "ms",
        against: "a bare send of our client",
        ours,
        theirs,
        by: By::Extra,
        aims: Some((0.06, 0.04)),
        note: String::new(),
    });
}

async fn bare_sends(cluster: &Cluster, topic: &str, lasting: Duration) -> Load {
    let producer = Producer::new(cluster.clone(), "bench");
    let keys = UniqueKeys::new();
    let body = bytes::Bytes::from(vec![b'x'; BODY]);
    let (begun, mut calls) = (Instant::now(), Vec::new());
    while begun.elapsed() < lasting {
        let called = Instant::now();
        let outcome = producer.deliver(topic, &[message(&keys, &body)], None, WITHIN).await;
        calls.push(called.elapsed());
        assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
    }
    Load::of_calls(&calls, begun.elapsed())
}
