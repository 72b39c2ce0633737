//! Requests that are slow, endless, huge or malformed, and more of them than there is room for: the gateway answers 503
//! at once, holds no more than it may, and serves the others.

use std::time::Instant;

use futures_util::future::join_all;
use nsqbridge_brokers::{Line, Rig, RigOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::bridge::{Gateway, SOON, blocking, eventually, own, shared, topic};

const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_broker_fills_the_room_and_no_more() {
    let rig: Rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 0, ..RigOptions::default() });
    let room =
        ["--max-in-flight-bytes", "33554432", "--max-topic-bytes", "25165824", "--max-body-size", "5242880"];
    let flags = [&room[..], &["--publish-timeout", "4s"]].concat();
    let gateway = Gateway::start(&rig.name_server, &flags).await;
    let (stuck, other) = (topic("stuck"), topic("other"));
    for topic in [&stuck, &other] {
        gateway.publish(topic, "warm").await;
    }
    let before = gateway.resident();
    blocking(|| rig.brokers[0].pause()).unwrap();
    let path = format!("/pub?topic={stuck}");
    let publish = async |path: &str| {
        let started = Instant::now();
        let (status, _) = gateway.post(path, vec![b'x'; MIB / 2]).await.unwrap();
        (status, started.elapsed())
    };
    let answers = join_all((0..200).map(|_| publish(&path))).await;
    assert!(answers.iter().all(|(status, _)| *status == 503));
    let refused: f64 = [&*stuck, ""]
        .map(|topic| {
            let labels = format!(r#"endpoint="pub",topic="{topic}",outcome="full""#);
            gateway.metric(&format!("nsqbridge_gateway_request_duration_seconds_count{{{labels}}}"))
        })
        .iter()
        .sum();
    assert!(refused > 100.0, "{refused} refused for want of room");
    let slowest = answers.iter().map(|(_, took)| *took).max().unwrap();
    // Each publish has four seconds; how busy the machine is besides is no matter here.
    assert!(slowest < SOON, "{slowest:?}");
    let grown = gateway.resident().saturating_sub(before);
    println!("{refused} of 200 refused at once, slowest answer {slowest:?}, grown by {} KiB", grown / 1024);
    assert!(grown < 96 * MIB, "grown by {grown} bytes");
    blocking(|| rig.brokers[0].resume()).unwrap();
    let served = async || gateway.post(&path, "after").await.is_ok_and(|(status, _)| status == 200);
    eventually("publishing goes on", SOON, served).await;
    let empty = async || gateway.metric("nsqbridge_gateway_in_flight_bytes") == 0.0;
    eventually("all room is given back", SOON, empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_endless_huge_and_malformed_requests_take_little_and_disturb_nobody() {
    let rig = shared(Line::V5);
    let flags =
        ["--max-in-flight-bytes", "16777216", "--max-topic-bytes", "8388608", "--max-connections", "300"];
    let gateway = Gateway::start(&rig.name_server, &flags).await;
    let topic = topic("abuse");
    gateway.publish(&topic, "warm").await;
    let before = gateway.resident();
    let connect = async || TcpStream::connect(gateway.address).await.unwrap();
    let begin = |length: &str| format!("POST /pub?topic={topic} HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n");
    let mut held = Vec::new();
    for n in 0..200 {
        let mut stream = connect().await;
        let head = match n % 4 {
            // Announced and never sent, begun and never ended, a chunk without an end, a head without an end.
            0 => begin("Content-Length: 1048576"),
            1 => begin("Content-Length: 1048576") + &"x".repeat(20_000),
            2 => begin("Transfer-Encoding: chunked") + "fffff\r\nxxxx",
            _ => format!("POST /pub?topic={topic} HTTP/1.1\r\nX-Endless: {}", "x".repeat(30_000)),
        };
        stream.write_all(head.as_bytes()).await.unwrap();
        held.push(stream);
    }
    gateway.publish(&topic, "among the slow").await;

    let endless = async || {
        let mut stream = connect().await;
        stream.write_all(begin("Transfer-Encoding: chunked").as_bytes()).await.unwrap();
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        for _ in 0..100_000 {
            if stream.write_all(chunk.as_bytes()).await.is_err() {
                return;
            }
        }
        panic!("6 GiB were taken");
    };
    join_all((0..8).map(|_| endless())).await;

    for malformed in
        ["\0\0\0\0", "GET", "POST / HTTP/9.9\r\n\r\n", "  V2", "GET /ping HTTP/1.1\r\nBad Header\r\n\r\n"]
    {
        let mut stream = connect().await;
        stream.write_all(malformed.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.expect("it ends");
        assert!(
            read.is_err() || answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{malformed:?}: {answer:?}"
        );
    }
    gateway.publish(&topic, "among the broken").await;
    let grown = gateway.resident().saturating_sub(before);
    println!("grown by {} KiB", grown / 1024);
    assert!(grown < 96 * MIB, "grown by {grown} bytes");

    for _ in 0..200 {
        held.push(connect().await);
    }
    eventually("beyond the bound connections are closed", SOON, async || {
        gateway.process.logged().contains("max-connections are open")
    })
    .await;
    drop(held);
    eventually("and afterwards there is room again", SOON, async || {
        gateway.post(&format!("/pub?topic={topic}"), "x").await.is_ok_and(|(status, _)| status == 200)
    })
    .await;
    let empty = async || gateway.metric("nsqbridge_gateway_in_flight_requests") == 0.0;
    eventually("nothing is held any more", SOON, empty).await;
}
