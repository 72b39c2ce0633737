//! A consumer's connection to one channel of one nsqd process.
//!
//! It says what it is told to say and tells what it hears; what a message is worth is for others to know. Whatever nsqd was not told
//! finished when the connection ends, it delivers again.

use std::{io, time::Duration};

use bytes::BytesMut;
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    deliveries::{Command, Delivered},
    frames::{self, ERROR, Frame, HEARTBEAT, MAX_MESSAGE_FRAME_BYTES, MESSAGE},
    names::{ChannelName, TopicName},
    tcp::hello,
};
use crate::excerpt::excerpt;

/// Another than a relay's, which publishes.
const IDENTITY: &str = concat!(
    r#"{"user_agent":"nsqbridge-intake/"#,
    env!("CARGO_PKG_VERSION"),
    r#"","feature_negotiation":true}"#
);
/// nsqd reads what it is told at once, unless it is frozen or gone.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// How long nsqd may take to read the last words and close.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(2);

/// A connection that is subscribed.
#[derive(Debug)]
pub struct Subscription {
    stream: TcpStream,
    read: BytesMut,
    /// What nsqd has said of itself.
    pub terms: Terms,
}

/// What nsqd says of itself when asked; of an older one, what it does by default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// The most messages a consumer may take at a time.
    pub max_rdy_count: usize,
    /// A message in flight is delivered again after so many milliseconds without a word about it.
    pub msg_timeout: u64,
}

impl Default for Terms {
    fn default() -> Self {
        Self { max_rdy_count: 2_500, msg_timeout: 60_000 }
    }
}

/// What nsqd says.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Here is a message.
    Message(Delivered),
    /// Is anybody there? [`Command::Nop`] answers.
    Heartbeat,
    /// A command failed; the connection may go on.
    Fault(String),
    /// A command was taken.
    Taken,
}

impl Subscription {
    /// Connects to nsqd's TCP port and subscribes; nothing comes before it is [`Command::Ready`].
    ///
    /// # Errors
    /// When nsqd cannot be reached in time, or refuses, with its words.
    pub async fn open(
        address: &str,
        topic: &TopicName,
        channel: &ChannelName,
        within: Duration,
    ) -> io::Result<Self> {
        let opening = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut opened = Self { stream, read: BytesMut::new(), terms: Terms::default() };
            opened.stream.write_all(&hello(IDENTITY)).await?;
            // One of before feature negotiation answers OK.
            opened.terms = serde_json::from_slice(&opened.answer().await?).unwrap_or_default();
            let mut subscribe = Vec::new();
            Command::Subscribe(topic, channel).write(&mut subscribe);
            opened.stream.write_all(&subscribe).await?;
            opened.answer().await?;
            Ok(opened)
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, format!("not subscribed within {within:?}"));
        tokio::time::timeout(within, opening).await.unwrap_or_else(|_| Err(late()))
    }

    /// The next frame that is no heartbeat, if it is no refusal.
    async fn answer(&mut self) -> io::Result<BytesMut> {
        loop {
            let Frame { kind, data } = self.frame().await?;
            if kind == ERROR {
                return Err(io::Error::other(excerpt(&String::from_utf8_lossy(&data))));
            }
            if data != HEARTBEAT {
                return Ok(data);
            }
            self.stream.write_all(b"NOP\n").await?;
        }
    }

    async fn frame(&mut self) -> io::Result<Frame> {
        loop {
            let frame = frames::decode_up_to(&mut self.read, MAX_MESSAGE_FRAME_BYTES);
            if let Some(frame) = frame.map_err(io::Error::other)? {
                return Ok(frame);
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// What nsqd says next.
    ///
    /// # Errors
    /// When the connection has ended, or speaks no NSQ.
    ///
    /// # Cancellation
    /// Safe: nothing that was read is lost.
    pub async fn next(&mut self) -> io::Result<Event> {
        let Frame { kind, data } = self.frame().await?;
        Ok(match kind {
            MESSAGE => {
                let short = || io::Error::other("a message without a head: not an nsqd?");
                Event::Message(Delivered::decode(data.freeze()).ok_or_else(short)?)
            }
            ERROR => Event::Fault(excerpt(&String::from_utf8_lossy(&data))),
            _ if data == HEARTBEAT => Event::Heartbeat,
            _ => Event::Taken,
        })
    }

    /// Says these commands.
    ///
    /// # Errors
    /// When they could not be written in time; the connection is of no use afterwards.
    ///
    /// # Cancellation
    /// Dropping the future leaves the connection of no use.
    pub async fn say(&mut self, commands: &[u8]) -> io::Result<()> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "nsqd reads nothing");
        tokio::time::timeout(WRITE_WITHIN, self.stream.write_all(commands))
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    /// Ends the connection so that nsqd reads everything that was said: closed at once, with something unread on this side, the last
    /// words would be lost.
    pub async fn close(mut self) {
        let closing = async {
            self.stream.shutdown().await?;
            while self.stream.read_buf(&mut self.read).await? > 0 {
                self.read.clear();
            }
            Ok::<_, io::Error>(())
        };
        let _ = tokio::time::timeout(LAST_WORDS_WITHIN, closing).await;
    }
}
