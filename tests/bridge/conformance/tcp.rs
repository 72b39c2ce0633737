//! nsqd's TCP protocol, compared as HTTP is: the same bytes over a connection of their own, and every frame that comes back.
//!
//! Behind the bytes stands one more command: it is answered where the connection lives on, and only there. Then the client ends its side,
//! and both servers end with their last answer.

use std::{net::SocketAddr, time::Duration};

use bytes::BytesMut;
use nsqbridge::nsq::{
    frames::{self, ERROR, HEARTBEAT},
    mpub::encode_binary,
};
use nsqbridge_brokers::http;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    Pair, assert_none,
    differences::{self, Differs},
};
use crate::bridge::{blocking, command};

/// After this long, nothing more is coming.
const SILENCE: Duration = Duration::from_secs(15);
const TOPIC: &str = "tcp.compared";

/// One connection.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    bytes: Vec<u8>,
    /// No further command stands behind the bytes.
    alone: bool,
    /// The client ends nothing, and says nothing more.
    held: bool,
    pub differs: Option<Differs>,
}

/// What came of a case.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    frames: Vec<(i32, String)>,
    /// Whether the server has closed.
    closed: bool,
}

impl Seen {
    /// The codes of errors, and other frames by what they are; then what became of the connection.
    fn summary(&self) -> String {
        let frame = |(kind, words): &(i32, String)| match *kind {
            ERROR => words.split(' ').next().unwrap_or_default().to_owned(),
            _ if words.starts_with('{') => "json".to_owned(),
            _ => words.clone(),
        };
        let mut words: Vec<String> = self.frames.iter().map(frame).collect();
        words.push(if self.closed { "closed" } else { "silent" }.to_owned());
        words.join(" ")
    }
}

impl Case {
    fn differs(self, key: &'static str, nsqd: &'static str, gateway: &'static str) -> Self {
        Self { differs: Some(Differs { key, nsqd, gateway }), ..self }
    }

    fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    fn held(self) -> Self {
        Self { held: true, ..self }
    }
}

/// Bytes behind the magic.
fn case(name: impl Into<String>, bytes: impl AsRef<[u8]>) -> Case {
    raw(name, [b"  V2", bytes.as_ref()].concat())
}

fn raw(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Case {
    Case { name: name.into(), bytes: bytes.into(), alone: false, held: false, differs: None }
}

fn publish() -> Vec<u8> {
    command(format!("PUB {TOPIC}"), "x")
}

fn mpub(payload: impl AsRef<[u8]>) -> Vec<u8> {
    command(format!("MPUB {TOPIC}"), payload)
}

fn batch(bodies: &[&str]) -> Vec<u8> {
    encode_binary(bodies.iter().map(|body| body.as_bytes())).to_vec()
}

fn numbers(numbers: &[i32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// Cases for the defaults of both.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        raw("no magic", "").alone(),
        raw("half of the magic", "  ").alone(),
        raw("version 1", "  V1NOP\n"),
        raw("HTTP", "GET /ping HTTP/1.1\r\n\r\n"),
        case("nothing behind the magic", ""),
        case("PUB", publish()),
        case("PUB of every byte", command(format!("PUB {TOPIC}"), (0..=255).collect::<Vec<u8>>())),
        case("a carriage return and surplus words", command(format!("PUB {TOPIC} more\r"), "x")),
        case("NOP, also with a blank", "NOP\nNOP \n"),
        case("MPUB", mpub(batch(&["a", "bc", "def"]))),
        case(
            "MPUB that announces less",
            [format!("MPUB {TOPIC}\n").as_bytes(), &numbers(&[1]), &batch(&["a"])].concat(),
        ),
        case(
            "MPUB that announces more",
            [format!("MPUB {TOPIC}\n").as_bytes(), &numbers(&[99]), &batch(&["a"])].concat(),
        ),
        case("DPUB", command(format!("DPUB {TOPIC} 1000"), "x")),
        case("DPUB of nothing", command(format!("DPUB {TOPIC} "), "x")),
        case("DPUB of the longest", command(format!("DPUB {TOPIC} 3600000"), "x")),
        case("DPUB that overflows", command(format!("DPUB {TOPIC} 18446744073709551617"), "x")).differs(
            "dpub-overflow",
            "OK OK closed",
            "E_INVALID closed",
        ),
        case("AUTH", command("AUTH", "secret")),
        case("AUTH with a word", "AUTH secret\n"),
        case("AUTH of nothing", command("AUTH", "")),
        case("AUTH cut short", [&b"AUTH\n"[..], &numbers(&[9]), b"x"].concat()).alone(),
        case("CLS", "CLS\n"),
        case("an error between publishes", [publish(), b"nonsense\n".to_vec(), publish()].concat()),
        case("a line without an end", "PUB").alone(),
        case("a line beyond the buffer", vec![b'a'; 20_000]),
        case("a line as long as the buffer", [&vec![b'a'; 16_383][..], b"\n"].concat()),
        case("one byte more", [&vec![b'a'; 16_384][..], b"\n"].concat()),
        case("IDENTIFY without a size", "IDENTIFY\n\0").alone(),
        case("IDENTIFY cut short", [&b"IDENTIFY\n"[..], &numbers(&[9]), b"{"].concat()).alone(),
        case("IDENTIFY too big", [&b"IDENTIFY\n"[..], &numbers(&[5_242_881])].concat()),
        case(
            "IDENTIFY twice",
            [command("IDENTIFY", "{}"), command("IDENTIFY", r#"{"feature_negotiation":true}"#)].concat(),
        ),
        case(
            "MPUB too big as a whole",
            [format!("MPUB {TOPIC}\n").as_bytes(), &numbers(&[5_242_881])].concat(),
        ),
        case("MPUB with a message too big", mpub(numbers(&[1, 1_048_577]))),
        case("PUB as large as may be", command(format!("PUB {TOPIC}"), vec![b'x'; 1_048_576])),
    ];
    for word in ["", " ", "pub t", "PUBX t", "PUT t", "\u{fc}", "  PUB t", "GET / HTTP/1.1"] {
        cases.push(case(format!("unknown command {word:?}"), format!("{word}\n")));
    }
    for line in ["PUB", "MPUB", "DPUB", "DPUB t"] {
        cases.push(case(format!("too few words: {line}"), format!("{line}\n")));
    }
    for verb in ["PUB", "MPUB"] {
        for name in [
            "",
            "a%20b",
            "a\"b\\",
            "t\u{7f}\u{0}\u{1b}\t",
            "\u{fc}\u{20ac}\u{1f600}",
            "\u{a0}\u{85}\u{200b}",
            "t#Ephemeral",
            "'",
        ] {
            cases.push(case(format!("{verb} to {name:?}"), command(format!("{verb} {name}"), "x")));
        }
        cases.push(case(format!("{verb} to bytes"), command([verb.as_bytes(), b" a\xff\xc3"].concat(), "x")));
        cases.push(case(format!("{verb} to 65 bytes"), command(format!("{verb} {}", "a".repeat(65)), "x")));
        cases.push(case(format!("{verb} without a size"), format!("{verb} {TOPIC}\n\0\0")).alone());
        for size in [0, -1, i32::MIN, i32::MAX] {
            let head = [format!("{verb} {TOPIC}\n").as_bytes(), &size.to_be_bytes()].concat();
            cases.push(case(format!("{verb} of {size} bytes"), head));
        }
    }
    for defer in ["-1", "+5", "1.5", "x", "3600001", "99999999999", "1e3", "\u{fc}"] {
        cases.push(case(format!("DPUB for {defer:?}"), command(format!("DPUB {TOPIC} {defer}"), "x")));
    }
    cases.push(
        case("PUB cut short", [format!("PUB {TOPIC}\n").as_bytes(), &numbers(&[9]), b"x"].concat()).alone(),
    );
    cases.push(case(
        "PUB one too big",
        [format!("PUB {TOPIC}\n").as_bytes(), &numbers(&[1_048_577])].concat(),
    ));
    for (name, payload) in [
        ("no count", numbers(&[])),
        ("half a count", vec![0, 0]),
        ("no messages", numbers(&[0])),
        ("fewer than none", numbers(&[-1])),
        ("more messages than can be", numbers(&[1_048_576])),
        ("no size", numbers(&[1])),
        ("a size of 0", numbers(&[1, 0])),
        ("a size below 0", numbers(&[2, -5])),
        ("a second size of 0", [numbers(&[2, 1]), b"a".to_vec(), numbers(&[0])].concat()),
        ("a message cut short", [numbers(&[1, 5]), b"abc".to_vec()].concat()),
    ] {
        // The client ends where the payload does.
        let bytes = [format!("MPUB {TOPIC}\n").as_bytes(), &numbers(&[100]), &payload].concat();
        cases.push(case(format!("MPUB with {name}"), bytes).alone());
    }
    cases.extend(identities());
    for line in [
        "SUB tcp.compared ch",
        "RDY 1",
        "FIN 0123456789abcdef",
        "REQ 0123456789abcdef 0",
        "TOUCH 0123456789abcdef",
    ] {
        let nsqd = if line.starts_with("SUB") { "OK OK closed" } else { "E_INVALID closed" };
        cases.push(case(line, format!("{line}\n")).differs("consumers", nsqd, "E_INVALID closed"));
    }
    cases
}

fn identities() -> Vec<Case> {
    let asks = |json: &str| case(format!("IDENTIFY {json}"), command("IDENTIFY", json));
    let mut cases: Vec<Case> = [
        "{}",
        "null",
        "[]",
        "x",
        "5",
        "{} {}",
        r#"{"unknown":[{}]}"#,
        r#"{"client_id":null,"hostname":"h"}"#,
        r#"{"client_id":5}"#,
        r#"{"feature_negotiation":true}"#,
        r#"{"FEATURE_NEGOTIATION":true}"#,
        r#"{"feature_negotiation":1}"#,
        r#"{"feature_negotiation":true,"tls_v1":true}"#,
        r#"{"feature_negotiation":true,"deflate_level":9}"#,
        r#"{"deflate_level":"9"}"#,
        r#"{"feature_negotiation":true,"sample_rate":7,"msg_timeout":5000}"#,
        r#"{"sample_rate":100}"#,
        r#"{"sample_rate":-1}"#,
        r#"{"sample_rate":3000000000}"#,
        r#"{"msg_timeout":999}"#,
        r#"{"feature_negotiation":true,"output_buffer_size":-1}"#,
        r#"{"feature_negotiation":true,"output_buffer_size":64,"output_buffer_timeout":-1}"#,
        r#"{"output_buffer_size":63}"#,
        r#"{"output_buffer_size":65537}"#,
        r#"{"output_buffer_timeout":24}"#,
        r#"{"output_buffer_timeout":30001}"#,
        r#"{"heartbeat_interval":-1}"#,
        r#"{"heartbeat_interval":-2}"#,
        r#"{"heartbeat_interval":999}"#,
        r#"{"heartbeat_interval":60001}"#,
        r#"{"heartbeat_interval":60000}"#,
        r#"{"heartbeat_interval":1000.0}"#,
        r#"{"heartbeat_interval":1e3}"#,
        r#"{"heartbeat_interval":"1000"}"#,
        r#"{"feature_negotiation":true,"short_id":"a","long_id":"b","user_agent":"go-nsq/1.1.0"}"#,
    ]
    .into_iter()
    .map(asks)
    .collect();
    for (json, nsqd) in [
        (r#"{"feature_negotiation":true,"snappy":true}"#, "json garbage closed"),
        (r#"{"feature_negotiation":true,"deflate":true}"#, "json garbage closed"),
        (r#"{"feature_negotiation":true,"deflate":true,"snappy":true}"#, "E_IDENTIFY_FAILED closed"),
    ] {
        // nsqd drops what came before it had switched.
        cases.push(asks(json).alone().differs("no-compression", nsqd, "json closed"));
    }
    cases
}

/// Cases for small limits: messages of 100 bytes, bodies of 500, 5 s for a body.
pub fn small_limits() -> Vec<Case> {
    let many: Vec<&str> = std::iter::repeat_n("0123456789", 40).collect();
    let claims =
        |size: i32| [format!("MPUB {TOPIC}\n").as_bytes(), &numbers(&[size]), &batch(&many)].concat();
    let silent = command("IDENTIFY", r#"{"heartbeat_interval":-1}"#);
    vec![
        case("PUB as large as may be", command(format!("PUB {TOPIC}"), [b'x'; 100])),
        case("PUB one too big", command(format!("PUB {TOPIC}"), [b'x'; 101])),
        case("MPUB as large as may be", mpub(batch(&many[..35]))),
        case("MPUB one message too many", mpub(numbers(&[100]))),
        case("MPUB too big", claims(564)),
        case("MPUB that is too big and does not say so", claims(9)).differs(
            "mpub-sum",
            "OK OK closed",
            "E_BAD_BODY closed",
        ),
        case("DPUB for too long", command(format!("DPUB {TOPIC} 1001"), "x")),
        raw("a magic that never ends", "  V").held().differs("magic-late", "silent", "closed"),
        case(
            "a body that never comes",
            [silent, [format!("PUB {TOPIC}\n").as_bytes(), &numbers(&[2]), b"x"].concat()].concat(),
        )
        .held()
        .differs("tcp-body-late", "OK silent", "OK E_BAD_MESSAGE closed"),
    ]
}

impl Case {
    /// What is sent.
    fn sent(&self) -> Vec<u8> {
        match self.alone || self.held {
            true => self.bytes.clone(),
            false => [&self.bytes[..], &publish()].concat(),
        }
    }
}

async fn play(case: &Case, server: SocketAddr) -> Seen {
    let mut stream = TcpStream::connect(server).await.unwrap();
    // A server that takes no more has said why; that is read below.
    let _ = stream.write_all(&case.sent()).await;
    if !case.held {
        let _ = stream.shutdown().await;
    }
    let (mut buffer, mut seen) = (BytesMut::new(), Seen { frames: Vec::new(), closed: false });
    loop {
        match frames::decode(&mut buffer) {
            Ok(Some(frame)) if frame.data == HEARTBEAT => continue,
            Ok(Some(frame)) => {
                seen.frames.push((frame.kind, String::from_utf8_lossy(&frame.data).into_owned()));
                continue;
            }
            Err(_) if seen.frames.last().is_none_or(|(_, words)| words != "garbage") => {
                seen.frames.push((0, "garbage".to_owned()));
            }
            _ => {}
        }
        match timeout(SILENCE, stream.read_buf(&mut buffer)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return Seen { closed: true, ..seen },
            Err(_) => return seen,
        }
    }
}

async fn judge(case: &Case, nsqd: SocketAddr, gateway: SocketAddr) -> Option<String> {
    let (nsqd, gateway) = tokio::join!(play(case, nsqd), play(case, gateway));
    let summaries = || (nsqd.summary(), gateway.summary());
    let wrong = differences::wrong(case.differs.as_ref(), nsqd == gateway, summaries);
    wrong.map(|wrong| format!("{}: {wrong}\n  nsqd    {nsqd:?}\n  gateway {gateway:?}\n", case.name))
}

/// What `/stats` tells of producers, with one connected that has said who it is, and one that has not.
pub async fn compare_producers(pair: &Pair) {
    let mut open = Vec::new();
    for server in [pair.nsqd.tcp_addr(), pair.gateway.tcp_address] {
        for identity in
            [&b""[..], &command("IDENTIFY", r#"{"hostname":"there","client_id":"me","user_agent":"ua/1.0"}"#)]
        {
            let mut stream = TcpStream::connect(server).await.unwrap();
            let bytes = [b"  V2", identity, &publish(), b"nonsense"].concat();
            stream.write_all(&bytes).await.unwrap();
            let mut answers = vec![0; if identity.is_empty() { 10 } else { 20 }];
            timeout(SILENCE, stream.read_exact(&mut answers)).await.unwrap().unwrap();
            assert!(answers.ends_with(b"OK"));
            open.push(stream);
        }
    }
    let told = |server: SocketAddr, query: &str| {
        let (_, text) = blocking(|| http::get(server, &format!("/stats?{query}"))).unwrap();
        text
    };
    for query in ["format=json", "format=json&topic=tcp.compared", "format=json&include_clients=false"] {
        let shape = |server| {
            let told: Value = serde_json::from_str(&told(server, query)).unwrap();
            let producers = told["producers"].as_array().cloned().unwrap_or_default();
            let mut producers: Vec<_> = producers
                .into_iter()
                .map(|mut producer| {
                    for own in ["remote_address", "connect_ts"] {
                        assert!(!producer[own].take().is_null(), "{producer}");
                    }
                    producer.to_string()
                })
                .collect();
            producers.sort();
            producers
        };
        assert_eq!(shape(pair.nsqd.http_addr()), shape(pair.gateway.address), "{query}");
    }
    for query in ["", "topic=tcp.compared", "include_clients=false"] {
        let lines = |server| {
            let text = told(server, query);
            let (_, producers) = text.split_once("\nProducers:").unwrap();
            // Ports and seconds are each one's own.
            let digit = |letter: char| if letter.is_ascii_digit() { '#' } else { letter };
            let mut lines: Vec<String> =
                producers.lines().map(|line| line.chars().map(digit).collect()).collect();
            lines.sort();
            lines
        };
        assert_eq!(lines(pair.nsqd.http_addr()), lines(pair.gateway.address), "{query}");
    }
}

/// Plays all cases and compares.
pub async fn compare(pair: &Pair, cases: Vec<Case>) {
    // Created before, so that no publish waits for it.
    pair.gateway.publish(TOPIC, "first").await;
    let (nsqd, gateway) = (pair.nsqd.tcp_addr(), pair.gateway.tcp_address);
    let mut complaints = Vec::new();
    for case in &cases {
        complaints.extend(judge(case, nsqd, gateway).await);
    }
    assert_none(&complaints, cases.len());
}
