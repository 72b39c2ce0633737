//! What waits to be sent to one topic, and what may leave together.
//!
//! Group commit: while one batch of the topic is on its way, later publishes gather here; the next batch carries them
//! all. No timer is involved, so a lone publish leaves at once. Publishes leave in the order they came.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
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

impl Publish {
    /// Ends the wait, if anybody still waits.
    pub(super) fn settle(self, outcome: Result<Stored, PublishError>) {
        // What is settled no longer counts as held.
        drop(self.permit);
        let _ = self.answer.map(|waiting| waiting.send(outcome));
    }

    /// Ends the wait over a batch that is still on its way; the room is held until that has its outcome.
    pub(super) fn settle_early(&mut self) {
        let reason = || PublishError::Unknown("RocketMQ did not answer in time".to_owned());
        let _ = self.answer.take().map(|waiting| waiting.send(Err(reason())));
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
struct Sized {
    publish: Publish,
    batch_bytes: usize,
}

impl From<Publish> for Sized {
    fn from(publish: Publish) -> Self {
        let beside = publish.beside_bytes();
        let records = publish.bodies.iter().map(|body| batch_record_len(body.len(), beside));
        Self { batch_bytes: records.sum(), publish }
    }
}

/// The publishes of one topic that are not on their way yet.
#[derive(Debug, Default)]
pub(super) struct Lane(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    publishes: VecDeque<Sized>,
    /// Somebody is sending, and will take what comes.
    sending: bool,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a publish; `true` tells the caller to begin sending, for nobody is.
    #[must_use]
    pub(super) fn join(&self, publish: Publish) -> bool {
        let publish = Sized::from(publish);
        let mut waiting = self.lock();
        waiting.publishes.push_back(publish);
        !std::mem::replace(&mut waiting.sending, true)
    }

    /// What may leave now as one batch, oldest first; a publish larger than a batch comes alone.
    ///
    /// `None` when nothing waits: the caller has stopped sending.
    pub(super) fn take(&self) -> Option<Vec<Publish>> {
        let now = Instant::now();
        let mut waiting = self.lock();
        let mut group = Vec::new();
        let (mut bytes, mut messages) = (0, 0);
        while let Some(next) = waiting.publishes.front() {
            let late = !next.publish.has_time(now);
            if !late {
                bytes += next.batch_bytes;
                messages += next.publish.bodies.len();
                if !group.is_empty() && (bytes > BATCH_BYTES || messages > BATCH_MESSAGES) {
                    break;
                }
            }
            let Some(next) = waiting.publishes.pop_front() else { break };
            if late {
                next.publish.settle_late();
            } else {
                group.push(next.publish);
            }
        }
        waiting.sending = !group.is_empty();
        waiting.sending.then_some(group)
    }

    /// Puts publishes back that were certainly not stored, before all others and in their order; those without time
    /// left hear so now.
    pub(super) fn put_back(&self, group: Vec<Publish>) {
        let now = Instant::now();
        let (again, late): (Vec<_>, Vec<_>) = group.into_iter().partition(|publish| publish.has_time(now));
        late.into_iter().for_each(Publish::settle_late);
        let mut waiting = self.lock();
        for publish in again.into_iter().rev() {
            waiting.publishes.push_front(publish.into());
        }
    }

    /// Ends every wait after whoever was sending has failed; the next to join sends again.
    pub(super) fn abandon(&self) {
        *self.lock() = Waiting::default();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::admission::{Admission, AdmissionLimits};

    fn publish(
        sizes: &[usize],
        left: Duration,
    ) -> (Publish, oneshot::Receiver<Result<Stored, PublishError>>) {
        let limits = AdmissionLimits { bytes: usize::MAX, topic_bytes: usize::MAX, requests: usize::MAX };
        let (answer, outcome) = oneshot::channel();
        let publish = Publish {
            bodies: sizes.iter().map(|&size| vec![0; size].into()).collect(),
            properties: PropertiesBuilder::new(),
            stamps: Stamps::default(),
            accepted_ms: 0,
            deadline: Instant::now() + left,
            wants_ids: false,
            answer: Some(answer),
            failure: None,
            permit: Admission::new(limits).admit().unwrap(),
        };
        (publish, outcome)
    }

    const LONG: Duration = Duration::from_secs(60);

    fn sizes(group: &[Publish]) -> Vec<Vec<usize>> {
        group.iter().map(|publish| publish.bodies.iter().map(Bytes::len).collect()).collect()
    }

    #[test]
    fn publishes_leave_together_in_order_up_to_a_batch() {
        let lane = Lane::default();
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
        let lane = Lane::default();
        for _ in 0..3 {
            let _ = lane.join(publish(&vec![1; BATCH_MESSAGES / 2], LONG).0);
        }
        assert_eq!(lane.take().unwrap().len(), 2);
        assert_eq!(lane.take().unwrap().len(), 1);
    }

    #[test]
    fn what_has_no_time_left_is_told_so_and_not_begun() {
        let lane = Lane::default();
        let (late, mut outcome) = publish(&[1], LEAST_TIME / 2);
        let _ = lane.join(late);
        let _ = lane.join(publish(&[2], LONG).0);
        assert_eq!(sizes(&lane.take().unwrap()), [[2]]);
        assert!(matches!(outcome.try_recv(), Ok(Err(PublishError::Unavailable(_)))));
        let _ = lane.join(publish(&[3], Duration::ZERO).0);
        assert!(lane.take().is_none());
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
