//! Messages that old producers publish to nsqd come into RocketMQ, and never back.

mod dedicated;
mod faults;
mod told;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::{Command, Output},
};

use bytes::Bytes;
use nsqbridge::{mapping::TAKEN_IN, nsq::mpub::encode_binary};
use nsqbridge_brokers::{Line, Nsqd, Rig, http, ports::Ports};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::bridge::{Program, SOON, blocking, cluster, command, eventually, numbered, shared, stored, topic};

/// A running intake.
pub struct Intake {
    pub process: Program,
    admin: SocketAddr,
    _ports: Ports,
}

fn arguments(rig: &Rig, topic: &str, nsqds: &[&Nsqd], flags: &[&str]) -> Vec<String> {
    let name_server = rig.name_server.addr().to_string();
    let mut arguments: Vec<String> =
        ["intake", "--namesrv", &name_server, "--topic", topic].map(str::to_owned).into();
    for nsqd in nsqds {
        arguments.extend(["--nsqd-http-address".to_owned(), nsqd.http_addr().to_string()]);
    }
    arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
    arguments
}

/// Runs an intake that ends by itself.
async fn ended(rig: &Rig, topic: &str, nsqds: &[&Nsqd], flags: &[&str]) -> Output {
    let arguments = arguments(rig, topic, nsqds, &[&["--admin-address", ""], flags].concat());
    let run = move || Command::new(env!("CARGO_BIN_EXE_nsqbridge")).args(arguments).env_clear().output();
    tokio::task::spawn_blocking(run).await.unwrap().unwrap()
}

impl Intake {
    pub async fn start(rig: &Rig, topic: &str, nsqds: &[&Nsqd]) -> Self {
        Self::start_with(rig, topic, nsqds, &[]).await
    }

    pub async fn start_with(rig: &Rig, topic: &str, nsqds: &[&Nsqd], flags: &[&str]) -> Self {
        let intake = Self::launch(rig, topic, nsqds, flags);
        eventually("it takes in", SOON, async || intake.is_ready()).await;
        intake
    }

    fn launch(rig: &Rig, topic: &str, nsqds: &[&Nsqd], flags: &[&str]) -> Self {
        let ports = Ports::claim().unwrap();
        let admin = SocketAddr::from(([127, 0, 0, 1], ports.get(0)));
        let address = admin.to_string();
        let flags = [&["--admin-address", &address], flags].concat();
        let arguments = arguments(rig, topic, nsqds, &flags);
        Self { process: Program::start("intake", &arguments), admin, _ports: ports }
    }

    fn is_ready(&self) -> bool {
        blocking(|| http::get(self.admin, "/readyz")).is_ok_and(|(status, _)| status == 200)
    }

    /// Over all nsqds.
    fn metric(&self, name: &str) -> f64 {
        let Ok((_, text)) = blocking(|| http::get(self.admin, "/metrics")) else { return 0.0 };
        let name = format!("nsqbridge_intake_{name}{{");
        let values = text.lines().filter(|line| line.starts_with(&name));
        values.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }
}

/// A producer that speaks nsqd's TCP protocol, and has never heard of a bridge.
pub struct Producer(TcpStream);

impl Producer {
    pub async fn connect(nsqd: &Nsqd) -> Self {
        let mut stream = TcpStream::connect(nsqd.tcp_addr()).await.unwrap();
        stream.write_all(b"  V2").await.unwrap();
        Self(stream)
    }

    pub async fn publish(&mut self, topic: &str, bodies: &[Bytes]) {
        let payload = encode_binary(bodies.iter().map(|body| &body[..]));
        self.0.write_all(&command(format!("MPUB {topic}"), payload)).await.unwrap();
        loop {
            let mut size = [0; 4];
            self.0.read_exact(&mut size).await.unwrap();
            let mut answer = vec![0; u32::from_be_bytes(size) as usize];
            self.0.read_exact(&mut answer).await.unwrap();
            if &answer[4..] != b"_heartbeat_" {
                assert_eq!(&answer, b"\0\0\0\0OK");
                return;
            }
            self.0.write_all(b"NOP\n").await.unwrap();
        }
    }
}

/// What RocketMQ has of a topic: how often each body, and under how many ids.
async fn ledger(rig: &Rig, topic: &str) -> BTreeMap<Bytes, (usize, Vec<String>)> {
    let mut ledger: BTreeMap<Bytes, (usize, Vec<String>)> = BTreeMap::new();
    for (_, message) in stored(&cluster(rig), &topic.replace('.', "|")).await {
        let entry = ledger.entry(message.body.clone()).or_default();
        entry.0 += 1;
        let key = message.properties.get("UNIQ_KEY").unwrap().to_owned();
        if !entry.1.contains(&key) {
            entry.1.push(key);
        }
    }
    ledger
}

/// How many messages RocketMQ has of a topic.
async fn count(rig: &Rig, topic: &str) -> usize {
    let stats = cluster(rig).topic_stats(&topic.replace('.', "|")).await;
    stats.map_or(0, |queues| queues.values().map(|bounds| bounds.max as usize).sum())
}

/// The intake's channel on an nsqd, as nsqd counts it.
fn channel(nsqd: &Nsqd, topic: &str) -> Value {
    let path = format!("/stats?format=json&topic={topic}&channel=nsqbridge-intake");
    let stats: Value =
        serde_json::from_str(&blocking(|| http::get(nsqd.http_addr(), &path)).unwrap().1).unwrap();
    stats["topics"][0]["channels"][0].clone()
}

/// Whether nsqd has been told that every message is finished.
fn is_finished(nsqd: &Nsqd, topic: &str) -> bool {
    let channel = channel(nsqd, topic);
    ["depth", "in_flight_count", "deferred_count"].iter().all(|count| channel[count] == 0)
}

async fn what_old_producers_publish_is_stored_once_byte_for_byte_and_marked(line: Line) {
    const EACH: usize = 10_000;
    let rig = shared(line);
    let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
    let topic = topic("taken.in");
    let intake = Intake::start(rig, &topic, &nsqds).await;
    let mut expected = numbered(0..2 * EACH);
    for (nth, nsqd) in nsqds.iter().enumerate() {
        let mut producer = Producer::connect(nsqd).await;
        for bodies in numbered(nth * EACH..(nth + 1) * EACH).chunks(200) {
            producer.publish(&topic, bodies).await;
        }
        let every_byte: Bytes = (0..=255).collect();
        let mut odd =
            vec![Bytes::from(vec![nth as u8]), Bytes::from([&[nth as u8][..], &every_byte].concat())];
        odd.push((0..1_000_000).map(|_| fastrand::u8(..)).collect());
        producer.publish(&topic, &odd).await;
        expected.extend(odd);
    }
    eventually("all are stored", SOON, async || count(rig, &topic).await >= expected.len()).await;
    for nsqd in &nsqds {
        eventually("all are finished", SOON, async || is_finished(nsqd, &topic)).await;
        assert_eq!(
            (&channel(nsqd, &topic)["timeout_count"], &channel(nsqd, &topic)["requeue_count"]),
            (&0.into(), &0.into())
        );
    }
    let ledger = ledger(rig, &topic).await;
    assert_eq!(ledger.len(), expected.len());
    assert!(expected.iter().all(|body| ledger.get(body).is_some_and(|(times, _)| *times == 1)));
    let addresses: Vec<String> = nsqds.iter().map(|nsqd| nsqd.http_addr().to_string()).collect();
    for (_, message) in stored(&cluster(rig), &topic.replace('.', "|")).await {
        let [mark, of, accepted] =
            [TAKEN_IN, "nsq_topic", "nsq_accepted_ms"].map(|name| message.properties.get(name));
        let (nsqd, key) = mark.unwrap().split_once(' ').unwrap();
        assert!(addresses.iter().any(|address| nsqd == address), "{mark:?}");
        assert_eq!(message.properties.get("UNIQ_KEY"), Some(key));
        assert_eq!((of, accepted.unwrap().len()), (Some(&*topic), 13));
    }
    assert_eq!(intake.metric("stored_messages_total"), expected.len() as f64);
    blocking(|| intake.process.signal("TERM")).unwrap();
    assert_eq!(blocking(|| intake.process.wait(SOON)).unwrap(), 0);
}

on_both_lines!(what_old_producers_publish_is_stored_once_byte_for_byte_and_marked);
