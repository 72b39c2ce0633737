//! Brings a topic's spooled messages into RocketMQ, oldest first, one batch after the other.
//!
//! A batch is done with when RocketMQ has answered `SEND_OK`. Whatever else happens it is sent again, with the same ids, for as
//! long as it takes.

use std::{io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{
    log::{Item, Place},
    record::{self, Spooled},
    topic::TopicSpool,
};
use crate::{
    gateway::{
        audited,
        lane::{BATCH_BYTES, BATCH_MESSAGES},
        publish::Publisher,
        store,
        topic::Topic,
    },
    retry::Backoff,
    rocketmq::{Message, Outcome, outcome::Failure, producer::unix_millis},
};

/// Where damaged bytes are kept, and messages RocketMQ will never take.
const DAMAGED: &str = "damaged";
const REFUSED: &str = "refused";
/// Messages in one request; a few requests' worth is as fast as a large one.
const MESSAGES: usize = 2_000;
/// While no broker answers, that is looked at this often.
const HEALTH_EVERY: Duration = Duration::from_millis(500);
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Why a drain ends before all is done.
enum Ended {
    /// The gateway stops; the rest is kept.
    Stopped,
    /// The disk failed; it will be tried again.
    Disk(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

/// Drains the topic until nothing is left or the gateway stops.
pub(in crate::gateway) async fn drain(publisher: Arc<Publisher>, topic: Arc<Topic>, spool: Arc<TopicSpool>) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let draining = Draining { publisher: &publisher, topic: &topic, spool: &spool };
    loop {
        match draining.all().await {
            Ok(()) => {
                let _gate = spool.gate().await;
                if spool.messages() == 0 {
                    spool.end();
                    info!(topic = %topic.name, "spool drained; publishing to RocketMQ again");
                    return;
                }
            }
            Err(Ended::Stopped) => {
                info!(topic = %topic.name, messages = spool.messages(), "kept in the spool for the next start");
                return;
            }
            Err(Ended::Disk(error)) => {
                error!(topic = %topic.name, %error, "the spool's disk fails; trying again");
                if publisher.stopping().run_until_cancelled(backoff.wait()).await.is_none() {
                    return;
                }
            }
        }
    }
}

struct Draining<'a> {
    publisher: &'a Arc<Publisher>,
    topic: &'a Topic,
    spool: &'a TopicSpool,
}

impl Draining<'_> {
    async fn all(&self) -> Result<(), Ended> {
        let mut reported = Instant::now();
        loop {
            let items = self.spool.read(BATCH_BYTES, MESSAGES.min(BATCH_MESSAGES)).await?;
            if items.is_empty() {
                return Ok(());
            }
            self.some(items).await?;
            if reported.elapsed() > PROGRESS_EVERY {
                reported = Instant::now();
                info!(topic = %self.topic.name, left = self.spool.messages(), "draining the spool");
            }
        }
    }

    /// Sends what was read: runs of messages as batches, what RocketMQ is to hold back alone.
    async fn some(&self, items: Vec<Item>) -> Result<(), Ended> {
        let mut run: Vec<Spooled> = Vec::new();
        let mut done: Option<Place> = None;
        for item in items {
            let after = item.after();
            match item {
                Item::Message { spooled, .. } => {
                    // What is due by now needs no holding back.
                    if spooled.message.deliver_at.is_none_or(|due| due <= unix_millis()) {
                        run.push(*spooled);
                    } else {
                        self.store(&mut run, done).await?;
                        run.push(*spooled);
                        self.store(&mut run, Some(after)).await?;
                    }
                }
                Item::Damaged { bytes, missing, .. } => {
                    self.store(&mut run, done).await?;
                    self.damaged(bytes, missing).await?;
                    self.spool.advance(after).await?;
                }
            }
            done = Some(after);
        }
        self.store(&mut run, done).await
    }

    /// Stores a run, and is done with it.
    async fn store(&self, run: &mut Vec<Spooled>, done: Option<Place>) -> Result<(), Ended> {
        let (Some(done), false) = (done, run.is_empty()) else { return Ok(()) };
        let mut parts = vec![std::mem::take(run)];
        while let Some(mut part) = parts.pop() {
            match self.until_stored(&part).await? {
                Ok(()) => self.spool.counters.drained(part.len() as u64),
                Err(_) if part.len() > 1 => {
                    let rest = part.split_off(part.len() / 2);
                    parts.extend([rest, part]);
                }
                Err(failure) => self.refused(&part, &failure).await?,
            }
        }
        Ok(self.spool.advance(done).await?)
    }

    /// Sends messages until RocketMQ has them; the inner error is its word that it never will.
    async fn until_stored(&self, part: &[Spooled]) -> Result<Result<(), Failure>, Ended> {
        let now = unix_millis();
        let message = |spooled: &Spooled| {
            let deliver_at = spooled.message.deliver_at.filter(|due| *due > now);
            Message { deliver_at, ..spooled.message.clone() }
        };
        let messages: Vec<Message> = part.iter().map(message).collect();
        let (deferred, plain): (Vec<&Spooled>, Vec<_>) =
            part.iter().partition(|spooled| spooled.message.deliver_at.is_some());
        let [deferred, plain]: [Vec<Message>; 2] =
            [deferred, plain].map(|some| some.into_iter().map(message).collect());
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut unknown = false;
        loop {
            if self.publisher.stopping().is_cancelled() {
                return Err(Ended::Stopped);
            }
            let deadline = Instant::now() + self.publisher.budget();
            let outcome = store::send(self.publisher, self.topic, &messages, None, deadline).await;
            audited::unspooled(self.publisher, self.topic, &plain, &deferred, &outcome);
            match outcome {
                Outcome::Delivered(receipt) => {
                    store::count(self.publisher, self.topic, &messages, &receipt);
                    if unknown && !receipt.perhaps_twice {
                        self.publisher.metrics().perhaps_doubled(messages.len());
                        warn!(topic = %self.topic.name, messages = messages.len(), "stored after a try without an answer: perhaps twice, with the same ids");
                    }
                    return Ok(Ok(()));
                }
                // After a try without an answer it may be stored, and only be refused by another broker.
                Outcome::Rejected(failure) if !unknown => return Ok(Err(failure)),
                Outcome::Rejected(_) | Outcome::NotSent(_) => {}
                Outcome::Unknown(_) => unknown = true,
            }
            // A broker that is frozen may store each try when it goes on: while none answers there is no next one.
            let again = async {
                backoff.wait().await;
                while unknown && self.publisher.health().is_err() {
                    tokio::time::sleep(HEALTH_EVERY).await;
                }
            };
            // The stop is looked at again before the next try.
            let _ = self.publisher.stopping().run_until_cancelled(again).await;
        }
    }

    async fn damaged(&self, bytes: Bytes, missing: u64) -> io::Result<()> {
        let length = bytes.len();
        let kept =
            if bytes.is_empty() { None } else { Some(self.spool.set_aside(DAMAGED, bytes.to_vec()).await?) };
        self.spool.counters.damaged(missing.max(1));
        let file = kept.map(|path| path.display().to_string());
        // What a crash tears at the end of a file was never acknowledged: then no message is known to be missing.
        error!(topic = %self.topic.name, missing, bytes = length, file,
            "spooled bytes that cannot be read; set aside, going on behind them");
        Ok(())
    }

    async fn refused(&self, part: &[Spooled], failure: &Failure) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        part.iter().for_each(|spooled| record::encode(0, spooled, &mut bytes));
        let path = self.spool.set_aside(REFUSED, bytes.to_vec()).await?;
        self.spool.counters.set_aside(part.len() as u64);
        for Spooled { message, .. } in part {
            error!(topic = %self.topic.name, id = %message.unique_key, %failure, file = %path.display(),
                "RocketMQ will never take a spooled message; set aside, going on behind it");
        }
        Ok(())
    }
}
