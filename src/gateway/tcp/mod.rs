//! nsqd's TCP protocol (V2) for producers, who mostly publish by it.
//!
//! ```text
//! connection   magic, then two halves until the last answer is written
//!   reader     bytes ─▶ commands ─▶ publishes that have begun ─┐
//!     commands   what stands on the wire (messages: of an MPUB)      identify   who is there
//!   writer     ◀─ outcomes, in the order of the commands ◀─────┘   heartbeats in between
//!     replies    nsqd's errors                              producers  who is connected, for `/stats`
//! ```
//!
//! nsqd carries out one command after the other. Here a command begins while earlier ones are on their way to RocketMQ, for many producers
//! send without waiting for answers, and RocketMQ is further away than nsqd's memory. Answers come in the order of the commands. What is
//! sent without waiting may be stored in another order, as batches of a topic travel side by side; a producer that waits for each answer keeps its
//! order, and so do the messages of one `MPUB`. After a failure no command that is read later begins, but those that had begun before may
//! be stored, though the connection ends before their answers. Their messages are counted then, and the requests are not.
//!
//! What is on its way is bounded, for one connection by [`reader::WINDOW_BYTES`] and for all by the gateway's own bounds. At a bound the
//! connection is not read, so its producer has to wait.

pub(crate) mod commands;
mod identify;
mod messages;
pub(super) mod producers;
mod reader;
pub(crate) mod replies;
#[cfg(test)]
mod tests;
mod writer;

use std::{pin::pin, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::{producers::Producer, reader::Reader, writer::Writer};
use super::{body::READ_ON_FOR, handlers::Gateway, server::LAST_ANSWER_WITHIN};
use crate::nsq::frames::{self, ERROR};

const MAGIC: &[u8; 4] = b"  V2";

/// Serves one connection to its end.
///
/// # Cancellation
/// Dropping the future closes the connection; what has begun to be stored is stored.
pub(super) async fn connection(mut stream: TcpStream, gateway: &Gateway) {
    let held_up = async {
        gateway.drain.cancelled().await;
        sleep(LAST_ANSWER_WITHIN + gateway.publisher.budget()).await;
    };
    tokio::select! {
        biased;
        ended = serve(&mut stream, gateway) => if let Err(error) = ended {
            debug!(%error, "connection ended");
        },
        () = held_up => debug!("connection closed: its producer holds the drain up"),
    }
}

async fn serve(stream: &mut TcpStream, gateway: &Gateway) -> io::Result<()> {
    let remote = stream.peer_addr()?;
    let (mut from, mut to) = stream.split();
    let greeted = tokio::select! {
        greeted = greeted(&mut from, gateway.config.body_timeout) => greeted?,
        () = gateway.drain.cancelled() => return Ok(()),
    };
    if greeted {
        converse(&mut from, &mut to, gateway, &gateway.producers.list(remote)).await?;
    } else {
        let mut frame = BytesMut::new();
        frames::encode(ERROR, b"E_BAD_PROTOCOL", &mut frame);
        to.write_all(&frame).await?;
    }
    // A connection closed over unread bytes is reset, and the last answer may be lost with it.
    to.shutdown().await?;
    let _ = timeout(READ_ON_FOR, io::copy(&mut from, &mut io::sink())).await;
    Ok(())
}

/// Whether the client speaks this protocol. nsqd waits for ever to hear it.
async fn greeted(from: &mut ReadHalf<'_>, within: Duration) -> io::Result<bool> {
    let mut magic = [0; MAGIC.len()];
    timeout(within, from.read_exact(&mut magic)).await??;
    Ok(magic == *MAGIC)
}

/// Takes commands and answers them, until the last answer is written.
async fn converse(
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    gateway: &Gateway,
    producer: &Producer,
) -> io::Result<()> {
    let (answers, waiting) = mpsc::channel(reader::WINDOW_COMMANDS);
    let (tells, answered) = watch::channel(Instant::now());
    let failed = CancellationToken::new();
    let mut reading = pin!(Reader::new(gateway, producer, from, answers, answered, &failed).read());
    let mut writing = pin!(Writer::new(gateway, producer, to, waiting, tells, &failed).write());
    let mut reads = true;
    loop {
        tokio::select! {
            written = &mut writing => return written,
            () = &mut reading, if reads => reads = false,
        }
    }
}
