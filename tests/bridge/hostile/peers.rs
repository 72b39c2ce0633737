//! Hostile brokers, name servers, nsqds and nsqlookupds: whatever is at an address that should be one of them.

use std::{io::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use nsqbridge::rocketmq::{Queue, QueueReader, codes::request, command, reader::Pull, record::StoredMessage};
use nsqbridge_brokers::Line;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

use super::{KIB, MIB};
use crate::{
    bridge::{Gateway, SOON, To, blocking, eventually, shared, topic, transfer},
    scripted::{Peer, Reply, ok, pulled, record, refuse},
};

/// The bytes of a frame of this length, as far as they are given.
fn frame(length: u32, rest: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[..], rest].concat()
}

/// A publish through a gateway whose broker or name server gives this answer is not acknowledged; what went wrong is in the log,
/// and memory stays where it was.
async fn survives(what: &str, says: &str, peer: Peer) {
    let gateway = Gateway::launch(&peer.address, &["--log-level", "debug", "--publish-timeout", "2s"]).await;
    let before = gateway.resident();
    for _ in 0..3 {
        let (status, _) = gateway.post("/pub?topic=t", "x").await.unwrap();
        assert_eq!(status, 503, "{what}");
    }
    let grown = gateway.resident().saturating_sub(before);
    println!("{what}: grown by {} KiB", grown / KIB);
    assert!(grown < 96 * MIB, "{what}: grown by {grown} bytes");
    let named = async || gateway.process.logged().contains(says);
    eventually(&format!("{what}: {says:?} is logged"), SOON, named).await;
    let longest = gateway.process.logged().lines().map(str::len).max().unwrap_or(0);
    assert!(longest < 8 * KIB, "{what}: a line of {longest} bytes in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_sends_no_answer_but_bytes_is_named_and_held_off() {
    let raw = |bytes: Vec<u8>| Peer::start(1, move |_, _| Reply::Raw(bytes.clone()));
    survives(
        "2 GB announced",
        "announced a frame of 2147483647 bytes",
        raw(frame(0x7fff_ffff, &[0; 100])).await,
    )
    .await;
    let header = [&0x00ff_fff0_u32.to_be_bytes()[..], &[b' '; 100]].concat();
    survives("16 MiB announced that never come", "no answer", raw(frame(16 << 20, &header)).await).await;
    let mut nesting = frame(4 + 60_000, &60_000_u32.to_be_bytes());
    nesting.extend_from_slice(&[b'['; 60_000]);
    survives("a header of nothing but depth", "is not a command", raw(nesting).await).await;
    survives(
        "another protocol",
        "not a RocketMQ peer",
        raw(b"HTTP/1.1 400 Bad Request\r\n\r\n".into()).await,
    )
    .await;
    let flood = Peer::start(1, |_, asked| {
        let mut other = ok(asked);
        other.opaque ^= 0x4000_0000;
        let mut one = BytesMut::new();
        command::encode(&other, &mut one);
        Reply::Raw(one.repeat(100_000))
    });
    survives("a hundred thousand answers to nothing", "nobody waits for", flood.await).await;
    let wordy = Peer::start(1, |_, asked| {
        Reply::Answer(refuse(asked, 1, &"\u{1b}[2J\nnothing is wrong ".repeat(20_000)))
    });
    survives("a remark of 400 KB that steers terminals", "nothing is wrong", wordy.await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_whose_routes_are_bombs_is_named_and_held_off() {
    let routes = |body: String| {
        Peer::without_routes(move |_, asked| {
            Reply::Answer(match asked.code {
                request::GET_ROUTEINFO_BY_TOPIC => ok(asked).body(body.clone()),
                _ => ok(asked),
            })
        })
    };
    let of = |broker: &str, queues: i64| {
        format!(
            r#"{{"queueDatas":[{{"brokerName":"{broker}","perm":6,"readQueueNums":{queues},"writeQueueNums":{queues}}}],
            "brokerDatas":[]}}"#
        )
    };
    for (what, says, body) in [
        ("two thousand million queues", "it has 2147483647 queues", of("b", 2_147_483_647)),
        ("a long name in every queue", "a name of 1000000 bytes", of(&"b".repeat(1_000_000), 60_000)),
        ("nothing but depth", "cannot be read", format!(r#"{{"more":{}"#, "[".repeat(8 * MIB))),
    ] {
        survives(what, says, routes(body).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_of_bombs_hands_out_little_at_a_time_and_skips_nothing() {
    const MESSAGES: i64 = 40;
    const BODY: usize = 2 * MIB;
    let compressed = {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![0; BODY]).unwrap();
        encoder.finish().unwrap()
    };
    let bomb = move |offset: i64| StoredMessage { sys_flag: 1, ..record(offset, &compressed) };
    // Gives everything from the offset on, however little is asked for.
    let peer = Peer::start(1, move |_, asked| {
        let bombs: Vec<_> = (asked.number("queueOffset").unwrap()..MESSAGES).map(&bomb).collect();
        Reply::Answer(pulled(asked, MESSAGES, &bombs))
    })
    .await;
    let reader = QueueReader::new(peer.cluster(), "g");
    let queue = Queue { topic: "t".to_owned(), broker: "fake".to_owned(), id: 0 };
    let mut offset = 0;
    let mut pulls = 0;
    while offset < MESSAGES {
        let pulled = reader.pull(&queue, offset, 32, Duration::ZERO).await.unwrap();
        let Pull::Messages { messages, problem: None, .. } = pulled else { panic!("{pulled:?}") };
        let offsets: Vec<i64> = messages.iter().map(|message| message.queue_offset).collect();
        assert_eq!(offsets, (offset..offset + messages.len() as i64).collect::<Vec<_>>());
        assert!(messages.len() * BODY <= 32 * MIB, "{} bytes in one pull", messages.len() * BODY);
        offset += messages.len() as i64;
        pulls += 1;
    }
    assert_eq!((offset, pulls), (MESSAGES, 3));
    let Pull::Messages { messages, problem: None, .. } =
        reader.pull(&queue, 0, 5, Duration::ZERO).await.unwrap()
    else {
        panic!("messages were asked for")
    };
    assert_eq!(messages.len(), 5, "no more than was asked for");
}

/// Answers every HTTP request with this head, and then with this over and over for as long as it is read.
async fn http(head: &'static str, over_and_over: String) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let more = Arc::new(over_and_over.repeat(64 * KIB / over_and_over.len().max(1)));
    let serving = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let more = Arc::clone(&more);
            connections.spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(head.as_bytes()).await;
                while !more.is_empty() && stream.write_all(more.as_bytes()).await.is_ok() {}
                drain(stream).await;
            });
        }
    });
    (address, AbortOnDropHandle::new(serving))
}

async fn drain(mut stream: TcpStream) {
    while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn nsqds_and_nsqlookupds_that_answer_without_end_are_named_and_take_little() {
    const ENDLESS: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2000000000\r\n\r\n{";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    const HEADERS: &str = "HTTP/1.1 200 OK\r\n";
    const DEEP: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
    let rig = shared(Line::V5);
    for (what, head, more, says) in [
        ("2 GB announced and sent", ENDLESS, " ".to_owned(), "the answer is longer than 67108864 bytes"),
        (
            "chunks without end",
            CHUNKED,
            format!("4000\r\n{}\r\n", " ".repeat(0x4000)),
            "the answer is longer than 67108864 bytes",
        ),
        ("headers without end", HEADERS, "X-More: y\r\n".to_owned(), "gave no usable answer"),
        ("nothing but depth", DEEP, "[".to_owned(), "cannot be read"),
        ("no HTTP", "\0\0\0\x06\0\0\0\0OK", String::new(), "gave no usable answer"),
    ] {
        for lookup in [false, true] {
            let (address, _serving) = http(head, more.clone()).await;
            let topic = topic("hostile");
            let gateway = Gateway::start(&rig.name_server, &[]).await;
            gateway.publish(&topic, "waits").await;
            let flag = if lookup { "--lookupd-http-address" } else { "--nsqd-http-address" };
            let relay = transfer(
                &rig.name_server,
                &topic,
                &To::Nsqds(&[]),
                &[flag, &address.to_string(), "--log-level", "debug"],
            );
            let named = async || relay.logged().contains(says);
            eventually(&format!("{what}, {flag}: {says:?} is logged"), SOON, named).await;
            let resident = relay.resident();
            println!("{what}, {flag}: {} KiB in all", resident / KIB);
            assert!(resident < 256 * MIB, "{what}, {flag}: {resident} bytes");
            let longest = relay.logged().lines().map(str::len).max().unwrap_or(0);
            assert!(longest < 8 * KIB, "{what}, {flag}: a line of {longest} bytes in the log");
            relay.signal("TERM").unwrap();
            assert_eq!(blocking(|| relay.wait(SOON)).unwrap(), 0, "{what}, {flag}");
        }
    }
}
