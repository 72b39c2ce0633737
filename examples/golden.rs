//! Takes the bytes of a running broker's answers for the tests: `cargo run --example golden -- NAMESRV FOLDER`.
//!
//! Each request is written to a plain socket, and the answer's bytes are kept exactly as they came, frame and all. The broker
//! should be fresh and on loopback: its answers name its address.

#![allow(clippy::unwrap_used, reason = "a tool for developers: a panic is its error message")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::Duration,
};

use bytes::BytesMut;
use nsqbridge::rocketmq::{
    Cluster, ClusterConfig, Queue,
    codes::request,
    command::{self, Command},
    properties::PropertiesBuilder,
    record::encode_batch_record,
};

const TOPIC: &str = "golden";
const GROUP: &str = "golden-group";

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(name_server), Some(folder)) = (arguments.next(), arguments.next()) else {
        panic!("usage: golden NAMESRV FOLDER");
    };
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder).unwrap();
    let cluster = Cluster::new(ClusterConfig::new(vec![name_server.clone()]));
    cluster.create_topic(TOPIC, 2).await.unwrap();
    cluster.create_group(GROUP).await.unwrap();
    let route = cluster.route(TOPIC).await.unwrap();
    let (broker_name, broker) = route.masters().next().unwrap();

    let route = Command::request(request::GET_ROUTEINFO_BY_TOPIC).field("topic", TOPIC);
    take(&name_server, route.clone().field("acceptStandardJsonOnly", true), folder, "route");
    take(&name_server, Command { version: 400, ..route }, folder, "route_old_json");
    take(&name_server, Command::request(request::GET_BROKER_CLUSTER_INFO), folder, "brokers");

    let every_byte: Vec<u8> = (0..=255).collect();
    let properties = PropertiesBuilder::new().user("colour", "grün").unwrap().build().unwrap();
    let single =
        send(request::SEND_MESSAGE_V2, &String::from_utf8_lossy(properties.encoded())).body(every_byte);
    take(broker, single, folder, "send");
    let mut batch = BytesMut::new();
    encode_batch_record(&mut batch, 0, b"first of a batch", properties.encoded());
    encode_batch_record(&mut batch, 0, b"second of a batch", properties.encoded());
    take(broker, send(request::SEND_BATCH_MESSAGE, "").body(batch.freeze()), folder, "send_batch");

    let pull = |offset: i64| {
        Command::request(request::PULL_MESSAGE)
            .field("consumerGroup", GROUP)
            .field("topic", TOPIC)
            .field("queueId", 1)
            .field("queueOffset", offset)
            .field("maxMsgNums", 32)
            .field("sysFlag", 4)
            .field("commitOffset", 0)
            .field("suspendTimeoutMillis", 0)
            .field("subscription", "*")
            .field("subVersion", 0)
            .field("expressionType", "TAG")
    };
    // A message can be pulled a little after the broker answered for it.
    while !answer(broker, pull(2)).windows(17).any(|bytes| bytes == b"second of a batch") {
        std::thread::sleep(Duration::from_millis(10));
    }
    take(broker, pull(0), folder, "pull");
    take(broker, pull(3), folder, "pull_nothing");
    take(broker, pull(99), folder, "pull_moved");
    cluster
        .commit_offset(GROUP, &Queue { topic: TOPIC.into(), broker: broker_name.into(), id: 1 }, 2)
        .await
        .unwrap();
    take(
        broker,
        Command::request(request::GET_TOPIC_STATS_INFO).field("topic", TOPIC),
        folder,
        "topic_stats",
    );
    let consume_stats =
        Command::request(request::GET_CONSUME_STATS).field("consumerGroup", GROUP).field("topic", TOPIC);
    take(broker, consume_stats, folder, "consume_stats");
}

fn send(code: i32, properties: &str) -> Command {
    Command::request(code)
        .field("a", "golden-producer")
        .field("b", TOPIC)
        .field("c", TOPIC)
        .field("d", 4)
        .field("e", 1)
        .field("f", 0)
        .field("g", 1_700_000_000_000_i64)
        .field("h", 0)
        .field("i", properties)
        .field("j", 0)
        .field("k", false)
        .field("m", code == request::SEND_BATCH_MESSAGE)
}

fn take(address: &str, asked: Command, folder: &Path, name: &str) {
    std::fs::write(folder.join(format!("{name}.bin")), answer(address, asked)).unwrap();
}

/// The bytes of one frame.
fn answer(address: &str, mut asked: Command) -> Vec<u8> {
    asked.opaque = 7;
    let mut wire = BytesMut::new();
    command::encode(&asked, &mut wire);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&wire).unwrap();
    let mut frame = vec![0; 4];
    stream.read_exact(&mut frame).unwrap();
    let length = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
    frame.resize(4 + length, 0);
    stream.read_exact(&mut frame[4..]).unwrap();
    frame
}
