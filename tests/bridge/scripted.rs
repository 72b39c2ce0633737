//! A RocketMQ peer that misbehaves on demand, for the faults a real broker cannot be made to show.
//!
//! It is name server and broker in one: it answers routes (one broker, itself) and heartbeats properly, and leaves
//! everything else to the script.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::BytesMut;
use nsqbridge::rocketmq::{
    Cluster, ClusterConfig, Message,
    codes::{request, response},
    command::{self, Command},
    producer::unix_millis,
    properties::{Properties, PropertiesBuilder},
    record::{StoredMessage, encode_stored},
    unique_key::UniqueKeys,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Mutex, Notify},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// What the peer does with a request.
pub enum Reply {
    /// Answers it.
    Answer(Command),
    /// Answers it twice.
    Twice(Command),
    /// Answers it when it is let go; until then nothing behind it on the connection is read.
    Held(Arc<Notify>, Command),
    /// Answers it when it is let go, and what is behind it before that.
    Late(Arc<Notify>, Command),
    /// Says nothing, ever.
    Silence,
    /// Neither reads nor writes on this connection again, and leaves it open: what a host that died looks like.
    Deaf,
    /// Answers with the first bytes of a frame and closes.
    HalfAFrame(Command),
    /// Sends these bytes as they are.
    Raw(Vec<u8>),
    /// Closes the connection.
    Close,
}

/// A running peer.
pub struct Peer {
    pub address: String,
    /// Requests seen that were left to the script.
    pub seen: Arc<AtomicUsize>,
    /// Connections accepted.
    pub accepted: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl Peer {
    /// Serves topic `t` with `queues` queues, with 0 no topic at all; `script` decides on every request but routes and heartbeats, and is told how many
    /// came before it.
    pub async fn start(
        queues: u32,
        script: impl Fn(usize, &Command) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serve(&[], queues, false, script).await
    }

    /// As [`Self::start`]; `others` are brokers as well, which its routes name `other-0` and so on.
    pub async fn start_beside(
        others: &[String],
        queues: u32,
        script: impl Fn(usize, &Command) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serve(others, queues, false, script).await
    }

    /// Leaves routes to `script` as well.
    pub async fn without_routes(script: impl Fn(usize, &Command) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve(&[], 0, true, script).await
    }

    async fn serve(
        others: &[String],
        queues: u32,
        scripted_routes: bool,
        script: impl Fn(usize, &Command) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(AtomicUsize::new(0));
        let names = (0..others.len()).map(|n| format!("other-{n}"));
        let mut brokers: Vec<(String, String)> = names.zip(others.iter().cloned()).collect();
        brokers.push(("fake".to_owned(), address.clone()));
        let peer = Arc::new(Script { brokers, queues, scripted_routes, seen: Arc::clone(&seen), script });
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                connections.spawn(serve(stream, Arc::clone(&peer)));
            }
        });
        Self { address, seen, accepted, _serving: AbortOnDropHandle::new(serving) }
    }

    /// A client of this peer.
    pub fn cluster(&self) -> Cluster {
        Cluster::new(ClusterConfig::new(vec![self.address.clone()]))
    }

    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

struct Script<F> {
    brokers: Vec<(String, String)>,
    queues: u32,
    scripted_routes: bool,
    seen: Arc<AtomicUsize>,
    script: F,
}

impl<F: Fn(usize, &Command) -> Reply> Script<F> {
    fn reply(&self, asked: &Command) -> Reply {
        match asked.code {
            request::GET_ROUTEINFO_BY_TOPIC if !self.scripted_routes && self.queues == 0 => {
                Reply::Answer(refuse(asked, response::TOPIC_NOT_EXIST, "No topic route info in name server"))
            }
            request::GET_ROUTEINFO_BY_TOPIC if !self.scripted_routes => {
                Reply::Answer(ok(asked).body(self.route()))
            }
            request::HEART_BEAT => Reply::Answer(ok(asked)),
            _ => (self.script)(self.seen.fetch_add(1, Ordering::SeqCst), asked),
        }
    }

    fn route(&self) -> String {
        let queues = self.brokers.iter().map(|(name, _)| {
            serde_json::json!({"brokerName": name, "readQueueNums": self.queues, "writeQueueNums": self.queues, "perm": 6})
        });
        let brokers = self.brokers.iter().map(|(name, address)| {
            serde_json::json!({"brokerName": name, "cluster": "c", "brokerAddrs": {"0": address}})
        });
        let (queues, brokers): (Vec<_>, Vec<_>) = (queues.collect(), brokers.collect());
        serde_json::json!({"queueDatas": queues, "brokerDatas": brokers}).to_string()
    }
}

async fn serve<F: Fn(usize, &Command) -> Reply>(stream: TcpStream, script: Arc<Script<F>>) {
    let (mut reading, writing) = stream.into_split();
    let writing = Arc::new(Mutex::new(writing));
    let mut late = JoinSet::new();
    let mut buffer = BytesMut::new();
    loop {
        while let Some(asked) = command::decode(&mut buffer).unwrap() {
            let mut out = BytesMut::new();
            let mut close = false;
            match script.reply(&asked) {
                Reply::Answer(answer) => command::encode(&answer, &mut out),
                Reply::Twice(answer) => {
                    command::encode(&answer, &mut out);
                    command::encode(&answer, &mut out);
                }
                Reply::Held(gate, answer) => {
                    gate.notified().await;
                    command::encode(&answer, &mut out);
                }
                Reply::Late(gate, answer) => {
                    let writing = Arc::clone(&writing);
                    late.spawn(async move {
                        gate.notified().await;
                        let mut out = BytesMut::new();
                        command::encode(&answer, &mut out);
                        // A client that is gone waits for no answer.
                        let _ = writing.lock().await.write_all(&out).await;
                    });
                }
                Reply::Silence => {}
                Reply::Deaf => return std::future::pending().await,
                Reply::HalfAFrame(answer) => {
                    command::encode(&answer, &mut out);
                    out.truncate(out.len() / 2);
                    close = true;
                }
                Reply::Raw(bytes) => out.extend_from_slice(&bytes),
                Reply::Close => close = true,
            }
            if writing.lock().await.write_all(&out).await.is_err() || close {
                return;
            }
        }
        match reading.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// A bare success.
pub fn ok(asked: &Command) -> Command {
    Command::response_to(asked, response::SUCCESS, None)
}

/// The answer of a broker that stored the message at `offset`.
pub fn stored(asked: &Command, offset: i64) -> Command {
    ok(asked)
        .field("msgId", "7F00000100002A9F0000000000000000")
        .field("queueId", 0)
        .field("queueOffset", offset)
}

/// A record as a broker stores it, at this place of queue `t`/0.
pub fn record(offset: i64, body: &[u8]) -> StoredMessage {
    StoredMessage {
        topic: "t".into(),
        queue_id: 0,
        queue_offset: offset,
        physical_offset: 1_000 + offset,
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: "127.0.0.1:1".parse().unwrap(),
        store_timestamp: 2,
        store_host: "127.0.0.1:2".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: body.to_vec().into(),
        properties: Properties::default(),
    }
}

/// The answer to a pull from a queue of a hundred messages: these, and to go on at `next`.
pub fn pulled(asked: &Command, next: i64, records: &[StoredMessage]) -> Command {
    let mut body = BytesMut::new();
    records.iter().for_each(|record| encode_stored(&mut body, record));
    let answer = ok(asked).field("nextBeginOffset", next).field("minOffset", 0).field("maxOffset", 100);
    answer.body(body.freeze())
}

/// A refusal.
pub fn refuse(asked: &Command, code: i32, remark: &str) -> Command {
    Command::response_to(asked, code, Some(remark.to_owned()))
}

/// A message with this body.
pub fn message(body: &[u8]) -> Message {
    Message {
        body: body.to_vec().into(),
        properties: PropertiesBuilder::new(),
        unique_key: UniqueKeys::new().mint(),
        born_at: unix_millis(),
        deliver_at: None,
    }
}
