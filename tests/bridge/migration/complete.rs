//! The end of a channel.

use std::time::Duration;

use nsqbridge_brokers::{Line, Nsqd, http};
use serde_json::Value;

use super::{CHANNELS, GroupConsumer, Stage};
use crate::bridge::{SOON, To, blocking, eventually, shared, transfer};

fn channels(nsqd: &Nsqd, topic: &str) -> Vec<String> {
    let (_, stats) =
        blocking(|| http::get(nsqd.http_addr(), &format!("/stats?format=json&topic={topic}"))).unwrap();
    let stats: Value = serde_json::from_str(&stats).unwrap();
    let channels = stats["topics"][0]["channels"].as_array().cloned().unwrap_or_default();
    channels.iter().map(|channel| channel["channel_name"].as_str().unwrap().to_owned()).collect()
}

async fn a_completed_channel_stays_gone_whatever_relays_come(line: Line) {
    let mut stage = Stage::set(shared(line), "completed").await;
    let new = GroupConsumer::start(stage.rig, &stage.topic, &stage.group());
    let load = stage.load(20, Duration::from_millis(50));
    stage.at_work(500).await;
    let name = stage.path();
    let lookupd = stage.rig.nsqlookupd.http_addr().to_string();
    let flags = ["--name", &name, "--lookupd-http-address", &lookupd];
    let early = stage.act("complete", &flags).await;
    assert_eq!((early.code, early.reason()), (2, "ChannelNotCutOver"), "{early:?}");
    stage.act("cutover", &["--max-pause", "60s"]).await.done();
    eventually("the new consumer is at work", SOON, async || new.count() > 100).await;
    assert_eq!(stage.act("complete", &[]).await.code, 3, "--yes alone is not enough");

    // Its consumers are stopped first: they would create it again.
    stage.moved = crate::bridge::Consumer::start(&[], &stage.topic, CHANNELS[0]);
    let ended = stage.act("complete", &flags).await;
    println!("{}", ended.done()["message"]);
    let nsqds: Vec<&Nsqd> = stage.rig.nsqds.iter().collect();
    // A relay that starts now reads it in RocketMQ.
    let second = transfer(&stage.rig.name_server, &stage.topic, &To::Lookupd(&stage.rig.nsqlookupd), &[]);
    eventually("the second relay has queues", SOON, async || second.logged().contains("relaying")).await;
    let before = stage.others[0].count();
    eventually("relaying goes on", SOON, async || stage.others[0].count() > before + 500).await;
    blocking(|| stage.relay.kill()).unwrap();
    let before = stage.others[0].count();
    eventually("the second relay relays", 3 * SOON, async || stage.others[0].count() > before + 500).await;
    for nsqd in &nsqds {
        assert_eq!(channels(nsqd, &stage.topic), &CHANNELS[1..], "on {:?}", nsqd.http_addr());
    }
    let status = stage.status().await;
    assert_eq!(status["stage"], "Completed", "{status}");
    for command in ["cutover", "rollback"] {
        let refused = stage.act(command, &[]).await;
        assert_eq!((refused.code, refused.reason()), (2, "ChannelCompleted"), "{refused:?}");
    }
    stage.act("complete", &flags).await.done();
    load.stop().await;
}

on_both_lines!(a_completed_channel_stays_gone_whatever_relays_come);
