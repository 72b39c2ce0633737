//! A plan in the place of flags, and its gates.

use std::time::Duration;

use nsqbridge_brokers::Line;
use tempfile::NamedTempFile;

use super::{GroupConsumer, Stage, act};
use crate::bridge::{SOON, eventually, file, shared};

/// A plan of the stage's first channel, as the group `group`, and `more`.
pub fn plan(stage: &Stage<'_>, group: &str, more: &str) -> NamedTempFile {
    let nsqds: Vec<String> = stage.rig.nsqds.iter().map(|nsqd| format!("'{}'", nsqd.http_addr())).collect();
    let text = format!(
        "format = 1\nrocketmq.namesrv = '{}'\nnsq.nsqd_http_address = [{}]\npolicies.quiet = '2s'\n{more}\n[topics.\"{}\".channels.moved]\ngroup = '{group}'\n",
        stage.rig.name_server.addr(),
        nsqds.join(", "),
        stage.topic
    );
    file(&text)
}

async fn a_plan_names_the_group_and_its_gates_hold_a_cutover_back(line: Line) {
    let stage = Stage::set(shared(line), "planned").await;
    let group = format!("own-{}", stage.topic.replace('.', "-"));
    let load = stage.load(20, Duration::from_millis(50));
    stage.at_work(500).await;
    let path = |file: &NamedTempFile| file.path().to_str().unwrap().to_owned();

    let early = plan(&stage, &group, "gates.time_in_stage = '3h'\ngates.lag_messages = 100000");
    let blocked = stage.act("cutover", &["-f", &path(&early)]).await;
    assert_eq!((blocked.code, blocked.reason()), (2, "TimeInStageTooShort"), "{blocked:?}");
    let kept = plan(&stage, &group, "");
    let text = std::fs::read_to_string(kept.path()).unwrap();
    std::fs::write(kept.path(), text + "goal = 'keep'\n").unwrap();
    let wrong = stage.act("cutover", &["-f", &path(&kept)]).await;
    assert!(wrong.code == 3 && wrong.errors.contains("goal"), "{wrong:?}");
    assert_eq!(stage.status().await["stage"], "Active");

    let plan = plan(
        &stage,
        &group,
        "gates.audit = 'clean'\ngates.lag_messages = 100000\ngates.max_pause = '2001ms'",
    );
    let new = GroupConsumer::start(stage.rig, &stage.topic, &group);
    // What is given counts for the plan's check as for the move: the plan's own leaves a millisecond to drain.
    let ended = stage.act("cutover", &["-f", &path(&plan), "--max-pause", "30s"]).await;
    let paused = ended.done()["paused_ms"].as_u64().unwrap();
    assert!(paused >= 2_000, "the plan wants the channel to have been empty for 2 s: {paused} ms");
    eventually("the plan's group is at work", SOON, async || new.count() > 200).await;
    let sent = load.stop().await;
    stage.settled(sent, &new).await;

    let status = act(stage.rig, &["status", "-f", &path(&plan)]).await;
    let channel = &status.events[0]["channels"][0];
    assert_eq!((&channel["stage"], &channel["group"]), (&"CutOver".into(), &group.into()), "{status:?}");
    assert_eq!(status.events[0]["topics"][0]["topic"], stage.topic, "{status:?}");
    stage.act("rollback", &["-f", &path(&plan), "--max-pause", "30s"]).await.done();
    let elsewhere = act(stage.rig, &["status", "another/channel", "-f", &path(&plan)]).await;
    assert!(elsewhere.code == 3 && elsewhere.errors.contains("another/channel"), "{elsewhere:?}");
}

/// Runs it with nothing but its arguments.
async fn bare(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_nsqbridge"));
    command.args(arguments).env_clear();
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
    (output.status.code(), said.concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_looks_at_the_bridge_takes_a_plan_in_the_place_of_every_flag() {
    let stage = Stage::set(shared(Line::V5), "planned.looks").await;
    stage.gateway.publish(&stage.topic, "one").await;
    stage.moved.wait_for(1).await;
    super::relayed(stage.rig, &stage.topic).await;
    let plan = plan(&stage, &stage.group(), "");
    let (path, topic) = (plan.path().to_str().unwrap(), &*stage.topic);

    let (code, said) = bare(&["doctor", "-f", path]).await;
    assert_eq!(code, Some(0), "{said}");
    for looked_at in [topic.to_owned(), stage.rig.nsqds[0].http_addr().to_string()] {
        assert!(said.contains(&looked_at), "{looked_at} is not in {said}");
    }
    eventually("the gateway has told of what it accepted", SOON, async || {
        let (code, said) = bare(&["verify", topic, "-f", path, "--until", "0s"]).await;
        code == Some(0) && said.contains("1 accepted (0 more perhaps), 1 stored, 1 relayed")
    })
    .await;
    for (action, says) in [("pause", "paused"), ("resume", "relaying")] {
        let (code, said) = bare(&["relay", action, topic, "-f", path]).await;
        assert!(code == Some(0) && said.contains(says), "{action}: {said}");
    }
    let (code, said) = bare(&["parked", "list", topic, "-f", path]).await;
    assert!(code == Some(0) && said.contains("PLACE"), "{said}");
}

on_both_lines!(a_plan_names_the_group_and_its_gates_hold_a_cutover_back);
