//! A cutover that nothing disturbs.

use std::time::Duration;

use nsqbridge::{
    mapping::Names,
    rocketmq::{ClusterError, QueueReader, codes::response},
};
use nsqbridge_brokers::{Broker, BrokerOptions, Line, RigOptions, Settings};
use tokio::sync::Mutex;

use super::{GroupConsumer, Stage, act, doubled};
use crate::bridge::{
    Consumer, Gateway, SOON, To, blocking, cluster, create_channel, eventually, insisting, own, shared,
    topic, transfer,
};

/// A pause is to be the bridge's doing, and not that of as much load on the other line.
static ONE_LOAD: Mutex<()> = Mutex::const_new(());

async fn one_of_three_channels_moves_under_load(line: Line) {
    let _alone = ONE_LOAD.lock().await;
    let stage = Stage::set(shared(line), "moves").await;
    let load = stage.load(250, Duration::from_millis(50));
    stage.at_work(2_000).await;
    let plan = act(stage.rig, &["cutover", &stage.path()]).await;
    assert_eq!((plan.code, plan.last()["event"].as_str()), (0, Some("plan")), "{plan:?}");
    assert_eq!(stage.status().await["stage"], "Active");

    let ended = stage.act("cutover", &["--max-pause", "60s"]).await;
    let paused = ended.done()["paused_ms"].as_u64().unwrap();
    println!("the relay was held for {paused} ms");
    let old = stage.moved.count();
    let new = GroupConsumer::start(stage.rig, &stage.topic, &stage.group());
    eventually("the new consumer is at work", SOON, async || new.count() > 2_000).await;
    let sent = load.stop().await;
    let came = stage.settled(sent, &new).await;
    assert_eq!(stage.moved.count(), old, "the old consumer got more after the cutover");
    println!("old {old}, new {}, lost {}, doubled {}", new.count(), sent - came.len(), doubled(&came));
    assert_eq!(doubled(&came), 0);
    let status = stage.status().await;
    assert_eq!((&status["stage"], &status["group_open"]), (&"CutOver".into(), &true.into()), "{status}");
    eventually("the group has no lag", SOON, async || stage.status().await["lag"] == 0).await;
    // Once more it finds everything done.
    let again = stage.act("cutover", &[]).await;
    assert_eq!(again.done()["paused_ms"], 0);
}

async fn a_closed_group_is_refused_and_keeps_its_place(line: Line) {
    let rig = shared(line);
    let cluster = cluster(rig);
    let (topic, group) = (crate::bridge::topic("closed").replace('.', "-"), crate::bridge::topic("group"));
    let group = group.replace('.', "-");
    insisting(|| cluster.create_topic(&topic, 2)).await;
    let queues = cluster.fresh_route(&topic).await.unwrap().read_queues.clone();
    cluster.set_consuming(&group, false).await.unwrap();
    assert!(cluster.consuming(&group).await.unwrap().is_closed());
    let reader = QueueReader::new(cluster.clone(), &group);
    for queue in &queues {
        // Empty queues have places, too.
        cluster.commit_offset(&group, queue, 0).await.unwrap();
        let refused = reader.pull(queue, 0, 1, Duration::ZERO).await;
        assert!(
            matches!(&refused, Err(ClusterError::Refused { code: response::NO_PERMISSION, .. })),
            "{refused:?}"
        );
    }
    cluster.set_consuming(&group, true).await.unwrap();
    assert!(cluster.consuming(&group).await.unwrap().is_open());
    for queue in &queues {
        assert_eq!(cluster.committed_offset(&group, queue).await.unwrap(), Some(0));
        reader.pull(queue, 0, 1, Duration::ZERO).await.unwrap();
    }
    cluster.delete_group(&group).await.unwrap();
    assert!(!cluster.consuming(&group).await.unwrap().exists());
}

/// The rehearsal counts for itself: it fails when either side had a message too few or too many.
async fn a_rehearsal_counts_right_and_leaves_nothing_behind(line: Line) {
    let stage = Stage::set(shared(line), "rehearsed").await;
    let load = stage.load(20, Duration::from_millis(50));
    stage.at_work(100).await;
    // As a rehearsal leaves it that was killed.
    crate::bridge::create_channel(&stage.rig.nsqds[0], &stage.topic, "nsqbridge-rehearsal-deadbeef").await;
    let ended = act(stage.rig, &["rehearse", &stage.topic, "--execute", "--yes", "--max-pause", "60s"]).await;
    println!("{}", ended.done()["message"]);
    let sent = load.stop().await;
    for consumer in [&stage.moved, &stage.others[0], &stage.others[1]] {
        let received = super::counted(consumer.wait_for(sent).await);
        assert_eq!((received.len(), doubled(&received)), (sent, 0));
    }
    let left = |groups: std::collections::BTreeSet<String>| {
        let name = stage.topic.replace('.', "|");
        let of_rehearsals = |group: &&String| group.contains("rehearsal") && group.contains(&name);
        groups.iter().filter(of_rehearsals).filter(|group| !group.starts_with("nsqbridge-completed-")).count()
    };
    assert_eq!(left(cluster(stage.rig).groups().await.unwrap()), 0);
    for nsqd in &stage.rig.nsqds {
        let path = format!("/stats?format=json&topic={}", stage.topic);
        let (_, stats) =
            crate::bridge::blocking(|| nsqbridge_brokers::http::get(nsqd.http_addr(), &path)).unwrap();
        assert!(!stats.contains("rehearsal"), "{stats}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_after_a_cutover_matters_once_it_has_queues_of_the_topic() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() });
    let (topic, nsqd) = (topic("scaled.out"), &rig.nsqds[0]);
    create_channel(nsqd, &topic, "moved").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    gateway.publish(&topic, "one").await;
    let old = Consumer::start(&[nsqd], &topic, "moved");
    old.wait_for(1).await;
    super::relayed(&rig, &topic).await;
    let path = format!("{topic}/moved");
    let run =
        async |command: &str| act(&rig, &[command, &path, "--execute", "--yes", "--max-pause", "60s"]).await;
    let stage = async || act(&rig, &["status", &path]).await.events[0]["channels"][0]["stage"].clone();
    run("cutover").await.done();

    let late = BrokerOptions::new(&[rig.name_server.addr()])
        .cluster(&rig.cluster)
        .name("broker-late")
        .settings(Settings::light());
    let _late = blocking(|| Broker::start(rig.line, &late)).unwrap();
    assert_eq!(stage().await, "CutOver");
    assert_eq!(run("cutover").await.done()["paused_ms"], 0);

    let (cluster, names) = (cluster(&rig), Names::default());
    let stored = names.rocketmq_topic(&topic.parse().unwrap());
    insisting(|| cluster.create_topic(&stored, 2)).await;
    assert_eq!(stage().await, "Opening");
    let refused = run("cutover").await;
    assert_eq!((refused.code, refused.reason()), (1, "QueuesChanged"), "{refused:?}");
    // As an operator does who is told so.
    let group = names.channel_group(&topic.parse().unwrap(), &"moved".parse().unwrap());
    cluster.set_consuming(&group, true).await.unwrap();
    assert_eq!(stage().await, "CutOver");
    super::relayed(&rig, &topic).await;
    run("rollback").await.done();
    assert_eq!(stage().await, "Active");
}

on_both_lines!(
    one_of_three_channels_moves_under_load,
    a_closed_group_is_refused_and_keeps_its_place,
    a_rehearsal_counts_right_and_leaves_nothing_behind,
);
