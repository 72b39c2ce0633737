//! A channel that is moved by share: some of its messages to a consumer group, the rest to its old consumer.
//!
//! Neither side's client can leave a message to the other: whoever is given one and acknowledges it has had it, whoever does not is given it
//! again. So the side is decided before anybody is given anything, once for each message, by the gateway that accepts it, and written
//! on it. The group takes what is stamped, and a relay of its own brings the rest to an NSQ topic of the channel's own,
//! `TOPIC.CHANNEL`. Whatever two gateways think of the share, a message has one stamp or none, and is on one side.

use std::{fmt, str::FromStr};

use crate::{
    nsq::names::{ChannelPath, TopicName},
    rocketmq::properties::Properties,
};

/// What the property begins with that stamps a message; the channel follows.
const STAMP: &str = "nsq_share_";
/// The value of a stamp.
pub const STAMPED: &str = "1";

/// A channel that is, or may be, moved by share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share {
    channel: ChannelPath,
    topic: TopicName,
    property: String,
}

/// A channel that cannot be moved by share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// It is not written as a channel is.
    #[error("TOPIC/CHANNEL is accepted, not {0:?}")]
    Malformed(String),
    /// It goes with its last consumer.
    #[error("{0} is ephemeral: nothing would be kept for a consumer that is away")]
    Ephemeral(ChannelPath),
    /// nsqd would not take the topic of its own.
    #[error("{of} would need an NSQ topic {}.{}, which has more than 64 characters", of.topic, of.channel)]
    TooLong {
        /// The channel.
        of: ChannelPath,
    },
}

impl Share {
    /// The share of a channel.
    ///
    /// # Errors
    /// See [`ShareError`].
    pub fn new(channel: ChannelPath) -> Result<Self, ShareError> {
        if channel.topic.is_ephemeral() || channel.channel.is_ephemeral() {
            return Err(ShareError::Ephemeral(channel));
        }
        let Ok(topic) = format!("{}.{}", channel.topic, channel.channel).parse() else {
            return Err(ShareError::TooLong { of: channel });
        };
        let legal = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
        let property = STAMP.chars().chain(channel.channel.as_str().chars().map(legal)).collect();
        Ok(Self { channel, topic, property })
    }

    /// The channel.
    #[must_use]
    pub fn channel(&self) -> &ChannelPath {
        &self.channel
    }

    /// The NSQ topic that gets what is not stamped.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The property that stamps a message for the group: a name that RocketMQ's SQL filters can speak of.
    #[must_use]
    pub fn property(&self) -> &str {
        &self.property
    }

    /// Whether a message is the group's, and not the old consumer's.
    #[must_use]
    pub fn is_stamped(&self, properties: &Properties) -> bool {
        properties.get(&self.property) == Some(STAMPED)
    }
}

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        Self::new(text.parse().map_err(|_| ShareError::Malformed(text.to_owned()))?)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.channel.fmt(f)
    }
}

/// Where a message stands among 0 to 99: it is in a share of so many percent when this is below. It is made of the body alone, so that
/// anybody can tell, a repeat falls where the first did, and who is in at 5 % is in at 25 %.
#[must_use]
pub fn bucket(body: &[u8]) -> u32 {
    crc32fast::hash(body) % 100
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(channel: &str) -> Result<Share, ShareError> {
        channel.parse()
    }

    #[test]
    fn a_bucket_is_the_checksum_of_zip_and_png_in_hundreds() {
        // CRC-32 of "123456789" is 0xCBF43926, as every implementation is tried with.
        assert_eq!(bucket(b"123456789"), 3_421_780_262 % 100);
        assert_eq!([bucket(b""), bucket(b"a"), bucket(b"hello")], [0, 7, 70]);
    }

    #[test]
    fn buckets_are_about_equal() {
        let mut messages = [0_i32; 100];
        for n in 0..100_000 {
            messages[bucket(format!("order {n}").as_bytes()) as usize] += 1;
        }
        // Five standard deviations.
        let off: Vec<_> = messages.iter().filter(|count| (**count - 1_000).abs() > 160).collect();
        assert!(off.is_empty(), "{off:?}");
    }

    #[test]
    fn names_are_legal_where_they_are_used() {
        let billing = share("orders.v1/billing-eu.2").unwrap();
        assert_eq!(billing.property(), "nsq_share_billing_eu_2");
        assert_eq!(billing.topic().as_str(), "orders.v1.billing-eu.2");
        assert_eq!(billing.to_string(), "orders.v1/billing-eu.2");
        let [half, whole] = [31, 32].map(|length| "a".repeat(length));
        assert!(share(&format!("{half}/{whole}")).is_ok());
        assert!(matches!(share(&format!("{whole}/{whole}")), Err(ShareError::TooLong { .. })));
        assert!(matches!(share("a#ephemeral/b"), Err(ShareError::Ephemeral(_))));
        assert!(matches!(share("a/b#ephemeral"), Err(ShareError::Ephemeral(_))));
        for malformed in ["", "a", "a/", "/b", "a/b/c", "a/b=5"] {
            assert!(matches!(share(malformed), Err(ShareError::Malformed(_))), "{malformed}");
        }
    }

    #[test]
    fn a_message_is_the_groups_by_its_stamp_alone() {
        let billing = share("orders/billing").unwrap();
        let stamped = |encoded: &'static str| billing.is_stamped(&Properties::from_encoded(encoded.into()));
        assert!(stamped("a\u{1}b\u{2}nsq_share_billing\u{1}1\u{2}"));
        assert!(
            !stamped("nsq_share_billing\u{1}10\u{2}")
                && !stamped("nsq_share_mail\u{1}1\u{2}")
                && !stamped("")
        );
    }
}
