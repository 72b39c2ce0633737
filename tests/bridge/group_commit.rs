//! Publishes that share batches, and what each caller hears. A scripted broker shows what a real one cannot be made to:
//! which messages came in which request, and answers that refuse, fail or never come.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use nsqbridge::{
    gateway::{
        admission::AdmissionLimits,
        lane::Stored,
        publish::{PublishConfig, PublishError, PublishRequest, Publisher},
        spool::{OnUnavailable, SpoolConfig},
    },
    rocketmq::{
        codes::{request, response},
        command::Command,
        producer::unix_millis,
        properties::PropertiesBuilder,
    },
};
use tokio::{sync::Notify, task::JoinHandle};

use crate::{
    bridge::{SOON, eventually},
    scripted::{Peer, Reply, ok, refuse, stored},
};

const SECOND: Duration = Duration::from_secs(1);

/// The bodies of every send the peer was asked for.
type Sends = Arc<Mutex<Vec<Vec<Bytes>>>>;

/// The bodies a send carries.
fn bodies(asked: &Command) -> Vec<Bytes> {
    if asked.code == request::SEND_MESSAGE_V2 {
        return vec![asked.body.clone()];
    }
    assert_eq!(asked.code, request::SEND_BATCH_MESSAGE);
    let mut rest = asked.body.clone();
    let mut bodies = Vec::new();
    while rest.has_remaining() {
        let mut record = rest.split_to(i32::from_be_bytes(rest[..4].try_into().unwrap()) as usize);
        // Size, magic, checksum and flag come first.
        record.advance(16);
        let length = record.get_i32() as usize;
        bodies.push(record.split_to(length));
    }
    bodies
}

/// A peer whose sends go by `script`, told how many came before, and a publisher to it.
async fn publisher(
    config: PublishConfig,
    script: impl Fn(usize, &Command, &[Bytes]) -> Reply + Send + Sync + 'static,
) -> (Peer, Arc<Publisher>, Sends) {
    let sends = Sends::default();
    let told = Arc::clone(&sends);
    let address = Arc::new(OnceLock::<String>::new());
    let listed = Arc::clone(&address);
    let peer = Peer::start(4, move |_, asked| {
        if asked.code == request::GET_BROKER_CLUSTER_INFO {
            let brokers = listed.get().map(|address| serde_json::json!({"0": address}));
            let table = serde_json::json!({"brokerAddrTable": {"fake": {"brokerAddrs": brokers}}});
            return Reply::Answer(ok(asked).body(table.to_string()));
        }
        if ![request::SEND_MESSAGE_V2, request::SEND_BATCH_MESSAGE].contains(&asked.code) {
            return Reply::Answer(refuse(asked, response::SYSTEM_ERROR, "only sends are served here"));
        }
        let bodies = bodies(asked);
        let mut sends = told.lock().unwrap();
        sends.push(bodies.clone());
        script(sends.len() - 1, asked, &bodies)
    })
    .await;
    address.set(peer.address.clone()).unwrap();
    // Audit records would be sends, too, and the script counts those.
    let config = PublishConfig { audit: false, ..config };
    let publisher = Arc::new(Publisher::new(peer.cluster(), config).unwrap());
    (peer, publisher, sends)
}

fn publish(
    publisher: &Arc<Publisher>,
    topic: &str,
    bodies: &[&str],
    defer: Option<Duration>,
) -> JoinHandle<Result<Stored, PublishError>> {
    let request = PublishRequest {
        topic: topic.parse().unwrap(),
        bodies: bodies.iter().map(|body| Bytes::copy_from_slice(body.as_bytes())).collect(),
        properties: PropertiesBuilder::new(),
        accepted_ms: unix_millis(),
        defer,
        wants_ids: true,
        permit: publisher.admit().unwrap(),
    };
    let publisher = Arc::clone(publisher);
    tokio::spawn(async move { publisher.publish(request).await })
}

/// Begins a publish and waits until the peer has it.
async fn first(publisher: &Arc<Publisher>, sends: &Sends) -> JoinHandle<Result<Stored, PublishError>> {
    let first = publish(publisher, "t", &["first"], None);
    eventually("the first send", SOON, async || !sends.lock().unwrap().is_empty()).await;
    first
}

/// Stores what is sent, the first once `gate` is told, but for what is refused.
fn storing(
    gate: &Arc<Notify>,
    refused: impl Fn(&[Bytes]) -> bool + Send + Sync + 'static,
) -> impl Fn(usize, &Command, &[Bytes]) -> Reply + Send + Sync + 'static {
    let gate = Arc::clone(gate);
    move |nth, asked, bodies| match nth {
        _ if refused(bodies) => {
            Reply::Answer(refuse(asked, response::MESSAGE_ILLEGAL, "the message is illegal"))
        }
        0 => Reply::Held(Arc::clone(&gate), stored(asked, 0)),
        _ => Reply::Answer(stored(asked, nth as i64)),
    }
}

#[tokio::test]
async fn publishes_gather_while_one_is_on_its_way_and_leave_in_order() {
    let gate = Arc::new(Notify::new());
    let script = storing(&gate, |_| false);
    let (_peer, publisher, sends) = publisher(PublishConfig::default(), script).await;
    let first = first(&publisher, &sends).await;
    let mut waiting = Vec::new();
    for n in 0..15 {
        let (one, other) = (format!("{n}a"), format!("{n}b"));
        waiting.push(publish(&publisher, "t", &[&one, &other], None));
        tokio::task::yield_now().await;
    }
    let deferred = publish(&publisher, "t", &["later"], Some(Duration::from_secs(60)));
    gate.notify_one();
    assert_eq!(first.await.unwrap().unwrap().ids.len(), 1);
    let mut ids = Vec::new();
    for publish in waiting {
        ids.extend(publish.await.unwrap().unwrap().ids);
    }
    deferred.await.unwrap().unwrap();
    let sends = sends.lock().unwrap().clone();
    let expected: Vec<Bytes> =
        (0..15).flat_map(|n| [format!("{n}a"), format!("{n}b")]).map(Bytes::from).collect();
    assert_eq!(sends[0], ["first"], "a lone publish waits for nobody");
    assert!(sends.contains(&expected), "{sends:?}");
    assert!(sends.contains(&vec![Bytes::from("later")]), "a deferred message travels alone");
    assert_eq!(sends.len(), 3);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 30, "every message has an id of its own");
}

#[tokio::test]
async fn good_batches_leave_beside_the_one_under_way_and_past_four_they_gather_again() {
    let gates = [(); 4].map(|()| Arc::new(Notify::new()));
    let held = gates.clone();
    let script = move |nth: usize, asked: &Command, _: &[Bytes]| match held.get(nth) {
        Some(gate) => Reply::Late(Arc::clone(gate), stored(asked, nth as i64)),
        None => Reply::Answer(stored(asked, nth as i64)),
    };
    let (_peer, publisher, sends) = publisher(PublishConfig::default(), script).await;
    let first = first(&publisher, &sends).await;
    let good = ["x"; 40];
    let mut beside = Vec::new();
    for n in 2..=4 {
        beside.push(publish(&publisher, "t", &good, None));
        eventually("it is on its way", SOON, async || sends.lock().unwrap().len() == n).await;
    }
    let fifth = publish(&publisher, "t", &good, None);
    tokio::task::yield_now().await;
    let last = publish(&publisher, "t", &["last"], None);
    tokio::task::yield_now().await;
    // A younger one may have its answer first, which says nothing of the older ones.
    gates[2].notify_one();
    assert_eq!(beside.remove(1).await.unwrap().unwrap().ids.len(), 40);
    assert_eq!(fifth.await.unwrap().unwrap().ids.len(), 40);
    last.await.unwrap().unwrap();
    assert!(!first.is_finished() && beside.iter().all(|publish| !publish.is_finished()));
    gates.iter().for_each(|gate| gate.notify_one());
    first.await.unwrap().unwrap();
    for publish in beside {
        publish.await.unwrap().unwrap();
    }
    let sends = sends.lock().unwrap().clone();
    let lengths: Vec<usize> = sends.iter().map(Vec::len).collect();
    assert_eq!(lengths, [1, 40, 40, 40, 41]);
    assert_eq!(sends[4][40], "last");
}

#[tokio::test]
async fn of_two_batches_the_one_without_an_answer_is_unknown_and_the_other_is_not() {
    let config = PublishConfig { budget: SECOND, ..PublishConfig::default() };
    let (_peer, publisher, sends) = publisher(config, |nth, asked, _| match nth {
        0 => Reply::Silence,
        _ => Reply::Answer(stored(asked, nth as i64)),
    })
    .await;
    let first = first(&publisher, &sends).await;
    let second = publish(&publisher, "t", &["x"; 40], None);
    assert_eq!(second.await.unwrap().unwrap().ids.len(), 40);
    assert!(!first.is_finished());
    assert!(matches!(first.await.unwrap(), Err(PublishError::Unknown(_))));
    assert_eq!(publish(&publisher, "t", &["y"], None).await.unwrap().unwrap().ids.len(), 1);
}

#[tokio::test]
async fn a_refused_message_is_refused_alone() {
    let gate = Arc::new(Notify::new());
    let script = storing(&gate, |bodies| bodies.iter().any(|body| body.starts_with(b"bad")));
    let (_peer, publisher, sends) = publisher(PublishConfig::default(), script).await;
    let first = first(&publisher, &sends).await;
    let good: Vec<_> = ["a", "b"].map(|body| publish(&publisher, "t", &[body], None)).into();
    let bad = publish(&publisher, "t", &["bad"], None);
    let half_good = publish(&publisher, "t", &["c", "d", "bad too", "e"], None);
    let last = publish(&publisher, "t", &["z"], None);
    gate.notify_one();
    first.await.unwrap().unwrap();
    for good in good {
        good.await.unwrap().unwrap();
    }
    last.await.unwrap().unwrap();
    assert!(matches!(bad.await.unwrap(), Err(PublishError::Refused(_))));
    let refused = half_good.await.unwrap();
    assert!(
        matches!(&refused, Err(PublishError::Refused(reason)) if reason.contains("message 3 of 4, 2 before it are stored")),
        "{refused:?}"
    );
    let stored: Vec<Bytes> = sends
        .lock()
        .unwrap()
        .iter()
        .filter(|bodies| !bodies.iter().any(|body| body.starts_with(b"bad")))
        .flatten()
        .cloned()
        .collect();
    assert_eq!(stored, ["first", "a", "b", "c", "d", "z"], "in order, and each once");
}

#[tokio::test]
async fn a_broker_that_takes_smaller_requests_has_all_after_a_few() {
    let gate = Arc::new(Notify::new());
    let script = storing(&gate, |bodies| bodies.len() > 8);
    let (_peer, publisher, sends) = publisher(PublishConfig::default(), script).await;
    let first = first(&publisher, &sends).await;
    let bodies: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    let waiting: Vec<_> = bodies.iter().map(|body| publish(&publisher, "t", &[body], None)).collect();
    gate.notify_one();
    first.await.unwrap().unwrap();
    for publish in waiting {
        publish.await.unwrap().unwrap();
    }
    let sends = sends.lock().unwrap();
    let stored: Vec<Bytes> =
        sends[1..].iter().filter(|bodies| bodies.len() <= 8).flatten().cloned().collect();
    assert_eq!(stored, bodies, "each once, in order");
    assert!(sends.len() < 12, "{} requests", sends.len());
}

#[tokio::test]
async fn what_is_certainly_not_stored_is_sent_again_in_order_until_its_time_is_up() {
    let config = PublishConfig { budget: Duration::from_secs(3), ..PublishConfig::default() };
    let (_peer, publisher, sends) = publisher(config, |nth, asked, _| match nth {
        0..4 => Reply::Answer(refuse(asked, response::SYSTEM_BUSY, "[TIMEOUT_CLEAN_QUEUE]")),
        _ => Reply::Answer(stored(asked, nth as i64)),
    })
    .await;
    let bodies: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let mut waiting = Vec::new();
    for body in &bodies {
        waiting.push(publish(&publisher, "t", &[body], None));
        tokio::task::yield_now().await;
    }
    for publish in waiting {
        publish.await.unwrap().unwrap();
    }
    let stored: Vec<Bytes> = sends.lock().unwrap()[4..].concat();
    assert_eq!(stored, bodies, "each once, in order");
}

#[tokio::test]
async fn without_an_answer_everybody_in_the_batch_is_told_so_in_time() {
    let config = PublishConfig { budget: Duration::from_secs(1), ..PublishConfig::default() };
    let (_peer, publisher, sends) = publisher(config, |_, _, _| Reply::Silence).await;
    let first = first(&publisher, &sends).await;
    let second = publish(&publisher, "t", &["second"], None);
    assert!(matches!(first.await.unwrap(), Err(PublishError::Unknown(_))));
    // It was never begun: there was no time left for an answer.
    assert!(matches!(second.await.unwrap(), Err(PublishError::Unavailable(_))));
    assert_eq!(sends.lock().unwrap().concat(), ["first"]);
}

#[tokio::test]
async fn an_answer_too_late_for_the_oldest_of_a_batch_is_in_time_for_the_others() {
    let config = PublishConfig { budget: 4 * SECOND, ..PublishConfig::default() };
    let gates = [(); 2].map(|()| Arc::new(Notify::new()));
    let held = gates.clone();
    let (_peer, publisher, sends) = publisher(config, move |nth, asked, _| match held.get(nth) {
        Some(gate) => Reply::Held(Arc::clone(gate), stored(asked, nth as i64)),
        None => Reply::Answer(stored(asked, nth as i64)),
    })
    .await;
    let first = first(&publisher, &sends).await;
    let oldest = publish(&publisher, "t", &["oldest"], None);
    tokio::time::sleep(3 * SECOND).await;
    let newest = publish(&publisher, "t", &["newest"], None);
    tokio::task::yield_now().await;
    gates[0].notify_one();
    first.await.unwrap().unwrap();
    eventually("the batch is on its way", SOON, async || sends.lock().unwrap().len() == 2).await;
    let oldest = oldest.await.unwrap();
    assert!(matches!(oldest, Err(PublishError::Unknown(_))), "{oldest:?}");
    gates[1].notify_one();
    assert_eq!(newest.await.unwrap().unwrap().ids.len(), 1);
    assert_eq!(sends.lock().unwrap()[1..], [["oldest", "newest"].map(Bytes::from).to_vec()]);
}

#[tokio::test]
async fn a_stuck_topic_takes_no_room_from_others() {
    let room = 64 * 1024;
    let config = PublishConfig {
        admission: AdmissionLimits { bytes: 4 * room, topic_bytes: room, requests: 10_000 },
        budget: SOON,
        ..PublishConfig::default()
    };
    let (_peer, publisher, sends) = publisher(config, |nth, asked, _| match &*asked.ext["b"] {
        "t" => Reply::Silence,
        _ => Reply::Answer(stored(asked, nth as i64)),
    })
    .await;
    let _first = first(&publisher, &sends).await;
    let mut full = 0;
    let mut stuck = Vec::new();
    for _ in 0..200 {
        let publish = publish(&publisher, "t", &["x"], None);
        tokio::task::yield_now().await;
        if publish.is_finished() {
            assert!(matches!(publish.await.unwrap(), Err(PublishError::Full(_))));
            full += 1;
        } else {
            stuck.push(publish);
        }
    }
    assert!(stuck.len() < 100 && full > 100, "{} wait, {full} were refused at once", stuck.len());
    for _ in 0..100 {
        publish(&publisher, "other", &["y"], None).await.unwrap().unwrap();
    }
    stuck.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn a_topic_brokers_lost_is_created_again_though_a_name_server_still_lists_it() {
    let address = Arc::new(OnceLock::<String>::new());
    let created = Arc::new(AtomicBool::new(false));
    let (told, made) = (Arc::clone(&address), Arc::clone(&created));
    let peer = Peer::start(4, move |nth, asked| {
        let missing = || refuse(asked, response::TOPIC_NOT_EXIST, "topic[t] not exist, apply first please!");
        Reply::Answer(match asked.code {
            request::GET_BROKER_CLUSTER_INFO => {
                let brokers = serde_json::json!({"fake": {"brokerAddrs": {"0": told.get()}}});
                ok(asked).body(serde_json::json!({"brokerAddrTable": brokers}).to_string())
            }
            request::UPDATE_AND_CREATE_TOPIC => {
                made.store(true, Ordering::SeqCst);
                ok(asked)
            }
            _ if !made.load(Ordering::SeqCst) => missing(),
            _ => stored(asked, nth as i64),
        })
    })
    .await;
    address.set(peer.address.clone()).unwrap();
    let publisher = Arc::new(Publisher::new(peer.cluster(), PublishConfig::default()).unwrap());
    publish(&publisher, "t", &["x"], None).await.unwrap().unwrap();
    assert!(created.load(Ordering::SeqCst));
}

fn spooling(folder: &Path) -> PublishConfig {
    let spool = SpoolConfig {
        path: Some(folder.to_owned()),
        policy: OnUnavailable::Spool,
        after: Duration::from_millis(300),
        max_disk_use: 100,
        ..SpoolConfig::default()
    };
    PublishConfig { spool, budget: SECOND, ..PublishConfig::default() }
}

#[tokio::test]
async fn a_broker_that_stores_spooled_messages_too_weakly_gets_few_copies_of_one_until_it_stores_them() {
    let weak = Arc::new(AtomicBool::new(true));
    let still_weak = Arc::clone(&weak);
    let folder = tempfile::tempdir().unwrap();
    let (_peer, publisher, sends) = publisher(spooling(folder.path()), move |nth, asked, _| {
        Reply::Answer(if still_weak.load(Ordering::SeqCst) {
            refuse(asked, response::SLAVE_NOT_AVAILABLE, "SLAVE_NOT_AVAILABLE")
        } else {
            stored(asked, nth as i64)
        })
    })
    .await;
    let all: Vec<String> = (0..200).map(|n| format!("{n:03}")).collect();
    let started = Instant::now();
    for body in &all {
        publish(&publisher, "t", &[body], None).await.unwrap().unwrap();
    }
    eventually("it is sent again", SOON, async || sends.lock().unwrap().len() > 5).await;
    assert!(started.elapsed() > 4 * SECOND, "each copy in {:?}", started.elapsed());
    let copies: Vec<Bytes> = sends.lock().unwrap().iter().flatten().cloned().collect();
    assert!(copies.iter().all(|body| body == "000"), "{copies:?}");
    weak.store(false, Ordering::SeqCst);
    let taken = || sends.lock().unwrap().iter().skip(copies.len()).flatten().cloned().collect::<Vec<_>>();
    eventually("all are stored", SOON, async || taken().last().is_some_and(|body| body == "199")).await;
    let mut taken = taken();
    taken.dedup();
    assert_eq!(taken, all);
}

#[tokio::test]
async fn a_spooled_message_that_is_refused_after_a_try_without_an_answer_is_set_aside_and_no_other_is_sent_twice()
 {
    let away = Arc::new(AtomicBool::new(true));
    let (still_away, silent) = (Arc::clone(&away), AtomicBool::new(true));
    let folder = tempfile::tempdir().unwrap();
    let (_peer, publisher, sends) = publisher(spooling(folder.path()), move |nth, asked, bodies| {
        Reply::Answer(if still_away.load(Ordering::SeqCst) {
            refuse(asked, response::SYSTEM_BUSY, "broker busy")
        } else if silent.swap(false, Ordering::SeqCst) {
            return Reply::Silence;
        } else if bodies.iter().any(|body| body == "poison") {
            refuse(asked, response::MESSAGE_ILLEGAL, "the message is illegal")
        } else {
            stored(asked, nth as i64)
        })
    })
    .await;
    let all: Vec<String> = ["a", "b", "poison", "c", "d", "e"].map(str::to_owned).into();
    for body in &all {
        publish(&publisher, "t", &[body], None).await.unwrap().unwrap();
    }
    let before = sends.lock().unwrap().len();
    away.store(false, Ordering::SeqCst);
    let file = folder.path().join("topic-t/refused");
    eventually("the one is set aside", SOON, async || file.exists()).await;
    publish(&publisher, "t", &["afterwards"], None).await.unwrap().unwrap();
    let taken = || {
        let sends = sends.lock().unwrap();
        // The first try had no answer.
        let answered =
            sends[before..].iter().skip(1).filter(|bodies| !bodies.iter().any(|body| body == "poison"));
        let taken: Vec<_> =
            answered.flatten().map(|body| String::from_utf8_lossy(body).into_owned()).collect();
        taken
    };
    let expected: Vec<&str> =
        all.iter().map(String::as_str).filter(|body| *body != "poison").chain(["afterwards"]).collect();
    eventually("all others are stored", SOON, async || taken().len() >= expected.len()).await;
    assert_eq!(taken(), expected);
    assert!(fs::read(&file).unwrap().windows(6).any(|bytes| bytes == b"poison"));
}

#[tokio::test]
async fn a_spooled_message_that_is_not_held_back_for_as_long_as_it_should_is_delivered_all_the_same() {
    let away = Arc::new(AtomicBool::new(true));
    let still_away = Arc::clone(&away);
    let folder = tempfile::tempdir().unwrap();
    let levels = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&levels);
    let (_peer, publisher, _sends) = publisher(spooling(folder.path()), move |nth, asked, _| {
        let properties = &asked.ext["i"];
        if still_away.load(Ordering::SeqCst) {
            return Reply::Answer(refuse(asked, response::SYSTEM_BUSY, "broker busy"));
        }
        if properties.contains("TIMER_DELAY_MS") {
            return Reply::Answer(refuse(asked, response::MESSAGE_ILLEGAL, "timer message illegal"));
        }
        let level = properties.split('\u{2}').find_map(|property| property.strip_prefix("DELAY\u{1}"));
        seen.lock().unwrap().push(level.map(str::to_owned));
        Reply::Answer(stored(asked, nth as i64))
    })
    .await;
    publish(&publisher, "t", &["later"], Some(Duration::from_secs(5 * 24 * 3600))).await.unwrap().unwrap();
    publish(&publisher, "t", &["behind it"], None).await.unwrap().unwrap();
    away.store(false, Ordering::SeqCst);
    eventually("both are stored", SOON, async || levels.lock().unwrap().len() == 2).await;
    assert_eq!(*levels.lock().unwrap(), [Some("18".to_owned()), None]);
    assert!(!folder.path().join("topic-t/refused").exists());
}

#[tokio::test]
async fn a_broker_that_is_slow_to_take_a_new_topic_has_it_though_nobody_waits_for_that() {
    let [fast_has, slow_has, slow_may] = std::array::from_fn(|_| Arc::new(AtomicBool::new(false)));
    let missing = |asked: &Command| refuse(asked, response::TOPIC_NOT_EXIST, "No topic route info");
    let (made, may) = (Arc::clone(&slow_has), Arc::clone(&slow_may));
    let slow = Peer::start(0, move |nth, asked| {
        Reply::Answer(match asked.code {
            request::UPDATE_AND_CREATE_TOPIC if may.load(Ordering::SeqCst) => {
                made.store(true, Ordering::SeqCst);
                ok(asked)
            }
            request::UPDATE_AND_CREATE_TOPIC => refuse(asked, response::SYSTEM_BUSY, "not now"),
            request::GET_TOPIC_STATS_INFO => missing(asked),
            _ => stored(asked, nth as i64),
        })
    })
    .await;
    let address = Arc::new(OnceLock::<String>::new());
    let (told, made, other_has) = (Arc::clone(&address), Arc::clone(&fast_has), Arc::clone(&slow_has));
    let brokers = move || [("fast", told.get().cloned().unwrap()), ("slow", slow.address.clone())];
    let peer = Peer::without_routes(move |nth, asked| {
        let has = |name: &str| if name == "fast" { &made } else { &other_has }.load(Ordering::SeqCst);
        let having = || brokers().into_iter().filter(|(name, _)| has(name));
        Reply::Answer(match asked.code {
            request::GET_BROKER_CLUSTER_INFO => {
                let table: serde_json::Map<String, serde_json::Value> = brokers()
                    .map(|(name, address)| (name.to_owned(), serde_json::json!({"brokerAddrs": {"0": address}})))
                    .into_iter()
                    .collect();
                ok(asked).body(serde_json::json!({"brokerAddrTable": table}).to_string())
            }
            request::GET_ROUTEINFO_BY_TOPIC if having().next().is_some() => {
                let queues: Vec<_> = having()
                    .map(|(name, _)| serde_json::json!({"brokerName": name, "readQueueNums": 1, "writeQueueNums": 1, "perm": 6}))
                    .collect();
                let brokers: Vec<_> = having()
                    .map(|(name, address)| serde_json::json!({"brokerName": name, "cluster": "c", "brokerAddrs": {"0": address}}))
                    .collect();
                ok(asked).body(serde_json::json!({"queueDatas": queues, "brokerDatas": brokers}).to_string())
            }
            request::GET_ROUTEINFO_BY_TOPIC | request::GET_TOPIC_STATS_INFO => missing(asked),
            request::UPDATE_AND_CREATE_TOPIC => {
                made.store(true, Ordering::SeqCst);
                ok(asked)
            }
            _ => stored(asked, nth as i64),
        })
    })
    .await;
    address.set(peer.address.clone()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = PublishConfig { budget: 20 * SECOND, audit: false, ..spooling(folder.path()) };
    let publisher = Arc::new(Publisher::new(peer.cluster(), config).unwrap());
    publish(&publisher, "t", &["x"], None).await.unwrap().unwrap();
    assert!(fast_has.load(Ordering::SeqCst) && !slow_has.load(Ordering::SeqCst));
    slow_may.store(true, Ordering::SeqCst);
    eventually("the slow one has it", SOON, async || slow_has.load(Ordering::SeqCst)).await;
}
