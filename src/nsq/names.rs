//! Names of topics and channels, checked once at the border.
//!
//! One rule for both (nsqd's `IsValidTopicName`): one or more of `.`, letters, digits, `_`, `-`, then perhaps
//! `#ephemeral`; 64 bytes in all. Case matters, and nothing is reserved.

use std::{fmt, str::FromStr};

use regex_lite::{Regex, RegexBuilder};

/// The longest name in bytes, `#ephemeral` included.
pub const MAX_NAME_BYTES: usize = 64;

/// What marks a topic or channel that is not kept on disk.
pub const EPHEMERAL: &str = "#ephemeral";

/// A name nsqd does not accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an NSQ name: 1 to 64 of letters, digits, '.', '_', '-', then perhaps '#ephemeral'")]
pub struct InvalidName(String);

/// A topic's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(String);

/// A channel's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelName(String);

macro_rules! name {
    ($name:ident) => {
        impl $name {
            /// The name as NSQ writes it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether it ends in `#ephemeral`.
            #[must_use]
            pub fn is_ephemeral(&self) -> bool {
                self.0.ends_with(EPHEMERAL)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if is_valid(text) { Ok(Self(text.to_owned())) } else { Err(InvalidName(text.to_owned())) }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(TopicName);
name!(ChannelName);

/// A channel of a topic, written `TOPIC/CHANNEL`: no name has a slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChannelPath {
    /// The topic.
    pub topic: TopicName,
    /// The channel.
    pub channel: ChannelName,
}

impl FromStr for ChannelPath {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (topic, channel) = text.split_once('/').ok_or_else(|| InvalidName(text.to_owned()))?;
        Ok(Self { topic: topic.parse()?, channel: channel.parse()? })
    }
}

impl fmt::Display for ChannelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.channel)
    }
}

fn is_valid(name: &str) -> bool {
    let stem = name.strip_suffix(EPHEMERAL).unwrap_or(name);
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    name.len() <= MAX_NAME_BYTES && !stem.is_empty() && stem.bytes().all(legal)
}

/// A regular expression for NSQ names, which matches a name as a whole or not at all.
#[derive(Debug, Clone)]
pub struct TopicPattern(Regex);

impl TopicPattern {
    /// Bytes a compiled pattern may take: repetitions of repetitions would take as many as one lets them.
    const SIZE_MAX: usize = 1 << 20;

    /// Whether this is one of the names meant.
    #[must_use]
    pub fn matches(&self, name: &TopicName) -> bool {
        self.0.is_match(name.as_str())
    }
}

impl FromStr for TopicPattern {
    type Err = regex_lite::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let compile = |pattern: &str| RegexBuilder::new(pattern).size_limit(Self::SIZE_MAX).build();
        // By itself first, for `a)|(b` is none.
        compile(text)?;
        // Anchored, for what is found first is not the longest: `a|ab` finds no more than the `a` of `ab`.
        compile(&format!("^(?:{text})$")).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_nsqds() {
        let longest = "a".repeat(64);
        let longest_ephemeral = format!("{}#ephemeral", "a".repeat(54));
        for name in ["a", ".", "..", "-", "_", "A.b-C_9", "x#ephemeral", &longest, &longest_ephemeral] {
            assert!(name.parse::<TopicName>().is_ok(), "{name}");
        }
        let too_long = "a".repeat(65);
        let too_long_ephemeral = format!("{}#ephemeral", "a".repeat(55));
        for name in [
            "",
            "#ephemeral",
            "a#ephemeral#ephemeral",
            "a#Ephemeral",
            "a b",
            "a\n",
            "ü",
            "a#",
            "a%",
            "a|b",
            &too_long,
            &too_long_ephemeral,
        ] {
            assert!(name.parse::<ChannelName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_pattern_matches_a_name_as_a_whole_or_not_at_all() {
        let matches = |pattern: &str, name: &str| {
            let pattern: TopicPattern = pattern.parse().expect("a pattern");
            pattern.matches(&name.parse().expect("a name"))
        };
        assert!(matches(".*", "orders"));
        assert!(matches("billing[.].*", "billing.eu"));
        assert!(matches("orders|orders[.]v2", "orders.v2"), "although its beginning matches as well");
        assert!(matches("(?i)ORDERS", "orders"));
        assert!(!matches("orders|billing", "orders.v2"));
        assert!(!matches("rders", "orders"));
        assert!(!matches("", "orders"));
    }

    #[test]
    fn a_pattern_that_is_none_or_takes_much_memory_is_refused() {
        for pattern in ["(", "a)|(b", "((((a{4}){99}){91}){9}-)", "((x{1000}){1000}){1000}"] {
            assert!(pattern.parse::<TopicPattern>().is_err(), "{pattern}");
        }
    }
}
