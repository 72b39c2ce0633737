//! Very many topics. Producers choose their names, so their number must cost little.

use std::time::Instant;

use futures_util::{StreamExt, stream};
use nsqbridge::rocketmq::codes::request;
use nsqbridge_brokers::{Line, RigOptions};

use super::{KIB, MIB};
use crate::{
    bridge::{Gateway, own},
    scripted::{Peer, Reply, ok, stored},
};

const LABELS: usize = 50;
const FLAGS: [&str; 6] = ["--topic-queues", "1", "--max-topic-labels", "50", "--publish-timeout", "9s"];

/// Publishes one message to each of so many topics, all of which must be acknowledged; what one costs, in bytes.
async fn publish_to(gateway: &Gateway, topics: usize) -> usize {
    gateway.publish("warm", "x").await;
    let before = gateway.resident();
    let started = Instant::now();
    let publish = async |n: usize| gateway.publish(&format!("many.{n:05}"), "x").await;
    stream::iter(0..topics).map(publish).buffer_unordered(16).collect::<()>().await;
    let each = gateway.resident().saturating_sub(before) / topics;
    let (_, metrics) = gateway.admin("/metrics");
    println!(
        "{topics} topics in {:?}: {each} bytes each, /metrics has {} KiB",
        started.elapsed(),
        metrics.len() / KIB
    );
    let labelled =
        metrics.lines().filter(|line| line.starts_with("nsqbridge_gateway_messages_total{")).count();
    assert_eq!(labelled, LABELS + 1, "the rest shares one label");
    let rest = gateway.metric(r#"nsqbridge_gateway_messages_total{topic="(other)"}"#);
    assert_eq!(rest, (topics + 1 - LABELS) as f64);
    assert!(metrics.len() < MIB, "/metrics has {} bytes", metrics.len());
    let (status, stats) = gateway.get("/stats?format=json");
    assert!(status == 200 && stats.matches("topic_name").count() == topics + 1);
    each
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_topics_are_created_on_a_real_broker_by_publishing_to_them() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 0, ..RigOptions::default() });
    let gateway = Gateway::start(&rig.name_server, &FLAGS).await;
    let each = publish_to(&gateway, 1_000).await;
    assert!(each < 32 * KIB, "{each} bytes for each topic");
}

/// Against a scripted peer, to which all topics exist: a real broker writes all it has to disk for each one it creates, and gets
/// slower with their number.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_topics_take_little_memory_and_few_metrics() {
    let peer = Peer::start(1, |_, asked| {
        Reply::Answer(match asked.code {
            request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE => stored(asked, 0),
            _ => ok(asked),
        })
    })
    .await;
    let gateway = Gateway::launch(&peer.address, &FLAGS).await;
    let each = publish_to(&gateway, 10_000).await;
    assert!(each < 16 * KIB, "{each} bytes for each topic");
}
