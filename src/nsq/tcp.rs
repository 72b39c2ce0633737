//! Publishes over nsqd's TCP protocol, on a connection of one's own.
//!
//! HTTP is as fast. But an HTTP client with pooled connections may open a new one to an nsqd that was replaced in between, and the
//! batch would go to a process nobody has prepared. A [`Connection`] belongs to one process: when that ends, so does
//! the connection, and with it the batch.
//!
//! Source: nsqd's `protocol_v2.go`, 1.3.0. A batch is published when all of it was read; what was cut short is not.

use std::{io, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    frames::{self, ERROR, Frame, HEARTBEAT, MAX_FRAME_BYTES, RESPONSE},
    names::TopicName,
    nsqd::Published,
};
use crate::excerpt::excerpt;

/// By the user agent a relay's connection can be told from a producer's in nsqd's statistics.
const IDENTITY: &str =
    concat!(r#"{"user_agent":"nsqbridge/"#, env!("CARGO_PKG_VERSION"), r#"","feature_negotiation":false}"#);
const MAGIC: &[u8] = b"  V2";
/// What a relay's connections call themselves; an intake's say otherwise, for a relay looks whose an nsqd is.
pub const USER_AGENT: &str = concat!("nsqbridge/", env!("CARGO_PKG_VERSION"));

/// Why a batch has no `OK`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TcpError {
    /// nsqd refused it for what it is, and published none of it. Repeating it as it is cannot help.
    #[error("nsqd {address} answered {answer}")]
    Refused {
        /// Who answered.
        address: String,
        /// Its words.
        answer: String,
    },
    /// It did not wholly leave, so none of it was published: repeating is safe.
    #[error("nsqd {address} was not reached, repeating is safe: {reason}")]
    NotSent {
        /// Who was to be asked.
        address: String,
        /// What prevented it.
        reason: String,
    },
    /// It left and was not answered with `OK`: some or all of it may be published.
    #[error("nsqd {address} gave no OK and may have published it all the same: {reason}")]
    Unknown {
        /// Who was asked.
        address: String,
        /// What came instead.
        reason: String,
    },
}

/// One connection to one nsqd process.
#[derive(Debug)]
pub struct Connection {
    address: String,
    stream: TcpStream,
    read: BytesMut,
    used: Instant,
}

impl Connection {
    /// Connects to nsqd's TCP port within `timeout`.
    ///
    /// # Errors
    /// [`TcpError::NotSent`].
    pub async fn open(address: &str, timeout: Duration) -> Result<Self, TcpError> {
        let not_sent = |reason: String| TcpError::NotSent { address: address.to_owned(), reason };
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (address, used) = (address.to_owned(), Instant::now());
            let mut connection = Self { address, stream, read: BytesMut::new(), used };
            connection.stream.write_all(&hello(IDENTITY)).await?;
            match connection.answer().await? {
                (RESPONSE, text) if text == "OK" => Ok(connection),
                (_, text) => Err(io::Error::other(format!("IDENTIFY was answered {text}"))),
            }
        };
        let connected = tokio::time::timeout(timeout, connecting).await;
        connected
            .map_err(|_| not_sent(format!("no connection within {timeout:?}")))?
            .map_err(|error| not_sent(format!("connect: {error}")))
    }

    /// How long ago it was opened or used.
    #[must_use]
    pub fn idle_for(&self) -> Duration {
        self.used.elapsed()
    }

    /// Whether nsqd still holds its end. Takes in what nsqd has sent in the meantime, which is heartbeats.
    pub fn is_open(&mut self) -> bool {
        loop {
            match self.stream.try_read_buf(&mut self.read) {
                Ok(0) => return false,
                Ok(_) if self.read.len() > MAX_FRAME_BYTES => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }

    /// Publishes a batch: `payload` is a binary mpub body ([`super::mpub::encode_binary`]).
    ///
    /// # Errors
    /// See [`TcpError`]; whichever it is, the connection is of no use afterwards.
    ///
    /// # Cancellation
    /// Dropping the future leaves the outcome unknown, and the connection useless.
    pub async fn mpub(
        &mut self,
        topic: &TopicName,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Published, TcpError> {
        let deadline = Instant::now() + timeout;
        let command = format!("MPUB {topic}\n");
        let size = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
        let head = Bytes::from([command.as_bytes(), &size].concat());
        let mut whole = head.chain(payload);
        let written = timeout_at(deadline, self.stream.write_all_buf(&mut whole)).await;
        let not_sent = |reason: String| TcpError::NotSent { address: self.address.clone(), reason };
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(not_sent(format!("write: {error}"))),
            Err(_) => return Err(not_sent(format!("could not be written within {timeout:?}"))),
        }
        let answer = timeout_at(deadline, self.answer()).await;
        self.used = Instant::now();
        let unknown = |reason: String| TcpError::Unknown { address: self.address.clone(), reason };
        match answer {
            Ok(Ok((RESPONSE, text))) if text == "OK" => Ok(Published::answered()),
            Ok(Ok((ERROR, text))) if refuses(&text) => {
                Err(TcpError::Refused { address: self.address.clone(), answer: text })
            }
            Ok(Ok((_, text))) => Err(unknown(text)),
            Ok(Err(error)) => Err(unknown(format!("read: {error}"))),
            Err(_) => Err(unknown(format!("no answer within {timeout:?}"))),
        }
    }

    /// The next frame that is no heartbeat: its type and words.
    async fn answer(&mut self) -> io::Result<(i32, String)> {
        loop {
            while let Some(Frame { kind, data }) = frames::decode(&mut self.read).map_err(io::Error::other)? {
                if data != HEARTBEAT {
                    return Ok((kind, excerpt(&String::from_utf8_lossy(&data))));
                }
                self.stream.write_all(b"NOP\n").await?;
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// The first words on a connection: who is there, as JSON.
pub(super) fn hello(identity: &str) -> Vec<u8> {
    let size = u32::try_from(identity.len()).unwrap_or(u32::MAX).to_be_bytes();
    [MAGIC, b"IDENTIFY\n", &size, identity.as_bytes()].concat()
}

/// Whether nsqd found fault with the batch itself. `E_MPUB_FAILED` is no such fault, for the first messages may be published; nor
/// are those about the connection (`E_INVALID`, `E_AUTH_FIRST`).
fn refuses(answer: &str) -> bool {
    ["E_BAD_BODY", "E_BAD_MESSAGE"].iter().any(|code| answer.starts_with(code))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn frame(kind: i32, data: &[u8]) -> Vec<u8> {
        [&(data.len() as i32 + 4).to_be_bytes()[..], &kind.to_be_bytes(), data].concat()
    }

    /// A connection that was opened as it should be.
    async fn greeted(listener: &TcpListener) -> TcpStream {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut got = vec![0; hello(IDENTITY).len()];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(got, hello(IDENTITY));
        stream.write_all(&frame(RESPONSE, b"OK")).await.unwrap();
        stream
    }

    #[tokio::test]
    async fn nsqd_is_not_reached_unless_it_takes_the_greeting() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut got = vec![0; hello(IDENTITY).len()];
            stream.read_exact(&mut got).await.unwrap();
            stream.write_all(&frame(ERROR, b"E_INVALID")).await.unwrap();
        });
        let refused = Connection::open(&address, SOON).await.unwrap_err();
        assert!(
            matches!(&refused, TcpError::NotSent { reason, .. } if reason.contains("E_INVALID")),
            "{refused}"
        );
    }

    /// What becomes of a batch when nsqd, once it has all of it, says `answer` and closes.
    async fn outcome(answer: Vec<u8>) -> Result<Published, TcpError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let sent = b"MPUB t\n\0\0\0\x09\0\0\0\x01\0\0\0\x01x";
        tokio::spawn(async move {
            let mut stream = greeted(&listener).await;
            let mut got = vec![0; sent.len()];
            stream.read_exact(&mut got).await.unwrap();
            assert_eq!(got, sent);
            for byte in answer {
                stream.write_all(&[byte]).await.unwrap();
            }
        });
        let mut connection = Connection::open(&address, SOON).await.unwrap();
        let payload = crate::nsq::mpub::encode_binary([&b"x"[..]].into_iter());
        connection.mpub(&"t".parse().unwrap(), payload, SOON).await
    }

    #[tokio::test]
    async fn only_ok_is_published_and_only_a_fault_of_the_batch_refused() {
        let ok = [frame(RESPONSE, HEARTBEAT), frame(RESPONSE, b"OK")].concat();
        assert!(outcome(ok).await.is_ok());
        let refused = outcome(frame(ERROR, b"E_BAD_MESSAGE MPUB message too big 9 > 5")).await;
        assert!(matches!(refused, Err(TcpError::Refused { .. })), "{refused:?}");
        for unclear in [
            frame(ERROR, b"E_MPUB_FAILED MPUB failed exiting"),
            frame(ERROR, b"E_INVALID cannot MPUB in current state (TLS required)"),
            frame(RESPONSE, b"CLOSE_WAIT"),
            frame(2, b"OK"),
            b"\0\0".to_vec(),
            vec![0xFF; 8],
            Vec::new(),
        ] {
            let unknown = outcome(unclear.clone()).await;
            assert!(matches!(unknown, Err(TcpError::Unknown { .. })), "{unclear:?}: {unknown:?}");
        }
    }

    #[tokio::test]
    async fn a_closed_connection_is_noticed_before_it_is_used() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (connection, mut stream) = tokio::join!(Connection::open(&address, SOON), greeted(&listener));
        let mut connection = connection.unwrap();
        assert!(connection.is_open());
        stream.write_all(&frame(RESPONSE, HEARTBEAT)).await.unwrap();
        connection.stream.readable().await.unwrap();
        assert!(connection.is_open());
        drop(stream);
        connection.stream.readable().await.unwrap();
        let deadline = Instant::now() + SOON;
        while connection.is_open() {
            assert!(Instant::now() < deadline, "not noticed");
            tokio::task::yield_now().await;
        }
    }
}
