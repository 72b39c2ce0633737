//! A backlog from RocketMQ into nsqd, beside NSQ's own relay and nsqd's own publishing.

use std::time::{Duration, Instant};

use nsqbridge::{
    nsq::{mpub, names::TopicName, nsqd},
    rocketmq::Cluster,
};
use nsqbridge_brokers::{Flush, Nsqd, Rig, nsq};

use crate::{
    Plan,
    client::fill,
    parts::{
        Bridge, Fresh, cluster, cpu_seconds, eventually, fresh_nsqd, median, new_topic, one_broker, peak_mib,
        published,
    },
    report::Report,
    table::{By, Row},
};

pub const CHANNEL: &str = "ch";

/// The figures of all rounds.
#[derive(Debug, Default)]
struct Figures {
    ours: Vec<f64>,
    theirs: Vec<f64>,
    nsqds_own: Vec<f64>,
    our_cpu: Vec<f64>,
    broker_cpu: Vec<f64>,
    nsqd_cpu: Vec<f64>,
    their_cpu: Vec<f64>,
    peak_mib: f64,
}

/// All rows of the relay.
pub async fn measure(plan: &Plan, fresh: &mut Fresh, report: &Report) {
    let rig = one_broker(Flush::Async);
    let cluster = cluster(&rig);
    // The broker's Java compiles what reading runs through; its figures are not kept.
    of_relay(&rig, &cluster, plan, fresh, &mut Figures::default()).await;
    let mut figures = Figures::default();
    for round in 0..plan.few_rounds() {
        if round % 2 == 0 {
            of_relay(&rig, &cluster, plan, fresh, &mut figures).await;
            of_nsq_to_nsq(plan, fresh, &mut figures).await;
        } else {
            of_nsq_to_nsq(plan, fresh, &mut figures).await;
            of_relay(&rig, &cluster, plan, fresh, &mut figures).await;
        }
    }
    let Figures { ours, theirs, nsqds_own, our_cpu, broker_cpu, nsqd_cpu, their_cpu, peak_mib } = figures;
    let what = format!("relay of {} × 200 B", plan.backlog);
    let cpu = format!("{what}: CPU per 10,000");
    let row = |what: &str, unit, against, ours, theirs, by, aims, note| {
        let (what, aims) = (what.to_owned(), Some(aims));
        report.row(Row { what, unit, against, ours, theirs, by, aims, note });
    };
    let peak = format!("peak memory {peak_mib:.0} MiB");
    let against = "nsq_to_nsq -max-in-flight 2500";
    row(&what, "msg/s", against, ours.clone(), theirs, By::Times, (4.0, 8.0), peak);
    row(&what, "msg/s", "nsqd's own /mpub", ours, nsqds_own, By::Times, (0.8, 0.95), String::new());
    let beside = format!("the broker's: {:.3} s; nsqd's: {:.3} s", median(&broker_cpu), median(&nsqd_cpu));
    row(&cpu, "s", "nsq_to_nsq", our_cpu, their_cpu, By::Own, (0.1, 0.04), beside);
}

async fn of_relay(rig: &Rig, cluster: &Cluster, plan: &Plan, fresh: &mut Fresh, figures: &mut Figures) {
    let topic = fresh.topic("relay");
    let queues = new_topic(cluster, &topic).await;
    fill(cluster, &queues, plan.backlog).await;
    let nsqd = with_channel(&topic).await;
    let broker_before = cpu_seconds(&rig.brokers[0]);
    let relay = Bridge::relay(rig, &topic, &nsqd);
    figures.ours.push(until_all_there(&nsqd, &topic, plan.backlog));
    let of_ten_thousand = |cpu: f64| cpu / plan.backlog as f64 * 10_000.0;
    figures.our_cpu.push(of_ten_thousand(cpu_seconds(&relay.process)));
    figures.broker_cpu.push(of_ten_thousand(cpu_seconds(&rig.brokers[0]) - broker_before));
    figures.nsqd_cpu.push(of_ten_thousand(cpu_seconds(&nsqd)));
    figures.peak_mib = figures.peak_mib.max(peak_mib(&relay.process));
}

async fn of_nsq_to_nsq(plan: &Plan, fresh: &mut Fresh, figures: &mut Figures) {
    let topic = fresh.topic("nsq_to_nsq");
    let (source, target) = (with_channel(&topic).await, with_channel(&topic).await);
    figures.nsqds_own.push(fill_nsqd(&source, &topic, plan.backlog).await);
    let flags = [
        format!("-topic={topic}"),
        format!("-channel={CHANNEL}"),
        format!("-nsqd-tcp-address={}", source.tcp_addr()),
        format!("-destination-nsqd-tcp-address={}", target.tcp_addr()),
        "-max-in-flight=2500".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let nsq_to_nsq = nsq::run("nsq_to_nsq", &flags).unwrap();
    figures.theirs.push(until_all_there(&target, &topic, plan.backlog));
    figures.their_cpu.push(cpu_seconds(&nsq_to_nsq) / plan.backlog as f64 * 10_000.0);
}

pub async fn with_channel(topic: &str) -> Nsqd {
    let server = fresh_nsqd();
    let client = nsqd::Nsqd::new(server.http_addr().to_string().parse().unwrap());
    let topic: TopicName = topic.parse().unwrap();
    client.create_topic(&topic).await.unwrap();
    client.create_channel(&topic, &CHANNEL.parse().unwrap()).await.unwrap();
    server
}

/// Messages a second from the first to the last of the backlog.
fn until_all_there(nsqd: &Nsqd, topic: &str, backlog: u64) -> f64 {
    let mut first = (0, Instant::now());
    eventually("the first messages are there", || {
        first = (published(nsqd, topic), Instant::now());
        first.0 > 0
    });
    eventually("all messages are there", || published(nsqd, topic) >= backlog);
    let took = first.1.elapsed();
    assert_eq!(published(nsqd, topic), backlog, "more than there was: the figure is void");
    (backlog - first.0) as f64 / took.as_secs_f64()
}

/// Publishes the backlog to an nsqd itself; messages a second.
async fn fill_nsqd(nsqd: &Nsqd, topic: &str, backlog: u64) -> f64 {
    const BATCH: u64 = 200;
    let client = nsqd::Nsqd::new(nsqd.http_addr().to_string().parse().unwrap());
    let topic: TopicName = topic.parse().unwrap();
    let payload = mpub::encode_binary(vec![[b'x'; 200]; BATCH as usize].iter().map(|body| &body[..]));
    let begun = Instant::now();
    let publishing = (0..4).map(|_| async {
        for _ in 0..backlog / BATCH / 4 {
            client.mpub(&topic, payload.clone(), Duration::from_secs(10)).await.unwrap();
        }
    });
    futures_util::future::join_all(publishing).await;
    backlog as f64 / begun.elapsed().as_secs_f64()
}
