//! Which messages this gateway stamps for the RocketMQ side of channels that are moved by share.
//!
//! The stamp is part of a message from the moment it is accepted, whatever way it takes from there: in a batch, deferred, or through the
//! spool. It depends on the body and the share alone, so a message that is tried again has the same. Gateways may differ
//! in their shares, as they do while they are started anew one after the other: a message has the stamp that its own gateway gave it, and
//! both sides go by that.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    mapping::{STAMPED, Share, bucket},
    nsq::names::{ChannelName, TopicName},
    rocketmq::properties::PropertiesBuilder,
};

/// Stamps of one topic take no more than this: more would leave too little of what RocketMQ can store beside a message.
const MAX_BYTES: usize = 4 * 1024;

/// How much of which channels' messages is stamped.
#[derive(Debug, Clone, Default)]
pub struct Shares(BTreeMap<TopicName, Stamps>);

/// What the messages of one topic may be stamped with.
#[derive(Debug, Clone, Default)]
pub(super) struct Stamps(Arc<[Stamp]>);

#[derive(Debug)]
struct Stamp {
    /// The first bucket that is not stamped.
    percent: u8,
    property: PropertiesBuilder,
}

/// Shares that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SharesError {
    /// A channel has two.
    #[error("{0} is given twice")]
    Twice(Share),
    /// Two channels would be stamped alike.
    #[error("{share} would be stamped as {other} is, with {}", share.property())]
    Alike {
        /// The one.
        share: Share,
        /// The other.
        other: ChannelName,
    },
    /// A topic has too many.
    #[error("{0} has more shares than its messages can be stamped for")]
    TooMany(TopicName),
}

impl Shares {
    /// Takes shares in percent.
    ///
    /// # Errors
    /// Every one that cannot be.
    pub fn new(shares: impl IntoIterator<Item = (Share, u8)>) -> Result<Self, Vec<SharesError>> {
        let mut by_topic: BTreeMap<TopicName, BTreeMap<String, (ChannelName, Stamp)>> = BTreeMap::new();
        let mut errors = Vec::new();
        for (share, percent) in shares {
            let (channel, name) = (share.channel().clone(), share.property().to_owned());
            let stamps = by_topic.entry(channel.topic).or_default();
            match stamps.get(&name).map(|(other, _)| other.clone()) {
                Some(other) if other == channel.channel => errors.push(SharesError::Twice(share)),
                Some(other) => errors.push(SharesError::Alike { share, other }),
                None => {
                    // The name is legal, whatever the channel is called.
                    let property = PropertiesBuilder::new().user(&name, STAMPED).unwrap_or_default();
                    stamps.insert(name, (channel.channel, Stamp { percent, property }));
                }
            }
        }
        let mut all = BTreeMap::new();
        for (topic, stamps) in by_topic {
            let stamps = Stamps(stamps.into_values().map(|(_, stamp)| stamp).collect());
            if stamps.most_bytes() > MAX_BYTES {
                errors.push(SharesError::TooMany(topic.clone()));
            }
            all.insert(topic, stamps);
        }
        if errors.is_empty() { Ok(Self(all)) } else { Err(errors) }
    }

    pub(super) fn of(&self, topic: &TopicName) -> Stamps {
        self.0.get(topic).cloned().unwrap_or_default()
    }
}

impl Stamps {
    /// The properties of a message with this body.
    pub(super) fn put(&self, properties: &PropertiesBuilder, body: &[u8]) -> PropertiesBuilder {
        let mut stamped = properties.clone();
        if !self.0.is_empty() {
            let bucket = bucket(body);
            for stamp in self.0.iter().filter(|stamp| bucket < u32::from(stamp.percent)) {
                stamped = stamped.and(&stamp.property);
            }
        }
        stamped
    }

    /// The most they add to a message.
    pub(super) fn most_bytes(&self) -> usize {
        self.0.iter().map(|stamp| stamp.property.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(of: &[(&str, u8)]) -> Result<Shares, Vec<SharesError>> {
        Shares::new(of.iter().map(|(channel, percent)| (channel.parse().unwrap(), *percent)))
    }

    fn stamps(of: &[(&str, u8)], body: &[u8]) -> Vec<String> {
        let always = PropertiesBuilder::new().user("nsq_topic", "orders").unwrap();
        let put = shares(of).unwrap().of(&"orders".parse().unwrap()).put(&always, body).build().unwrap();
        put.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn a_message_is_stamped_for_each_channel_whose_share_it_is_in() {
        // In bucket 70.
        let body = b"hello";
        let of = [("orders/billing", 71), ("orders/mail", 70), ("orders/a.b", 100), ("other/x", 100)];
        assert_eq!(stamps(&of, body), ["nsq_topic=orders", "nsq_share_a_b=1", "nsq_share_billing=1"]);
        assert_eq!(stamps(&[("orders/billing", 0)], b""), ["nsq_topic=orders"], "nothing is below 0");
        assert_eq!(stamps(&[("orders/billing", 1)], b"").len(), 2);
    }

    #[test]
    fn who_is_in_a_share_is_in_every_larger_one() {
        for n in 0..2_000 {
            let body = format!("order {n}");
            let ins =
                (0..=100).map(|percent| stamps(&[("orders/billing", percent)], body.as_bytes()).len() - 1);
            let ins: Vec<_> = ins.collect();
            assert!(ins.is_sorted() && ins[0] == 0 && ins[100] == 1, "{body}: {ins:?}");
        }
    }

    #[test]
    fn shares_that_would_be_mixed_up_are_refused() {
        let errors = |of: &[(&str, u8)]| shares(of).unwrap_err();
        assert!(matches!(errors(&[("a/b", 1), ("a/b", 2)])[..], [SharesError::Twice(_)]));
        assert!(matches!(errors(&[("a/b.c", 1), ("a/b-c", 1)])[..], [SharesError::Alike { .. }]));
        assert!(shares(&[("a/b.c", 1), ("b/b-c", 1)]).is_ok(), "of two topics");
        let channels: Vec<String> = (0..200).map(|n| format!("a/channel-{n:020}")).collect();
        let many: Vec<(&str, u8)> = channels.iter().map(|channel| (channel.as_str(), 1)).collect();
        assert!(matches!(errors(&many)[..], [SharesError::TooMany(_)]));
    }
}
