//! A message to be sent, and what must hold before it may leave.
//!
//! Everything a broker would refuse is refused here first: the release lines answer such faults with different codes,
//! and one of them (too many property bytes in a batch on 4.9) destroys other topics' messages instead of refusing.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{
    properties::{Properties, PropertiesBuilder, PropertyError, names},
    record::{self, MAX_BATCH_BYTES, MAX_BODY_BYTES, batch_record_len},
    unique_key::UniqueKey,
};

/// The first version ordinal of the 5.x line; older brokers have no timers.
pub const FIRST_VERSION_WITH_TIMERS: i32 = 413;

/// What a message's id takes among its properties: its name, its digits and what ends them.
const UNIQUE_KEY_BYTES: usize = names::UNIQ_KEY.len() + 32 + 2;

/// The delay levels of 4.x in seconds, level 1 first (`messageDelayLevel`'s default).
const DELAY_LEVELS: [u64; 18] =
    [1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200];

/// A message to be sent.
#[derive(Debug, Clone)]
pub struct Message {
    /// At least one byte, at most 4 MiB; never changed on its way.
    pub body: Bytes,
    /// The sender's properties, without the ones this client adds.
    pub properties: PropertiesBuilder,
    /// Its identity, the same on every try.
    pub unique_key: UniqueKey,
    /// When it was accepted, in milliseconds since 1970.
    pub born_at: i64,
    /// Not to be delivered before this time, in milliseconds since 1970.
    ///
    /// Exact to about a second on 5.x. On 4.x the remaining time is rounded up to one of 18 levels (1 s to 2 h).
    pub deliver_at: Option<i64>,
}

/// A message, or several, that must not leave as they are.
#[derive(Debug, thiserror::Error)]
pub enum Illegal {
    /// A topic name RocketMQ does not accept.
    #[error("topic {0:?} is not a RocketMQ topic name: 1 to 127 of letters, digits, '%', '|', '-', '_'")]
    Topic(String),
    /// An empty body: 5.x fails on it, 4.9 stores it.
    #[error("the body is empty")]
    EmptyBody,
    /// A body beyond what brokers take by default.
    #[error("the body has {0} bytes, {MAX_BODY_BYTES} are allowed")]
    BodyTooBig(usize),
    /// A batch beyond what brokers take by default.
    #[error("the batch takes {0} bytes, {MAX_BATCH_BYTES} are allowed")]
    BatchTooBig(usize),
    /// Brokers drop a delay inside a batch, and a delay on a batch stops every timer of a 5.5.0 broker.
    #[error("a delayed message cannot be part of a batch")]
    DelayInBatch,
    /// Only levels of delay where an exact one is demanded.
    #[error("a RocketMQ 4 broker cannot hold a message back for exactly {0:?}")]
    DelayNotExact(Duration),
    /// A delay beyond the longest level of a 4.x broker.
    #[error("a delay of {0:?} is beyond the two hours a RocketMQ 4 broker can hold a message back")]
    DelayTooLong(Duration),
    /// A property that cannot be sent.
    #[error(transparent)]
    Property(#[from] PropertyError),
}

/// What to do with a delay a 4.x broker can only keep roughly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Levels {
    /// Wait longer: the next of the 18 levels.
    RoundUp,
    /// Send nothing.
    Refuse,
    /// A level whatever the broker's line: the next one, or the longest. For what must be delivered, if not in time.
    Nearest,
}

/// A topic name both release lines accept.
///
/// # Errors
/// [`Illegal::Topic`].
pub fn check_topic(topic: &str) -> Result<(), Illegal> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"%|-_".contains(&byte);
    if (1..=127).contains(&topic.len()) && topic.bytes().all(legal) {
        return Ok(());
    }
    Err(Illegal::Topic(topic.to_owned()))
}

/// What a send request carries.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) body: Bytes,
    /// Encoded; always empty for a batch, whose records carry their own: 4.9 would append them to every record.
    pub(super) properties: Properties,
    pub(super) is_batch: bool,
}

/// Encodes one message as a single send, several as a batch.
///
/// `version` is the broker's version ordinal; it and `levels` decide how a delay is written.
pub(super) fn payload(
    messages: &[Message],
    version: i32,
    levels: Levels,
    now: i64,
) -> Result<Payload, Illegal> {
    for message in messages {
        match message.body.len() {
            0 => return Err(Illegal::EmptyBody),
            len if len > MAX_BODY_BYTES => return Err(Illegal::BodyTooBig(len)),
            _ => {}
        }
    }
    if let [message] = messages {
        let mut properties = message.properties.clone().system(names::UNIQ_KEY, message.unique_key.as_str());
        if let Some(deliver_at) = message.deliver_at.filter(|&at| at > now) {
            // What is left, and not the time of day: the broker's clock need not agree with ours.
            let left = deliver_at.saturating_sub(now).unsigned_abs();
            properties = if version >= FIRST_VERSION_WITH_TIMERS && levels != Levels::Nearest {
                properties.system(names::TIMER_DELAY_MS, &left.to_string())
            } else {
                let delay = Duration::from_millis(left);
                let level = match levels {
                    Levels::Refuse => return Err(Illegal::DelayNotExact(delay)),
                    Levels::RoundUp => delay_level(delay)?,
                    Levels::Nearest => delay_level(delay).unwrap_or(DELAY_LEVELS.len()),
                };
                properties.system(names::DELAY, &level.to_string())
            };
        }
        return Ok(Payload { body: message.body.clone(), properties: properties.build()?, is_batch: false });
    }
    let length =
        |message: &Message| batch_record_len(message.body.len(), message.properties.len() + UNIQUE_KEY_BYTES);
    let bytes = messages.iter().map(length).sum();
    if bytes > MAX_BATCH_BYTES {
        return Err(Illegal::BatchTooBig(bytes));
    }
    let mut body = BytesMut::with_capacity(bytes);
    let mut properties = Vec::new();
    for message in messages {
        if message.deliver_at.is_some() {
            return Err(Illegal::DelayInBatch);
        }
        message.properties.write_with(names::UNIQ_KEY, message.unique_key.as_str(), &mut properties)?;
        record::encode_batch_record(&mut body, 0, &message.body, &properties);
    }
    Ok(Payload { body: body.freeze(), properties: Properties::default(), is_batch: true })
}

/// The body of a send of these messages; `None` when they must not leave.
#[cfg(feature = "fuzzing")]
#[must_use]
pub fn send_body(messages: &[Message]) -> Option<Bytes> {
    payload(messages, super::command::VERSION, Levels::RoundUp, 0).ok().map(|payload| payload.body)
}

/// How long a broker of any line may hold a message back that is to be held back for `delay`.
#[must_use]
pub fn longest_delay(delay: Duration) -> Duration {
    let level = delay_level(delay).ok().map(|level| Duration::from_secs(DELAY_LEVELS[level - 1]));
    level.unwrap_or(delay)
}

/// The lowest level that waits at least this long.
fn delay_level(delay: Duration) -> Result<usize, Illegal> {
    let level = DELAY_LEVELS.iter().position(|&seconds| Duration::from_secs(seconds) >= delay);
    level.map(|index| index + 1).ok_or(Illegal::DelayTooLong(delay))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rocketmq::unique_key::UniqueKeys;

    fn message(body: &'static [u8]) -> Message {
        Message {
            body: Bytes::from_static(body),
            properties: PropertiesBuilder::new(),
            unique_key: UniqueKeys::new().mint(),
            born_at: 1,
            deliver_at: None,
        }
    }

    #[test]
    fn a_batch_carries_no_outer_properties_and_no_delay() {
        let batch = payload(&[message(b"a"), message(b"b")], 513, Levels::RoundUp, 0).unwrap();
        assert!(batch.is_batch && batch.properties.is_empty());
        let delayed = Message { deliver_at: Some(10), ..message(b"c") };
        assert!(matches!(
            payload(&[message(b"a"), delayed], 513, Levels::RoundUp, 0),
            Err(Illegal::DelayInBatch)
        ));
    }

    #[test]
    fn a_delay_is_a_timer_on_5_and_a_level_rounded_up_on_4() {
        let delayed = |at| Message { deliver_at: Some(at), ..message(b"x") };
        let five = payload(&[delayed(61_500)], 513, Levels::RoundUp, 500).unwrap().properties;
        assert_eq!(five.get(names::TIMER_DELAY_MS), Some("61000"));
        assert_eq!(five.get(names::DELAY), None);
        let level = |delay_ms| {
            payload(&[delayed(delay_ms)], 409, Levels::RoundUp, 0).map(|four| {
                assert_eq!(four.properties.get(names::TIMER_DELAY_MS), None, "4.9 would deliver at once");
                four.properties.get(names::DELAY).map(str::to_owned)
            })
        };
        assert_eq!(level(1).unwrap().as_deref(), Some("1"));
        assert_eq!(level(1_001).unwrap().as_deref(), Some("2"));
        assert_eq!(level(7_200_000).unwrap().as_deref(), Some("18"));
        assert!(matches!(level(7_200_001), Err(Illegal::DelayTooLong(_))));
        assert_eq!(level(0).unwrap(), None);
        let refused = payload(&[delayed(5_000)], 409, Levels::Refuse, 0);
        assert!(matches!(refused, Err(Illegal::DelayNotExact(delay)) if delay.as_secs() == 5));
        assert!(payload(&[delayed(5_000)], 513, Levels::Refuse, 0).is_ok());
        for (delay_ms, level) in [(5_001, "3"), (7_200_001, "18")] {
            for version in [409, 513] {
                let nearest = payload(&[delayed(delay_ms)], version, Levels::Nearest, 0).unwrap().properties;
                assert_eq!(nearest.get(names::DELAY), Some(level), "{delay_ms} on {version}");
                assert_eq!(nearest.get(names::TIMER_DELAY_MS), None);
            }
        }
    }

    #[test]
    fn what_a_broker_would_refuse_or_choke_on_never_leaves() {
        assert!(matches!(payload(&[message(b"")], 513, Levels::RoundUp, 0), Err(Illegal::EmptyBody)));
        assert!(matches!(
            payload(&[message(b"a"), message(b"")], 513, Levels::RoundUp, 0),
            Err(Illegal::EmptyBody)
        ));
        let big = Message { body: vec![0; MAX_BODY_BYTES + 1].into(), ..message(b"") };
        assert!(matches!(payload(&[big], 513, Levels::RoundUp, 0), Err(Illegal::BodyTooBig(_))));
        let half = || Message { body: vec![0; MAX_BATCH_BYTES / 2].into(), ..message(b"") };
        assert!(matches!(payload(&[half(), half()], 513, Levels::RoundUp, 0), Err(Illegal::BatchTooBig(_))));
        for topic in ["", "a.b", "a b", "ü", &"a".repeat(128)] {
            assert!(check_topic(topic).is_err(), "{topic}");
        }
        for topic in ["a", "%RETRY%g", "a|b-c_d", &"a".repeat(127)] {
            assert!(check_topic(topic).is_ok(), "{topic}");
        }
    }
}
