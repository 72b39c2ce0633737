//! What one relay gives nsqd: the messages of a topic, or those of them that are left to a channel that is moved by share.
//!
//! Both are read from the same RocketMQ topic. What a relay keeps in RocketMQ (its group, its record, what it parks) is named after the topic
//! for the one, and after the channel for the other, with `%%` between the two as in [`Names::channel_group`]: no topic, whatever it is
//! called, has such a name.

use std::{fmt, str::FromStr};

use super::{JOURNAL_PREFIX, Names, PARKING_PREFIX, Share, is_taken_in};
use crate::{
    nsq::names::{ChannelPath, EPHEMERAL, TopicName},
    rocketmq::properties::Properties,
};

/// What one relay gives nsqd.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feed {
    /// All messages of a topic, to the topic.
    Topic(TopicName),
    /// What of a topic is not the group's, to a topic of the channel's own.
    Share(Share),
}

impl Feed {
    /// The topic whose messages they are.
    #[must_use]
    pub fn source(&self) -> &TopicName {
        match self {
            Self::Topic(topic) => topic,
            Self::Share(share) => &share.channel().topic,
        }
    }

    /// The NSQ topic they are given to.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        match self {
            Self::Topic(topic) => topic,
            Self::Share(share) => share.topic(),
        }
    }

    /// Whether nsqd is to be given a message. What was taken in from an nsqd is in that nsqd's topic already, and not in the topic of a share.
    #[must_use]
    pub fn has(&self, properties: &Properties) -> bool {
        match self {
            Self::Topic(_) => !is_taken_in(properties),
            Self::Share(share) => !share.is_stamped(properties),
        }
    }
}

impl From<&TopicName> for Feed {
    fn from(topic: &TopicName) -> Self {
        Self::Topic(topic.clone())
    }
}

impl FromStr for Feed {
    type Err = String;

    /// `TOPIC`, or `TOPIC/CHANNEL` for what is left of a share.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            text.parse().map(Self::Share).map_err(|error: super::ShareError| error.to_string())
        } else {
            text.parse().map(Self::Topic).map_err(|error: crate::nsq::names::InvalidName| error.to_string())
        }
    }
}

impl fmt::Display for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(topic) => topic.fmt(f),
            Self::Share(share) => share.fmt(f),
        }
    }
}

impl Names {
    fn feed_name(&self, feed: &Feed) -> String {
        match feed {
            Feed::Topic(topic) => self.rocketmq_topic(topic),
            Feed::Share(share) => {
                let ChannelPath { topic, channel } = share.channel();
                self.channel_group(topic, channel)
            }
        }
    }

    /// The consumer group of a feed's relay.
    #[must_use]
    pub fn feed_group(&self, prefix: &str, feed: &Feed) -> String {
        format!("{prefix}-{}", self.feed_name(feed))
    }

    /// What the relay of this group gives nsqd; `None` for a group that is no relay's.
    #[must_use]
    pub fn feed_of(&self, prefix: &str, group: &str) -> Option<Feed> {
        let name = group.strip_prefix(prefix)?.strip_prefix('-')?;
        let Some((topic, channel)) = name.split_once("%%") else {
            return self.nsq_topic(name).map(Feed::Topic);
        };
        let channel = channel.replace(super::EPHEMERAL_HERE, EPHEMERAL).replace('|', ".").parse().ok()?;
        let feed = Feed::Share(Share::new(ChannelPath { topic: self.nsq_topic(topic)?, channel }).ok()?);
        (self.feed_group(prefix, &feed) == group).then_some(feed)
    }

    /// The RocketMQ topic for messages of a feed that nsqd will never take. No topic is mapped to such a name.
    #[must_use]
    pub fn parking_topic(&self, feed: &Feed) -> String {
        format!("{PARKING_PREFIX}{}", self.feed_name(feed))
    }

    /// The RocketMQ topic in which a feed's relay writes down what nsqd may still lose. No topic is mapped to such a name.
    #[must_use]
    pub fn journal_topic(&self, feed: &Feed) -> String {
        format!("{JOURNAL_PREFIX}{}", self.feed_name(feed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feed_has_names_of_its_own_that_lead_back_to_it() {
        let renamed = Names::new([("orders.v1".parse().unwrap(), "ORDERS".to_owned())]).unwrap();
        let mut groups = std::collections::BTreeSet::new();
        for names in [Names::default(), renamed] {
            groups.clear();
            for text in ["orders.v1", "orders.v1.a.b", "orders.v1/a.b", "orders.v1.a/b", "orders/v1.a.b"] {
                let feed: Feed = text.parse().unwrap();
                assert_eq!(feed.to_string(), text);
                let group = names.feed_group("relay", &feed);
                assert_eq!(names.feed_of("relay", &group), Some(feed), "{group}");
                assert!(groups.insert(group));
            }
        }
        let feed: Feed = "orders/billing".parse().unwrap();
        assert_eq!((feed.source().as_str(), feed.topic().as_str()), ("orders", "orders.billing"));
        assert_eq!(Names::default().feed_group("p", &feed), "p-orders%%billing");
        assert_eq!(Names::default().journal_topic(&feed), "%undrained%orders%%billing");
        assert_eq!(Names::default().feed_of("other", "p-orders"), None);
        assert_eq!(Names::default().feed_of("p", "p-TBW102%%a"), None, "kept under another name");
    }
}
