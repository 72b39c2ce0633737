//! One connection to a broker or name server: many requests at once, each with its own deadline.
//!
//! ```text
//! request() ──▶ queue ──▶ writer task ──▶ socket ──▶ reader task ──▶ the request's own channel
//!                            └─ pending: opaque → channel ─┘
//! ```
//!
//! What it promises:
//! - A failed request says whether its bytes may have left: the writer enters a request into `pending` before the
//!   first byte is written, so one that never got there was certainly not sent.
//! - An opaque is never used again on a connection (it would take 2³² requests). A broker that answers twice, as 5.5.0 does with
//!   `asyncSendEnable=false`, can therefore never confirm somebody else's message: an answer nobody waits for is
//!   dropped and counted.
//! - A peer that is gone without a word (its host died, or something between forgot the connection) holds nobody for long:
//!   a connection nothing came over while a request waited in vain is used for no further request. What still waits
//!   on it may yet be answered.
//! - A frame that cannot be read ends the connection: the stream behind it has no known boundary.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    net::TcpStream,
    sync::{mpsc, oneshot},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{debug, warn};

use super::{
    codes::response,
    command::{self, Command},
    tls::Tls,
};

/// Requests accepted but not yet written; past it `request` waits.
const WRITE_QUEUE: usize = 1024;

/// Frames are gathered up to this many bytes before one write.
const WRITE_BATCH_BYTES: usize = 256 * 1024;

/// A body of this size is written from where it is.
const COPIED_BELOW: usize = 16 * 1024;

/// A request that had less time than this says nothing of a connection nothing came over meanwhile.
const SILENCE: Duration = Duration::from_millis(500);

/// A stream of bytes to a peer, plain or TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Answers what the peer asks of us; `None` where no answer is due.
pub(super) type Inbound = Arc<dyn Fn(&Command) -> Option<Command> + Send + Sync>;

/// Why a request has no answer.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum RequestError {
    /// No byte of it left: repeating is safe.
    #[error("{address}: not sent: {reason}")]
    NotSent {
        /// The peer.
        address: String,
        /// What prevented it.
        reason: String,
    },
    /// It left, wholly or in part, and no answer came: the peer may have acted on it.
    #[error("{address}: sent, but no answer: {reason}")]
    Unknown {
        /// The peer.
        address: String,
        /// What ended the wait.
        reason: String,
    },
}

/// A handle on one connection; dropping the last one closes it.
#[derive(Debug)]
pub struct Connection {
    address: String,
    queue: mpsc::Sender<Outgoing>,
    shared: Arc<Shared>,
    next_opaque: AtomicI32,
    _reader: AbortOnDropHandle<()>,
    _writer: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Outgoing {
    command: Command,
    /// `None` for an answer of ours.
    answer: Option<oneshot::Sender<Result<Command, String>>>,
}

type Pending = HashMap<i32, oneshot::Sender<Result<Command, String>>>;

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    closed: CancellationToken,
    /// Further requests should go over another connection.
    spent: AtomicBool,
    /// How often something was read.
    heard: AtomicU64,
    unclaimed: AtomicU64,
    /// The version ordinal of the last answer; 0 before the first.
    peer_version: AtomicI32,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every wait; whatever was written has an unknown outcome.
    fn close(&self, reason: &str) {
        self.closed.cancel();
        for (_, answer) in self.pending().drain() {
            let _ = answer.send(Err(reason.to_owned()));
        }
    }
}

impl Connection {
    /// Connects within `timeout`, TLS handshake included.
    ///
    /// # Errors
    /// [`RequestError::NotSent`] when the peer cannot be reached.
    pub(super) async fn open(
        address: &str,
        tls: Option<&Tls>,
        timeout: Duration,
        inbound: Inbound,
    ) -> Result<Self, RequestError> {
        let not_sent = |reason| RequestError::NotSent { address: address.to_owned(), reason };
        let connecting = async {
            let tcp = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
            tcp.set_nodelay(true).map_err(|error| format!("TCP_NODELAY: {error}"))?;
            Ok(match tls {
                Some(tls) => tls.handshake(address, tcp).await?,
                None => Box::new(tcp) as Box<dyn Stream>,
            })
        };
        let stream = tokio::time::timeout(timeout, connecting)
            .await
            .map_err(|_| not_sent(format!("connect: no answer within {timeout:?}")))?
            .map_err(not_sent)?;
        Ok(Self::over(address, stream, inbound))
    }

    /// Runs the protocol over an open stream.
    fn over(address: &str, stream: Box<dyn Stream>, inbound: Inbound) -> Self {
        let (read, write) = tokio::io::split(stream);
        let (queue, outgoing) = mpsc::channel(WRITE_QUEUE);
        let shared = Arc::new(Shared::default());
        let writer = tokio::spawn(write_frames(write, outgoing, Arc::clone(&shared)));
        let reader = tokio::spawn(read_frames(
            read,
            address.to_owned(),
            queue.downgrade(),
            Arc::clone(&shared),
            inbound,
        ));
        Self {
            address: address.to_owned(),
            queue,
            shared,
            next_opaque: AtomicI32::new(1),
            _reader: AbortOnDropHandle::new(reader),
            _writer: AbortOnDropHandle::new(writer),
        }
    }

    /// Whether a new request should go over another connection.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.shared.closed.is_cancelled() || self.shared.spent.load(Ordering::Relaxed)
    }

    /// The version ordinal in the peer's last answer; `None` before the first.
    #[must_use]
    pub fn peer_version(&self) -> Option<i32> {
        Some(self.shared.peer_version.load(Ordering::Relaxed)).filter(|&version| version != 0)
    }

    /// Answers that came for no open request: late ones, and second answers.
    #[must_use]
    pub fn unclaimed_answers(&self) -> u64 {
        self.shared.unclaimed.load(Ordering::Relaxed)
    }

    /// Sends a request and waits for its answer, `timeout` in all.
    ///
    /// # Errors
    /// See [`RequestError`]; an answer of any code is `Ok`.
    ///
    /// # Cancellation
    /// Dropping the future forgets the request; if it was written, the peer still acts on it.
    pub async fn request(&self, mut command: Command, timeout: Duration) -> Result<Command, RequestError> {
        let opaque = self.next_opaque.fetch_add(1, Ordering::Relaxed);
        command.opaque = opaque;
        let (answer, receiver) = oneshot::channel();
        let mut wait = Wait { connection: self, opaque, receiver };
        let heard = self.shared.heard.load(Ordering::Relaxed);
        let exchange = async {
            if self.queue.send(Outgoing { command, answer: Some(answer) }).await.is_err() {
                return None;
            }
            (&mut wait.receiver).await.ok()
        };
        let ended = tokio::time::timeout(timeout, exchange).await;
        let address = self.address.clone();
        let result = match ended {
            Ok(Some(result)) => result,
            // The queue, or the request in it, was dropped unwritten.
            Ok(None) => {
                self.shared.spent.store(true, Ordering::Relaxed);
                return Err(RequestError::NotSent { address, reason: "the connection closed".to_owned() });
            }
            Err(_) => {
                if timeout >= SILENCE && self.shared.heard.load(Ordering::Relaxed) == heard {
                    debug!(%address, ?timeout, "the peer is silent; the next request goes over a new connection");
                    self.shared.spent.store(true, Ordering::Relaxed);
                }
                match wait.give_up() {
                    GivenUp::Unwritten => {
                        let reason = format!("could not be written within {timeout:?}");
                        return Err(RequestError::NotSent { address, reason });
                    }
                    GivenUp::Written => Err(format!("none within {timeout:?}")),
                    GivenUp::Answered(result) => result,
                }
            }
        };
        let answer = result.map_err(|reason| RequestError::Unknown { address, reason })?;
        if answer.code == response::GO_AWAY {
            self.shared.spent.store(true, Ordering::Relaxed);
        }
        Ok(answer)
    }
}

/// A request's place in `pending`, cleared when the request's future ends in any way.
struct Wait<'a> {
    connection: &'a Connection,
    opaque: i32,
    receiver: oneshot::Receiver<Result<Command, String>>,
}

enum GivenUp {
    /// Nothing was or will be written.
    Unwritten,
    /// Written and unanswered.
    Written,
    /// The answer came at the last moment.
    Answered(Result<Command, String>),
}

impl Wait<'_> {
    /// Stops waiting. The channel is closed, and answers are handed over, only under the lock of `pending`: the writer
    /// skips a request it had not taken yet, and no answer falls between the looks at the map and at the channel.
    fn give_up(&mut self) -> GivenUp {
        let mut pending = self.connection.shared.pending();
        self.receiver.close();
        if pending.remove(&self.opaque).is_some() {
            return GivenUp::Written;
        }
        match self.receiver.try_recv() {
            Ok(result) => GivenUp::Answered(result),
            Err(_) => GivenUp::Unwritten,
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}

async fn write_frames(
    mut socket: WriteHalf<Box<dyn Stream>>,
    mut outgoing: mpsc::Receiver<Outgoing>,
    shared: Arc<Shared>,
) {
    let mut buffer = BytesMut::new();
    loop {
        let first = tokio::select! {
            () = shared.closed.cancelled() => return,
            next = outgoing.recv() => match next { Some(next) => next, None => return },
        };
        let mut body = enter(first, &shared, &mut buffer);
        while body.is_empty()
            && buffer.len() < WRITE_BATCH_BYTES
            && let Ok(next) = outgoing.try_recv()
        {
            body = enter(next, &shared, &mut buffer);
        }
        let write = async {
            socket.write_all_buf(&mut Buf::chain(&buffer[..], body)).await?;
            socket.flush().await
        };
        let result = tokio::select! {
            () = shared.closed.cancelled() => return,
            result = write => result,
        };
        if let Err(error) = result {
            shared.close(&format!("write: {error}"));
            return;
        }
        buffer.clear();
        if buffer.capacity() > 4 * WRITE_BATCH_BYTES {
            buffer = BytesMut::new();
        }
    }
}

/// Enters a request into `pending` and its frame into the buffer, unless its caller has given up. A large body is returned, to be
/// written right behind.
fn enter(outgoing: Outgoing, shared: &Shared, buffer: &mut BytesMut) -> Bytes {
    if let Some(answer) = outgoing.answer {
        let mut pending = shared.pending();
        // Closed is set before `pending` is drained, so an entry made after the drain would wait for ever.
        if answer.is_closed() || shared.closed.is_cancelled() {
            return Bytes::new();
        }
        pending.insert(outgoing.command.opaque, answer);
    }
    if outgoing.command.body.len() < COPIED_BELOW {
        command::encode(&outgoing.command, buffer);
        return Bytes::new();
    }
    command::encode_head(&outgoing.command, buffer);
    outgoing.command.body
}

async fn read_frames(
    mut socket: ReadHalf<Box<dyn Stream>>,
    address: String,
    queue: mpsc::WeakSender<Outgoing>,
    shared: Arc<Shared>,
    inbound: Inbound,
) {
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    let reason = loop {
        match command::decode(&mut buffer) {
            Ok(Some(command)) if command.is_response() => settle(command, &address, &shared),
            Ok(Some(command)) => {
                let Some(answer) = inbound(&command) else { continue };
                if let Some(queue) = queue.upgrade()
                    && queue.try_send(Outgoing { command: answer, answer: None }).is_err()
                {
                    debug!(%address, code = command.code, "no room to answer the broker's request; it will ask again");
                }
            }
            Ok(None) => {
                if buffer.capacity() - buffer.len() < 16 * 1024 {
                    buffer.reserve(64 * 1024);
                }
                match socket.read_buf(&mut buffer).await {
                    Ok(0) if buffer.is_empty() => break "the peer closed the connection".to_owned(),
                    Ok(0) => {
                        break format!("the peer closed the connection {} bytes into a frame", buffer.len());
                    }
                    Ok(_) => drop(shared.heard.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => break format!("read: {error}"),
                }
            }
            Err(error) => {
                warn!(%address, %error, "closing the connection: a frame cannot be read");
                break error.to_string();
            }
        }
    };
    debug!(%address, reason, "connection closed");
    shared.close(&reason);
}

fn settle(answer: Command, address: &str, shared: &Shared) {
    let code = answer.code;
    shared.peer_version.store(answer.version, Ordering::Relaxed);
    let mut pending = shared.pending();
    let claimed = pending.remove(&answer.opaque).is_some_and(|waiting| waiting.send(Ok(answer)).is_ok());
    drop(pending);
    if !claimed {
        shared.unclaimed.fetch_add(1, Ordering::Relaxed);
        debug!(%address, code, "dropped an answer nobody waits for: late, or a second one");
    }
}
