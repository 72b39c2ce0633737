//! Parts stop, freeze and come back under load, and no acknowledged message is lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use nsqbridge::rocketmq::Queue;
use nsqbridge_brokers::{Line, Rig, RigOptions};
use tokio::task::JoinSet;

use crate::bridge::{
    Consumer, Gateway, SOON, To, blocking, cluster, create_channel, eventually, own, stored, topic, transfer,
};

/// Producers that publish numbered messages one by one, and write down what was acknowledged.
struct Load {
    acknowledged: Arc<Mutex<BTreeSet<Bytes>>>,
    refused: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    producers: JoinSet<()>,
}

impl Load {
    fn start(gateway: &Arc<Gateway>, topic: &str) -> Self {
        let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
        let refused = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let mut producers = JoinSet::new();
        for producer in 0..4 {
            let (gateway, acknowledged) = (Arc::clone(gateway), Arc::clone(&acknowledged));
            let (refused, stop) = (Arc::clone(&refused), Arc::clone(&stop));
            let path = format!("/pub?topic={topic}");
            producers.spawn(async move {
                let mut pace = tokio::time::interval(Duration::from_millis(5));
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    pace.tick().await;
                    let body = Bytes::from(format!("{producer}-{n:06}"));
                    match gateway.post(&path, body.clone()).await {
                        Ok((200, _)) => drop(acknowledged.lock().unwrap().insert(body)),
                        _ => drop(refused.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            });
        }
        Self { acknowledged, refused, stop, producers }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Waits until so many more were acknowledged: publishing goes on.
    async fn goes_on(&self, more: usize, phase: &str) {
        let target = self.count() + more;
        let started = Instant::now();
        eventually(&format!("publishing goes on: {phase}"), SOON, async || self.count() >= target).await;
        println!("{phase}: {more} more acknowledged after {:?}", started.elapsed());
    }

    async fn stop(mut self) -> BTreeSet<Bytes> {
        self.stop.store(true, Ordering::Relaxed);
        while self.producers.join_next().await.is_some() {}
        println!("{} acknowledged, {} not", self.count(), self.refused.load(Ordering::Relaxed));
        std::mem::take(&mut *self.acknowledged.lock().unwrap())
    }
}

/// Where each body lies in RocketMQ.
async fn places(rig: &Rig, topic: &str) -> BTreeMap<Bytes, Vec<(Queue, i64)>> {
    let cluster = cluster(rig);
    let topic = topic.replace('.', "|");
    // A name server that was away learns of each broker with its next registration.
    eventually("both brokers are registered", SOON, async || {
        cluster.fresh_route(&topic).await.is_ok_and(|route| route.masters().count() == 2)
    })
    .await;
    let mut places: BTreeMap<Bytes, Vec<_>> = BTreeMap::new();
    for (queue, message) in stored(&cluster, &topic).await {
        places.entry(message.body).or_default().push((queue, message.queue_offset));
    }
    places
}

async fn nothing_is_lost_while_parts_stop_freeze_and_come_back(line: Line) {
    let rig: Rig = own(line, &RigOptions::default());
    let topic = topic("faults");
    let nsqds: Vec<_> = rig.nsqds.iter().collect();
    create_channel(nsqds[0], &topic, "ch").await;
    create_channel(nsqds[1], &topic, "ch").await;
    let gateway = Arc::new(Gateway::start(&rig.name_server, &["--topic-queues", "4"]).await);
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &["--log-level", "debug"]);
    let consumer = Consumer::start(&nsqds[1..], &topic, "ch");
    let consumer_of_first = Consumer::start(&nsqds[..1], &topic, "ch");
    let load = Load::start(&gateway, &topic);
    load.goes_on(300, "before").await;
    let arrives = async |phase: &str| {
        let target = consumer.count() + 200;
        eventually(&format!("messages arrive: {phase}"), SOON, async || consumer.count() >= target).await;
    };
    arrives("before").await;

    let broker = &rig.brokers[0];
    blocking(|| broker.stop()).unwrap();
    load.goes_on(300, "broker stopped").await;
    blocking(|| broker.start_again()).unwrap();
    load.goes_on(300, "broker back").await;
    arrives("broker back").await;

    // nsqd 1.3.0 itself can lose a message it is handing to a consumer while it stops (one in 150 stops under load, without the
    // bridge): the relay sends it again, with whatever else may have been there.
    blocking(|| rig.nsqds[0].stop()).unwrap();
    load.goes_on(300, "nsqd stopped").await;
    arrives("nsqd stopped").await;
    blocking(|| rig.nsqds[0].start_again()).unwrap();
    load.goes_on(300, "nsqd back").await;

    blocking(|| rig.name_server.stop()).unwrap();
    load.goes_on(300, "name server stopped").await;
    arrives("name server stopped").await;
    blocking(|| rig.name_server.start_again()).unwrap();
    load.goes_on(300, "name server back").await;

    // A frozen broker stays in the route for about 100 s: only the client's own judgement helps.
    blocking(|| broker.pause()).unwrap();
    load.goes_on(300, "broker frozen").await;
    blocking(|| broker.resume()).unwrap();
    load.goes_on(300, "broker thawed").await;
    arrives("broker thawed").await;

    let acknowledged = load.stop().await;
    let stored = places(&rig, &topic).await;
    let not_stored: Vec<_> = acknowledged.iter().filter(|body| !stored.contains_key(*body)).collect();
    assert!(not_stored.is_empty(), "acknowledged and not in RocketMQ: {not_stored:?}");
    let all_received = || [consumer.received(), consumer_of_first.received()].concat();
    let missing = || {
        let distinct: BTreeSet<_> = all_received().into_iter().collect();
        acknowledged.difference(&distinct).cloned().collect::<Vec<_>>()
    };
    let started = Instant::now();
    while !missing().is_empty() {
        let lost = || missing().into_iter().map(|body| (stored[&body].clone(), body)).collect::<Vec<_>>();
        assert!(started.elapsed() < SOON, "lost between RocketMQ and the consumer: {:?}", lost());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let distinct: BTreeSet<_> = all_received().into_iter().collect();
    let doubled = all_received().len() - distinct.len();
    let stored_twice: usize = stored.values().map(|places| places.len() - 1).sum();
    let admitted = gateway.metric("nsqbridge_gateway_perhaps_doubled_messages_total");
    println!(
        "lost 0, doubled {doubled}, of these stored twice {stored_twice}, sent again after no answer {admitted}"
    );
    assert!(stored_twice as f64 <= admitted, "stored twice without an unknown outcome");
}

on_both_lines!(nothing_is_lost_while_parts_stop_freeze_and_come_back);

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_producers_hear_503_in_time_and_are_served_again_afterwards() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 0, ..RigOptions::default() });
    let topic = topic("unavailable");
    let gateway = Gateway::start(&rig.name_server, &["--publish-timeout", "2s"]).await;
    gateway.publish(&topic, "before").await;
    blocking(|| rig.brokers[0].kill()).unwrap();
    let started = Instant::now();
    let answer = gateway.post(&format!("/pub?topic={topic}"), "x").await.unwrap();
    assert_eq!(answer, (503, r#"{"message":"EXITING"}"#.to_owned()));
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    let ping = async |status: u16| {
        let http = nsqbridge_brokers::http::get;
        eventually(&format!("/ping says {status}"), SOON, async || {
            blocking(|| http(gateway.address, "/ping")).is_ok_and(|(code, _)| code == status)
        })
        .await;
    };
    ping(500).await;
    blocking(|| rig.brokers[0].start_again()).unwrap();
    ping(200).await;
    let served = async || {
        gateway.post(&format!("/pub?topic={topic}"), "after").await.is_ok_and(|(code, _)| code == 200)
    };
    eventually("publishes are stored again", SOON, served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_stopped_answers_what_it_has_begun() {
    let rig = crate::bridge::shared(Line::V5);
    let topic = topic("drain");
    let gateway = Arc::new(Gateway::start(&rig.name_server, &[]).await);
    gateway.publish(&topic, "first").await;
    let load = Load::start(&gateway, &topic);
    load.goes_on(100, "before").await;
    blocking(|| gateway.process.stop()).unwrap();
    let acknowledged = load.stop().await;
    let stored = crate::bridge::cluster(rig).topic_stats(&topic.replace('.', "|")).await.unwrap();
    let stored: i64 = stored.values().map(|bounds| bounds.max).sum();
    assert!(
        stored > acknowledged.len() as i64,
        "stored {stored}, acknowledged {} and one",
        acknowledged.len()
    );
    let log = gateway.process.logged();
    assert!(log.contains("draining") && log.contains("gateway stopped"), "{log}");
}
