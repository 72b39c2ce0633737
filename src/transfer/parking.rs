//! Where a message goes that nsqd will never take: empty, too large, refused by it for another reason, or unreadable.
//!
//! It is stored in a parking topic in RocketMQ, one for each feed, before the relay goes on behind it: the proof is the
//! broker's `SEND_OK`. With it go the reason and the place it came from. [`Parking`] is also how `nsqbridge parked`
//! finds what is there; what was dealt with is below the committed offset of [`GROUP`].

use std::time::Duration;

use bytes::Bytes;
use tracing::{error, warn};

use crate::{
    mapping::{Feed, Names},
    retry::Backoff,
    rocketmq::{
        Cluster, ClusterError, Message, Outcome, Producer, Queue, QueueReader,
        producer::unix_millis,
        properties::{PropertiesBuilder, PropertyError, is_reserved},
        reader::Pull,
        record::{RecordError, StoredMessage},
        unique_key::UniqueKeys,
    },
};

/// How far the parked messages of a topic were dealt with.
pub const GROUP: &str = "nsqbridge-parked";
/// RocketMQ 5 stores no empty body.
const EMPTY: &[u8] = b"(empty)";
const BUDGET: Duration = Duration::from_secs(5);

const REASON: &str = "park_reason";
const PLACE: &str = "park_place";
const ID: &str = "park_id";
const WAS_EMPTY: &str = "park_empty";
const UNREADABLE: &str = "park_unreadable";

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
        let place = format!("{}:{}:{}", queue.broker, queue.id, message.queue_offset);
        let body = if message.body.is_empty() { Bytes::from_static(EMPTY) } else { message.body.clone() };
        self.put(&place, body, properties(message, &place, reason), reason).await
    }

    /// Parks a record that cannot be read, as it came.
    ///
    /// # Cancellation
    /// As [`Self::park`].
    pub(super) async fn park_record(&self, queue: &Queue, offset: i64, error: &RecordError) -> Parked {
        let place = format!("{}:{}:{offset}", queue.broker, queue.id);
        let reason = error.to_string();
        let properties = origin(PropertiesBuilder::new(), &place, &reason)
            .and_then(|properties| properties.user(UNREADABLE, "true"));
        self.put(&place, error.bytes.clone(), properties, &reason).await
    }

    async fn put(
        &self,
        place: &str,
        body: Bytes,
        properties: Result<PropertiesBuilder, PropertyError>,
        reason: &str,
    ) -> Parked {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        // Once: whatever is tried again carries the same id.
        let unique_key = self.keys.mint();
        let message = properties.map(|properties| Message {
            body,
            properties,
            unique_key,
            born_at: unix_millis(),
            deliver_at: None,
        });
        loop {
            match &message {
                Ok(message) => match self.store(message).await {
                    Ok(()) => {
                        error!(place, reason, parking_topic = self.parking_topic, "parked");
                        return Parked(());
                    }
                    Err(error) => warn!(place, error, "cannot park; trying again"),
                },
                Err(error) => error!(place, %error, "cannot park; the queue waits"),
            }
            backoff.wait().await;
        }
    }

    async fn store(&self, message: &Message) -> Result<(), String> {
        match self.cluster.route(&self.parking_topic).await {
            Ok(_) => {}
            Err(ClusterError::UnknownTopic(_)) => {
                self.cluster.create_topic(&self.parking_topic, 1).await.map_err(|error| error.to_string())?;
            }
            Err(error) => return Err(error.to_string()),
        }
        match self.producer.deliver(&self.parking_topic, std::slice::from_ref(message), None, BUDGET).await {
            Outcome::Delivered(_) => Ok(()),
            Outcome::Rejected(failure) | Outcome::NotSent(failure) | Outcome::Unknown(failure) => {
                Err(failure.to_string())
            }
        }
    }
}

/// What the message had, as far as RocketMQ means nothing by it, and where it came from.
fn properties(
    message: &StoredMessage,
    place: &str,
    reason: &str,
) -> Result<PropertiesBuilder, PropertyError> {
    let mut properties = PropertiesBuilder::new();
    for (name, value) in message.properties.iter() {
        if !is_reserved(&name) && !name.starts_with("park_") && properties.len() < 8 * 1024 {
            properties = properties.user(&name, &value)?;
        }
    }
    properties = origin(properties, place, reason)?;
    if let Some(id) = message.properties.get("UNIQ_KEY") {
        properties = properties.user(ID, id)?;
    }
    if message.body.is_empty() { properties.user(WAS_EMPTY, "true") } else { Ok(properties) }
}

fn origin(
    properties: PropertiesBuilder,
    place: &str,
    reason: &str,
) -> Result<PropertiesBuilder, PropertyError> {
    let reason: String = reason.chars().filter(|c| !c.is_control()).take(512).collect();
    properties.user(REASON, &reason)?.user(PLACE, place)
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
            match reader.pull(&queue, offset, 32, Duration::ZERO).await? {
                Pull::Messages { messages, .. } if !messages.is_empty() => {
                    offset += messages.len() as i64;
                    parked.extend(messages.into_iter().map(|message| of(&queue, message)));
                }
                _ => break,
            }
        }
    }
    Ok(parked)
}

fn of(queue: &Queue, message: StoredMessage) -> ParkedMessage {
    let property = |name| message.properties.get(name).unwrap_or_default().to_owned();
    let body = if message.properties.get(WAS_EMPTY).is_some() { Bytes::new() } else { message.body.clone() };
    ParkedMessage {
        queue: queue.clone(),
        offset: message.queue_offset,
        id: property(ID),
        reason: property(REASON),
        place: property(PLACE),
        parked_ms: message.store_timestamp,
        unreadable: message.properties.get(UNREADABLE).is_some(),
        bytes: body.len(),
        body,
    }
}

/// Takes note that everything up to and with this message was dealt with.
///
/// # Errors
/// When the broker cannot be asked or refuses; repeating is safe.
pub async fn settled(cluster: &Cluster, message: &ParkedMessage) -> Result<(), ClusterError> {
    cluster.create_group(GROUP).await?;
    cluster.commit_offset(GROUP, &message.queue, message.offset + 1).await.map(drop)
}
