//! While RocketMQ is away, what was chosen for it is kept on the gateway's disk: nothing acknowledged is lost, nothing overtakes.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use nsqbridge_brokers::{Line, Rig, RigOptions};
use tokio::task::JoinSet;

use crate::bridge::{
    Gateway, SOON, SmallDisk, blocking, cluster, eventually, numbered, own, spooling, stored, topic,
};

fn one_broker(line: Line) -> Rig {
    own(line, &RigOptions { brokers: 1, nsqds: 0, ..RigOptions::default() })
}

async fn start(rig: &Rig, folder: &Path, flags: &[&str]) -> Gateway {
    let path = folder.display().to_string();
    let all = [&spooling(&path)[..], &["--topic-queues", "1"], flags].concat();
    Gateway::start(&rig.name_server, &all).await
}

/// Bodies in RocketMQ, each queue in order, once all is there that must be: a broker shows messages a moment after it has answered.
async fn bodies(rig: &Rig, topic: &str, are_all: impl Fn(&[Bytes]) -> bool) -> Vec<Bytes> {
    let (cluster, topic) = (cluster(rig), topic.replace('.', "|"));
    let deadline = Instant::now() + SOON;
    loop {
        let stored = stored(&cluster, &topic).await;
        let stored: Vec<Bytes> = stored.into_iter().map(|(_, message)| message.body).collect();
        if are_all(&stored) || Instant::now() > deadline {
            return stored;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn drained(gateway: &Gateway) {
    eventually("the spool is drained", 2 * SOON, async || gateway.metric("nsqbridge_spool_messages") == 0.0)
        .await;
}

async fn publishing_goes_on_without_a_broker_and_nothing_overtakes(line: Line) {
    let rig = one_broker(line);
    let topic = topic("spool");
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(&rig, folder.path(), &[]).await;
    let messages = numbered(0..400);
    let publish = async |range: std::ops::Range<usize>| {
        for body in &messages[range] {
            gateway.publish(&topic, body.clone()).await;
        }
    };
    publish(0..50).await;
    blocking(|| rig.brokers[0].kill()).unwrap();
    publish(50..150).await;
    // A topic nobody has seen yet is spooled, too, and a batch, and what is to be held back.
    let other = crate::bridge::topic("unseen");
    let (status, ids) = gateway
        .post_with(&format!("/mpub?topic={other}"), &[("X-Nsqbridge-Answer", "ids")], "one\ntwo")
        .await;
    assert_eq!(status, 200, "{ids}");
    let deferred = gateway.post(&format!("/pub?topic={other}&defer=1000"), "deferred").await.unwrap();
    assert_eq!(deferred, (200, "OK".to_owned()));
    assert_eq!(gateway.metric("nsqbridge_spool_messages"), 103.0);
    assert_eq!(gateway.metric("nsqbridge_spool_spooling_topics"), 2.0);
    let unreached = async || gateway.admin("/readyz").1.contains("[-] RocketMQ: ");
    eventually("the broker's absence is noticed", SOON, unreached).await;
    let (status, ready) = gateway.admin("/readyz");
    assert!(status == 200 && ready.contains("100 spooled messages"), "{ready}");
    assert_eq!(gateway.get("/ping").0, 200, "a load balancer would take it away");
    blocking(|| rig.brokers[0].start_again()).unwrap();
    publish(150..400).await;
    drained(&gateway).await;
    let stored_bodies =
        bodies(&rig, &topic, |stored| messages.iter().all(|body| stored.contains(body))).await;
    let mut seen = BTreeSet::new();
    let firsts: Vec<Bytes> = stored_bodies.iter().filter(|body| seen.insert(*body)).cloned().collect();
    assert_eq!(firsts, messages, "not all, or not in order");
    let doubled = stored_bodies.len() - firsts.len();
    assert!(doubled as f64 <= admitted(&gateway), "{doubled} stored twice, and not said to be");
    let of_other = async || stored(&cluster(&rig), &other.replace('.', "|")).await;
    let distinct = async || {
        let bodies = of_other().await.into_iter().map(|(_, message)| message.body);
        bodies.collect::<BTreeSet<_>>().len()
    };
    eventually("the deferred one is delivered", SOON, async || distinct().await == 3).await;
    for (_, message) in of_other().await.iter().filter(|(_, message)| message.body != "deferred") {
        let id = message.properties.get("UNIQ_KEY").unwrap();
        assert!(ids.contains(id), "{id} is none of {ids}");
    }
    let log = gateway.process.logged();
    assert!(log.contains("spool drained; publishing to RocketMQ again"), "{log}");
}

on_both_lines!(publishing_goes_on_without_a_broker_and_nothing_overtakes);

/// Messages that were stored after a try without an answer: a slow broker may be the cause.
fn admitted(gateway: &Gateway) -> f64 {
    gateway.metric("nsqbridge_gateway_perhaps_doubled_messages_total")
}

/// Producers of one topic, each with numbers of its own; what was acknowledged, in order.
struct Producers {
    acknowledged: Arc<Mutex<Vec<Vec<Bytes>>>>,
    stop: Arc<AtomicBool>,
    running: JoinSet<()>,
}

impl Producers {
    fn start(address: std::net::SocketAddr, topic: &str) -> Self {
        let acknowledged = Arc::new(Mutex::new(vec![Vec::new(); 4]));
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = JoinSet::new();
        for producer in 0..4 {
            let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
            let url = format!("http://{address}/pub?topic={topic}");
            let http = reqwest::Client::builder().no_proxy().build().unwrap();
            running.spawn(async move {
                let mut pace = tokio::time::interval(Duration::from_millis(4));
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    pace.tick().await;
                    let body = Bytes::from(format!("{producer}-{n:07}"));
                    let sent =
                        http.post(&url).body(body.clone()).timeout(Duration::from_secs(5)).send().await;
                    if sent.is_ok_and(|answer| answer.status() == 200) {
                        acknowledged.lock().unwrap()[producer].push(body);
                    }
                }
            });
        }
        Self { acknowledged, stop, running }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().iter().map(Vec::len).sum()
    }

    async fn goes_on(&self, more: usize) {
        let target = self.count() + more;
        eventually("publishing goes on", SOON, async || self.count() >= target).await;
    }

    async fn stop(mut self) -> Vec<Vec<Bytes>> {
        self.stop.store(true, Ordering::Relaxed);
        while self.running.join_next().await.is_some() {}
        std::mem::take(&mut *self.acknowledged.lock().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_again_and_again_while_it_spools_loses_nothing() {
    let rig = one_broker(Line::V5);
    let topic = topic("spool.kill");
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(&rig, folder.path(), &[]).await;
    gateway.publish(&topic, "first").await;
    let producers = Producers::start(gateway.address, &topic);
    producers.goes_on(100).await;
    for round in 0..3 {
        // While it spools,
        blocking(|| rig.brokers[0].kill()).unwrap();
        for _ in 0..2 {
            producers.goes_on(150).await;
            blocking(|| gateway.process.kill()).unwrap();
            blocking(|| gateway.process.start_again()).unwrap();
        }
        // and while it drains.
        producers.goes_on(150).await;
        blocking(|| rig.brokers[0].start_again()).unwrap();
        if round < 2 {
            blocking(|| gateway.process.kill()).unwrap();
            blocking(|| gateway.process.start_again()).unwrap();
        }
        producers.goes_on(150).await;
    }
    let acknowledged = producers.stop().await;
    drained(&gateway).await;
    let all: usize = acknowledged.iter().map(Vec::len).sum();
    let stored = bodies(&rig, &topic, |stored| {
        let stored: BTreeSet<&Bytes> = stored.iter().collect();
        acknowledged.iter().flatten().all(|body| stored.contains(body))
    })
    .await;
    let distinct: BTreeSet<&Bytes> = stored.iter().collect();
    let lost: Vec<_> = acknowledged.iter().flatten().filter(|body| !distinct.contains(body)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let doubled = stored.len() - distinct.len();
    println!("8 kills: {all} acknowledged, lost 0, stored twice {doubled}");
    // What a producer was answered for comes in the order it was answered: first copies, that is.
    for (producer, mine) in acknowledged.iter().enumerate() {
        let mut seen = BTreeSet::new();
        let prefix = format!("{producer}-");
        let firsts: Vec<&Bytes> = stored
            .iter()
            .filter(|body| body.starts_with(prefix.as_bytes()) && seen.insert(*body))
            .filter(|body| mine.binary_search(body).is_ok())
            .collect();
        assert!(firsts.is_sorted(), "producer {producer}: overtaken");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn past_its_bounds_the_spool_refuses_and_a_stop_keeps_what_is_there() {
    let rig = one_broker(Line::V5);
    let topic = topic("spool.bounds");
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--spool-max-topic-bytes", "20000", "--on-unavailable-of", "refused=refuse"];
    let gateway = start(&rig, folder.path(), &flags).await;
    gateway.publish(&topic, "first").await;
    gateway.publish("refused", "first").await;
    blocking(|| rig.brokers[0].kill()).unwrap();
    let exiting = (503, r#"{"message":"EXITING"}"#.to_owned());
    assert_eq!(gateway.post("/pub?topic=refused", "x").await.unwrap(), exiting);
    let mut kept = 0;
    while gateway.post(&format!("/pub?topic={topic}"), vec![b'x'; 1_000]).await.unwrap().0 == 200 {
        kept += 1;
        assert!(kept < 100, "the bound holds nothing back");
    }
    assert!(kept >= 15, "{kept}");
    let refused = "nsqbridge_spool_refused_total{reason=\"spool-max-topic-bytes\"}";
    assert_eq!(gateway.metric(refused), 1.0);
    let unhealthy = async || gateway.get("/ping").0 == 500;
    eventually("load balancers hear that it does not take every topic", SOON, unhealthy).await;
    // A second gateway may not use the folder.
    let path = folder.path().display().to_string();
    let name_server = rig.name_server.addr().to_string();
    let arguments = [
        "gateway",
        "-n",
        &name_server,
        "--on-unavailable",
        "spool",
        "--spool-path",
        &path,
        "--http-address",
        "127.0.0.1:0",
    ]
    .map(str::to_owned);
    let second = crate::bridge::Program::start("second", &arguments);
    assert_eq!(blocking(|| second.wait(SOON)).unwrap(), 1);
    assert!(second.logged().contains("another gateway spools there"), "{}", second.logged());

    let admitted_before = admitted(&gateway);
    blocking(|| gateway.process.stop()).unwrap();
    assert!(
        gateway.process.logged().contains("kept in the spool for the next start"),
        "{}",
        gateway.process.logged()
    );
    blocking(|| rig.brokers[0].start_again()).unwrap();
    blocking(|| gateway.process.start_again()).unwrap();
    eventually("the gateway is up again", SOON, async || {
        blocking(|| nsqbridge_brokers::http::get(gateway.admin, "/metrics")).is_ok()
    })
    .await;
    drained(&gateway).await;
    let doubled = bodies(&rig, &topic, |stored| stored.len() > kept).await.len() - (kept + 1);
    assert!(
        doubled as f64 <= admitted_before + admitted(&gateway),
        "{doubled} stored twice, and not said to be"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_loses_nothing_and_works_again_with_room() {
    let Some(disk) = SmallDisk::mount(1) else { return };
    disk.fill_but(400 << 10);
    let rig = one_broker(Line::V5);
    let topic = topic("spool.full");
    let gateway = start(&rig, disk.path(), &[]).await;
    gateway.publish(&topic, "first").await;
    blocking(|| rig.brokers[0].kill()).unwrap();
    let mut acknowledged = BTreeSet::new();
    let mut publish = async |n: usize| {
        let body = Bytes::from([format!("{n:06}").into_bytes(), vec![b'x'; 5_000]].concat());
        let (status, _) = gateway.post(&format!("/pub?topic={topic}"), body.clone()).await.unwrap();
        if status == 200 {
            acknowledged.insert(body);
        }
        status
    };
    let mut n = 0;
    while publish(n).await == 200 {
        n += 1;
        assert!(n < 1_000, "the disk takes everything");
    }
    assert!(n > 20, "{n}");
    for more in 1..5 {
        assert_eq!(publish(n + more).await, 503);
    }
    disk.free();
    n += 10;
    for more in 0..20 {
        assert_eq!(publish(n + more).await, 200, "there is room again");
    }
    blocking(|| rig.brokers[0].start_again()).unwrap();
    drained(&gateway).await;
    let all_stored = |stored: &[Bytes]| acknowledged.iter().all(|body| stored.contains(body));
    let stored: BTreeSet<Bytes> = bodies(&rig, &topic, all_stored).await.into_iter().collect();
    let lost = acknowledged.difference(&stored).count();
    println!("{} acknowledged on a disk that was full in between, lost {lost}", acknowledged.len());
    assert_eq!(lost, 0);
}
