//! What an nsqd had when it went reaches its consumers all the same, and nothing else is doubled for it.

use std::collections::BTreeMap;

use bytes::Bytes;
use nsqbridge_brokers::{Line, Nsqd, Rig, RigOptions};
use serde_json::Value;

use super::{depths, status};
use crate::bridge::{
    Consumer, Gateway, SOON, To, blocking, create_channel, eventually, numbered, own, topic, transfer,
};

const MESSAGES: usize = 20_000;
const CHANNELS: [&str; 2] = ["one", "two"];

async fn create_channels(nsqds: &[&Nsqd], topic: &str) {
    for nsqd in nsqds {
        for channel in CHANNELS {
            create_channel(nsqd, topic, channel).await;
        }
    }
}

/// Messages that the relays take to be in the nsqds still; `None` while one does not say.
pub(super) fn undrained(rig: &Rig, topic: &str) -> Option<u64> {
    let status = status(rig, topic);
    let instances = status["instances"].as_array().filter(|instances| !instances.is_empty())?;
    let of = |instance: &Value| {
        let nsqds = instance["report"]["nsqds"].as_array()?;
        Some(nsqds.iter().map(|nsqd| nsqd["undrained"].as_u64().unwrap()).sum::<u64>())
    };
    instances.iter().map(of).sum()
}

/// How often each message came.
fn counted(received: &[Bytes]) -> BTreeMap<Bytes, usize> {
    let mut counted = BTreeMap::new();
    for body in received {
        *counted.entry(body.clone()).or_default() += 1;
    }
    counted
}

/// Waits until a consumer has each message, and then until no more come; returns how many came twice.
async fn all_of(rig: &Rig, topic: &str, consumer: &Consumer, bodies: &[Bytes]) -> usize {
    eventually("every message is there", 2 * SOON, async || {
        counted(&consumer.received()).len() >= bodies.len()
    })
    .await;
    eventually("nothing is left in nsqd", 2 * SOON, async || undrained(rig, topic) == Some(0)).await;
    let counted = counted(&consumer.received());
    assert!(bodies.iter().all(|body| counted.contains_key(body)));
    counted.values().sum::<usize>() - bodies.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_nsqd_loses_nothing_it_held() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() });
    let nsqd = &rig.nsqds[0];
    let topic = topic("crash.ed");
    create_channels(&[nsqd], &topic).await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);

    // These are long gone when it crashes: they must not come again.
    let before = numbered(0..1_000);
    let consumers = CHANNELS.map(|channel| Consumer::start(&[nsqd], &topic, channel));
    gateway.publish_all(&topic, &before).await;
    for consumer in &consumers {
        consumer.wait_for(before.len()).await;
    }
    let lag = || status(&rig, &topic)["lag"].as_i64();
    eventually("all is committed", SOON, async || lag() == Some(0)).await;
    eventually("they are known to be gone", SOON, async || undrained(&rig, &topic) == Some(0)).await;
    drop(consumers);

    let bodies = numbered(1_000..1_000 + MESSAGES);
    gateway.publish_all(&topic, &bodies).await;
    let held = MESSAGES as u64;
    eventually("nsqd holds all", SOON, async || depths(nsqd, &topic) == (0, vec![held, held])).await;
    blocking(|| nsqd.kill()).unwrap();
    blocking(|| nsqd.start_again()).unwrap();
    let consumers = CHANNELS.map(|channel| Consumer::start(&[nsqd], &topic, channel));
    for (consumer, channel) in consumers.iter().zip(CHANNELS) {
        let doubled = all_of(&rig, &topic, consumer, &bodies).await;
        println!("{channel}: lost 0, doubled {doubled} of {MESSAGES} undrained");
        assert!(doubled <= MESSAGES);
        let again = consumer.received().iter().filter(|body| before.contains(body)).count();
        assert_eq!(again, 0, "messages that had left nsqd came again");
    }
    assert!(relay.logged().contains("relaying again what this nsqd may have lost"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nsqd_and_the_relay_that_crash_together_lose_nothing() {
    let rig = own(Line::V4, &RigOptions { brokers: 1, nsqds: 2, ..RigOptions::default() });
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let topic = topic("both.crashed");
    create_channels(&nsqds, &topic).await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &[]);
    let bodies = numbered(0..MESSAGES);
    gateway.publish_all(&topic, &bodies).await;
    let waiting = |nsqd: &Nsqd| depths(nsqd, &topic).1.iter().sum::<u64>();
    eventually("the nsqds hold all", SOON, async || {
        nsqds.iter().map(|nsqd| waiting(nsqd)).sum::<u64>() == 2 * MESSAGES as u64
    })
    .await;
    let share = waiting(nsqds[0]) / 2;
    assert!(share > 0, "the first nsqd got nothing");
    let lag = || status(&rig, &topic)["lag"].as_i64();
    eventually("all is committed", SOON, async || lag() == Some(0)).await;
    blocking(|| relay.kill()).unwrap();
    blocking(|| nsqds[0].kill()).unwrap();
    blocking(|| nsqds[0].start_again()).unwrap();
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &[]);
    let consumers = CHANNELS.map(|channel| Consumer::start(&nsqds, &topic, channel));
    for (consumer, channel) in consumers.iter().zip(CHANNELS) {
        let doubled = all_of(&rig, &topic, consumer, &bodies).await;
        println!("{channel}: lost 0, doubled {doubled}; the crashed nsqd held {share} of {MESSAGES}");
        assert!(doubled as u64 <= share, "more came again than the crashed nsqd had");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_nsqd_had_that_never_comes_back_goes_to_another() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 2, ..RigOptions::default() });
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let topic = topic("gone");
    create_channels(&nsqds, &topic).await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let flags = ["--nsqd-gone-after", "3s"];
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &flags);
    let consumers = CHANNELS.map(|channel| Consumer::start(&nsqds[1..], &topic, channel));
    let bodies = numbered(0..2_000);
    for some in bodies.chunks(100) {
        gateway.publish_all(&topic, some).await;
    }
    let of_the_first = || depths(nsqds[0], &topic).1[0];
    let all_there = async || consumers[0].count() as u64 + of_the_first() == bodies.len() as u64;
    eventually("all is in the nsqds", SOON, all_there).await;
    assert!(of_the_first() > 0, "the first nsqd got nothing");
    blocking(|| nsqds[0].kill()).unwrap();
    for consumer in &consumers {
        let doubled = all_of(&rig, &topic, consumer, &bodies).await;
        assert_eq!(doubled, 0, "the other nsqd's messages came again");
    }
}
