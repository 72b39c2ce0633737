//! `nsqbridge verify`: a clean run is clean whatever was killed, and a loss at each hop is named.

use std::time::Duration;

use nsqbridge::rocketmq::{Cluster, Queue, codes::request::SEND_MESSAGE_V2, command::Command};
use nsqbridge_brokers::{Line, Nsqd, Rig, RigOptions, http};
use serde_json::Value;

use crate::{
    bridge::{
        Consumer, Gateway, SOON, To, blocking, cluster, create_channel, eventually, insisting, numbered, own,
        shared, topic, transfer,
    },
    transfer::{run, status},
};

/// Each of these waits for several processes, and `verify` is one more each time it looks.
const LONG: Duration = SOON.saturating_mul(3);

/// The exit code, and the answer as JSON; null when nothing can be said.
fn verify(rig: &Rig, topic: &str, flags: &[&str]) -> (i32, Value) {
    let arguments = [&["verify", topic, "--until", "0s", "-o", "json"], flags].concat();
    let output = run(rig, &arguments);
    let answer = serde_json::from_slice(&output.stdout);
    (output.status.code().unwrap(), answer.unwrap_or(Value::Null))
}

/// The ids of every finding of this kind, sorted, and how many messages it is about.
fn found(answer: &Value, what: &str) -> (Vec<String>, u64) {
    let all = || answer["findings"].as_array().into_iter().flatten();
    let of_kind = || all().filter(|finding| finding["what"] == what);
    let ids = of_kind().flat_map(|finding| finding["ids"].as_array().unwrap());
    let mut ids: Vec<String> = ids.map(|id| id.as_str().unwrap().to_owned()).collect();
    ids.sort_unstable();
    (ids, of_kind().map(|finding| finding["messages"].as_u64().unwrap()).sum())
}

/// Publishes so many messages in one request; their ids, sorted.
async fn publish_with_ids(gateway: &Gateway, topic: &str, messages: usize) -> Vec<String> {
    let body: Vec<String> = (0..messages).map(|n| format!("with id {n}")).collect();
    let path = format!("/mpub?topic={topic}");
    let (status, answer) = gateway.post_with(&path, &[("X-Nsqbridge-Answer", "ids")], &body.join("\n")).await;
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let mut ids: Vec<String> =
        answer["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect();
    ids.sort_unstable();
    ids
}

async fn until(rig: &Rig, topic: &str, what: &str, holds: impl Fn(&Value) -> bool) -> (i32, Value) {
    let mut last = (0, Value::Null);
    eventually(what, LONG, async || {
        last = verify(rig, topic, &[]);
        holds(&last.1)
    })
    .await;
    last
}

async fn all_relayed(rig: &Rig, topic: &str) {
    eventually("all is relayed and committed", LONG, async || status(rig, topic)["lag"] == 0).await;
}

/// The group's offset in every queue of the topic, moved by hand.
async fn move_offsets(cluster: &Cluster, topic: &str, to: impl Fn(i64, i64) -> i64) -> Vec<Queue> {
    let name = topic.replace('.', "|");
    let group = format!("nsqbridge-transfer-{name}");
    let mut queues = Vec::new();
    for (queue, bounds) in cluster.topic_stats(&name).await.unwrap() {
        let committed = cluster.committed_offset(&group, &queue).await.unwrap().unwrap_or(0);
        cluster.commit_offset(&group, &queue, to(committed, bounds.max)).await.unwrap();
        queues.push(queue);
    }
    queues
}

async fn a_clean_run_is_clean_whatever_was_killed(line: Line) {
    let rig = shared(line);
    let nsqd = &rig.nsqds[0];
    let topic = topic("audit.clean");
    create_channel(nsqd, &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let small = ["--max-msg-size", "4999"];
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &small);
    let consumer = Consumer::start(&[nsqd], &topic, "ch");
    gateway.publish_all(&topic, &numbered(0..3_000)).await;
    for body in numbered(3_000..3_019) {
        gateway.publish(&topic, body).await;
    }
    gateway.publish(&topic, vec![b'p'; 5_000]).await;
    let deferred = gateway.post(&format!("/pub?topic={topic}&defer=20000"), "later").await.unwrap();
    assert_eq!(deferred.0, 200);
    gateway.post(&format!("/pub?topic={topic}&defer=1"), "at once").await.unwrap();
    consumer.wait_for(3_020).await;
    let (code, answer) = until(rig, &topic, "all is accounted for", |answer| {
        // The deferred one is held back, or is there by now.
        answer["totals"]["accepted"] == 3_022
            && answer["totals"]["relayed"].as_u64().unwrap_or(0) + found(answer, "held-back").1 == 3_021
            && answer["totals"]["parked"] == 1
    })
    .await;
    assert_eq!((code, &answer["verdict"]), (0, &Value::from("clean")), "{answer}");
    let held_back = found(&answer, "held-back").1;
    assert_eq!(answer["findings"].as_array().unwrap().len() as u64, held_back, "{answer}");
    // Without --until it ends two minutes ago, and nothing is old enough.
    assert_eq!(run(rig, &["verify", &topic, "-o", "json"]).status.code(), Some(0));

    // Killed in the middle of its work, the relay may double, and has told of all it committed.
    for n in 0..5 {
        gateway.publish_all(&topic, &numbered(4_000 + n * 400..4_400 + n * 400)).await;
    }
    let before = consumer.count();
    eventually("it relays", LONG, async || consumer.count() > before).await;
    blocking(|| relay.kill()).unwrap();
    assert_eq!(verify(rig, &topic, &[]).0, 0, "{}", verify(rig, &topic, &[]).1);
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &small);
    all_relayed(rig, &topic).await;
    // Killed before it has written what it accepted, the gateway leaves messages nobody accounts for.
    gateway.publish_all(&topic, &numbered(6_000..6_500)).await;
    blocking(|| gateway.process.kill()).unwrap();
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    gateway.publish_all(&topic, &numbered(7_000..7_500)).await;
    let (code, answer) = until(rig, &topic, "all is relayed", |answer| {
        // The deferred one is there by then.
        answer["totals"]["stored"] == 6_022 && answer["totals"]["pending"] == 0
    })
    .await;
    assert_eq!((code, &answer["verdict"]), (0, &Value::from("clean")), "{answer}");
    let kinds: Vec<&str> = answer["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["what"].as_str().unwrap())
        .filter(|what| !["relayed-twice", "not-accounted-for", "held-back"].contains(what))
        .collect();
    assert_eq!(kinds, [""; 0], "{answer}");
    drop(gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_and_is_not_stored_is_named() {
    let rig = shared(Line::V5);
    let topic = topic("audit.vanished");
    let name = topic.replace('.', "|");
    let gateway = Gateway::start(&rig.name_server, &["--topic-queues", "1"]).await;
    let ids = publish_with_ids(&gateway, &topic, 5).await;
    until(rig, &topic, "they are accounted for", |answer| answer["totals"]["accepted"] == 5).await;
    assert_eq!(verify(rig, &topic, &[]).0, 0);

    // Somebody deletes the topic and makes it anew.
    const DELETE_TOPIC_IN_BROKER: i32 = 215;
    let cluster = cluster(rig);
    for broker in &rig.brokers {
        let delete = Command::request(DELETE_TOPIC_IN_BROKER).field("topic", &name);
        cluster.ask(&broker.addr().to_string(), "to delete it", delete).await.unwrap();
    }
    insisting(|| cluster.create_topic(&name, 1)).await;
    gateway.publish_all(&topic, &numbered(0..3)).await;
    let (code, answer) =
        until(rig, &topic, "the later ones are accounted for", |answer| answer["totals"]["accepted"] == 8)
            .await;
    assert_eq!(code, 1, "{answer}");
    assert_eq!(found(&answer, "not-stored"), (ids.clone(), 5), "{answer}");
    let table = run(rig, &["verify", &topic, "--until", "0s"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.starts_with("LOSS ") && ids.iter().all(|id| table.contains(id)), "{table}");

    // What RocketMQ has lost cannot be brought back, and that is said.
    let nsqd = rig.nsqds[0].http_addr().to_string();
    let repair =
        run(rig, &["verify", &topic, "--until", "0s", "--repair", "--yes", "--nsqd-http-address", &nsqd]);
    assert_eq!(repair.status.code(), Some(1));
    let errors = String::from_utf8(repair.stderr).unwrap();
    assert!(errors.contains("5 messages cannot be brought back"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_relay_passed_is_named_and_brought_back() {
    let rig = shared(Line::V5);
    let nsqd = &rig.nsqds[0];
    let topic = topic("audit.passed");
    create_channel(nsqd, &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &["--topic-queues", "2"]).await;
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    let consumer = Consumer::start(&[nsqd], &topic, "ch");
    // More than any sketch could tell.
    gateway.publish_all(&topic, &numbered(0..10)).await;
    consumer.wait_for(10).await;
    all_relayed(rig, &topic).await;
    blocking(|| relay.signal("TERM").and_then(|()| relay.wait(SOON))).unwrap();
    let mut ids = publish_with_ids(&gateway, &topic, 40).await;
    gateway.publish_all(&topic, &numbered(100..400)).await;
    let cluster = cluster(rig);
    eventually("the broker shows them all", LONG, async || {
        let stats = cluster.topic_stats(&topic.replace('.', "|")).await.unwrap();
        stats.values().map(|bounds| bounds.max).sum::<i64>() == 350
    })
    .await;
    move_offsets(&cluster, &topic, |_, end| end).await;
    // A queue whose messages were left out would be held, and any may get those that come now.
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &["--on-gap", "continue"]);
    gateway.publish_all(&topic, &numbered(500..510)).await;
    consumer.wait_for(20).await;

    let (code, answer) = verify(rig, &topic, &[]);
    assert_eq!(code, 1, "{answer}");
    let (named, messages) = found(&answer, "not-relayed");
    assert_eq!(messages, 340, "{answer}");
    // The first ones of each minute are named.
    assert!(named.len() >= 50 && answer["verdict"] == "loss", "{answer}");
    let stored = crate::bridge::stored(&cluster, &topic.replace('.', "|")).await;
    let is_there = |id: &String| {
        stored.iter().any(|(_, message)| message.properties.get("UNIQ_KEY") == Some(id.as_str()))
    };
    assert!(named.iter().all(is_there));

    let address = nsqd.http_addr().to_string();
    let flags = ["verify", &topic, "--until", "0s", "--repair", "--nsqd-http-address", &address];
    let declined = run(rig, &flags);
    assert_eq!(declined.status.code(), Some(3), "where nobody can be asked nothing is done: {declined:?}");
    assert_eq!(consumer.count(), 20);
    let repaired = run(rig, &[&flags[..], &["--yes"]].concat());
    assert_eq!(repaired.status.code(), Some(0), "{repaired:?}");
    assert_eq!(consumer.wait_for(360).await.len(), 360);
    let (code, answer) = verify(rig, &topic, &["--nsqd-http-address", &address]);
    assert_eq!((code, found(&answer, "bypass").1), (0, 0), "{answer}");
    assert_eq!(answer["totals"]["relayed"], 360, "{answer}");
    ids.retain(|id| !is_there(id));
    assert_eq!(ids, [""; 0]);
}

async fn what_was_relayed_or_stored_twice_is_named(line: Line) {
    let rig = shared(line);
    let nsqd = &rig.nsqds[0];
    let topic = topic("audit.twice");
    create_channel(nsqd, &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &["--topic-queues", "1"]).await;
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    let consumer = Consumer::start(&[nsqd], &topic, "ch");
    let ids = publish_with_ids(&gateway, &topic, 6).await;
    consumer.wait_for(6).await;
    all_relayed(rig, &topic).await;
    blocking(|| relay.signal("TERM").and_then(|()| relay.wait(SOON))).unwrap();
    let cluster = cluster(rig);
    let queues = move_offsets(&cluster, &topic, |_, _| 0).await;
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &["--on-gap", "replay"]);
    consumer.wait_for(12).await;
    all_relayed(rig, &topic).await;
    let (code, answer) =
        until(rig, &topic, "they are accounted for", |answer| answer["totals"]["accepted"] == 6).await;
    assert_eq!((code, found(&answer, "relayed-twice")), (0, (ids.clone(), 6)), "{answer}");

    // A copy under the same id, as a send leaves that was answered to nobody.
    let address =
        cluster.route(&queues[0].topic).await.unwrap().master(&queues[0].broker).unwrap().to_owned();
    let accepted = nsqbridge::rocketmq::producer::unix_millis();
    let properties = format!("UNIQ_KEY\u{1}{}\u{2}nsq_accepted_ms\u{1}{accepted}\u{2}", ids[2]);
    let send = Command::request(SEND_MESSAGE_V2)
        .field("a", "p")
        .field("b", &queues[0].topic)
        .field("c", &queues[0].topic)
        .field("d", 4)
        .field("e", queues[0].id)
        .field("f", 0)
        .field("g", accepted)
        .field("h", 0)
        .field("i", properties)
        .field("j", 0)
        .field("k", false)
        .field("m", false)
        .body("copy");
    cluster.ask(&address, "to store it", send).await.unwrap();
    let (_, answer) = until(rig, &topic, "the copy is found", |answer| {
        found(answer, "stored-twice") == (vec![ids[2].clone()], 1)
    })
    .await;
    assert_eq!(answer["verdict"], "clean", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_nsqd_has_from_elsewhere_is_counted() {
    let rig = shared(Line::V5);
    let nsqd = &rig.nsqds[0];
    let topic = topic("audit.bypass");
    create_channel(nsqd, &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    gateway.publish_all(&topic, &numbered(0..100)).await;
    let given = || has(nsqd, &topic);
    eventually("nsqd has all", LONG, async || given() == 100).await;
    all_relayed(rig, &topic).await;
    let address = nsqd.http_addr().to_string();
    let flags = ["--nsqd-http-address", &address];
    let (code, answer) = verify(rig, &topic, &flags);
    assert_eq!((code, found(&answer, "bypass").1, found(&answer, "not-in-nsqd").1), (0, 0, 0), "{answer}");
    let url = format!("http://{address}/pub?topic={topic}");
    for _ in 0..3 {
        reqwest::Client::new().post(&url).body("past the gateway").send().await.unwrap();
    }
    let (code, answer) = verify(rig, &topic, &flags);
    assert_eq!((code, found(&answer, "bypass").1), (0, 3), "{answer}");

    // What nsqd forgets with its topic it had been given.
    for path in ["delete", "create"] {
        let url = format!("http://{address}/topic/{path}?topic={topic}");
        assert!(reqwest::Client::new().post(url).send().await.unwrap().status().is_success());
    }
    let (code, answer) = verify(rig, &topic, &flags);
    assert_eq!((code, found(&answer, "not-in-nsqd").1), (1, 100), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_nsqd_lost_and_was_given_again_is_expected() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() });
    let nsqd = &rig.nsqds[0];
    let topic = topic("audit.replayed");
    create_channel(nsqd, &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    gateway.publish_all(&topic, &numbered(0..300)).await;
    eventually("nsqd has all", LONG, async || has(nsqd, &topic) == 300).await;
    all_relayed(&rig, &topic).await;
    blocking(|| nsqd.kill().and_then(|()| nsqd.start_again())).unwrap();
    let (code, answer) = until(&rig, &topic, "it is given again, and all is accounted for", |answer| {
        answer["totals"]["replayed"] == 300 && answer["totals"]["accepted"] == 300
    })
    .await;
    assert_eq!((code, &answer["verdict"], &answer["totals"]["relayed"]), (0, &"clean".into(), &300.into()));
    let address = nsqd.http_addr().to_string();
    let (code, answer) = verify(&rig, &topic, &["--nsqd-http-address", &address]);
    assert_eq!((code, &answer["findings"]), (0, &Value::Array(Vec::new())), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_makes_a_doubt_and_no_loss() {
    let rig = own(Line::V5, &RigOptions { brokers: 2, nsqds: 1, ..RigOptions::default() });
    let nsqd = &rig.nsqds[0];
    let topic = topic("audit.away");
    create_channel(nsqd, &topic, "ch").await;
    // Brokers that have just started may be slow beside others.
    let flags = ["--topic-queues", "1", "--publish-timeout", "9s"];
    let gateway = Gateway::start(&rig.name_server, &flags).await;
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    // Were all the gateway has told with the broker that goes, nobody could know that anything is missing.
    let (cluster, audit) = (cluster(&rig), format!("%audit%{}", topic.replace('.', "|")));
    let mut published = 0_u64;
    eventually("both brokers have records of the gateway and the relay", LONG, async || {
        gateway.publish(&topic, "a message").await;
        published += 1;
        let stats = cluster.topic_stats(&audit).await.unwrap_or_default();
        stats.len() == 2 && stats.values().all(|bounds| bounds.max - bounds.min >= 8)
    })
    .await;
    let (code, _) = until(&rig, &topic, "all is accounted for", |answer| {
        answer["totals"]["accepted"] == published && answer["totals"]["relayed"].as_u64() >= Some(published)
    })
    .await;
    assert_eq!(code, 0);
    blocking(|| rig.brokers[1].kill()).unwrap();
    // By its name in the records that are left, or by the records that went with it.
    let (code, answer) = until(&rig, &topic, "it is missed", |answer| answer["verdict"] == "doubt").await;
    assert_eq!(code, 2, "{answer}");
}

fn has(nsqd: &Nsqd, topic: &str) -> u64 {
    let (_, stats) =
        blocking(|| http::get(nsqd.http_addr(), &format!("/stats?format=json&topic={topic}"))).unwrap();
    let stats: Value = serde_json::from_str(&stats).unwrap();
    stats["topics"][0]["message_count"].as_u64().unwrap_or(0)
}

/// What may be done with an audit topic: 4 to read it, 2 to write it.
async fn allow(rig: &Rig, cluster: &Cluster, audit: &str, permission: i32) {
    const UPDATE_AND_CREATE_TOPIC: i32 = 17;
    for broker in &rig.brokers {
        let update = Command::request(UPDATE_AND_CREATE_TOPIC)
            .field("topic", audit)
            .field("defaultTopic", "TBW102")
            .field("readQueueNums", 1)
            .field("writeQueueNums", 1)
            .field("perm", permission)
            .field("topicFilterType", "SINGLE_TAG")
            .field("topicSysFlag", 0)
            .field("order", false);
        let address = broker.addr().to_string();
        insisting(|| cluster.ask(&address, "to change it", update.clone())).await;
    }
}

const READ_ONLY: i32 = 4;
const READ_AND_WRITE: i32 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_cannot_write_its_records_goes_on_and_writes_them_later() {
    let rig = shared(Line::V5);
    let nsqd = &rig.nsqds[0];
    let topic = topic("audit.closed");
    let audit = format!("%audit%{}", topic.replace('.', "|"));
    create_channel(nsqd, &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &["--audit", "false"]).await;
    let cluster = cluster(rig);
    insisting(|| cluster.create_topic(&audit, 1)).await;
    allow(rig, &cluster, &audit, READ_ONLY).await;
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    let consumer = Consumer::start(&[nsqd], &topic, "ch");
    gateway.publish_all(&topic, &numbered(0..50)).await;
    assert_eq!(consumer.wait_for(50).await, numbered(0..50));
    // It waits for a while before it commits without a record.
    eventually("it says so", LONG, async || relay.logged().contains("an audit record is not written")).await;
    all_relayed(rig, &topic).await;
    let (code, answer) = verify(rig, &topic, &[]);
    assert_eq!(code, 2, "passed without a record, and nobody knows by whom: {answer}");
    allow(rig, &cluster, &audit, READ_AND_WRITE).await;
    let (code, answer) =
        until(rig, &topic, "its records are written", |answer| answer["totals"]["relayed"] == 50).await;
    assert_eq!((code, &answer["verdict"]), (0, &Value::from("clean")), "{answer}");
    assert_eq!(found(&answer, "not-accounted-for").1, 50, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_relay_relayed_that_ended_without_its_records_is_a_doubt_and_no_loss() {
    let rig = shared(Line::V5);
    let nsqd = &rig.nsqds[0];
    let topic = topic("audit.ended");
    let audit = format!("%audit%{}", topic.replace('.', "|"));
    create_channel(nsqd, &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &["--audit", "false"]).await;
    let cluster = cluster(rig);
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    let consumer = Consumer::start(&[nsqd], &topic, "ch");
    gateway.publish_all(&topic, &numbered(0..50)).await;
    assert_eq!(consumer.wait_for(50).await, numbered(0..50));
    until(rig, &topic, "its records are written", |answer| answer["totals"]["relayed"] == 50).await;
    blocking(|| relay.signal("TERM").and_then(|()| relay.wait(LONG))).unwrap();
    // Only who asks for the way there anew is told of it.
    allow(rig, &cluster, &audit, READ_ONLY).await;
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    gateway.publish_all(&topic, &numbered(50..100)).await;
    assert_eq!(consumer.wait_for(100).await, numbered(0..100));
    eventually("it says so", LONG, async || relay.logged().contains("an audit record is not written")).await;
    all_relayed(rig, &topic).await;
    blocking(|| relay.signal("TERM").and_then(|()| relay.wait(LONG))).unwrap();
    allow(rig, &cluster, &audit, READ_AND_WRITE).await;
    let _next = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    let (code, answer) =
        until(rig, &topic, "its end is told of", |answer| answer["verdict"] == "doubt").await;
    assert_eq!((code, found(&answer, "not-relayed").1), (2, 50), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_no_verdict() {
    let rig = shared(Line::V5);
    let nobody = run(rig, &["verify", "never.audited"]);
    assert_eq!(nobody.status.code(), Some(2), "{nobody:?}");
    assert!(String::from_utf8(nobody.stderr).unwrap().contains("--audit=true"));
    let unreachable = run(rig, &["verify", "orders", "--namesrv", "127.0.0.1:1"]);
    assert_eq!(unreachable.status.code(), Some(2), "{unreachable:?}");
    let usage = run(rig, &["verify", "orders", "--repair"]);
    assert_eq!(usage.status.code(), Some(3), "repair to where? {usage:?}");
}

on_both_lines!(a_clean_run_is_clean_whatever_was_killed, what_was_relayed_or_stored_twice_is_named,);
