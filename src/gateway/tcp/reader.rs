//! The half of a connection that reads: commands, one after the other, each begun before the next is read.
//!
//! # Bounds
//! A command takes a place in the connection's window before its body is read, and keeps it until its answer is in line to be written: so
//! neither a producer that reads no answers nor one that waits for none makes a connection grow. A full window, or a bound of the
//! gateway's memory, stops the reading, and a producer that writes on is held up by its own socket.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use hyper::HeaderMap;
use tokio::{
    io::{self, AsyncReadExt},
    net::tcp::ReadHalf,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    commands::{Command, Decoder, Limits, Publish, Verb},
    identify::Client,
    producers::Producer,
    replies::Fault,
    writer::{Answer, Outcome},
};
use crate::{
    gateway::{
        admission::{self, NoRoom, Permit},
        handlers::Gateway,
        publish::{PublishError, WhenFull},
        replies::Error,
    },
    nsq::names::TopicName,
};

/// What one connection may have on its way: a thousand small messages, or some large ones. A batch to RocketMQ holds 1 MiB; more than
/// one on its way, one gathering and one being read make no producer faster.
pub(super) const WINDOW_BYTES: usize = 4 << 20;
/// The least a command takes of the window: its place in line, its outcome, its answer.
const COMMAND_BYTES: usize = 4 << 10;
/// The commands that may be on their way.
pub(super) const WINDOW_COMMANDS: usize = WINDOW_BYTES / COMMAND_BYTES;
/// nsqd's read buffer.
const READ_BYTES: usize = 16 << 10;

/// Reads one connection.
pub(super) struct Reader<'a, 'b> {
    gateway: &'a Gateway,
    producer: &'a Producer,
    from: &'a mut ReadHalf<'b>,
    buffer: BytesMut,
    decoder: Decoder,
    client: Client,
    window: Arc<Semaphore>,
    answers: mpsc::Sender<Answer>,
    /// Cancelled once a command has failed: nothing may begin any more.
    failed: &'a CancellationToken,
    /// When the last answer was written.
    answered: watch::Receiver<Instant>,
    /// Since when the next command is read.
    began: Instant,
}

/// What a command holds while it is read and on its way.
struct Held {
    permit: Permit,
    /// Of its body, what the permit counts.
    bytes: usize,
    place: OwnedSemaphorePermit,
}

/// Why nothing more is read.
enum End {
    /// The client has gone, or is to go, without a word.
    Over,
    Refused(Fault),
    CutOff(Fault),
    NotPublished(Option<TopicName>, PublishError),
}

impl<'a, 'b> Reader<'a, 'b> {
    pub(super) fn new(
        gateway: &'a Gateway,
        producer: &'a Producer,
        from: &'a mut ReadHalf<'b>,
        answers: mpsc::Sender<Answer>,
        answered: watch::Receiver<Instant>,
        failed: &'a CancellationToken,
    ) -> Self {
        Self {
            gateway,
            producer,
            from,
            buffer: BytesMut::new(),
            decoder: Decoder::new(Limits::from(&gateway.config)),
            client: Client::default(),
            window: Arc::new(Semaphore::new(WINDOW_BYTES)),
            answers,
            failed,
            answered,
            began: Instant::now(),
        }
    }

    /// Reads until a command is refused or fails, the client ends, or the gateway does.
    pub(super) async fn read(mut self) {
        let end = loop {
            let begun = match self.next().await {
                Ok((command, held)) => self.begin(command, held).await,
                Err(end) => Err(end),
            };
            if let Err(end) = begun {
                break end;
            }
        };
        let (verb, since) = (self.decoder.verb(), self.began);
        let outcome = match end {
            End::Over | End::Refused(Fault::Unsaid) => return,
            End::Refused(fault) => Outcome::Refused { verb, fault, counted: Error::InvalidRequest },
            End::CutOff(fault) => Outcome::Refused { verb, fault, counted: Error::Unreadable },
            End::NotPublished(topic, error) => Outcome::NotBegun { verb, topic, error },
        };
        let _ = self.answers.send(Answer { outcome, since, place: None }).await;
    }

    /// The next command, with what it holds; nothing for one without a body.
    async fn next(&mut self) -> Result<(Command, Option<Held>), End> {
        let mut held = None;
        let mut deadline = self.idle_deadline(Instant::now());
        loop {
            let idle = held.is_none() && self.decoder.is_idle();
            if idle && (self.failed.is_cancelled() || self.gateway.drain.is_cancelled()) {
                return Err(End::Over);
            }
            let command = self.decoder.decode(&mut self.buffer).map_err(End::Refused)?;
            let body = command.as_ref().map_or_else(|| self.decoder.awaited(), Command::body_bytes);
            if let Some(bytes) = body {
                let held = match &mut held {
                    Some(held) => held,
                    none => {
                        let new = self.hold(bytes).await?;
                        deadline = self.body_deadline();
                        none.insert(new)
                    }
                };
                let come = if command.is_some() { bytes } else { bytes.min(self.buffer.len()) };
                if come > held.bytes {
                    self.room(|| held.permit.grow(come - held.bytes)).await?;
                    held.bytes = come;
                }
            }
            if let Some(command) = command {
                return Ok((command, held));
            }
            self.read_more(&mut deadline).await?;
        }
    }

    async fn read_more(&mut self, deadline: &mut Option<Instant>) -> Result<(), End> {
        let idle = self.decoder.is_idle();
        let first = idle && self.buffer.is_empty();
        // Room for as much again as has come, not for what is announced.
        let missing = self.decoder.awaited().unwrap_or(0).saturating_sub(self.buffer.len());
        let most = missing.min(self.buffer.len()).max(READ_BYTES);
        self.buffer.reserve(most);
        let mut room = (&mut self.buffer).limit(most);
        let silent = async {
            match *deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let got = tokio::select! {
            biased;
            () = self.failed.cancelled() => return Err(End::Over),
            () = self.gateway.drain.cancelled(), if idle => return Err(End::Over),
            got = self.from.read_buf(&mut room) => got,
            () = silent => Err(io::ErrorKind::TimedOut.into()),
        };
        match got {
            Ok(1..) => {
                if first {
                    self.began = Instant::now();
                }
                Ok(())
            }
            Err(error)
                if self.decoder.awaited().is_none()
                    && error.kind() == io::ErrorKind::TimedOut
                    && self.idle_deadline(self.answered()) > Some(Instant::now()) =>
            {
                *deadline = self.idle_deadline(self.answered());
                Ok(())
            }
            Ok(0) | Err(_) => Err(self.decoder.cut_off(&self.buffer).map_or(End::Over, End::CutOff)),
        }
    }

    /// Begins a command, and has its answer written in its turn.
    async fn begin(&mut self, command: Command, held: Option<Held>) -> Result<(), End> {
        let Some(Held { mut permit, mut place, bytes }) = held else { return Ok(()) };
        // An MPUB may be longer than it announced.
        let lacks = bytes.min(WINDOW_BYTES).saturating_sub(place.num_permits());
        place.merge(self.place(lacks).await?);
        if self.failed.is_cancelled() {
            return Err(End::Over);
        }
        let outcome = match command {
            Command::Nop => return Ok(()),
            Command::Identify(body) => self.identify(&body)?,
            Command::Publish(Publish { verb, topic, bodies, defer }) => {
                let not_published = |error| End::NotPublished(Some(topic.clone()), error);
                if verb == Verb::Mpub {
                    self.room(|| permit.grow_by_messages(bodies.len())).await?;
                }
                let request = self.gateway.request(topic.clone(), bodies, defer, &HeaderMap::new(), permit);
                let request = request.map_err(|error| match error {
                    Error::Publish(error) => not_published(error),
                    _ => not_published(PublishError::Refused(
                        "the topic or this gateway's name cannot be written on a message".to_owned(),
                    )),
                })?;
                let messages = request.bodies.len();
                // It may wait for room, and give it up: nothing of it has begun by then.
                let begun = tokio::select! {
                    biased;
                    () = self.failed.cancelled() => return Err(End::Over),
                    begun = self.gateway.publisher.begin(request, WhenFull::Wait) => begun,
                };
                Outcome::Published { verb, messages, begun: begun.map_err(not_published)?, topic }
            }
        };
        // The writer ends later than the reader, or takes the reader along.
        let _ = self.answers.send(Answer { outcome, since: self.began, place: Some(place) }).await;
        self.began = Instant::now();
        Ok(())
    }

    fn identify(&mut self, body: &Bytes) -> Result<Outcome, End> {
        let words = self.client.identify(body).map_err(End::Refused)?;
        self.producer.identified(&self.client);
        let Client { id, user_agent, heartbeat, .. } = &self.client;
        debug!(client_id = id, user_agent, ?heartbeat, "producer identified");
        Ok(Outcome::Identified { words, heartbeat: *heartbeat })
    }

    /// A place in the window, and leave to hold a body.
    async fn hold(&self, bytes: usize) -> Result<Held, End> {
        let place = self.place(bytes.clamp(COMMAND_BYTES, WINDOW_BYTES)).await?;
        let permit = self.room(|| self.gateway.publisher.admit_command()).await?;
        Ok(Held { permit, bytes: 0, place })
    }

    async fn place(&self, bytes: usize) -> Result<OwnedSemaphorePermit, End> {
        let weight = u32::try_from(bytes).unwrap_or(u32::MAX);
        Arc::clone(&self.window).acquire_many_owned(weight).await.map_err(|_| End::Over)
    }

    /// Waits for room as long as a publish may take: an error would end the connection, with all that is on its way.
    async fn room<T>(&self, take: impl FnMut() -> Result<T, NoRoom>) -> Result<T, End> {
        let give_up = Instant::now() + self.gateway.publisher.budget();
        let room = admission::room(give_up, take).await;
        room.map_err(|bound| End::NotPublished(None, PublishError::Full(bound)))
    }

    /// When the last answer was written: now, while one is still to be. nsqd waits for a command only once it has answered the last one.
    fn answered(&self) -> Instant {
        let is_answering = self.window.available_permits() < WINDOW_BYTES;
        if is_answering { Instant::now() } else { *self.answered.borrow() }
    }

    /// Until when a client may say nothing that has said or heard something at this time.
    fn idle_deadline(&self, since: Instant) -> Option<Instant> {
        self.client.heartbeat.map(|every| since + 2 * every)
    }

    /// When the rest of a command must be there: while it is read it holds room that others need.
    fn body_deadline(&self) -> Option<Instant> {
        let within = self.gateway.config.body_timeout;
        Some(Instant::now() + self.client.heartbeat.map_or(within, |every| within.min(2 * every)))
    }
}
