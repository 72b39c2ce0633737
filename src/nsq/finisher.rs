//! A consumer that finishes every message of a channel and counts them: enough to try something with.
//!
//! A message counts when nsqd was told that it is finished. When a connection breaks before that is read, it comes again and counts
//! twice, so a count too high says that a connection broke.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    deliveries::{Command, Delivered},
    frames::{self, Frame, MAX_MESSAGE_FRAME_BYTES, MESSAGE},
    names::ChannelPath,
    nsqd::{HttpError, Nsqd},
};

const AT_A_TIME: usize = 200;
const RECONNECT_AFTER: Duration = Duration::from_millis(100);

/// Finishes what a channel delivers, until it is dropped.
#[derive(Debug)]
pub struct Finisher {
    finished: Arc<AtomicU64>,
    _connections: Vec<AbortOnDropHandle<()>>,
}

impl Finisher {
    /// Subscribes on each of these nsqds.
    ///
    /// # Errors
    /// When one does not say where its TCP protocol listens.
    pub async fn start(nsqds: &[Nsqd], of: &ChannelPath) -> Result<Self, HttpError> {
        let finished = Arc::new(AtomicU64::new(0));
        let mut connections = Vec::new();
        for nsqd in nsqds {
            let host = nsqd.address().host();
            let address = format!("{host}:{}", nsqd.info().await?.tcp_port);
            let (of, finished) = (of.clone(), Arc::clone(&finished));
            let consuming = tokio::spawn(async move {
                loop {
                    // What it had not heard finished, it delivers again.
                    if let Err(error) = consume(&address, &of, &finished).await {
                        tracing::debug!(address, %error, "connecting again");
                    }
                    tokio::time::sleep(RECONNECT_AFTER).await;
                }
            });
            connections.push(AbortOnDropHandle::new(consuming));
        }
        Ok(Self { finished, _connections: connections })
    }

    /// Messages finished so far.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.finished.load(Ordering::SeqCst)
    }
}

async fn consume(address: &str, of: &ChannelPath, finished: &AtomicU64) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let hello = format!("  V2SUB {} {}\nRDY {AT_A_TIME}\n", of.topic, of.channel);
    stream.write_all(hello.as_bytes()).await?;
    let mut read = BytesMut::new();
    loop {
        let (mut answer, mut messages) = (Vec::new(), 0);
        while let Some(Frame { kind, data }) =
            frames::decode_up_to(&mut read, MAX_MESSAGE_FRAME_BYTES).map_err(std::io::Error::other)?
        {
            if kind != MESSAGE {
                Command::Nop.write(&mut answer);
            } else if let Some(message) = Delivered::decode(data.freeze()) {
                messages += 1;
                Command::Finish(message.id).write(&mut answer);
            }
        }
        stream.write_all(&answer).await?;
        finished.fetch_add(messages, Ordering::SeqCst);
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(());
        }
    }
}
