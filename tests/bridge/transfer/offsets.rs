//! Committed offsets that jump: by an operator's hand, another client's, or a broker's crash.

use std::{path::Path, process};

use bytes::Bytes;
use nsqbridge::{
    mapping::Names,
    rocketmq::{Cluster, Queue, command::Command, offsets::Commit},
};
use nsqbridge_brokers::{Broker, Line, Nsqd, Rig, RigOptions, http, ports::Ports, rocketmq::Settings};

use super::{say, status};
use crate::bridge::{
    Consumer, Program, SOON, To, blocking, cluster, create_channel, eventually, insisting, numbered, own,
    shared, topic, transfer, transfer_at,
};

/// A topic of one queue, with a consumer behind an nsqd.
struct Scene<'a> {
    rig: &'a Rig,
    nsqd: &'a Nsqd,
    cluster: Cluster,
    topic: String,
    group: String,
    queue: Queue,
    consumer: Consumer,
}

impl<'a> Scene<'a> {
    async fn set(rig: &'a Rig, stem: &str) -> Self {
        let (nsqd, cluster, topic) = (&rig.nsqds[0], cluster(rig), topic(stem));
        create_channel(nsqd, &topic, "ch").await;
        let names = Names::default();
        let nsq_topic = topic.parse().unwrap();
        let name = names.rocketmq_topic(&nsq_topic);
        insisting(|| cluster.create_topic(&name, 1)).await;
        let broker = &rig.brokers[0];
        let route = cluster.route(&name).await.unwrap();
        let on_first = |queue: &&Queue| route.master(&queue.broker) == Some(&broker.addr().to_string());
        let queue = route.read_queues.iter().find(on_first).unwrap().clone();
        let group = names.relay_group("nsqbridge-transfer", &nsq_topic);
        let consumer = Consumer::start(&[nsqd], &topic, "ch");
        Self { rig, nsqd, cluster, topic, group, queue, consumer }
    }

    fn relay(&self, flags: &[&str]) -> Program {
        transfer(&self.rig.name_server, &self.topic, &To::Nsqds(&[self.nsqd]), flags)
    }

    /// Stores messages in the queue.
    async fn store(&self, bodies: &[Bytes]) {
        let producer = nsqbridge::rocketmq::Producer::new(self.cluster.clone(), "p");
        for body in bodies {
            let outcome = producer.send(&self.queue, &[crate::scripted::message(body)], SOON).await;
            assert!(matches!(outcome, nsqbridge::rocketmq::Outcome::Delivered(_)), "{outcome:?}");
        }
    }

    async fn committed(&self) -> Option<i64> {
        self.cluster.committed_offset(&self.group, &self.queue).await.unwrap()
    }

    async fn committed_is(&self, offset: i64) {
        eventually(&format!("{offset} is committed"), SOON, async || {
            self.cluster.committed_offset(&self.group, &self.queue).await.ok().flatten() == Some(offset)
        })
        .await;
    }

    async fn broker_serves(&self) {
        eventually("the broker serves again", SOON, async || {
            self.cluster.committed_offset(&self.group, &self.queue).await.is_ok()
        })
        .await;
    }

    /// Commits as somebody else.
    async fn set_offset(&self, offset: i64) {
        let set = self.cluster.try_commit(&self.group, &self.queue, offset).await.unwrap();
        assert_eq!(set, Commit::Taken);
    }

    async fn held(&self, relay: &Program, says: &str) {
        eventually(&format!("the queue is held: {says}"), SOON, async || {
            let log = relay.logged();
            log.contains("queue held") && log.contains(says)
        })
        .await;
        eventually("status says so", SOON, async || {
            let status = say(self.rig, &["status", &self.topic]);
            status.contains("HELD 1 queues") && status.contains(says)
        })
        .await;
    }
}

async fn logs(relay: &Program, text: &str) {
    eventually(&format!("the log says: {text}"), SOON, async || relay.logged().contains(text)).await;
}

fn stop(relay: Program) {
    blocking(|| relay.signal("TERM").and_then(|()| relay.wait(SOON))).unwrap();
}

async fn messages_skipped_by_hand_hold_the_queue_until_somebody_decides(line: Line) {
    let scene = Scene::set(shared(line), "ahead").await;
    scene.store(&numbered(0..30)).await;
    let relay = scene.relay(&[]);
    scene.consumer.wait_for(30).await;
    scene.committed_is(30).await;
    stop(relay);

    scene.store(&numbered(30..50)).await;
    scene.set_offset(40).await;
    let relay = scene.relay(&[]);
    scene.held(&relay, "the 10 messages 30 to 39 would be left out").await;
    assert_eq!(scene.consumer.count(), 30, "nothing is relayed meanwhile");
    assert_eq!(scene.committed().await, Some(40), "nothing is decided for the operator");
    stop(relay);

    let relay = scene.relay(&["--on-gap", "continue"]);
    let received = scene.consumer.wait_for(40).await;
    assert_eq!(received[30..], numbered(40..50));
    assert!(relay.logged().contains("from=30 to=39 missed=10"), "{}", relay.logged());
    scene.committed_is(50).await;
    stop(relay);

    scene.store(&numbered(50..60)).await;
    scene.set_offset(60).await;
    let relay = scene.relay(&["--on-gap", "replay"]);
    let received = scene.consumer.wait_for(50).await;
    assert_eq!(received[40..], numbered(50..60));
    logs(&relay, "refused, going on from what is relayed").await;
    scene.committed_is(60).await;
    assert_eq!(scene.consumer.count(), 50, "nothing else came again");
}

async fn a_rewind_by_hand_doubles_nothing_unless_it_is_asked_for(line: Line) {
    let scene = Scene::set(shared(line), "back").await;
    scene.store(&numbered(0..30)).await;
    // The record is kept whether or not nsqd's losses are relayed again.
    let relay = scene.relay(&["--replay=false"]);
    scene.consumer.wait_for(30).await;
    scene.committed_is(30).await;
    stop(relay);

    scene.set_offset(10).await;
    scene.store(&numbered(30..40)).await;
    let relay = scene.relay(&[]);
    assert_eq!(scene.consumer.wait_for(40).await, numbered(0..40));
    logs(&relay, "committed=Some(10) relayed=30").await;
    scene.committed_is(40).await;
    assert_eq!(scene.consumer.count(), 40, "nothing came twice");
    stop(relay);

    scene.set_offset(35).await;
    let relay = scene.relay(&["--on-gap", "replay"]);
    logs(&relay, "relaying it again").await;
    let mut expected = [numbered(0..40), numbered(35..40)].concat();
    expected.sort_unstable();
    assert_eq!(scene.consumer.wait_for(45).await, expected);
    scene.committed_is(40).await;
}

/// Crashes a broker, and takes all its offsets with it. Whatever it is set to, it writes them to its disk ten seconds after its start.
fn crash(broker: &Broker) {
    blocking(|| broker.kill()).unwrap();
    for file in ["consumerOffset.json", "consumerOffset.json.bak"] {
        let _ = std::fs::remove_file(broker.folder().join("store/config").join(file));
    }
    blocking(|| broker.start_again()).unwrap();
}

async fn a_broker_that_forgets_commits_in_a_crash_doubles_nothing(line: Line) {
    let broker = Settings::new().conf("fileReservedTime", 5);
    let rig = own(line, &RigOptions { brokers: 1, nsqds: 1, broker, ..RigOptions::default() });
    let scene = Scene::set(&rig, "crash").await;
    scene.store(&numbered(0..200)).await;
    let relay = scene.relay(&[]);
    scene.consumer.wait_for(200).await;
    scene.committed_is(200).await;
    blocking(|| relay.kill()).unwrap();
    crash(&rig.brokers[0]);
    scene.broker_serves().await;
    assert!(scene.committed().await.unwrap_or(0) < 200, "the broker has forgotten nothing");

    let ports = Ports::claim().unwrap();
    let admin = std::net::SocketAddr::from(([127, 0, 0, 1], ports.get(0)));
    let mut arguments: Vec<String> =
        ["transfer", "--topic", &scene.topic, "--admin-address"].map(str::to_owned).into();
    arguments.extend([admin.to_string(), "--namesrv".to_owned(), rig.name_server.addr().to_string()]);
    arguments.extend(["--nsqd-http-address".to_owned(), scene.nsqd.http_addr().to_string()]);
    let relay = Program::start("transfer", &arguments);
    logs(&relay, "refused, going on from what is relayed").await;
    scene.store(&numbered(200..210)).await;
    assert_eq!(scene.consumer.wait_for(210).await, numbered(0..210));
    // Again, under the running relay, with nothing to commit that would show it: not even a commit whose answer the crash takes away.
    eventually("the relay knows that 210 is committed", SOON, async || {
        status(&rig, &scene.topic)["instances"][0]["report"]["queues"][0]["committed"] == 210
    })
    .await;
    crash(&rig.brokers[0]);
    scene.committed_is(210).await;
    scene.store(&numbered(210..220)).await;
    assert_eq!(scene.consumer.wait_for(220).await, numbered(0..220));

    let metric = |name: &str| {
        let (_, text) = blocking(|| http::get(admin, "/metrics")).unwrap();
        let name = name.replace("TOPIC", &format!("topic=\"{}\"", scene.topic));
        let value = text.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix(' '));
        value.map(|value| value.parse::<f64>().unwrap())
    };
    let jumps = metric("nsqbridge_transfer_offset_jumps_total{TOPIC,jump=\"back\"}");
    assert!(jumps >= Some(2.0), "{jumps:?}");
    let five_hours = 5.0 * 3_600.0;
    eventually("the retention is read from the broker", SOON, async || {
        metric("nsqbridge_transfer_retention_seconds{TOPIC}") == Some(five_hours)
    })
    .await;
    assert_eq!(metric("nsqbridge_transfer_held_queues{TOPIC}"), Some(0.0));

    // Messages that wait are on their way to their end.
    say(&rig, &["relay", "pause", &scene.topic]);
    scene.store(&numbered(220..230)).await;
    eventually("the time left is told", 2 * SOON, async || {
        let left = status(&rig, &scene.topic)["instances"][0]["report"]["expires_in_seconds"].as_f64();
        left.is_some_and(|left| left < five_hours && left > five_hours - 600.0)
            && metric("nsqbridge_transfer_expires_in_seconds{TOPIC}") < Some(five_hours)
    })
    .await;
    say(&rig, &["relay", "resume", &scene.topic]);
    assert_eq!(scene.consumer.wait_for(230).await, numbered(0..230));
    assert_eq!(scene.consumer.count(), 230, "nothing came twice");
}

/// Copies a folder; what was in its place is gone.
fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    assert!(process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// As after a power failure: what was not on the disk yet is gone, and other messages take its place before the relay reads again.
async fn a_broker_that_lost_its_newest_messages_and_has_others_in_their_place(line: Line) {
    let rig = own(line, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() });
    let scene = Scene::set(&rig, "lost-tail").await;
    let broker = &rig.brokers[0];
    let (store, kept) = (broker.folder().join("store"), broker.folder().join("kept"));
    scene.store(&numbered(0..50)).await;
    let ports = Ports::claim().unwrap();
    let admin = std::net::SocketAddr::from(([127, 0, 0, 1], ports.get(0)));
    let to = To::Nsqds(&[scene.nsqd]);
    let flags = ["--admin-address", &admin.to_string()];
    let relay = transfer_at(rig.name_server.addr(), &scene.topic, &to, &flags);
    scene.consumer.wait_for(50).await;
    scene.committed_is(50).await;
    blocking(|| broker.kill()).unwrap();
    let ready =
        async || blocking(|| http::get(admin, "/readyz")).map_or_else(|_| String::new(), |answer| answer.1);
    eventually("the relay says what it waits for", SOON, async || ready().await.contains("waiting: reading"))
        .await;
    copy(&store, &kept);
    blocking(|| broker.start_again()).unwrap();
    scene.broker_serves().await;
    let relay_of = format!("[+] relay of {}", scene.topic);
    eventually("it waits no more", SOON, async || ready().await.contains(&relay_of)).await;

    scene.store(&numbered(50..90)).await;
    scene.consumer.wait_for(90).await;
    relay.signal("STOP").unwrap();
    blocking(|| broker.kill().map(|()| copy(&kept, &store)).and_then(|()| broker.start_again())).unwrap();
    scene.broker_serves().await;
    scene.store(&numbered(100..160)).await;
    relay.signal("CONT").unwrap();
    let expected = [numbered(0..90), numbered(100..160)].concat();
    assert_eq!(scene.consumer.wait_for(150).await, expected);
    scene.committed_is(110).await;
    assert_eq!(scene.consumer.count(), 150, "something came twice: {}", relay.logged());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_under_a_running_relay_is_what_the_policy_makes_of_it() {
    let scene = Scene::set(shared(Line::V5), "reset").await;
    let reset = async |offset: i64| {
        let route = scene.cluster.route(&scene.queue.topic).await.unwrap();
        let reset = Command::request(222)
            .field("topic", &scene.queue.topic)
            .field("group", &scene.group)
            .field("queueId", scene.queue.id)
            .field("offset", offset)
            .field("timestamp", -1)
            .field("isForce", true);
        scene.cluster.ask(route.master(&scene.queue.broker).unwrap(), "a reset", reset).await.unwrap();
    };
    scene.store(&numbered(0..30)).await;
    let relay = scene.relay(&[]);
    scene.consumer.wait_for(30).await;
    scene.committed_is(30).await;
    reset(10).await;
    scene.store(&numbered(30..40)).await;
    logs(&relay, "refused, going on from what is relayed").await;
    assert_eq!(scene.consumer.wait_for(40).await, numbered(0..40));
    scene.committed_is(40).await;
    assert_eq!(scene.consumer.count(), 40, "nothing came twice");
    stop(relay);

    let relay = scene.relay(&["--on-gap", "replay"]);
    scene.committed_is(40).await;
    eventually("it is relayed", SOON, async || relay.logged().contains("relaying")).await;
    reset(35).await;
    logs(&relay, "relaying it again").await;
    let mut expected = [numbered(0..40), numbered(35..40)].concat();
    expected.sort_unstable();
    assert_eq!(scene.consumer.wait_for(45).await, expected);
    scene.committed_is(40).await;
}

async fn another_client_that_commits_for_the_group_is_noticed(line: Line) {
    let scene = Scene::set(shared(line), "other").await;
    scene.store(&numbered(0..20)).await;
    let relay = scene.relay(&[]);
    scene.consumer.wait_for(20).await;
    scene.committed_is(20).await;
    scene.set_offset(5).await;
    scene.committed_is(20).await;
    logs(&relay, "committed=Some(5) relayed=20").await;

    // It leaves out what is still to come.
    scene.set_offset(25).await;
    scene.store(&numbered(20..30)).await;
    let outcome = async || {
        let held = relay.logged().contains("messages 20 to 24 would be left out");
        // Or the relay has overtaken it, and left nothing out.
        held || scene.consumer.count() == 30
    };
    eventually("it is held, or nothing was left out", SOON, outcome).await;
    if scene.consumer.count() < 30 {
        assert_eq!(scene.consumer.count(), 20);
        // Set back by hand, it goes on by itself.
        scene.set_offset(20).await;
    }
    assert_eq!(scene.consumer.wait_for(30).await, numbered(0..30));
    scene.committed_is(30).await;

    scene.set_offset(100).await;
    scene.held(&relay, "the committed offset is 100").await;
    scene.set_offset(30).await;
    scene.store(&numbered(30..40)).await;
    assert_eq!(scene.consumer.wait_for(40).await, numbered(0..40));
    scene.committed_is(40).await;
    assert_eq!(scene.consumer.count(), 40, "nothing came twice");
}

async fn a_topic_made_anew_is_not_taken_for_the_one_that_was_relayed(line: Line) {
    const DELETE_TOPIC_IN_BROKER: i32 = 215;
    const DELETE_TOPIC_IN_NAME_SERVER: i32 = 216;
    let rig = shared(line);
    let scene = Scene::set(rig, "anew").await;
    let name = &scene.queue.topic;
    scene.store(&numbered(0..30)).await;
    let relay = scene.relay(&[]);
    scene.consumer.wait_for(30).await;
    scene.committed_is(30).await;
    stop(relay);

    let delete = |code: i32| Command::request(code).field("topic", name);
    for broker in &rig.brokers {
        let asked = delete(DELETE_TOPIC_IN_BROKER);
        scene.cluster.ask(&broker.addr().to_string(), "to delete a topic", asked).await.unwrap();
    }
    let asked = delete(DELETE_TOPIC_IN_NAME_SERVER);
    scene.cluster.ask(&rig.name_server.addr().to_string(), "to forget a topic", asked).await.unwrap();
    insisting(|| scene.cluster.create_topic(name, 1)).await;
    eventually("it is empty", SOON, async || {
        scene.cluster.queue_bounds(&scene.queue).await.is_ok_and(|bounds| bounds.max == 0)
    })
    .await;
    // More than were relayed, so that no offset shows it.
    let anew = numbered(100..150);
    scene.store(&anew).await;
    let relay = match line {
        // The broker has forgotten the committed offset with the topic.
        Line::V5 => scene.relay(&[]),
        Line::V4 => {
            let relay = scene.relay(&[]);
            scene.held(&relay, "other messages stand where those below 30 were relayed").await;
            assert_eq!(scene.consumer.count(), 30);
            stop(relay);
            scene.relay(&["--on-gap", "replay"])
        }
    };
    assert_eq!(scene.consumer.wait_for(80).await[30..], anew);
    logs(&relay, "other messages stand where these were relayed").await;
    scene.committed_is(50).await;
    assert_eq!(scene.consumer.count(), 80, "nothing came twice");
}

on_both_lines!(
    a_broker_that_lost_its_newest_messages_and_has_others_in_their_place,
    a_topic_made_anew_is_not_taken_for_the_one_that_was_relayed,
    messages_skipped_by_hand_hold_the_queue_until_somebody_decides,
    a_rewind_by_hand_doubles_nothing_unless_it_is_asked_for,
    a_broker_that_forgets_commits_in_a_crash_doubles_nothing,
    another_client_that_commits_for_the_group_is_noticed,
);
