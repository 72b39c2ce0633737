//! Many topics, brokers that come and go, messages that expired, and a long backlog.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::future::join_all;
use nsqbridge_brokers::{Line, Nsqd, RigOptions, http, rocketmq::Settings};
use serde_json::Value;

use super::{depths, say, status};
use crate::bridge::{
    Consumer, Gateway, Program, SOON, To, blocking, cluster, create_channel, eventually, insisting, numbered,
    own, topic, transfer,
};

async fn messages_that_expired_are_named_and_the_policy_is_followed(line: Line) {
    let broker = Settings::new()
        .conf("mapedFileSizeCommitLog", 65_536)
        .conf("mappedFileSizeCommitLog", 65_536)
        .conf("fileReservedTime", 0)
        .conf("deleteCommitLogFilesInterval", 10)
        .conf("destroyMapedFileIntervalForcibly", 100);
    let rig = own(line, &RigOptions { brokers: 1, nsqds: 1, broker, ..RigOptions::default() });
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let topic = topic("expired");
    let name = topic.replace('.', "|");
    create_channel(nsqds[0], &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &["--topic-queues", "1"]).await;
    let body = |n: usize| format!("{n:04}{}", "x".repeat(10_000));
    gateway.publish(&topic, body(0)).await;
    let first = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &[]);
    let consumer = Consumer::start(&nsqds, &topic, "ch");
    consumer.wait_for(1).await;
    eventually("it is committed", SOON, async || status(&rig, &topic)["lag"] == 0).await;
    blocking(|| first.signal("TERM").and_then(|()| first.wait(SOON))).unwrap();
    for n in 1..60 {
        gateway.publish(&topic, body(n)).await;
    }
    let cluster = cluster(&rig);
    let broker = rig.brokers[0].addr().to_string();
    let bounds = async || *cluster.topic_stats(&name).await.unwrap().values().next().unwrap();
    eventually("the oldest have expired", 6 * SOON, async || {
        const DELETE_EXPIRED_COMMITLOG: i32 = 329;
        let command = nsqbridge::rocketmq::command::Command::request(DELETE_EXPIRED_COMMITLOG);
        let _ = cluster.request(&broker, command, SOON).await;
        bounds().await.min > 1
    })
    .await;
    let holding = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &[]);
    eventually("the queue is held, with the range", SOON, async || {
        let log = holding.logged();
        log.contains("queue held") && log.contains("the messages 1 to ") && log.contains("--on-gap continue")
    })
    .await;
    eventually("status says so", SOON, async || say(&rig, &["status", &topic]).contains("HELD 1 queues"))
        .await;
    assert_eq!(consumer.count(), 1);
    blocking(|| holding.signal("TERM").and_then(|()| holding.wait(SOON))).unwrap();
    let min = bounds().await.min as usize;
    let going_on = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &["--on-gap", "continue"]);
    let received = consumer.wait_for(1 + 60 - min).await;
    assert_eq!(received[1..], (min..60).map(|n| Bytes::from(body(n))).collect::<Vec<_>>());
    assert!(going_on.logged().contains(&format!("missed={}", min - 1)), "{}", going_on.logged());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_topics_are_relayed_by_one_process_that_finds_them() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() });
    let nsqd = &rig.nsqds[0];
    let gateway = Gateway::start(&rig.name_server, &["--topic-queues", "1"]).await;
    let name = |n: usize| format!("many.{n:03}");
    let begin = async |range: std::ops::Range<usize>| {
        for n in range {
            create_channel(nsqd, &name(n), "ch").await;
            gateway.publish(&name(n), format!("{n} first")).await;
        }
    };
    begin(0..150).await;
    gateway.publish("other", "not matched").await;
    let mut arguments: Vec<String> =
        ["transfer", "--admin-address", "", "--topic-pattern", "many[.][0-9]+", "--namesrv"]
            .map(str::to_owned)
            .into();
    arguments.extend([
        rig.name_server.addr().to_string(),
        "--nsqd-http-address".to_owned(),
        nsqd.http_addr().to_string(),
    ]);
    let relay = Program::start("transfer", &arguments);
    begin(150..200).await;
    let relayed = async |each: u64| {
        eventually(&format!("{each} of each topic"), 3 * SOON, async || {
            let (_, stats) = blocking(|| http::get(nsqd.http_addr(), "/stats?format=json")).unwrap();
            let stats: Value = serde_json::from_str(&stats).unwrap();
            let counts =
                stats["topics"].as_array().unwrap().iter().map(|topic| topic["message_count"].as_u64());
            counts.filter(|count| *count == Some(each)).count() == 200
        })
        .await;
    };
    relayed(1).await;
    join_all((0..200).map(|n| {
        let gateway = &gateway;
        async move { gateway.publish(&name(n), format!("{n} second")).await }
    }))
    .await;
    relayed(2).await;
    let (_, stats) = blocking(|| http::get(nsqd.http_addr(), "/stats?format=json")).unwrap();
    assert!(!stats.contains("\"other\""), "not matched by the pattern");
    relay.signal("TERM").unwrap();
    assert_eq!(blocking(|| relay.wait(SOON)).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_are_added_and_removed_while_it_runs() {
    let rig = own(Line::V5, &RigOptions { brokers: 2, nsqds: 1, ..RigOptions::default() });
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let topic = topic("moving");
    let name = topic.replace('.', "|");
    create_channel(nsqds[0], &topic, "ch").await;
    let cluster = cluster(&rig);
    blocking(|| rig.brokers[1].stop()).unwrap();
    eventually("one broker is left", SOON, async || {
        cluster.brokers().await.is_ok_and(|brokers| brokers.len() == 1)
    })
    .await;
    let gateway = Gateway::start(&rig.name_server, &["--topic-queues", "2"]).await;
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &[]);
    let consumer = Consumer::start(&nsqds, &topic, "ch");
    gateway.publish_all(&topic, &numbered(0..500)).await;
    consumer.wait_for(500).await;

    blocking(|| rig.brokers[1].start_again()).unwrap();
    eventually("it is back", SOON, async || cluster.brokers().await.is_ok_and(|brokers| brokers.len() == 2))
        .await;
    insisting(|| cluster.create_topic(&name, 2)).await;
    eventually("its queues are relayed", SOON, async || {
        let status = status(&rig, &topic);
        status["instances"][0]["report"]["queues"].as_array().is_some_and(|queues| queues.len() == 4)
    })
    .await;
    for n in 0..50 {
        gateway.publish_all(&topic, &numbered(500 + n * 10..510 + n * 10)).await;
    }
    consumer.wait_for(1_000).await;
    eventually("nothing waits anywhere", SOON, async || status(&rig, &topic)["lag"] == 0).await;
    blocking(|| rig.brokers[0].stop()).unwrap();
    for n in 0..50 {
        let body = numbered(1_000 + n..1_001 + n).remove(0);
        eventually("it is taken", SOON, async || {
            gateway
                .post(&format!("/pub?topic={topic}"), body.clone())
                .await
                .is_ok_and(|(status, _)| status == 200)
        })
        .await;
    }
    let received: BTreeSet<_> = consumer.wait_for(1_050).await.into_iter().collect();
    assert_eq!(received.into_iter().collect::<Vec<_>>(), numbered(0..1_050));
}

/// Peak of resident memory, in bytes.
fn peak(process: &Program) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// What a relay or a gateway may take, in bytes.
const LIMIT: u64 = 300 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_large_backlog_takes_no_more_memory_than_a_small_one() {
    let wanted = std::env::var("NSQBRIDGE_BACKLOG").ok();
    let backlog: usize = wanted.map_or(600_000, |backlog| backlog.parse().unwrap());
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() });
    let nsqd = &rig.nsqds[0];
    let topic = topic("backlog");
    create_channel(nsqd, &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let started = std::time::Instant::now();
    let path = format!("/mpub?topic={topic}");
    // All of it is more than each of them may take.
    let rest = "x".repeat(LIMIT as usize / backlog);
    let lines = |n: usize| (n..n + 2_500).map(|n| format!("message {n:07} {rest}\n")).collect::<String>();
    for n in (0..backlog).step_by(10_000) {
        let posts = (0..4).map(|part| gateway.post(&path, lines(n + part * 2_500)));
        for answer in join_all(posts).await {
            assert_eq!(answer.unwrap().0, 200);
        }
    }
    let published = started.elapsed();
    let gateway_peak = peak(&gateway.process);
    let started = std::time::Instant::now();
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    eventually("all of it is in nsqd", 10 * SOON, async || depths(nsqd, &topic).1 == [backlog as u64]).await;
    let relayed = started.elapsed();
    let relay_peak = peak(&relay);
    println!(
        "{backlog} messages: published in {published:.0?}, relayed in {relayed:.0?}; peak memory of the gateway {} MiB, of the \
         relay {} MiB",
        gateway_peak >> 20,
        relay_peak >> 20
    );
    assert!(relay_peak < LIMIT, "{relay_peak}");
    assert!(gateway_peak < LIMIT, "{gateway_peak}");
}

on_both_lines!(messages_that_expired_are_named_and_the_policy_is_followed,);
