//! Publishing over HTTP: the gateway with RocketMQ behind it, and an nsqd.

use std::time::Duration;

use nsqbridge::nsq::mpub;
use nsqbridge_brokers::{Flush, Rig};

use crate::{
    Plan,
    load::{self, Load, request},
    parts::{Bridge, Fresh, all_stored, cluster, cpu_seconds, fresh_nsqd, new_topic, published},
    table::Row,
};

const BODY: usize = 256;
const BATCH: usize = 200;
const BATCH_BODY: usize = 200;

/// One request of a kind.
struct Kind {
    path: &'static str,
    body: Vec<u8>,
    messages: u64,
}

impl Kind {
    fn single() -> Self {
        Self { path: "/pub?topic=", body: vec![b'x'; BODY], messages: 1 }
    }

    fn batch() -> Self {
        let bodies = vec![[b'x'; BATCH_BODY]; BATCH];
        let body = mpub::encode_binary(bodies.iter().map(|body| &body[..])).to_vec();
        Self { path: "/mpub?binary=true&topic=", body, messages: BATCH as u64 }
    }
}

/// A side's figures over the rounds.
#[derive(Debug, Default)]
struct Side {
    rates: Vec<f64>,
    medians: Vec<f64>,
    tails: Vec<f64>,
    cpu: Vec<f64>,
}

impl Side {
    fn take(&mut self, load: &Load, messages: u64, cpu: f64) {
        self.rates.push(load.rate() * messages as f64);
        self.medians.push(load.within(0.5));
        self.tails.push(load.within(0.99));
        self.cpu.push(cpu / (load.acknowledged * messages) as f64 * 10_000.0);
    }
}

/// All rows of publishing with brokers that flush so.
pub async fn rows(plan: &Plan, flush: Flush, fresh: &mut Fresh) -> Vec<Row> {
    let rig = crate::parts::rig(1, flush);
    let gateway = Bridge::gateway(&rig);
    let (suffix, singles, batch_aims): (_, &[(usize, (f64, f64))], _) = match flush {
        Flush::Async => {
            ("", &[(1, (0.35, 0.42)), (16, (0.75, 1.0)), (64, (1.5, 1.8)), (256, (1.6, 2.0))], (2.3, 3.0))
        }
        Flush::Sync => (", SYNC_FLUSH", &[(64, (1.0, 1.1)), (256, (1.3, 1.5))], (1.1, 1.5)),
    };
    let mut rows = Vec::new();
    for (connections, aims) in singles {
        let (ours, theirs) = sides(plan, &rig, &gateway, &Kind::single(), *connections, fresh).await;
        let what = format!("/pub {BODY} B, {connections} connections{suffix}");
        rows.push(compared(
            what.clone(),
            "msg/s",
            &ours.rates,
            &theirs.rates,
            Some(*aims),
            false,
            format!(
                "p50 {:.2} / {:.2} ms",
                crate::parts::median(&ours.medians),
                crate::parts::median(&theirs.medians)
            ),
        ));
        rows.push(compared(
            format!("{what}: p99"),
            "ms",
            &ours.tails,
            &theirs.tails,
            (*connections >= 16).then_some((1.0, 1.0)),
            true,
            String::new(),
        ));
        rows.push(compared(
            format!("{what}: CPU s per 10,000"),
            "s",
            &ours.cpu,
            &theirs.cpu,
            None,
            true,
            "gateway alone, against nsqd".to_owned(),
        ));
    }
    let (ours, theirs) = sides(plan, &rig, &gateway, &Kind::batch(), 4, fresh).await;
    let what = format!("/mpub {BATCH} × {BATCH_BODY} B, 4 connections{suffix}");
    rows.push(compared(what, "msg/s", &ours.rates, &theirs.rates, Some(batch_aims), false, String::new()));
    rows
}

fn compared(
    what: String,
    unit: &'static str,
    ours: &[f64],
    theirs: &[f64],
    aims: Option<(f64, f64)>,
    less: bool,
    note: String,
) -> Row {
    Row { what, unit, against: "nsqd", ours: ours.to_vec(), theirs: theirs.to_vec(), aims, less, note }
}

async fn sides(
    plan: &Plan,
    rig: &Rig,
    gateway: &Bridge,
    kind: &Kind,
    connections: usize,
    fresh: &mut Fresh,
) -> (Side, Side) {
    let cluster = cluster(rig);
    let (mut ours, mut theirs) = (Side::default(), Side::default());
    for round in 0..plan.rounds {
        let topic = fresh.topic("publish");
        new_topic(&cluster, &topic).await;
        // Known to the gateway, and the connection to the broker open.
        load::run(gateway.address, connections.min(4), Duration::from_millis(300), |_| {
            request(gateway.address, &format!("/pub?topic={topic}_warm"), b"x")
        })
        .await;
        let nsqd = fresh_nsqd();
        let of_gateway = async |ours: &mut Side| {
            let before = cpu_seconds(&gateway.process);
            let load = load::run(gateway.address, connections, plan.lasting, |_| {
                request(gateway.address, &format!("{}{topic}", kind.path), &kind.body)
            })
            .await;
            let cpu = cpu_seconds(&gateway.process) - before;
            assert_eq!(load.refused, 0, "a figure with refusals is void");
            all_stored(&cluster, &topic, load.acknowledged * kind.messages).await;
            ours.take(&load, kind.messages, cpu);
        };
        let of_nsqd = async |theirs: &mut Side| {
            let before = cpu_seconds(&nsqd);
            let load = load::run(nsqd.http_addr(), connections, plan.lasting, |_| {
                request(nsqd.http_addr(), &format!("{}{topic}", kind.path), &kind.body)
            })
            .await;
            let cpu = cpu_seconds(&nsqd) - before;
            assert_eq!(published(&nsqd, &topic), load.acknowledged * kind.messages);
            theirs.take(&load, kind.messages, cpu);
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
