//! HTTP `/mpub` against TCP `MPUB` into one real nsqd: which way a relay should send its batches.
//!
//! `cargo bench --bench transport`. Rounds alternate, each into topics of its own; the medians count.

#![allow(missing_docs, clippy::unwrap_used, reason = "a measurement, not an interface")]

use std::time::{Duration, Instant};

use nsqbridge::nsq::{mpub, names::TopicName, nsqd::Nsqd, tcp::Connection};
use nsqbridge_brokers::{Line, Rig, RigOptions};

const ROUNDS: usize = 9;
const BATCHES: usize = 200;
/// 200 bytes each: what a relay fills a request with.
const MESSAGES: usize = 1_280;
const CONNECTIONS: usize = 2;
const TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let rig = Rig::start(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() }).unwrap();
    let (http, tcp) = (rig.nsqds[0].http_addr().to_string(), rig.nsqds[0].tcp_addr().to_string());
    let bodies = vec![[b'x'; 200]; MESSAGES];
    let payload = mpub::encode_binary(bodies.iter().map(|body| &body[..]));
    let (mut by_http, mut by_tcp) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let topic = |way: &str| -> TopicName { format!("{way}.{round}").parse().unwrap() };
        let started = Instant::now();
        let nsqd = Nsqd::new(http.parse().unwrap());
        let senders = (0..CONNECTIONS).map(|_| async {
            for _ in 0..BATCHES / CONNECTIONS {
                nsqd.mpub(&topic("http"), payload.clone(), TIMEOUT).await.unwrap();
            }
        });
        futures_util::future::join_all(senders).await;
        by_http.push(started.elapsed());
        let started = Instant::now();
        let senders = (0..CONNECTIONS).map(|_| async {
            let mut connection = Connection::open(&tcp, TIMEOUT).await.unwrap();
            for _ in 0..BATCHES / CONNECTIONS {
                connection.mpub(&topic("tcp"), payload.clone(), TIMEOUT).await.unwrap();
            }
        });
        futures_util::future::join_all(senders).await;
        by_tcp.push(started.elapsed());
    }
    let rate = |mut times: Vec<Duration>| {
        times.sort_unstable();
        (BATCHES * MESSAGES) as f64 / times[ROUNDS / 2].as_secs_f64()
    };
    let (http, tcp) = (rate(by_http), rate(by_tcp));
    println!("HTTP /mpub {http:.0} messages/s, TCP MPUB {tcp:.0} messages/s, TCP/HTTP {:.2}", tcp / http);
}
