//! The way back.

use std::time::Duration;

use nsqbridge::{mapping::Names, rocketmq::command::Command};
use nsqbridge_brokers::Line;

use super::{GroupConsumer, Ledger, Stage, act, counted, doubled};
use crate::bridge::{SOON, cluster, eventually, shared, stored};

async fn cut_over(stage: &Stage<'_>, new: &GroupConsumer) {
    stage.at_work(1_000).await;
    stage.act("cutover", &["--max-pause", "60s"]).await.done();
    eventually("the new consumer is at work", SOON, async || new.count() > 1_000).await;
}

/// Has RocketMQ put a message where it puts what a group's consumers have failed too often.
async fn fail_for_good(stage: &Stage<'_>) {
    const CONSUMER_SEND_MSG_BACK: i32 = 36;
    let cluster = cluster(stage.rig);
    let topic = Names::default().rocketmq_topic(&stage.topic.parse().unwrap());
    let (queue, message) = stored(&cluster, &topic).await.swap_remove(0);
    let route = cluster.route(&topic).await.unwrap();
    let back = Command::request(CONSUMER_SEND_MSG_BACK)
        .field("group", stage.group())
        .field("originTopic", &topic)
        .field("originMsgId", "")
        .field("offset", message.physical_offset)
        // Not to be tried again.
        .field("delayLevel", -1)
        .field("unitMode", false)
        .field("maxReconsumeTimes", 16);
    cluster.ask(route.master(&queue.broker).unwrap(), "to take a message back", back).await.unwrap();
}

async fn dead_letters_are_told_of_before_they_count_as_consumed(line: Line) {
    let stage = Stage::set(shared(line), "dead").await;
    let load = stage.load(50, Duration::from_millis(50));
    let new = GroupConsumer::start(stage.rig, &stage.topic, &stage.group());
    cut_over(&stage, &new).await;
    assert_eq!(stage.status().await["dead_letters"], 0);
    fail_for_good(&stage).await;
    eventually("it is counted", SOON, async || stage.status().await["dead_letters"] == 1).await;
    let told = format!("but 1 messages are in %DLQ%{}", stage.group());
    for command in ["rollback", "complete"] {
        let preview = act(stage.rig, &[command, &stage.path()]).await;
        assert!(preview.events[0]["lines"].to_string().contains(&told), "{preview:?}");
    }
    stage.is_given_back(load, &new).await;
}

async fn healthy_consumers_give_back_without_a_message_lost_or_doubled(line: Line) {
    let stage = Stage::set(shared(line), "back").await;
    let load = stage.load(50, Duration::from_millis(50));
    let new = GroupConsumer::start(stage.rig, &stage.topic, &stage.group());
    cut_over(&stage, &new).await;
    stage.is_given_back(load, &new).await;
    assert_eq!(stage.status().await["stage"], "Active");
    stage.act("rollback", &[]).await.done();
}

async fn broken_consumers_lose_nothing_and_double_no_more_than_told(line: Line) {
    let stage = Stage::set(shared(line), "broken").await;
    let load = stage.load(50, Duration::from_millis(50));
    let new = GroupConsumer::start(stage.rig, &stage.topic, &stage.group());
    cut_over(&stage, &new).await;
    stage.act("rollback", &["--mode", "broken"]).await.done();
    let old = stage.moved.count();
    eventually("the old consumer is at work again", SOON, async || stage.moved.count() > old + 1_000).await;
    let sent = load.stop().await;
    stage.settled(sent, &new).await;
    // The old consumer has it all, as if there had been no cutover.
    eventually("the old consumer has everything", SOON, async || stage.moved.count() == sent).await;
    let came = counted([stage.moved.received(), new.received()].concat());
    println!("doubled {}: what the new consumer had, {}", doubled(&came), new.count());
    assert_eq!(doubled(&came), new.count());

    // And the channel can be cut over again.
    let again = stage.load(50, Duration::from_millis(50));
    stage.act("cutover", &["--max-pause", "60s"]).await.done();
    let before = new.count();
    eventually("the new consumer is at work again", SOON, async || new.count() > before).await;
    again.stop().await;
}

on_both_lines!(
    dead_letters_are_told_of_before_they_count_as_consumed,
    healthy_consumers_give_back_without_a_message_lost_or_doubled,
    broken_consumers_lose_nothing_and_double_no_more_than_told,
);
