//! From RocketMQ into nsqd, beside NSQ's own relay and nsqd's own publishing; and how long a message is on its way.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use nsqbridge::nsq::{mpub, names::TopicName, nsqd};
use nsqbridge_brokers::{Flush, Nsqd, nsq};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Plan,
    client::fill,
    load::{self, request},
    parts::{
        Bridge, Fresh, cluster, cpu_seconds, eventually, fresh_nsqd, new_topic, peak_mib, published, rig,
    },
    table::Row,
};

const BACKLOG: u64 = 1_000_000;
const CHANNEL: &str = "ch";
/// Messages a second of the latency measurement.
const PACE: u64 = 2_000;

/// All rows of the relay.
pub async fn rows(plan: &Plan, fresh: &mut Fresh) -> Vec<Row> {
    let rig = rig(1, Flush::Async);
    let cluster = cluster(&rig);
    let (mut ours, mut theirs, mut nsqds_own) = (Vec::new(), Vec::new(), Vec::new());
    let (mut cpu, mut their_cpu, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds.div_ceil(2) {
        let topic = fresh.topic("relay");
        let queues = new_topic(&cluster, &topic).await;
        fill(&cluster, &queues, BACKLOG).await;
        let nsqd = with_channel(&topic).await;
        let relay = Bridge::relay(&rig, &topic, &nsqd);
        ours.push(until_all_there(&nsqd, &topic));
        cpu.push(cpu_seconds(&relay.process) / BACKLOG as f64 * 10_000.0);
        peaks.push(peak_mib(&relay.process));
        drop(relay);

        let (source, target) = (with_channel(&topic).await, with_channel(&topic).await);
        nsqds_own.push(fill_nsqd(&source, &topic).await);
        let (from, to) = (source.tcp_addr().to_string(), target.tcp_addr().to_string());
        let flags = [
            format!("-topic={topic}"),
            format!("-channel={CHANNEL}"),
            format!("-nsqd-tcp-address={from}"),
            format!("-destination-nsqd-tcp-address={to}"),
            "-max-in-flight=2500".to_owned(),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let nsq_to_nsq = nsq::run("nsq_to_nsq", &flags).unwrap();
        theirs.push(until_all_there(&target, &topic));
        their_cpu.push(cpu_seconds(&nsq_to_nsq) / BACKLOG as f64 * 10_000.0);
    }
    let note = format!("peak memory {:.0} MiB", peaks.iter().copied().fold(0.0, f64::max));
    let row = |what: &str, unit, against, ours: &Vec<f64>, theirs: &Vec<f64>, aims, less, note: String| Row {
        what: what.to_owned(),
        unit,
        against,
        ours: ours.clone(),
        theirs: theirs.clone(),
        aims,
        less,
        note,
    };
    let mut rows = vec![
        row(
            "relay of 1,000,000 × 200 B",
            "msg/s",
            "nsq_to_nsq -max-in-flight 2500",
            &ours,
            &theirs,
            Some((4.0, 8.0)),
            false,
            note,
        ),
        row(
            "relay of 1,000,000 × 200 B",
            "msg/s",
            "nsqd's own /mpub, disk-backed",
            &ours,
            &nsqds_own,
            Some((0.8, 0.95)),
            false,
            String::new(),
        ),
        row(
            "relay: CPU s per 10,000",
            "s",
            "nsq_to_nsq",
            &cpu,
            &their_cpu,
            None,
            true,
            "aim: at most 0.1".to_owned(),
        ),
    ];
    rows.extend(latency(plan, fresh).await);
    rows
}

async fn with_channel(topic: &str) -> Nsqd {
    let server = fresh_nsqd();
    let client = nsqd::Nsqd::new(server.http_addr().to_string().parse().unwrap());
    let topic: TopicName = topic.parse().unwrap();
    client.create_topic(&topic).await.unwrap();
    client.create_channel(&topic, &CHANNEL.parse().unwrap()).await.unwrap();
    server
}

/// Messages a second from the first to the last of the backlog.
fn until_all_there(nsqd: &Nsqd, topic: &str) -> f64 {
    let mut first = (0, Instant::now());
    eventually("the first messages are there", || {
        first = (published(nsqd, topic), Instant::now());
        first.0 > 0
    });
    eventually("all messages are there", || published(nsqd, topic) >= BACKLOG);
    let took = first.1.elapsed();
    assert_eq!(published(nsqd, topic), BACKLOG, "more than there was: the figure is void");
    (BACKLOG - first.0) as f64 / took.as_secs_f64()
}

/// Publishes the backlog to an nsqd itself; messages a second.
async fn fill_nsqd(nsqd: &Nsqd, topic: &str) -> f64 {
    const BATCH: u64 = 200;
    let client = nsqd::Nsqd::new(nsqd.http_addr().to_string().parse().unwrap());
    let topic: TopicName = topic.parse().unwrap();
    let payload = mpub::encode_binary(vec![[b'x'; 200]; BATCH as usize].iter().map(|body| &body[..]));
    let begun = Instant::now();
    let publishing = (0..4).map(|_| async {
        for _ in 0..BACKLOG / BATCH / 4 {
            client.mpub(&topic, payload.clone(), Duration::from_secs(10)).await.unwrap();
        }
    });
    futures_util::future::join_all(publishing).await;
    BACKLOG as f64 / begun.elapsed().as_secs_f64()
}

/// How much later a consumer gets a message that goes through the bridge.
async fn latency(plan: &Plan, fresh: &mut Fresh) -> Vec<Row> {
    let rig = rig(1, Flush::Async);
    let cluster = cluster(&rig);
    let gateway = Bridge::gateway(&rig);
    let topic = fresh.topic("latency");
    new_topic(&cluster, &topic).await;
    let nsqd = with_channel(&topic).await;
    let alone = with_channel(&topic).await;
    let _relay = Bridge::relay(&rig, &topic, &nsqd);
    let (mut ours, mut theirs) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..plan.rounds {
        for (address, at, figures) in
            [(gateway.address, &nsqd, &mut ours), (alone.http_addr(), &alone, &mut theirs)]
        {
            let mut delays = delays(address, at.tcp_addr(), &topic, plan.lasting).await;
            delays.sort_unstable_by(f64::total_cmp);
            figures[0].push(delays[delays.len() / 2]);
            figures[1].push(delays[delays.len() * 99 / 100]);
        }
    }
    let row = |what: &str, n: usize, aim: &str| Row {
        what: format!("publish to consumer, {PACE} msg/s: {what}"),
        unit: "ms",
        against: "nsqd alone",
        ours: ours[n].clone(),
        theirs: theirs[n].clone(),
        aims: None,
        less: true,
        note: format!(
            "adds {:.2} ms; aim: at most {aim}",
            crate::parts::median(&ours[n]) - crate::parts::median(&theirs[n])
        ),
    };
    vec![row("median", 0, "3 ms"), row("p99", 1, "20 ms")]
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
    let identify = br#"{"output_buffer_timeout":-1}"#;
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

/// Used by the curves as well: a load that must not be refused.
pub async fn accepted(
    address: SocketAddr,
    connections: usize,
    lasting: Duration,
    path: &str,
    body: &[u8],
) -> f64 {
    let load = load::run(address, connections, lasting, |_| request(address, path, body)).await;
    assert_eq!(load.refused, 0, "a figure with refusals is void");
    load.rate()
}
