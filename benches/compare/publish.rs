//! Publishing over HTTP: the gateway with RocketMQ behind it, and an nsqd; and what HTTP adds to a send.

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
    load::{self, Load},
    parts::{
        Bridge, Fresh, all_stored, cluster, cpu_seconds, fresh_nsqd, median, new_topic, published, rig,
        warm_up,
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
    path: &'static str,
    body: Vec<u8>,
    pub messages: u64,
}

impl Kind {
    pub fn single() -> Self {
        Self { path: "/pub?topic=", body: vec![b'x'; BODY], messages: 1 }
    }

    pub fn batch() -> Self {
        let bodies = vec![[b'x'; BATCH_BODY]; BATCH];
        let body = mpub::encode_binary(bodies.iter().map(|body| &body[..])).to_vec();
        Self { path: "/mpub?binary=true&topic=", body, messages: BATCH as u64 }
    }

    pub fn request(&self, address: SocketAddr, topic: &str) -> Vec<u8> {
        load::request(address, &format!("{}{topic}", self.path), &self.body)
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
}

impl Side {
    /// `cpu` is of the process that answers, and of the one behind it.
    fn take(&mut self, load: &Load, messages: u64, [cpu, behind]: [f64; 2]) {
        let of_ten_thousand = |cpu: f64| cpu / (load.acknowledged * messages) as f64 * 10_000.0;
        self.rates.push(load.rate() * messages as f64);
        self.medians.push(load.within(0.5));
        self.tails.push(load.within(0.99));
        self.cpu.push(of_ten_thousand(cpu));
        self.behind.push(of_ten_thousand(behind));
    }
}

/// All rows of publishing with brokers that flush so.
pub async fn measure(plan: &Plan, flush: Flush, fresh: &mut Fresh, report: &Report) {
    let rig = rig(1, flush);
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
        let (ours, theirs) = sides(plan, &rig, &gateway, &Kind::single(), connections, fresh).await;
        let plural = if connections == 1 { "" } else { "s" };
        let what = format!("/pub {BODY} B, {connections} connection{plural}{suffix}");
        let medians = format!("p50 {:.2} against {:.2} ms", median(&ours.medians), median(&theirs.medians));
        report.row(row(&what, "msg/s", (ours.rates, theirs.rates), By::Times, Some(aims), medians));
        let tail_aims = (connections >= 16).then_some((1.0, 1.0));
        let (tail, cpu) = (format!("{what}: p99"), format!("{what}: CPU per 10,000"));
        report.row(row(&tail, "ms", (ours.tails, theirs.tails), By::Share, tail_aims, String::new()));
        let note = format!("the broker's: {:.3} s", median(&ours.behind));
        report.row(row(&cpu, "s", (ours.cpu, theirs.cpu), By::Own, Some((0.5, 0.3)), note));
    }
    let (ours, theirs) = sides(plan, &rig, &gateway, &Kind::batch(), 4, fresh).await;
    let what = format!("/mpub {BATCH} × {BATCH_BODY} B, 4 connections{suffix}");
    let note = "all but its first 10,000 on nsqd's disk".to_owned();
    report.row(row(&what, "msg/s", (ours.rates, theirs.rates), By::Times, Some(batch_aims), note));
    let cpu = format!("{what}: CPU per 10,000");
    let note = format!("the broker's: {:.3} s", median(&ours.behind));
    report.row(row(&cpu, "s", (ours.cpu, theirs.cpu), By::Own, None, note));
}

fn row(
    what: &str,
    unit: &'static str,
    (ours, theirs): (Vec<f64>, Vec<f64>),
    by: By,
    aims: Option<(f64, f64)>,
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
            let request = kind.request(gateway.address, &topic);
            let first = load::run(gateway.address, connections, FIRST, &request).await;
            let used = || [&gateway.process, &*rig.brokers[0]].map(cpu_seconds);
            let before = used();
            let load = load::run(gateway.address, connections, plan.lasting, &request).await;
            let after = used();
            assert_eq!(first.refused + load.refused, 0, "a figure with refusals is void");
            all_stored(&cluster, &[&topic], (first.acknowledged + load.acknowledged) * kind.messages).await;
            ours.take(&load, kind.messages, [after[0] - before[0], after[1] - before[1]]);
        };
        let of_nsqd = async |theirs: &mut Side| {
            let request = kind.request(nsqd.http_addr(), &topic);
            let first = load::run(nsqd.http_addr(), connections, FIRST, &request).await;
            let before = cpu_seconds(&nsqd);
            let load = load::run(nsqd.http_addr(), connections, plan.lasting, &request).await;
            let cpu = cpu_seconds(&nsqd) - before;
            assert_eq!(first.refused + load.refused, 0, "a figure with refusals is void");
            let acknowledged = (first.acknowledged + load.acknowledged) * kind.messages;
            assert_eq!(published(&nsqd, &topic), acknowledged, "the figure of nsqd is void");
            theirs.take(&load, kind.messages, [cpu, 0.0]);
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
