//! Each nsqd has one kind of writer: held on both sides, and with both at work every consumer gets each message once.

use std::collections::BTreeMap;

use bytes::Bytes;
use nsqbridge::nsq::tcp::Connection;
use nsqbridge_brokers::{Line, Nsqd, Rig, RigOptions};

use super::{Intake, Producer, channel, count, ended, is_finished, ledger};
use crate::{
    bridge::{
        Consumer, Gateway, SOON, To, blocking, create_channel, eventually, numbered, own, shared, topic,
        transfer,
    },
    migration::act,
    transfer::{run, status},
};

/// How often each message came.
fn counted(received: Vec<Bytes>) -> BTreeMap<Bytes, usize> {
    let mut counted = BTreeMap::new();
    for body in received {
        *counted.entry(body).or_default() += 1;
    }
    counted
}

async fn is_idle(rig: &Rig, topic: &str) {
    eventually("the relay has passed everything", 2 * SOON, async || {
        let status = status(rig, topic);
        status["lag"] == 0 && status["unowned_queues"] == 0
    })
    .await;
}

async fn with_gateway_relay_and_intake_each_consumer_gets_each_message_once(line: Line) {
    const EACH: usize = 5_000;
    let rig = shared(line);
    let (old, new) = (&rig.nsqds[0], &rig.nsqds[1]);
    let topic = topic("both.ways");
    for nsqd in [old, new] {
        for name in ["one", "two"] {
            create_channel(nsqd, &topic, name).await;
        }
    }
    let intake = Intake::start(rig, &topic, &[old]).await;
    // It is told to send to both, and sees that one of them is not its own.
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[old, new]), &[]);
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let consumers = ["one", "two"].map(|name| Consumer::start(&[old, new], &topic, name));
    let mut producer = Producer::connect(old).await;
    let sent = numbered(0..2 * EACH);
    for (nth, bodies) in sent.chunks(100).enumerate() {
        match nth % 2 {
            0 => producer.publish(&topic, bodies).await,
            _ => gateway.publish_all(&topic, bodies).await,
        }
    }
    for consumer in &consumers {
        let received = counted(consumer.wait_for(sent.len()).await);
        assert_eq!(received.len(), sent.len());
    }
    eventually("all is taken in", SOON, async || {
        count(rig, &topic).await >= sent.len() && is_finished(old, &topic)
    })
    .await;
    is_idle(rig, &topic).await;
    for consumer in &consumers {
        let received = counted(consumer.received());
        assert_eq!((received.len(), received.values().max()), (sent.len(), Some(&1)), "nothing goes round");
    }
    let ledger = ledger(rig, &topic).await;
    assert_eq!((ledger.len(), ledger.values().map(|(times, _)| times).max()), (sent.len(), Some(&1)));
    assert_eq!(intake.metric("stored_messages_total"), EACH as f64);

    // The intake's channel is nobody else's to create.
    assert!(channel(new, &topic).is_null(), "{}", channel(new, &topic));
    let reports = status(rig, &topic)["instances"][0]["report"]["nsqds"].clone();
    let of = |nsqd: &Nsqd| {
        let address = nsqd.http_addr().to_string();
        reports.as_array().unwrap().iter().find(|report| report["nsqd"] == *address).unwrap().clone()
    };
    assert_eq!((&of(old)["left_out"], &of(new)["left_out"]), (&true.into(), &false.into()));
    let totals = &status(rig, &topic)["instances"][0]["report"]["totals"];
    assert_eq!((totals[0].as_u64(), totals[1].as_u64()), (Some(2 * EACH as u64), Some(EACH as u64)));
    // A gateway tells of what it has accepted every few seconds.
    let sum = format!("{EACH} accepted (0 more perhaps), {EACH} stored, {EACH} relayed, 0 parked, 0 pending");
    eventually("what was taken in is no loss, and nobody else's", SOON, async || {
        let verified = run(rig, &["verify", &topic, "--until", "0s"]);
        verified.status.code() == Some(0) && String::from_utf8_lossy(&verified.stdout).contains(&sum)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_nsqd_lost_is_relayed_again_without_what_was_taken_in() {
    const EACH: usize = 2_000;
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 2, ..RigOptions::default() });
    let (old, new) = (&rig.nsqds[0], &rig.nsqds[1]);
    let topic = topic("lost.again");
    for nsqd in [old, new] {
        create_channel(nsqd, &topic, "ch").await;
    }
    let _intake = Intake::start(&rig, &topic, &[old]).await;
    let leave_out = old.http_addr().to_string();
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[old, new]), &["--leave-out", &leave_out]);
    let gateway = Gateway::start(&rig.name_server, &["--topic-queues", "1"]).await;
    let mut producer = Producer::connect(old).await;
    let sent = numbered(0..2 * EACH);
    let mut ours = Vec::new();
    for (nth, bodies) in sent.chunks(20).enumerate() {
        if nth % 2 == 0 {
            producer.publish(&topic, bodies).await;
        } else {
            gateway.publish_all(&topic, bodies).await;
            ours.extend_from_slice(bodies);
        }
    }
    eventually("all is stored", SOON, async || count(&rig, &topic).await == sent.len()).await;
    is_idle(&rig, &topic).await;
    blocking(|| new.kill()).unwrap();
    blocking(|| new.start_again()).unwrap();
    let relayed = Consumer::start(&[new], &topic, "ch");
    let received = async || counted(relayed.received());
    eventually("all it had is there again", 2 * SOON, async || received().await.len() >= ours.len()).await;
    eventually("nothing is left to be sent again", 2 * SOON, async || {
        status(&rig, &topic)["instances"][0]["report"]["undrained"].as_array().is_some_and(Vec::is_empty)
    })
    .await;
    assert!(received().await.keys().eq(ours.iter()), "and nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nsqd_a_relay_writes_to_is_refused_and_a_cutover_without_the_intake_as_well() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 2, ..RigOptions::default() });
    let (old, new) = (&rig.nsqds[0], &rig.nsqds[1]);
    let topic = topic("refused");
    for nsqd in [old, new] {
        create_channel(nsqd, &topic, "ch").await;
    }
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    gateway.publish(&topic, "0").await;
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[old, new]), &[]);
    is_idle(&rig, &topic).await;
    let refused = ended(&rig, &topic, &[old], &[]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let advice = format!("--leave-out {}", old.http_addr());
    assert_eq!((refused.status.code(), said.contains(&advice)), (Some(2), true), "{said}");
    assert!(channel(old, &topic).is_null(), "nothing was begun");

    // What the relay has put there must be finished before there is a channel that would take it in.
    let consumer = Consumer::start(&[old, new], &topic, "ch");
    consumer.wait_for(1).await;
    blocking(|| relay.stop()).unwrap();
    let leave_out = old.http_addr().to_string();
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[old, new]), &["--leave-out", &leave_out]);
    let intake = Intake::start(&rig, &topic, &[old]).await;
    let mut producer = Producer::connect(old).await;
    producer.publish(&topic, &numbered(1..101)).await;
    eventually("all is taken in", SOON, async || count(&rig, &topic).await == 101).await;

    // A relay that is not asked, or lies, is seen by nsqd.
    let writer = Connection::open(&old.tcp_addr().to_string(), SOON).await;
    let mut writer = writer.unwrap();
    let payload = nsqbridge::nsq::mpub::encode_binary([&b"from a relay"[..]].into_iter());
    writer.mpub(&topic.parse().unwrap(), payload, SOON).await.unwrap();
    eventually("it is held", SOON, async || !intake.is_ready()).await;
    assert_eq!(intake.metric("held"), 1.0);
    producer.publish(&topic, &numbered(101..201)).await;
    consumer.wait_for(202).await;
    let before = channel(old, &topic)["depth"].as_u64().unwrap();
    assert!(before >= 100, "nothing is taken in meanwhile: {before}");
    drop(writer);
    eventually("it goes on", SOON, async || intake.is_ready() && is_finished(old, &topic)).await;

    let path = format!("{topic}/ch");
    let cut = async |flags: &[&str]| act(&rig, &[&["cutover", &path], flags].concat()).await;
    is_idle(&rig, &topic).await;
    let early = ended(&rig, &topic, &[old], &["--retire"]).await;
    let said = String::from_utf8_lossy(&early.stderr).into_owned();
    assert_eq!((early.status.code(), said.contains("stop that first")), (Some(2), true), "{said}");
    blocking(|| intake.process.signal("TERM")).unwrap();
    assert_eq!(blocking(|| intake.process.wait(SOON)).unwrap(), 0);
    let blocked = cut(&["--execute", "--yes"]).await;
    assert_eq!((blocked.code, blocked.reason()), (2, "IntakeSilent"), "{blocked:?}");
    drop(producer);
    eventually("its producer is gone", SOON, async || {
        ended(&rig, &topic, &[old], &["--retire"]).await.status.code() == Some(0)
    })
    .await;
    assert!(channel(old, &topic).is_null());
    cut(&["--execute", "--yes", "--max-pause", "60s"]).await.done();
}

on_both_lines!(with_gateway_relay_and_intake_each_consumer_gets_each_message_once);
