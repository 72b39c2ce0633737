//! Cutovers that must not be, and what they leave: nothing.

use std::time::{Duration, Instant};

use nsqbridge_brokers::{Line, Nsqd};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{CHANNELS, Ledger, Stage, act, counted, doubled};
use crate::bridge::{Consumer, SOON, To, cluster, create_channel, eventually, shared, topic, transfer};

/// Everything reaches the old consumer, once, and nothing is paused or opened.
async fn as_before(stage: &Stage<'_>, sent: usize) {
    let received = counted(stage.moved.wait_for(sent).await);
    assert_eq!((received.len(), doubled(&received)), (sent, 0));
    assert_eq!(stage.status().await["stage"], "Active");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_never_finishes_is_given_up_in_time_and_undone() {
    let stage = Stage::set(shared(Line::V5), "stuck").await;
    let load = stage.load(20, Duration::from_millis(50));
    stage.at_work(500).await;
    // A group that is there already, open, is set back to what it was.
    let (cluster, stored) = (cluster(stage.rig), stage.topic.replace('.', "|"));
    cluster.create_group_at_end(&stage.group(), &stored).await.unwrap();
    let places = async || {
        let queues = cluster.topic_stats(&stored).await.unwrap().into_keys();
        let committed =
            queues.map(async |queue| cluster.committed_offset(&stage.group(), &queue).await.unwrap());
        futures_util::future::join_all(committed).await
    };
    let before = places().await;
    // It takes messages and says nothing.
    let mut stuck = Vec::new();
    for nsqd in &stage.rig.nsqds {
        let mut stream = TcpStream::connect(nsqd.tcp_addr()).await.unwrap();
        let hello = format!("  V2SUB {} {}\nRDY 5\n", stage.topic, CHANNELS[0]);
        stream.write_all(hello.as_bytes()).await.unwrap();
        stream.read_exact(&mut [0; 40]).await.unwrap();
        stuck.push(stream);
    }
    let began = Instant::now();
    let ended = stage.act("cutover", &["--max-pause", "20s"]).await;
    println!("{:?}: {}", began.elapsed(), ended.last());
    assert_eq!((ended.code, ended.reason()), (1, "NsqChannelNotDrained"), "{ended:?}");
    assert_eq!(ended.last()["undone"], true);
    let count = stage.others[0].count();
    eventually("the relay goes on", SOON, async || stage.others[0].count() > count + 200).await;
    drop(stuck);
    assert_eq!((&stage.status().await["group_open"], places().await), (&true.into(), before));
    as_before(&stage, load.stop().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_writes_straight_to_nsqd_is_noticed() {
    let stage = Stage::set(shared(Line::V5), "bypassed").await;
    let load = stage.load(20, Duration::from_millis(50));
    stage.at_work(500).await;
    let nsqd = nsqbridge::nsq::nsqd::Nsqd::new(stage.rig.nsqds[0].http_addr().to_string().parse().unwrap());
    let straight = tokio::spawn({
        let topic = stage.topic.parse().unwrap();
        async move {
            for sent in 0.. {
                nsqd.publish(&topic, format!("straight {sent}").into(), None, SOON).await.unwrap();
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        }
    });
    let ended = stage.act("cutover", &[]).await;
    straight.abort();
    assert_eq!((ended.code, ended.reason()), (1, "BypassProducerDetected"), "{ended:?}");
    assert_eq!(ended.last()["undone"], true);
    let sent = load.stop().await;
    for consumer in [&stage.moved, &stage.others[0]] {
        let ours = || consumer.received().into_iter().filter(|body| !body.starts_with(b"straight")).count();
        eventually("everything arrives", SOON, async || ours() == sent).await;
    }
    assert_eq!(stage.status().await["stage"], "Active");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_by_name_before_anything_is_changed() {
    let rig = shared(Line::V5);
    let stage = Stage::set(rig, "blocked").await;
    stage.gateway.publish(&stage.topic, "one").await;
    stage.moved.wait_for(1).await;
    super::relayed(rig, &stage.topic).await;
    let blocked = async |arguments: &[&str]| {
        let ended = act(rig, &[arguments, &["--execute", "--yes"]].concat()).await;
        assert_eq!(ended.code, 2, "{arguments:?}: {ended:?}");
        ended.reason().to_owned()
    };
    let missing = format!("{}/nobody", stage.topic);
    assert_eq!(blocked(&["cutover", &missing]).await, "ChannelMissingOnNsqd");
    assert_eq!(blocked(&["rollback", &stage.path()]).await, "ChannelNotCutOver");
    let long = "g".repeat(121);
    assert_eq!(blocked(&["cutover", &stage.path(), "--group", &long]).await, "NameTooLong");

    // Somebody paused it, and no cutover.
    let nsqd = nsqbridge::nsq::nsqd::Nsqd::new(rig.nsqds[0].http_addr().to_string().parse().unwrap());
    let (of, channel) = (stage.topic.parse().unwrap(), CHANNELS[0].parse().unwrap());
    nsqd.pause_channel(&of, &channel).await.unwrap();
    assert_eq!(blocked(&["cutover", &stage.path()]).await, "ChannelPaused");
    // Nor is it one when there happens to be a group of the channel's name that may consume.
    let others = rig.nsqds[1..].iter().map(|nsqd| nsqd.http_addr().to_string().parse().unwrap());
    let others: Vec<_> = others.map(nsqbridge::nsq::nsqd::Nsqd::new).collect();
    for nsqd in &others {
        nsqd.pause_channel(&of, &channel).await.unwrap();
    }
    cluster(rig).create_group(&stage.group()).await.unwrap();
    assert_eq!(stage.status().await["stage"], "Paused");
    for command in ["cutover", "rollback"] {
        assert_eq!(blocked(&[command, &stage.path()]).await, "ChannelPaused");
    }
    for nsqd in others.iter().chain([&nsqd]) {
        nsqd.unpause_channel(&of, &channel).await.unwrap();
    }

    // A consumer that is connected keeps offsets of its own.
    let cluster = cluster(rig);
    let rocketmq_topic = stage.topic.replace('.', "|");
    let member = nsqbridge::rocketmq::group::Member::join(cluster.clone(), &stage.group(), &rocketmq_topic)
        .await
        .unwrap();
    assert_eq!(blocked(&["cutover", &stage.path()]).await, "GroupHasConsumers");
    member.leave().await;

    let unrelayed = topic("unrelayed");
    create_channel(&rig.nsqds[0], &unrelayed, "ch").await;
    stage.gateway.publish(&unrelayed, "one").await;
    let address = rig.nsqds[0].http_addr().to_string();
    let path = format!("{unrelayed}/ch");
    assert_eq!(blocked(&["cutover", &path, "--nsqd-http-address", &address]).await, "RelayMissing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_given_back_by_the_group_it_became_and_by_no_other() {
    let rig = shared(Line::V5);
    let stage = Stage::set(rig, "renamed").await;
    let load = stage.load(20, Duration::from_millis(50));
    stage.at_work(200).await;
    let group = format!("own-{}", stage.topic.replace('.', "-"));
    let new = super::GroupConsumer::start(rig, &stage.topic, &group);
    stage.act("cutover", &["--group", &group, "--max-pause", "60s"]).await.done();
    let refused = async || {
        for command in ["cutover", "rollback", "complete"] {
            let ended = stage
                .act(command, &["--name", &stage.path()][..2 * usize::from(command == "complete")])
                .await;
            assert_eq!(ended.code, 2, "{ended:?}");
            assert!(["AnotherGroup", "ChannelNotCutOver"].contains(&ended.reason()), "{ended:?}");
        }
        let status = stage.status().await;
        assert!(status["reason"].as_str().unwrap().contains("another name"), "{status}");
    };
    refused().await;
    // Not even when there is a group of the name it is looked for under.
    cluster(rig).create_group(&stage.group()).await.unwrap();
    refused().await;
    eventually("the group consumes", SOON, async || new.count() > 100).await;
    stage.act("rollback", &["--group", &group, "--max-pause", "60s"]).await.done();
    let sent = load.stop().await;
    assert_eq!(doubled(&stage.settled(sent, &new).await), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_cut_over_while_messages_are_parked() {
    let rig = shared(Line::V5);
    let (topic, nsqd) = (topic("has.parked"), &rig.nsqds[0]);
    create_channel(nsqd, &topic, "moved").await;
    let gateway = crate::bridge::Gateway::start(&rig.name_server, &[]).await;
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &["--max-msg-size", "4999"]);
    let consumer = Consumer::start(&[nsqd], &topic, "moved");
    gateway.publish(&topic, vec![b'l'; 5_000]).await;
    gateway.publish(&topic, "small").await;
    consumer.wait_for(1).await;
    super::relayed(rig, &topic).await;
    let path = format!("{topic}/moved");
    eventually("the large one is parked", SOON, async || {
        let ended = act(rig, &["cutover", &path]).await;
        (ended.code, ended.reason()) == (2, "MessagesParked")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_instance_killed_while_fenced_costs_nothing() {
    let stage = Stage::set(shared(Line::V5), "relay.killed").await;
    let nsqds: Vec<&Nsqd> = stage.rig.nsqds.iter().collect();
    let second = transfer(&stage.rig.name_server, &stage.topic, &To::Nsqds(&nsqds), &[]);
    let load = stage.load(20, Duration::from_millis(50));
    eventually("each of two instances has queues", 2 * SOON, async || {
        let status = act(stage.rig, &["status", &stage.topic]).await;
        let instances = status.events[0]["topics"][0]["instances"].as_array().cloned().unwrap_or_default();
        let queues = |one: &Value| one["report"]["queues"].as_array().map_or(0, Vec::len);
        instances.len() == 2 && instances.iter().all(|one| queues(one) > 0)
    })
    .await;
    stage.at_work(1_000).await;
    // Nothing of the channel is finished, so the driver waits with the relay fenced.
    let mut stuck = TcpStream::connect(nsqds[0].tcp_addr()).await.unwrap();
    let hello = format!("  V2SUB {} {}\nRDY 1\n", stage.topic, CHANNELS[0]);
    stuck.write_all(hello.as_bytes()).await.unwrap();
    stuck.read_exact(&mut [0; 40]).await.unwrap();
    let killing = async {
        eventually("the second instance is fenced", SOON, async || second.logged().contains("fenced")).await;
        crate::bridge::blocking(|| second.kill()).unwrap();
        drop(stuck);
    };
    let (ended, ()) = tokio::join!(stage.act("cutover", &["--max-pause", "20s"]), killing);
    // Its queues have no owner until their locks end, so there is no proof, and it is undone in time.
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(["RelayMissing", "RelaySilent"].contains(&ended.reason()), "{ended:?}");
    super::relayed(stage.rig, &stage.topic).await;
    stage.act("cutover", &["--max-pause", "60s"]).await.done();
    let new = super::GroupConsumer::start(stage.rig, &stage.topic, &stage.group());
    let sent = load.stop().await;
    let both = || counted([stage.moved.received(), new.received()].concat());
    eventually("everything arrives", 2 * SOON, async || both().len() == sent).await;
    // What the killed instance had sent and not committed was relayed twice, as ever; the cutover adds nothing to it.
    println!("doubled {}", doubled(&both()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_channel_keeps_no_other_waiting_and_no_new_nsqd_delivers_it() {
    let rig = shared(Line::V5);
    let topic = topic("parked.deep");
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    for channel in ["moved", "stays"] {
        create_channel(nsqds[0], &topic, channel).await;
    }
    let gateway = std::sync::Arc::new(crate::bridge::Gateway::start(&rig.name_server, &[]).await);
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &["--max-depth", "500"]);
    let consumers = ["moved", "stays"].map(|channel| Consumer::start(&nsqds, &topic, channel));
    gateway.publish(&topic, "one").await;
    consumers[0].wait_for(1).await;
    super::relayed(rig, &topic).await;
    let path = format!("{topic}/moved");
    act(rig, &["cutover", &path, "--execute", "--yes", "--max-pause", "60s"]).await.done();
    for batch in crate::bridge::numbered(0..5_000).chunks(100) {
        gateway.publish_all(&topic, batch).await;
    }
    consumers[1].wait_for(5_001).await;
    assert_eq!(consumers[0].count(), 1);
}
