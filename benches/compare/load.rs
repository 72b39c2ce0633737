//! Keeps HTTP connections busy: on each, one request after the other, as wrk does.
//!
//! One thread, requests ready-made, answers read no further than needed: per request it costs less than any server it is pointed at
//! (its own processor time stands in the table). It ends by waiting for every answer, so that what was acknowledged is
//! exactly known.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

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

/// Sends each connection's request again and again for this long.
pub async fn run(
    address: SocketAddr,
    connections: usize,
    lasting: Duration,
    request: impl Fn(usize) -> Vec<u8>,
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
        busy.spawn(keep_busy(stream, request(n), begun + lasting));
    }
    let mut load = Load::default();
    while let Some(done) = busy.join_next().await {
        let done = done.unwrap();
        load.acknowledged += done.acknowledged;
        load.refused += done.refused;
        load.latencies.extend(done.latencies);
    }
    load.took = begun.elapsed();
    load.latencies.sort_unstable();
    load
}

async fn keep_busy(mut stream: TcpStream, request: Vec<u8>, until: Instant) -> Load {
    let mut load = Load::default();
    let mut buffer = BytesMut::with_capacity(4096);
    while Instant::now() < until {
        let begun = Instant::now();
        stream.write_all(&request).await.unwrap();
        let ok = loop {
            if let Some((ok, length)) = answer(&buffer) {
                buffer.advance(length);
                break ok;
            }
            assert!(stream.read_buf(&mut buffer).await.unwrap() > 0, "the server closed a connection");
        };
        load.latencies.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
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
