//! Intakes that are killed or stopped, and brokers that are away.

use std::time::{Duration, Instant};

use nsqbridge_brokers::{Line, Rig, RigOptions};

use super::{Intake, Producer, channel, count, is_finished, ledger};
use crate::bridge::{SOON, blocking, eventually, numbered, own, shared, topic};

const MESSAGES: usize = 20_000;

/// An intake that has taken in ten messages. With nothing on its way, a broker's end leaves nothing in doubt.
async fn at_work(rig: &Rig, topic: &str) -> (Intake, Producer) {
    let nsqd = &rig.nsqds[0];
    let intake = Intake::start(rig, topic, &[nsqd]).await;
    let mut producer = Producer::connect(nsqd).await;
    producer.publish(topic, &numbered(0..10)).await;
    eventually("it works", SOON, async || count(rig, topic).await == 10 && is_finished(nsqd, topic)).await;
    (intake, producer)
}

async fn a_killed_intake_loses_nothing_and_doubles_under_the_same_ids_only(line: Line) {
    let rig = shared(line);
    let nsqd = &rig.nsqds[0];
    let topic = topic("killed");
    let mut intake = Intake::start(rig, &topic, &[nsqd]).await;
    let mut producer = Producer::connect(nsqd).await;
    let mut kills = 0;
    for (nth, bodies) in numbered(0..MESSAGES).chunks(500).enumerate() {
        producer.publish(&topic, bodies).await;
        if nth % 10 == 9 {
            let before = count(rig, &topic).await;
            eventually("it is at work", SOON, async || {
                count(rig, &topic).await > before || is_finished(nsqd, &topic)
            })
            .await;
            blocking(|| intake.process.kill()).unwrap();
            kills += 1;
            intake = Intake::launch(rig, &topic, &[nsqd], &[]);
        }
    }
    eventually("all are finished", 2 * SOON, async || {
        count(rig, &topic).await >= MESSAGES && is_finished(nsqd, &topic)
    })
    .await;
    let ledger = ledger(rig, &topic).await;
    let doubled: usize = ledger.values().map(|(times, _)| times - 1).sum();
    println!("killed {kills} times: lost {}, doubled {doubled} of {MESSAGES}", MESSAGES - ledger.len());
    assert_eq!(ledger.len(), MESSAGES);
    assert!(ledger.values().all(|(_, keys)| keys.len() == 1), "a repeat has the id of the first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_doubles_nothing() {
    let rig = shared(Line::V5);
    let nsqd = &rig.nsqds[1];
    let topic = topic("stopped");
    let mut intake = Intake::start(rig, &topic, &[nsqd]).await;
    let mut producer = Producer::connect(nsqd).await;
    for bodies in numbered(0..MESSAGES).chunks(5_000) {
        let before = count(rig, &topic).await;
        producer.publish(&topic, bodies).await;
        eventually("it is at work", SOON, async || count(rig, &topic).await > before).await;
        blocking(|| intake.process.signal("TERM")).unwrap();
        assert_eq!(blocking(|| intake.process.wait(SOON)).unwrap(), 0);
        println!("stopped with {} waiting", channel(nsqd, &topic)["depth"]);
        intake = Intake::start(rig, &topic, &[nsqd]).await;
    }
    eventually("all are finished", SOON, async || {
        count(rig, &topic).await >= MESSAGES && is_finished(nsqd, &topic)
    })
    .await;
    let ledger = ledger(rig, &topic).await;
    assert_eq!((ledger.len(), ledger.values().map(|(times, _)| times).max()), (MESSAGES, Some(&1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_broker_is_there_nsqd_is_told_to_wait() {
    const TIMEOUT: Duration = Duration::from_secs(3);
    let flags = vec![format!("-msg-timeout={}s", TIMEOUT.as_secs())];
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 1, nsqd_flags: flags, ..RigOptions::default() });
    let nsqd = &rig.nsqds[0];
    let topic = topic("away");
    let (intake, mut producer) = at_work(&rig, &topic).await;
    blocking(|| rig.brokers[0].kill()).unwrap();
    let began = Instant::now();
    producer.publish(&topic, &numbered(10..3_000)).await;
    eventually("it has its hands full", SOON, async || intake.metric("in_hand_messages") >= 1_000.0).await;
    eventually("nsqd would have delivered them again", SOON, async || began.elapsed() > 4 * TIMEOUT).await;
    let counted = channel(nsqd, &topic);
    assert_eq!(
        (counted["timeout_count"].as_u64(), counted["in_flight_count"].as_u64()),
        (Some(0), Some(1_000))
    );
    blocking(|| rig.brokers[0].start_again()).unwrap();
    eventually("all are stored", 2 * SOON, async || {
        count(&rig, &topic).await >= 3_000 && is_finished(nsqd, &topic)
    })
    .await;
    let ledger = ledger(&rig, &topic).await;
    let doubled: usize = ledger.values().map(|(times, _)| times - 1).sum();
    let told = intake.metric("perhaps_doubled_messages_total");
    println!("doubled {doubled}, perhaps {told} of 3000");
    assert_eq!(ledger.len(), 3_000);
    assert!(ledger.values().all(|(_, keys)| keys.len() == 1), "a repeat has the id of the first");
    // A broker that has just started may close a connection that something is on its way by.
    assert!(doubled as f64 <= told, "{doubled} doubled, {told} told");
    let counted = channel(nsqd, &topic);
    assert_eq!((counted["timeout_count"].as_u64(), counted["requeue_count"].as_u64()), (Some(0), Some(0)));
}

/// A cutover beside another intake waits until nobody has anything in hand.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_while_nsqd_is_away_is_in_hand_no_more() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() });
    let nsqd = &rig.nsqds[0];
    let topic = topic("cut-off");
    let (intake, mut producer) = at_work(&rig, &topic).await;
    blocking(|| rig.brokers[0].pause()).unwrap();
    producer.publish(&topic, &numbered(10..200)).await;
    let in_hand = || intake.metric("in_hand_messages");
    eventually("they are on their way", SOON, async || in_hand() == 190.0).await;
    blocking(|| nsqd.kill()).unwrap();
    blocking(|| rig.brokers[0].resume()).unwrap();
    eventually("nothing is in hand", SOON, async || in_hand() == 0.0).await;
    eventually("what was on its way is stored", SOON, async || count(&rig, &topic).await > 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_are_asked_for_as_far_as_there_is_room() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() });
    let nsqd = &rig.nsqds[0];
    let topic = topic("large");
    let intake = Intake::start_with(&rig, &topic, &[nsqd], &["--max-in-flight-bytes", "20000000"]).await;
    blocking(|| rig.brokers[0].kill()).unwrap();
    let mut producer = Producer::connect(nsqd).await;
    let body = |n: usize| bytes::Bytes::from([format!("{n:04}").into_bytes(), vec![b'l'; 500_000]].concat());
    for n in 0..200 {
        producer.publish(&topic, &[body(n)]).await;
    }
    eventually("it has its hands full", SOON, async || intake.metric("in_hand_messages") >= 40.0).await;
    eventually("no more are asked for", SOON, async || {
        channel(nsqd, &topic)["clients"][0]["ready_count"] == 0
    })
    .await;
    let last = channel(nsqd, &topic)["in_flight_count"].as_u64().unwrap();
    println!("{last} of 200 messages in hand, {} MB resident", intake.process.resident() / 1_000_000);
    assert!((40..120).contains(&last), "{last}");
    blocking(|| rig.brokers[0].start_again()).unwrap();
    eventually("all are stored", 2 * SOON, async || {
        count(&rig, &topic).await >= 200 && is_finished(nsqd, &topic)
    })
    .await;
    let ledger = ledger(&rig, &topic).await;
    let doubled: usize = ledger.values().map(|(times, _)| times - 1).sum();
    let told = intake.metric("perhaps_doubled_messages_total");
    assert!(
        ledger.len() == 200 && doubled as f64 <= told,
        "{} of 200, {doubled} doubled, {told} told",
        ledger.len()
    );
}

on_both_lines!(a_killed_intake_loses_nothing_and_doubles_under_the_same_ids_only);
