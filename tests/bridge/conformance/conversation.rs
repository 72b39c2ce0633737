//! Sends a case over a connection of its own, and notes what happens.

use std::{fmt, net::SocketAddr, time::Duration};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    cases::{Case, Step},
    request::{get, post},
};

/// After this long, nothing more is coming. Only cases in which nsqd waits for the client take it.
const SILENCE: Duration = Duration::from_secs(15);

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It answered another request.
    Open,
    /// Closed in order.
    Closed,
    Reset,
    /// Not closed, and nothing came any more.
    Silent,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status_line: String,
    /// Sorted, names as written.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub answers: Vec<Answer>,
    pub end: End,
    /// Bytes that are no answer to anything.
    pub left_over: Vec<u8>,
}

/// Plays one case against a server.
pub async fn play(case: &Case, server: SocketAddr) -> Seen {
    for topic in &case.given {
        let mut other = Connection::open(server).await;
        other.send(&post(format!("/pub?topic={topic}")).body("given").bytes(), true).await;
        let answer = other.answer("POST").await.unwrap();
        assert_eq!(answer.body, b"OK", "{}: cannot publish to {topic}", case.name);
    }
    let mut connection = Connection::open(server).await;
    let mut answers = Vec::new();
    let mut half_closed = false;
    for step in &case.steps {
        match step {
            Step::Send(bytes) => connection.send(bytes, true).await,
            Step::SendBlindly(bytes) => connection.send(bytes, false).await,
            Step::HalfClose => {
                half_closed = true;
                connection.stream.shutdown().await.ok();
            }
            Step::OnceAsked(bytes) => {
                let answer = connection.answer(case.methods[0]).await;
                let asked = answer.as_ref().is_some_and(|answer| answer.status() == "100");
                answers.extend(answer);
                if asked {
                    connection.send(bytes, true).await;
                }
            }
        }
    }
    for method in &case.methods {
        if answers.iter().filter(|answer| answer.status() != "100").count() == case.methods.len() {
            break;
        }
        while let Some(answer) = connection.answer(method).await {
            let interim = answer.status() == "100";
            answers.push(answer);
            if !interim {
                break;
            }
        }
    }
    if !half_closed && answers.last().is_some_and(Answer::keeps_open) {
        connection.send(&get("/ping").bytes(), true).await;
        if let Some(answer) = connection.answer("GET").await {
            assert_eq!(answer.status(), "200", "{}: /ping is answered {}", case.name, answer.status_line);
            return Seen { answers, end: End::Open, left_over: connection.read.to_vec() };
        }
    }
    let end = connection.rest().await;
    Seen { answers, end, left_over: connection.read.to_vec() }
}

struct Connection {
    stream: TcpStream,
    read: BytesMut,
    /// How it ended, once it has.
    end: Option<End>,
}

impl Connection {
    async fn open(server: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(server).await.unwrap(), read: BytesMut::new(), end: None }
    }

    /// Sends, until the server does not want more; reads beside it, unless it is to be blind.
    async fn send(&mut self, bytes: &[u8], reading: bool) {
        let (mut from, mut to) = self.stream.split();
        let (read, end) = (&mut self.read, &mut self.end);
        let mut rest = bytes;
        let sending = async {
            while !rest.is_empty() && end.is_none() {
                tokio::select! {
                    written = to.write(rest) => match written {
                        Ok(written) => rest = &rest[written..],
                        // What the server has said about it can still be read.
                        Err(_) => return,
                    },
                    got = from.read_buf(read), if reading => *end = ended(got),
                }
            }
        };
        // A server that takes no more says nothing about it; what it answers tells the rest.
        let _ = timeout(SILENCE, sending).await;
    }

    /// Reads some more; whether there was any.
    async fn more(&mut self) -> bool {
        if self.end.is_none() {
            self.end = match timeout(SILENCE, self.stream.read_buf(&mut self.read)).await {
                Ok(got) => ended(got),
                Err(_) => Some(End::Silent),
            };
        }
        self.end.is_none()
    }

    /// Reads to the end.
    async fn rest(&mut self) -> End {
        while self.more().await {}
        self.end.unwrap_or(End::Silent)
    }

    /// The next answer, to a request with this method; `None` when the connection ends first.
    async fn answer(&mut self, method: &str) -> Option<Answer> {
        let head_ends = loop {
            match find(&self.read, b"\r\n\r\n") {
                Some(place) => break place + 4,
                None if self.more().await => {}
                None => return None,
            }
        };
        let head = String::from_utf8_lossy(&self.read.split_to(head_ends)).into_owned();
        let mut lines = head.trim_end().split("\r\n");
        let status_line = lines.next().unwrap_or_default().to_owned();
        let mut headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap_or((line, "")))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        headers.sort();
        let mut answer = Answer { status_line, headers, body: Vec::new() };
        answer.body = self.body(&answer, method).await?;
        Some(answer)
    }

    async fn body(&mut self, answer: &Answer, method: &str) -> Option<Vec<u8>> {
        if method == "HEAD" || answer.status() == "100" {
            return Some(Vec::new());
        }
        if answer.header("Transfer-Encoding") == Some("chunked") {
            return self.chunks().await;
        }
        let Some(length) = answer.header("Content-Length") else {
            self.rest().await;
            return Some(self.read.split().to_vec());
        };
        self.exactly(length.parse().ok()?).await
    }

    async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                match find(&self.read, b"\r\n") {
                    Some(place) => break self.read.split_to(place + 2),
                    None if self.more().await => {}
                    None => return None,
                }
            };
            let size = usize::from_str_radix(std::str::from_utf8(&line).ok()?.trim(), 16).ok()?;
            body.extend(self.exactly(size).await?);
            self.exactly(2).await?;
            if size == 0 {
                return Some(body);
            }
        }
    }

    async fn exactly(&mut self, bytes: usize) -> Option<Vec<u8>> {
        while self.read.len() < bytes {
            if !self.more().await {
                return None;
            }
        }
        let taken = self.read[..bytes].to_vec();
        self.read.advance(bytes);
        Some(taken)
    }
}

fn ended(got: std::io::Result<usize>) -> Option<End> {
    match got {
        Ok(0) => Some(End::Closed),
        Ok(_) => None,
        Err(_) => Some(End::Reset),
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

impl Answer {
    pub fn status(&self) -> &str {
        self.status_line.split(' ').nth(1).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// Whether another request may follow.
    fn keeps_open(&self) -> bool {
        let said = self.header("Connection");
        if self.status_line.starts_with("HTTP/1.0") {
            said == Some("keep-alive")
        } else {
            said != Some("close")
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status_line)?;
        for (name, value) in &self.headers {
            write!(f, " | {name}: {value}")?;
        }
        write!(f, " | {:.600}", format!("{:?}", String::from_utf8_lossy(&self.body)))
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for answer in &self.answers {
            write!(f, "{answer}\n          ")?;
        }
        write!(f, "{:?}", self.end)?;
        if !self.left_over.is_empty() {
            write!(f, ", {:.200} left over", format!("{:?}", String::from_utf8_lossy(&self.left_over)))?;
        }
        Ok(())
    }
}
