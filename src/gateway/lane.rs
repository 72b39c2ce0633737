//! What waits to be sent to one topic, and what may leave together.
//!
//! Group commit: while a batch of the topic is on its way, later publishes gather here; the next batch carries them
//! all. No timer is involved, so a lone publish leaves at once. Publishes leave in the order they came.
//!
//! Another batch leaves beside it once what waits is a good batch by itself. Who was answered publishes again while the others'
//! batch is on its way: with one at a time, half of all producers would always wait for the other half. Small batches do not travel
//! side by side, for each costs the broker nearly as much as a large one.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::oneshot, time::Instant};

use super::{admission::Permit, publish::PublishError, share::Stamps};
use crate::rocketmq::{properties::PropertiesBuilder, record::batch_record_len, unique_key::UniqueKey};

/// A batch is cut here, though a broker takes 4 MiB: beyond this it only takes longer.
pub(super) const BATCH_BYTES: usize = 1024 * 1024;
/// The answer to a batch carries an id of 33 bytes for each message.
pub(super) const BATCH_MESSAGES: usize = 10_000;
/// Batches of a topic on their way at a time.
const AT_ONCE: usize = 4;
/// So many messages, or so many bytes, are worth a request to the broker beside those that are on their way.
const GOOD_MESSAGES: usize = 32;
const GOOD_BYTES: usize = 256 * 1024;
/// What the message id adds to a record.
const ID_BYTES: usize = 64;
/// A publish with less time left than this is not begun: an answer that comes too late would make its fate, and that
/// of all in the same batch, unknown.
const LEAST_TIME: Duration = Duration::from_millis(200);

/// What RocketMQ has stored.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The ids of the messages in order, if they were asked for.
    pub ids: Vec<UniqueKey>,
}

/// The messages of one request, and who waits for their outcome.
#[derive(Debug)]
pub(super) struct Publish {
    pub(super) bodies: Vec<Bytes>,
    /// The same for each of them.
    pub(super) properties: PropertiesBuilder,
    /// What some of them are stamped with.
    pub(super) stamps: Stamps,
    pub(super) accepted_ms: i64,
    pub(super) deadline: Instant,
    pub(super) wants_ids: bool,
    /// Who waits; `None` once that is answered.
    pub(super) answer: Option<oneshot::Sender<Result<Stored, PublishError>>>,
    /// Why it was not stored when it was tried.
    pub(super) failure: Option<String>,
    pub(super) permit: Permit,
}

/// What the messages of one request have in common.
#[derive(Debug, Clone)]
pub(super) struct Like {
    pub(super) properties: PropertiesBuilder,
    pub(super) stamps: Stamps,
    pub(super) accepted_ms: i64,
}

impl Publish {
    pub(super) fn like(&self) -> Like {
        Like {
            properties: self.properties.clone(),
            stamps: self.stamps.clone(),
            accepted_ms: self.accepted_ms,
        }
    }

    /// Ends the wait, if anybody still waits.
    pub(super) fn settle(self, outcome: Result<Stored, PublishError>) {
        // What is settled no longer counts as held.
        drop(self.permit);
        let _ = self.answer.map(|waiting| waiting.send(outcome));
    }

    /// Ends the wait over a batch that is still on its way; what its bytes take is held until that has its outcome.
    pub(super) fn settle_early(&mut self, late: impl Fn() -> PublishError) {
        self.permit.give_request_back();
        let _ = self.answer.take().map(|waiting| waiting.send(Err(late())));
    }

    /// The most that stands beside a body in a batch.
    fn beside_bytes(&self) -> usize {
        self.properties.len() + self.stamps.most_bytes() + ID_BYTES
    }

    /// Whether it may still be begun.
    pub(super) fn has_time(&self, now: Instant) -> bool {
        now + LEAST_TIME <= self.deadline
    }

    fn settle_late(self) {
        let waited = || "RocketMQ did not take what came before it in time".to_owned();
        let reason = self.failure.clone().unwrap_or_else(waited);
        self.settle(Err(PublishError::Unavailable(reason)));
    }
}

/// A publish that waits, with what its messages take in a batch.
#[derive(Debug)]
struct Queued {
    publish: Publish,
    batch_bytes: usize,
}

impl From<Publish> for Queued {
    fn from(publish: Publish) -> Self {
        let beside = publish.beside_bytes();
        let records = publish.bodies.iter().map(|body| batch_record_len(body.len(), beside));
        Self { batch_bytes: records.sum(), publish }
    }
}

/// The publishes of one topic that are not on their way yet.
#[derive(Debug)]
pub(super) struct Lane {
    at_once: AtomicUsize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    publishes: VecDeque<Queued>,
    /// Of all these publishes.
    messages: usize,
    bytes: usize,
    /// How many are sending, and will take what comes.
    senders: usize,
}

impl Waiting {
    /// Whether what waits is worth a batch beside another.
    fn is_good(&self) -> bool {
        self.messages >= GOOD_MESSAGES || self.bytes >= GOOD_BYTES
    }

    fn count(&mut self, publish: &Queued) {
        self.messages += publish.publish.bodies.len();
        self.bytes += publish.batch_bytes;
    }

    fn pop(&mut self) -> Option<Publish> {
        let Queued { publish, batch_bytes } = self.publishes.pop_front()?;
        self.messages -= publish.bodies.len();
        self.bytes -= batch_bytes;
        Some(publish)
    }
}

impl Lane {
    /// `one_by_one` lets no batch leave before the last one's outcome is known.
    pub(super) fn new(one_by_one: bool) -> Self {
        let at_once = if one_by_one { 1 } else { AT_ONCE };
        Self { at_once: AtomicUsize::new(at_once), waiting: Mutex::default() }
    }

    /// Lets batches leave beside each other from now on.
    pub(super) fn side_by_side(&self) {
        self.at_once.store(AT_ONCE, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a publish; `true` tells the caller to begin sending.
    #[must_use]
    pub(super) fn join(&self, publish: Publish) -> bool {
        let publish = Queued::from(publish);
        let mut waiting = self.lock();
        waiting.count(&publish);
        waiting.publishes.push_back(publish);
        let begin = waiting.senders == 0
            || waiting.senders < self.at_once.load(Ordering::Relaxed) && waiting.is_good();
        waiting.senders += usize::from(begin);
        begin
    }

    /// What may leave now as one batch, oldest first; a publish larger than a batch comes alone.
    ///
    /// `None` when nothing waits, or somebody else is sending and may take what does: the caller has stopped sending.
    pub(super) fn take(&self) -> Option<Vec<Publish>> {
        let now = Instant::now();
        let mut waiting = self.lock();
        let mut group = Vec::new();
        let (mut bytes, mut messages) = (0, 0);
        let left_to_another = waiting.senders > 1 && !waiting.is_good();
        while let Some(next) = waiting.publishes.front().filter(|_| !left_to_another) {
            let late = !next.publish.has_time(now);
            if !late {
                bytes += next.batch_bytes;
                messages += next.publish.bodies.len();
                if !group.is_empty() && (bytes > BATCH_BYTES || messages > BATCH_MESSAGES) {
                    break;
                }
            }
            let Some(next) = waiting.pop() else { break };
            if late {
                next.settle_late();
            } else {
                group.push(next);
            }
        }
        waiting.senders -= usize::from(group.is_empty());
        (!group.is_empty()).then_some(group)
    }

    /// Puts publishes back that were certainly not stored, before all that came later; those without time left hear so now.
    pub(super) fn put_back(&self, group: Vec<Publish>) {
        let now = Instant::now();
        let (again, late): (Vec<_>, Vec<_>) = group.into_iter().partition(|publish| publish.has_time(now));
        late.into_iter().for_each(Publish::settle_late);
        let mut waiting = self.lock();
        for publish in again.into_iter().rev() {
            let publish = Queued::from(publish);
            waiting.count(&publish);
            waiting.publishes.push_front(publish);
        }
        // Of several batches that come back an older one may be the first.
        waiting.publishes.make_contiguous().sort_by_key(|waiting| waiting.publish.deadline);
    }

    /// Ends every wait after whoever was sending has failed, unless somebody else is sending; the next to join sends again.
    pub(super) fn abandon(&self) {
        let mut waiting = self.lock();
        waiting.senders -= 1;
        if waiting.senders == 0 {
            *waiting = Waiting::default();
        }
    }
}

/// Cuts one publish's messages into runs that fit a batch each.
pub(super) fn parts(publish: &Publish) -> Vec<&[Bytes]> {
    let beside = publish.beside_bytes();
    let mut parts = Vec::new();
    let mut rest = &publish.bodies[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take(BATCH_MESSAGES).take_while(|body| {
            bytes += batch_record_len(body.len(), beside);
            bytes <= BATCH_BYTES
        });
        // A message larger than a batch should be travels alone.
        let (part, behind) = rest.split_at(fits.count().max(1));
        parts.push(part);
        rest = behind;
    }
    parts
}

/// Lets each body join as a publish of its own, and takes them all; how many batches they make.
#[cfg(feature = "fuzzing")]
#[must_use]
pub fn gather(bodies: &[Bytes]) -> usize {
    let lane = Lane::new(true);
    for body in bodies {
        let _ = lane.join(alone(vec![body.clone()], Duration::from_secs(60)).0);
    }
    std::iter::from_fn(|| lane.take()).count()
}

/// A publish, and who waits for it.
#[cfg(any(test, feature = "fuzzing"))]
fn alone(bodies: Vec<Bytes>, left: Duration) -> (Publish, oneshot::Receiver<Result<Stored, PublishError>>) {
    use super::admission::{Admission, AdmissionLimits};
    let limits = AdmissionLimits { bytes: usize::MAX, topic_bytes: usize::MAX, requests: usize::MAX };
    let (answer, outcome) = oneshot::channel();
    let publish = Publish {
        bodies,
        properties: PropertiesBuilder::new(),
        stamps: Stamps::default(),
        accepted_ms: 0,
        deadline: Instant::now() + left,
        wants_ids: false,
        answer: Some(answer),
        failure: None,
        permit: Admission::new(limits).admit().expect("there is room"),
    };
    (publish, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(
        sizes: &[usize],
        left: Duration,
    ) -> (Publish, oneshot::Receiver<Result<Stored, PublishError>>) {
        alone(sizes.iter().map(|&size| vec![0; size].into()).collect(), left)
    }

    const LONG: Duration = Duration::from_secs(60);

    fn sizes(group: &[Publish]) -> Vec<Vec<usize>> {
        group.iter().map(|publish| publish.bodies.iter().map(Bytes::len).collect()).collect()
    }

    #[test]
    fn publishes_leave_together_in_order_up_to_a_batch() {
        let lane = Lane::new(true);
        assert!(lane.join(publish(&[1], LONG).0), "nobody is sending");
        for size in [2, BATCH_BYTES - 300, 3, 2 * BATCH_BYTES, 4, 5] {
            assert!(!lane.join(publish(&[size], LONG).0));
        }
        assert_eq!(sizes(&lane.take().unwrap()), [[1], [2], [BATCH_BYTES - 300]]);
        let three = lane.take().unwrap();
        assert_eq!(sizes(&three), [[3]], "what follows is larger than a batch");
        assert_eq!(sizes(&lane.take().unwrap()), [[2 * BATCH_BYTES]]);
        lane.put_back(three);
        assert_eq!(sizes(&lane.take().unwrap()), [[3], [4], [5]]);
        assert!(lane.take().is_none());
        assert!(lane.join(publish(&[6], LONG).0), "sending has stopped");
    }

    #[test]
    fn many_messages_make_a_batch_as_many_bytes_do() {
        let lane = Lane::new(true);
        for _ in 0..3 {
            let _ = lane.join(publish(&vec![1; BATCH_MESSAGES / 2], LONG).0);
        }
        assert_eq!(lane.take().unwrap().len(), 2);
        assert_eq!(lane.take().unwrap().len(), 1);
    }

    #[test]
    fn what_has_no_time_left_is_told_so_and_not_begun() {
        let lane = Lane::new(false);
        let (late, mut outcome) = publish(&[1], LEAST_TIME / 2);
        let _ = lane.join(late);
        let _ = lane.join(publish(&[2], LONG).0);
        assert_eq!(sizes(&lane.take().unwrap()), [[2]]);
        assert!(matches!(outcome.try_recv(), Ok(Err(PublishError::Unavailable(_)))));
        let _ = lane.join(publish(&[3], Duration::ZERO).0);
        assert!(lane.take().is_none());
    }

    #[test]
    fn a_good_batch_leaves_beside_others_as_long_as_they_are_few_and_a_small_one_waits() {
        for good in [vec![1; GOOD_MESSAGES], vec![GOOD_BYTES]] {
            let lane = Lane::new(false);
            assert!(lane.join(publish(&[1], LONG).0));
            assert!(lane.take().is_some());
            assert!(!lane.join(publish(&[2], LONG).0), "it is small");
            assert!(lane.join(publish(&good, LONG).0));
            assert_eq!(lane.take().unwrap().len(), 2);
            for _ in 2..AT_ONCE {
                assert!(lane.join(publish(&good, LONG).0));
                assert!(lane.take().is_some());
            }
            assert!(!lane.join(publish(&good, LONG).0), "enough are on their way");
            assert_eq!(sizes(&lane.take().unwrap()), [good], "whoever is done goes on");
            assert!(!lane.join(publish(&[3], LONG).0));
            for _ in 1..AT_ONCE {
                assert!(lane.take().is_none(), "a small one is left to the last");
            }
            assert_eq!(sizes(&lane.take().unwrap()), [[3]]);
            assert!(lane.take().is_none());
            assert!(lane.join(publish(&[4], LONG).0), "nobody is sending");
        }
    }

    #[test]
    fn a_lane_that_goes_one_by_one_holds_back_what_is_a_good_batch() {
        let lane = Lane::new(true);
        assert!(lane.join(publish(&[1], LONG).0));
        assert!(lane.take().is_some());
        assert!(!lane.join(publish(&vec![1; BATCH_MESSAGES], LONG).0));
    }

    #[test]
    fn what_comes_back_of_several_batches_waits_in_the_order_it_came() {
        for older_first in [true, false] {
            let lane = Lane::new(false);
            assert!(lane.join(publish(&[1; GOOD_MESSAGES], LONG).0));
            let older = lane.take().unwrap();
            assert!(lane.join(publish(&[2; GOOD_MESSAGES], LONG).0));
            let younger = lane.take().unwrap();
            let _ = lane.join(publish(&[3], LONG).0);
            let (first, second) = if older_first { (older, younger) } else { (younger, older) };
            lane.put_back(first);
            lane.put_back(second);
            let expected = [vec![1; GOOD_MESSAGES], vec![2; GOOD_MESSAGES], vec![3]];
            assert_eq!(sizes(&lane.take().unwrap()), expected);
            assert_eq!(lane.lock().messages, 0);
            assert_eq!(lane.lock().bytes, 0);
        }
    }

    #[test]
    fn a_sender_that_fails_leaves_what_waits_to_another_and_to_nobody_else() {
        let lane = Lane::new(false);
        assert!(lane.join(publish(&[1], LONG).0));
        assert!(lane.take().is_some());
        assert!(lane.join(publish(&[2; GOOD_MESSAGES], LONG).0));
        let (small, mut outcome) = publish(&[3], LONG);
        assert!(lane.take().is_some());
        let _ = lane.join(small);
        lane.abandon();
        assert!(outcome.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        lane.abandon();
        assert!(outcome.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
        assert!(lane.join(publish(&[4], LONG).0), "the next to join sends again");
    }

    #[test]
    fn a_request_is_cut_into_batches_in_order_and_nothing_is_left_out() {
        let cuts = |sizes: &[usize]| -> Vec<Vec<usize>> {
            let (publish, _) = publish(sizes, LONG);
            parts(&publish).into_iter().map(|part| part.iter().map(Bytes::len).collect()).collect()
        };
        assert_eq!(cuts(&[1]), [[1]]);
        assert_eq!(cuts(&[BATCH_BYTES, 1, 2]), [vec![BATCH_BYTES], vec![1, 2]]);
        assert_eq!(cuts(&[400_000, 400_000, 400_000]), [vec![400_000, 400_000], vec![400_000]]);
        let many = cuts(&vec![1; 2 * BATCH_MESSAGES + 1]);
        assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [BATCH_MESSAGES, BATCH_MESSAGES, 1]);
    }
}
