//! HTTP clients as producers use them, unmodified, publish through the gateway; RocketMQ must hold their bodies byte by byte.
//!
//! Each publishes the same bodies and prints each answer. A client that is not installed is skipped, and says so; with
//! `NSQBRIDGE_NO_SKIPS` set only PHP may be missing. curl, Go and Python never may.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use bytes::Bytes;
use nsqbridge::{
    mapping::Names,
    nsq::mpub::encode_binary,
    rocketmq::{Cluster, QueueReader, reader::Pull},
};
use nsqbridge_brokers::Line;
use tempfile::TempDir;

use crate::bridge::{Gateway, SOON, blocking, cluster, eventually, shared, skipped, topic};

/// What every client hears for the bodies it publishes.
const ANSWERS: &[&str] = &[
    "bytes 200 OK",
    "large 200 OK",
    r#"empty 400 {"message":"MSG_EMPTY"}"#,
    "lines 200 OK",
    "batch 200 OK",
    "chunks 200 OK",
];

/// A gateway, a topic of one's own, and the files a client publishes from.
struct Publishing {
    gateway: Gateway,
    topic: String,
    files: TempDir,
}

impl Publishing {
    async fn start(client: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let batch = batch();
        let batch = encode_binary(batch.iter().map(|body| &body[..]));
        for (name, content) in [
            ("bytes", every_byte()),
            ("large", largest()),
            ("lines", Bytes::from("first\n\nsecond\r\nlast")),
            ("batch", batch),
        ] {
            fs::write(files.path().join(name), content).unwrap();
        }
        let gateway = Gateway::start(&shared(Line::V5).name_server, &[]).await;
        Self { gateway, topic: topic(client), files }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway.address)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Runs a client that publishes everything.
    async fn run(&self, mut client: Command) {
        client.arg(self.url("")).arg(&self.topic).arg(self.files.path());
        let output = blocking(|| output(&mut client));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{client:?}: {}\n{said}{complaints}", output.status);
        assert_eq!(said.lines().collect::<Vec<_>>(), ANSWERS, "{complaints}");
        self.has_stored(vec![every_byte(), largest(), every_byte()], true).await;
    }

    /// Waits until RocketMQ holds these bodies, and those of the files `lines` and `batch` if they were published; no
    /// others may be there.
    async fn has_stored(&self, mut expected: Vec<Bytes>, batches: bool) {
        if batches {
            expected.extend([&b"first"[..], b"second\r", b"last"].map(Bytes::from_static));
            expected.extend(batch());
        }
        expected.sort_unstable();
        let cluster = cluster(shared(Line::V5));
        let topic = Names::default().rocketmq_topic(&self.topic.parse().unwrap());
        let mut stored = Vec::new();
        eventually("everything is stored", SOON, async || {
            stored = bodies(&cluster, &topic).await;
            stored.len() >= expected.len()
        })
        .await;
        stored.sort_unstable();
        let sizes = |bodies: &[Bytes]| bodies.iter().map(Bytes::len).collect::<Vec<_>>();
        assert!(stored == expected, "stored {:?}, published {:?}", sizes(&stored), sizes(&expected));
    }
}

/// Every value a byte can have.
fn every_byte() -> Bytes {
    (0..=255).collect()
}

/// As large as a message may be, and not compressible into something else.
fn largest() -> Bytes {
    let mut random = fastrand::Rng::with_seed(1);
    (0..1_048_576).map(|_| random.u8(..)).collect()
}

/// Messages that make a body curl asks leave for: more than a mebibyte.
fn batch() -> Vec<Bytes> {
    vec![every_byte(), largest().slice(..700_000), Bytes::from_static(b"\n"), largest().slice(300_000..)]
}

/// Everything a topic holds.
async fn bodies(cluster: &Cluster, topic: &str) -> Vec<Bytes> {
    let reader = QueueReader::new(cluster.clone(), "http-clients");
    let mut bodies = Vec::new();
    for (queue, bounds) in cluster.topic_stats(topic).await.unwrap() {
        let mut next = bounds.min;
        while next < bounds.max {
            let pulled = reader.pull(&queue, next, 32, Duration::from_secs(2)).await.unwrap();
            let Pull::Messages { messages, problem: None, .. } = pulled else { panic!("{pulled:?}") };
            next += messages.len() as i64;
            bodies.extend(messages.into_iter().map(|message| message.body));
        }
    }
    bodies
}

/// Runs a program to its end, without the proxies the environment may name.
fn output(command: &mut Command) -> Output {
    command
        .env("NO_PROXY", "*")
        .env("no_proxy", "*")
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// A program of `tests/bridge/clients`, to be run by an interpreter.
fn script(interpreter: &[&str], name: &str) -> Command {
    let mut command = Command::new(interpreter[0]);
    command
        .args(&interpreter[1..])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bridge/clients").join(name));
    command
}

/// Whether a program can be run; if not, the test says that it is skipped.
fn installed(program: &str, may_be_missing: bool) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        skipped(&format!("{program} is not installed, so nothing was published with it"), may_be_missing);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn go_publishes() {
    let publishing = Publishing::start("client.go").await;
    let mut client = script(&["go", "run"], "publish.go");
    client.env("GOFLAGS", "-mod=mod").env("GOTOOLCHAIN", "local").env("GOPROXY", "off");
    publishing.run(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_publishes() {
    Publishing::start("client.python").await.run(script(&["python3"], "publish.py")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_publishes() {
    if installed("node", false) {
        Publishing::start("client.node").await.run(script(&["node"], "publish.mjs")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn php_publishes() {
    if installed("php", true) {
        Publishing::start("client.php").await.run(script(&["php"], "publish.php")).await;
    }
}

/// What curl prints: its answers, and with `-v` what went over the wire.
struct Curl {
    answers: Vec<String>,
    wire: String,
}

/// Runs curl; each answer is told as `STATUS BODY`.
fn curl(arguments: &[&str]) -> Curl {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--verbose", "--max-time", "30"]);
    command.args(["--write-out", " %{http_code}\n"]).args(arguments);
    let output = blocking(|| output(&mut command));
    let wire = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{wire}", output.status);
    let answers = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(body, status)| format!("{status} {body}"))
        .collect();
    Curl { answers, wire }
}

/// Publishes everything with these flags; returns what went over the wire.
async fn curl_publishes(flags: &[&str]) -> String {
    let publishing = Publishing::start("client.curl").await;
    let mut wire = String::new();
    for (expected, path, file) in [
        ("200 OK", "/pub", Some("bytes")),
        ("200 OK", "/pub", Some("large")),
        (r#"400 {"message":"MSG_EMPTY"}"#, "/pub", None),
        ("200 OK", "/mpub", Some("lines")),
        ("200 OK", "/mpub?binary=true", Some("batch")),
    ] {
        let separator = if path.contains('?') { '&' } else { '?' };
        let url = publishing.url(&format!("{path}{separator}topic={}", publishing.topic));
        let data = file.map_or_else(String::new, |file| format!("@{}", publishing.file(file).display()));
        let said = curl(&[flags, &["--data-binary", &data, &url]].concat());
        assert_eq!(said.answers, [expected], "{path} {file:?} {flags:?}\n{}", said.wire);
        wire.push_str(&said.wire);
    }
    publishing.has_stored(vec![every_byte(), largest()], true).await;
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_publishes_and_asks_leave_for_a_large_body() {
    let wire = curl_publishes(&[]).await;
    assert!(
        wire.contains("< HTTP/1.1 100 Continue"),
        "curl asks by itself beyond a mebibyte, if not earlier\n{wire}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_publishes_and_asks_leave_for_every_body() {
    let wire = curl_publishes(&["--header", "Expect: 100-continue"]).await;
    assert_eq!(wire.matches("< HTTP/1.1 100 Continue").count(), 4, "for every body there is\n{wire}");
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_publishes_over_http_1_0() {
    let wire = curl_publishes(&["--http1.0"]).await;
    assert_eq!(wire.matches("< HTTP/1.0 200 OK").count(), 4, "{wire}");
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_uploads_in_chunks() {
    let publishing = Publishing::start("client.curl").await;
    let url = publishing.url(&format!("/pub?topic={}", publishing.topic));
    let chunked = ["--request", "POST", "--header", "Transfer-Encoding: chunked"];
    for file in ["bytes", "large"] {
        let file = publishing.file(file).display().to_string();
        let said = curl(&[&chunked[..], &["--upload-file", &file, &url]].concat());
        assert_eq!(said.answers, ["200 OK"], "{}", said.wire);
        assert!(said.wire.contains("> Transfer-Encoding: chunked"), "{}", said.wire);
    }
    publishing.has_stored(vec![every_byte(), largest()], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_reuses_its_connection_even_after_a_refusal() {
    let publishing = Publishing::start("client.curl").await;
    let url = publishing.url(&format!("/pub?topic={}", publishing.topic));
    let file = format!("@{}", publishing.file("bytes").display());
    let write_out = ["--write-out", " %{http_code}\n"];
    let next = [&["--next", "--silent", "--verbose"][..], &write_out].concat();
    let refused = ["--data-binary", "", &url];
    let taken = ["--data-binary", &file, &url];
    let said = curl(&[&taken[..], &next, &refused, &next, &taken].concat());
    assert_eq!(said.answers, ["200 OK", r#"400 {"message":"MSG_EMPTY"}"#, "200 OK"], "{}", said.wire);
    assert_eq!(said.wire.matches("Re-using existing").count(), 2, "{}", said.wire);
    publishing.has_stored(vec![every_byte(); 2], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_sees_why_a_body_is_too_large() {
    let publishing = Publishing::start("client.curl").await;
    let url = publishing.url(&format!("/pub?topic={}", publishing.topic));
    let file = publishing.file("too-large");
    fs::write(&file, vec![b'a'; 3_000_000]).unwrap();
    let file = format!("@{}", file.display());
    for expect in ["Expect: 100-continue", "Expect:"] {
        let said = curl(&["--header", expect, "--data-binary", &file, &url]);
        assert_eq!(said.answers, [r#"413 {"message":"MSG_TOO_BIG"}"#], "{expect}\n{}", said.wire);
    }
}
