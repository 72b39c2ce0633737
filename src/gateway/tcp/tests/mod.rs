//! The TCP side alone: raw bytes over real sockets in, publishes out, with a script in RocketMQ's place.

mod commands;

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    gateway::{
        admission::AdmissionLimits,
        publish::{PublishConfig, PublishError},
        tests::{Gateway, SOON},
    },
    nsq::{
        frames::{self, ERROR, Frame, RESPONSE},
        mpub::encode_binary,
    },
};

fn sized(body: &[u8]) -> Vec<u8> {
    [&(body.len() as i32).to_be_bytes()[..], body].concat()
}

fn command(line: &str, body: &[u8]) -> Vec<u8> {
    [line.as_bytes(), b"\n", &sized(body)].concat()
}

fn mpub(bodies: &[&str]) -> Vec<u8> {
    encode_binary(bodies.iter().map(|body| body.as_bytes())).to_vec()
}

/// A producer's connection.
struct Producer {
    stream: TcpStream,
    read: BytesMut,
}

impl Producer {
    async fn connect(gateway: &Gateway) -> Self {
        let stream = TcpStream::connect(gateway.tcp_address).await.unwrap();
        let mut producer = Self { stream, read: BytesMut::new() };
        producer.send(b"  V2").await;
        producer
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next frame; `None` when the connection is closed in order.
    async fn frame(&mut self) -> Option<(i32, String)> {
        timeout(SOON, self.read_frame()).await.expect("no answer").expect("reset")
    }

    async fn read_frame(&mut self) -> io::Result<Option<(i32, String)>> {
        loop {
            if let Some(Frame { kind, data }) = frames::decode(&mut self.read).unwrap() {
                return Ok(Some((kind, String::from_utf8(data.to_vec()).unwrap())));
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn assert_says(&mut self, kind: i32, words: &str) {
        assert_eq!(self.frame().await, Some((kind, words.to_owned())));
    }

    async fn assert_ends(&mut self) {
        assert_eq!(self.frame().await, None);
    }

    /// Nothing comes for some time.
    async fn assert_waits(&mut self) {
        let waited = timeout(Duration::from_millis(200), self.read_frame()).await;
        assert!(waited.is_err(), "{waited:?}");
    }
}

#[tokio::test]
async fn answers_come_in_the_order_of_the_commands_whatever_order_they_are_stored_in() {
    let mut gateway = Gateway::start().await;
    let mut producer = Producer::connect(&gateway).await;
    let commands = [
        command("PUB a", b"1"),
        command("IDENTIFY", b"{}"),
        command("MPUB b", &mpub(&["2", "3"])),
        command("DPUB a 1500", b"4"),
    ];
    producer.send(&commands.concat()).await;
    let mut asked = [gateway.asked().await, gateway.asked().await, gateway.asked().await];
    assert_eq!(asked.each_ref().map(|asked| asked.topic.to_string()), ["a", "b", "a"]);
    assert_eq!(asked[1].bodies, ["2", "3"]);
    assert_eq!(asked[2].defer, Some(Duration::from_millis(1_500)));
    asked.reverse();
    let [last, second, first] = asked;
    last.answer.send(Ok(())).unwrap();
    second.answer.send(Ok(())).unwrap();
    producer.assert_waits().await;
    first.answer.send(Ok(())).unwrap();
    for _ in 0..4 {
        producer.assert_says(RESPONSE, "OK").await;
    }
}

#[tokio::test]
async fn what_is_no_v2_hears_so_and_a_producer_in_pieces_is_understood() {
    let mut gateway = Gateway::start().await;
    let stream = TcpStream::connect(gateway.tcp_address).await.unwrap();
    let mut stranger = Producer { stream, read: BytesMut::new() };
    stranger.send(b"GET / HTTP/1.1\r\n\r\n").await;
    stranger.assert_says(ERROR, "E_BAD_PROTOCOL").await;
    stranger.assert_ends().await;

    let mut producer = Producer::connect(&gateway).await;
    for byte in command("PUB t", b"slow") {
        producer.send(&[byte]).await;
        sleep(Duration::from_millis(2)).await;
    }
    let asked = gateway.asked().await;
    assert_eq!(asked.bodies, ["slow"]);
    asked.answer.send(Ok(())).unwrap();
    producer.assert_says(RESPONSE, "OK").await;
}

#[tokio::test]
async fn an_error_comes_in_its_turn_and_ends_the_connection() {
    let mut gateway = Gateway::start().await;
    let mut producer = Producer::connect(&gateway).await;
    producer
        .send(&[command("PUB t", b"1"), b"PUB no*topic\n".to_vec(), command("PUB t", b"2")].concat())
        .await;
    let asked = gateway.asked().await;
    producer.assert_waits().await;
    asked.answer.send(Ok(())).unwrap();
    producer.assert_says(RESPONSE, "OK").await;
    producer.assert_says(ERROR, r#"E_BAD_TOPIC PUB topic name "no*topic" is not valid"#).await;
    producer.assert_ends().await;
    assert!(gateway.nothing_asked(), "what stands behind an error is not carried out");
}

#[tokio::test]
async fn nothing_begins_after_a_failure_though_its_answer_has_to_wait() {
    let mut gateway = Gateway::start().await;
    let mut producer = Producer::connect(&gateway).await;
    producer.send(&[command("PUB slow", b"1"), command("PUB t", b"2")].concat()).await;
    let (slow, fails) = (gateway.asked().await, gateway.asked().await);
    fails.answer.send(Err(PublishError::Unknown("no answer".to_owned()))).unwrap();
    producer.assert_waits().await;
    producer.send(&command("PUB t", b"3")).await;
    producer.assert_waits().await;
    assert!(gateway.nothing_asked());
    slow.answer.send(Ok(())).unwrap();
    producer.assert_says(RESPONSE, "OK").await;
    let failed = "E_PUB_FAILED PUB failed perhaps stored, repeating may duplicate: no answer";
    producer.assert_says(ERROR, failed).await;
    producer.assert_ends().await;
}

#[tokio::test]
async fn a_producer_that_hangs_up_cancels_nothing() {
    let mut gateway = Gateway::start().await;
    let mut producer = Producer::connect(&gateway).await;
    producer.send(&command("PUB t", b"x")).await;
    let asked = gateway.asked().await;
    producer.stream.set_zero_linger().unwrap();
    drop(producer);
    sleep(Duration::from_millis(200)).await;
    asked.answer.send(Ok(())).expect("the publish was given up");
}

#[tokio::test]
async fn a_producer_that_has_ended_its_side_is_answered() {
    let mut gateway = Gateway::start().await;
    let mut producer = Producer::connect(&gateway).await;
    producer.send(&[command("PUB t", b"x"), b"PUB t\n\0".to_vec()].concat()).await;
    producer.stream.shutdown().await.unwrap();
    gateway.asked().await.answer.send(Ok(())).unwrap();
    producer.assert_says(RESPONSE, "OK").await;
    producer.assert_says(ERROR, "E_BAD_MESSAGE PUB failed to read message body size").await;
    producer.assert_ends().await;
}

#[tokio::test]
async fn a_drain_answers_what_was_begun_reads_a_body_to_its_end_and_takes_no_more() {
    let mut gateway = Gateway::start().await;
    let mut idle = Producer::connect(&gateway).await;
    let mut publishing = Producer::connect(&gateway).await;
    publishing.send(&command("PUB t", b"1")).await;
    let asked = gateway.asked().await;
    let mut sending = Producer::connect(&gateway).await;
    sending.send(b"PUB t\n\0\0\0\x02x").await;
    // Until its beginning is read.
    sleep(Duration::from_millis(100)).await;
    gateway.drain.cancel();
    idle.assert_ends().await;
    publishing.assert_waits().await;
    publishing.send(&command("PUB t", b"2")).await;
    asked.answer.send(Ok(())).unwrap();
    publishing.assert_says(RESPONSE, "OK").await;
    publishing.assert_ends().await;
    sending.send(b"y").await;
    let asked = gateway.asked().await;
    assert_eq!(asked.bodies, ["xy"]);
    asked.answer.send(Ok(())).unwrap();
    sending.assert_says(RESPONSE, "OK").await;
    sending.assert_ends().await;
    drop((idle, publishing, sending));
    gateway.drained().await;
}

#[tokio::test]
async fn a_window_of_commands_is_on_its_way_and_no_more() {
    let limits = AdmissionLimits { bytes: 256 << 20, topic_bytes: 64 << 20, requests: 10_000 };
    let mut gateway =
        Gateway::start_with(PublishConfig { admission: limits, ..PublishConfig::default() }).await;
    let mut producer = Producer::connect(&gateway).await;
    let large = command("PUB t", &vec![b'x'; 1 << 20]);
    let (mut from, mut to) = producer.stream.split();
    let sending = async {
        for _ in 0..6 {
            to.write_all(&large).await.unwrap();
        }
    };
    let answering = async {
        let mut asked = Vec::new();
        for _ in 0..4 {
            asked.push(gateway.asked().await);
        }
        sleep(Duration::from_millis(200)).await;
        assert!(gateway.nothing_asked(), "four of 1 MiB fill the window");
        for asked in asked {
            asked.answer.send(Ok(())).unwrap();
        }
        for _ in 0..2 {
            gateway.asked().await.answer.send(Ok(())).unwrap();
        }
    };
    let mut answers = vec![0; 6 * 10];
    let (.., read) = tokio::join!(sending, answering, from.read_exact(&mut answers));
    read.unwrap();
    assert!(answers.chunks(10).all(|answer| answer == b"\0\0\0\x06\0\0\0\0OK"));
}

#[tokio::test]
async fn without_room_a_command_waits_and_then_fails_and_room_is_given_back() {
    // One command and its body; no place of a request's is taken.
    let limits = AdmissionLimits { bytes: 1_600, topic_bytes: 64 << 20, requests: 0 };
    let budget = Duration::from_millis(600);
    let publishing = PublishConfig { admission: limits, budget, ..PublishConfig::default() };
    let mut gateway = Gateway::start_with(publishing).await;
    let mut holding = Producer::connect(&gateway).await;
    holding.send(&command("PUB t", b"1")).await;
    let asked = gateway.asked().await;
    let mut patient = Producer::connect(&gateway).await;
    let began = Instant::now();
    patient.send(&command("PUB t", b"2")).await;
    let full = "E_PUB_FAILED PUB failed not stored: no room: max-in-flight-bytes; repeating is safe";
    patient.assert_says(ERROR, full).await;
    assert!(began.elapsed() >= budget);
    let mut lucky = Producer::connect(&gateway).await;
    lucky.send(&command("PUB t", b"3")).await;
    lucky.assert_waits().await;
    asked.answer.send(Ok(())).unwrap();
    drop(asked.permit);
    let asked = gateway.asked().await;
    assert_eq!(asked.bodies, ["3"]);
    asked.answer.send(Ok(())).unwrap();
    lucky.assert_says(RESPONSE, "OK").await;
}

#[tokio::test]
async fn heartbeats_come_and_a_silent_client_goes_but_none_that_waits_for_its_answer() {
    let mut gateway = Gateway::start().await;
    let mut producer = Producer::connect(&gateway).await;
    producer.send(&command("IDENTIFY", br#"{"heartbeat_interval":1000}"#)).await;
    producer.assert_says(RESPONSE, "OK").await;
    producer.send(&command("PUB t", b"x")).await;
    let asked = gateway.asked().await;
    for _ in 0..3 {
        producer.assert_says(RESPONSE, "_heartbeat_").await;
    }
    asked.answer.send(Ok(())).unwrap();
    let mut heard = Vec::new();
    while let Some((kind, words)) = producer.frame().await {
        assert_eq!(kind, RESPONSE);
        heard.push(words);
    }
    assert_eq!(heard[0], "OK");
    assert!((2..=5).contains(&heard.len()), "{heard:?}");
}
