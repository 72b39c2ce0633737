//! The client reads what real brokers of both lines wrote: see `tests/golden/`.

use std::{path::Path, time::Duration};

use bytes::BytesMut;
use nsqbridge::rocketmq::{
    Outcome, Producer, Queue, QueueReader,
    admin::Progress,
    codes::request,
    command::{self, Command},
    loose_json,
    reader::{Bounds, Pull},
};

use crate::scripted::{Peer, Reply, message};

fn golden(version: &str, name: &str) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{version}/{name}.bin"));
    let mut frame = BytesMut::from(&std::fs::read(path).unwrap()[..]);
    let command = command::decode(&mut frame).unwrap().unwrap();
    assert!(frame.is_empty() && command.opaque == 7 && command.is_response());
    command
}

fn queue() -> Queue {
    Queue { topic: "golden".into(), broker: "fake".into(), id: 1 }
}

/// A peer that answers everything as the recorded broker did.
async fn peer(version: &'static str) -> Peer {
    Peer::start(2, move |_, asked| {
        let name = match (asked.code, asked.ext.get("queueOffset").map(String::as_str)) {
            (request::SEND_MESSAGE_V2, _) => "send",
            (request::SEND_BATCH_MESSAGE, _) => "send_batch",
            (request::PULL_MESSAGE, Some("0")) => "pull",
            (request::PULL_MESSAGE, Some("3")) => "pull_nothing",
            (request::PULL_MESSAGE, _) => "pull_moved",
            (request::GET_TOPIC_STATS_INFO, _) => "topic_stats",
            (request::GET_CONSUME_STATS, _) => "consume_stats",
            (request::GET_BROKER_CLUSTER_INFO, _) => "brokers",
            (code, _) => panic!("unexpected request {code}"),
        };
        Reply::Answer(Command { opaque: asked.opaque, ..golden(version, name) })
    })
    .await
}

async fn check(version: &'static str) {
    let peer = peer(version).await;
    let cluster = peer.cluster();
    let producer = Producer::new(cluster.clone(), "p");
    let second = Duration::from_secs(1);
    for (messages, offset) in [(vec![message(b"x")], 0), (vec![message(b"x"), message(b"y")], 1)] {
        let outcome = producer.send(&queue(), &messages, second).await;
        let Outcome::Delivered(receipt) = outcome else { panic!("{outcome:?}") };
        assert_eq!((receipt.queue_id, receipt.queue_offset), (1, offset));
        assert_eq!(receipt.message_id.split(',').count(), messages.len());
    }

    let reader = QueueReader::new(cluster.clone(), "g");
    let pulled = reader.pull(&queue(), 0, 32, Duration::ZERO).await.unwrap();
    let Pull::Messages { messages, problem: None, bounds } = pulled else { panic!("{pulled:?}") };
    assert_eq!(bounds, Bounds { min: 0, max: 3 });
    let bodies: Vec<_> = messages.iter().map(|message| message.body.to_vec()).collect();
    assert_eq!(bodies, [(0..=255).collect(), b"first of a batch".to_vec(), b"second of a batch".to_vec()]);
    assert!(messages.iter().all(|message| message.properties.get("colour") == Some("grün")));
    assert!(messages.iter().all(|message| message.born_timestamp == 1_700_000_000_000));

    let nothing = reader.pull(&queue(), 3, 32, Duration::ZERO).await.unwrap();
    assert!(matches!(nothing, Pull::Empty { bounds: Bounds { min: 0, max: 3 } }), "{nothing:?}");
    let moved = reader.pull(&queue(), 99, 32, Duration::ZERO).await.unwrap();
    assert!(matches!(moved, Pull::OffsetMoved { next: 3, .. }), "{moved:?}");

    let stats = cluster.topic_stats("golden").await.unwrap();
    let recorded = Queue { broker: "broker-a".into(), ..queue() };
    assert_eq!(stats.get(&recorded), Some(&Bounds { min: 0, max: 3 }));
    assert_eq!(stats.len(), 2);
    let progress = cluster.consume_stats("golden-group", "golden").await.unwrap();
    assert_eq!(progress.get(&recorded), Some(&Progress { broker_offset: 3, consumer_offset: 2 }));
    let brokers = cluster.brokers().await.unwrap();
    assert!(brokers["broker-a"][&0].starts_with("127.0.0.1:"));

    // The unquoted keys older clients get.
    let old = loose_json::parse(&golden(version, "route_old_json").body).unwrap();
    let data = old.get("brokerDatas").unwrap().items();
    assert_eq!(data[0].get("brokerAddrs").unwrap().entries()[0].0.as_i64(), Some(0));
}

#[tokio::test]
async fn answers_of_rocketmq_5_5_0_are_read() {
    check("5.5.0").await;
}

#[tokio::test]
async fn answers_of_rocketmq_4_9_7_are_read() {
    check("4.9.7").await;
}
