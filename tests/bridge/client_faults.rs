//! The RocketMQ client against a peer that breaks the protocol.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nsqbridge::rocketmq::{
    Cluster, ClusterConfig, ClusterError, Outcome, Producer, Queue, QueueReader,
    codes::{request, response},
    command::Command,
    group::Member,
    message::Message,
    offsets::Commit,
    outcome::{Arm, Failure, Hint},
    producer::unix_millis,
    properties::Properties,
    reader::{Problem, Pull},
    record::StoredMessage,
};

use tokio::net::TcpListener;

use crate::{
    bridge::{SOON, eventually},
    scripted::{Peer, Reply, message, ok, pulled, record, refuse, stored},
};

const SECOND: Duration = Duration::from_secs(1);

fn queue() -> Queue {
    Queue { topic: "t".into(), broker: "fake".into(), id: 0 }
}

#[tokio::test]
async fn a_second_answer_never_confirms_another_message() {
    // The first send is answered twice, the second not at all: only a reused opaque could call it delivered.
    let peer = Peer::start(1, |nth, asked| match nth {
        0 => Reply::Twice(stored(asked, 0)),
        _ => Reply::Silence,
    })
    .await;
    let cluster = peer.cluster();
    let producer = Producer::new(cluster.clone(), "p");
    let first = producer.send(&queue(), &[message(b"first")], SECOND).await;
    assert!(matches!(first, Outcome::Delivered(_)), "{first:?}");
    let second = producer.send(&queue(), &[message(b"second")], SECOND).await;
    assert!(matches!(second, Outcome::Unknown(_)), "{second:?}");
    assert_eq!(cluster.unclaimed_answers(), 1, "the second answer is counted");
}

#[tokio::test]
async fn a_reply_that_never_comes_is_unknown_after_the_deadline_and_the_retry_carries_the_same_id() {
    let keys = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&keys);
    let peer = Peer::start(1, move |nth, asked| {
        let properties = Properties::from_encoded(asked.ext["i"].clone().into());
        told.lock().unwrap().push(properties.get("UNIQ_KEY").unwrap().to_owned());
        if nth == 0 { Reply::Close } else { Reply::Answer(stored(asked, 7)) }
    })
    .await;
    let producer = Producer::new(peer.cluster(), "p");
    let outcome = producer.deliver("t", &[message(b"x")], None, 3 * SECOND).await;
    let Outcome::Delivered(receipt) = outcome else { panic!("{outcome:?}") };
    assert!(receipt.perhaps_twice, "the first try may have been stored");
    assert_eq!(receipt.queue_offset, 7);
    let keys = keys.lock().unwrap().clone();
    assert!(keys.len() == 2 && keys[0] == keys[1], "{keys:?}");

    let silent = Peer::start(1, |_, _| Reply::Silence).await;
    let producer = Producer::new(silent.cluster(), "p");
    let outcome = producer.deliver("t", &[message(b"x")], None, SECOND).await;
    assert!(
        matches!(&outcome, Outcome::Unknown(failure) if failure.reason.contains("no answer")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn nothing_is_sent_without_time_for_an_answer() {
    let peer = Peer::start(1, |_, asked| Reply::Answer(stored(asked, 0))).await;
    let producer = Producer::new(peer.cluster(), "p");
    producer.send(&queue(), &[message(b"connects")], SECOND).await;
    let outcome = producer.send(&queue(), &[message(b"x")], Duration::ZERO).await;
    assert!(matches!(outcome, Outcome::NotSent(_)), "{outcome:?}");
    producer.send(&queue(), &[message(b"goes behind it")], SECOND).await;
    assert_eq!(peer.seen(), 2);
}

#[tokio::test]
async fn a_broker_that_does_not_tell_its_version_is_named_and_left_alone() {
    // It takes connections, and reads nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let peer = Peer::start_beside(&[address], 1, |nth, asked| Reply::Answer(stored(asked, nth as i64))).await;
    let producer = Producer::new(peer.cluster(), "p");
    let later = [Message { deliver_at: Some(unix_millis() + 60_000), ..message(b"x") }];
    let of_silent = Queue { broker: "other-0".to_owned(), ..queue() };
    let outcome = producer.send(&of_silent, &later, SECOND).await;
    let named = |failure: &Failure| failure.broker == "other-0" && failure.reason.contains("its version");
    assert!(matches!(&outcome, Outcome::NotSent(failure) if named(failure)), "{outcome:?}");
    let asked = std::time::Instant::now();
    let outcome = producer.deliver("t", &later, None, 4 * SECOND).await;
    assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
    assert!(asked.elapsed() < SECOND, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_frame_cut_in_half_or_unreadable_makes_the_send_unknown_and_the_next_one_reconnects() {
    let peer = Peer::start(1, |nth, asked| match nth {
        0 => Reply::HalfAFrame(stored(asked, 0)),
        1 => Reply::Raw(vec![0xFF; 64]),
        2 => Reply::Raw(vec![0, 0, 0, 8, 0, 0, 0, 4, b'n', b'o', b'p', b'e']),
        _ => Reply::Answer(stored(asked, 1)),
    })
    .await;
    let producer = Producer::new(peer.cluster(), "p");
    for _ in 0..3 {
        let outcome = producer.send(&queue(), &[message(b"x")], SECOND).await;
        assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    }
    let outcome = producer.send(&queue(), &[message(b"x")], SECOND).await;
    assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
}

#[tokio::test]
async fn each_refusing_code_has_its_outcome() {
    use Arm::{NotSent, Rejected, Unknown};
    let cases = [
        (1, "java.lang.RuntimeException: something", Unknown),
        (1, "the in-sync replicas are not enough, replicas: 1", Unknown),
        (1, "The specified topic contains illegal characters, allowing only", Rejected),
        (1, "java.lang.RuntimeException: message body size exceeded", Rejected),
        (1, "org.apache.rocketmq.acl.common.AclException: Check signature failed", NotSent),
        (1, "request queueId[4] is illegal, TopicConfig", NotSent),
        (1, "accurate timer message is not enabled", Rejected),
        (1, "[PC_SYNCHRONIZED]broker busy, start flow control for a while", Unknown),
        (1, "create mapped file failed, server is busy or broken.", NotSent),
        (2, "[PCBUSY_CLEAN_QUEUE]broker busy", NotSent),
        (3, "request type 310 not supported", NotSent),
        (10, "FLUSH_DISK_TIMEOUT", Unknown),
        (11, "SLAVE_NOT_AVAILABLE", Unknown),
        (12, "FLUSH_SLAVE_TIMEOUT", Unknown),
        (13, "the message is illegal", Rejected),
        (14, "the broker's disk is full", NotSent),
        (16, "the broker[x] sending message is forbidden", NotSent),
        (16, "User:x has no permission to access Topic:t", NotSent),
        (17, "topic[t] not exist, apply first please!", NotSent),
        (29, "The specified topic: a.b, contains illegal characters", Rejected),
        (29, "request queueId[4] is illegal, TopicConfig", NotSent),
        (215, "flow control", NotSent),
        (1500, "please go away", NotSent),
        (4711, "a code of the future", Unknown),
    ];
    let peer =
        Peer::start(1, move |nth, asked| Reply::Answer(refuse(asked, cases[nth].0, cases[nth].1))).await;
    let producer = Producer::new(peer.cluster(), "p");
    for (code, remark, expected) in cases {
        let outcome = producer.send(&queue(), &[message(b"x")], SECOND).await;
        let (arm, failure) = match outcome {
            Outcome::Delivered(_) => panic!("{code} {remark} counted as delivered"),
            Outcome::Rejected(failure) => (Rejected, failure),
            Outcome::NotSent(failure) => (NotSent, failure),
            Outcome::Unknown(failure) => (Unknown, failure),
        };
        assert_eq!(arm, expected, "{code} {remark}");
        assert!(failure.reason.contains(&code.to_string()) && failure.reason.contains(remark), "{failure}");
        let hint = match (code, remark) {
            (17, _) => Hint::UnknownTopic,
            (1, remark) if remark.contains("in-sync") || remark.contains("[PC_") => Hint::Busy,
            (10..=12, _) => Hint::StoredWeakly,
            (3 | 14 | 16 | 1500, _) => Hint::StaleRoute,
            (1 | 29, remark) if remark.contains("queueId") => Hint::StaleRoute,
            _ => Hint::None,
        };
        assert_eq!(failure.hint, hint, "{code} {remark}");
    }
}

#[tokio::test]
async fn a_broker_that_stored_a_message_too_weakly_is_not_made_to_store_it_again() {
    let peer = Peer::start(4, |_, asked| {
        Reply::Answer(refuse(asked, response::SLAVE_NOT_AVAILABLE, "SLAVE_NOT_AVAILABLE"))
    })
    .await;
    let producer = Producer::new(peer.cluster(), "p");
    let outcome = producer.deliver("t", &[message(b"x")], None, 2 * SECOND).await;
    assert!(matches!(&outcome, Outcome::Unknown(failure) if failure.reason.contains("11")), "{outcome:?}");
    assert_eq!(peer.seen(), 1, "each try would be one more copy");

    let strong = Peer::start(1, |_, asked| Reply::Answer(stored(asked, 0))).await;
    let weak = Peer::start_beside(std::slice::from_ref(&strong.address), 1, |_, asked| {
        Reply::Answer(refuse(asked, response::FLUSH_DISK_TIMEOUT, "FLUSH_DISK_TIMEOUT"))
    })
    .await;
    let producer = Producer::new(weak.cluster(), "p");
    let outcome = producer.deliver("t", &[message(b"x")], Some(&queue()), 2 * SECOND).await;
    let Outcome::Delivered(receipt) = outcome else { panic!("{outcome:?}") };
    assert_eq!((receipt.broker.as_str(), receipt.perhaps_twice), ("other-0", true));

    // Who remembers it by itself asks the next one, and nobody where there is none.
    let left_out = BTreeSet::from(["other-0".to_owned()]);
    let seen = (weak.seen(), strong.seen());
    let outcome = producer.deliver_without("t", &[message(b"x")], &left_out, 2 * SECOND).await;
    let Outcome::Unknown(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!((weak.seen(), strong.seen()), (seen.0 + 1, seen.1), "it ends with the first unknown outcome");
    let left_out = BTreeSet::from(["other-0".to_owned(), failure.broker]);
    let outcome = producer.deliver_without("t", &[message(b"x")], &left_out, 2 * SECOND).await;
    assert!(matches!(outcome, Outcome::NotSent(_)), "{outcome:?}");
    assert_eq!((weak.seen(), strong.seen()), (seen.0 + 1, seen.1));
}

#[tokio::test]
async fn go_away_moves_the_next_request_to_a_new_connection() {
    let peer = Peer::start(1, |nth, asked| match nth {
        0 => Reply::Answer(refuse(asked, response::GO_AWAY, "please go away")),
        _ => Reply::Answer(stored(asked, 3)),
    })
    .await;
    let producer = Producer::new(peer.cluster(), "p");
    let outcome = producer.deliver("t", &[message(b"x")], None, 2 * SECOND).await;
    let Outcome::Delivered(receipt) = outcome else { panic!("{outcome:?}") };
    assert!(!receipt.perhaps_twice, "a server that says go away has stored nothing");
}

#[tokio::test]
async fn a_peer_that_went_without_a_word_costs_one_request_and_not_every_one_until_tcp_notices() {
    let peer = Peer::start(1, |nth, asked| match nth {
        0 => Reply::Deaf,
        _ => Reply::Answer(stored(asked, 1)),
    })
    .await;
    let producer = Producer::new(peer.cluster(), "p");
    let outcome = producer.send(&queue(), &[message(b"x")], SECOND).await;
    assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    let outcome = producer.send(&queue(), &[message(b"x")], SECOND).await;
    assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
}

#[tokio::test]
async fn an_answer_that_is_missing_among_others_replaces_no_connection() {
    let peer = Peer::start(1, |nth, asked| match nth {
        0 => Reply::Silence,
        _ => Reply::Answer(stored(asked, 1)),
    })
    .await;
    let producer = Producer::new(peer.cluster(), "p");
    let (queue, first) = (queue(), [message(b"x")]);
    let unanswered = producer.send(&queue, &first, SECOND);
    let others = async {
        eventually("the first is there", SOON, async || peer.seen() == 1).await;
        producer.send(&queue, &[message(b"y")], SECOND).await
    };
    let (unanswered, other) = futures_util::future::join(unanswered, others).await;
    assert!(matches!(unanswered, Outcome::Unknown(_)) && matches!(other, Outcome::Delivered(_)));
    let outcome = producer.send(&queue, &[message(b"z")], SECOND).await;
    assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
    assert_eq!(peer.accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_batch_goes_out_with_empty_outer_properties() {
    let outer = Arc::new(Mutex::new(None));
    let told = Arc::clone(&outer);
    let peer = Peer::start(1, move |_, asked| {
        *told.lock().unwrap() = Some((asked.code, asked.ext["i"].clone(), asked.ext["m"].clone()));
        Reply::Answer(stored(asked, 0))
    })
    .await;
    let producer = Producer::new(peer.cluster(), "p");
    let outcome = producer.send(&queue(), &[message(b"a"), message(b"b")], SECOND).await;
    assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
    let outer = outer.lock().unwrap().take();
    assert_eq!(outer, Some((request::SEND_BATCH_MESSAGE, String::new(), "true".to_owned())));
}

async fn problem_of(answer: impl Fn(&Command) -> Command + Send + Sync + 'static) -> (usize, Problem) {
    let peer = Peer::start(1, move |_, asked| Reply::Answer(answer(asked))).await;
    let reader = QueueReader::new(peer.cluster(), "g");
    match reader.pull(&queue(), 5, 32, Duration::ZERO).await.unwrap() {
        Pull::Messages { messages, problem: Some(problem), .. } => (messages.len(), problem),
        other => panic!("no problem reported: {other:?}"),
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_decoded_is_named_and_what_stands_before_it_is_kept() {
    let (kept, problem) = problem_of(|asked| {
        let answer = pulled(asked, 8, &[record(5, b"good"), record(6, b"damaged"), record(7, b"good")]);
        let mut body = answer.body.to_vec();
        let place = body.windows(7).position(|bytes| bytes == b"damaged").unwrap();
        body[place] ^= 1;
        answer.body(body)
    })
    .await;
    assert_eq!(kept, 1);
    assert!(matches!(&problem, Problem::Record { offset: 6, .. }), "{problem}");
    let text = problem.to_string();
    assert!(text.contains("t/fake/0") && text.contains('6'), "{text}");
}

#[tokio::test]
async fn a_record_at_the_wrong_place_is_named() {
    let (kept, problem) = problem_of(|asked| pulled(asked, 7, &[record(5, b"a"), record(7, b"b")])).await;
    assert_eq!(kept, 1);
    assert!(matches!(problem, Problem::Displaced { offset: 6, found: 7, .. }), "{problem}");
}

#[tokio::test]
async fn places_the_broker_skips_are_named() {
    let (kept, problem) = problem_of(|asked| pulled(asked, 9, &[record(5, b"a")])).await;
    assert_eq!(kept, 1);
    assert!(matches!(problem, Problem::Gap { from: 6, to: 8, .. }), "{problem}");

    let (kept, problem) = problem_of(|asked| {
        let answer = refuse(asked, response::PULL_RETRY_IMMEDIATELY, "filtered");
        answer.field("nextBeginOffset", 9).field("minOffset", 0).field("maxOffset", 100)
    })
    .await;
    assert_eq!(kept, 0);
    assert!(matches!(problem, Problem::Gap { from: 5, to: 8, .. }), "{problem}");
}

#[tokio::test]
async fn a_record_of_another_queue_is_named() {
    let stray = StoredMessage { topic: "other".into(), ..record(5, b"a") };
    let (_, problem) = problem_of(move |asked| pulled(asked, 6, std::slice::from_ref(&stray))).await;
    assert!(matches!(problem, Problem::Stray { offset: 5, .. }), "{problem}");
}

#[tokio::test]
async fn a_commit_that_is_answered_and_ignored_is_noticed() {
    let peer = Peer::start(1, |_, asked| match asked.code {
        request::UPDATE_CONSUMER_OFFSET => {
            Reply::Answer(refuse(asked, 0, "Offset has been previously reset"))
        }
        _ => Reply::Answer(ok(asked).field("offset", 3)),
    })
    .await;
    let commit = peer.cluster().try_commit("g", &queue(), 10).await.unwrap();
    assert_eq!(commit, Commit::Ignored { holds: Some(3) });
    assert_eq!(peer.seen(), 2);
    let failed = peer.cluster().commit_offset("g", &queue(), 10).await.unwrap_err();
    assert_eq!(failed.to_string(), "g was set to offset 10 in t/fake/0, and the broker holds 3");
}

/// A broker with a consumer group's settings and the offset it holds, which fails its first commit.
struct GroupKeeper {
    address: OnceLock<String>,
    settings: Mutex<Option<serde_json::Value>>,
    committed: Mutex<Option<String>>,
    fails: AtomicBool,
}

impl GroupKeeper {
    fn answer(&self, asked: &Command) -> Command {
        match asked.code {
            request::GET_BROKER_CLUSTER_INFO => {
                let brokers = serde_json::json!({"fake": {"brokerAddrs": {"0": self.address.get()}}});
                ok(asked).body(serde_json::json!({"brokerAddrTable": brokers}).to_string())
            }
            request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG => {
                let groups = match &*self.settings.lock().unwrap() {
                    Some(settings) => serde_json::json!({"g": settings}),
                    None => serde_json::json!({}),
                };
                ok(asked).body(serde_json::json!({"subscriptionGroupTable": groups}).to_string())
            }
            request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => {
                *self.settings.lock().unwrap() = Some(serde_json::from_slice(&asked.body).unwrap());
                ok(asked)
            }
            request::GET_MIN_OFFSET => ok(asked).field("offset", 0),
            request::GET_MAX_OFFSET => ok(asked).field("offset", 7),
            request::UPDATE_CONSUMER_OFFSET if self.fails.swap(false, Ordering::SeqCst) => {
                refuse(asked, response::SYSTEM_ERROR, "not now")
            }
            request::UPDATE_CONSUMER_OFFSET => {
                *self.committed.lock().unwrap() = Some(asked.ext["commitOffset"].clone());
                ok(asked)
            }
            _ => match &*self.committed.lock().unwrap() {
                Some(offset) => ok(asked).field("offset", offset),
                None => refuse(asked, response::QUERY_NOT_FOUND, "Not found"),
            },
        }
    }

    fn is_open(&self) -> bool {
        self.settings.lock().unwrap().as_ref().unwrap()["consumeEnable"] == true
    }
}

#[tokio::test]
async fn a_group_whose_offsets_could_not_be_set_is_closed_until_a_repeat_sets_them() {
    let keeper = Arc::new(GroupKeeper {
        address: OnceLock::new(),
        settings: Mutex::default(),
        committed: Mutex::default(),
        fails: AtomicBool::new(true),
    });
    let answering = Arc::clone(&keeper);
    let peer = Peer::start(1, move |_, asked| Reply::Answer(answering.answer(asked))).await;
    keeper.address.set(peer.address.clone()).unwrap();
    let cluster = peer.cluster();
    cluster.create_group_at_end("g", "t").await.unwrap_err();
    assert!(!keeper.is_open(), "it would read the topic from its beginning");
    cluster.create_group_at_end("g", "t").await.unwrap();
    assert!(keeper.is_open());
    assert_eq!(keeper.committed.lock().unwrap().as_deref(), Some("7"));
    // What somebody has closed stays closed, be it one that was not finished.
    cluster.set_consuming("g", false).await.unwrap();
    cluster.create_group_at_end("g", "t").await.unwrap();
    assert!(!keeper.is_open());
    *keeper.settings.lock().unwrap() = None;
    keeper.fails.store(true, Ordering::SeqCst);
    cluster.create_group_at_end("g", "t").await.unwrap_err();
    cluster.set_consuming("g", false).await.unwrap();
    cluster.create_group_at_end("g", "t").await.unwrap();
    assert!(!keeper.is_open());
}

#[tokio::test]
async fn a_name_server_that_is_gone_or_silent_is_passed_over() {
    // The kernel accepts connections for this listener, and nobody ever reads them.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = Peer::start(3, |_, _| Reply::Silence).await;
    let servers =
        vec!["127.0.0.1:1".to_owned(), silent.local_addr().unwrap().to_string(), good.address.clone()];
    let mut config = ClusterConfig::new(servers);
    config.request_timeout = Duration::from_secs(2);
    let cluster = Cluster::new(config);
    assert_eq!(cluster.route("t").await.unwrap().write_queues.len(), 3);
    // The one that answered is asked first from now on: no further wait for the silent one.
    let started = std::time::Instant::now();
    assert_eq!(cluster.route("another").await.unwrap().write_queues.len(), 3);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_broker_that_refuses_while_the_name_server_is_silent_costs_no_publish() {
    for (code, remark) in [
        (response::NO_PERMISSION, "the broker sending message is forbidden"),
        (response::TOPIC_NOT_EXIST, "topic not exist"),
    ] {
        let refuses = Peer::start(1, move |_, asked| Reply::Answer(refuse(asked, code, remark))).await;
        let takes = Peer::start(1, |_, asked| Reply::Answer(stored(asked, 0))).await;
        let addresses = [refuses.address.clone(), takes.address.clone()];
        let name_server = Peer::without_routes(move |nth, asked| match nth {
            0 => Reply::Answer(ok(asked).body(route(&addresses))),
            _ => Reply::Silence,
        })
        .await;
        let producer = Producer::new(name_server.cluster(), "p");
        // They begin with the one and the other in turn.
        for _ in 0..4 {
            let outcome = producer.deliver("t", &[message(b"x")], None, 3 * SECOND).await;
            assert!(matches!(outcome, Outcome::Delivered(_)), "code {code}: {outcome:?}");
        }
        assert!(refuses.seen() > 0);
    }
}

/// Of `t`, with a queue on each of two brokers.
fn route(addresses: &[String; 2]) -> String {
    let [one, other] = addresses;
    let queues = ["one", "other"].map(
        |name| serde_json::json!({"brokerName": name, "readQueueNums": 1, "writeQueueNums": 1, "perm": 6}),
    );
    let brokers = [("one", one), ("other", other)].map(
        |(name, address)| serde_json::json!({"brokerName": name, "cluster": "c", "brokerAddrs": {"0": address}}),
    );
    serde_json::json!({"queueDatas": queues, "brokerDatas": brokers}).to_string()
}

#[tokio::test]
async fn a_broker_that_went_and_came_back_is_known_soon_though_nobody_asks() {
    let addresses = ["127.0.0.1:1", "127.0.0.1:2"].map(str::to_owned);
    let name_server = Peer::without_routes(move |nth, asked| {
        let known = if matches!(nth, 1 | 2) { "{}".to_owned() } else { route(&addresses) };
        Reply::Answer(ok(asked).body(known))
    })
    .await;
    let cluster = name_server.cluster();
    let masters = async || cluster.route("t").await.unwrap().masters().count();
    assert_eq!(masters().await, 2);
    cluster.fresh_route("t").await.unwrap();
    assert_eq!(masters().await, 0);
    let members = Member::unannounced(cluster.clone(), "g", "t").members().await;
    assert!(matches!(members, Err(ClusterError::NoBroker)), "nobody said that there are none: {members:?}");
    let gone = std::time::Instant::now();
    eventually("both are known", SOON, async || masters().await == 2).await;
    assert!(gone.elapsed() < 25 * SECOND, "as late as any change: {:?}", gone.elapsed());
}

#[tokio::test]
async fn a_topic_is_unknown_only_when_no_name_server_knows_it() {
    let listing = |brokers: &'static str| {
        move |_: usize, asked: &Command| {
            Reply::Answer(ok(asked).body(format!(r#"{{"brokerAddrTable":{{{brokers}}}}}"#)))
        }
    };
    let knows_nothing = Peer::start(0, listing("")).await;
    let knows = Peer::start(3, listing(r#""fake":{"brokerAddrs":{0:"127.0.0.1:1"}}"#)).await;
    let servers = vec![knows_nothing.address.clone(), knows.address.clone()];
    let cluster = Cluster::new(ClusterConfig::new(servers));
    assert_eq!(
        cluster.brokers().await.unwrap().len(),
        1,
        "nor is a cluster without brokers believed at once"
    );
    assert_eq!(cluster.route("t").await.unwrap().write_queues.len(), 3);
    assert_eq!(knows_nothing.cluster().brokers().await.unwrap().len(), 0);
    let unknown = knows_nothing.cluster().route("t").await;
    assert!(matches!(unknown, Err(ClusterError::UnknownTopic(_))), "{unknown:?}");
}

#[tokio::test]
async fn locks_are_had_while_other_brokers_are_frozen_and_only_those_asked_for() {
    // The kernel accepts connections for these, and nobody ever reads them.
    let mut frozen = Vec::new();
    for _ in 0..5 {
        frozen.push(tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let addresses: Vec<_> = frozen.iter().map(|frozen| frozen.local_addr().unwrap().to_string()).collect();
    let peer = Peer::start_beside(&addresses, 1, |_, asked| {
        Reply::Answer(match asked.code {
            request::LOCK_BATCH_MQ => {
                let queue = |id: i32| serde_json::json!({"topic": "t", "brokerName": "fake", "queueId": id});
                ok(asked).body(serde_json::json!({"lockOKMQSet": [queue(0), queue(7)]}).to_string())
            }
            request::GET_CONSUMER_LIST_BY_GROUP => ok(asked).body(r#"{"consumerIdList":["me"]}"#),
            _ => ok(asked),
        })
    })
    .await;
    let mut config = ClusterConfig::new(vec![peer.address.clone()]);
    config.request_timeout = SECOND;
    let cluster = Cluster::new(config);
    let queues = cluster.route("t").await.unwrap().read_queues.clone();
    assert_eq!(queues.len(), 6);
    let started = std::time::Instant::now();
    let member = Member::join(cluster, "g", "t").await.unwrap();
    assert_eq!(member.members().await.unwrap(), ["me"]);
    let locked = member.lock(&queues).await;
    assert_eq!(locked.granted, [queue()].into());
    assert_eq!(locked.refused, [].into());
    member.unlock(&queues).await;
    member.leave().await;
    // One second for each of the five questions, not for each frozen broker.
    assert!(started.elapsed() < 10 * SECOND, "{:?}", started.elapsed());
}

#[tokio::test]
async fn whoever_is_not_polled_keeps_nobody_from_a_connection() {
    let peer = Peer::start(1, |_, asked| Reply::Answer(stored(asked, 0))).await;
    let cluster = peer.cluster();
    let ask = || cluster.ask(&peer.address, "anything", Command::request(request::GET_MAX_OFFSET));
    let (opens, mut waits) = (Box::pin(ask()), Box::pin(ask()));
    // The second is polled once, while the first opens the connection, and then left alone.
    let second = async {
        tokio::select! {
            biased;
            _ = &mut waits => panic!("there is no connection yet"),
            () = std::future::ready(()) => {}
        }
    };
    let (opened, ()) = tokio::join!(opens, second);
    opened.unwrap();
    let third = tokio::time::timeout(SOON, ask()).await;
    third.expect("the second has the turn, and does nothing with it").unwrap();
    drop(waits);
}
