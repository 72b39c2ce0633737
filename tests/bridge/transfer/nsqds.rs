//! nsqds that come, go, fill up and freeze.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use nsqbridge_brokers::{Line, Nsqd, RigOptions};

use super::{depths, replay::undrained, say, status};
use crate::bridge::{
    Consumer, Gateway, SOON, To, blocking, cluster, create_channel, eventually, insisting, numbered, own,
    shared, topic, transfer,
};

#[tokio::test(flavor = "multi_thread")]
async fn nsqds_join_leave_and_are_left_out() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 2, ..RigOptions::default() });
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let topic = topic("fleet");
    blocking(|| nsqds[1].stop()).unwrap();
    create_channel(nsqds[0], &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let relay = transfer(&rig.name_server, &topic, &To::Lookupd(&rig.nsqlookupd), &[]);
    let count = |nsqd: &Nsqd| depths(nsqd, &topic).1.first().copied().unwrap_or_default();
    let mut published = 0;
    let mut publish = async || {
        for _ in 0..20 {
            gateway.publish_all(&topic, &numbered(published..published + 10)).await;
            published += 10;
        }
        published as u64
    };
    let total = publish().await;
    eventually("all in the first", SOON, async || count(nsqds[0]) == total).await;

    // It joins with the topic, and gets the channel before its first message.
    blocking(|| nsqds[1].start_again()).unwrap();
    let url = format!("http://{}/topic/create?topic={topic}", nsqds[1].http_addr());
    assert_eq!(reqwest::Client::new().post(url).send().await.unwrap().status(), 200);
    eventually("it has the channel", SOON, async || depths(nsqds[1], &topic).1 == [0]).await;
    eventually("the second gets its part", SOON, async || {
        publish().await;
        count(nsqds[1]) > 0
    })
    .await;
    let total = publish().await;
    eventually("all are there", SOON, async || count(nsqds[0]) + count(nsqds[1]) == total).await;

    // Tombstoned, it gets nothing more.
    let node = nsqds[1].http_addr();
    let url = format!("http://{}/topic/tombstone?topic={topic}&node={node}", rig.nsqlookupd.http_addr());
    assert_eq!(reqwest::Client::new().post(url).send().await.unwrap().status(), 200);
    eventually("it is no longer a destination", SOON, async || {
        relay.logged().contains("no longer a destination")
    })
    .await;
    let before = count(nsqds[1]);
    let total = publish().await;
    eventually("all are there", SOON, async || count(nsqds[0]) + count(nsqds[1]) == total).await;
    assert_eq!(count(nsqds[1]), before);
    blocking(|| relay.signal("TERM").and_then(|()| relay.wait(SOON))).unwrap();

    // Left out by name, though it is listed.
    let first = nsqds[0].http_addr().to_string();
    // So is one that does not run at all.
    let flags = ["--leave-out", &first, "--nsqd-http-address", "127.0.0.1:1", "--leave-out", "127.0.0.1:1"];
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &flags);
    let before = count(nsqds[0]);
    let total = publish().await;
    eventually("all are there", SOON, async || count(nsqds[0]) + count(nsqds[1]) == total).await;
    assert_eq!(count(nsqds[0]), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_whose_only_nsqd_is_away_goes_to_no_other_until_that_gets_it() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 2, ..RigOptions::default() });
    let (home, other) = (&rig.nsqds[0], &rig.nsqds[1]);
    let topic = topic("home");
    create_channel(home, &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let relay = transfer(&rig.name_server, &topic, &To::Lookupd(&rig.nsqlookupd), &[]);
    let there = |nsqd: &Nsqd| depths(nsqd, &topic).1.first().copied().unwrap_or_default();
    gateway.publish(&topic, "0").await;
    eventually("it is in the only one", SOON, async || there(home) == 1).await;
    blocking(|| home.kill()).unwrap();
    gateway.publish(&topic, "1").await;
    let says = async || {
        let waiting = status(&rig, &topic)["instances"][0]["report"]["waiting"].clone();
        waiting.as_str().unwrap_or_default().contains("create the topic on it")
    };
    eventually("status says for whom it waits", SOON, says).await;
    assert!(relay.logged().contains(&home.http_addr().to_string()));
    assert_eq!(depths(other, &topic), (0, vec![]), "the other has nothing to do with the topic");
    blocking(|| home.start_again()).unwrap();
    eventually("all is where it belongs", SOON, async || there(home) >= 2).await;
    assert_eq!(depths(other, &topic), (0, vec![]));

    // A relay that begins while it is away, and of which no message is in nsqd, knows it as well.
    let post = async |nsqd: &Nsqd, path: &str| {
        let url = format!("http://{}{path}", nsqd.http_addr());
        assert_eq!(reqwest::Client::new().post(url).send().await.unwrap().status(), 200);
    };
    post(home, &format!("/channel/empty?topic={topic}&channel=ch")).await;
    let drained = async || {
        let report = status(&rig, &topic)["instances"][0]["report"].clone();
        report["undrained"].as_array().is_some_and(|of| of.iter().all(|process| process["messages"] == 0))
    };
    eventually("nothing of it is in nsqd", SOON, drained).await;
    blocking(|| relay.stop()).unwrap();
    blocking(|| home.kill()).unwrap();
    gateway.publish(&topic, "2").await;
    let _relay = transfer(&rig.name_server, &topic, &To::Lookupd(&rig.nsqlookupd), &[]);
    eventually("it waits again", SOON, says).await;
    assert_eq!(depths(other, &topic), (0, vec![]));
    post(other, &format!("/topic/create?topic={topic}")).await;
    eventually("the other takes its place", SOON, async || there(other) >= 1).await;
}

async fn a_full_nsqd_gets_no_more_and_status_says_why(line: Line) {
    let rig = shared(line);
    let nsqd = &rig.nsqds[0];
    let topic = topic("full");
    create_channel(nsqd, &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let bodies = numbered(0..20_000);
    for part in bodies.chunks(5_000) {
        gateway.publish_all(&topic, part).await;
    }
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &["--max-depth", "500"]);
    let said =
        || status(rig, &topic)["instances"][0]["report"]["waiting"].as_str().unwrap_or_default().to_owned();
    eventually("status says why it waits", SOON, async || {
        said().contains(&format!("{}: depth ", nsqd.http_addr())) && said().contains("of at most 500")
    })
    .await;
    let table = say(rig, &["status", &topic]);
    assert!(table.contains("waiting: ") && table.contains(" of at most 500"), "{table}");
    let (_, channels) = depths(nsqd, &topic);
    println!("depth {channels:?} of at most 500");
    // A batch or two come on top, and a queue's batch may have all of its 1,250.
    assert!(channels[0] < 6_000, "{channels:?}");
    let consumer = Consumer::start(&[nsqd], &topic, "ch");
    assert_eq!(consumer.wait_for(bodies.len()).await, bodies);
    eventually("all is relayed", SOON, async || status(rig, &topic)["lag"] == 0).await;
}

async fn a_channel_that_comes_up_in_the_middle_misses_nothing_from_then_on(line: Line) {
    let rig = own(line, &RigOptions { brokers: 1, nsqds: 2, ..RigOptions::default() });
    let topic = topic("middle");
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    create_channel(nsqds[0], &topic, "old").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &[]);
    let old = Consumer::start(&nsqds, &topic, "old");
    gateway.publish_all(&topic, &numbered(0..1_000)).await;
    old.wait_for(1_000).await;
    create_channel(nsqds[1], &topic, "new").await;
    eventually("the other nsqd has it, too", SOON, async || depths(nsqds[0], &topic).1.len() == 2).await;
    gateway.publish_all(&topic, &numbered(1_000..3_000)).await;
    let new = Consumer::start(&nsqds, &topic, "new");
    assert_eq!(new.wait_for(2_000).await, numbered(1_000..3_000));
    assert_eq!(old.wait_for(3_000).await, numbered(0..3_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_comes_up_on_the_only_nsqd_stops_nothing() {
    let rig = shared(Line::V5);
    let nsqd = &rig.nsqds[0];
    let topic = topic("only");
    create_channel(nsqd, &topic, "old").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    let old = Consumer::start(&[nsqd], &topic, "old");
    gateway.publish(&topic, "0").await;
    old.wait_for(1).await;
    let new = Consumer::start(&[nsqd], &topic, "new");
    eventually("it is there", SOON, async || depths(nsqd, &topic).1.len() == 2).await;
    for n in 1..200 {
        gateway.publish(&topic, n.to_string()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    old.wait_for(200).await;
    new.wait_for(199).await;
    assert!(!relay.logged().contains("channel created"), "it came up by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nsqd_replaced_by_an_empty_one_gets_its_channels_before_its_first_message() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() });
    let nsqd = &rig.nsqds[0];
    let topic = topic("replaced");
    for channel in ["one", "two"] {
        create_channel(nsqd, &topic, channel).await;
    }
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    for round in 0..3 {
        let channels = ["one", "two"].map(|channel| Consumer::start(&[nsqd], &topic, channel));
        let bodies = numbered(round * 500..(round + 1) * 500);
        gateway.publish_all(&topic, &bodies).await;
        for consumer in &channels {
            assert_eq!(consumer.wait_for(500).await, bodies, "round {round}");
        }
        // What may still be in it would come again.
        eventually("all is committed", SOON, async || status(&rig, &topic)["lag"].as_i64() == Some(0)).await;
        eventually("nothing is left in it", SOON, async || undrained(&rig, &topic) == Some(0)).await;
        // Nobody consumes while it is away: a consumer that is back first would bring its channel along.
        drop(channels);
        blocking(|| nsqd.kill()).unwrap();
        for entry in std::fs::read_dir(nsqd.folder()).unwrap().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "dat") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        gateway.publish_all(&topic, &numbered(10_000..10_100)).await;
        blocking(|| nsqd.start_again()).unwrap();
        eventually("both channels have what was published meanwhile", SOON, async || {
            depths(nsqd, &topic) == (0, vec![100, 100])
        })
        .await;
        let channels = ["one", "two"].map(|channel| Consumer::start(&[nsqd], &topic, channel));
        for consumer in &channels {
            consumer.wait_for(100).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_nsqd_holds_up_nobody_else() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 2, ..RigOptions::default() });
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let topic = topic("slow");
    create_channel(nsqds[0], &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &[]);
    let consumer = Consumer::start(&nsqds, &topic, "ch");
    gateway.publish_all(&topic, &numbered(0..500)).await;
    consumer.wait_for(500).await;
    blocking(|| rig.nsqds[0].pause()).unwrap();
    for n in 5..10 {
        gateway.publish_all(&topic, &numbered(n * 100..(n + 1) * 100)).await;
    }
    // What was on its way to the frozen one is relayed to the other when its time is up.
    let all = async |count: usize| {
        eventually("all are received", SOON, async || {
            consumer.received().into_iter().collect::<BTreeSet<_>>().len() == count
        })
        .await;
    };
    all(1_000).await;
    let started = std::time::Instant::now();
    for n in 10..30 {
        gateway.publish_all(&topic, &numbered(n * 100..(n + 1) * 100)).await;
    }
    all(3_000).await;
    println!("2,000 messages in {:?} with one of two nsqds frozen", started.elapsed());
    blocking(|| rig.nsqds[0].resume()).unwrap();
    gateway.publish_all(&topic, &numbered(3_000..4_000)).await;
    all(4_000).await;
}

async fn an_ordered_queue_stays_in_order(line: Line) {
    let rig = shared(line);
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let topic = topic("ordered");
    // On one broker only: a topic with one queue.
    let cluster = cluster(rig);
    let name = topic.replace('.', "|");
    insisting(|| cluster.create_topic(&name, 1)).await;
    let queue = cluster.route(&name).await.unwrap().write_queues[0].clone();
    let producer = nsqbridge::rocketmq::Producer::new(cluster.clone(), "ordered");
    for n in 0..600 {
        let message = crate::scripted::message(format!("{n:04}").as_bytes());
        let sent = producer.send(&queue, &[message], SOON).await;
        assert!(matches!(sent, nsqbridge::rocketmq::Outcome::Delivered(_)), "{sent:?}");
    }
    create_channel(nsqds[0], &topic, "ch").await;
    let consumer = Consumer::start(&nsqds, &topic, "ch");
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &["--ordered"]);
    consumer.wait_for(600).await;
    let expected: Vec<Bytes> = (0..600).map(|n| Bytes::from(format!("{n:04}"))).collect();
    assert_eq!(consumer.received(), expected, "as stored");
}

on_both_lines!(
    an_ordered_queue_stays_in_order,
    a_full_nsqd_gets_no_more_and_status_says_why,
    a_channel_that_comes_up_in_the_middle_misses_nothing_from_then_on,
);
