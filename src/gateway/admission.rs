//! What may be held in memory: bytes and requests, in all and for one topic.
//!
//! Nothing waits for room. Past a bound the producer hears 503 at once, which it must be able to deal with anyway, instead
//! of a gateway that grows until it is killed. A topic has a share of its own, so that one whose broker is stuck cannot
//! take the room of the others.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::topic::Topic;

/// What a request takes beside its body: its head, its task, its place in a batch.
const REQUEST_BYTES: usize = 1024;

/// The bounds.
#[derive(Debug, Clone)]
pub struct AdmissionLimits {
    /// Bytes of requests being read or waiting for RocketMQ.
    pub bytes: usize,
    /// Of these, the bytes that may wait for one topic.
    pub topic_bytes: usize,
    /// Requests being read or waiting.
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
        let mut permit = Permit { admission: Arc::clone(self), bytes: 0, topic: None };
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
        self.admission.requests.fetch_sub(1, Ordering::Relaxed);
        self.admission.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        if let Some(topic) = &self.topic {
            topic.held_bytes().fetch_sub(self.bytes, Ordering::Relaxed);
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

    #[test]
    fn what_is_taken_is_given_back_and_no_bound_is_passed() {
        let limits =
            AdmissionLimits { bytes: 4 * REQUEST_BYTES, topic_bytes: 2 * REQUEST_BYTES, requests: 3 };
        let admission = Admission::new(limits);
        let topic = |name: &str| {
            Arc::new(Topic::new(name.parse().unwrap(), name.to_owned(), Stamps::default(), None))
        };
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
