//! What the gateway stamps for channels that are moved by share, and who can read it.

use std::{collections::BTreeSet, path::Path};

use bytes::Bytes;
use nsqbridge::{
    mapping::{Share, bucket},
    rocketmq::{Queue, record::StoredMessage},
};
use nsqbridge_brokers::{Line, Rig, RigOptions, Settings, rocketmq};

use crate::bridge::{Gateway, SOON, blocking, cluster, eventually, numbered, own, spooling, stored, topic};

/// One broker that filters by properties.
fn rig(line: Line) -> Rig {
    // With TLS as RocketMQ has it by default, too: whoever wants it gets it.
    let broker = Settings::new().conf("enablePropertyFilter", true).jvm("-Dtls.server.mode=permissive");
    own(line, &RigOptions { brokers: 1, nsqds: 0, broker, ..RigOptions::default() })
}

/// The bodies a share of so many percent has.
fn in_share(bodies: &[Bytes], percent: u32) -> Vec<Bytes> {
    bodies.iter().filter(|body| bucket(body) < percent).cloned().collect()
}

async fn a_stamp_goes_with_a_message_whatever_its_way(line: Line) {
    let rig = rig(line);
    let (topic, folder) = (topic("stamped"), tempfile::tempdir().unwrap());
    let share: Share = format!("{topic}/billing").parse().unwrap();
    let (at_30, at_0) = (format!("{share}=30"), format!("{share}=0"));
    let path = folder.path().display().to_string();
    let spooling = spooling(&path);
    let gateway = Gateway::start(&rig.name_server, &[&["--share", &at_30][..], &spooling].concat()).await;
    let bodies = numbered(0..600);
    for body in &bodies[..100] {
        gateway.publish(&topic, body.clone()).await;
    }
    gateway.publish_all(&topic, &bodies[100..300]).await;
    for body in &bodies[300..330] {
        let path = format!("/pub?topic={topic}&defer=1000");
        assert_eq!(gateway.post(&path, body.clone()).await.unwrap(), (200, "OK".to_owned()));
    }
    blocking(|| rig.brokers[0].kill()).unwrap();
    gateway.publish_all(&topic, &bodies[330..]).await;
    // What is spooled was decided: another gateway brings it there as it is.
    blocking(|| gateway.process.stop()).unwrap();
    drop(gateway);
    blocking(|| rig.brokers[0].start_again()).unwrap();
    let gateway = Gateway::start(&rig.name_server, &[&["--share", &at_0][..], &spooling].concat()).await;
    gateway.publish(&topic, "after").await;
    let of_topic = async || stored(&cluster(&rig), &topic.replace('.', "|")).await;
    let distinct = |stored: Vec<(Queue, StoredMessage)>| {
        stored.into_iter().map(|(_, message)| message.body).collect::<BTreeSet<_>>().len()
    };
    let all = async || distinct(of_topic().await) > bodies.len();
    eventually("everything is there", 2 * SOON, all).await;
    // A broker that is killed gives some of what it has held back once more.
    let [mut stamped, mut plain] = [BTreeSet::new(), BTreeSet::new()];
    for (_, message) in of_topic().await {
        let side = if share.is_stamped(&message.properties) { &mut stamped } else { &mut plain };
        side.insert(message.body);
    }
    println!("{} stamped, {} not", stamped.len(), plain.len());
    assert_eq!(stamped.len() + plain.len(), bodies.len() + 1, "one is stamped and not stamped, or missing");
    assert_eq!(Vec::from_iter(stamped), in_share(&bodies, 30));
}

async fn an_sql_filter_gives_a_consumer_its_share_and_no_more(line: Line) {
    let rig = rig(line);
    let topic = topic("filtered").replace('.', "-");
    let share: Share = format!("{topic}/billing").parse().unwrap();
    let gateway = Gateway::start(&rig.name_server, &["--share", &format!("{share}=25")]).await;
    let bodies = numbered(0..400);
    gateway.publish_all(&topic, &bodies[..200]).await;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bridge/clients/ByShare.java");
    let (name_server, filter) = (rig.name_server.addr().to_string(), format!("{} = '1'", share.property()));
    let arguments = [&name_server, "by-share", &topic, &filter];
    let consumer =
        blocking(|| rocketmq::run(line, &Settings::new(), source.to_str().unwrap(), &arguments)).unwrap();
    gateway.publish_all(&topic, &bodies[200..]).await;
    // What is not in the share is passed, and counts as consumed: the group has no lag.
    let lag = async || {
        let queues = cluster(&rig).consume_stats("by-share", &topic).await.unwrap_or_default();
        let read = queues.values().filter(|queue| queue.consumer_offset == queue.broker_offset).count();
        !queues.is_empty() && read == queues.len()
    };
    eventually("the consumer has read everything", 2 * SOON, lag).await;
    let log = consumer.log_text();
    let mut got: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("got ")).collect();
    got.sort_unstable();
    let expected = in_share(&bodies, 25);
    println!("{} of {} by {filter}", got.len(), bodies.len());
    assert_eq!(got, expected, "{}", consumer.log_tail());
}

on_both_lines!(
    a_stamp_goes_with_a_message_whatever_its_way,
    an_sql_filter_gives_a_consumer_its_share_and_no_more,
);
