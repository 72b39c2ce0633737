//! The HTTP side alone: raw bytes over real sockets in, publishes out, with a script in RocketMQ's place.
//!
//! Where a test says what nsqd does, nsqd 1.3.0 was asked the same bytes.

mod bodies;
mod connections;
mod refusals;

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    GatewayConfig, Listeners,
    admission::Permit,
    lane::Stored,
    publish::{PublishConfig, PublishError, PublishRequest, Publisher},
    serve,
    topic::Topic,
};
use crate::nsq::names::TopicName;

/// Beyond this a test waits in vain.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// Hands what a publisher is asked to the test.
#[derive(Debug, Clone)]
pub(super) struct Script(mpsc::Sender<Asked>);

/// What a publisher was asked to store; no bodies when only to create the topic. Dropped, it is not stored.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) topic: TopicName,
    pub(super) bodies: Vec<Bytes>,
    pub(super) defer: Option<Duration>,
    pub(super) answer: oneshot::Sender<Result<(), PublishError>>,
    /// Held, as a publish would hold it, until the test lets go.
    pub(super) permit: Option<Permit>,
}

impl Script {
    /// As a publish in a task of its own: a producer that hangs up does not take it back.
    pub(super) async fn ask(self, request: PublishRequest) -> Result<Stored, PublishError> {
        let PublishRequest { topic, bodies, defer, permit, .. } = request;
        self.ask_for(topic, bodies, defer, Some(permit)).await.map(|()| Stored::default())
    }

    pub(super) async fn ask_for_topic(&self, name: &TopicName) -> Result<Arc<Topic>, PublishError> {
        self.ask_for(name.clone(), Vec::new(), None, None).await?;
        Ok(Arc::new(Topic::new(name.clone(), name.to_string(), super::share::Stamps::default(), false, None)))
    }

    async fn ask_for(
        &self,
        topic: TopicName,
        bodies: Vec<Bytes>,
        defer: Option<Duration>,
        permit: Option<Permit>,
    ) -> Result<(), PublishError> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Asked { topic, bodies, defer, answer, permit }).await.ok();
        answered
            .await
            .unwrap_or_else(|_| Err(PublishError::Unavailable("the script said nothing".to_owned())))
    }
}

/// A gateway on ports of its own.
pub(super) struct Gateway {
    address: SocketAddr,
    pub(super) tcp_address: SocketAddr,
    pub(super) drain: CancellationToken,
    asked: mpsc::Receiver<Asked>,
    serving: AbortOnDropHandle<()>,
}

impl Gateway {
    pub(super) async fn start() -> Self {
        Self::start_with(PublishConfig::default()).await
    }

    pub(super) async fn start_with(publishing: PublishConfig) -> Self {
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, tcp_address) = (http.local_addr().unwrap(), tcp.local_addr().unwrap());
        let drain = CancellationToken::new();
        let (script, asked) = mpsc::channel(16);
        let publisher = Arc::new(Publisher::for_tests(Script(script), publishing));
        let config = GatewayConfig {
            max_msg_size: 1_048_576,
            max_body_size: 5_242_880,
            max_req_timeout: Duration::from_secs(3_600),
            body_timeout: Duration::from_secs(60),
            max_connections: 100,
            broadcast_address: "gateway".to_owned(),
            hostname: "host".to_owned(),
        };
        let serving =
            tokio::spawn(serve(Listeners { http, tcp: Some(tcp) }, publisher, config, drain.clone()));
        Self { address, tcp_address, drain, asked, serving: AbortOnDropHandle::new(serving) }
    }

    async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap(), read: Vec::new() }
    }

    /// Sends one request over a connection of its own; nothing may be published for it.
    async fn refusal(&mut self, request: &[u8]) -> Answer {
        let mut client = self.connect().await;
        client.send(request).await;
        let answer = client.answer().await;
        assert!(self.asked.try_recv().is_err(), "asked to publish for {}", String::from_utf8_lossy(request));
        answer
    }

    /// What the publisher is asked next.
    pub(super) async fn asked(&mut self) -> Asked {
        timeout(SOON, self.asked.recv()).await.expect("nothing was published").unwrap()
    }

    /// Whether the publisher has been asked nothing more.
    pub(super) fn nothing_asked(&mut self) -> bool {
        self.asked.try_recv().is_err()
    }

    /// Sends one request, stores what it publishes, and returns that; its answer must be nsqd's `OK`.
    async fn stored(&mut self, request: &[u8]) -> (TopicName, Vec<Bytes>, Option<Duration>) {
        let mut client = self.connect().await;
        client.send(request).await;
        let Asked { topic, bodies, defer, answer, .. } = self.asked().await;
        answer.send(Ok(())).unwrap();
        client.answer().await.assert_ok();
        (topic, bodies, defer)
    }

    /// Waits until it has drained.
    pub(super) async fn drained(self) {
        timeout(SOON, self.serving).await.expect("still draining").unwrap();
    }
}

/// A producer's connection.
struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

/// One answer, as it came.
#[derive(Debug)]
struct Answer {
    /// The whole first line.
    status: String,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn closes(&self) -> bool {
        self.header("Connection") == Some("close")
    }

    #[track_caller]
    fn assert_ok(&self) {
        let typed = (self.header("X-Nsq-Content-Type"), self.header("Content-Type"));
        assert_eq!((self.status.as_str(), self.body.as_str()), ("HTTP/1.1 200 OK", "OK"), "{self:?}");
        assert_eq!(typed, (Some("nsq; version=1.0"), Some("text/plain; charset=utf-8")));
        assert_eq!(self.header("Content-Length"), Some("2"));
        assert!(self.header("Date").is_some());
    }

    #[track_caller]
    fn assert_error(&self, status: u16, code: &str) {
        assert!(self.status.starts_with(&format!("HTTP/1.1 {status} ")), "{code}: {self:?}");
        assert_eq!(self.body, format!(r#"{{"message":"{code}"}}"#), "{self:?}");
        let typed = (self.header("X-Nsq-Content-Type"), self.header("Content-Type"));
        assert_eq!(typed, (Some("nsq; version=1.0"), Some("application/json; charset=utf-8")));
    }
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next answer; read by its length, as a client that keeps its connections does.
    async fn answer(&mut self) -> Answer {
        timeout(SOON, self.read_answer()).await.expect("no answer").unwrap()
    }

    async fn read_answer(&mut self) -> io::Result<Answer> {
        let head = loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break String::from_utf8(self.read.drain(..end + 4).collect()).unwrap();
            }
            self.read_more().await?;
        };
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().to_owned();
        let headers: BTreeMap<_, _> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let length = headers.get("Content-Length").map_or(0, |length| length.parse().unwrap());
        while self.read.len() < length {
            self.read_more().await?;
        }
        let body = String::from_utf8(self.read.drain(..length).collect()).unwrap();
        Ok(Answer { status, headers, body })
    }

    async fn read_more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Waits until the gateway has closed the connection in order, with nothing more said.
    async fn assert_ends(&mut self) {
        let ended = timeout(SOON, self.stream.read_buf(&mut self.read)).await.expect("still open");
        assert_eq!(ended.expect("reset"), 0, "{:?}", String::from_utf8_lossy(&self.read));
    }
}

/// A request with a body and its length.
fn post(target: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    [head("POST", target, &[&format!("Content-Length: {}", body.len())]).as_slice(), body].concat()
}

/// A request whose body comes in these chunks.
fn chunked(target: &str, chunks: &[&[u8]]) -> Vec<u8> {
    let mut request = head("POST", target, &["Transfer-Encoding: chunked"]);
    for chunk in chunks {
        request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    request
}

fn head(method: &str, target: &str, headers: &[&str]) -> Vec<u8> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\nHost: nsqd\r\n{headers}\r\n").into_bytes()
}

/// A binary mpub body that claims `count` messages and holds these.
fn binary(count: i32, messages: &[&[u8]]) -> Vec<u8> {
    let mut body = count.to_be_bytes().to_vec();
    for message in messages {
        body.extend_from_slice(&(message.len() as i32).to_be_bytes());
        body.extend_from_slice(message);
    }
    body
}
