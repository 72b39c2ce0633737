//! One producer as they are in the field, by HTTP or by nsqd's TCP protocol: after anything but `OK` it publishes again, at the
//! next gateway.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use nsqbridge::nsq::{
    frames::{self, HEARTBEAT},
    mpub::encode_binary,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::ledger::Ledger;
use crate::bridge::command;

/// NSQ's client libraries mostly wait this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// One in so many publishes is a batch, and another one several without waiting, where the protocol has that.
const SEVERAL_EVERY: usize = 10;
const SEVERAL: usize = 5;

pub struct Producer {
    pub ledger: Arc<Ledger>,
    pub topic: String,
    pub client: Client,
    /// Messages whose publish was not answered `OK`.
    pub unsure: Arc<AtomicUsize>,
}

/// How it speaks to a gateway.
pub enum Client {
    Http { gateways: Vec<SocketAddr>, http: reqwest::Client },
    Tcp { gateways: Vec<SocketAddr>, connection: Option<Connection> },
}

/// To one of the gateways.
pub struct Connection {
    gateway: SocketAddr,
    stream: TcpStream,
    read: BytesMut,
}

impl Client {
    pub fn http(gateways: Vec<SocketAddr>) -> Self {
        Self::Http { gateways, http: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    pub fn tcp(gateways: Vec<SocketAddr>) -> Self {
        Self::Tcp { gateways, connection: None }
    }

    /// Publishes each request's bodies at the `nth` gateway, the requests without waiting between them; how many were answered `OK`
    /// before the first that was not.
    async fn publish(&mut self, nth: usize, topic: &str, requests: &[Vec<Bytes>]) -> usize {
        match self {
            Self::Http { gateways, http } => {
                let [bodies] = requests else { unreachable!("each waits for the one before") };
                let url = format!("http://{}", gateways[nth % gateways.len()]);
                let posted = timeout(PATIENCE, post(http, &url, topic, bodies));
                usize::from(matches!(posted.await, Ok(Ok(true))))
            }
            Self::Tcp { gateways, connection } => {
                let gateway = gateways[nth % gateways.len()];
                let mut ok = 0;
                let publishing = write(connection, gateway, topic, requests, &mut ok);
                if !matches!(timeout(PATIENCE, publishing).await, Ok(Ok(()))) {
                    *connection = None;
                }
                ok
            }
        }
    }

    /// For a rest in which nobody would answer heartbeats.
    pub fn hang_up(&mut self) {
        if let Self::Tcp { connection, .. } = self {
            *connection = None;
        }
    }
}

async fn post(http: &reqwest::Client, url: &str, topic: &str, bodies: &[Bytes]) -> reqwest::Result<bool> {
    let (path, body) = match bodies {
        [body] => ("/pub?", body.clone()),
        bodies => ("/mpub?binary=true&", encode_binary(bodies.iter().map(|body| &body[..]))),
    };
    let answer = http.post(format!("{url}{path}topic={topic}")).body(body).send().await?;
    Ok(answer.status() == 200 && answer.bytes().await? == "OK")
}

async fn write(
    connection: &mut Option<Connection>,
    gateway: SocketAddr,
    topic: &str,
    requests: &[Vec<Bytes>],
    ok: &mut usize,
) -> io::Result<()> {
    if connection.as_ref().is_none_or(|connection| connection.gateway != gateway) {
        let mut stream = TcpStream::connect(gateway).await?;
        stream.write_all(b"  V2").await?;
        *connection = Some(Connection { gateway, stream, read: BytesMut::new() });
    }
    let Connection { stream, read, .. } = connection.as_mut().expect("connected");
    let commands = requests.iter().flat_map(|bodies| match &bodies[..] {
        [body] => command(format!("PUB {topic}"), body),
        bodies => command(format!("MPUB {topic}"), encode_binary(bodies.iter().map(|body| &body[..]))),
    });
    stream.write_all(&commands.collect::<Vec<_>>()).await?;
    while *ok < requests.len() {
        match frames::decode(read).map_err(io::Error::other)? {
            Some(frame) if frame.data == HEARTBEAT => stream.write_all(b"NOP\n").await?,
            Some(frame) if frame.data == "OK" => *ok += 1,
            Some(frame) => return Err(io::Error::other(format!("{frame:?}"))),
            None if stream.read_buf(read).await? == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            None => {}
        }
    }
    Ok(())
}

impl Producer {
    /// Publishes until it hears `OK` to all, first at the gateway at hand.
    pub async fn publish(&mut self, nth: usize, gateway: &mut usize) {
        let waits = matches!(self.client, Client::Http { .. });
        let mut left: Vec<Vec<usize>> = match nth % SEVERAL_EVERY {
            0 => vec![self.ledger.begin(SEVERAL)],
            1 if !waits => (0..SEVERAL).map(|_| self.ledger.begin(1)).collect(),
            _ => vec![self.ledger.begin(1)],
        };
        let started = Instant::now();
        loop {
            self.ledger.tried(&left.concat());
            let body = |number: &usize| self.ledger.body(*number);
            let requests: Vec<_> = left.iter().map(|numbers| numbers.iter().map(body).collect()).collect();
            let ok = self.client.publish(*gateway, &self.topic, &requests).await;
            for numbers in left.drain(..ok) {
                self.ledger.acknowledged(&numbers, started.elapsed());
            }
            if left.is_empty() {
                return;
            }
            self.unsure.fetch_add(left.concat().len(), Ordering::Relaxed);
            *gateway += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
