//! What nsqd has handed over and was not told finished; and what was stored lately.
//!
//! nsqd delivers a message again when its time is up, or the connection breaks. One whose send is still under way is not sent twice for
//! that, and one that is stored by then is finished at once.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::nsq::deliveries::{Delivered, MessageId};

/// A batch is cut here: beyond this it only takes longer.
const BATCH_BYTES: usize = 1024 * 1024;
/// What stands beside a body in a batch, roughly.
const BESIDE_BODY: usize = 512;
/// So many stored messages are remembered.
const REMEMBERED: usize = 65_536;

/// A message, whichever delivery. The time is part of it: an nsqd whose clock was set back may use an id again, and that must not pass
/// for a message that is stored.
pub(super) type Identity = (MessageId, i64);

/// The identity of what was delivered.
pub(super) fn identity(message: &Delivered) -> Identity {
    (message.id, message.published_ns)
}

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It waits to be sent.
    New,
    /// It is here already.
    Again,
    /// It is stored already, and is to be finished.
    Stored,
}

/// What one inlet has in hand.
#[derive(Debug, Default)]
pub(super) struct Hand {
    /// What nsqd waits for, and the bytes of each.
    here: HashMap<Identity, usize>,
    bytes: usize,
    waiting: VecDeque<Delivered>,
    /// What was stored lately, and the same with the oldest first.
    stored: HashSet<Identity>,
    by_age: VecDeque<Identity>,
}

impl Hand {
    pub(super) fn take(&mut self, message: Delivered) -> Taken {
        let known = identity(&message);
        if self.stored.contains(&known) {
            return Taken::Stored;
        }
        if self.here.contains_key(&known) {
            return Taken::Again;
        }
        self.here.insert(known, message.body.len());
        self.bytes += message.body.len();
        self.waiting.push_back(message);
        Taken::New
    }

    /// The next messages to be sent together.
    pub(super) fn cut(&mut self) -> Option<Vec<Delivered>> {
        let mut bytes = 0;
        let fits = self.waiting.iter().take_while(|message| {
            bytes += message.body.len() + BESIDE_BODY;
            bytes <= BATCH_BYTES
        });
        let count = fits.count().max(1).min(self.waiting.len());
        (count > 0).then(|| self.waiting.drain(..count).collect())
    }

    /// Takes note that it is stored.
    pub(super) fn stored(&mut self, message: Identity) {
        self.put_back(message);
        if self.stored.insert(message) {
            self.by_age.push_back(message);
        }
        if self.by_age.len() > REMEMBERED
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.stored.remove(&oldest);
        }
    }

    /// Takes note that it was put back.
    pub(super) fn put_back(&mut self, message: Identity) {
        self.bytes -= self.here.remove(&message).unwrap_or(0);
    }

    /// Lets go of what was not sent.
    pub(super) fn give_up_waiting(&mut self) -> Vec<MessageId> {
        let given_up = std::mem::take(&mut self.waiting);
        for message in &given_up {
            self.put_back(identity(message));
        }
        given_up.iter().map(|message| message.id).collect()
    }

    /// What nsqd waits for.
    pub(super) fn here(&self) -> impl ExactSizeIterator<Item = MessageId> {
        self.here.keys().map(|(id, _)| *id)
    }

    /// Bytes of these.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn delivered(n: u64, published_ns: i64, bytes: usize) -> Delivered {
        let head = [&published_ns.to_be_bytes()[..], &[0, 1], format!("{n:016x}").as_bytes()].concat();
        Delivered::decode(Bytes::from([head, vec![1; bytes]].concat())).unwrap()
    }

    #[test]
    fn a_message_is_sent_once_however_often_it_comes() {
        let mut hand = Hand::default();
        let (one, two) = (delivered(1, 5, 10), delivered(2, 5, 10));
        assert_eq!([hand.take(one.clone()), hand.take(two.clone())], [Taken::New, Taken::New]);
        assert_eq!(hand.cut().map(|batch| batch.len()), Some(2));
        assert_eq!(hand.take(one.clone()), Taken::Again, "on its way");
        assert_eq!(hand.cut(), None);
        hand.stored(identity(&one));
        assert_eq!(hand.take(one), Taken::Stored);
        assert_eq!(hand.here().collect::<Vec<_>>(), [two.id]);
        // The same id at another time is another message.
        assert_eq!(hand.take(delivered(1, 6, 10)), Taken::New);
        assert_eq!(hand.give_up_waiting(), [delivered(1, 6, 10).id]);
        assert_eq!(hand.take(delivered(1, 6, 10)), Taken::New, "it was given up");
        assert_eq!(hand.bytes(), 20);
        hand.put_back(identity(&two));
        assert_eq!(hand.take(two), Taken::New);
    }

    #[test]
    fn what_is_stored_is_remembered_within_bounds() {
        let mut hand = Hand::default();
        for n in 0..2 * REMEMBERED as u64 {
            let message = delivered(n, 5, 1);
            assert_eq!(hand.take(message.clone()), Taken::New);
            assert!(hand.cut().is_some());
            hand.stored(identity(&message));
        }
        assert_eq!((hand.stored.len(), hand.by_age.len(), hand.here.len()), (REMEMBERED, REMEMBERED, 0));
        assert_eq!(hand.bytes(), 0);
    }

    #[test]
    fn a_batch_is_cut_by_bytes_and_a_large_message_goes_alone() {
        let mut hand = Hand::default();
        for (n, bytes) in [(1, 600_000), (2, 400_000), (3, 3_000_000), (4, 1)] {
            hand.take(delivered(n, 0, bytes));
        }
        let cuts: Vec<usize> = std::iter::from_fn(|| hand.cut()).map(|batch| batch.len()).collect();
        assert_eq!(cuts, [2, 1, 1]);
    }
}
