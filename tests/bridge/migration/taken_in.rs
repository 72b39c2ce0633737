//! Consumers that move while old producers publish straight to an nsqd, and an intake takes that in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use nsqbridge::mapping::Names;
use nsqbridge_brokers::{Line, Nsqd, Rig, http};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::{CHANNELS, Ended, GroupConsumer, Ledger, Load, Stage, act, counted, doubled, relayed};
use crate::{
    bridge::{
        Consumer, Gateway, Program, SOON, To, blocking, cluster, create_channel, eventually, numbered,
        shared, topic, transfer,
    },
    intake::{Intake, Producer},
};

/// What old producers publish is numbered from here.
const OLD: usize = 1_000_000;

/// An old producer, straight to an nsqd.
struct OldLoad {
    stop: Arc<AtomicBool>,
    running: JoinHandle<usize>,
}

impl OldLoad {
    async fn start(nsqd: &Nsqd, topic: &str, batch: usize, every: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, topic) = (Arc::clone(&stop), topic.to_owned());
        let mut producer = Producer::connect(nsqd).await;
        let running = tokio::spawn(async move {
            let (mut sent, mut pace) = (0, tokio::time::interval(every));
            while !stopped.load(Ordering::SeqCst) {
                pace.tick().await;
                producer.publish(&topic, &numbered(OLD + sent..OLD + sent + batch)).await;
                sent += batch;
            }
            sent
        });
        Self { stop, running }
    }

    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.running.await.unwrap()
    }
}

/// As [`Stage::set`]; the first nsqd is the old producers'.
async fn set<'a>(rig: &'a Rig, stem: &str) -> (Stage<'a>, Intake) {
    let topic = topic(stem);
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    for nsqd in &nsqds {
        for channel in CHANNELS {
            create_channel(nsqd, &topic, channel).await;
        }
    }
    let intake = Intake::start(rig, &topic, &[nsqds[0]]).await;
    let leave_out = nsqds[0].http_addr().to_string();
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &["--leave-out", &leave_out]);
    let gateway = Arc::new(Gateway::start(&rig.name_server, &[]).await);
    let [moved, stays, stays_too] = CHANNELS.map(|channel| Consumer::start(&nsqds, &topic, channel));
    (Stage { rig, topic, gateway, relay, moved, others: [stays, stays_too] }, intake)
}

/// The same at work, with so many messages at a time of either kind.
async fn at_work<'a>(
    rig: &'a Rig,
    stem: &str,
    batch: usize,
    messages: usize,
) -> (Stage<'a>, Intake, OldLoad, Load) {
    let (stage, intake) = set(rig, stem).await;
    let every = Duration::from_millis(50);
    let old_load = OldLoad::start(&rig.nsqds[0], &stage.topic, batch, every).await;
    let load = stage.load(batch, every);
    stage.at_work(messages).await;
    (stage, intake, old_load, load)
}

fn is_paused(nsqd: &Nsqd, topic: &str) -> bool {
    let path = format!("/stats?format=json&topic={topic}");
    let (_, stats) = blocking(|| http::get(nsqd.http_addr(), &path)).unwrap();
    let stats: Value = serde_json::from_str(&stats).unwrap();
    stats["topics"][0]["paused"] == true
}

async fn held_groups(rig: &Rig, topic: &str) -> usize {
    let topic = Names::default().rocketmq_topic(&topic.parse().unwrap());
    let groups = cluster(rig).groups().await.unwrap();
    groups.iter().filter(|group| group.starts_with("nsqbridge-held-") && group.ends_with(&topic)).count()
}

async fn a_consumer_moves_and_comes_back_while_producers_publish_straight_to_nsqd(line: Line) {
    let rig = shared(line);
    let (stage, _intake, old_load, load) = at_work(rig, "order", 10, 1_000).await;
    let plan = act(rig, &["cutover", &stage.path()]).await;
    assert_eq!((plan.code, plan.last()["event"].as_str()), (0, Some("plan")), "{plan:?}");

    let ended = stage.act("cutover", &["--max-pause", "60s"]).await;
    println!("cut over: held for {} ms", ended.done()["paused_ms"]);
    let old = stage.moved.count();
    let new = GroupConsumer::start(rig, &stage.topic, &stage.group());
    eventually("the new consumer is at work", SOON, async || new.count() > 1_000).await;
    assert_eq!(stage.moved.count(), old, "the old consumer got more after the cutover");
    assert_eq!(stage.status().await["stage"], "CutOver");

    let ended = stage.act("rollback", &["--max-pause", "60s"]).await;
    println!("rolled back: held for {} ms", ended.done()["paused_ms"]);
    let consumed = new.count();
    eventually("the old consumer is at work again", SOON, async || stage.moved.count() > old + 1_000).await;
    let (sent, straight) = (load.stop().await, old_load.stop().await);
    let came = stage.settled(sent + straight, &new).await;
    assert_eq!(new.count(), consumed, "the new consumer got more after the rollback");
    println!(
        "{sent} by the gateway, {straight} straight to nsqd; old {}, new {consumed}, lost {}, doubled {}",
        stage.moved.count(),
        sent + straight - came.len(),
        doubled(&came)
    );
    assert_eq!(doubled(&came), 0);
    assert_eq!((is_paused(&rig.nsqds[0], &stage.topic), held_groups(rig, &stage.topic).await), (false, 0));
}

async fn broken_consumers_give_back_what_old_producers_published_too(line: Line) {
    let rig = shared(line);
    let (stage, _intake, old_load, load) = at_work(rig, "order.broken", 20, 500).await;
    let new = GroupConsumer::start(rig, &stage.topic, &stage.group());
    stage.act("cutover", &["--max-pause", "60s"]).await.done();
    eventually("the new consumer is at work", SOON, async || new.count() > 1_000).await;
    stage.act("rollback", &["--mode", "broken", "--max-pause", "60s"]).await.done();
    let sent = load.stop().await + old_load.stop().await;
    stage.settled(sent, &new).await;
    eventually("the old consumer has everything", SOON, async || stage.moved.count() == sent).await;
    let came = counted([stage.moved.received(), new.received()].concat());
    assert_eq!(doubled(&came), new.count(), "what the new consumer had comes twice, and nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_counts_right_beside_an_intake() {
    let rig = shared(Line::V5);
    let (stage, _intake, old_load, load) = at_work(rig, "order.rehearsed", 10, 100).await;
    let ended = act(rig, &["rehearse", &stage.topic, "--execute", "--yes", "--max-pause", "60s"]).await;
    println!("{}", ended.done()["message"]);
    load.stop().await;
    old_load.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_a_topic_is_told_apart_and_ends_with_those_who_began_it() {
    let rig = shared(Line::V5);
    let (stage, mut intake, old_load, load) = at_work(rig, "order.left", 10, 100).await;
    let nsqd = &rig.nsqds[0];
    let client = nsqbridge::nsq::nsqd::Nsqd::new(nsqd.http_addr().to_string().parse().unwrap());
    let of = stage.topic.parse().unwrap();

    // An operator's pause is the operator's, and stays.
    client.pause_topic(&of).await.unwrap();
    let blocked = stage.act("cutover", &[]).await;
    assert_eq!((blocked.code, blocked.reason()), (2, "TopicPaused"), "{blocked:?}");
    assert!(is_paused(nsqd, &stage.topic));
    client.unpause_topic(&of).await.unwrap();

    blocking(|| intake.process.pause()).unwrap();
    let blocked = stage.act("cutover", &[]).await;
    assert_eq!((blocked.code, blocked.reason()), (2, "IntakeSilent"), "{blocked:?}");
    blocking(|| intake.process.resume()).unwrap();

    // Driver and intake die: nobody is left to let it go until the intake is back.
    let killed = stage.act("cutover", &["--stop-after", "Held", "--max-pause", "60s"]).await;
    assert_eq!(killed.reason(), "Stopped", "{killed:?}");
    blocking(|| intake.process.kill()).unwrap();
    assert!(is_paused(nsqd, &stage.topic));
    intake = Intake::start(rig, &stage.topic, &[nsqd]).await;
    eventually("the intake lets it go", SOON, async || !is_paused(nsqd, &stage.topic)).await;
    assert!(intake.process.logged().contains("it goes on"));
    assert_eq!(held_groups(rig, &stage.topic).await, 0);

    // The intake dies while the driver holds the topic: it is cut over, or undone, and goes on either way.
    let killing = async {
        eventually("the topic is held", SOON, async || is_paused(nsqd, &stage.topic)).await;
        blocking(|| intake.process.kill()).unwrap();
    };
    let (ended, ()) = tokio::join!(stage.act("cutover", &["--max-pause", "15s"]), killing);
    println!("with the intake killed: {} {}", ended.code, ended.last());
    assert!(!is_paused(nsqd, &stage.topic), "{ended:?}");
    let _intake = Intake::start(rig, &stage.topic, &[nsqd]).await;
    stage.act("cutover", &["--max-pause", "60s"]).await.done();
    let new = GroupConsumer::start(rig, &stage.topic, &stage.group());
    let sent = load.stop().await + old_load.stop().await;
    let both = || counted([stage.moved.received(), new.received()].concat());
    eventually("everything arrives", 2 * SOON, async || both().len() == sent).await;
    // What a killed intake had stored and not finished is stored again, under the same ids.
    println!("{sent} messages, lost 0, doubled {}", doubled(&both()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_paused_channel_has_is_not_dropped_but_when_that_is_asked_for() {
    let rig = shared(Line::V5);
    let (nsqds, topic) = (rig.nsqds.iter().collect::<Vec<_>>(), topic("order.before"));
    for nsqd in &nsqds {
        for channel in &CHANNELS[..2] {
            create_channel(nsqd, &topic, channel).await;
        }
    }
    let leave_out = nsqds[0].http_addr().to_string();
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &["--leave-out", &leave_out]);
    let gateway = Arc::new(Gateway::start(&rig.name_server, &[]).await);
    let [moved, dropped] = [0, 1].map(|channel| Consumer::start(&nsqds, &topic, CHANNELS[channel]));
    let others = [dropped, Consumer::start(&[], "none", "none")];
    let stage = Stage { rig, topic, gateway, relay, moved, others };
    let topic = &stage.topic;
    let dropped = format!("{topic}/{}", CHANNELS[1]);
    let dropped_group =
        Names::default().channel_group(&topic.parse().unwrap(), &CHANNELS[1].parse().unwrap());
    stage.gateway.publish_all(topic, &numbered(0..200)).await;
    stage.at_work(199).await;
    let pause = ["--max-pause", "60s"];
    stage.act("cutover", &pause).await.done();
    act(rig, &[&["cutover", &dropped, "--execute", "--yes"], &pause[..]].concat()).await.done();
    let new = GroupConsumer::start(rig, topic, &stage.group());
    let new_of_dropped = GroupConsumer::start(rig, topic, &dropped_group);

    // An old producer, and no intake yet: RocketMQ never has these.
    Producer::connect(nsqds[0]).await.publish(topic, &numbered(OLD..OLD + 50)).await;
    let _intake = Intake::start(rig, topic, &[nsqds[0]]).await;
    stage.gateway.publish_all(topic, &numbered(200..300)).await;
    Producer::connect(nsqds[0]).await.publish(topic, &numbered(OLD + 50..OLD + 60)).await;
    eventually("the new consumer has what RocketMQ has", SOON, async || new.count() == 110).await;
    let collected = async |flags: &[&str]| {
        let status = act(rig, &[&["status", &stage.path()], flags].concat()).await;
        status.done()["channels"][0]["messages"][0].as_u64().unwrap()
    };
    eventually("the channel has collected it all", SOON, async || collected(&[]).await == 160).await;
    let by_another_name = format!("localhost:{}", nsqds[0].http_addr().port());
    assert_eq!(collected(&["--nsqd-http-address", &by_another_name]).await, 160, "an nsqd counts once");

    let refused = stage.act("rollback", &pause).await;
    assert_eq!(refused.reason(), "ChannelHoldsMore", "{refused:?}");
    assert_eq!(refused.last()["undone"], true);
    assert_eq!(
        (stage.status().await["stage"].as_str(), is_paused(nsqds[0], topic)),
        (Some("CutOver"), false)
    );
    stage.act("rollback", &["--mode", "broken", "--max-pause", "60s"]).await.done();
    eventually("the old consumer has everything", SOON, async || stage.moved.count() == 360).await;
    assert_eq!(doubled(&counted(stage.moved.received())), 0);

    eventually("the other one has what RocketMQ has", SOON, async || new_of_dropped.count() == 110).await;
    let accepted = [&["rollback", &dropped, "--accept-more", "--execute", "--yes"], &pause[..]].concat();
    let ended = act(rig, &accepted).await;
    let said = ended.done()["message"].as_str().unwrap();
    assert!(said.contains("160 messages, and 110 came") && !said.contains("nothing was lost"), "{said}");
    stage.gateway.publish_all(topic, &numbered(300..310)).await;
    let old = &stage.others[0];
    eventually("the other channel goes on", SOON, async || old.count() == 210).await;
    let straight = |body: &bytes::Bytes| numbered(OLD..OLD + 60).contains(body);
    assert!(!old.received().iter().any(straight), "what was to be dropped came");
}

/// A topic of its own for each step a driver dies after.
struct Casualty {
    step: &'static str,
    path: String,
    old: Consumer,
    new: GroupConsumer,
    load: Load,
    old_load: OldLoad,
}

async fn casualties(rig: &Rig, stem: &str, steps: &[&'static str]) -> (Program, Intake, Vec<Casualty>) {
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let gateway = Arc::new(Gateway::start(&rig.name_server, &["--topic-queues", "2"]).await);
    let topics: Vec<String> = steps.iter().map(|_| topic(stem)).collect();
    for topic in &topics {
        for nsqd in &nsqds {
            create_channel(nsqd, topic, "moved").await;
        }
    }
    let others: Vec<&str> = topics[1..].iter().flat_map(|topic| ["--topic", topic]).collect();
    let flags = [&others[..], &["--topic-queues", "2"]].concat();
    let intake = Intake::start_with(rig, &topics[0], &[nsqds[0]], &flags).await;
    let leave_out = nsqds[0].http_addr().to_string();
    let flags = [&others[..], &["--leave-out", &leave_out]].concat();
    let relay = transfer(&rig.name_server, &topics[0], &To::Nsqds(&nsqds), &flags);
    let mut casualties = Vec::new();
    for (step, topic) in steps.iter().zip(&topics) {
        let group = Names::default().channel_group(&topic.parse().unwrap(), &"moved".parse().unwrap());
        casualties.push(Casualty {
            step,
            path: format!("{topic}/moved"),
            old: Consumer::start(&nsqds, topic, "moved"),
            new: GroupConsumer::start(rig, topic, &group),
            load: Load::start(&gateway, topic, 10, Duration::from_millis(250)),
            old_load: OldLoad::start(nsqds[0], topic, 10, Duration::from_millis(250)).await,
        });
    }
    for casualty in &casualties {
        eventually("messages flow", 2 * SOON, async || casualty.old.count() > 40).await;
        relayed(rig, casualty.path.trim_end_matches("/moved")).await;
    }
    (relay, intake, casualties)
}

async fn run(rig: &Rig, command: &str, casualty: &Casualty, flags: &[&str]) -> Ended {
    let fixed = [command, &casualty.path, "--execute", "--yes", "--max-pause", "2m"];
    act(rig, &[&fixed, flags].concat()).await
}

/// Kills a driver after its step, sees the topic go on by itself, and lets another driver finish: everything arrives, and nothing twice.
async fn killed_and_run_again(rig: &Rig, command: &str, casualty: Casualty) -> usize {
    let killed = run(rig, command, &casualty, &["--stop-after", casualty.step]).await;
    assert_eq!(killed.reason(), "Stopped", "{}: {killed:?}", casualty.step);
    let topic = casualty.path.trim_end_matches("/moved").to_owned();
    eventually("the topic goes on by itself", SOON, async || !is_paused(&rig.nsqds[0], &topic)).await;
    let again = run(rig, command, &casualty, &[]).await;
    assert_eq!(again.code, 0, "{}: {again:?}", casualty.step);
    let Casualty { step, old, new, load, old_load, .. } = casualty;
    let sent = load.stop().await + old_load.stop().await;
    let both = || counted([old.received(), new.received()].concat());
    eventually("everything arrives", 2 * SOON, async || both().len() == sent).await;
    println!("{command} killed after {step}: {sent} messages, lost 0, doubled {}", doubled(&both()));
    doubled(&both())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cutover_beside_an_intake_killed_after_any_step_is_finished_by_the_next_run() {
    let rig = shared(Line::V5);
    let steps = ["Fenced", "Held", "Quiet", "BarrierWritten", "OffsetsSet", "Paused", "Same", "Opened"];
    let (_relay, _intake, casualties) = casualties(rig, "order.cut", &steps).await;
    let all = casualties.into_iter().map(|casualty| killed_and_run_again(rig, "cutover", casualty));
    assert!(join_all(all).await.iter().all(|doubled| *doubled == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_beside_an_intake_killed_after_any_step_is_finished_by_the_next_run() {
    let rig = shared(Line::V5);
    let steps = ["Held", "Reached", "Returning", "Closed", "Followed", "Emptied", "Same", "Unpaused"];
    let (_relay, _intake, casualties) = casualties(rig, "order.back", &steps).await;
    let all = casualties.into_iter().map(async |casualty| {
        run(rig, "cutover", &casualty, &[]).await.done();
        eventually("the new consumer is at work", 2 * SOON, async || casualty.new.count() > 40).await;
        killed_and_run_again(rig, "rollback", casualty).await
    });
    assert!(join_all(all).await.iter().all(|doubled| *doubled == 0));
}

on_both_lines!(
    a_consumer_moves_and_comes_back_while_producers_publish_straight_to_nsqd,
    broken_consumers_give_back_what_old_producers_published_too,
);
