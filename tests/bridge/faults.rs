//! A gateway whose brokers are away, and one that is stopped; [`crate::matrix`] does worse to all parts at once.

use std::{
    slice,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use nsqbridge_brokers::{Line, RigOptions};

use crate::{
    bridge::{Gateway, SOON, blocking, create_topic, eventually, insisting, own, topic},
    matrix::{ledger::Ledger, load::Load},
};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_producers_hear_503_in_time_and_are_served_again_afterwards() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 0, ..RigOptions::default() });
    let topic = topic("unavailable");
    let gateway = Gateway::start(&rig.name_server, &["--publish-timeout", "2s"]).await;
    create_topic(&rig, &topic).await;
    let stored = async |body: &'static str| {
        gateway.post(&format!("/pub?topic={topic}"), body).await.is_ok_and(|(code, _)| code == 200)
    };
    eventually("a publish is stored", SOON, async || stored("before").await).await;
    blocking(|| rig.brokers[0].kill()).unwrap();
    let started = Instant::now();
    let answer = gateway.post(&format!("/pub?topic={topic}"), "x").await.unwrap();
    assert_eq!(answer, (503, r#"{"message":"EXITING"}"#.to_owned()));
    assert!(started.elapsed() < SOON / 4, "{:?}", started.elapsed());
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
    eventually("publishes are stored again", SOON, async || stored("after").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_stopped_answers_what_it_has_begun() {
    let rig = crate::bridge::shared(Line::V5);
    let topic = topic("drain");
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    gateway.publish(&topic, "first").await;
    let ledger = Arc::new(Ledger::new(0));
    let load = Load::start(&ledger, slice::from_ref(&gateway), &topic);
    load.go_on();
    eventually("publishing goes on", SOON, async || ledger.acknowledged_since(0) >= 100).await;
    blocking(|| gateway.process.stop()).unwrap();
    let gone = async || load.unsure.load(Ordering::Relaxed) > 0;
    eventually("the producers find it gone", SOON, gone).await;
    let acknowledged = ledger.acknowledged_since(0) as i64;
    let (cluster, name) = (crate::bridge::cluster(rig), topic.replace('.', "|"));
    eventually("what was acknowledged is stored, and the first", SOON, async || {
        let stored = insisting(|| cluster.topic_stats(&name)).await;
        stored.values().map(|bounds| bounds.max).sum::<i64>() > acknowledged
    })
    .await;
    let log = gateway.process.logged();
    assert!(log.contains("draining") && log.contains("gateway stopped"), "{log}");
}
