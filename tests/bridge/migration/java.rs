//! The group's consumers are RocketMQ's own Java client, as a user would write one.

use std::time::Duration;

use bytes::Bytes;
use nsqbridge::mapping::Names;
use nsqbridge_brokers::{Line, Server, rocketmq};

use super::{Ledger, Stage};
use crate::bridge::{SOON, eventually, shared};

struct JavaConsumer(Server);

impl JavaConsumer {
    fn start(stage: &Stage<'_>) -> Self {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bridge/clients/Consumer.java");
        let name_server = stage.rig.name_server.addr().to_string();
        let topic = Names::default().rocketmq_topic(&stage.topic.parse().unwrap());
        let arguments = [&*name_server, &*stage.group(), &*topic];
        Self(rocketmq::run(stage.rig.line, source, &arguments).unwrap())
    }

    async fn has_more_than(&self, messages: usize) {
        eventually("the Java consumer is at work", 2 * SOON, async || {
            assert!(self.0.is_running(), "it ended: {}", self.0.log_tail());
            self.received().len() > messages
        })
        .await;
    }
}

impl Ledger for JavaConsumer {
    fn received(&self) -> Vec<Bytes> {
        let log = self.0.log_text();
        let bodies = log.lines().filter_map(|line| line.strip_prefix("got "));
        bodies.map(|body| Bytes::copy_from_slice(body.as_bytes())).collect()
    }
}

async fn a_java_consumer_takes_over_and_gives_back_without_a_message_lost_or_doubled(line: Line) {
    let stage = Stage::set(shared(line), "java").await;
    let load = stage.load(50, Duration::from_millis(50));
    stage.at_work(1_000).await;
    stage.act("cutover", &["--max-pause", "60s"]).await.done();
    let new = JavaConsumer::start(&stage);
    new.has_more_than(1_000).await;

    // It is asked what it has in hand, and nothing is given back before it has let go of that.
    stage.is_given_back(load, &new).await;
}

on_both_lines!(a_java_consumer_takes_over_and_gives_back_without_a_message_lost_or_doubled);
