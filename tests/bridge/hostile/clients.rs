//! Hostile producers.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future::join_all, stream};
use nsqbridge_brokers::Line;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{KIB, MIB, exchange, status};
use crate::bridge::{Gateway, SOON, cluster, eventually, shared, stored, topic};

const IDLE: usize = 4_000;

async fn connect(gateway: &Gateway) -> TcpStream {
    TcpStream::connect(gateway.address).await.unwrap()
}

/// Connections the test's own client keeps open for the next request.
const OWN: f64 = 16.0;

async fn nothing_is_held(gateway: &Gateway) {
    let metric = |name: &str| gateway.metric(&format!("nsqbridge_gateway_{name}"));
    let held = async || {
        metric("connections") <= OWN
            && metric("in_flight_requests") == 0.0
            && metric("in_flight_bytes") == 0.0
    };
    eventually("everything is given back", SOON, held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_thousand_idle_connections_cost_little_and_disturb_nobody() {
    let gateway = Gateway::start(&shared(Line::V5).name_server, &[]).await;
    let topic = topic("idle");
    gateway.publish(&topic, "warm").await;
    let before = gateway.resident();
    let silent: Vec<TcpStream> =
        stream::iter(0..IDLE).map(|_| connect(&gateway)).buffer_unordered(64).collect().await;
    let open = async || gateway.metric("nsqbridge_gateway_connections") >= IDLE as f64;
    eventually("all are open", SOON, open).await;
    let of_silent = gateway.resident().saturating_sub(before) / IDLE;

    // The same connections after one publish each, as in a producer's pool.
    let used = async |mut stream: TcpStream| {
        let request = format!("POST /pub?topic={topic} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nonce");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 512];
        let read = stream.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..read]));
        stream
    };
    let pooled: Vec<TcpStream> = stream::iter(silent).map(used).buffer_unordered(64).collect().await;
    let of_pooled = gateway.resident().saturating_sub(before) / IDLE;
    println!("a connection that never spoke costs {of_silent} bytes, one that has published {of_pooled}");
    assert!(of_silent < 16 * KIB && of_pooled < 32 * KIB, "{of_silent} and {of_pooled} bytes each");

    let started = Instant::now();
    for n in 0..100 {
        gateway.publish(&topic, format!("among {n}")).await;
    }
    println!("100 publishes among {IDLE} connections took {:?}", started.elapsed());
    drop(pooled);
    nothing_is_held(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_of_headers_and_targets_are_refused_and_the_others_served() {
    let gateway = Gateway::start(&shared(Line::V5).name_server, &[]).await;
    let topic = topic("bombs");
    gateway.publish(&topic, "warm").await;
    let before = gateway.resident();
    let head = |target: &str, headers: &str| format!("GET {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    let many: String = (0..2_000).map(|n| format!("X-{n}: y\r\n")).collect();
    let same = "Cookie: y\r\n".repeat(2_000);
    let large = format!("X-Large: {}\r\n", "y".repeat(200 * KIB));
    let long = format!("/ping?{}", "a".repeat(200 * KIB));
    let endless = format!("GET /{}", "a".repeat(4 * MIB));
    for (bomb, refusals) in [
        (head("/ping", &many), [431, 431]),
        (head("/ping", &same), [431, 431]),
        (head("/ping", &large), [431, 431]),
        (head(&long, ""), [414, 431]),
        (endless, [414, 431]),
    ] {
        let one = async || {
            let answer = exchange(&gateway, bomb.as_bytes()).await;
            // Who still sends when the answer comes may only see that the connection is gone.
            assert!(answer.is_empty() || refusals.contains(&status(&answer)), "{answer:.200}");
            usize::from(!answer.is_empty())
        };
        let answered: usize = join_all((0..20).map(|_| one())).await.into_iter().sum();
        assert!(answered > 0, "nobody heard why: {bomb:.60}");
        gateway.publish(&topic, "among the bombs").await;
    }

    // As many parameters as fit, on requests whose bodies stay away: what is kept for each must not be many times its head.
    let waiting = 300;
    let target = format!("/mpub?topic={topic}{}", "&a".repeat(28 * KIB));
    let bomb = format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n");
    let mut held = Vec::new();
    for _ in 0..waiting {
        let mut stream = connect(&gateway).await;
        stream.write_all(bomb.as_bytes()).await.unwrap();
        held.push(stream);
    }
    let all = async || gateway.metric("nsqbridge_gateway_in_flight_requests") >= f64::from(waiting);
    eventually("all are being read", SOON, all).await;
    let grown = gateway.resident().saturating_sub(before);
    println!(
        "{waiting} heads of {} KiB whose bodies stay away: grown by {} KiB",
        bomb.len() / KIB,
        grown / KIB
    );
    assert!(grown < waiting as usize * 320 * KIB, "grown by {grown} bytes");
    gateway.publish(&topic, "among the waiting").await;
    drop(held);
    nothing_is_held(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_and_never_reads_is_held_back_and_loses_no_answer() {
    const FLOODS: usize = 5;
    const PING: &str = "GET /ping HTTP/1.1\r\nHost: x\r\n\r\n";
    let gateway = Gateway::start(&shared(Line::V5).name_server, &[]).await;
    let before = gateway.resident();
    let flood = async || {
        let mut stream = connect(&gateway).await;
        let pings = PING.repeat(1_000);
        let mut sent = 0;
        // Until nothing more is taken: the answers nobody reads have filled every buffer on the way.
        while let Ok(written) =
            tokio::time::timeout(Duration::from_secs(2), stream.write(&pings.as_bytes()[sent % PING.len()..]))
                .await
        {
            sent += written.unwrap();
            assert!(sent < 64 * MIB, "it never stops taking requests");
        }
        (stream, sent)
    };
    let floods = join_all((0..FLOODS).map(|_| flood())).await;
    let sent: usize = floods.iter().map(|(_, sent)| sent).sum();
    let grown = gateway.resident().saturating_sub(before);
    println!("{} requests sent and no answer read: grown by {} KiB", sent / PING.len(), grown / KIB);
    assert!(grown < FLOODS * MIB, "grown by {grown} bytes");
    assert_eq!(gateway.get("/ping"), (200, "OK".to_owned()));

    // What was cut off is sent to its end, which only fits while answers are read.
    for (stream, sent) in floods {
        let (mut read, mut write) = stream.into_split();
        let rest = async {
            write.write_all(&PING.as_bytes()[sent % PING.len()..]).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut answers = String::new();
        let (_, all) = tokio::join!(rest, read.read_to_string(&mut answers));
        all.unwrap();
        assert_eq!(answers.matches("HTTP/1.1 200").count(), sent / PING.len() + 1);
    }
    nothing_is_held(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_lie_about_their_length_are_refused_and_nothing_of_them_is_stored() {
    let rig = shared(Line::V5);
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let topic = topic("lies");
    gateway.publish(&topic, "true").await;
    let before = gateway.resident();
    let request = |endpoint: &str, headers: &str, body: &str| {
        format!("POST /{endpoint}topic={topic} HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n{body}")
    };
    let chunked = "Transfer-Encoding: chunked";
    for (lie, expected) in [
        // hyper keeps the largest numbers for itself.
        (request("pub?", "Content-Length: 18446744073709551615", "x"), 431),
        (request("pub?", "Content-Length: 9223372036854775807", "x"), 413),
        (request("mpub?", "Content-Length: 5242881", "x"), 413),
        (request("pub?", "Content-Length: 99999999999999999999", "x"), 400),
        (request("pub?", "Content-Length: -1", "x"), 400),
        (request("pub?", "Content-Length: 0x10", "x"), 400),
        (request("pub?", "Content-Length: 1\r\nContent-Length: 2", "xy"), 400),
        (request("pub?", "Content-Length: 1000", "too little"), 500),
        (request("pub?", chunked, "fffffffffffffffff\r\nx"), 500),
        (request("pub?", chunked, "ffffffffffffffff\r\nx"), 500),
        (request("pub?", chunked, "zz\r\nx"), 500),
        (request("pub?", chunked, "5\r\ntoo little"), 500),
        (request("mpub?binary=true&", "Content-Length: 9", "\x7f\x7f\x7f\x7f\0\0\0\x01x"), 413),
        (request("mpub?binary=true&", "Content-Length: 9", "\0\0\0\x01\x7f\x7f\x7f\x7fx"), 413),
        (request("mpub?binary=true&", "Content-Length: 9", "\0\0\0\x02\0\0\0\x01x"), 413),
    ] {
        let answer = exchange(&gateway, lie.as_bytes()).await;
        assert_eq!(status(&answer), expected, "{lie:?}: {answer}");
    }
    let grown = gateway.resident().saturating_sub(before);
    assert!(grown < 32 * MIB, "grown by {grown} bytes");
    nothing_is_held(&gateway).await;
    let stored = stored(&cluster(rig), &topic.replace('.', "|")).await;
    let bodies: Vec<_> = stored.iter().map(|(_, message)| &message.body[..]).collect();
    assert_eq!(bodies, [b"true"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_trickle_give_their_room_back_in_time() {
    let flags = ["--body-timeout", "10s", "--max-in-flight-requests", "100"];
    let gateway = Gateway::start(&shared(Line::V5).name_server, &flags).await;
    let topic = topic("trickle");
    gateway.publish(&topic, "warm").await;
    let trickle = async || {
        let mut stream = connect(&gateway).await;
        let head = format!("POST /pub?topic={topic} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let sending = async {
            while write.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let mut answer = [0; 512];
        tokio::select! {
            read = read.read(&mut answer) => read.map_or_else(|_| String::new(), |read| {
                String::from_utf8_lossy(&answer[..read]).into_owned()
            }),
            () = sending => String::new(),
        }
    };
    let publish = format!("/pub?topic={topic}");
    let others = async {
        let full = async || gateway.metric("nsqbridge_gateway_in_flight_requests") == 100.0;
        eventually("there is no room", SOON, full).await;
        assert_eq!(gateway.post(&publish, "x").await.unwrap().0, 503);
        let served = async || gateway.post(&publish, "x").await.unwrap().0 == 200;
        eventually("and then there is room again", SOON, served).await;
    };
    let (answers, ()) = tokio::join!(join_all((0..100).map(|_| trickle())), others);
    assert!(answers.iter().all(|answer| status(answer) == 500), "{answers:?}");
    nothing_is_held(&gateway).await;
}
