//! The relay as an operator runs it: many topics, many instances, nsqds that come, go and fill up.

use std::{
    collections::BTreeSet,
    process::{Command, Output},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use nsqbridge_brokers::{Line, Nsqd, Rig, RigOptions, http, rocketmq::Settings};
use serde_json::Value;

use crate::bridge::{
    Consumer, Gateway, Program, SOON, To, blocking, cluster, create_channel, eventually, numbered, own,
    shared, topic, transfer,
};

fn run(rig: &Rig, arguments: &[&str]) -> Output {
    let name_server = rig.name_server.addr().to_string();
    let run = || {
        Command::new(env!("CARGO_BIN_EXE_nsqbridge"))
            .args(arguments)
            .env_clear()
            .env("NAMESRV_ADDR", &name_server)
            .output()
    };
    blocking(run).unwrap()
}

/// What `nsqbridge ...` says, which must succeed.
fn say(rig: &Rig, arguments: &[&str]) -> String {
    let output = run(rig, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn status(rig: &Rig, topic: &str) -> Value {
    let all: Value = serde_json::from_str(&say(rig, &["status", topic, "-o", "json"])).unwrap();
    all["topics"][0].clone()
}

/// Messages waiting in a topic and in each of its channels.
fn depths(nsqd: &Nsqd, topic: &str) -> (u64, Vec<u64>) {
    let (_, stats) =
        blocking(|| http::get(nsqd.http_addr(), &format!("/stats?format=json&topic={topic}"))).unwrap();
    let stats: Value = serde_json::from_str(&stats).unwrap();
    let depth = |value: &Value| value["depth"].as_u64().unwrap();
    let Some(topic) = stats["topics"].get(0) else { return (0, Vec::new()) };
    (depth(topic), topic["channels"].as_array().unwrap().iter().map(depth).collect())
}

async fn what_nsqd_will_never_take_is_parked_and_the_rest_goes_on(line: Line) {
    let rig = shared(line);
    let nsqd = &rig.nsqds[0];
    let topic = topic("parked");
    create_channel(nsqd, &topic, "ch").await;
    let gateway =
        Gateway::start(&rig.name_server, &["--max-msg-size", "4194304", "--topic-queues", "1"]).await;
    let (large, larger) = (vec![b'l'; 5_000], vec![b'L'; 2_000_000]);
    for body in [b"first".to_vec(), large.clone(), b"second".to_vec(), larger.clone(), b"third".to_vec()] {
        gateway.publish(&topic, body).await;
    }
    // 5,000 bytes are beyond what the relay was told; two million beyond what nsqd takes, which it finds out.
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &["--max-msg-size", "4999"]);
    let consumer = Consumer::start(&[nsqd], &topic, "ch");
    assert_eq!(consumer.wait_for(3).await, ["first", "second", "third"].map(Bytes::from));
    let parked = || -> Value {
        let listed: Value =
            serde_json::from_str(&say(rig, &["parked", "list", &topic, "-o", "json"])).unwrap();
        listed["parked"].clone()
    };
    eventually("both are parked", SOON, async || parked().as_array().unwrap().len() == 2).await;
    let listed = parked();
    let of_size = |bytes: usize| listed.as_array().unwrap().iter().find(|one| one["bytes"] == bytes).unwrap();
    assert_eq!(of_size(5_000)["reason"], "5000 bytes, nsqd takes 4999");
    let place = of_size(2_000_000)["place"].as_str().unwrap();
    let shown = run(rig, &["parked", "show", &topic, place]);
    assert_eq!(shown.stdout, larger, "the body as it was");
    let table = say(rig, &["parked", "list", &topic]);
    assert!(table.starts_with("PLACE ") && table.lines().count() == 3, "{table}");
    blocking(|| relay.stop()).unwrap();

    // nsqd takes one of them after all, and still not the other.
    let address = nsqd.http_addr().to_string();
    let retried = run(rig, &["parked", "retry", &topic, "--nsqd-http-address", &address]);
    assert_eq!(retried.status.code(), Some(1), "{retried:?}");
    assert!(String::from_utf8(retried.stderr).unwrap().contains("stays parked"));
    // The two may lie in one queue, the larger first.
    if retried.stdout == b"1 relayed\n" {
        consumer.wait_for(4).await;
        assert!(consumer.received().contains(&Bytes::from(large)));
        assert_eq!(parked().as_array().unwrap().len(), 1, "what was relayed is no longer listed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_nsqd_refuses_is_taken_apart() {
    let rig = shared(Line::V5);
    let nsqd = &rig.nsqds[0];
    let topic = topic("apart");
    create_channel(nsqd, &topic, "ch").await;
    let gateway =
        Gateway::start(&rig.name_server, &["--max-msg-size", "4194304", "--topic-queues", "1"]).await;
    let mut bodies = numbered(0..50);
    gateway.publish_all(&topic, &bodies).await;
    gateway.publish(&topic, vec![b'x'; 1_048_577]).await;
    bodies.extend(numbered(50..100));
    gateway.publish_all(&topic, &bodies[50..]).await;
    // Told that nsqd takes more than it does: nsqd itself has to refuse.
    let flags = ["--max-msg-size", "4000000"];
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &flags);
    let consumer = Consumer::start(&[nsqd], &topic, "ch");
    assert_eq!(consumer.wait_for(100).await, bodies);
    eventually("one is parked", SOON, async || say(rig, &["parked", "list", &topic]).contains("MSG_TOO_BIG"))
        .await;
    drop(relay);
}

async fn a_record_that_cannot_be_read_is_parked_as_it_came(line: Line) {
    let rig = shared(line);
    let nsqd = &rig.nsqds[0];
    let topic = topic("garbled");
    let name = topic.replace('.', "|");
    create_channel(nsqd, &topic, "ch").await;
    let cluster = cluster(rig);
    cluster.create_topic(&name, 1).await.unwrap();
    let route = cluster.route(&name).await.unwrap();
    let queue = route.write_queues[0].clone();
    let address = route.master(&queue.broker).unwrap().to_owned();
    // A flag that says "compressed" over a body that is not: a broker stores what it is given.
    let send = async |body: &'static str, compressed: i32| {
        let command = nsqbridge::rocketmq::command::Command::request(
            nsqbridge::rocketmq::codes::request::SEND_MESSAGE_V2,
        )
        .field("a", "p")
        .field("b", &name)
        .field("c", &name)
        .field("d", 4)
        .field("e", queue.id)
        .field("f", compressed)
        .field("g", 1)
        .field("h", 0)
        .field("i", "")
        .field("j", 0)
        .field("k", false)
        .field("m", false)
        .body(body);
        cluster.ask(&address, "to store it", command).await.unwrap();
    };
    send("before", 0).await;
    send("not zlib at all", 1).await;
    send("after", 0).await;
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &["--on-unreadable", "hold"]);
    let consumer = Consumer::start(&[nsqd], &topic, "ch");
    consumer.wait_for(1).await;
    eventually("the queue is held", SOON, async || relay.logged().contains("queue held")).await;
    blocking(|| relay.signal("TERM").and_then(|()| relay.wait(SOON))).unwrap();
    assert_eq!(consumer.received(), ["before"]);

    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    consumer.wait_for(2).await;
    assert_eq!(consumer.received(), ["before", "after"]);
    let listed: Value = serde_json::from_str(&say(rig, &["parked", "list", &topic, "-o", "json"])).unwrap();
    let one = &listed["parked"][0];
    assert_eq!((&one["unreadable"], listed["parked"].as_array().unwrap().len()), (&Value::Bool(true), 1));
    let place = one["place"].as_str().unwrap();
    let record = run(rig, &["parked", "show", &topic, place]).stdout;
    assert!(record.windows(15).any(|part| part == b"not zlib at all"), "the whole record");
    let retried =
        run(rig, &["parked", "retry", &topic, "--nsqd-http-address", &nsqd.http_addr().to_string()]);
    assert!(String::from_utf8(retried.stderr).unwrap().contains("cannot be read"));
    say(rig, &["parked", "drop", &topic, place]);
    eventually("it is no longer listed", SOON, async || {
        say(rig, &["parked", "list", &topic, "-o", "json"]).contains("[]")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nsqds_join_leave_and_are_left_out() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 2, ..RigOptions::default() });
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let topic = topic("fleet");
    blocking(|| nsqds[1].stop()).unwrap();
    create_channel(nsqds[0], &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let relay = transfer(&rig.name_server, &topic, &To::Lookupd(&rig.nsqlookupd), &[]);
    let count = |nsqd: &Nsqd| depths(nsqd, &topic).1.first().copied().unwrap_or_default();
    let mut published = 0;
    let mut publish = async || {
        for _ in 0..20 {
            gateway.publish_all(&topic, &numbered(published..published + 10)).await;
            published += 10;
        }
        published as u64
    };
    let total = publish().await;
    eventually("all in the first", SOON, async || count(nsqds[0]) == total).await;

    // It joins with the topic, and gets the channel before its first message.
    blocking(|| nsqds[1].start_again()).unwrap();
    let url = format!("http://{}/topic/create?topic={topic}", nsqds[1].http_addr());
    assert_eq!(reqwest::Client::new().post(url).send().await.unwrap().status(), 200);
    eventually("it has the channel", SOON, async || depths(nsqds[1], &topic).1 == [0]).await;
    eventually("the second gets its part", SOON, async || {
        publish().await;
        count(nsqds[1]) > 0
    })
    .await;
    let total = publish().await;
    eventually("all are there", SOON, async || count(nsqds[0]) + count(nsqds[1]) == total).await;

    // Tombstoned, it gets nothing more.
    let node = nsqds[1].http_addr();
    let url = format!("http://{}/topic/tombstone?topic={topic}&node={node}", rig.nsqlookupd.http_addr());
    assert_eq!(reqwest::Client::new().post(url).send().await.unwrap().status(), 200);
    eventually("it is no longer a destination", SOON, async || {
        relay.logged().contains("no longer a destination")
    })
    .await;
    let before = count(nsqds[1]);
    let total = publish().await;
    eventually("all are there", SOON, async || count(nsqds[0]) + count(nsqds[1]) == total).await;
    assert_eq!(count(nsqds[1]), before);
    blocking(|| relay.signal("TERM").and_then(|()| relay.wait(SOON))).unwrap();

    // Left out by name, though it is listed.
    let first = nsqds[0].http_addr().to_string();
    // So is one that does not run at all.
    let flags = ["--leave-out", &first, "--nsqd-http-address", "127.0.0.1:1", "--leave-out", "127.0.0.1:1"];
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &flags);
    let before = count(nsqds[0]);
    let total = publish().await;
    eventually("all are there", SOON, async || count(nsqds[0]) + count(nsqds[1]) == total).await;
    assert_eq!(count(nsqds[0]), before);
}

async fn a_full_nsqd_gets_no_more_and_status_says_why(line: Line) {
    let rig = shared(line);
    let nsqd = &rig.nsqds[0];
    let topic = topic("full");
    create_channel(nsqd, &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let bodies = numbered(0..20_000);
    for part in bodies.chunks(5_000) {
        gateway.publish_all(&topic, part).await;
    }
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &["--max-depth", "500"]);
    let said =
        || status(rig, &topic)["instances"][0]["report"]["waiting"].as_str().unwrap_or_default().to_owned();
    eventually("status says why it waits", SOON, async || {
        said().contains(&format!("{}: depth ", nsqd.http_addr())) && said().contains("of at most 500")
    })
    .await;
    let table = say(rig, &["status", &topic]);
    assert!(table.contains("waiting: ") && table.contains(" of at most 500"), "{table}");
    let (_, channels) = depths(nsqd, &topic);
    println!("depth {channels:?} of at most 500");
    // A batch or two come on top, and a queue's batch may have all of its 1,250.
    assert!(channels[0] < 6_000, "{channels:?}");
    let consumer = Consumer::start(&[nsqd], &topic, "ch");
    assert_eq!(consumer.wait_for(bodies.len()).await, bodies);
    eventually("all is relayed", SOON, async || status(rig, &topic)["lag"] == 0).await;
}

async fn a_relay_is_paused_resumed_and_slowed_down_from_anywhere(line: Line) {
    let rig = shared(line);
    let nsqd = &rig.nsqds[0];
    let topic = topic("pace");
    create_channel(nsqd, &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    gateway.publish(&topic, "before").await;
    let _relays: Vec<Program> =
        (0..2).map(|_| transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[])).collect();
    let consumer = Consumer::start(&[nsqd], &topic, "ch");
    consumer.wait_for(1).await;
    eventually("both instances are seen", SOON, async || {
        status(rig, &topic)["instances"].as_array().unwrap().len() == 2
            && status(rig, &topic)["unowned_queues"] == 0
    })
    .await;
    let told = say(rig, &["relay", "pause", &topic]);
    assert_eq!(told.matches(": paused").count(), 2, "{told}");
    gateway.publish_all(&topic, &numbered(0..100)).await;
    eventually("status says it is paused", SOON, async || {
        say(rig, &["status", &topic]).matches("waiting: paused").count() == 2
            && status(rig, &topic)["lag"] == 100
    })
    .await;
    assert_eq!(consumer.count(), 1);
    say(rig, &["relay", "rate", &topic, "200"]);
    say(rig, &["relay", "resume", &topic]);
    consumer.wait_for(101).await;
    assert!(say(rig, &["relay", "rate", &topic, "0"]).contains("relaying"));
    let nobody = run(rig, &["relay", "pause", "nobody.relays.this"]);
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
}

async fn a_channel_that_comes_up_in_the_middle_misses_nothing_from_then_on(line: Line) {
    let rig = own(line, &RigOptions { brokers: 1, nsqds: 2, ..RigOptions::default() });
    let topic = topic("middle");
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    create_channel(nsqds[0], &topic, "old").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &[]);
    let old = Consumer::start(&nsqds, &topic, "old");
    gateway.publish_all(&topic, &numbered(0..1_000)).await;
    old.wait_for(1_000).await;
    create_channel(nsqds[1], &topic, "new").await;
    eventually("the other nsqd has it, too", SOON, async || depths(nsqds[0], &topic).1.len() == 2).await;
    gateway.publish_all(&topic, &numbered(1_000..3_000)).await;
    let new = Consumer::start(&nsqds, &topic, "new");
    assert_eq!(new.wait_for(2_000).await, numbered(1_000..3_000));
    assert_eq!(old.wait_for(3_000).await, numbered(0..3_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_comes_up_on_the_only_nsqd_stops_nothing() {
    let rig = shared(Line::V5);
    let nsqd = &rig.nsqds[0];
    let topic = topic("only");
    create_channel(nsqd, &topic, "old").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    let old = Consumer::start(&[nsqd], &topic, "old");
    gateway.publish(&topic, "0").await;
    old.wait_for(1).await;
    let new = Consumer::start(&[nsqd], &topic, "new");
    eventually("it is there", SOON, async || depths(nsqd, &topic).1.len() == 2).await;
    for n in 1..200 {
        gateway.publish(&topic, n.to_string()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    old.wait_for(200).await;
    new.wait_for(199).await;
    assert!(!relay.logged().contains("channel created"), "it came up by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nsqd_replaced_by_an_empty_one_gets_its_channels_before_its_first_message() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() });
    let nsqd = &rig.nsqds[0];
    let topic = topic("replaced");
    for channel in ["one", "two"] {
        create_channel(nsqd, &topic, channel).await;
    }
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    for round in 0..3 {
        let channels = ["one", "two"].map(|channel| Consumer::start(&[nsqd], &topic, channel));
        let bodies = numbered(round * 500..(round + 1) * 500);
        gateway.publish_all(&topic, &bodies).await;
        for consumer in &channels {
            assert_eq!(consumer.wait_for(500).await, bodies, "round {round}");
        }
        // Nobody consumes while it is away: a consumer that is back first would bring its channel along.
        drop(channels);
        blocking(|| nsqd.kill()).unwrap();
        for entry in std::fs::read_dir(nsqd.folder()).unwrap().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "dat") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        gateway.publish_all(&topic, &numbered(10_000..10_100)).await;
        blocking(|| nsqd.start_again()).unwrap();
        eventually("both channels have what was published meanwhile", SOON, async || {
            depths(nsqd, &topic) == (0, vec![100, 100])
        })
        .await;
        let channels = ["one", "two"].map(|channel| Consumer::start(&[nsqd], &topic, channel));
        for consumer in &channels {
            consumer.wait_for(100).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_topics_are_relayed_by_one_process_that_finds_them() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() });
    let nsqd = &rig.nsqds[0];
    let gateway = Gateway::start(&rig.name_server, &["--topic-queues", "1"]).await;
    let name = |n: usize| format!("many.{n:03}");
    let begin = async |range: std::ops::Range<usize>| {
        for n in range {
            create_channel(nsqd, &name(n), "ch").await;
            gateway.publish(&name(n), format!("{n} first")).await;
        }
    };
    begin(0..150).await;
    gateway.publish("other", "not matched").await;
    let mut arguments: Vec<String> =
        ["transfer", "--admin-address", "", "--topic-pattern", "many[.][0-9]+", "--namesrv"]
            .map(str::to_owned)
            .into();
    arguments.extend([
        rig.name_server.addr().to_string(),
        "--nsqd-http-address".to_owned(),
        nsqd.http_addr().to_string(),
    ]);
    let relay = Program::start("transfer", &arguments);
    begin(150..200).await;
    let relayed = async |each: u64| {
        eventually(&format!("{each} of each topic"), 3 * SOON, async || {
            let (_, stats) = blocking(|| http::get(nsqd.http_addr(), "/stats?format=json")).unwrap();
            let stats: Value = serde_json::from_str(&stats).unwrap();
            let counts =
                stats["topics"].as_array().unwrap().iter().map(|topic| topic["message_count"].as_u64());
            counts.filter(|count| *count == Some(each)).count() == 200
        })
        .await;
    };
    relayed(1).await;
    join_all((0..200).map(|n| {
        let gateway = &gateway;
        async move { gateway.publish(&name(n), format!("{n} second")).await }
    }))
    .await;
    relayed(2).await;
    let (_, stats) = blocking(|| http::get(nsqd.http_addr(), "/stats?format=json")).unwrap();
    assert!(!stats.contains("\"other\""), "not matched by the pattern");
    relay.signal("TERM").unwrap();
    assert_eq!(blocking(|| relay.wait(SOON)).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_nsqd_holds_up_nobody_else() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 2, ..RigOptions::default() });
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let topic = topic("slow");
    create_channel(nsqds[0], &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &[]);
    let consumer = Consumer::start(&nsqds, &topic, "ch");
    gateway.publish_all(&topic, &numbered(0..500)).await;
    consumer.wait_for(500).await;
    blocking(|| rig.nsqds[0].pause()).unwrap();
    for n in 5..10 {
        gateway.publish_all(&topic, &numbered(n * 100..(n + 1) * 100)).await;
    }
    // What was on its way to the frozen one is relayed to the other when its time is up.
    let all = async |count: usize| {
        eventually("all are received", SOON, async || {
            consumer.received().into_iter().collect::<BTreeSet<_>>().len() == count
        })
        .await;
    };
    all(1_000).await;
    let started = std::time::Instant::now();
    for n in 10..30 {
        gateway.publish_all(&topic, &numbered(n * 100..(n + 1) * 100)).await;
    }
    all(3_000).await;
    println!("2,000 messages in {:?} with one of two nsqds frozen", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    blocking(|| rig.nsqds[0].resume()).unwrap();
    gateway.publish_all(&topic, &numbered(3_000..4_000)).await;
    all(4_000).await;
}

async fn an_ordered_queue_stays_in_order(line: Line) {
    let rig = shared(line);
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let topic = topic("ordered");
    // On one broker only: a topic with one queue.
    let cluster = cluster(rig);
    let name = topic.replace('.', "|");
    cluster.create_topic(&name, 1).await.unwrap();
    let queue = cluster.route(&name).await.unwrap().write_queues[0].clone();
    let producer = nsqbridge::rocketmq::Producer::new(cluster.clone(), "ordered");
    for n in 0..600 {
        let message = crate::scripted::message(format!("{n:04}").as_bytes());
        let sent = producer.send(&queue, &[message], SOON).await;
        assert!(matches!(sent, nsqbridge::rocketmq::Outcome::Delivered(_)), "{sent:?}");
    }
    create_channel(nsqds[0], &topic, "ch").await;
    let consumer = Consumer::start(&nsqds, &topic, "ch");
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &["--ordered"]);
    consumer.wait_for(600).await;
    let expected: Vec<Bytes> = (0..600).map(|n| Bytes::from(format!("{n:04}"))).collect();
    assert_eq!(consumer.received(), expected, "as stored");
}

async fn messages_that_expired_are_named_and_the_policy_is_followed(line: Line) {
    let broker = Settings::new()
        .conf("mapedFileSizeCommitLog", 65_536)
        .conf("mappedFileSizeCommitLog", 65_536)
        .conf("fileReservedTime", 0)
        .conf("deleteCommitLogFilesInterval", 10)
        .conf("destroyMapedFileIntervalForcibly", 100);
    let rig = own(line, &RigOptions { brokers: 1, nsqds: 1, broker, ..RigOptions::default() });
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let topic = topic("expired");
    let name = topic.replace('.', "|");
    create_channel(nsqds[0], &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &["--topic-queues", "1"]).await;
    let body = |n: usize| format!("{n:04}{}", "x".repeat(10_000));
    gateway.publish(&topic, body(0)).await;
    let first = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &[]);
    let consumer = Consumer::start(&nsqds, &topic, "ch");
    consumer.wait_for(1).await;
    eventually("it is committed", SOON, async || status(&rig, &topic)["lag"] == 0).await;
    blocking(|| first.signal("TERM").and_then(|()| first.wait(SOON))).unwrap();
    for n in 1..60 {
        gateway.publish(&topic, body(n)).await;
    }
    let cluster = cluster(&rig);
    let broker = rig.brokers[0].addr().to_string();
    let bounds = async || *cluster.topic_stats(&name).await.unwrap().values().next().unwrap();
    eventually("the oldest have expired", 3 * SOON, async || {
        const DELETE_EXPIRED_COMMITLOG: i32 = 329;
        let command = nsqbridge::rocketmq::command::Command::request(DELETE_EXPIRED_COMMITLOG);
        let _ = cluster.request(&broker, command, SOON).await;
        bounds().await.min > 1
    })
    .await;
    let holding = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &[]);
    eventually("the queue is held, with the range", SOON, async || {
        let log = holding.logged();
        log.contains("queue held") && log.contains("the messages 1 to ") && log.contains("--on-gap continue")
    })
    .await;
    eventually("status says so", SOON, async || say(&rig, &["status", &topic]).contains("HELD 1 queues"))
        .await;
    assert_eq!(consumer.count(), 1);
    blocking(|| holding.signal("TERM").and_then(|()| holding.wait(SOON))).unwrap();
    let min = bounds().await.min as usize;
    let going_on = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &["--on-gap", "continue"]);
    let received = consumer.wait_for(1 + 60 - min).await;
    assert_eq!(received[1..], (min..60).map(|n| Bytes::from(body(n))).collect::<Vec<_>>());
    assert!(going_on.logged().contains(&format!("missed={}", min - 1)), "{}", going_on.logged());
}

/// Peak of resident memory, in bytes.
fn peak(process: &Program) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn five_million_messages_of_backlog_take_no_more_memory_than_few() {
    const BACKLOG: usize = 5_000_000;
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() });
    let nsqd = &rig.nsqds[0];
    let topic = topic("backlog");
    create_channel(nsqd, &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let started = std::time::Instant::now();
    let path = format!("/mpub?topic={topic}");
    let lines = |n: usize| (n..n + 10_000).map(|n| format!("message {n:07}\n")).collect::<String>();
    for n in (0..BACKLOG).step_by(40_000) {
        let posts = (0..4).map(|part| gateway.post(&path, lines(n + part * 10_000)));
        for answer in join_all(posts).await {
            assert_eq!(answer.unwrap().0, 200);
        }
    }
    let published = started.elapsed();
    let gateway_peak = peak(&gateway.process);
    let started = std::time::Instant::now();
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    eventually("all of it is in nsqd", 10 * SOON, async || depths(nsqd, &topic).1 == [BACKLOG as u64]).await;
    let relayed = started.elapsed();
    let relay_peak = peak(&relay);
    println!(
        "{BACKLOG} messages: published in {published:.0?}, relayed in {relayed:.0?}; peak memory of the gateway {} MiB, of the \
         relay {} MiB",
        gateway_peak >> 20,
        relay_peak >> 20
    );
    assert!(relay_peak < 300 << 20, "{relay_peak}");
    assert!(gateway_peak < 300 << 20, "{gateway_peak}");
}

async fn instances_come_and_go_under_load(line: Line) {
    let rig = shared(line);
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let topic = topic("scaled");
    create_channel(nsqds[0], &topic, "ch").await;
    let gateway = std::sync::Arc::new(Gateway::start(&rig.name_server, &[]).await);
    let consumer = Consumer::start(&nsqds, &topic, "ch");
    let loading = tokio::spawn({
        let (gateway, topic) = (std::sync::Arc::clone(&gateway), topic.clone());
        async move {
            let mut published = 0;
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            for _ in 0..1_500 {
                pace.tick().await;
                gateway.publish_all(&topic, &numbered(published..published + 20)).await;
                published += 20;
            }
            published
        }
    });
    let start = || transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &[]);
    eventually("the topic is there", SOON, async || {
        cluster(rig).route(&topic.replace('.', "|")).await.is_ok()
    })
    .await;
    let mut relays = vec![start()];
    let shares = |relays: usize| {
        let status = status(rig, &topic);
        let instances = status["instances"].as_array().unwrap().clone();
        let queues = |one: &Value| one["report"]["queues"].as_array().map_or(0, Vec::len);
        instances.len() == relays
            && status["unowned_queues"] == 0
            && instances.iter().all(|one| queues(one) > 0)
    };
    eventually("one relays all", SOON, async || shares(1)).await;
    relays.extend([start(), start()]);
    eventually("three share", SOON, async || shares(3)).await;
    for relay in relays.drain(..2) {
        relay.signal("TERM").unwrap();
        assert_eq!(blocking(|| relay.wait(SOON)).unwrap(), 0);
    }
    eventually("the last one has all", SOON, async || shares(1)).await;
    let published = loading.await.unwrap();
    assert_eq!(consumer.wait_for(published).await, numbered(0..published), "each once, none lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_freezes_past_its_lease_relays_nothing_more() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() });
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let topic = topic("frozen");
    create_channel(nsqds[0], &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &["--topic-queues", "4"]).await;
    gateway.publish(&topic, "warm").await;
    let consumer = Consumer::start(&nsqds, &topic, "ch");
    let start = || transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &["--log-level", "debug"]);
    let relays = [start(), start()];
    let queues_of = || -> Vec<usize> {
        let status = status(&rig, &topic);
        let instances = status["instances"].as_array().unwrap().clone();
        instances.iter().map(|one| one["report"]["queues"].as_array().map_or(0, Vec::len)).collect()
    };
    eventually("each has two queues", SOON, async || queues_of() == [2, 2]).await;
    blocking(|| relays[0].pause()).unwrap();
    let mut published = 0;
    let mut publish = async |more: usize| {
        gateway.publish_all(&topic, &numbered(published..published + more)).await;
        published += more;
        published
    };
    // Without its renewals the locks end after a minute, and the other instance takes over.
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_secs(100) && consumer.count() < publish(20).await {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if started.elapsed() > Duration::from_secs(70) {
            break;
        }
    }
    let total = publish(20).await;
    consumer.wait_for(total + 1).await;
    blocking(|| relays[0].resume()).unwrap();
    let total = publish(2_000).await;
    consumer.wait_for(total + 1).await;
    eventually("both share again", SOON, async || queues_of() == [2, 2]).await;
    let total = publish(2_000).await;
    consumer.wait_for(total + 1).await;
    let received = consumer.received();
    let distinct: BTreeSet<_> = received.iter().cloned().collect();
    let doubled = received.len() - distinct.len();
    println!("{} received, {doubled} doubled by an owner frozen for {:?}", received.len(), started.elapsed());
    assert_eq!(distinct.len(), total + 1);
    // At most what was on its way when it froze: two batches a queue.
    assert!(doubled <= 2 * 2 * 20, "{doubled}");
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_are_added_and_removed_while_it_runs() {
    let rig = own(Line::V5, &RigOptions { brokers: 2, nsqds: 1, ..RigOptions::default() });
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let topic = topic("moving");
    let name = topic.replace('.', "|");
    create_channel(nsqds[0], &topic, "ch").await;
    let cluster = cluster(&rig);
    blocking(|| rig.brokers[1].stop()).unwrap();
    eventually("one broker is left", SOON, async || {
        cluster.brokers().await.is_ok_and(|brokers| brokers.len() == 1)
    })
    .await;
    let gateway = Gateway::start(&rig.name_server, &["--topic-queues", "2"]).await;
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &[]);
    let consumer = Consumer::start(&nsqds, &topic, "ch");
    gateway.publish_all(&topic, &numbered(0..500)).await;
    consumer.wait_for(500).await;

    blocking(|| rig.brokers[1].start_again()).unwrap();
    eventually("it is back", SOON, async || cluster.brokers().await.is_ok_and(|brokers| brokers.len() == 2))
        .await;
    cluster.create_topic(&name, 2).await.unwrap();
    eventually("its queues are relayed", SOON, async || {
        let status = status(&rig, &topic);
        status["instances"][0]["report"]["queues"].as_array().is_some_and(|queues| queues.len() == 4)
    })
    .await;
    for n in 0..50 {
        gateway.publish_all(&topic, &numbered(500 + n * 10..510 + n * 10)).await;
    }
    consumer.wait_for(1_000).await;
    eventually("nothing waits anywhere", SOON, async || status(&rig, &topic)["lag"] == 0).await;
    blocking(|| rig.brokers[0].stop()).unwrap();
    for n in 0..50 {
        let body = numbered(1_000 + n..1_001 + n).remove(0);
        eventually("it is taken", SOON, async || {
            gateway
                .post(&format!("/pub?topic={topic}"), body.clone())
                .await
                .is_ok_and(|(status, _)| status == 200)
        })
        .await;
    }
    let received: BTreeSet<_> = consumer.wait_for(1_050).await.into_iter().collect();
    assert_eq!(received.into_iter().collect::<Vec<_>>(), numbered(0..1_050));
}

on_both_lines!(
    a_record_that_cannot_be_read_is_parked_as_it_came,
    an_ordered_queue_stays_in_order,
    messages_that_expired_are_named_and_the_policy_is_followed,
    what_nsqd_will_never_take_is_parked_and_the_rest_goes_on,
    a_full_nsqd_gets_no_more_and_status_says_why,
    a_relay_is_paused_resumed_and_slowed_down_from_anywhere,
    a_channel_that_comes_up_in_the_middle_misses_nothing_from_then_on,
    instances_come_and_go_under_load,
);
