//! Where a message goes that nsqd will never take: empty, too large, refused by it for another reason, or unreadable.
//!
//! It is stored in a parking topic in RocketMQ, one for each feed, before the relay goes on behind it: the proof is the
//! broker's `SEND_OK`. With it go the reason and the place it came from. [`Parking`] is also how `nsqbridge parked`
//! finds what is there; what was dealt with is below the committed offset of [`GROUP`].
//!
//! Nothing that a producer can have stored may stop the relay here: what of a message RocketMQ does not take a second time is left
//! out, properties first and then the body, and that is said.

use std::time::Duration;

use bytes::Bytes;
use tracing::{error, warn};

use crate::{
    mapping::{Feed, Names},
    retry::Backoff,
    rocketmq::{
        Cluster, ClusterError, Message, Outcome, Producer, Queue, QueueReader,
        producer::unix_millis,
        properties::{PropertiesBuilder, is_reserved, names},
        reader::{PULL_MAX, Pull},
        record::{MAX_BODY_BYTES, RecordError, StoredMessage},
        unique_key::UniqueKeys,
    },
};

/// How far the parked messages of a topic were dealt with.
pub const GROUP: &str = "nsqbridge-parked";
/// RocketMQ 5 stores no empty body.
const EMPTY: &[u8] = b"(empty)";
/// The body of what is parked without its own.
const LEFT: &[u8] = b"(left at its place)";
const BUDGET: Duration = Duration::from_secs(5);
/// All properties together, in bytes: less than RocketMQ takes, to leave room for the message's id.
const MOST_PROPERTIES_BYTES: usize = 12 * 1024;

const REASON: &str = "park_reason";
const PLACE: &str = "park_place";
const ID: &str = "park_id";
const WAS_EMPTY: &str = "park_empty";
const UNREADABLE: &str = "park_unreadable";
/// How many of the message's properties could not be carried.
const LEFT_OUT: &str = "park_left_out";
/// How long the body is that was left at its place.
const LEFT_BYTES: &str = "park_left_bytes";

/// Proof that a message is in the parking topic.
#[derive(Debug)]
pub struct Parked(());

/// Parks messages of one feed.
pub(super) struct Parking {
    cluster: Cluster,
    producer: Producer,
    keys: UniqueKeys,
    parking_topic: String,
}

/// A message that was parked.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ParkedMessage {
    /// Where it is parked.
    #[serde(skip)]
    pub queue: Queue,
    /// Where in that queue.
    #[serde(skip)]
    pub offset: i64,
    /// The id it had, if it had one.
    pub id: String,
    /// Why nsqd does not take it.
    pub reason: String,
    /// Where it was: broker, queue and offset.
    pub place: String,
    /// When it was parked, in milliseconds since 1970.
    pub parked_ms: i64,
    /// Its body as it was.
    #[serde(skip)]
    pub body: Bytes,
    /// How many bytes that are.
    pub bytes: usize,
    /// It could not be read: the body is the whole record as it came, and no message.
    pub unreadable: bool,
    /// RocketMQ does not take the body a second time: it is only at its place.
    pub left_at_place: bool,
}

impl Parking {
    pub(super) fn new(cluster: Cluster, names: &Names, feed: &Feed) -> Self {
        Self {
            producer: Producer::new(cluster.clone(), "nsqbridge-transfer"),
            cluster,
            keys: UniqueKeys::new(),
            parking_topic: names.parking_topic(feed),
        }
    }

    /// Parks a message, however long that takes.
    ///
    /// # Cancellation
    /// Dropping the future leaves it perhaps parked; it is parked again later, and found twice.
    pub(super) async fn park(&self, queue: &Queue, message: &StoredMessage, reason: &str) -> Parked {
        let origin = Origin::new(queue, message.queue_offset, reason);
        let body = if message.body.is_empty() { Bytes::from_static(EMPTY) } else { message.body.clone() };
        let properties = properties(message, &origin);
        self.put(&origin, body, properties).await
    }

    /// Parks a record that cannot be read, as it came.
    ///
    /// # Cancellation
    /// As [`Self::park`].
    pub(super) async fn park_record(&self, queue: &Queue, offset: i64, error: &RecordError) -> Parked {
        let mut origin = Origin::new(queue, offset, &error.to_string());
        add(&mut origin.properties, UNREADABLE, "true");
        let properties = origin.properties.clone();
        self.put(&origin, error.bytes.clone(), properties).await
    }

    async fn put(&self, origin: &Origin, body: Bytes, properties: PropertiesBuilder) -> Parked {
        let Origin { place, reason, .. } = origin;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let bytes = body.len();
        let mut whole = bytes <= MAX_BODY_BYTES;
        let mut message = Message {
            body,
            properties,
            // Once: whatever is tried again carries the same id.
            unique_key: self.keys.mint(),
            born_at: unix_millis(),
            deliver_at: None,
        };
        if !whole {
            leave_body(&mut message, origin, bytes);
        }
        loop {
            match self.store(&message).await {
                Ok(()) => {
                    error!(place, reason, whole, parking_topic = self.parking_topic, "parked");
                    return Parked(());
                }
                Err(Refusal { error, of_the_message: true }) if whole => {
                    warn!(place, error, "cannot be parked as it is; parking only where it lies");
                    whole = false;
                    leave_body(&mut message, origin, bytes);
                }
                Err(Refusal { error, .. }) => {
                    warn!(place, error, "cannot park; trying again");
                    backoff.wait().await;
                }
            }
        }
    }

    async fn store(&self, message: &Message) -> Result<(), Refusal> {
        match self.cluster.route(&self.parking_topic).await {
            Ok(_) => {}
            Err(ClusterError::UnknownTopic(_)) => {
                self.cluster.create_topic(&self.parking_topic, 1).await.map_err(Refusal::of_the_moment)?;
            }
            Err(error) => return Err(Refusal::of_the_moment(error)),
        }
        match self.producer.deliver(&self.parking_topic, std::slice::from_ref(message), None, BUDGET).await {
            Outcome::Delivered(_) => Ok(()),
            Outcome::Rejected(failure) => Err(Refusal { error: failure.to_string(), of_the_message: true }),
            Outcome::NotSent(failure) | Outcome::Unknown(failure) => Err(Refusal::of_the_moment(failure)),
        }
    }
}

/// Why a message is not in the parking topic.
struct Refusal {
    error: String,
    /// Repeating it as it is cannot help.
    of_the_message: bool,
}

impl Refusal {
    fn of_the_moment(error: impl ToString) -> Self {
        Self { error: error.to_string(), of_the_message: false }
    }
}

/// Where a message was, and why nsqd does not have it.
struct Origin {
    place: String,
    reason: String,
    /// Both, as they go with it.
    properties: PropertiesBuilder,
}

impl Origin {
    fn new(queue: &Queue, offset: i64, reason: &str) -> Self {
        let place = format!("{}:{}:{offset}", queue.broker, queue.id);
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(512).collect();
        let mut properties = PropertiesBuilder::new();
        add(&mut properties, REASON, &reason);
        add(&mut properties, PLACE, &place);
        Self { place, reason, properties }
    }
}

/// Adds a property, if RocketMQ can carry it beside those there are.
fn add(properties: &mut PropertiesBuilder, name: &str, value: &str) -> bool {
    if properties.len() + name.len() + value.len() > MOST_PROPERTIES_BYTES {
        return false;
    }
    match properties.clone().user(name, value) {
        Ok(more) => *properties = more,
        Err(_) => return false,
    }
    true
}

/// Where it came from, and what the message had, as far as RocketMQ means nothing by it and carries it once more: a producer may have
/// stored what no client of this kind would send.
fn properties(message: &StoredMessage, origin: &Origin) -> PropertiesBuilder {
    let mut properties = origin.properties.clone();
    if let Some(id) = message.properties.get(names::UNIQ_KEY) {
        add(&mut properties, ID, id);
    }
    if message.body.is_empty() {
        add(&mut properties, WAS_EMPTY, "true");
    }
    let mut left_out = 0;
    for (name, value) in message.properties.iter() {
        if !is_reserved(&name) && !name.starts_with("park_") && !add(&mut properties, &name, &value) {
            left_out += 1;
        }
    }
    if left_out > 0 {
        warn!(place = origin.place, left_out, "parked without some of its properties");
        properties = properties.and(&noted(LEFT_OUT, left_out));
    }
    properties
}

/// Leaves of a message only where it lies, and how long it is.
fn leave_body(message: &mut Message, origin: &Origin, bytes: usize) {
    message.body = Bytes::from_static(LEFT);
    message.properties = origin.properties.clone().and(&noted(LEFT_BYTES, bytes));
}

/// A number of the relay's own: there is always room for it.
fn noted(name: &str, number: usize) -> PropertiesBuilder {
    PropertiesBuilder::new().user(name, &number.to_string()).unwrap_or_default()
}

/// The messages of a feed that were parked and not dealt with, oldest first in each queue.
///
/// # Errors
/// When RocketMQ cannot be asked. A feed of which nothing was ever parked has none.
pub async fn parked(
    cluster: &Cluster,
    names: &Names,
    feed: &Feed,
) -> Result<Vec<ParkedMessage>, ClusterError> {
    let parking_topic = names.parking_topic(feed);
    let queues = match cluster.fresh_route(&parking_topic).await {
        Ok(route) => route.read_queues.clone(),
        Err(ClusterError::UnknownTopic(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let reader = QueueReader::new(cluster.clone(), GROUP);
    let mut parked = Vec::new();
    for queue in queues {
        let bounds = cluster.queue_bounds(&queue).await?;
        let mut offset = cluster.committed_offset(GROUP, &queue).await?.unwrap_or(0).max(bounds.min);
        while offset < bounds.max {
            match reader.pull(&queue, offset, PULL_MAX, Duration::ZERO).await? {
                Pull::Messages { messages, .. } if !messages.is_empty() => {
                    offset += messages.len() as i64;
                    parked.extend(messages.into_iter().map(|message| parked_message(&queue, message)));
                }
                _ => break,
            }
        }
    }
    Ok(parked)
}

fn parked_message(queue: &Queue, message: StoredMessage) -> ParkedMessage {
    let property = |name| message.properties.get(name).unwrap_or_default().to_owned();
    let left_bytes = message.properties.get(LEFT_BYTES).and_then(|bytes| bytes.parse().ok());
    let bodyless = left_bytes.is_some() || message.properties.get(WAS_EMPTY).is_some();
    let body = if bodyless { Bytes::new() } else { message.body.clone() };
    ParkedMessage {
        queue: queue.clone(),
        offset: message.queue_offset,
        id: property(ID),
        reason: property(REASON),
        place: property(PLACE),
        parked_ms: message.store_timestamp,
        unreadable: message.properties.get(UNREADABLE).is_some(),
        left_at_place: left_bytes.is_some(),
        bytes: left_bytes.unwrap_or(body.len()),
        body,
    }
}

/// Takes note that everything up to and with this message was dealt with.
///
/// # Errors
/// When the broker cannot be asked or refuses; repeating is safe.
pub async fn settled(cluster: &Cluster, message: &ParkedMessage) -> Result<(), ClusterError> {
    cluster.create_group(GROUP).await?;
    cluster.commit_offset(GROUP, &message.queue, message.offset + 1).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rocketmq::properties::{MAX_PROPERTIES_BYTES, Properties};

    fn queue() -> Queue {
        Queue { topic: "t".to_owned(), broker: "b".to_owned(), id: 3 }
    }

    fn stored(body: Bytes, properties: &[u8]) -> StoredMessage {
        let properties = Properties::from_encoded(Bytes::copy_from_slice(properties));
        StoredMessage { queue_id: 3, queue_offset: 7, ..StoredMessage::for_tests(body, properties) }
    }

    /// What the parking topic would hold of a message that carries these properties.
    fn as_parked(body: Bytes, properties: PropertiesBuilder) -> ParkedMessage {
        let built = properties.build().expect("RocketMQ takes them");
        parked_message(&queue(), stored(body, built.encoded()))
    }

    #[test]
    fn whatever_properties_a_message_has_it_can_be_parked() {
        let long = format!("UNIQ_KEY\x01ID\x02a\x011\x02long\x01{}\x02b\x012\x02", "v".repeat(15 * 1024));
        let many: String = (0..2_000).map(|n| format!("name{n}\x01value\x02")).collect();
        let endless_id = format!("UNIQ_KEY\x01{}\x02a\x011\x02", "i".repeat(30_000));
        for text in
            [long.as_str(), "a\x011\x02odd\x01p\x01q\x02b\x012\x02UNIQ_KEY\x01ID\x02", &many, &endless_id]
        {
            let message = stored(Bytes::new(), text.as_bytes());
            let origin = Origin::new(&queue(), 7, "empty\x01\x02\n");
            let kept = properties(&message, &origin);
            assert!(kept.len() < MAX_PROPERTIES_BYTES - 1024, "there is room for the message's own id");
            let parked = as_parked(Bytes::from_static(EMPTY), kept.clone());
            assert_eq!((parked.place.as_str(), parked.reason.as_str()), ("b:3:7", "empty"));
            assert_eq!((parked.bytes, parked.left_at_place), (0, false));
            let kept = kept.build().unwrap();
            assert!(kept.get(LEFT_OUT).is_some() || text == endless_id, "it is said that some are left out");
            if !text.starts_with("name") {
                assert_eq!(kept.get("a"), Some("1"), "one that cannot be carried costs no other");
            }
            if text.contains("\x02b\x012") {
                assert_eq!((kept.get("b"), parked.id.as_str()), (Some("2"), "ID"));
            }
        }
    }

    #[test]
    fn a_body_that_cannot_be_parked_stays_at_its_place_and_says_how_long_it_is() {
        let origin = Origin::new(&queue(), 7, "5000000 bytes, nsqd takes 1048576");
        let mut message = Message {
            body: vec![b'x'; 5_000_000].into(),
            properties: properties(&stored(Bytes::from_static(b"x"), b"a\x011\x02"), &origin),
            unique_key: UniqueKeys::new().mint(),
            born_at: 1,
            deliver_at: None,
        };
        leave_body(&mut message, &origin, 5_000_000);
        let parked = as_parked(message.body, message.properties);
        assert!(parked.left_at_place);
        assert_eq!((parked.bytes, parked.body.len()), (5_000_000, 0));
        assert_eq!((parked.place.as_str(), parked.reason.as_str()), ("b:3:7", origin.reason.as_str()));
    }
}
