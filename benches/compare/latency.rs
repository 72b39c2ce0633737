//! How long a message is on its way from a publish to an NSQ consumer, through the bridge and through nsqd alone.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use nsqbridge_brokers::Flush;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Plan,
    load::request,
    parts::{Bridge, Fresh, cluster, new_topic, one_broker, warm_up},
    relay::{CHANNEL, with_channel},
    report::Report,
    table::{By, Row},
};

/// Messages a second.
const PACE: u64 = 2_000;

/// All rows of the way to a consumer.
pub async fn measure(plan: &Plan, fresh: &mut Fresh, report: &Report) {
    let rig = one_broker(Flush::Async);
    let cluster = cluster(&rig);
    warm_up(&rig, plan, fresh).await;
    let gateway = Bridge::gateway(&rig);
    let topic = fresh.topic("latency");
    new_topic(&cluster, &topic).await;
    let (behind, alone) = (with_channel(&topic).await, with_channel(&topic).await);
    let _relay = Bridge::relay(&rig, &topic, &behind);
    let ways = [(gateway.address, behind.tcp_addr()), (alone.http_addr(), alone.tcp_addr())];
    for (publish_to, consume_from) in ways {
        delays(publish_to, consume_from, &topic, plan.lasting).await;
    }
    let mut figures = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    let mut paces = [Vec::new(), Vec::new()];
    for round in 0..plan.rounds {
        for side in [round % 2, (round + 1) % 2] {
            let (publish_to, consume_from) = ways[side];
            let mut delays = delays(publish_to, consume_from, &topic, plan.lasting).await;
            delays.sort_unstable_by(f64::total_cmp);
            figures[side][0].push(delays[delays.len() / 2]);
            figures[side][1].push(delays[delays.len() * 99 / 100]);
            paces[side].push(delays.len() as f64 / plan.lasting.as_secs_f64());
        }
    }
    let [ours, theirs] = figures;
    let [our_pace, their_pace] = paces.map(|paces| crate::parts::median(&paces));
    let whats = [("p50", (3.0, 1.0)), ("p99", (20.0, 5.0))];
    for ((what, aims), (ours, theirs)) in whats.into_iter().zip(ours.into_iter().zip(theirs)) {
        report.row(Row {
            what: format!("publish to NSQ consumer, {PACE} msg/s: {what}"),
            unit: "ms",
            against: "nsqd alone",
            ours,
            theirs,
            by: By::Extra,
            aims: Some(aims),
            note: format!("{our_pace:.0} and {their_pace:.0} msg/s were sent"),
        });
    }
}

/// Milliseconds from just before each publish to its arrival.
async fn delays(
    publish_to: SocketAddr,
    consume_from: SocketAddr,
    topic: &str,
    lasting: Duration,
) -> Vec<f64> {
    const CONNECTIONS: usize = 8;
    let origin = Instant::now();
    let arrived: Arc<Mutex<Vec<f64>>> = Arc::default();
    let consuming = tokio::spawn(consume(consume_from, topic.to_owned(), origin, Arc::clone(&arrived)));
    let _consuming = AbortOnDropHandle::new(consuming);
    let sending = (0..CONNECTIONS).map(|_| async {
        let mut stream = TcpStream::connect(publish_to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut pace =
            tokio::time::interval(Duration::from_secs(1).mul_f64(CONNECTIONS as f64 / PACE as f64));
        let mut answer = [0; 1024];
        let mut sent = 0;
        while origin.elapsed() < lasting {
            pace.tick().await;
            let body = (origin.elapsed().as_nanos() as u64).to_be_bytes();
            stream.write_all(&request(publish_to, &format!("/pub?topic={topic}"), &body)).await.unwrap();
            assert!(stream.read(&mut answer).await.unwrap() > 0);
            assert!(answer.starts_with(b"HTTP/1.1 200"));
            sent += 1;
        }
        sent
    });
    let sent: usize = futures_util::future::join_all(sending).await.into_iter().sum();
    let deadline = Instant::now() + Duration::from_secs(30);
    while arrived.lock().unwrap().len() < sent {
        assert!(Instant::now() < deadline, "messages are missing: the figure is void");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let delays = arrived.lock().unwrap();
    delays.clone()
}

async fn consume(address: SocketAddr, topic: String, origin: Instant, arrived: Arc<Mutex<Vec<f64>>>) {
    const MESSAGE: u32 = 2;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    // Each message at once: by default nsqd gathers for 250 ms, which would be all there is to see.
    let identify = br#"{"output_buffer_size":-1}"#;
    let mut hello = b"  V2IDENTIFY\n".to_vec();
    hello.extend_from_slice(&(identify.len() as u32).to_be_bytes());
    hello.extend_from_slice(identify);
    hello.extend_from_slice(format!("SUB {topic} {CHANNEL}\nRDY 2500\n").as_bytes());
    stream.write_all(&hello).await.unwrap();
    let mut buffer = BytesMut::new();
    loop {
        let mut commands = Vec::new();
        while let Some(size) = buffer.first_chunk::<4>().map(|size| u32::from_be_bytes(*size) as usize)
            && buffer.len() >= 4 + size
        {
            let mut frame = buffer.split_to(4 + size).freeze();
            frame.advance(4);
            if frame.get_u32() != MESSAGE {
                if &frame[..] == b"_heartbeat_" {
                    commands.extend_from_slice(b"NOP\n");
                }
                continue;
            }
            frame.advance(10);
            let id = frame.split_to(16);
            let sent = Duration::from_nanos(frame.get_u64());
            arrived.lock().unwrap().push((origin.elapsed() - sent).as_secs_f64() * 1_000.0);
            commands.extend_from_slice(b"FIN ");
            commands.extend_from_slice(&id);
            commands.push(b'\n');
        }
        stream.write_all(&commands).await.unwrap();
        if stream.read_buf(&mut buffer).await.unwrap() == 0 {
            return;
        }
    }
}
