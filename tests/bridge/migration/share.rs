//! A channel moved by share: its two consumers together have every message, each of them once, and each what was decided.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use nsqbridge::mapping::{Share, bucket};
use nsqbridge_brokers::{Line, Nsqd, Rig, RigOptions};
use tokio::task::JoinHandle;

use super::{CHANNELS, GroupConsumer, Ledger, Stage, counted, doubled};
use crate::bridge::{
    Consumer, Gateway, SOON, blocking, cluster, create_topic, eventually, numbered, own, shared, stored,
};

fn share_of(path: &str) -> Share {
    path.parse().unwrap()
}

/// A gateway whose name says what its share is.
pub async fn gateway(rig: &Rig, path: &str, percent: u8) -> Arc<Gateway> {
    let (name, share) = (format!("at-{percent}"), format!("{path}={percent}"));
    // Brokers that are busy with other tests may take longer than a publish has.
    let flags = ["--broadcast-address", &name, "--share", &share, "--publish-timeout", "9s"];
    Arc::new(Gateway::start(&rig.name_server, &flags).await)
}

/// A producer that goes from gateway to gateway, as they are there.
struct Producer {
    gateways: Arc<Mutex<Vec<Arc<Gateway>>>>,
    sent: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    running: JoinHandle<()>,
}

impl Producer {
    fn start(topic: &str, gateways: Vec<Arc<Gateway>>) -> Self {
        let gateways = Arc::new(Mutex::new(gateways));
        let (sent, stop) = <(Arc<AtomicUsize>, Arc<AtomicBool>)>::default();
        let (theirs, counted, stopped) = (Arc::clone(&gateways), Arc::clone(&sent), Arc::clone(&stop));
        let topic = topic.to_owned();
        let running = tokio::spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(50));
            for turn in 0.. {
                pace.tick().await;
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let gateway = {
                    let gateways = theirs.lock().unwrap();
                    Arc::clone(&gateways[turn % gateways.len()])
                };
                let from = counted.load(Ordering::SeqCst);
                gateway.publish_all(&topic, &numbered(from..from + 20)).await;
                counted.fetch_add(20, Ordering::SeqCst);
            }
        });
        Self { gateways, sent, stop, running }
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    async fn sends(&self, messages: usize) {
        let from = self.sent();
        eventually("messages are published", SOON, async || self.sent() >= from + messages).await;
    }

    /// Puts another gateway in the place of one, which is stopped when it has answered what it has begun.
    async fn replace(&self, place: usize, with: Arc<Gateway>) {
        let before = std::mem::replace(&mut self.gateways.lock().unwrap()[place], with);
        let last = self.sent();
        eventually("the producer has gone on", SOON, async || self.sent() > last + 80).await;
        blocking(|| before.process.stop()).unwrap();
    }

    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.running.await.unwrap();
        self.sent.load(Ordering::SeqCst)
    }
}

/// Where every message went that was published.
struct Sides<'a> {
    stage: Stage<'a>,
    /// The old consumer, where it reads what is left.
    left: Consumer,
    new: GroupConsumer,
}

impl<'a> Sides<'a> {
    async fn set(rig: &'a Rig, stem: &str) -> Self {
        let stage = Stage::by_share(rig, stem).await;
        let share = share_of(&stage.path());
        let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
        let left = Consumer::start(&nsqds, share.topic().as_str(), CHANNELS[0]);
        let new = GroupConsumer::of_share(rig, &stage.topic, &stage.group(), share.property());
        Self { stage, left, new }
    }

    fn all(&self) -> BTreeMap<Bytes, usize> {
        counted([self.stage.moved.received(), self.left.received(), self.new.received()].concat())
    }

    /// Waits until all of them together have everything: each message once.
    async fn settled(&self, sent: usize) {
        eventually("the sides have everything", 2 * SOON, async || self.all().len() == sent).await;
        for consumer in &self.stage.others {
            let received = counted(consumer.wait_for(sent).await);
            assert_eq!((received.len(), doubled(&received)), (sent, 0), "another channel");
        }
        assert_eq!(doubled(&self.all()), 0);
    }
}

/// Whether the split is the one that `percent` stands for, as far as chance allows: five standard deviations.
fn is_about(messages: usize, in_share: usize, percent: u8) -> bool {
    let (n, p) = (messages as f64, f64::from(percent) / 100.0);
    (in_share as f64 - n * p).abs() <= 5.0 * (n * p * (1.0 - p)).sqrt()
}

async fn a_share_grows_and_shrinks_under_load_and_no_message_is_on_two_sides_or_none(line: Line) {
    let rig = shared(line);
    let sides = Sides::set(rig, "shares").await;
    let Sides { stage, left, new } = &sides;
    let (path, share) = (stage.path(), share_of(&stage.path()));
    let first = [gateway(rig, &path, 1).await, gateway(rig, &path, 1).await];
    let producer = Producer::start(&stage.topic, first.into());
    stage.at_work(1_000).await;
    let ended = stage.act("cutover", &["--share", "--max-pause", "2m"]).await;
    println!("{}", ended.done()["message"]);
    let old = stage.moved.count();
    for percent in [5, 25, 100, 0] {
        producer.sends(1_200).await;
        for place in 0..2 {
            producer.replace(place, gateway(rig, &path, percent).await).await;
        }
    }
    producer.sends(1_500).await;
    eventually("the new consumer is at work", SOON, async || new.count() > 1_500).await;
    assert_eq!(stage.moved.count(), old, "the channel itself got something");
    let status = stage.status().await;
    assert_eq!(
        (&status["stage"], &status["rest"]["topic"]),
        (&"CutOver".into(), &share.topic().as_str().into()),
        "{status}"
    );

    let ended = stage.act("rollback", &["--max-pause", "2m"]).await;
    println!("the relay was held for {} ms", ended.done()["paused_ms"]);
    let (rest, group) = (left.count(), new.count());
    eventually("the channel itself is at work again", SOON, async || stage.moved.count() > old + 500).await;
    assert_eq!((left.count(), new.count()), (rest, group), "a side got more after the rollback");

    // Once more, though the relay of the rest wrote down how far it was then.
    stage.act("cutover", &["--share", "--max-pause", "2m"]).await.done();
    eventually("the rest is relayed again", SOON, async || left.count() > rest + 300).await;
    let sent = producer.stop().await;
    sides.settled(sent).await;
    let counts = [&stage.moved, left].map(Consumer::count);
    println!("old {}, left {}, new {} of {sent}: lost 0, doubled 0", counts[0], counts[1], new.count());

    // Every message was stamped as its gateway was to stamp it, and the new consumer had no other.
    let mut by_percent: BTreeMap<u8, (usize, usize)> = BTreeMap::new();
    let new = counted(new.received());
    for (queue, message) in stored(&cluster(rig), &stage.topic.replace('.', "|")).await {
        let percent: u8 = message.properties.get("nsq_gateway").unwrap()[3..].parse().unwrap();
        let stamped = share.is_stamped(&message.properties);
        assert_eq!(stamped, bucket(&message.body) < u32::from(percent), "{queue}: {:?}", message.body);
        assert!(stamped || !new.contains_key(&message.body), "{:?} has no stamp", message.body);
        let (all, in_share) = by_percent.entry(percent).or_default();
        *all += 1;
        *in_share += usize::from(stamped);
    }
    println!("{by_percent:?}");
    for (percent, (all, in_share)) in by_percent {
        assert!(all > 1_000 && is_about(all, in_share, percent), "{in_share} of {all} at {percent} %");
    }
}

on_both_lines!(
    a_share_grows_and_shrinks_under_load_and_no_message_is_on_two_sides_or_none,
    broken_consumers_of_a_share_lose_nothing_and_double_no_more_than_told,
);

async fn broken_consumers_of_a_share_lose_nothing_and_double_no_more_than_told(line: Line) {
    let rig = shared(line);
    let sides = Sides::set(rig, "share.broken").await;
    let Sides { stage, left, new } = &sides;
    let producer = Producer::start(&stage.topic, vec![gateway(rig, &stage.path(), 50).await]);
    stage.at_work(500).await;
    stage.act("cutover", &["--share", "--max-pause", "2m"]).await.done();
    eventually("both sides are at work", SOON, async || left.count().min(new.count()) > 500).await;

    stage.act("rollback", &["--mode", "broken", "--max-pause", "2m"]).await.done();
    let sent = producer.stop().await;
    // The channel itself has it all, as if there had been no cutover.
    eventually("the channel itself has everything", 2 * SOON, async || stage.moved.count() >= sent).await;
    let again = left.count() + new.count();
    println!("{sent} messages, lost 0, doubled {again}: what both sides had");
    assert_eq!((sides.all().len(), doubled(&sides.all())), (sent, again));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crashed_nsqd_held_of_the_rest_is_relayed_again() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() });
    let nsqd = &rig.nsqds[0];
    let stage = Stage::by_share(&rig, "share.crash").await;
    let share = share_of(&stage.path());
    let producer = Producer::start(&stage.topic, vec![gateway(&rig, &stage.path(), 50).await]);
    stage.at_work(500).await;
    stage.act("cutover", &["--share", "--max-pause", "2m"]).await.done();
    let new = GroupConsumer::of_share(&rig, &stage.topic, &stage.group(), share.property());
    let held = async || stage.status().await["rest"]["messages"][0].as_u64() > Some(500);
    eventually("nsqd holds what is left", SOON, held).await;

    blocking(|| nsqd.kill().and_then(|()| nsqd.start_again())).unwrap();
    let left = Consumer::start(&[nsqd], share.topic().as_str(), CHANNELS[0]);
    let sent = producer.stop().await;
    let all = || counted([stage.moved.received(), left.received(), new.received()].concat());
    eventually("the sides have everything", 2 * SOON, async || all().len() == sent).await;
    println!("{sent} messages, lost 0, doubled {}", doubled(&all()));
    let of_both = [left.received(), new.received()].map(counted);
    assert!(of_both[0].keys().all(|body| !of_both[1].contains_key(body)), "a message is on two sides");
    assert_eq!(doubled(&of_both[1]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_completed_by_share_when_nothing_is_left() {
    let rig = shared(Line::V5);
    let mut stage = Stage::by_share(rig, "share.done").await;
    let (path, share) = (stage.path(), share_of(&stage.path()));
    let producer = Producer::start(&stage.topic, vec![gateway(rig, &path, 50).await]);
    stage.at_work(500).await;
    stage.act("cutover", &["--share", "--max-pause", "2m"]).await.done();
    let new = GroupConsumer::of_share(rig, &stage.topic, &stage.group(), share.property());
    eventually("the new consumer is at work", SOON, async || new.count() > 200).await;
    // Its consumers are stopped first: they would create it again.
    stage.moved = Consumer::start(&[], &stage.topic, CHANNELS[0]);
    let flags = ["--name", &path];
    let early = stage.act("complete", &flags).await;
    assert_eq!((early.code, early.reason()), (2, "ByShare"), "nobody has had the rest yet: {early:?}");
    producer.replace(0, gateway(rig, &path, 100).await).await;
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let left = Consumer::start(&nsqds, share.topic().as_str(), CHANNELS[0]);
    let rest = async || stage.status().await["rest"]["messages"] == serde_json::json!([0, 0, 0]);
    eventually("the old consumer has had the rest", SOON, async || left.count() > 200 && rest().await).await;
    println!("{}", stage.act("complete", &flags).await.done()["message"]);
    assert_eq!(stage.status().await["stage"], "Completed");
    let of_rest = format!("nsqbridge-transfer-{}", stage.group());
    assert!(cluster(rig).consuming(&of_rest).await.unwrap().is_closed(), "{of_rest} may be relayed");
    producer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_by_share_is_refused_by_name_before_anything_is_changed() {
    let rig = shared(Line::V5);
    let stage = Stage::set(rig, "share.refused").await;
    stage.gateway.publish(&stage.topic, "one").await;
    stage.moved.wait_for(1).await;
    super::relayed(rig, &stage.topic).await;
    let namesake = format!("{}.moved", stage.topic);
    create_topic(rig, &namesake).await;
    let refused = stage.act("cutover", &["--share"]).await;
    assert_eq!((refused.code, refused.reason()), (2, "TopicTaken"), "{refused:?}");
    assert_eq!(stage.status().await["stage"], "Active");
    stage.act("cutover", &["--max-pause", "2m"]).await.done();
    let refused = stage.act("cutover", &["--share"]).await;
    assert_eq!((refused.code, refused.reason()), (2, "NotByShare"), "{refused:?}");
}
