//! What may be held in memory: bytes and requests, in all and for one topic.
//!
//! Over HTTP nothing waits for room. Past a bound the producer hears 503 at once, which it must be able to deal with
//! anyway, instead of a gateway that grows until it is killed. Over TCP an error ends the connection with all that is
//! on its way: there the command is left unread for as long as a publish may take, at each bound it meets, and only
//! then fails. A topic has a share of its own, so that one whose broker is stuck cannot take the room of the others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::topic::Topic;
use crate::retry::Backoff;

/// What a request takes beside its body: its head, its task, its place in a batch.
const REQUEST_BYTES: usize = 1024;
/// What a message takes beside its bytes while its request waits.
const MESSAGE_BYTES: usize = 32;

/// The bounds.
#[derive(Debug, Clone)]
pub struct AdmissionLimits {
    /// Bytes of requests being read or waiting for RocketMQ.
    pub bytes: usize,
    /// Of these, the bytes that may wait for one topic.
    pub topic_bytes: usize,
    /// HTTP requests being read or waiting.
    pub requests: usize,
}

/// Which bound was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// Bytes of all requests.
    #[error("no room: max-in-flight-bytes")]
    Bytes,
    /// Bytes of the topic's requests.
    #[error("no room for this topic: max-topic-bytes")]
    Topic,
    /// Requests.
    #[error("no room: max-in-flight-requests")]
    Requests,
}

/// Counts what is held.
#[derive(Debug)]
pub(super) struct Admission {
    limits: AdmissionLimits,
    bytes: AtomicUsize,
    requests: AtomicUsize,
}

/// One request's share; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    requests: usize,
    bytes: usize,
    /// Charged with the bytes, once it is known.
    topic: Option<Arc<Topic>>,
}

impl Admission {
    pub(super) fn new(limits: AdmissionLimits) -> Arc<Self> {
        Arc::new(Self { limits, bytes: AtomicUsize::default(), requests: AtomicUsize::default() })
    }

    /// Lets a request in.
    pub(super) fn admit(self: &Arc<Self>) -> Result<Permit, NoRoom> {
        take(&self.requests, 1, self.limits.requests).map_err(|()| NoRoom::Requests)?;
        self.permit(1)
    }

    /// Lets a command in that takes room, and no request's place: a few connections that send without waiting would take all of them.
    pub(super) fn admit_command(self: &Arc<Self>) -> Result<Permit, NoRoom> {
        self.permit(0)
    }

    fn permit(self: &Arc<Self>, requests: usize) -> Result<Permit, NoRoom> {
        let mut permit = Permit { admission: Arc::clone(self), requests, bytes: 0, topic: None };
        permit.grow(REQUEST_BYTES)?;
        Ok(permit)
    }

    /// Bytes and requests held now.
    pub(super) fn held(&self) -> (usize, usize) {
        (self.bytes.load(Ordering::Relaxed), self.requests.load(Ordering::Relaxed))
    }

    pub(super) fn limits(&self) -> &AdmissionLimits {
        &self.limits
    }
}

impl Permit {
    /// Takes room for this many more bytes.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        debug_assert!(self.topic.is_none(), "the topic would not be charged");
        take(&self.admission.bytes, bytes, self.admission.limits.bytes).map_err(|()| NoRoom::Bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Takes room for what so many messages take beside their bytes.
    pub(super) fn grow_by_messages(&mut self, messages: usize) -> Result<(), NoRoom> {
        self.grow(messages * MESSAGE_BYTES)
    }

    /// The request is answered, though its bytes are still held.
    pub(super) fn give_request_back(&mut self) {
        self.admission.requests.fetch_sub(std::mem::take(&mut self.requests), Ordering::Relaxed);
    }

    /// Counts all of it against the topic as well.
    pub(super) fn charge(&mut self, topic: &Arc<Topic>) -> Result<(), NoRoom> {
        take(topic.held_bytes(), self.bytes, self.admission.limits.topic_bytes)
            .map_err(|()| NoRoom::Topic)?;
        self.topic = Some(Arc::clone(topic));
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.requests.fetch_sub(self.requests, Ordering::Relaxed);
        self.admission.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        if let Some(topic) = &self.topic {
            topic.held_bytes().fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// Waits for room until a deadline: who cannot be refused without losing more than a request waits.
pub(super) async fn room<T>(
    deadline: Instant,
    mut take: impl FnMut() -> Result<T, NoRoom>,
) -> Result<T, NoRoom> {
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(50));
    loop {
        match take() {
            Err(_) if Instant::now() < deadline => backoff.wait().await,
            taken => return taken,
        }
    }
}

fn take(held: &AtomicUsize, amount: usize, limit: usize) -> Result<(), ()> {
    let enough = |held: usize| held.checked_add(amount).filter(|&sum| sum <= limit);
    held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough).map(drop).map_err(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::share::Stamps;

    fn topic(name: &str) -> Arc<Topic> {
        Arc::new(Topic::new(name.parse().unwrap(), name.to_owned(), Stamps::default(), false, None))
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_takes_no_requests_place_and_waits_for_its_topics_room_only_so_long() {
        let limits = AdmissionLimits { bytes: 4 * REQUEST_BYTES, topic_bytes: REQUEST_BYTES, requests: 0 };
        let (admission, full) = (Admission::new(limits), topic("full"));
        let mut first = admission.admit_command().unwrap();
        first.charge(&full).unwrap();
        let mut second = admission.admit_command().unwrap();
        let within = || Instant::now() + Duration::from_secs(4);
        let (began, waited) = (Instant::now(), room(within(), || second.charge(&full)).await);
        assert_eq!((waited, began.elapsed() >= Duration::from_secs(4)), (Err(NoRoom::Topic), true));
        let giving_back = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(first);
        };
        let (waited, ()) = tokio::join!(room(within(), || second.charge(&full)), giving_back);
        assert_eq!(waited, Ok(()));
        drop(second);
        assert_eq!(admission.held(), (0, 0));
    }

    #[test]
    fn what_is_taken_is_given_back_and_no_bound_is_passed() {
        let limits =
            AdmissionLimits { bytes: 4 * REQUEST_BYTES, topic_bytes: 2 * REQUEST_BYTES, requests: 3 };
        let admission = Admission::new(limits);
        let (stuck, other) = (topic("stuck"), topic("other"));
        let admit = || admission.admit();

        let mut permits: Vec<_> = (0..2).map(|_| admit().unwrap()).collect();
        permits.iter_mut().for_each(|permit| permit.charge(&stuck).unwrap());
        let mut third = admit().unwrap();
        assert_eq!(third.charge(&stuck), Err(NoRoom::Topic));
        third.charge(&other).unwrap();
        assert_eq!(admit().unwrap_err(), NoRoom::Requests);

        drop(third);
        let mut third = admit().unwrap();
        third.grow(REQUEST_BYTES).unwrap();
        assert_eq!(third.grow(1), Err(NoRoom::Bytes));
        assert_eq!(admission.held(), (4 * REQUEST_BYTES, 3));
        drop((permits, third));
        assert_eq!(admission.held(), (0, 0));
        assert_eq!(stuck.held_bytes().load(Ordering::Relaxed), 0);
    }
}
