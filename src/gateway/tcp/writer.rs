//! The half of a connection that writes: answers in the order of the commands, and heartbeats in between.
//!
//! Outcomes are looked at as they come, whatever order they come in, but for a client that takes no answers: the first failure
//! stops the reader, though its own answer may have to wait for its turn. Answers that are ready together leave together.

use std::{future::pending, io, time::Duration};

use bytes::BytesMut;
use futures_util::{FutureExt, StreamExt, stream::FuturesOrdered};
use tokio::{
    io::AsyncWriteExt,
    net::tcp::WriteHalf,
    sync::{OwnedSemaphorePermit, mpsc, watch},
    time::{Instant, Interval, MissedTickBehavior, interval_at, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{commands::Verb, identify::HEARTBEAT_EVERY, producers::Producer, replies::Fault};
use crate::{
    gateway::{
        handlers::Gateway,
        publish::{Begun, PublishError},
        replies::{Error, Reply},
    },
    nsq::{
        frames::{self, ERROR, HEARTBEAT, RESPONSE},
        names::TopicName,
    },
};

/// What is to be answered to a command.
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    /// When the command was begun to be read.
    pub(super) since: Instant,
    /// Given back once the answer is in line to be written.
    pub(super) place: Option<OwnedSemaphorePermit>,
}

/// What a command comes to.
pub(super) enum Outcome {
    Identified {
        words: Vec<u8>,
        heartbeat: Option<Duration>,
    },
    Published {
        verb: Verb,
        topic: TopicName,
        messages: usize,
        begun: Begun,
    },
    NotBegun {
        verb: Verb,
        topic: Option<TopicName>,
        error: PublishError,
    },
    /// Counted as the same over HTTP is.
    Refused {
        verb: Verb,
        fault: Fault,
        counted: Error,
    },
}

/// An answer that can be written.
struct Ready {
    words: Result<Vec<u8>, Fault>,
    /// The interval from now on.
    heartbeat: Option<Option<Duration>>,
    _place: Option<OwnedSemaphorePermit>,
}

/// Writes one connection.
pub(super) struct Writer<'a, 'b> {
    gateway: &'a Gateway,
    producer: &'a Producer,
    to: &'a mut WriteHalf<'b>,
    answers: mpsc::Receiver<Answer>,
    /// Told when an answer is written.
    answered: watch::Sender<Instant>,
    failed: &'a CancellationToken,
    heartbeat: Option<Interval>,
    /// How long a client may leave what is written to it unread.
    within: Duration,
    buffer: BytesMut,
}

impl<'a, 'b> Writer<'a, 'b> {
    pub(super) fn new(
        gateway: &'a Gateway,
        producer: &'a Producer,
        to: &'a mut WriteHalf<'b>,
        answers: mpsc::Receiver<Answer>,
        answered: watch::Sender<Instant>,
        failed: &'a CancellationToken,
    ) -> Self {
        let heartbeat = every(Some(HEARTBEAT_EVERY));
        Self {
            gateway,
            producer,
            to,
            answers,
            answered,
            failed,
            heartbeat,
            within: HEARTBEAT_EVERY,
            buffer: BytesMut::new(),
        }
    }

    /// Writes until the reader has ended and everything is answered, or the first answer that ends the connection.
    pub(super) async fn write(mut self) -> io::Result<()> {
        let mut waiting = FuturesOrdered::new();
        let mut reads = true;
        while reads || !waiting.is_empty() {
            let mut ready = None;
            tokio::select! {
                biased;
                answer = self.answers.recv(), if reads => match answer {
                    Some(answer) => waiting.push_back(settle(answer, self.gateway, self.producer, self.failed)),
                    None => reads = false,
                },
                Some(next) = waiting.next() => ready = Some(next),
                () = tick(&mut self.heartbeat) => frames::encode(RESPONSE, HEARTBEAT, &mut self.buffer),
            }
            let mut last = false;
            if ready.is_some() {
                self.answered.send_replace(Instant::now());
            }
            while let Some(answer) = ready {
                last = self.put(answer);
                ready = if last { None } else { waiting.next().now_or_never().flatten() };
            }
            if !self.buffer.is_empty() {
                timeout(self.within, self.to.write_all_buf(&mut self.buffer)).await??;
            }
            if last {
                break;
            }
        }
        Ok(())
    }

    /// Puts an answer in line; whether the connection ends with it.
    fn put(&mut self, answer: Ready) -> bool {
        if let Some(heartbeat) = answer.heartbeat {
            self.heartbeat = every(heartbeat);
            self.within = heartbeat.unwrap_or(HEARTBEAT_EVERY);
        }
        match &answer.words {
            Ok(words) => frames::encode(RESPONSE, words, &mut self.buffer),
            Err(Fault::Said(words)) => frames::encode(ERROR, words, &mut self.buffer),
            Err(Fault::Unsaid) => {}
        }
        answer.words.is_err()
    }
}

/// Waits for a command's outcome; counts it, and makes an answer of it.
async fn settle(answer: Answer, gateway: &Gateway, producer: &Producer, failed: &CancellationToken) -> Ready {
    let Answer { outcome, since, place } = answer;
    let mut heartbeat = None;
    let (verb, topic, reply, words) = match outcome {
        Outcome::Identified { words, heartbeat: wanted } => {
            heartbeat = Some(wanted);
            (Verb::Identify, None, Reply::Ok, Ok(words))
        }
        Outcome::Refused { verb, fault, counted } => (verb, None, Reply::Error(counted), Err(fault)),
        Outcome::Published { verb, topic, messages, begun } => match begun.outcome().await {
            Ok(_) => {
                producer.published(&topic, messages);
                (verb, Some(topic), Reply::Ok, Ok(b"OK".to_vec()))
            }
            Err(error) => not_published(gateway, verb, Some(topic), error),
        },
        Outcome::NotBegun { verb, topic, error } => not_published(gateway, verb, topic, error),
    };
    if words.is_err() {
        failed.cancel();
    }
    gateway.count(verb.endpoint(), topic.as_ref(), reply.outcome(), since.elapsed());
    Ready { words, heartbeat, _place: place }
}

fn not_published(
    gateway: &Gateway,
    verb: Verb,
    topic: Option<TopicName>,
    error: PublishError,
) -> (Verb, Option<TopicName>, Reply, Result<Vec<u8>, Fault>) {
    gateway.log(topic.as_ref(), &error);
    let fault = Fault::of_publish(verb, &error);
    (verb, topic, Reply::Error(Error::Publish(error)), Err(fault))
}

fn every(heartbeat: Option<Duration>) -> Option<Interval> {
    heartbeat.map(|every| {
        let mut interval = interval_at(Instant::now() + every, every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    })
}

async fn tick(heartbeat: &mut Option<Interval>) {
    match heartbeat {
        Some(interval) => drop(interval.tick().await),
        None => pending().await,
    }
}
