//! The group's consumers are RocketMQ's own Java client, as a user would write one.

use std::time::Duration;

use bytes::Bytes;
use nsqbridge::mapping::{Names, Share, bucket};
use nsqbridge_brokers::{Line, Nsqd, Server, Settings, rocketmq};

use super::{CHANNELS, Ledger, Stage, counted, doubled, share::gateway};
use crate::bridge::{Consumer, SOON, eventually, shared};

struct JavaConsumer(Server);

impl JavaConsumer {
    /// It takes everything, or what has a share's property.
    fn start(stage: &Stage<'_>, property: Option<&str>) -> Self {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bridge/clients/Consumer.java");
        let name_server = stage.rig.name_server.addr().to_string();
        let topic = Names::default().rocketmq_topic(&stage.topic.parse().unwrap());
        let group = stage.group();
        let arguments: Vec<&str> = [&*name_server, &*group, &*topic].into_iter().chain(property).collect();
        Self(rocketmq::run(stage.rig.line, &Settings::new(), source, &arguments).unwrap())
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
    let new = JavaConsumer::start(&stage, None);
    new.has_more_than(1_000).await;

    // It is asked what it has in hand, and nothing is given back before it has let go of that.
    stage.is_given_back(load, &new).await;
}

on_both_lines!(a_java_consumer_takes_over_and_gives_back_without_a_message_lost_or_doubled);

#[tokio::test(flavor = "multi_thread")]
async fn a_java_consumer_takes_its_share_and_gives_it_back() {
    let rig = shared(Line::V5);
    let mut stage = Stage::by_share(rig, "java.share").await;
    let share: Share = stage.path().parse().unwrap();
    stage.gateway = gateway(rig, &stage.path(), 25).await;
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let left = Consumer::start(&nsqds, share.topic().as_str(), CHANNELS[0]);
    let load = stage.load(50, Duration::from_millis(50));
    stage.at_work(1_000).await;
    stage.act("cutover", &["--share", "--max-pause", "2m"]).await.done();
    let new = JavaConsumer::start(&stage, Some(share.property()));
    new.has_more_than(500).await;

    stage.act("rollback", &["--max-pause", "2m"]).await.done();
    let (old, consumed) = (stage.moved.count(), new.received().len());
    eventually("the old consumer is at work again", SOON, async || stage.moved.count() > old + 500).await;
    let sent = load.stop().await;
    let all = || counted([stage.moved.received(), left.received(), new.received()].concat());
    eventually("the sides have everything", 2 * SOON, async || all().len() == sent).await;
    println!("old {}, left {}, new {consumed}, lost 0", stage.moved.count(), left.count());
    assert_eq!((doubled(&all()), new.received().len()), (0, consumed));
    assert!(new.received().iter().all(|body| bucket(body) < 25), "it had what is not in its share");
}
