//! The main job on real brokers: what the gateway acknowledges, every channel receives, byte for byte and once.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use nsqbridge_brokers::Line;

use crate::bridge::{
    Consumer, Gateway, Program, SOON, To, blocking, cluster, create_channel, eventually, numbered, shared,
    topic, transfer,
};

async fn every_byte_and_size(line: Line) {
    let rig = shared(line);
    let topic = topic("bytes");
    let nsqd = &rig.nsqds[0];
    create_channel(nsqd, &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let _transfer = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    let consumer = Consumer::start(&[nsqd], &topic, "ch");

    let mut sent: Vec<Bytes> = (0..=255).map(|byte| Bytes::from(vec![byte])).collect();
    sent.push((0..=255).collect());
    for size in [2, 3, 100, 4_095, 4_096, 32_767, 65_536, 262_143, 262_144, 1_048_575, 1_048_576] {
        sent.push((0..size).map(|_| fastrand::u8(..)).collect());
    }
    for body in &sent {
        gateway.publish(&topic, body.clone()).await;
    }
    // The same again as batches: one of 2 MiB in all, which needs several of RocketMQ's.
    let (small, large) = sent.split_at(257);
    gateway.publish_all(&topic, small).await;
    gateway.publish_all(&topic, large).await;
    // As text, newlines end messages, empty lines are none, and a carriage return stays.
    let text = gateway.post(&format!("/mpub?topic={topic}"), "one\n\ntwo\r\n\nthree").await.unwrap();
    assert_eq!(text, (200, "OK".to_owned()));

    let mut expected = [&sent[..], &sent[..]].concat();
    expected.extend(["one", "two\r", "three"].map(Bytes::from));
    expected.sort_unstable();
    let received = consumer.wait_for(expected.len()).await;
    assert!(received == expected, "received differs from what was sent");

    let empty = gateway.post(&format!("/pub?topic={topic}"), "").await.unwrap();
    assert_eq!(empty, (400, r#"{"message":"MSG_EMPTY"}"#.to_owned()));
    let too_big = gateway.post(&format!("/pub?topic={topic}"), vec![0; 1_048_577]).await.unwrap();
    assert_eq!(too_big, (413, r#"{"message":"MSG_TOO_BIG"}"#.to_owned()));
    let nothing = gateway.post(&format!("/mpub?topic={topic}"), "\n\n").await.unwrap();
    assert_eq!(nothing, (200, "OK".to_owned()));
}

/// 100,000 messages over 8 queues on 2 brokers, 2 nsqds, 2 channels.
async fn everything_exactly_once(line: Line) {
    const MESSAGES: usize = 100_000;
    let rig = shared(line);
    let topic = topic("exactly-once");
    let nsqds: Vec<_> = rig.nsqds.iter().collect();
    // Each channel is known to one nsqd only; the relay must create it on the other before the first message.
    create_channel(nsqds[0], &topic, "first").await;
    create_channel(nsqds[1], &topic, "second").await;
    let gateway = Gateway::start(&rig.name_server, &["--topic-queues", "4"]).await;
    let _transfer = transfer(&rig.name_server, &topic, &To::Lookupd(&rig.nsqlookupd), &[]);
    let sent = numbered(0..MESSAGES);
    let publishing = join_all(sent.chunks(MESSAGES / 8).map(async |mine| {
        for batch in mine.chunks(100) {
            gateway.publish_all(&topic, batch).await;
        }
    }));
    let started = Instant::now();
    publishing.await;
    let first = Consumer::start(&nsqds, &topic, "first");
    let second = Consumer::start(&nsqds, &topic, "second");
    for consumer in [&first, &second] {
        assert!(consumer.wait_for(MESSAGES).await == sent);
    }
    println!("{MESSAGES} messages published and received twice in {:?}", started.elapsed());

    let queues = cluster(rig).topic_stats(&topic.replace('.', "|")).await.unwrap();
    assert_eq!(queues.len(), 8);
    assert!(queues.values().all(|bounds| bounds.max > 0), "every queue was used: {queues:?}");
    assert_eq!(queues.values().map(|bounds| bounds.max).sum::<i64>(), MESSAGES as i64);
    // Nothing comes a second time.
    settle(&[&first, &second]).await;
    assert_eq!((first.count(), second.count()), (MESSAGES, MESSAGES));
}

/// Waits until nothing has arrived for a while.
async fn settle(consumers: &[&Consumer]) {
    let count = || consumers.iter().map(|consumer| consumer.count()).sum::<usize>();
    let mut last = (count(), Instant::now());
    while last.1.elapsed() < Duration::from_secs(2) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if count() != last.0 {
            last = (count(), Instant::now());
        }
    }
}

/// Two instances share the queues; one is stopped half-way by SIGTERM.
async fn two_instances_one_stopped(line: Line) {
    const MESSAGES: usize = 30_000;
    let rig = shared(line);
    let topic = topic("two");
    let nsqds: Vec<_> = rig.nsqds.iter().collect();
    create_channel(nsqds[0], &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &["--topic-queues", "4"]).await;
    gateway.publish(&topic, "first").await;
    let to = To::Lookupd(&rig.nsqlookupd);
    let leaving = transfer(&rig.name_server, &topic, &to, &["--log-level", "debug"]);
    let staying = transfer(&rig.name_server, &topic, &to, &["--log-level", "debug"]);
    let shares = |process: &Program| {
        let log = process.logged();
        let began = log.lines().filter(|line| line.contains("DEBUG") && line.contains(" relaying ")).count();
        let ended = log.lines().filter(|line| line.contains("relay of the queue ended")).count();
        began - ended
    };
    eventually("the two share the queues evenly", SOON, async || {
        shares(&leaving) == 4 && shares(&staying) == 4
    })
    .await;

    let consumer = Consumer::start(&nsqds, &topic, "ch");
    let sent = numbered(0..MESSAGES);
    let publishing = async {
        for batch in sent.chunks(50) {
            gateway.publish_all(&topic, batch).await;
        }
    };
    let stopping = async {
        eventually("half has arrived", SOON, async || consumer.count() > MESSAGES / 2).await;
        blocking(|| leaving.stop()).unwrap();
    };
    tokio::join!(publishing, stopping);
    let received = consumer.wait_for(MESSAGES + 1).await;
    settle(&[&consumer]).await;
    assert!(received[0] == "first" && received[1..] == sent && consumer.count() == MESSAGES + 1);
    eventually("the one that stayed has all queues", SOON, async || shares(&staying) == 8).await;
    let farewell = leaving.logged();
    assert!(farewell.contains("transfer stopped") && farewell.contains("perhaps_doubled=0"), "{farewell}");
}

/// `defer` on the way through both brokers: not before `earliest`, and not lost.
async fn deferred(line: Line, earliest: Duration) {
    let rig = shared(line);
    let topic = topic("deferred");
    let nsqd = &rig.nsqds[0];
    create_channel(nsqd, &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let _transfer = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    let consumer = Consumer::start(&[nsqd], &topic, "ch");
    gateway.publish(&topic, "at once").await;
    consumer.wait_for(1).await;
    let started = Instant::now();
    let answer = gateway.post(&format!("/pub?topic={topic}&defer=4000"), "later").await.unwrap();
    assert_eq!(answer, (200, "OK".to_owned()));
    let received = consumer.wait_for(2).await;
    assert_eq!(received, ["at once", "later"]);
    println!("due after 4 s, delivered after {:.1?}", started.elapsed());
    assert!(started.elapsed() >= earliest, "early: {:?}", started.elapsed());
}

on_both_lines!(every_byte_and_size, everything_exactly_once, two_instances_one_stopped);

#[tokio::test(flavor = "multi_thread")]
async fn a_deferred_message_is_due_to_the_second_on_5_5_0() {
    deferred(Line::V5, Duration::from_millis(3_900)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deferred_message_is_rounded_up_to_a_level_on_4_9_7() {
    // 4 s becomes level 2, 5 s.
    deferred(Line::V4, Duration::from_millis(4_900)).await;
}
