//! Cuts what waits for nsqd into batches nsqd will take.
//!
//! A message nsqd is bound to refuse (empty, or beyond its size limit) travels alone, so that the refusal names it and
//! nobody else.
//!
//! Messages that are not nsqd's to be given ([`Feed::has`]) stand among the others, for offsets are committed in a row, and are left out of
//! what it is given.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{audit::Entry, mapping::Feed, nsq::mpub, rocketmq::record::StoredMessage};

/// Where larger batches stop paying: the payload one request is filled up to.
const TARGET_BYTES: usize = 256 * 1024;

/// What a message takes in memory beside its body and properties: its record, and its share of the pull it came in. Of small
/// messages it is most of it.
const MESSAGE_BYTES: usize = 512;

/// What a message takes in memory.
pub(super) fn held_bytes(message: &StoredMessage) -> usize {
    message.body.len() + message.properties.encoded().len() + MESSAGE_BYTES
}

/// What nsqd takes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// nsqd's `--max-msg-size`, bytes of one message.
    pub max_msg_size: usize,
    /// nsqd's `--max-body-size`, bytes of one request.
    pub max_body_size: usize,
}

/// Messages with consecutive offsets, on their way to nsqd in one request.
#[derive(Debug)]
pub(super) struct Batch {
    messages: Vec<StoredMessage>,
    /// Which of them nsqd is to be given: asked once of each, for it means reading the properties.
    goes: Vec<bool>,
    /// See [`Batch::take_entries`].
    entries: Vec<Option<Entry>>,
}

/// What is cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut<'a> {
    pub(super) feed: &'a Feed,
    pub(super) limits: Limits,
    /// Whether the audit counts the messages.
    pub(super) audited: bool,
    /// At most so many of them.
    pub(super) most: usize,
}

impl Cut<'_> {
    /// Whether nsqd is to be given a message, and what the audit counts it as.
    fn gives(&self, message: &StoredMessage) -> (bool, Option<Entry>) {
        match (self.audited, self.feed) {
            (true, Feed::Topic(_)) => {
                let entry = Entry::of(message);
                (entry.is_some(), entry)
            }
            _ => (self.feed.has(&message.properties), None),
        }
    }
}

impl Batch {
    /// Takes the next batch from the front; `None` when nothing waits.
    pub(super) fn cut(waiting: &mut VecDeque<StoredMessage>, cut: Cut<'_>) -> Option<Self> {
        let Cut { limits, most, .. } = cut;
        let room = TARGET_BYTES.min(limits.max_body_size);
        let alone = |message: &StoredMessage| !(1..=limits.max_msg_size).contains(&message.body.len());
        let mut payload = mpub::COUNT_BYTES;
        let (mut goes, mut entries) = (Vec::new(), Vec::new());
        let fits = waiting.iter().take(most).take_while(|message| {
            let (given, entry) = cut.gives(message);
            goes.push(given);
            if cut.audited {
                entries.push(entry);
            }
            if !given {
                return true;
            }
            payload += mpub::SIZE_BYTES + message.body.len();
            payload <= room && !alone(message)
        });
        let count = fits.count().max(1).min(most);
        let messages: Vec<_> = waiting.drain(..count.min(waiting.len())).collect();
        goes.truncate(messages.len());
        entries.truncate(messages.len());
        (!messages.is_empty()).then_some(Self { messages, goes, entries })
    }

    /// The messages nsqd is to be given.
    pub(super) fn relayed(&self) -> impl Iterator<Item = &StoredMessage> {
        self.each().filter_map(|(message, goes)| goes.then_some(message))
    }

    /// How many messages it has.
    pub(super) fn messages(&self) -> usize {
        self.messages.len()
    }

    /// When its first message was stored, in milliseconds since 1970.
    pub(super) fn stored_ms(&self) -> i64 {
        self.messages.first().map_or(0, |message| message.store_timestamp)
    }

    /// When its last message was stored.
    pub(super) fn last_stored_ms(&self) -> Option<i64> {
        self.messages.last().map(|message| message.store_timestamp)
    }

    /// What they take in memory.
    pub(super) fn held_bytes(&self) -> usize {
        self.messages.iter().map(held_bytes).sum()
    }

    /// The messages, in order, and whether nsqd is to be given each.
    pub(super) fn each(&self) -> impl Iterator<Item = (&StoredMessage, bool)> {
        self.messages.iter().zip(self.goes.iter().copied())
    }

    /// What the audit counts each of its messages as: nothing of what nsqd is not given, or of a share. They are there once, and only
    /// where the batch was cut for the audit.
    pub(super) fn take_entries(&mut self) -> Vec<Option<Entry>> {
        std::mem::take(&mut self.entries)
    }

    /// Why nsqd is bound to refuse the batch, which then is a single message.
    pub(super) fn unfit(&self, limits: Limits) -> Option<String> {
        let ([message], [true]) = (&self.messages[..], &self.goes[..]) else {
            return None;
        };
        match message.body.len() {
            0 => Some("the body is empty".to_owned()),
            bytes if bytes > limits.max_msg_size => {
                Some(format!("{bytes} bytes, nsqd takes {}", limits.max_msg_size))
            }
            _ => None,
        }
    }

    /// A binary mpub body.
    pub(super) fn payload(&self) -> Bytes {
        let bodies: Vec<&[u8]> = self.relayed().map(|message| &message.body[..]).collect();
        mpub::encode_binary(bodies.into_iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rocketmq::properties::Properties;

    const LIMITS: Limits = Limits { max_msg_size: 100_000, max_body_size: 120_000 };

    fn cut(waiting: &mut VecDeque<StoredMessage>, feed: &Feed) -> Option<Batch> {
        let [batch, audited] = [false, true].map(|audited| {
            let cut = Cut { feed, limits: LIMITS, audited, most: usize::MAX };
            Batch::cut(&mut waiting.clone(), cut)
        });
        let sizes = |batch: &Option<Batch>| {
            let batch = batch.as_ref()?;
            Some(batch.each().map(|(message, goes)| (message.body.len(), goes)).collect::<Vec<_>>())
        };
        assert_eq!(sizes(&batch), sizes(&audited), "the audit changes nothing");
        waiting.drain(..batch.as_ref().map_or(0, Batch::messages));
        batch
    }

    fn orders() -> Feed {
        "orders".parse().unwrap()
    }

    fn stored(len: usize) -> StoredMessage {
        StoredMessage::for_tests(vec![7; len], Properties::default())
    }

    fn taken_in(len: usize) -> StoredMessage {
        let properties =
            Properties::from_encoded("nsq_intake\u{1}nsqd:4151 0A\u{2}UNIQ_KEY\u{1}0A\u{2}".into());
        StoredMessage { properties, ..stored(len) }
    }

    #[test]
    fn a_mark_that_was_copied_from_another_message_keeps_none_from_nsqd() {
        for copied in
            ["nsq_intake\u{1}nsqd:4151 0A\u{2}UNIQ_KEY\u{1}0B\u{2}", "nsq_intake\u{1}nsqd:4151 0A\u{2}"]
        {
            let properties = Properties::from_encoded(copied.into());
            assert!(orders().has(&properties), "{copied:?}");
        }
    }

    #[test]
    fn what_was_taken_in_from_nsqd_keeps_its_place_and_is_not_given_back() {
        let bodies = [taken_in(200_000), stored(60_000), taken_in(1), stored(59_988), taken_in(0), stored(1)];
        let mut waiting = VecDeque::from(bodies);
        let first = cut(&mut waiting, &orders()).unwrap();
        assert_eq!((first.messages(), first.relayed().count()), (5, 2));
        let given = mpub::decode_binary(first.payload(), LIMITS.max_msg_size, LIMITS.max_body_size).unwrap();
        assert_eq!(given.iter().map(Bytes::len).collect::<Vec<_>>(), [60_000, 59_988]);
        let mut alone = VecDeque::from([taken_in(200_000)]);
        let alone = cut(&mut alone, &orders()).unwrap();
        assert_eq!((alone.unfit(LIMITS), alone.relayed().count()), (None, 0), "it is no fault of a message");
    }

    #[test]
    fn what_is_left_of_a_share_is_what_has_no_stamp_whether_it_was_taken_in_or_not() {
        let stamped = |len, encoded: &'static str| StoredMessage {
            properties: Properties::from_encoded(encoded.into()),
            ..stored(len)
        };
        let (ours, anothers) = ("nsq_share_billing\u{1}1\u{2}", "nsq_share_mail\u{1}1\u{2}");
        let messages = || [stamped(1, ours), stored(2), taken_in(3), stamped(4, anothers), stamped(0, ours)];
        let given = |feed: &str| {
            let batch = cut(&mut VecDeque::from(messages()), &feed.parse().unwrap()).unwrap();
            (batch.messages(), batch.relayed().map(|message| message.body.len()).collect::<Vec<_>>())
        };
        assert_eq!(given("orders/billing"), (5, vec![2, 3, 4]));
        assert_eq!(given("orders"), (4, vec![1, 2, 4]), "an empty one travels alone");
    }

    fn sizes(bodies: &[usize]) -> Vec<Vec<usize>> {
        let mut waiting: VecDeque<_> = bodies.iter().map(|&len| stored(len)).collect();
        let mut cuts = Vec::new();
        while let Some(batch) = cut(&mut waiting, &orders()) {
            cuts.push(batch.messages.iter().map(|message| message.body.len()).collect());
        }
        cuts
    }

    #[test]
    fn batches_stay_within_a_request_and_keep_the_order() {
        assert_eq!(sizes(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(sizes(&[10, 20, 30]), [[10, 20, 30]]);
        assert_eq!(sizes(&[60_000, 59_988, 1]), [vec![60_000, 59_988], vec![1]]);
        assert_eq!(sizes(&[60_000, 59_989, 1]), [vec![60_000], vec![59_989, 1]]);
    }

    #[test]
    fn what_nsqd_must_refuse_travels_alone() {
        assert_eq!(sizes(&[1, 0, 2]), [[1], [0], [2]]);
        assert_eq!(sizes(&[1, 100_001, 2, 100_000]), [vec![1], vec![100_001], vec![2, 100_000]]);
        assert_eq!(sizes(&[200_000]), [[200_000]]);
    }
}
