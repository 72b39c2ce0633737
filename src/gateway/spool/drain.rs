//! Brings a topic's spooled messages into RocketMQ, oldest first, one batch after the other.
//!
//! A batch is done with when RocketMQ has answered `SEND_OK`, or has said of a message that it never will take it:
//! that one is set aside. One that it only does not hold back for as long as it should is delivered at another time.
//! Whatever else happens it is sent again, with the same ids, for as long as it takes: also where a broker says that
//! it has stored it less durably than it should, for the disk here is the only safe place then. [`Tries`] sees to it
//! that this makes few copies.
//!
//! While nothing can be sent no message is held in memory, and of all topics only a few hold theirs at a time.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{self, ErrorKind},
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{
    log::{Item, Place},
    record::{self, Spooled},
    topic::TopicSpool,
    tries::{MESSAGES, Tries},
};
use crate::{
    gateway::{audited, lane::BATCH_BYTES, publish::Publisher, store, topic::Topic},
    retry::Backoff,
    rocketmq::{Message, Outcome, Producer, outcome::Failure, producer::unix_millis},
};

/// Where damaged bytes are kept, and messages RocketMQ will never take.
const DAMAGED: &str = "damaged";
const REFUSED: &str = "refused";
/// While no broker answers, that is looked at this often.
const HEALTH_EVERY: Duration = Duration::from_millis(500);
/// A part of a file that the disk did not give for so long is taken for lost.
const LOST_AFTER: Duration = Duration::from_secs(60);
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
    let mut draining = Draining {
        publisher: &publisher,
        topic: &topic,
        spool: &spool,
        tries: Tries::default(),
        last: None,
        takes_note: true,
        unread_since: None,
        reported: Instant::now(),
    };
    loop {
        let ended = AssertUnwindSafe(draining.all()).catch_unwind().await;
        {
            let _gate = spool.gate().await;
            // Also where the disk failed: publishes wait for what is in the spool, and for nothing else.
            if spool.is_empty().await {
                spool.end();
                info!(topic = %topic.name, "spool drained; publishing to RocketMQ again");
                return;
            }
        }
        let reason = match ended {
            // What was added meanwhile is read at once.
            Ok(Ok(())) => continue,
            Ok(Err(Ended::Stopped)) => {
                let perhaps = draining.tries.perhaps();
                draining.perhaps_twice(perhaps, "interrupted where RocketMQ perhaps has them; sent again");
                let again = spool.again().await;
                draining.perhaps_twice(
                    again,
                    "stored, and behind damage in their file; sent again after a restart",
                );
                info!(topic = %topic.name, messages = spool.messages(), "kept in the spool for the next start");
                return;
            }
            Ok(Err(Ended::Disk(error))) => format!("its disk: {error}"),
            Err(_) => "a fault of this program".to_owned(),
        };
        error!(topic = %topic.name, reason, "draining the spool fails; trying again");
        let _ = publisher.stopping().run_until_cancelled(backoff.wait()).await;
    }
}

/// What became of some messages.
enum Sent {
    Stored,
    /// RocketMQ will never take them, together at least.
    Refused(Failure),
    /// Not, or only perhaps.
    InVain,
}

/// How far the messages that were read have come.
enum Read {
    /// There was none.
    Nothing,
    Done,
    /// The rest is to be tried again after a while.
    Left(Duration),
}

struct Draining<'a> {
    publisher: &'a Arc<Publisher>,
    topic: &'a Topic,
    spool: &'a TopicSpool,
    tries: Tries,
    /// Why the last try was in vain.
    last: Option<Failure>,
    /// Whether the disk took note of what was done with last.
    takes_note: bool,
    /// The file of which the disk does not give a part, and since when.
    unread_since: Option<(u64, Instant)>,
    reported: Instant,
}

impl Draining<'_> {
    async fn all(&mut self) -> Result<(), Ended> {
        let stopping = self.publisher.stopping();
        loop {
            if stopping.is_cancelled() {
                return Err(Ended::Stopped);
            }
            self.report();
            let wait = match self.must_wait().await {
                Some(wait) => wait,
                None => match self.some().await? {
                    Read::Nothing => return Ok(()),
                    Read::Done => continue,
                    Read::Left(wait) => wait,
                },
            };
            let _ = stopping.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
    }

    fn report(&mut self) {
        if self.reported.elapsed() <= PROGRESS_EVERY {
            return;
        }
        self.reported = Instant::now();
        let (left, tries) = (self.spool.messages(), self.tries.count());
        match &self.last {
            None => info!(topic = %self.topic.name, left, "draining the spool"),
            Some(last) => {
                warn!(topic = %self.topic.name, left, tries, %last, "RocketMQ does not take what is spooled; trying again");
            }
        }
    }

    /// How long nothing may be sent, if so: a broker that is frozen may store each try when it goes on.
    async fn must_wait(&self) -> Option<Duration> {
        let left_out = self.tries.left_out();
        if self.tries.perhaps() == 0 && left_out.is_empty() {
            return None;
        }
        // Where the name servers cannot say who takes it, the try itself finds out.
        let (cluster, _) = self.publisher.cluster();
        let route = cluster.route(&self.topic.rocketmq_topic).await.ok()?;
        let brokers = route.write_queues.iter().map(|queue| queue.broker.clone());
        let others: BTreeSet<String> = brokers.filter(|broker| !left_out.contains(broker)).collect();
        if others.is_empty()
            && let Some(again) = self.tries.asked_again()
        {
            return Some(again.saturating_duration_since(Instant::now()));
        }
        (self.tries.perhaps() > 0 && !self.publisher.answers(&others)).then_some(HEALTH_EVERY)
    }

    /// Sends the first messages, as far as RocketMQ takes them.
    async fn some(&mut self) -> Result<Read, Ended> {
        // Held as long as messages are in memory, and not while waiting for the next try.
        let turn = self.spool.turn(self.last.is_some());
        let Some(_turn) = self.publisher.stopping().run_until_cancelled(turn).await else {
            return Err(Ended::Stopped);
        };
        let mut items = VecDeque::from(self.spool.read(BATCH_BYTES, MESSAGES).await?);
        if items.is_empty() {
            return Ok(Read::Nothing);
        }
        // A disk that gives nothing any more has not lost it.
        let gives_some = items.iter().any(|item| matches!(item, Item::Message { .. }));
        while let Some(first) = items.front() {
            if self.publisher.stopping().is_cancelled() {
                return Err(Ended::Stopped);
            }
            if let Item::Damaged { bytes, missing, after, unread } = first {
                let (missing, after) = (*missing, *after);
                if *unread {
                    self.has_waited_for_the_disk(after.file())?;
                    self.spool.keep(after).await?;
                }
                self.damaged(bytes, missing, after, gives_some).await?;
                self.done_with(0, after).await;
                items.pop_front();
                continue;
            }
            let part = part(&items, self.tries.most());
            let count = part.len();
            match self.send(&part).await {
                Sent::Stored => self.spool.counters.drained(count as u64),
                Sent::Refused(_) if count > 1 => {
                    self.tries.refused_together(count);
                    continue;
                }
                Sent::Refused(failure) => self.refused(&part, &failure, first.after()).await?,
                Sent::InVain => return Ok(Read::Left(self.tries.pause())),
            }
            let done = items.drain(..count).next_back();
            if let Some(done) = done {
                self.done_with(count, done.after()).await;
            }
        }
        Ok(Read::Done)
    }

    /// What a disk does not give now it may give soon: it is not lost before that has been tried for a while, once for each file.
    fn has_waited_for_the_disk(&mut self, file: u64) -> io::Result<()> {
        let since =
            self.unread_since.filter(|(of, _)| *of == file).map_or_else(Instant::now, |(_, since)| since);
        self.unread_since = Some((file, since));
        if since.elapsed() < LOST_AFTER {
            return Err(io::Error::other("the disk does not give a part of a file"));
        }
        Ok(())
    }

    /// Is done with so many messages before a place. Where the disk does not take note of it this process goes on all the same.
    async fn done_with(&mut self, messages: usize, place: Place) {
        let noted = self.spool.advance(place).await;
        if noted.is_err() {
            self.perhaps_twice(
                messages,
                "done with, and sent again after a restart: the disk does not take note of it",
            );
        }
        let noted = noted.and_then(|taken_away| taken_away);
        if let Err(error) = &noted
            && self.takes_note
        {
            error!(topic = %self.topic.name, %error,
                "the disk does not take note of what is drained from the spool, or does not take its files away; going on");
        }
        self.takes_note = noted.is_ok();
    }

    /// Sends messages once.
    async fn send(&mut self, part: &[&Spooled]) -> Sent {
        let now = unix_millis();
        let message = |spooled: &&Spooled| {
            let deliver_at = spooled.message.deliver_at.filter(|due| *due > now);
            Message { deliver_at, ..spooled.message.clone() }
        };
        let messages: Vec<Message> = part.iter().map(message).collect();
        let (deferred, plain): (Vec<&Spooled>, Vec<_>) =
            part.iter().partition(|spooled| spooled.message.deliver_at.is_some());
        let [deferred, plain]: [Vec<Message>; 2] =
            [deferred, plain].map(|some| some.iter().map(message).collect());
        let outcome = self.send_by(self.publisher.producer(), &messages).await;
        let outcome = match (&messages[..], outcome) {
            ([message], Outcome::Rejected(failure)) if message.deliver_at.is_some() => {
                self.send_by_level(message, &failure).await
            }
            (_, outcome) => outcome,
        };
        audited::unspooled(self.publisher, self.topic, &plain, &deferred, &outcome);
        match outcome {
            Outcome::Delivered(receipt) => {
                store::count(self.publisher, self.topic, &messages, &receipt);
                let again = self.tries.stored(&receipt.broker, messages.len());
                self.perhaps_twice(again, "stored after a try without an answer");
                self.last = None;
                Sent::Stored
            }
            Outcome::Rejected(failure) => Sent::Refused(failure),
            Outcome::NotSent(failure) => {
                self.last = Some(failure);
                Sent::InVain
            }
            Outcome::Unknown(failure) => {
                let again = self.tries.unknown(&failure.broker, messages.len(), failure.hint);
                self.perhaps_twice(again, "sent again, once more without an answer");
                self.last = Some(failure);
                Sent::InVain
            }
        }
    }

    async fn send_by(&self, producer: &Producer, messages: &[Message]) -> Outcome {
        store::send_again(self.publisher, producer, self.topic, messages, &self.tries.left_out()).await
    }

    /// Sends what was refused with a level of delay, which every line takes: nobody knew of that when it was acknowledged.
    async fn send_by_level(&self, message: &Message, failure: &Failure) -> Outcome {
        let outcome = self.send_by(self.publisher.by_level(), std::slice::from_ref(message)).await;
        if let Outcome::Delivered(_) = outcome {
            warn!(topic = %self.topic.name, id = %message.unique_key, deliver_at_ms = message.deliver_at, %failure,
                "RocketMQ does not hold a spooled message back as it should; it got the next level of delay, or the longest");
        }
        outcome
    }

    fn perhaps_twice(&self, messages: usize, why: &str) {
        if messages > 0 {
            self.publisher.metrics().perhaps_doubled(messages);
            warn!(topic = %self.topic.name, messages, why, "perhaps stored twice, with the same ids");
        }
    }

    async fn damaged(&self, bytes: &Bytes, missing: u64, after: Place, gives_some: bool) -> io::Result<()> {
        let length = bytes.len();
        let mut file = None;
        if length > 0 {
            let kept = self.spool.set_aside(DAMAGED, bytes.to_vec()).await;
            file = match kept {
                Err(error) if !gives_some => return Err(error),
                kept => self.path_or_kept(kept, after).await?,
            };
        }
        self.spool.counters.damaged(missing.max(1));
        // What a crash tears at the end of a file was never acknowledged, and is counted all the same: nobody can tell it apart.
        error!(topic = %self.topic.name, missing, bytes = length, file,
            "spooled bytes that cannot be read; set aside, going on behind them");
        Ok(())
    }

    async fn refused(&mut self, part: &[&Spooled], failure: &Failure, after: Place) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        part.iter().for_each(|spooled| record::encode(0, spooled, &mut bytes));
        let kept = self.spool.set_aside(REFUSED, bytes.to_vec()).await;
        let file = self.path_or_kept(kept, after).await?;
        self.spool.counters.set_aside(part.len() as u64);
        let perhaps_stored = self.tries.over(part.len()) > 0;
        for Spooled { message, .. } in part {
            error!(topic = %self.topic.name, id = %message.unique_key, %failure, perhaps_stored, file,
                "RocketMQ will never take a spooled message; set aside, going on behind it");
        }
        Ok(())
    }

    /// Where bytes are that were to be set aside. A disk that takes no new file keeps the one they are in; one that is only full is waited
    /// for.
    async fn path_or_kept(&self, set_aside: io::Result<PathBuf>, after: Place) -> io::Result<Option<String>> {
        match set_aside {
            Ok(path) => Ok(Some(path.display().to_string())),
            Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                Err(error)
            }
            Err(error) => {
                error!(topic = %self.topic.name, %error, "bytes of the spool cannot be set aside; their file is kept");
                self.spool.keep(after).await?;
                Ok(None)
            }
        }
    }
}

/// The first messages that may leave together: one that RocketMQ is to hold back leaves alone.
fn part(items: &VecDeque<Item>, most: usize) -> Vec<&Spooled> {
    // What is due by now needs no holding back.
    let now = unix_millis();
    let is_later = |spooled: &&Spooled| spooled.message.deliver_at.is_some_and(|due| due > now);
    let mut messages = items
        .iter()
        .map_while(|item| match item {
            Item::Message { spooled, .. } => Some(&**spooled),
            Item::Damaged { .. } => None,
        })
        .peekable();
    if messages.peek().is_some_and(is_later) {
        return messages.take(1).collect();
    }
    messages.take(most).take_while(|spooled| !is_later(spooled)).collect()
}
