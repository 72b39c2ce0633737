//! Keeps HTTP connections busy: on each, one request after the other, as wrk does.
//!
//! One thread, requests ready-made, answers read no further than needed; what it can do at most is measured first ([`most`]). It
//! ends by waiting for every answer, so that what was acknowledged is exactly known.

use std::{
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
    /// Requests answered 200.
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

/// A request, ready to be written again and again.
pub fn request(address: SocketAddr, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn micros(took: &Duration) -> u32 {
    u32::try_from(took.as_micros()).unwrap_or(u32::MAX)
}

/// Sends one request on all connections again and again for this long.
pub async fn run(address: SocketAddr, connections: usize, lasting: Duration, request: &[u8]) -> Load {
    run_each(address, connections, lasting, |_| vec![request.to_vec()]).await
}

/// Sends each connection's requests in turn, again and again, for this long.
pub async fn run_each(
    address: SocketAddr,
    connections: usize,
    lasting: Duration,
    requests: impl Fn(usize) -> Vec<Vec<u8>>,
) -> Load {
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        streams.push(stream);
    }
    let begun = Instant::now();
    let mut busy = JoinSet::new();
    for (n, stream) in streams.into_iter().enumerate() {
        busy.spawn(keep_busy(stream, requests(n), begun + lasting));
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

async fn keep_busy(mut stream: TcpStream, requests: Vec<Vec<u8>>, until: Instant) -> Load {
    let mut load = Load::default();
    let mut buffer = BytesMut::with_capacity(4096);
    for request in requests.iter().cycle() {
        let begun = Instant::now();
        if begun >= until {
            break;
        }
        stream.write_all(request).await.unwrap();
        let ok = loop {
            if let Some((ok, length)) = answer(&buffer) {
                buffer.advance(length);
                break ok;
            }
            assert!(stream.read_buf(&mut buffer).await.unwrap() > 0, "the server closed a connection");
        };
        load.latencies.push(micros(&begun.elapsed()));
        if ok {
            load.acknowledged += 1;
        } else {
            load.refused += 1;
        }
    }
    load
}

/// Whether a whole answer says 200, and its length; `None` until it is whole.
fn answer(bytes: &[u8]) -> Option<(bool, usize)> {
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
