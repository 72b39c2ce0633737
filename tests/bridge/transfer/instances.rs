//! Instances that come, go, freeze, and are told to wait.

use std::{collections::BTreeSet, time::Duration};

use nsqbridge_brokers::{Line, Nsqd, RigOptions};
use serde_json::Value;

use super::{run, say, status};
use crate::bridge::{
    Consumer, Gateway, Program, SOON, To, blocking, cluster, create_channel, eventually, numbered, own,
    shared, topic, transfer,
};

async fn instances_come_and_go_under_load(line: Line) {
    let rig = shared(line);
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let topic = topic("scaled");
    create_channel(nsqds[0], &topic, "ch").await;
    let gateway = std::sync::Arc::new(Gateway::start(&rig.name_server, &[]).await);
    let consumer = Consumer::start(&nsqds, &topic, "ch");
    let loading = tokio::spawn({
        let (gateway, topic) = (std::sync::Arc::clone(&gateway), topic.clone());
        async move {
            let mut published = 0;
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            for _ in 0..1_500 {
                pace.tick().await;
                gateway.publish_all(&topic, &numbered(published..published + 20)).await;
                published += 20;
            }
            published
        }
    });
    let start = || transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &[]);
    eventually("the topic is there", SOON, async || {
        cluster(rig).route(&topic.replace('.', "|")).await.is_ok()
    })
    .await;
    let mut relays = vec![start()];
    let shares = |relays: usize| {
        let status = status(rig, &topic);
        let instances = status["instances"].as_array().unwrap().clone();
        let queues = |one: &Value| one["report"]["queues"].as_array().map_or(0, Vec::len);
        instances.len() == relays
            && status["unowned_queues"] == 0
            && instances.iter().all(|one| queues(one) > 0)
    };
    eventually("one relays all", SOON, async || shares(1)).await;
    relays.extend([start(), start()]);
    eventually("three share", SOON, async || shares(3)).await;
    for relay in relays.drain(..2) {
        relay.signal("TERM").unwrap();
        assert_eq!(blocking(|| relay.wait(SOON)).unwrap(), 0);
    }
    eventually("the last one has all", SOON, async || shares(1)).await;
    let published = loading.await.unwrap();
    assert_eq!(consumer.wait_for(published).await, numbered(0..published), "each once, none lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_freezes_past_its_lease_relays_nothing_more() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() });
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let topic = topic("frozen");
    create_channel(nsqds[0], &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &["--topic-queues", "4"]).await;
    gateway.publish(&topic, "warm").await;
    let consumer = Consumer::start(&nsqds, &topic, "ch");
    let start = || transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &["--log-level", "debug"]);
    let relays = [start(), start()];
    let queues_of = || -> Vec<usize> {
        let status = status(&rig, &topic);
        let instances = status["instances"].as_array().unwrap().clone();
        instances.iter().map(|one| one["report"]["queues"].as_array().map_or(0, Vec::len)).collect()
    };
    eventually("each has two queues", SOON, async || queues_of() == [2, 2]).await;
    blocking(|| relays[0].pause()).unwrap();
    let mut published = 0;
    let mut publish = async |more: usize| {
        gateway.publish_all(&topic, &numbered(published..published + more)).await;
        published += more;
        published
    };
    // Without its renewals the locks end after a minute; but the other instance takes over when RocketMQ no longer counts it, which may be
    // another minute later.
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_secs(100) && consumer.count() < publish(20).await {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if started.elapsed() > Duration::from_secs(70) {
            break;
        }
    }
    let total = publish(20).await;
    eventually("the other has taken over", 3 * SOON, async || consumer.count() > total).await;
    blocking(|| relays[0].resume()).unwrap();
    let total = publish(2_000).await;
    consumer.wait_for(total + 1).await;
    eventually("both share again", SOON, async || queues_of() == [2, 2]).await;
    let total = publish(2_000).await;
    consumer.wait_for(total + 1).await;
    let received = consumer.received();
    let distinct: BTreeSet<_> = received.iter().cloned().collect();
    let doubled = received.len() - distinct.len();
    println!("{} received, {doubled} doubled by an owner frozen for {:?}", received.len(), started.elapsed());
    assert_eq!(distinct.len(), total + 1);
    // At most what was on its way when it froze: two batches a queue.
    assert!(doubled <= 2 * 2 * 20, "{doubled}");
}

async fn a_relay_is_paused_resumed_and_slowed_down_from_anywhere(line: Line) {
    let rig = shared(line);
    let nsqd = &rig.nsqds[0];
    let topic = topic("pace");
    create_channel(nsqd, &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    gateway.publish(&topic, "before").await;
    let _relays: Vec<Program> =
        (0..2).map(|_| transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[])).collect();
    let consumer = Consumer::start(&[nsqd], &topic, "ch");
    consumer.wait_for(1).await;
    eventually("both instances are seen", SOON, async || {
        status(rig, &topic)["instances"].as_array().unwrap().len() == 2
            && status(rig, &topic)["unowned_queues"] == 0
    })
    .await;
    let told = say(rig, &["relay", "pause", &topic]);
    assert_eq!(told.matches(": paused").count(), 2, "{told}");
    gateway.publish_all(&topic, &numbered(0..100)).await;
    eventually("status says it is paused", SOON, async || {
        say(rig, &["status", &topic]).matches("waiting: paused").count() == 2
            && status(rig, &topic)["lag"] == 100
    })
    .await;
    assert_eq!(consumer.count(), 1);
    say(rig, &["relay", "rate", &topic, "200"]);
    say(rig, &["relay", "resume", &topic]);
    consumer.wait_for(101).await;
    assert!(say(rig, &["relay", "rate", &topic, "0"]).contains("relaying"));
    let nobody = run(rig, &["relay", "pause", "nobody.relays.this"]);
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
}

on_both_lines!(a_relay_is_paused_resumed_and_slowed_down_from_anywhere, instances_come_and_go_under_load,);
