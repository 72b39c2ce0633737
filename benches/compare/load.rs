//! Keeps connections busy: on each, one request after the other, as wrk does; over nsqd's TCP protocol also many at once.
//!
//! One thread, requests ready-made, answers read no further than needed; what it can do at most is measured first ([`most`]). It
//! ends by waiting for every answer, so that what was acknowledged is exactly known.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// An answer that is not there this long after the end will not come.
const LAST_ANSWER: Duration = Duration::from_secs(60);

/// What came of a load.
#[derive(Debug, Default)]
pub struct Load {
    /// Requests answered 200, or `OK`.
    pub acknowledged: u64,
    /// Requests answered otherwise.
    pub refused: u64,
    /// From the first request to the last answer.
    pub took: Duration,
    /// Microseconds of each request, sorted.
    latencies: Vec<u32>,
}

impl Load {
    /// Calls that were not made over HTTP, all acknowledged.
    pub fn of_calls(calls: &[Duration], took: Duration) -> Self {
        let mut latencies: Vec<u32> = calls.iter().map(micros).collect();
        latencies.sort_unstable();
        Self { acknowledged: calls.len() as u64, refused: 0, took, latencies }
    }

    /// Acknowledged requests a second.
    pub fn rate(&self) -> f64 {
        self.acknowledged as f64 / self.took.as_secs_f64()
    }

    /// The time within which this part of all requests was answered, in milliseconds.
    pub fn within(&self, part: f64) -> f64 {
        let at = ((self.latencies.len() as f64 * part) as usize).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).map_or(f64::NAN, |micros| f64::from(*micros) / 1_000.0)
    }
}

/// Who is kept busy.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub address: SocketAddr,
    pub speaks: Speaks,
}

/// What a peer takes.
#[derive(Debug, Clone, Copy)]
pub enum Speaks {
    Http,
    /// nsqd's TCP protocol, with so many commands on their way on a connection at most.
    Tcp {
        at_once: usize,
    },
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self { address, speaks: Speaks::Http }
    }
}

impl Speaks {
    fn greeting(self) -> &'static [u8] {
        match self {
            Self::Http => b"",
            Self::Tcp { .. } => b"  V2",
        }
    }

    fn at_once(self) -> usize {
        match self {
            Self::Http => 1,
            Self::Tcp { at_once } => at_once,
        }
    }

    /// Whether a whole answer is a good one, and its length; `None` until it is whole.
    fn answer(self, bytes: &[u8]) -> Option<(bool, usize)> {
        const OK: &[u8] = b"\0\0\0\x06\0\0\0\0OK";
        match self {
            Self::Http => http_answer(bytes),
            Self::Tcp { .. } => {
                let whole = 4 + u32::from_be_bytes(*bytes.first_chunk()?) as usize;
                (bytes.len() >= whole).then(|| (&bytes[..whole] == OK, whole))
            }
        }
    }
}

/// A request, ready to be written again and again.
pub fn request(address: SocketAddr, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A command of nsqd's TCP protocol, likewise.
pub fn command(line: &str, body: &[u8]) -> Vec<u8> {
    [line.as_bytes(), b"\n", &(body.len() as u32).to_be_bytes(), body].concat()
}

fn micros(took: &Duration) -> u32 {
    u32::try_from(took.as_micros()).unwrap_or(u32::MAX)
}

/// Sends one request on all connections again and again for this long.
pub async fn run(peer: impl Into<Peer>, connections: usize, lasting: Duration, request: &[u8]) -> Load {
    run_each(peer, connections, lasting, |_| vec![request.to_vec()]).await
}

/// Sends each connection's requests in turn, again and again, for this long.
pub async fn run_each(
    peer: impl Into<Peer>,
    connections: usize,
    lasting: Duration,
    requests: impl Fn(usize) -> Vec<Vec<u8>>,
) -> Load {
    let Peer { address, speaks } = peer.into();
    let mut streams = Vec::new();
    for _ in 0..connections {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(speaks.greeting()).await.unwrap();
        streams.push(stream);
    }
    let begun = Instant::now();
    let mut busy = JoinSet::new();
    for (n, stream) in streams.into_iter().enumerate() {
        busy.spawn(keep_busy(stream, speaks, requests(n), begun + lasting));
    }
    let mut load = Load::default();
    loop {
        let done = tokio::time::timeout(lasting + LAST_ANSWER, busy.join_next());
        let Some(done) = done.await.expect("every request is answered") else { break };
        let done = done.unwrap();
        load.acknowledged += done.acknowledged;
        load.refused += done.refused;
        load.latencies.extend(done.latencies);
    }
    load.took = begun.elapsed();
    load.latencies.sort_unstable();
    load
}

async fn keep_busy(mut stream: TcpStream, speaks: Speaks, requests: Vec<Vec<u8>>, until: Instant) -> Load {
    let mut load = Load::default();
    let mut buffer = BytesMut::with_capacity(4096);
    let mut requests = requests.iter().cycle();
    let (mut on_their_way, mut commands) = (VecDeque::new(), Vec::new());
    loop {
        let now = Instant::now();
        commands.clear();
        while now < until && on_their_way.len() < speaks.at_once() {
            commands.extend_from_slice(requests.next().expect("a cycle"));
            on_their_way.push_back(now);
        }
        if on_their_way.is_empty() {
            return load;
        }
        stream.write_all(&commands).await.unwrap();
        let mut answered = false;
        while !answered {
            while let Some((ok, length)) = speaks.answer(&buffer) {
                buffer.advance(length);
                answered = true;
                load.latencies.push(micros(&on_their_way.pop_front().expect("a request").elapsed()));
                *if ok { &mut load.acknowledged } else { &mut load.refused } += 1;
            }
            if !answered {
                assert!(stream.read_buf(&mut buffer).await.unwrap() > 0, "the server closed a connection");
            }
        }
    }
}

fn http_answer(bytes: &[u8]) -> Option<(bool, usize)> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).unwrap();
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().unwrap())
    });
    let whole = head + length.expect("every answer has a length");
    (bytes.len() >= whole).then(|| (text.starts_with("HTTP/1.1 200"), whole))
}

/// Requests a second against a server that answers at once and does nothing else: no server can look faster than this.
pub async fn most(connections: usize, lasting: Duration, body: usize) -> f64 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let request = request(address, "/pub?topic=t", &vec![b'x'; body]);
    let whole = request.len();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            let serving = async {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    tokio::spawn(answer_at_once(stream, whole));
                }
            };
            tokio::select! { () = serving => {}, _ = stopped => {} }
        });
    });
    let load = run(address, connections, lasting, &request).await;
    drop(stop);
    server.join().unwrap();
    load.rate()
}

/// Takes requests of one length.
async fn answer_at_once(mut stream: TcpStream, whole: usize) {
    let mut buffer = BytesMut::with_capacity(4 * whole);
    while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
        while buffer.len() >= whole {
            buffer.advance(whole);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK").await.unwrap();
        }
    }
}
