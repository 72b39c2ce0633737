//! NSQ's names in RocketMQ. The only module that knows both sides.
//!
//! The mapping is total, reversible and free of collisions, because `|` and `%` are legal in RocketMQ's names and never
//! part of NSQ's:
//!
//! | NSQ | RocketMQ |
//! |---|---|
//! | a name RocketMQ accepts | the same |
//! | `.` | `\|` |
//! | `#ephemeral` | `%ephemeral` |
//! | a name RocketMQ reserves | the same behind `%nsq%` |
//!
//! An operator may rename topics. A name that is taken by a rename counts as reserved, so the topic that had it goes behind
//! `%nsq%` too, and no two topics meet.

mod feed;
mod share;

use std::collections::BTreeMap;

pub use self::{
    feed::Feed,
    share::{STAMPED, Share, ShareError, bucket},
};
use crate::{
    nsq::names::{ChannelName, EPHEMERAL, TopicName},
    rocketmq::properties::{Properties, names::UNIQ_KEY},
};

const EPHEMERAL_HERE: &str = "%ephemeral";
const RESERVED_PREFIX: &str = "%nsq%";
const PARKING_PREFIX: &str = "%parked%";
const JOURNAL_PREFIX: &str = "%undrained%";
const AUDIT_PREFIX: &str = "%audit%";

/// The property in which a gateway or an intake keeps the name a producer published to.
pub const NSQ_TOPIC: &str = "nsq_topic";

/// The property that says when a gateway had the whole request a message came with, in milliseconds since 1970.
pub const ACCEPTED_MS: &str = "nsq_accepted_ms";

/// The property that marks a message taken in from nsqd, whose consumers there have it already: see [`taken_in_mark`].
pub const TAKEN_IN: &str = "nsq_intake";

/// The mark of a message: the nsqd, and the message's own unique key. A program that copies properties into a message of its own copies the
/// mark, and not the key, so that message is relayed.
#[must_use]
pub fn taken_in_mark(nsqd: &str, unique_key: &str) -> String {
    format!("{nsqd} {unique_key}")
}

/// Whether a message was taken in from nsqd, and must not go back there.
#[must_use]
pub fn is_taken_in(properties: &Properties) -> bool {
    let [mark, key] = properties.get_each([TAKEN_IN, UNIQ_KEY]);
    is_mark_of(mark, key)
}

/// The same by the two properties that say so: [`TAKEN_IN`] and the unique key.
#[must_use]
pub fn is_mark_of(mark: Option<&[u8]>, key: Option<&[u8]>) -> bool {
    mark.zip(key).is_some_and(|(mark, key)| mark.strip_suffix(key).is_some_and(|nsqd| nsqd.ends_with(b" ")))
}

/// What every channel is called, or at least begins with, through which messages are taken in.
pub const INTAKE_CHANNEL: &str = "nsqbridge-intake";

/// Whether messages are taken in through this channel. The nsqd that has it belongs to old producers, and no relay writes to it.
#[must_use]
pub fn is_intake(channel: &ChannelName) -> bool {
    channel.as_str().starts_with(INTAKE_CHANNEL)
}

/// Topics RocketMQ keeps for itself (`TopicValidator`, 4.9.7 and 5.5.0).
const RESERVED: &[&str] = &[
    "TBW102",
    "SCHEDULE_TOPIC_XXXX",
    "BenchmarkTest",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRACE_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    "CHECKPOINT_TOPIC",
];
const RESERVED_START: &str = "rmq_sys_";
const RESERVED_END: &str = "_REPLY_TOPIC";

fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || name.starts_with(RESERVED_START) || name.ends_with(RESERVED_END)
}

/// Topic names with an operator's renames; without any by default.
#[derive(Debug, Clone, Default)]
pub struct Names {
    renamed: BTreeMap<TopicName, String>,
    back: BTreeMap<String, TopicName>,
}

/// A rename that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenameError {
    /// RocketMQ does not accept the new name, or keeps it for itself.
    #[error(
        "{topic} cannot become {to:?}: a RocketMQ topic is named with 1 to 127 of letters, digits, '%', '|', '-', '_', and is none \
         of RocketMQ's own"
    )]
    Illegal {
        /// The NSQ topic.
        topic: TopicName,
        /// The new name.
        to: String,
    },
    /// Two topics would share a RocketMQ topic.
    #[error("{topic} cannot become {to:?}: {other} does")]
    Taken {
        /// The NSQ topic.
        topic: TopicName,
        /// The new name.
        to: String,
        /// Whose it is.
        other: TopicName,
    },
}

impl Names {
    /// Takes renames: NSQ topic, RocketMQ topic. Of a topic renamed twice the later counts.
    ///
    /// # Errors
    /// Every rename that cannot be.
    pub fn new(renames: impl IntoIterator<Item = (TopicName, String)>) -> Result<Self, Vec<RenameError>> {
        let renamed: BTreeMap<_, _> = renames.into_iter().collect();
        let mut back = BTreeMap::new();
        let mut errors = Vec::new();
        for (topic, to) in &renamed {
            let (topic, to) = (topic.clone(), to.clone());
            if !may_be_chosen(&to) {
                errors.push(RenameError::Illegal { topic, to });
                continue;
            }
            match back.get(&to).cloned() {
                Some(other) => errors.push(RenameError::Taken { topic, to, other }),
                None => drop(back.insert(to, topic)),
            }
        }
        if errors.is_empty() { Ok(Self { renamed, back }) } else { Err(errors) }
    }

    /// What an operator renamed the topic to.
    #[must_use]
    pub fn rename_of(&self, topic: &TopicName) -> Option<&str> {
        self.renamed.get(topic).map(String::as_str)
    }

    /// The RocketMQ topic that holds an NSQ topic's messages; unrenamed at most 69 characters.
    #[must_use]
    pub fn rocketmq_topic(&self, topic: &TopicName) -> String {
        if let Some(name) = self.rename_of(topic) {
            return name.to_owned();
        }
        let name = topic.as_str().replace(EPHEMERAL, EPHEMERAL_HERE).replace('.', "|");
        let taken = is_reserved(&name) || self.back.contains_key(&name);
        if taken { format!("{RESERVED_PREFIX}{name}") } else { name }
    }

    /// The NSQ topic whose messages a RocketMQ topic holds; `None` for a topic no NSQ name maps to.
    #[must_use]
    pub fn nsq_topic(&self, topic: &str) -> Option<TopicName> {
        if let Some(name) = self.back.get(topic) {
            return Some(name.clone());
        }
        let name = topic.strip_prefix(RESERVED_PREFIX).unwrap_or(topic);
        let parsed: TopicName = name.replace(EPHEMERAL_HERE, EPHEMERAL).replace('|', ".").parse().ok()?;
        (self.rocketmq_topic(&parsed) == topic).then_some(parsed)
    }

    /// The consumer group of a topic's relay.
    #[must_use]
    pub fn relay_group(&self, prefix: &str, topic: &TopicName) -> String {
        format!("{prefix}-{}", self.rocketmq_topic(topic))
    }

    /// The RocketMQ topic in which gateways and relays of a topic write down what they have counted. No topic is mapped to such a
    /// name.
    #[must_use]
    pub fn audit_topic(&self, topic: &TopicName) -> String {
        format!("{AUDIT_PREFIX}{}", self.rocketmq_topic(topic))
    }

    /// The consumer group that stands for a channel: `TOPIC%%CHANNEL`. No mapped name holds `%%`, so no two channels meet.
    #[must_use]
    pub fn channel_group(&self, topic: &TopicName, channel: &ChannelName) -> String {
        let channel = channel.as_str().replace(EPHEMERAL, EPHEMERAL_HERE).replace('.', "|");
        format!("{}%%{channel}", self.rocketmq_topic(topic))
    }
}

/// RocketMQ's limit for the name of a consumer group.
pub const MAX_GROUP_BYTES: usize = 120;

impl Names {
    /// The group whose committed offsets are a channel's barrier: its old consumer has what lies below. Nobody consumes with it.
    #[must_use]
    pub fn barrier_group(&self, topic: &TopicName, channel: &ChannelName) -> String {
        format!("nsqbridge-barrier-{}", self.channel_group(topic, channel))
    }

    /// The group that says, by being there, which consumer group a channel with a barrier became: a checksum of its name is in this.
    #[must_use]
    pub fn became_group(&self, topic: &TopicName, channel: &ChannelName, group: &str) -> String {
        let [begin, end] = self.became_groups(topic, channel);
        format!("{begin}{:08x}{end}", crc32fast::hash(group.as_bytes()))
    }

    /// What the names of all these groups of a channel begin and end with.
    #[must_use]
    pub fn became_groups(&self, topic: &TopicName, channel: &ChannelName) -> [String; 2] {
        ["nsqbridge-to-".to_owned(), format!("-{}", self.channel_group(topic, channel))]
    }

    /// The group that says, by being there, that a rollback has begun since the channel's last cutover.
    #[must_use]
    pub fn returning_group(&self, topic: &TopicName, channel: &ChannelName) -> String {
        format!("nsqbridge-returning-{}", self.channel_group(topic, channel))
    }

    /// The group that says, by being there, that a channel was cut over by share.
    #[must_use]
    pub fn share_group(&self, topic: &TopicName, channel: &ChannelName) -> String {
        format!("nsqbridge-share-{}", self.channel_group(topic, channel))
    }

    /// The group that says, by being there, that a channel is done with and is not to be created again.
    #[must_use]
    pub fn completed_group(&self, topic: &TopicName, channel: &ChannelName) -> String {
        format!("nsqbridge-completed-{}", self.channel_group(topic, channel))
    }

    /// What the names of all these groups of a topic begin with; the channel follows.
    #[must_use]
    pub fn completed_prefix(&self, topic: &TopicName) -> String {
        format!("nsqbridge-completed-{}%%", self.rocketmq_topic(topic))
    }

    /// The group that says, by being there, that messages of a topic are taken in from nsqd.
    #[must_use]
    pub fn intake_group(&self, topic: &TopicName) -> String {
        format!("nsqbridge-intake-{}", self.rocketmq_topic(topic))
    }

    /// The group that says, by being there, that a topic was paused on an nsqd by whoever moves one of its channels, and by nobody else. A
    /// checksum of what the nsqd calls itself is in its name.
    #[must_use]
    pub fn held_group(&self, topic: &TopicName, nsqd: &str) -> String {
        let nsqd = crc32fast::hash(nsqd.as_bytes());
        format!("nsqbridge-held-{nsqd:08x}-{}", self.rocketmq_topic(topic))
    }

    /// The group in whose name queues are locked by whoever moves one of a topic's channels.
    #[must_use]
    pub fn driver_group(&self, topic: &TopicName) -> String {
        format!("nsqbridge-driver-{}", self.rocketmq_topic(topic))
    }
}

/// Whether an operator may name a topic so: RocketMQ accepts it, and means nothing by it.
fn may_be_chosen(name: &str) -> bool {
    (1..=127).contains(&name.len())
        && name.bytes().all(is_legal)
        && !name.contains("%%")
        && !name.ends_with('%')
        && [RESERVED_PREFIX, PARKING_PREFIX, JOURNAL_PREFIX, AUDIT_PREFIX]
            .iter()
            .all(|ours| !name.starts_with(ours))
        && !name.starts_with("%RETRY%")
        && !name.starts_with("%DLQ%")
        && !is_reserved(name)
}

/// A consumer group RocketMQ does not accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a consumer group is named with 1 to {MAX_GROUP_BYTES} of letters, digits, '%', '|', '-', '_'")]
pub struct InvalidGroup;

/// Whether RocketMQ accepts a consumer group of this name.
///
/// # Errors
/// [`InvalidGroup`].
pub fn check_group(name: &str) -> Result<(), InvalidGroup> {
    let fits = (1..=MAX_GROUP_BYTES).contains(&name.len()) && name.bytes().all(is_legal);
    if fits { Ok(()) } else { Err(InvalidGroup) }
}

fn is_legal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"%|-_".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rocketmq::message::check_topic;

    fn any_name() -> impl Strategy<Value = String> {
        let reserved = proptest::sample::select(RESERVED).prop_map(str::to_owned);
        prop_oneof![
            8 => "[.a-zA-Z0-9_-]{1,64}",
            4 => "[.a-zA-Z0-9_-]{1,54}#ephemeral",
            2 => reserved,
            1 => "rmq_sys_[.a-z]{0,20}(#ephemeral)?",
            1 => "[.a-z]{0,20}_REPLY_TOPIC",
            1 => "(nsq|ephemeral|RETRY)[.]?",
        ]
    }

    proptest! {
        #[test]
        fn every_nsq_name_has_a_legal_unreserved_name_of_its_own(name in any_name()) {
            let topic: TopicName = name.parse().unwrap();
            let names = Names::default();
            let mapped = names.rocketmq_topic(&topic);
            prop_assert!(check_topic(&mapped).is_ok(), "{}", mapped);
            prop_assert!(!is_reserved(&mapped) || mapped.starts_with(RESERVED_PREFIX));
            prop_assert!(!mapped.starts_with("%RETRY%") && !mapped.starts_with("%DLQ%"));
            prop_assert_eq!(names.nsq_topic(&mapped), Some(topic));
            if check_topic(&name).is_ok() && !is_reserved(&name) {
                prop_assert_eq!(mapped, name);
            }
        }

        #[test]
        fn no_two_rocketmq_names_stand_for_one_nsq_name(topic in "(%nsq%|%RETRY%|%)?[|a-zA-Z0-9_.%-]{0,30}(%ephemeral)?") {
            if let Some(parsed) = Names::default().nsq_topic(&topic) {
                prop_assert_eq!(Names::default().rocketmq_topic(&parsed), topic);
            }
        }
    }

    #[test]
    fn names_map_as_documented() {
        let names = Names::default();
        let map = |name: &str| names.rocketmq_topic(&name.parse().unwrap());
        assert_eq!(map("orders"), "orders");
        assert_eq!(map("orders.v2#ephemeral"), "orders|v2%ephemeral");
        assert_eq!(map("TBW102"), "%nsq%TBW102");
        assert_eq!(names.nsq_topic("%nsq%orders"), None);
        assert_eq!(names.nsq_topic("%RETRY%group"), None);
    }

    #[test]
    fn renamed_topics_displace_others_and_none_meet() {
        let names = |renames: &[(&str, &str)]| {
            Names::new(renames.iter().map(|(topic, to)| (topic.parse().unwrap(), (*to).to_owned())))
        };
        let moved = names(&[("orders.v1", "ORDERS")]).unwrap();
        let map = |name: &str| moved.rocketmq_topic(&name.parse().unwrap());
        assert_eq!([map("orders.v1"), map("ORDERS"), map("orders")], ["ORDERS", "%nsq%ORDERS", "orders"]);
        assert_eq!(moved.nsq_topic("ORDERS"), Some("orders.v1".parse().unwrap()));
        assert_eq!(moved.nsq_topic("%nsq%ORDERS"), Some("ORDERS".parse().unwrap()));
        assert_eq!(moved.nsq_topic("orders|v1"), None, "nothing is kept there any more");
        let swapped = names(&[("a", "b"), ("b", "a")]).unwrap();
        assert_eq!(swapped.nsq_topic("a"), Some("b".parse().unwrap()));
        for (renames, refused) in [
            (&[("a", "x"), ("b", "x")][..], 1),
            (
                &[
                    ("a", "x.y"),
                    ("b", ""),
                    ("c", "TBW102"),
                    ("d", "%RETRY%g"),
                    ("e", "%nsq%a"),
                    ("f", "%audit%a"),
                ],
                6,
            ),
        ] {
            assert_eq!(names(renames).unwrap_err().len(), refused, "{renames:?}");
        }
    }

    proptest! {
        #[test]
        fn renamed_names_stay_reversible_and_free_of_collisions(
            renames in proptest::collection::btree_map("[ab.]{1,2}", "[ab|%]{1,3}", 0..4),
            name in "[ab.]{1,2}",
            other in "[ab.]{1,2}",
            channels in ("[a%-]{1,3}", "[a-]{1,2}"),
        ) {
            let parsed = renames.iter().map(|(topic, to)| (topic.parse().unwrap(), to.clone()));
            let Ok(names) = Names::new(parsed) else { return Ok(()) };
            let (name, other): (TopicName, TopicName) = (name.parse().unwrap(), other.parse().unwrap());
            let mapped = names.rocketmq_topic(&name);
            prop_assert_eq!(names.nsq_topic(&mapped), Some(name.clone()));
            prop_assert_eq!(name == other, mapped == names.rocketmq_topic(&other));
            if let (Ok(one), Ok(two)) = (channels.0.parse(), channels.1.parse()) {
                let same = name == other && one == two;
                prop_assert_eq!(same, names.channel_group(&name, &one) == names.channel_group(&other, &two));
            }
        }
    }
}
