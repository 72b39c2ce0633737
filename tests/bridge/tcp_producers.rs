//! Producers that speak nsqd's TCP protocol, on real brokers: what they hear, and what RocketMQ has of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use nsqbridge::{
    nsq::{
        frames::{self, ERROR, Frame, HEARTBEAT, RESPONSE},
        mpub::encode_binary,
    },
    rocketmq::{Queue, record::StoredMessage},
};
use nsqbridge_brokers::{Line, Rig, RigOptions, nsq};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::bridge::{
    Gateway, SOON, blocking, cluster, command, create_channel, create_topic_of, eventually, own, shared,
    spooling, stored, topic,
};

const OK: (i32, &[u8]) = (RESPONSE, b"OK");

/// A connection that answers no heartbeats and waits for no answers, unless it is told to.
struct Producer {
    stream: TcpStream,
    read: BytesMut,
}

impl Producer {
    async fn connect(gateway: &Gateway) -> Self {
        let mut stream = TcpStream::connect(gateway.tcp_address).await.unwrap();
        stream.write_all(b"  V2").await.unwrap();
        Self { stream, read: BytesMut::new() }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next frame, heartbeats among them; `None` once the connection has ended.
    async fn frame(&mut self) -> Option<(i32, Bytes)> {
        loop {
            if let Some(Frame { kind, data }) = frames::decode(&mut self.read).unwrap() {
                return Some((kind, data.freeze()));
            }
            let got = timeout(SOON, self.stream.read_buf(&mut self.read)).await.expect("no answer");
            if got.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The next answer.
    async fn answer(&mut self) -> Option<(i32, Bytes)> {
        loop {
            match self.frame().await {
                Some((_, data)) if data == HEARTBEAT => {}
                answer => return answer,
            }
        }
    }

    async fn assert_ok(&mut self) {
        let answer = self.answer().await;
        assert_eq!(answer.as_ref().map(|(kind, data)| (*kind, &data[..])), Some(OK), "{answer:?}");
    }
}

fn numbered(numbers: std::ops::Range<usize>) -> Vec<Bytes> {
    numbers.map(|n| Bytes::from(format!("{n:06}"))).collect()
}

/// What a topic has, by queue and place there.
async fn found(rig: &Rig, topic: &str, count: usize) -> Vec<(Queue, StoredMessage)> {
    let (cluster, name) = (cluster(rig), topic.replace('.', "|"));
    let mut found = Vec::new();
    eventually("all can be read", SOON, async || {
        found = stored(&cluster, &name).await;
        found.len() >= count
    })
    .await;
    found
}

/// What a topic has, sorted.
async fn each(rig: &Rig, topic: &str, count: usize) -> Vec<Bytes> {
    let found = found(rig, topic, count).await;
    let mut bodies: Vec<Bytes> = found.into_iter().map(|(_, message)| message.body).collect();
    bodies.sort();
    bodies
}

/// What a topic of one queue on each broker has, in the order it was stored.
async fn in_order(rig: &Rig, topic: &str, count: usize) -> Vec<Bytes> {
    let mut found = found(rig, topic, count).await;
    // Sorting is stable, so each queue keeps its order.
    found.sort_by_key(|(_, message)| message.store_timestamp);
    let mut by_queue: BTreeMap<String, Vec<Bytes>> = BTreeMap::new();
    for (queue, message) in &found {
        by_queue.entry(queue.to_string()).or_default().push(message.body.clone());
    }
    for (queue, bodies) in by_queue {
        assert!(bodies.is_sorted(), "{queue} is not in order");
    }
    let mut bodies: Vec<Bytes> = found.into_iter().map(|(_, message)| message.body).collect();
    bodies.sort();
    bodies
}

/// Writes lines to `to_nsq`, which publishes each; its exit status must be good.
fn to_nsq(gateway: &Gateway, topic: &str, lines: &[Bytes]) {
    let mut program = Command::new(nsq::program("to_nsq").unwrap())
        .args(["-topic", topic, "-nsqd-tcp-address", &gateway.tcp_address.to_string()])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = program.stdin.take().unwrap();
    for line in lines {
        input.write_all(&[line, &b"\n"[..]].concat()).unwrap();
    }
    drop(input);
    let output = program.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn to_nsq_publishes_unmodified_and_in_order(line: Line) {
    let rig = shared(line);
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let topic = topic("to.nsq");
    create_topic_of(rig, &topic, 1).await;
    let lines = numbered(0..300);
    blocking(|| to_nsq(&gateway, &topic, &lines));
    assert_eq!(in_order(rig, &topic, lines.len()).await, lines);
    let counted = format!(
        r#"nsqbridge_gateway_request_duration_seconds_count{{endpoint="tcp_pub",topic="{topic}",outcome="ok"}}"#
    );
    assert_eq!(gateway.metric(&counted), 300.0);
    let (_, info) = gateway.get("/info");
    assert!(info.contains(&format!(r#""tcp_port":{},"#, gateway.tcp_address.port())), "{info}");
}

/// It publishes as go-nsq does it asynchronously: many at a time, each finished in its own nsqd once it is answered.
async fn nsq_to_nsq_moves_a_backlog_through_the_gateway(line: Line) {
    let rig = shared(line);
    let nsqd = &rig.nsqds[0];
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let topic = topic("to.gateway");
    create_topic_of(rig, &topic, 1).await;
    create_channel(nsqd, &topic, "moved").await;
    let bodies = numbered(0..3_000);
    let batch = encode_binary(bodies.iter().map(|body| &body[..]));
    let url = format!("http://{}/mpub?binary=true&topic={topic}", nsqd.http_addr());
    let answer = reqwest::Client::new().post(url).body(batch).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "OK");
    let flags = [
        format!("-topic={topic}"),
        "-channel=moved".to_owned(),
        "-max-in-flight=500".to_owned(),
        format!("-nsqd-tcp-address={}", nsqd.tcp_addr()),
        format!("-destination-nsqd-tcp-address={}", gateway.tcp_address),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let _mover = blocking(|| nsq::run("nsq_to_nsq", &flags)).unwrap();
    let found = || async { stored(&cluster(rig), &topic.replace('.', "|")).await };
    eventually("all are in RocketMQ", SOON, async || found().await.len() >= bodies.len()).await;
    let found: BTreeSet<Bytes> = found().await.into_iter().map(|(_, message)| message.body).collect();
    assert_eq!(found, bodies.into_iter().collect());
    let (_, stats) = gateway.get("/stats?format=json");
    assert!(stats.contains(r#""user_agent":"nsq_to_nsq/1.3.0 go-nsq/"#), "{stats}");
}

async fn a_thousand_publishes_without_waiting_are_answered_in_order_and_each_is_stored(line: Line) {
    let rig = shared(line);
    let gateway = Gateway::start(&rig.name_server, &["--broadcast-address", "gw-1"]).await;
    let topic = topic("pipelined");
    create_topic_of(rig, &topic, 1).await;
    let bodies = numbered(0..1_000);
    let mut producer = Producer::connect(&gateway).await;
    producer.send(&command("IDENTIFY", br#"{"feature_negotiation":true,"user_agent":"test"}"#)).await;
    let (_, negotiated) = producer.answer().await.unwrap();
    assert!(negotiated.starts_with(br#"{"max_rdy_count":2500,"version":"1.3.0","#), "{negotiated:?}");
    let commands: Vec<u8> = bodies.iter().flat_map(|body| command(format!("PUB {topic}"), body)).collect();
    producer.send(&commands).await;
    for _ in &bodies {
        producer.assert_ok().await;
    }
    let more = numbered(1_000..1_100);
    let batch = encode_binary(more.iter().map(|body| &body[..]));
    producer.send(&command(format!("MPUB {topic}"), &batch)).await;
    producer.assert_ok().await;
    let all = [bodies, more].concat();
    assert_eq!(each(rig, &topic, all.len()).await, all);
    let message = stored(&cluster(rig), &topic.replace('.', "|")).await.remove(0).1;
    let property = |name: &str| message.properties.get(name).map(str::to_owned);
    assert_eq!(property("nsq_topic").as_ref(), Some(&topic));
    assert_eq!(property("nsq_gateway").as_deref(), Some("gw-1"));
    assert!(property("nsq_accepted_ms").is_some());
}

async fn a_deferred_publish_is_not_there_before_its_time(line: Line) {
    let rig = shared(line);
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let topic = topic("dpub");
    create_topic_of(rig, &topic, 1).await;
    let mut producer = Producer::connect(&gateway).await;
    let began = Instant::now();
    producer.send(&command(format!("DPUB {topic} 5000"), b"later")).await;
    producer.assert_ok().await;
    assert_eq!(in_order(rig, &topic, 1).await, ["later"]);
    assert!(began.elapsed() > Duration::from_millis(3_900), "{:?}", began.elapsed());
}

async fn topics_that_are_refused_over_http_are_refused_here(line: Line) {
    let rig = shared(line);
    let flags = ["--unknown-topics", "refuse", "--ephemeral-topics", "refuse"];
    let gateway = Gateway::start(&rig.name_server, &flags).await;
    for name in [topic("nobody"), "t#ephemeral".to_owned()] {
        let mut producer = Producer::connect(&gateway).await;
        producer.send(&command(format!("PUB {name}"), b"x")).await;
        let (kind, words) = producer.answer().await.unwrap();
        assert_eq!(kind, ERROR);
        assert!(words.starts_with(format!("E_BAD_TOPIC PUB topic {name} ").as_bytes()), "{words:?}");
        assert_eq!(producer.answer().await, None);
    }
}

on_both_lines!(
    to_nsq_publishes_unmodified_and_in_order,
    nsq_to_nsq_moves_a_backlog_through_the_gateway,
    a_thousand_publishes_without_waiting_are_answered_in_order_and_each_is_stored,
    a_deferred_publish_is_not_there_before_its_time,
    topics_that_are_refused_over_http_are_refused_here,
);

#[tokio::test(flavor = "multi_thread")]
async fn while_rocketmq_is_away_a_publish_fails_in_time_and_afterwards_works_again() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 0, ..RigOptions::default() });
    let gateway = Gateway::start(&rig.name_server, &["--publish-timeout", "2s"]).await;
    let topic = topic("away");
    gateway.publish(&topic, "000000").await;
    let mut idle = Producer::connect(&gateway).await;
    blocking(|| rig.brokers[0].kill()).unwrap();
    for (verb, body) in
        [("PUB", Bytes::from_static(b"lost")), ("MPUB", encode_binary([&b"lost"[..]].into_iter()))]
    {
        let mut producer = Producer::connect(&gateway).await;
        let began = Instant::now();
        producer.send(&[command(format!("{verb} {topic}"), &body), b"NOP\n".to_vec()].concat()).await;
        let (kind, words) = producer.answer().await.unwrap();
        assert_eq!(kind, ERROR);
        let words = String::from_utf8(words.to_vec()).unwrap();
        assert!(words.starts_with(&format!("E_{verb}_FAILED {verb} failed ")), "{words}");
        assert!(words.contains("repeating is safe") || words.contains("perhaps stored"), "{words}");
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        assert_eq!(producer.answer().await, None);
    }
    blocking(|| rig.brokers[0].start_again()).unwrap();
    gateway.healthy().await;
    idle.send(&command(format!("PUB {topic}"), b"000001")).await;
    let answer = idle.answer().await;
    let mut producer = Producer::connect(&gateway).await;
    if answer.is_some_and(|(kind, _)| kind == ERROR) {
        eventually("publishing works again", SOON, async || {
            producer = Producer::connect(&gateway).await;
            producer.send(&command(format!("PUB {topic}"), b"000001")).await;
            producer.answer().await.is_some_and(|(kind, _)| kind == RESPONSE)
        })
        .await;
    }
    producer.send(&command(format!("PUB {topic}"), b"000002")).await;
    producer.assert_ok().await;
    let failed = format!(
        r#"nsqbridge_gateway_request_duration_seconds_count{{endpoint="tcp_mpub",topic="{topic}",outcome="#
    );
    assert!(gateway.admin("/metrics").1.contains(&failed));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_spooled_while_rocketmq_is_away_is_acknowledged_and_comes() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 0, ..RigOptions::default() });
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&rig.name_server, &spooling(folder.path().to_str().unwrap())).await;
    let topic = topic("tcp.spool");
    create_topic_of(&rig, &topic, 1).await;
    let mut producer = Producer::connect(&gateway).await;
    let bodies = numbered(0..200);
    for (n, body) in bodies.iter().enumerate() {
        producer.send(&command(format!("PUB {topic}"), body)).await;
        if n == 50 {
            blocking(|| rig.brokers[0].kill()).unwrap();
        }
    }
    for _ in &bodies {
        producer.assert_ok().await;
    }
    blocking(|| rig.brokers[0].start_again()).unwrap();
    let found: BTreeSet<Bytes> = each(&rig, &topic, bodies.len()).await.into_iter().collect();
    assert_eq!(found, bodies.into_iter().collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_come_and_who_answers_none_is_closed() {
    let gateway = Gateway::start(&shared(Line::V5).name_server, &[]).await;
    let identify = command("IDENTIFY", br#"{"heartbeat_interval":1000}"#);
    let (mut silent, mut alive) = (Producer::connect(&gateway).await, Producer::connect(&gateway).await);
    silent.send(&identify).await;
    alive.send(&identify).await;
    silent.assert_ok().await;
    alive.assert_ok().await;
    let began = Instant::now();
    let silence = async {
        let mut heartbeats = 0;
        while let Some((kind, data)) = silent.frame().await {
            assert_eq!((kind, &data[..]), (RESPONSE, HEARTBEAT));
            heartbeats += 1;
        }
        (heartbeats, began.elapsed())
    };
    let answering = async {
        for _ in 0..5 {
            assert_eq!(alive.frame().await, Some((RESPONSE, Bytes::from_static(HEARTBEAT))));
            alive.send(b"NOP\n").await;
        }
    };
    let ((heartbeats, after), ()) = tokio::join!(silence, answering);
    assert!((1..=3).contains(&heartbeats), "{heartbeats}");
    assert!((1_900..6_000).contains(&after.as_millis()), "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_what_is_on_its_way_and_everything_answered_is_stored() {
    let rig = shared(Line::V5);
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let topic = topic("drained");
    create_topic_of(rig, &topic, 1).await;
    let bodies = numbered(0..20_000);
    let mut producer = Producer::connect(&gateway).await;
    let commands: Vec<u8> = bodies.iter().flat_map(|body| command(format!("PUB {topic}"), body)).collect();
    producer.send(&command(format!("PUB {topic}"), b"000000")).await;
    producer.assert_ok().await;
    let (mut from, mut to) = producer.stream.split();
    let sending = async {
        // A gateway that stops reads no further, and says so by closing.
        let _ = to.write_all(&commands).await;
    };
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        blocking(|| gateway.process.signal("TERM")).unwrap();
    };
    let answers = async {
        let (mut bytes, mut answered, mut refused) = (BytesMut::new(), 0, 0);
        loop {
            while let Some(Frame { kind, data }) = frames::decode(&mut bytes).unwrap() {
                match (kind, &data[..]) {
                    OK => answered += 1,
                    (_, HEARTBEAT) => {}
                    _ => refused += 1,
                }
            }
            match timeout(SOON, from.read_buf(&mut bytes)).await.expect("still open") {
                Ok(1..) => {}
                Ok(0) | Err(_) => return (answered, refused),
            }
        }
    };
    let (.., (answered, refused)) = tokio::join!(sending, stopping, answers);
    println!("{answered} of {} were answered before the stop", bodies.len());
    assert_eq!(blocking(|| gateway.process.wait(SOON)).unwrap(), 0);
    assert_eq!(refused, 0);
    let found = each(rig, &topic, answered + 1).await;
    // Whatever was begun was answered: nothing else is there.
    assert_eq!(found[1..], bodies[..answered]);
}
