//! What the gateway does beside taking messages, on real brokers.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::future::join_all;
use nsqbridge::rocketmq::{Cluster, record::StoredMessage};
use nsqbridge_brokers::{Line, RigOptions, rocketmq::Settings};
use serde_json::Value;

use crate::bridge::{
    Gateway, SOON, cluster, create_topic, create_topic_of, eventually, insisting, own, shared, stored, topic,
};

const OK: &str = "OK";
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn code(word: &str) -> String {
    format!(r#"{{"message":"{word}"}}"#)
}

async fn only(cluster: &Cluster, topic: &str) -> StoredMessage {
    let mut found = Vec::new();
    eventually("the message can be read", SOON, async || {
        found = stored(cluster, topic).await;
        found.len() == 1
    })
    .await;
    found.remove(0).1
}

async fn a_message_carries_what_it_came_with_and_nothing_reserved(line: Line) {
    let rig = shared(line);
    let gateway = Gateway::start(&rig.name_server, &["--broadcast-address", "gw-1"]).await;
    let topic = topic("stamp");
    let headers = [
        ("Traceparent", TRACE),
        ("X-Nsqbridge-Keys", "order-17 customer-4"),
        ("X-Nsqbridge-Tag", "paid"),
        ("X-Nsqbridge-Answer", "ids"),
        ("UNIQ_KEY", "stolen"),
        ("DELAY", "18"),
        ("TIMER_DELAY_MS", "100000"),
        ("WAIT", "false"),
    ];
    let (status, answer) = gateway.post_with(&format!("/pub?topic={topic}"), &headers, "body").await;
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let id = answer["ids"][0].as_str().unwrap();

    let cluster = cluster(rig);
    let name = topic.replace('.', "|");
    let message = only(&cluster, &name).await;
    let property = |name: &str| message.properties.get(name);
    assert_eq!(message.body, "body");
    assert_eq!(property("UNIQ_KEY"), Some(id));
    assert_eq!(property("nsq_topic"), Some(&*topic));
    assert_eq!(property("nsq_gateway"), Some("gw-1"));
    assert_eq!(property("traceparent"), Some(TRACE));
    assert_eq!(property("KEYS"), Some("order-17 customer-4"));
    assert_eq!(property("TAGS"), Some("paid"));
    let accepted: i64 = property("nsq_accepted_ms").unwrap().parse().unwrap();
    assert!((message.store_timestamp - accepted).abs() < 60_000, "{accepted} {}", message.store_timestamp);
    assert_eq!(message.born_timestamp, accepted);
    for reserved in ["DELAY", "TIMER_DELAY_MS", "WAIT"] {
        assert_eq!(property(reserved), None, "{reserved}");
    }
    eventually("found by its id", SOON, async || {
        cluster.messages_by_unique_key(&name, id).await.unwrap().len() == 1
    })
    .await;
    let refused = gateway.post_with(&format!("/pub?topic={topic}"), &[("X-Nsqbridge-Keys", "")], "x").await;
    assert_eq!(refused, (400, code("INVALID_REQUEST")));
}

async fn an_mpub_beyond_a_batch_is_stored_in_order_in_one_queue(line: Line) {
    let rig = shared(line);
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let topic = topic("split");
    // 5,000 messages of a thousand bytes: five batches.
    let lines: Vec<String> = (0..5_000).map(|n| format!("{n:0>1000}")).collect();
    let answer = gateway.post(&format!("/mpub?topic={topic}"), lines.join("\n")).await.unwrap();
    assert_eq!(answer, (200, OK.to_owned()));
    let mut found = Vec::new();
    let cluster = cluster(rig);
    eventually("all can be read", SOON, async || {
        found = stored(&cluster, &topic.replace('.', "|")).await;
        found.len() == lines.len()
    })
    .await;
    let queues: BTreeSet<_> = found.iter().map(|(queue, _)| queue.clone()).collect();
    assert_eq!(queues.len(), 1, "{queues:?}");
    assert!(found.iter().map(|(_, message)| &message.body).eq(lines.iter().map(String::as_bytes)));
}

async fn publishes_of_many_producers_share_batches_and_each_is_stored_once(line: Line) {
    let rig = shared(line);
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let topic = topic("shared");
    let path = format!("/pub?topic={topic}");
    gateway.publish(&topic, "warm").await;
    let producers = (0..64).map(|producer| {
        let (gateway, path) = (&gateway, &path);
        async move {
            for n in 0..50 {
                let answer = gateway.post(path, format!("{producer}-{n}")).await.unwrap();
                assert_eq!(answer, (200, OK.to_owned()));
            }
        }
    });
    join_all(producers).await;
    let cluster = cluster(rig);
    let mut found = Vec::new();
    eventually("all can be read", SOON, async || {
        found = stored(&cluster, &topic.replace('.', "|")).await;
        found.len() > 64 * 50
    })
    .await;
    let distinct: BTreeSet<Bytes> = found.into_iter().map(|(_, message)| message.body).collect();
    assert_eq!(distinct.len(), 64 * 50 + 1);
    let sends = gateway.metric("nsqbridge_gateway_batch_messages_count");
    let messages = gateway.metric("nsqbridge_gateway_batch_messages_sum");
    println!("{messages} messages in {sends} requests");
    assert!(messages >= 3_201.0 && sends < messages, "{messages} messages in {sends} requests");
}

async fn topics_and_channels_are_created_for_real(line: Line) {
    let rig = shared(line);
    let gateway = Gateway::start(&rig.name_server, &["--topic-queues", "3"]).await;
    let topic = topic("real");
    let name = topic.replace('.', "|");
    let cluster = cluster(rig);
    for _ in 0..2 {
        let created = gateway.post(&format!("/topic/create?topic={topic}"), "").await.unwrap();
        assert_eq!(created, (200, String::new()));
    }
    let route = cluster.fresh_route(&name).await.unwrap();
    assert_eq!(route.masters().count(), 2, "on every broker");
    assert_eq!(route.write_queues.len(), 6);

    gateway.publish(&topic, "before the channel").await;
    shown(&cluster, &name, 1).await;
    let channel = format!("/channel/create?topic={topic}&channel=ch.a%23ephemeral");
    assert_eq!(gateway.post(&channel, "").await.unwrap(), (200, String::new()));
    gateway.publish(&topic, "after").await;
    assert_eq!(gateway.post(&channel, "").await.unwrap(), (200, String::new()), "and keeps its place");
    let group = format!("{name}%%ch|a%ephemeral");
    let waits = async || {
        let queues = cluster.consume_stats(&group, &name).await.unwrap();
        queues.values().map(|queue| queue.broker_offset - queue.consumer_offset).sum::<i64>()
    };
    eventually("the group has what came after it was created", SOON, async || waits().await == 1).await;

    for action in ["delete", "empty", "pause"] {
        let answer = gateway.post(&format!("/topic/{action}?topic={topic}"), "").await.unwrap();
        assert_eq!(answer, (403, code("FORBIDDEN")), "{action}");
        let answer = gateway.post(&format!("/topic/{action}?topic=nobody.{topic}"), "").await.unwrap();
        assert_eq!(answer, (404, code("TOPIC_NOT_FOUND")), "{action}");
        let answer = gateway.post(&format!("/channel/{action}?topic={topic}&channel=c"), "").await.unwrap();
        assert_eq!(answer, (404, code("CHANNEL_NOT_FOUND")), "{action}");
    }
    assert_eq!(
        gateway.post(&format!("/topic/unpause?topic={topic}"), "").await.unwrap(),
        (200, String::new())
    );
    let nowhere = gateway.post(&format!("/channel/create?topic=nobody.{topic}&channel=c"), "").await.unwrap();
    assert_eq!(nowhere, (404, code("TOPIC_NOT_FOUND")), "no topic is created for a channel");
    assert_eq!(stored(&cluster, &name).await.len(), 2, "nothing was taken away");
}

/// Waits until the brokers show so many messages of a topic, which they do a moment after they have answered.
async fn shown(cluster: &Cluster, name: &str, messages: i64) {
    eventually("the brokers show what is stored", SOON, async || {
        let stats = insisting(|| cluster.topic_stats(name)).await;
        stats.values().map(|bounds| bounds.max).sum::<i64>() == messages
    })
    .await;
}

async fn stats_tell_what_waits_for_the_relay(line: Line) {
    let rig = shared(line);
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let (topic, other) = (topic("depth"), topic("other"));
    gateway.publish(&topic, "one").await;
    gateway.publish(&other, "other").await;
    let stats = |query: &str| -> Value {
        let (status, text) = gateway.get(&format!("/stats?format=json{query}"));
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    };
    let of = |stats: &Value| {
        (stats["depth"].clone(), stats["message_count"].clone(), stats["message_bytes"].clone())
    };
    let unrelayed = stats(&format!("&topic={topic}"));
    assert_eq!(of(&unrelayed["topics"][0]), (0.into(), 1.into(), 3.into()), "nothing relays it");
    let cluster = cluster(rig);
    let name = topic.replace('.', "|");
    let group = format!("nsqbridge-transfer-{name}");
    shown(&cluster, &name, 1).await;
    cluster.create_group_at_end(&group, &name).await.unwrap();
    for n in 0..5 {
        gateway.publish(&topic, n.to_string()).await;
    }
    eventually("the depth is what is not relayed yet", SOON, async || {
        of(&stats(&format!("&topic={topic}"))["topics"][0]) == (5.into(), 6.into(), 8.into())
    })
    .await;
    let all = stats("");
    let names: Vec<&str> =
        all["topics"].as_array().unwrap().iter().map(|topic| topic["topic_name"].as_str().unwrap()).collect();
    let mut expected = [&*topic, &*other];
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(stats("&topic=nobody")["topics"], Value::Null);
    let (_, text) = gateway.get(&format!("/stats?topic={topic}"));
    assert!(
        text.contains(&format!("\n   [{topic:<15}] depth: 5     be-depth: 5     msgs: 6        e2e%: \n")),
        "{text}"
    );
}

async fn unknown_and_ephemeral_topics_can_be_refused(line: Line) {
    let rig = shared(line);
    let flags =
        ["--unknown-topics", "refuse", "--ephemeral-topics", "refuse", "--rename", "old.name=NewName"];
    let gateway = Gateway::start(&rig.name_server, &flags).await;
    let topic = topic("unknown");
    let publish = async |topic: &str| gateway.post(&format!("/pub?topic={topic}"), "x").await.unwrap();
    assert_eq!(publish(&topic).await, (404, code("TOPIC_NOT_FOUND")));
    let cluster = cluster(rig);
    create_topic_of(rig, &topic, 2).await;
    assert_eq!(publish(&topic).await.0, 200, "now somebody has created it");
    insisting(|| cluster.create_topic("NewName", 2)).await;
    assert_eq!(publish("old.name").await.0, 200, "it is kept under its new name");
    assert_eq!(publish("NewName").await, (404, code("TOPIC_NOT_FOUND")), "which is nobody else's");

    let gateway = Gateway::start(&rig.name_server, &["--ephemeral-topics", "refuse"]).await;
    let ephemeral = gateway.post(&format!("/pub?topic={topic}%23ephemeral"), "x").await.unwrap();
    assert_eq!(ephemeral, (400, code("INVALID_TOPIC")));
}

on_both_lines!(
    a_message_carries_what_it_came_with_and_nothing_reserved,
    an_mpub_beyond_a_batch_is_stored_in_order_in_one_queue,
    publishes_of_many_producers_share_batches_and_each_is_stored_once,
    topics_and_channels_are_created_for_real,
    stats_tell_what_waits_for_the_relay,
    unknown_and_ephemeral_topics_can_be_refused,
);

#[tokio::test(flavor = "multi_thread")]
async fn an_inexact_defer_can_be_refused() {
    for (line, expected) in [(Line::V5, 200), (Line::V4, 400)] {
        let rig = shared(line);
        let gateway = Gateway::start(&rig.name_server, &["--inexact-defer", "refuse"]).await;
        let topic = topic("exact");
        create_topic(rig, &topic).await;
        let (status, answer) = gateway.post(&format!("/pub?topic={topic}&defer=1500"), "x").await.unwrap();
        assert_eq!(status, expected, "{line}: {answer}");
        assert!(status == 200 || answer == code("INVALID_DEFER"), "{answer}");
        let warned = async || gateway.process.logged().contains("a RocketMQ 4 broker");
        if line == Line::V4 {
            eventually("it warns of levels", SOON, warned).await;
        } else {
            assert!(!warned().await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_takes_only_small_messages_refuses_the_large_ones_and_no_others() {
    let broker = Settings::new().conf("maxMessageSize", 65_536);
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 0, broker, ..RigOptions::default() });
    // A broker that has just started may be slow beside others.
    let gateway = Gateway::start(&rig.name_server, &["--publish-timeout", "9s"]).await;
    let topic = topic("small");
    gateway.publish(&topic, "warm").await;
    let path = format!("/pub?topic={topic}");
    let publishes = (0..200).map(|n| {
        let size = if n % 50 == 7 { 100_000 } else { 1_000 };
        gateway.post(&path, vec![b'x'; size])
    });
    let answers = join_all(publishes).await;
    for (n, answer) in answers.into_iter().enumerate() {
        let expected = if n % 50 == 7 { (400, code("INVALID_REQUEST")) } else { (200, OK.to_owned()) };
        assert_eq!(answer.unwrap(), expected, "publish {n}");
    }
    let cluster = cluster(&rig);
    let there = async || stored(&cluster, &topic.replace('.', "|")).await.len();
    eventually("each is stored", SOON, async || there().await >= 197).await;
    let admitted = gateway.metric("nsqbridge_gateway_perhaps_doubled_messages_total");
    assert!((there().await - 197) as f64 <= admitted, "stored again, and not said to be");
}

#[tokio::test(flavor = "multi_thread")]
async fn monitoring_sees_the_gateway() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 0, ..RigOptions::default() });
    let gateway = Gateway::start(&rig.name_server, &["--max-topic-labels", "2"]).await;
    for topic in ["one", "two", "three", "four"] {
        gateway.publish(topic, "12345").await;
    }
    assert_eq!(gateway.post("/pub?topic=one", "").await.unwrap().0, 400);
    assert_eq!(gateway.post("/pub?topic=no%20name", "x").await.unwrap().0, 400);
    let published = |labels: &str| {
        gateway.metric(&format!("nsqbridge_gateway_request_duration_seconds_count{{{labels}}}"))
    };
    assert_eq!(published(r#"endpoint="pub",topic="one",outcome="ok""#), 1.0);
    assert_eq!(published(r#"endpoint="pub",topic="(other)",outcome="ok""#), 2.0);
    assert_eq!(published(r#"endpoint="pub",topic="",outcome="refused""#), 2.0);
    assert_eq!(gateway.metric(r#"nsqbridge_gateway_messages_total{topic="(other)"}"#), 2.0);
    assert_eq!(gateway.metric(r#"nsqbridge_gateway_message_bytes_total{topic="two"}"#), 5.0);
    let broker = rig.brokers[0].name();
    let sends =
        format!(r#"nsqbridge_gateway_send_duration_seconds_count{{broker="{broker}",outcome="stored"}}"#);
    assert_eq!(gateway.metric(&sends), 4.0);
    assert_eq!(gateway.metric("nsqbridge_gateway_in_flight_requests"), 0.0);
    let (_, text) = gateway.admin("/metrics");
    assert!(text.ends_with("# EOF\n") && text.contains("nsqbridge_build_info{version="), "{text}");

    assert_eq!(gateway.admin("/livez"), (200, "ok\n".to_owned()));
    let (status, ready) = gateway.admin("/readyz");
    assert_eq!(status, 200, "{ready}");
    assert!(ready.contains(&format!("[+] broker {broker}: ok")) && ready.ends_with("ready\n"), "{ready}");
    rig.brokers[0].pause().unwrap();
    eventually("a frozen broker is noticed", SOON, async || gateway.admin("/readyz").0 == 503).await;
    let (_, ready) = gateway.admin("/readyz?format=json");
    let ready: Value = serde_json::from_str(&ready).unwrap();
    assert_eq!(ready["ready"], false);
    assert_eq!(gateway.admin("/livez").0, 200);
    rig.brokers[0].resume().unwrap();
    rig.name_server.stop().unwrap();
    eventually("the broker is back", SOON, async || gateway.admin("/readyz").0 == 200).await;
    eventually("the name server is missed", SOON, async || {
        gateway.admin("/readyz").1.contains("[-] name servers: ")
    })
    .await;
    assert_eq!(gateway.get("/ping").0, 200, "publishing goes on without name servers");
    gateway.publish("one", "still").await;
    assert!(gateway.process.logged().len() < 100_000);
}
