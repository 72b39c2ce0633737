//! Drivers that die, and drivers that meet.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use nsqbridge::mapping::{Names, Share};
use nsqbridge_brokers::{Line, Nsqd, Rig};

use super::{
    CHANNELS, Ended, GroupConsumer, Ledger, Load, Stage, act, counted, doubled, relayed, waits::holding,
};
use crate::bridge::{
    Consumer, Gateway, Program, SOON, To, blocking, create_channel, create_topic_of, eventually, shared,
    topic, transfer,
};

/// A topic of its own for each step a driver dies after.
struct Casualty {
    step: &'static str,
    path: String,
    old: Consumer,
    /// The old consumer where it reads what is left, if the channel is moved by share.
    left: Option<Consumer>,
    new: GroupConsumer,
    load: Load,
}

async fn casualties(
    rig: &Rig,
    stem: &str,
    steps: &[&'static str],
    by_share: bool,
) -> (Program, Vec<Casualty>) {
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let topics: Vec<String> = steps.iter().map(|_| topic(stem)).collect();
    let shares: Vec<Share> = match by_share {
        true => topics.iter().map(|topic| format!("{topic}/moved").parse().unwrap()).collect(),
        false => Vec::new(),
    };
    let [stamped, left] = ["=40", ""].map(|percent| -> Vec<String> {
        shares.iter().flat_map(|share| ["--share".to_owned(), format!("{share}{percent}")]).collect()
    });
    let stamped: Vec<&str> = ["--topic-queues", "2", "--publish-timeout", "9s"]
        .into_iter()
        .chain(stamped.iter().map(|flag| &**flag))
        .collect();
    let gateway = Arc::new(Gateway::start(&rig.name_server, &stamped).await);
    let flags = topics[1..].iter().flat_map(|topic| ["--topic", topic]);
    let flags: Vec<&str> = flags.chain(left.iter().map(|flag| &**flag)).collect();
    for topic in &topics {
        create_channel(nsqds[0], topic, "moved").await;
        create_topic_of(rig, topic, 2).await;
    }
    let relay = transfer(&rig.name_server, &topics[0], &To::Nsqds(&nsqds), &flags);
    let casualties = steps.iter().zip(&topics).enumerate().map(|(n, (step, topic))| {
        let share = shares.get(n);
        let group = Names::default().channel_group(&topic.parse().unwrap(), &"moved".parse().unwrap());
        Casualty {
            step,
            path: format!("{topic}/moved"),
            old: Consumer::start(&nsqds, topic, "moved"),
            left: share.map(|share| Consumer::start(&nsqds, share.topic().as_str(), "moved")),
            new: match share {
                Some(share) => GroupConsumer::of_share(rig, topic, &group, share.property()),
                None => GroupConsumer::start(rig, topic, &group),
            },
            load: Load::start(&gateway, topic, 10, Duration::from_millis(250)),
        }
    });
    let casualties: Vec<_> = casualties.collect();
    for casualty in &casualties {
        eventually("messages flow", 2 * SOON, async || casualty.old.count() > 20).await;
        relayed(rig, casualty.path.trim_end_matches("/moved")).await;
    }
    (relay, casualties)
}

async fn run(rig: &Rig, command: &str, casualty: &Casualty, flags: &[&str]) -> Ended {
    let fixed = [command, &casualty.path, "--execute", "--yes", "--max-pause", "2m"];
    let by_share: &[&str] = if casualty.left.is_some() && command == "cutover" { &["--share"] } else { &[] };
    act(rig, &[&fixed, by_share, flags].concat()).await
}

/// Kills a driver after its step, and lets another one finish: everything arrives, and nothing twice.
async fn killed_and_run_again(rig: &Rig, command: &str, casualty: Casualty) -> (usize, usize) {
    let killed = run(rig, command, &casualty, &["--stop-after", casualty.step]).await;
    assert_eq!(killed.reason(), "Stopped", "{}: {killed:?}", casualty.step);
    let again = run(rig, command, &casualty, &[]).await;
    assert_eq!(again.code, 0, "{}: {again:?}", casualty.step);
    let Casualty { step, old, left, new, load, .. } = casualty;
    let sent = load.stop().await;
    let of_rest = || left.as_ref().map(Consumer::received).unwrap_or_default();
    let both = || counted([old.received(), of_rest(), new.received()].concat());
    eventually("everything arrives", 2 * SOON, async || both().len() == sent).await;
    println!("{command} killed after {step}: {sent} messages, lost 0, doubled {}", doubled(&both()));
    (sent, doubled(&both()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cutover_killed_after_any_step_is_finished_by_the_next_run() {
    let rig = shared(Line::V5);
    let steps =
        ["Locked", "Fenced", "Quiet", "BarrierWritten", "OffsetsSet", "Paused", "Same", "Opened", "Released"];
    let (_relay, casualties) = casualties(rig, "cut.killed", &steps, false).await;
    cut_over(rig, casualties).await;
}

async fn cut_over(rig: &Rig, casualties: Vec<Casualty>) {
    let all = casualties.into_iter().map(|casualty| killed_and_run_again(rig, "cutover", casualty));
    assert!(join_all(all).await.iter().all(|(_, doubled)| *doubled == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_killed_after_any_step_is_finished_by_the_next_run() {
    let rig = shared(Line::V5);
    let steps =
        ["Locked", "Fenced", "Reached", "Returning", "Closed", "Followed", "Emptied", "Same", "Unpaused"];
    let (_relay, casualties) = casualties(rig, "back.killed", &steps, false).await;
    rolled_back(rig, casualties).await;
}

async fn rolled_back(rig: &Rig, casualties: Vec<Casualty>) {
    let all = casualties.into_iter().map(async |casualty| {
        run(rig, "cutover", &casualty, &[]).await.done();
        eventually("the new consumer is at work", 2 * SOON, async || casualty.new.count() > 20).await;
        killed_and_run_again(rig, "rollback", casualty).await
    });
    assert!(join_all(all).await.iter().all(|(_, doubled)| *doubled == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cutover_by_share_killed_after_any_step_is_finished_by_the_next_run() {
    let rig = shared(Line::V5);
    let steps = ["Locked", "BarrierWritten", "OffsetsSet", "Paused", "Same", "Opened", "RestOpened"];
    let (_relay, casualties) = casualties(rig, "share.killed", &steps, true).await;
    cut_over(rig, casualties).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_by_share_killed_after_any_step_is_finished_by_the_next_run() {
    let rig = shared(Line::V5);
    let steps = ["Reached", "Returning", "Closed", "RestEnded", "Emptied", "Same", "Unpaused"];
    let (_relay, casualties) = casualties(rig, "share.back", &steps, true).await;
    rolled_back(rig, casualties).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_drivers_at_once_one_does_it_and_the_other_finds_it_done() {
    let stage = Stage::set(shared(Line::V4), "two.drivers").await;
    let load = stage.load(20, Duration::from_millis(50));
    stage.at_work(500).await;
    let drive = || stage.act("cutover", &["--max-pause", "60s"]);
    let (one, other) = tokio::join!(drive(), drive());
    let mut paused = [&one, &other].map(|ended| ended.done()["paused_ms"].as_u64().unwrap());
    paused.sort_unstable();
    assert!(paused[0] == 0 && paused[1] > 0, "{paused:?}");
    let new = GroupConsumer::start(stage.rig, &stage.topic, &stage.group());
    let sent = load.stop().await;
    let came = stage.settled(sent, &new).await;
    assert_eq!(doubled(&came), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_was_frozen_for_longer_than_its_lock_lasts_changes_nothing_more() {
    let stage = Stage::set(shared(Line::V5), "frozen.driver").await;
    let load = stage.load(20, Duration::from_millis(50));
    stage.at_work(500).await;
    let (held, _) = holding(&stage.rig.nsqds[0], &stage.topic, CHANNELS[0]).await;
    let (path, namesrv) = (stage.path(), stage.rig.name_server.addr().to_string());
    // Less than it is frozen for: it goes on when everything was to be undone long ago.
    let arguments =
        ["cutover", &path, "-n", &namesrv, "--execute", "--yes", "--max-pause", "40s", "-o", "json"];
    let frozen = Program::start("cutover", &arguments.map(str::to_owned));
    eventually("it waits for the channel", SOON, async || frozen.logged().contains("NsqChannelNotDrained"))
        .await;
    frozen.pause().unwrap();
    drop(held);
    stage.act("cutover", &["--max-pause", "60s"]).await.done();
    let new = GroupConsumer::start(stage.rig, &stage.topic, &stage.group());
    eventually("the new consumer is at work", SOON, async || new.count() > 100).await;

    let said = frozen.logged().len();
    frozen.resume().unwrap();
    let code = blocking(|| frozen.wait(SOON)).unwrap();
    let said = frozen.logged().split_off(said);
    assert!(said.contains(r#""reason":"AnotherDriver""#) && said.contains(r#""undone":false"#), "{said}");
    assert_eq!(code, 1, "{said}");
    let status = stage.status().await;
    assert_eq!((&status["stage"], &status["group_open"]), (&"CutOver".into(), &true.into()), "{status}");
    let sent = load.stop().await;
    assert_eq!(doubled(&stage.settled(sent, &new).await), 0);
    assert_eq!(stage.status().await["stage"], "CutOver");
}
