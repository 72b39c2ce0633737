//! What nsqd will never take, and what cannot be read.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::ZlibEncoder};
use nsqbridge::rocketmq::{Cluster, codes::request, command::Command};
use nsqbridge_brokers::Line;
use serde_json::Value;

use super::{run, say};
use crate::bridge::{
    Consumer, Gateway, SOON, To, blocking, cluster, create_channel, eventually, insisting, numbered, shared,
    topic, transfer,
};

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

    // Another one has not got the topic, and then with an intake's channel alone.
    let other = rig.nsqds[1].http_addr().to_string();
    for why in ["does not have", "has the intake's channel"] {
        let refused = run(rig, &["parked", "retry", &topic, "--nsqd-http-address", &other]);
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0), "{refused:?}");
        assert!(String::from_utf8(refused.stderr).unwrap().contains(why), "{why}");
        create_channel(&rig.nsqds[1], &topic, "nsqbridge-intake").await;
    }
    assert_eq!(parked().as_array().unwrap().len(), 2);

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

/// Stores what no client of ours would send.
async fn store(cluster: &Cluster, name: &str, body: impl Into<Bytes>, properties: &str, compressed: i32) {
    let route = cluster.route(name).await.unwrap();
    let queue = &route.write_queues[0];
    let address = route.master(&queue.broker).unwrap();
    let command = Command::request(request::SEND_MESSAGE_V2)
        .field("a", "p")
        .field("b", name)
        .field("c", name)
        .field("d", 4)
        .field("e", queue.id)
        .field("f", compressed)
        .field("g", 1)
        .field("h", 0)
        .field("i", properties)
        .field("j", 0)
        .field("k", false)
        .field("m", false)
        .body(body);
    cluster.ask(address, "to store it", command).await.unwrap();
}

async fn what_rocketmq_takes_only_once_is_parked_without_it(line: Line) {
    let rig = shared(line);
    let nsqd = &rig.nsqds[0];
    let topic = topic("only-once");
    let name = topic.replace('.', "|");
    create_channel(nsqd, &topic, "ch").await;
    let cluster = cluster(rig);
    insisting(|| cluster.create_topic(&name, 1)).await;
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(&vec![b'x'; 5_000_000]).unwrap();
    store(&cluster, &name, "first", "", 0).await;
    store(&cluster, &name, zlib.finish().unwrap(), "", 1).await;
    store(&cluster, &name, "with a long property", &format!("a\x01{}\x02", "v".repeat(15 * 1024)), 0).await;
    store(&cluster, &name, "with an odd property", "a\x01b\x01c\x02", 0).await;
    store(&cluster, &name, "last", "", 0).await;
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &["--max-msg-size", "5"]);
    let consumer = Consumer::start(&[nsqd], &topic, "ch");
    assert_eq!(consumer.wait_for(2).await, ["first", "last"]);
    let mut listed = Value::Null;
    eventually("all three are parked", SOON, async || {
        listed = serde_json::from_str(&say(rig, &["parked", "list", &topic, "-o", "json"])).unwrap();
        listed["parked"].as_array().unwrap().len() == 3
    })
    .await;
    let of_size =
        |bytes: usize| listed["parked"].as_array().unwrap().iter().filter(move |one| one["bytes"] == bytes);
    assert_eq!(of_size(20).count(), 2, "{listed}");
    let large = of_size(5_000_000).next().unwrap();
    assert_eq!(large["left_at_place"], true);
    let place = large["place"].as_str().unwrap();
    let shown = run(rig, &["parked", "show", &topic, place]);
    let said = String::from_utf8(shown.stderr).unwrap();
    assert!(!shown.status.success() && said.contains("mqadmin queryMsgByOffset"), "{said}");
    blocking(|| relay.stop()).unwrap();
}

async fn a_record_that_cannot_be_read_is_parked_as_it_came(line: Line) {
    let rig = shared(line);
    let nsqd = &rig.nsqds[0];
    let topic = topic("garbled");
    let name = topic.replace('.', "|");
    create_channel(nsqd, &topic, "ch").await;
    let cluster = cluster(rig);
    insisting(|| cluster.create_topic(&name, 1)).await;
    // A flag that says "compressed" over a body that is not: a broker stores what it is given.
    let send = async |body: &'static str, compressed| store(&cluster, &name, body, "", compressed).await;
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
    let mut listed = Value::Null;
    eventually("it is listed", SOON, async || {
        listed = serde_json::from_str(&say(rig, &["parked", "list", &topic, "-o", "json"])).unwrap();
        !listed["parked"].as_array().unwrap().is_empty()
    })
    .await;
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

on_both_lines!(
    what_rocketmq_takes_only_once_is_parked_without_it,
    a_record_that_cannot_be_read_is_parked_as_it_came,
    what_nsqd_will_never_take_is_parked_and_the_rest_goes_on,
);
