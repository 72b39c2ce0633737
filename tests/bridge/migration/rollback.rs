//! The way back.

use std::time::Duration;

use nsqbridge_brokers::Line;

use super::{GroupConsumer, Ledger, Stage, counted, doubled};
use crate::bridge::{SOON, eventually, shared};

async fn cut_over(stage: &Stage<'_>, new: &GroupConsumer) {
    stage.at_work(1_000).await;
    stage.act("cutover", &["--max-pause", "60s"]).await.done();
    eventually("the new consumer is at work", SOON, async || new.count() > 1_000).await;
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
    healthy_consumers_give_back_without_a_message_lost_or_doubled,
    broken_consumers_lose_nothing_and_double_no_more_than_told,
);
