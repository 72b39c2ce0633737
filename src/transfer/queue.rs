//! The relay of one queue: RocketMQ to nsqd, in one loop.
//!
//! *Is something in flight confirmed? Take it out of the window. Has the low-water mark moved? Commit. Is there room?
//! Read on.* A batch that nsqd does not take is offered again, to it or another nsqd, for as long as it takes; meanwhile the window
//! fills and reading stops.
//!
//! The loop owns its queue only while its lease lasts ([`crate::rocketmq::group`]). Without a valid lease it neither
//! publishes nor commits, because another instance may be doing both.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinError, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

mod work;

use self::work::Work;
use super::{
    audited::Audited,
    batch::held_bytes,
    committed::Looks,
    deliver::Delivery,
    held::{Held, OnGap},
    memory::{Memory, Share},
    read_ahead::{Read, ReadAhead},
    replay::{self, Piece, Replayed},
    state::{QueueState, TopicState},
    undrained::journal::{Entry, Journal, JournalError},
    watched::Fate,
    window::{Confirmed, Proof},
};
use crate::{
    audit::Ledger,
    retry::Backoff,
    rocketmq::{
        Cluster, ClusterError, Queue, QueueReader, offsets::Commit, producer::unix_millis, reader::Problem,
        record::RecordError,
    },
};

/// A commit is due this long after the last.
const COMMIT_EVERY: Duration = Duration::from_millis(200);
/// A stop commits at most this often before it leaves the rest to be relayed again.
const LAST_COMMIT_TRIES: usize = 3;
/// While other queues take all the memory there is, room is looked for this often.
const ROOM_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// A record that cannot be read is asked for so many times before it is parked.
const UNREADABLE_TRIES: usize = 3;
/// A broker that nobody has read from for so long may have been away meanwhile, and have lost its newest messages.
const UNWATCHED: Duration = Duration::from_secs(1);
/// What every queue may hold, however much the others do: enough for a batch.
const LEAST_BYTES: usize = 64 * 1024;
/// Where the queue was perhaps another's meanwhile, it is asked for this often whether it was.
const REGAIN_EVERY: Duration = Duration::from_secs(1);
/// What has left the nsqds, and what they may have lost, is looked after this often.
const TEND_EVERY: Duration = Duration::from_secs(1);
/// What has left the nsqds is written down this often, where no commit does it sooner.
const DRAINED_EVERY: Duration = Duration::from_secs(5);

/// How a queue's relay ended without fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// As asked; what nsqd has is committed.
    Drained,
    /// The lock went to somebody else, who relays from the committed offset on.
    LeaseLost,
}

/// Everything one queue's loop works with.
pub(super) struct QueueRelay {
    pub(super) cluster: Cluster,
    pub(super) group: String,
    pub(super) queue: Queue,
    pub(super) delivery: Arc<Delivery>,
    pub(super) state: Arc<TopicState>,
    /// Until when the queue's lock is granted; `None` once it is lost. What is sent goes by [`Work::lease`].
    pub(super) lease: watch::Receiver<Option<Instant>>,
    /// Stop reading, finish what is in flight, commit.
    pub(super) drain: CancellationToken,
    /// How long finishing may take.
    pub(super) drain_timeout: Duration,
    /// Bytes held in memory for this queue.
    pub(super) max_bytes: usize,
    /// Bytes held in memory for all queues.
    pub(super) memory: Arc<Memory>,
    /// What to do when messages are missing, or the committed offset is not where it was left.
    pub(super) on_gap: OnGap,
    /// What the brokers hold as committed.
    pub(super) looks: Looks,
    /// Pulls under way at a time.
    pub(super) lanes: usize,
    /// Park what cannot be read, and go on behind it; otherwise the queue is held before it.
    pub(super) park_unreadable: bool,
    /// Where it is written down what is relayed, and what the nsqds may still lose.
    pub(super) journal: Arc<Journal>,
    /// Relay again what the nsqds lose.
    pub(super) replay: bool,
    /// Where it is written down what was relayed; `None` without an audit.
    pub(super) ledger: Option<Arc<Ledger>>,
}

impl QueueRelay {
    /// Relays until asked to drain, or until the queue must be held.
    pub(super) async fn run(mut self) -> Result<Ended, Held> {
        let lease = *self.lease.borrow();
        let begun = self.begin().await?;
        let (start, stored_ms) = (begun.offset, begun.stored_ms);
        let audited = Audited::new(self.ledger.clone(), self.queue.clone(), start, begun.unaudited);
        let mut work = Work::new(begun, audited, lease);
        debug!(queue = %self.queue, offset = start, "relaying");
        let mut reads = ReadAhead::new(self.reader(), self.queue.clone(), start, stored_ms, self.lanes);
        let ended = self.relay(&mut reads, &mut work).await;
        if matches!(ended, Ok(Ended::LeaseLost)) {
            work.audited.hand_over(work.window.committable());
            return ended;
        }
        let is_same = !matches!(ended, Err(Held::Replaced { .. })) && reads.is_same().await;
        self.finish(work, &ended, is_same).await;
        ended
    }

    fn reader(&self) -> QueueReader {
        QueueReader::new(self.cluster.clone(), self.group.clone())
    }

    async fn relay(&mut self, reads: &mut ReadAhead, work: &mut Work) -> Result<Ended, Held> {
        let mut commit_at = Instant::now() + COMMIT_EVERY;
        let mut tend_at = Instant::now() + TEND_EVERY;
        let (mut read_after, mut unread_since) = (Instant::now(), None);
        let mut regain_at = Instant::now();
        let mut held = None;
        let mut share = Share { memory: Arc::clone(&self.memory), held: 0 };
        let drain = self.drain.clone();
        let mut fence = self.state.fence.of_queue(&self.queue);
        loop {
            let lease = *self.lease.borrow_and_update();
            let Some(granted) = lease else { return Ok(Ended::LeaseLost) };
            let may_ask = work.is_locked() || !reads.is_doubted();
            if granted > work.leased_until() && Instant::now() >= regain_at && may_ask {
                match self.is_still_ours(work).await? {
                    true => drop(work.lease.send_replace(Some(granted))),
                    false => regain_at = Instant::now() + REGAIN_EVERY,
                }
            }
            let until = work.leased_until();
            work.limit = fence.limit(work.window.next_offset());
            if Instant::now() < until {
                work.send(self);
            }
            self.show(work, reads);
            if work.is_idle()
                && work.may_send() > 0
                && let Some(stopped) = held.take()
            {
                match stopped {
                    Held::Unreadable(Problem::Record { offset, error, .. }) if self.park_unreadable => {
                        self.beyond(work, offset, &error).await?;
                        reads.go_on_at(work.read_to());
                    }
                    stopped => return Err(stopped),
                }
            }
            share.set(work.held_bytes() + if work.replaying.is_empty() { 0 } else { replay::PIECE_BYTES });
            let wanted = held.is_none() && work.held_bytes() < self.max_bytes && Instant::now() < until;
            let room = wanted && (share.held < LEAST_BYTES || share.memory.has_room());
            if !room {
                unread_since.get_or_insert_with(Instant::now);
            } else if unread_since.take().is_some_and(|since| since.elapsed() >= UNWATCHED) {
                reads.doubt();
            }
            let due = commit_at.max(work.commit_due());
            tokio::select! {
                biased;
                () = drain.cancelled() => return Ok(Ended::Drained),
                Some(confirmed) = work.in_flight.join_next() => self.settle(confirmed, work)?,
                Some(replayed) = work.replaying.join_next() => match self.replayed(replayed, work)? {
                    Ok(true) => self.tend(work),
                    Ok(false) => debug!(queue = %self.queue, "nothing to relay again could be read yet"),
                    Err(error) => debug!(queue = %self.queue, %error, "not relayed again yet"),
                },
                () = tokio::time::sleep_until(tend_at), if !work.undrained.is_empty() => {
                    self.tend(work);
                    tend_at = Instant::now() + TEND_EVERY;
                }
                // What is written down and committed while the queue is perhaps another would hide that it is.
                () = tokio::time::sleep_until(due), if Instant::now() < until && !reads.is_doubted() => {
                    let pause = match self.commit(work).await? {
                        Ok(()) => {
                            work.committing.works(&self.queue);
                            COMMIT_EVERY
                        }
                        // Until it is taken a crash would relay a little twice.
                        Err(error) => {
                            reads.doubt();
                            work.committing.fails(&self.queue, &error)
                        }
                    };
                    // From its end: commits that fail slowly must not crowd out everything else.
                    commit_at = Instant::now() + pause;
                }
                // A changed or ended fence is looked at on the next round, as a changed or expired lease is.
                () = fence.changed() => {}
                changed = self.lease.changed() => if changed.is_err() {
                    return Ok(Ended::LeaseLost);
                },
                looked = self.looks.changed() => {
                    if looked.is_err() {
                        return Ok(Ended::LeaseLost);
                    }
                    self.compare(work)?;
                }
                () = tokio::time::sleep_until(until), if Instant::now() < until => {}
                () = tokio::time::sleep_until(regain_at), if until < granted && may_ask => {}
                () = tokio::time::sleep(ROOM_AGAIN_AFTER), if wanted && !room => {}
                read = async {
                    tokio::time::sleep_until(read_after).await;
                    reads.read().await
                }, if room || reads.is_doubted() => match read {
                    Ok(read) => {
                        work.reading.works(&self.queue);
                        held = self.take(read, work)?.or(held);
                    }
                    Err(error) => read_after = Instant::now() + work.reading.fails(&self.queue, &error),
                },
            }
        }
    }

    /// Whether the queue was nobody else's since this loop could last rely on its lock. Where that is over so long that the lock may
    /// have been another's and given back, only the record can tell: it is void if somebody else has begun meanwhile. `false`
    /// when it cannot be written now; until it is, nothing more is sent.
    ///
    /// # Errors
    /// When the queue was another's.
    async fn is_still_ours(&self, work: &mut Work) -> Result<bool, Held> {
        if work.is_locked() {
            return Ok(true);
        }
        let offset = work.audited.committable(work.window.committable());
        match self.write_down(work, offset).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_final() => Err(error.into()),
            Err(error) => {
                debug!(queue = %self.queue, %error, "whose the queue was meanwhile is not known now");
                Ok(false)
            }
        }
    }

    /// Gets past a record that cannot be read: as it came, it is parked. First it is asked for again, for bytes may be damaged on
    /// their way.
    async fn beyond(&self, work: &mut Work, offset: i64, error: &RecordError) -> Result<(), Held> {
        let tries = work.unreadable.filter(|(at, _)| *at == offset).map_or(1, |(_, tries)| tries + 1);
        work.unreadable = Some((offset, tries));
        if tries <= UNREADABLE_TRIES {
            return Ok(());
        }
        let claim = work.window.claim(1, error.bytes.len(), unix_millis());
        let parking = self.delivery.parking.park_record(&self.queue, offset, error);
        let drain = self.drain.clone();
        match drain.run_until_cancelled(parking).await {
            Some(parked) => {
                self.state.metrics.parked();
                work.window.confirm(claim.confirm(Proof::Parked(parked)));
                Ok(())
            }
            // The claim stays open: the record is met again.
            None => Ok(()),
        }
    }

    fn show(&self, work: &Work, reads: &ReadAhead) {
        let oldest = || work.waiting.front().map(|message| message.store_timestamp);
        let state = QueueState {
            relayed: work.window.committable(),
            sent: work.window.next_offset(),
            committed: work.committed,
            replaying: !work.replaying.is_empty(),
            end: reads.known_end().max(work.read_to()),
            oldest_ms: work.window.oldest_ms().or_else(oldest),
            undrained: work.undrained.oldest(),
            failing: work.reading.failing().or_else(|| work.committing.failing()),
            held: None,
        };
        self.state.update(&self.queue, state);
    }

    /// Notices an offset somebody else has committed, or a broker has gone back to.
    fn compare(&mut self, work: &Work) -> Result<(), Held> {
        let look = self.looks.borrow_and_update();
        match look.holds(&self.queue) {
            Some(holds) if look.began() > work.committed_at && !work.left(holds) => {
                let (queue, committed) = (self.queue.clone(), work.committed);
                Err(Held::Moved { queue, committed, holds: Some(holds) })
            }
            _ => Ok(()),
        }
    }

    /// Whether the broker still holds what this relay has committed.
    async fn is_as_left(&self, work: &Work) -> bool {
        let holds = self.cluster.committed_offset(&self.group, &self.queue).await;
        holds.is_ok_and(|holds| holds.is_some_and(|holds| work.left(holds)))
    }

    /// Whether the broker has lost some of what was relayed, or does not say.
    async fn is_shorter(&self, work: &Work) -> bool {
        let bounds = self.cluster.queue_bounds(&self.queue).await;
        !bounds.is_ok_and(|bounds| work.window.committable() <= bounds.max)
    }

    /// Queues what was read for nsqd; what stops the queue is returned, to be raised once everything before it is done.
    ///
    /// # Errors
    /// What stops it at once.
    fn take(&self, read: Read, work: &mut Work) -> Result<Option<Held>, Held> {
        let (messages, held) = match read {
            Read::Messages(messages) => (messages, None),
            Read::Broken(messages, problem) => (messages, Some(Held::Unreadable(problem))),
            Read::OutOfRange => {
                let offset = work.read_to();
                (Vec::new(), Some(Held::Reset { queue: self.queue.clone(), offset }))
            }
            Read::Renewed => {
                return Err(Held::Replaced { queue: self.queue.clone(), offset: work.read_to() });
            }
        };
        let expected = work.read_to();
        if let Some(first) = messages.first().filter(|first| first.queue_offset != expected) {
            let (queue, found) = (self.queue.clone(), first.queue_offset);
            return Ok(Some(Held::Unreadable(Problem::Displaced { queue, offset: expected, found })));
        }
        self.state.metrics.read(messages.len());
        work.waiting_bytes += messages.iter().map(held_bytes).sum::<usize>();
        work.waiting.extend(messages);
        Ok(held)
    }

    fn settle(&self, confirmed: Result<Confirmed, JoinError>, work: &mut Work) -> Result<(), Held> {
        let confirmed = confirmed
            .map_err(|error| Held::DeliveryFailed { queue: self.queue.clone(), error: error.to_string() })?;
        let landings = work.window.confirm(confirmed);
        landings.iter().for_each(|landing| work.audited.landed(landing));
        if self.replay {
            landings.into_iter().for_each(|landing| work.undrained.landed(landing));
        }
        Ok(())
    }

    /// Takes note of what was relayed again, and says whether anything was; the inner error is one that a later try may not meet.
    fn replayed(
        &self,
        replayed: Result<Result<Replayed, ClusterError>, JoinError>,
        work: &mut Work,
    ) -> Result<Result<bool, ClusterError>, Held> {
        let replayed = replayed
            .map_err(|error| Held::DeliveryFailed { queue: self.queue.clone(), error: error.to_string() })?;
        Ok(replayed.map(|Replayed { process, from, to, landings, sent }| {
            work.audited.replayed(&sent);
            work.undrained.replayed(&process, from, to);
            landings.into_iter().for_each(|landing| work.undrained.landed(landing));
            // A relay that dies repeats what of it is not written down.
            work.drained_after = Instant::now();
            to > from
        }))
    }

    /// Forgets what has left the nsqds, and begins to relay again what one of them may have lost.
    fn tend(&self, work: &mut Work) {
        let processes: Vec<_> = work.undrained.processes().cloned().collect();
        for process in processes {
            match self.delivery.destinations.fate(&process) {
                Fate::There { drained } => work.undrained.drained(&process, drained),
                Fate::Replaced | Fate::Gone if !work.replaying.is_empty() || work.limit.is_some() => {}
                Fate::Replaced | Fate::Gone => {
                    let Some((from, to)) = work.undrained.first(&process) else { continue };
                    if work.lost.as_ref() != Some(&process) {
                        let messages = work.undrained.messages_of(&process);
                        warn!(queue = %self.queue, nsqd = %process.nsqd, messages, "relaying again what this nsqd may have lost");
                        work.lost = Some(process.clone());
                    }
                    let (delivery, lease) = (Arc::clone(&self.delivery), work.lease.subscribe());
                    let (reader, queue) = (self.reader(), self.queue.clone());
                    let piece = Piece { process, from, to };
                    work.replaying
                        .spawn(async move { replay::replay(&delivery, &reader, &queue, lease, piece).await });
                }
            }
        }
        self.state.undrained(&self.queue, work.undrained.messages());
    }

    /// Commits what is confirmed; the inner error is one that a later try may not meet.
    async fn commit(&self, work: &mut Work) -> Result<Result<(), String>, Held> {
        let offset = work.audited.committable(work.window.committable());
        // First the record: once the offset is committed, nothing else remembers what the nsqds may still lose, and without it
        // nobody could tell this commit from another's.
        match self.record(work, offset).await {
            Ok(()) => {}
            Err(error) if error.is_final() => return Err(error.into()),
            Err(error) => return Ok(Err(error.to_string())),
        }
        if offset <= work.committed {
            return Ok(Ok(()));
        }
        match self.cluster.try_commit(&self.group, &self.queue, offset).await {
            Ok(Commit::Taken) => {
                work.committed = offset;
                work.committed_at = Instant::now();
            }
            Ok(Commit::Ignored { holds }) => {
                return Err(Held::Moved { queue: self.queue.clone(), committed: offset, holds });
            }
            Err(error) => return Ok(Err(error.to_string())),
        }
        Ok(Ok(()))
    }

    /// Writes down that everything below `offset` is relayed, and what the nsqds may still lose of it.
    async fn record(&self, work: &mut Work, offset: i64) -> Result<(), JournalError> {
        self.state.undrained(&self.queue, work.undrained.messages());
        if work.record_due(offset) <= Instant::now() {
            self.write_down(work, offset).await?;
        }
        Ok(())
    }

    async fn write_down(&self, work: &mut Work, offset: i64) -> Result<(), JournalError> {
        let (stored_ms, undrained) = (work.window.stored_before(offset), work.undrained.snapshot());
        let (homes, unaudited) = (self.delivery.destinations.homes(), work.audited.unaudited());
        work.page.write(Entry { relayed: offset, stored_ms, undrained, homes, unaudited }).await?;
        (work.recorded, work.recorded_at) = (offset, Instant::now());
        work.recorded_unaudited = unaudited;
        work.drained_after = work.recorded_at + DRAINED_EVERY;
        work.undrained.written();
        Ok(())
    }

    /// Waits for what is in flight, then commits it. An offset that somebody else has set stays as it is until somebody's choice is known,
    /// and what was relayed is only written down.
    async fn finish(&mut self, mut work: Work, ended: &Result<Ended, Held>, is_same: bool) {
        let drain_timeout = self.drain_timeout;
        let waiting = async {
            while !work.in_flight.is_empty() || !work.replaying.is_empty() {
                if work.is_locked() {
                    work.lease.send_replace(*self.lease.borrow_and_update());
                }
                tokio::select! {
                    Some(confirmed) = work.in_flight.join_next() => {
                        if let Err(error) = self.settle(confirmed, &mut work) {
                            warn!(%error, "a batch failed while draining");
                        }
                    }
                    Some(replayed) = work.replaying.join_next() => {
                        // What is not done is still written down as to be done.
                        let _ = self.replayed(replayed, &mut work);
                    }
                    Ok(()) = self.lease.changed() => {}
                    else => break,
                }
            }
        };
        if tokio::time::timeout(drain_timeout, waiting).await.is_err() {
            let unconfirmed = work.in_flight.len();
            warn!(queue = %self.queue, unconfirmed, "batches still unconfirmed; they will be relayed again, perhaps twice");
        }
        work.in_flight.abort_all();
        work.replaying.abort_all();
        work.audited.finish(work.window.committable()).await;
        if !is_same || (matches!(ended, Err(Held::Reset { .. })) && self.is_shorter(&work).await) {
            // A record written now would speak of messages that are gone. The last one may still tell up to where they are the same.
            return;
        }
        // A stop leaves nothing to be relayed again that need not be.
        work.drained_after = Instant::now();
        let ours = match ended {
            Err(Held::Moved { .. } | Held::Journal(_)) => false,
            // The broker may only have nothing at that offset. Left uncommitted, what was relayed would look like an offset that went back.
            Err(Held::Reset { .. }) => self.is_as_left(&work).await,
            Ok(_) | Err(_) => true,
        };
        if work.is_locked() {
            work.lease.send_replace(*self.lease.borrow());
        }
        let owned = Instant::now() < work.leased_until();
        if !ours {
            let offset = work.window.committable();
            if owned && let Err(error) = self.record(&mut work, offset).await {
                warn!(queue = %self.queue, %error, "what was relayed last is not written down, and is relayed again");
            }
            return;
        }
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
        for _ in 0..LAST_COMMIT_TRIES {
            if work.commit_due() > Instant::now() || !owned {
                break;
            }
            match self.commit(&mut work).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    warn!(queue = %self.queue, %error, "the last commit failed");
                    backoff.wait().await;
                }
                Err(held) => {
                    warn!(error = %held, "the last commit was not taken");
                    break;
                }
            }
        }
        info!(queue = %self.queue, committed = work.committed, "relay of the queue ended");
    }
}
