//! What running brokers do that no manual says; one test for each, on the real thing.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use nsqbridge::rocketmq::{
    Cluster, Message, Outcome, Producer, Queue, QueueReader,
    codes::response,
    command::Command,
    group::{Member, allocate},
    offsets::Commit,
    producer::unix_millis,
    properties::{MAX_PROPERTIES_BYTES, PropertiesBuilder},
    reader::Pull,
};
use nsqbridge_brokers::{Line, RigOptions, rig::Rig, rocketmq::Settings};

use crate::{
    bridge::{SOON, cluster, eventually, insisting, own, shared},
    scripted::message,
};

const BUDGET: Duration = Duration::from_secs(4);

/// A fresh topic with `queues` queues on each broker, and its first queue.
async fn fresh(cluster: &Cluster, queues: u32) -> Queue {
    let topic = format!("trap-{:08x}", fastrand::u32(..));
    insisting(|| cluster.create_topic(&topic, queues)).await;
    cluster.route(&topic).await.unwrap().write_queues[0].clone()
}

async fn delivered(producer: &Producer, queue: &Queue, messages: &[Message]) {
    let outcome = producer.send(queue, messages, BUDGET).await;
    assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
}

/// All bodies of a queue, read in order.
async fn bodies(cluster: &Cluster, queue: &Queue, count: usize) -> Vec<Bytes> {
    let reader = QueueReader::new(cluster.clone(), "traps");
    let mut bodies = Vec::new();
    while bodies.len() < count {
        let pulled = reader.pull(queue, bodies.len() as i64, 32, Duration::from_secs(2)).await.unwrap();
        match pulled {
            Pull::Messages { messages, problem: None, .. } => {
                bodies.extend(messages.into_iter().map(|message| message.body));
            }
            Pull::Empty { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    bodies
}

/// 5.5.0 with `asyncSendEnable=false` answers each send twice. A client that uses an opaque again soon takes the second
/// answer for the confirmation of a message that was never stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_answers_twice_confirms_nothing_it_has_not_stored() {
    let broker = Settings::new()
        .conf("asyncSendEnable", false)
        .conf("enableShutdownGracefully", true)
        .conf("shutdownWaitTimeSeconds", 4);
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 0, broker, ..RigOptions::default() });
    let cluster = cluster(&rig);
    let queue = fresh(&cluster, 1).await;
    let producer = Producer::new(cluster.clone(), "p");
    let sent: Vec<Bytes> = (0..300).map(|n| Bytes::from(format!("{n:04}"))).collect();
    for body in &sent {
        delivered(&producer, &queue, &[message(body)]).await;
    }
    assert_eq!(bodies(&cluster, &queue, sent.len()).await, sent);
    assert!(
        cluster.unclaimed_answers() >= 250,
        "second answers are counted: {}",
        cluster.unclaimed_answers()
    );

    // Stopping gracefully, it says GO_AWAY to the next request: not stored, and said so.
    std::thread::scope(|scope| {
        scope.spawn(|| rig.brokers[0].stop().unwrap());
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                eventually("the broker says go away", SOON, async || {
                    match producer.send(&queue, &[message(b"x")], BUDGET).await {
                        Outcome::NotSent(failure) => failure.reason.contains(&response::GO_AWAY.to_string()),
                        _ => false,
                    }
                })
                .await;
            });
        });
    });
}

/// On 4.9.7 one batch record with too many property bytes makes the broker lose other topics' messages.
async fn properties_stay_far_below_what_kills(line: Line) {
    let cluster = cluster(shared(line));
    let (queue, other) = (fresh(&cluster, 1).await, fresh(&cluster, 1).await);
    let producer = Producer::new(cluster.clone(), "p");
    let with_properties = |bytes: usize| Message {
        properties: PropertiesBuilder::new().user("p", &"x".repeat(bytes)).unwrap(),
        ..message(b"full")
    };
    let full = [with_properties(MAX_PROPERTIES_BYTES - 100), with_properties(MAX_PROPERTIES_BYTES - 100)];
    delivered(&producer, &queue, &full).await;
    delivered(&producer, &other, &[message(b"after")]).await;
    assert_eq!(bodies(&cluster, &queue, 2).await, ["full", "full"]);
    assert_eq!(bodies(&cluster, &other, 1).await, ["after"]);
    let over = [with_properties(MAX_PROPERTIES_BYTES), message(b"x")];
    let outcome = producer.send(&queue, &over, BUDGET).await;
    assert!(matches!(outcome, Outcome::Rejected(_)), "{outcome:?}");
}

/// The lines refuse with different codes; the client refuses first, and reads what brokers say the same way.
async fn refusals_are_told_apart(line: Line) {
    let cluster = cluster(shared(line));
    let queue = fresh(&cluster, 1).await;
    let producer = Producer::new(cluster.clone(), "p");
    for illegal in [
        vec![message(b"")],
        vec![message(&vec![0; 4 * 1024 * 1024 + 1])],
        vec![message(&vec![0; 3 << 20]), message(&vec![0; 3 << 20])],
        vec![message(b"a"), Message { deliver_at: Some(unix_millis() + 60_000), ..message(b"b") }],
    ] {
        let outcome = producer.send(&queue, &illegal, BUDGET).await;
        assert!(matches!(outcome, Outcome::Rejected(_)), "{outcome:?}");
    }
    let bad_topic = Queue { topic: "a.b".into(), ..queue.clone() };
    assert!(matches!(producer.send(&bad_topic, &[message(b"x")], BUDGET).await, Outcome::Rejected(_)));
    // The largest body of all is taken.
    delivered(&producer, &queue, &[message(&vec![7; 4 * 1024 * 1024])]).await;
    // A queue that does not exist: 29 on one line, 1 on the other, and both mean a stale route.
    let gone = Queue { id: 99, ..queue.clone() };
    let outcome = producer.send(&gone, &[message(b"x")], BUDGET).await;
    assert!(matches!(outcome, Outcome::NotSent(_)), "{outcome:?}");
    let unknown = producer.deliver("no-such-topic", &[message(b"x")], None, BUDGET).await;
    assert!(matches!(unknown, Outcome::NotSent(_)), "{unknown:?}");
    assert!(cluster.route("no-such-topic").await.is_err(), "the broker has not created it");
}

/// A pull gives 32 messages at most, whatever is asked for; pulls at known offsets run side by side.
async fn pulls_are_short_and_run_side_by_side(line: Line) {
    let cluster = cluster(shared(line));
    let queue = fresh(&cluster, 1).await;
    let producer = Producer::new(cluster.clone(), "p");
    let sent: Vec<Message> = (0..640).map(|n| message(format!("{n:04}").as_bytes())).collect();
    delivered(&producer, &queue, &sent).await;
    let reader = QueueReader::new(cluster.clone(), "traps");
    let all = async || cluster.queue_bounds(&queue).await.is_ok_and(|bounds| bounds.max == 640);
    eventually("all can be pulled", SOON, all).await;
    let pulls =
        (0..20).map(async |nth| match reader.pull(&queue, nth * 32, 64, Duration::ZERO).await.unwrap() {
            Pull::Messages { messages, problem: None, .. } => {
                assert_eq!(messages.len(), 32, "32 is what a broker gives");
                messages.into_iter().map(|message| message.body).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        });
    let pulled = join_all(pulls).await.concat();
    assert_eq!(pulled, sent.into_iter().map(|message| message.body).collect::<Vec<_>>());
}

/// A long poll overruns by seconds: asked for 6 s, brokers answer after 10.
async fn a_long_poll_may_overrun(line: Line) {
    let cluster = cluster(shared(line));
    let queue = fresh(&cluster, 1).await;
    let reader = QueueReader::new(cluster.clone(), "traps");
    let pulled = reader.pull(&queue, 0, 32, Duration::from_secs(6)).await.unwrap();
    assert!(matches!(pulled, Pull::Empty { .. }), "{pulled:?}");
    let producer = Producer::new(cluster.clone(), "p");
    let wake = [message(b"wake")];
    let (pulled, ()) = tokio::join!(
        reader.pull(&queue, 0, 32, Duration::from_secs(15)),
        delivered(&producer, &queue, &wake),
    );
    assert!(matches!(pulled, Ok(Pull::Messages { .. })), "{pulled:?}");
}

/// "Never committed" reads as `None` on 5.x and as 0 on a young queue of 4.9; both begin at the beginning.
async fn never_committed_is_not_the_end(line: Line) {
    let cluster = cluster(shared(line));
    let queue = fresh(&cluster, 1).await;
    delivered(&Producer::new(cluster.clone(), "p"), &queue, &[message(b"x")]).await;
    let never = cluster.committed_offset("never-met", &queue).await.unwrap();
    assert_eq!(never, if line == Line::V5 { None } else { Some(0) });
    cluster.create_group("traps-commit").await.unwrap();
    assert_eq!(cluster.try_commit("traps-commit", &queue, 1).await.unwrap(), Commit::Taken);
    assert_eq!(cluster.committed_offset("traps-commit", &queue).await.unwrap(), Some(1));
    let reader = QueueReader::new(cluster.clone(), "traps");
    let beyond = reader.pull(&queue, 5, 32, Duration::ZERO).await.unwrap();
    assert!(
        matches!(beyond, Pull::OffsetMoved { next: 1, bounds } if (bounds.min, bounds.max) == (0, 1)),
        "{beyond:?}"
    );
}

/// After a reset 5.5.0 answers the next commit with success, and ignores it.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_after_a_reset_is_ignored_and_noticed() {
    let cluster = cluster(shared(Line::V5));
    let queue = fresh(&cluster, 1).await;
    let producer = Producer::new(cluster.clone(), "p");
    delivered(&producer, &queue, &[message(b"a"), message(b"b"), message(b"c")]).await;
    let group = format!("reset-{:08x}", fastrand::u32(..));
    cluster.create_group(&group).await.unwrap();
    assert_eq!(cluster.try_commit(&group, &queue, 3).await.unwrap(), Commit::Taken);
    let route = cluster.route(&queue.topic).await.unwrap();
    let reset = Command::request(222)
        .field("topic", &queue.topic)
        .field("group", &group)
        .field("queueId", queue.id)
        .field("offset", 1)
        .field("timestamp", -1)
        .field("isForce", true);
    cluster.ask(route.master(&queue.broker).unwrap(), "a reset", reset).await.unwrap();
    let commit = cluster.try_commit(&group, &queue, 3).await.unwrap();
    assert_eq!(commit, Commit::Ignored { holds: Some(1) });
}

/// 4.9.7 ignores a timer, delivers at once and answers success: the line decides how a delay is written.
async fn a_delay_is_written_for_the_line(line: Line) {
    let cluster = cluster(shared(line));
    let queue = fresh(&cluster, 1).await;
    let due = unix_millis() + 4_000;
    let delayed = Message { deliver_at: Some(due), ..message(b"later") };
    delivered(&Producer::new(cluster.clone(), "p"), &queue, &[delayed]).await;
    assert_eq!(bodies(&cluster, &queue, 1).await, ["later"]);
    assert!(unix_millis() >= due - 100, "{} ms early", due - unix_millis());
}

/// Two members share, lock and hand over queues; a message is found again by its unique key.
async fn members_share_and_hand_over(line: Line) {
    let rig: &Rig = shared(line);
    let (one, two) = (cluster(rig), cluster(rig));
    let queue = fresh(&one, 4).await;
    let group = format!("members-{:08x}", fastrand::u32(..));
    one.create_group(&group).await.unwrap();
    let first = Member::join(one.clone(), &group, &queue.topic).await.unwrap();
    let second = Member::join(two.clone(), &group, &queue.topic).await.unwrap();
    let mut ids = vec![one.config().client_id.clone(), two.config().client_id.clone()];
    ids.sort();
    assert_eq!(first.members().await.unwrap(), ids);
    let queues = &one.route(&queue.topic).await.unwrap().read_queues;
    assert_eq!(queues.len(), 8);
    let shares: Vec<_> = ids.iter().map(|id| allocate(queues, &ids, id)).collect();
    assert!(shares[0].len() == 4 && shares[1].len() == 4 && shares.concat() == *queues);

    let granted = first.lock(queues).await;
    assert_eq!((granted.granted.len(), granted.refused.len()), (8, 0));
    let refused = second.lock(queues).await;
    assert_eq!((refused.granted.len(), refused.refused.len()), (0, 8));
    first.unlock(&shares[1]).await;
    let handed_over: BTreeSet<_> = second.lock(queues).await.granted.into_iter().collect();
    assert_eq!(handed_over, shares[1].iter().cloned().collect());

    let mut changes = two.membership_changes();
    changes.mark_unchanged();
    first.leave().await;
    tokio::time::timeout(SOON, changes.changed()).await.expect("told that a member left").unwrap();
    assert_eq!(second.members().await.unwrap(), [two.config().client_id.clone()]);

    let known = message(b"find me");
    let key = known.unique_key;
    delivered(&Producer::new(one.clone(), "p"), &queue, &[known]).await;
    eventually("found by its unique key", SOON, async || {
        let found = one.messages_by_unique_key(&queue.topic, key.as_str()).await.unwrap();
        found.len() == 1 && found[0].body == "find me"
    })
    .await;
}

/// A broker forwards the dashboard's questions about a consumer, and they are answered.
async fn questions_about_a_consumer_are_answered(line: Line) {
    let rig = shared(line);
    let (consumer, dashboard) = (cluster(rig), cluster(rig));
    let queue = fresh(&consumer, 1).await;
    let group = format!("asked-{:08x}", fastrand::u32(..));
    consumer.create_group(&group).await.unwrap();
    let _member = Member::join(consumer.clone(), &group, &queue.topic).await.unwrap();
    let route = dashboard.route(&queue.topic).await.unwrap();
    let ask = Command::request(307)
        .field("consumerGroup", &group)
        .field("clientId", &consumer.config().client_id)
        .field("jstackEnable", false);
    let answer = dashboard.ask(route.master(&queue.broker).unwrap(), "running info", ask).await.unwrap();
    let info: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(info["properties"]["PROP_CLIENT_ID"], consumer.config().client_id);
}

on_both_lines!(
    properties_stay_far_below_what_kills,
    refusals_are_told_apart,
    pulls_are_short_and_run_side_by_side,
    a_long_poll_may_overrun,
    never_committed_is_not_the_end,
    a_delay_is_written_for_the_line,
    members_share_and_hand_over,
    questions_about_a_consumer_are_answered,
);
