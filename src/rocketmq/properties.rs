//! Message properties: the name-value pairs beside a body, in RocketMQ's own text form.
//!
//! ```text
//! name \x01 value \x02 name \x01 value \x02 ...
//! ```
//!
//! Reading is as forgiving as the broker's own parser, because whatever is stored must be readable. Writing
//! is strict: the form has no escapes, so a separator inside a text would damage the pairs beside it, the
//! broker silently drops pairs without name or value, and many names steer the broker itself.
//! [`PropertiesBuilder`] refuses all three.
//!
//! Source: `MessageDecoder.string2messageProperties` and `MessageConst`.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use memchr::memchr;

pub use names::is_reserved;

/// The longest encoded properties this client sends, in bytes.
///
/// The stored length is a signed 16-bit number that also counts what the broker adds. RocketMQ 4.9.7 does not
/// check it for the records of a batch: a record that passes 32,767 is answered with success, yet the broker
/// then skips about 32 KiB of its commit log, acknowledged messages of *other topics* included, and truncates
/// the log there at the next start. Half of that leaves room for every addition known.
pub const MAX_PROPERTIES_BYTES: usize = 16 * 1024;

pub mod names;

const NAME_END: u8 = 1;
const PAIR_END: u8 = 2;

/// Encoded properties of a message, cheap to clone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(Bytes);

impl Properties {
    /// Takes properties as they came from the wire; any bytes will do.
    #[must_use]
    pub fn from_encoded(encoded: Bytes) -> Self {
        Self(encoded)
    }

    /// The bytes for the wire.
    #[must_use]
    pub fn encoded(&self) -> &Bytes {
        &self.0
    }

    /// Whether there are no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of `name`; of several the last, as the broker reads it. `None` also when the value is not
    /// UTF-8.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.pairs().filter(|(found, _)| *found == name.as_bytes()).last()?;
        str::from_utf8(value).ok()
    }

    /// The values of several names in one pass, as they were stored: for what is asked of every message.
    #[must_use]
    pub fn get_each<const N: usize>(&self, names: [&str; N]) -> [Option<&[u8]>; N] {
        let mut values = [None; N];
        for (found, value) in self.pairs() {
            if let Some(n) = names.iter().position(|name| name.as_bytes() == found) {
                values[n] = Some(value);
            }
        }
        values
    }

    /// Names and values in stored order; of a name that comes twice the later value counts.
    ///
    /// What is not UTF-8 is replaced, and what the broker's parser drops is left out: pairs without
    /// separator, name or value. A `\x01` inside a value stays.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        self.pairs().map(|(name, value)| (String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
    }

    fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.0[..];
        let pieces = std::iter::from_fn(move || {
            let end = memchr(PAIR_END, rest).unwrap_or(rest.len());
            let (piece, behind) = rest.split_at_checked(end).filter(|_| !rest.is_empty())?;
            rest = behind.get(1..).unwrap_or_default();
            Some(piece)
        });
        pieces.filter_map(|pair| {
            let end = memchr(NAME_END, pair)?;
            let (name, value) = (&pair[..end], &pair[end + 1..]);
            (!name.is_empty() && !value.is_empty()).then_some((name, value))
        })
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Collects properties for a message to be sent. Of a name given twice the later value counts.
///
/// Cheap to clone: the messages of one request carry the same, and share it until one is given more.
#[derive(Clone, Debug, Default)]
pub struct PropertiesBuilder {
    encoded: Arc<Vec<u8>>,
}

impl PropertiesBuilder {
    /// No properties yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What another builder had taken, as it was encoded.
    pub(crate) fn from_encoded(encoded: &[u8]) -> Self {
        Self { encoded: Arc::new(encoded.to_vec()) }
    }

    /// What was taken so far, encoded.
    pub(crate) fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// Adds a property of the application's own.
    ///
    /// # Errors
    /// When the name is reserved, or name or value cannot be carried.
    pub fn user(self, name: &str, value: &str) -> Result<Self, PropertyError> {
        if is_reserved(name) {
            return Err(PropertyError::Reserved { name: name.to_owned() });
        }
        check(name, value)?;
        Ok(self.put(name, value))
    }

    /// Sets the search keys: one, or several separated by spaces.
    ///
    /// # Errors
    /// When they are empty or hold a separator.
    pub fn keys(self, keys: &str) -> Result<Self, PropertyError> {
        check(names::KEYS, keys)?;
        Ok(self.system(names::KEYS, keys))
    }

    /// Sets the tag.
    ///
    /// # Errors
    /// When it is empty or holds a separator.
    pub fn tag(self, tag: &str) -> Result<Self, PropertyError> {
        check(names::TAGS, tag)?;
        Ok(self.system(names::TAGS, tag))
    }

    /// Adds a property that this client answers for; the caller vouches for the value.
    pub(crate) fn system(self, name: &'static str, value: &str) -> Self {
        debug_assert_eq!(check(name, value), Ok(()));
        self.put(name, value)
    }

    /// Adds what another builder has taken.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        Arc::make_mut(&mut self.encoded).extend_from_slice(&other.encoded);
        self
    }

    fn put(mut self, name: &str, value: &str) -> Self {
        put(Arc::make_mut(&mut self.encoded), name, value);
        self
    }

    /// Writes what was taken so far and one more system property over `out`: what [`Self::system`] and [`Self::build`] would make,
    /// for many messages in one place.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub(crate) fn write_with(
        &self,
        name: &'static str,
        value: &str,
        out: &mut Vec<u8>,
    ) -> Result<(), PropertyError> {
        out.clear();
        out.extend_from_slice(&self.encoded);
        put(out, name, value);
        check_length(out.len())
    }

    /// The bytes taken so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.encoded.len()
    }

    /// Whether there are no properties yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }

    /// Finishes.
    ///
    /// # Errors
    /// When the whole is longer than [`MAX_PROPERTIES_BYTES`].
    pub fn build(self) -> Result<Properties, PropertyError> {
        check_length(self.encoded.len())?;
        Ok(Properties(Arc::unwrap_or_clone(self.encoded).into()))
    }
}

fn put(encoded: &mut Vec<u8>, name: &str, value: &str) {
    encoded.reserve(name.len() + value.len() + 2);
    encoded.extend_from_slice(name.as_bytes());
    encoded.push(NAME_END);
    encoded.extend_from_slice(value.as_bytes());
    encoded.push(PAIR_END);
}

fn check_length(bytes: usize) -> Result<(), PropertyError> {
    if bytes > MAX_PROPERTIES_BYTES { Err(PropertyError::TooLong { bytes }) } else { Ok(()) }
}

fn check(name: &str, value: &str) -> Result<(), PropertyError> {
    let separator = |text: &str| text.bytes().find(|byte| matches!(*byte, NAME_END | PAIR_END));
    if name.is_empty() {
        return Err(PropertyError::EmptyName { value: value.to_owned() });
    }
    if let Some(byte) = separator(name) {
        return Err(PropertyError::SeparatorInName { name: name.to_owned(), byte });
    }
    if value.is_empty() {
        return Err(PropertyError::EmptyValue { name: name.to_owned() });
    }
    if let Some(byte) = separator(value) {
        return Err(PropertyError::SeparatorInValue { name: name.to_owned(), byte });
    }
    Ok(())
}

/// A property that RocketMQ cannot carry as given. Always the caller's; a repeat does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    /// The name means something to RocketMQ itself.
    #[error("the property name {name:?} is reserved by RocketMQ")]
    Reserved {
        /// The name.
        name: String,
    },
    /// The broker drops pairs without a name.
    #[error("a property has no name (its value is {value:?}); RocketMQ would drop it")]
    EmptyName {
        /// The value that came with it.
        value: String,
    },
    /// The broker drops pairs without a value.
    #[error("the property {name:?} has no value; RocketMQ would drop it")]
    EmptyValue {
        /// The name.
        name: String,
    },
    /// The name holds a byte that separates properties.
    #[error("the property name {name:?} holds the byte {byte:#04x}, by which RocketMQ separates properties")]
    SeparatorInName {
        /// The name.
        name: String,
        /// The byte, 1 or 2.
        byte: u8,
    },
    /// The value holds a byte that separates properties.
    #[error(
        "the value of property {name:?} holds the byte {byte:#04x}, by which RocketMQ separates properties"
    )]
    SeparatorInValue {
        /// The name.
        name: String,
        /// The byte, 1 or 2.
        byte: u8,
    },
    /// The whole is longer than [`MAX_PROPERTIES_BYTES`].
    #[error("the properties take {bytes} bytes, more than the {MAX_PROPERTIES_BYTES} that are safe to send")]
    TooLong {
        /// Encoded length.
        bytes: usize,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(text: &'static str) -> Properties {
        Properties::from_encoded(Bytes::from_static(text.as_bytes()))
    }

    fn listed(properties: &Properties) -> Vec<(String, String)> {
        properties.iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
    }

    #[test]
    fn reading_drops_what_the_broker_drops_and_keeps_the_rest() {
        let properties = encoded("a\x011\x02\x02b\x01\x02\x01x\x02lonely\x02k\x01p\x01q\x02a\x012");
        let expected = [("a", "1"), ("k", "p\x01q"), ("a", "2")];
        assert_eq!(listed(&properties), expected.map(|(name, value)| (name.into(), value.into())));
        assert_eq!(properties.get("a"), Some("2"), "the last counts");
        assert_eq!(properties.get("k"), Some("p\x01q"));
        assert_eq!(properties.get("b"), None);
        assert_eq!(properties.get("lonely"), None);
        assert_eq!(format!("{:?}", encoded("a\x011\x02")), r#"{"a": "1"}"#);
    }

    #[test]
    fn a_value_that_is_not_utf8_is_seen_but_not_given_as_text() {
        let properties = Properties::from_encoded(Bytes::from_static(b"a\x01\xFF\x02"));
        assert_eq!(properties.get("a"), None);
        assert_eq!(listed(&properties), [("a".to_owned(), "\u{FFFD}".to_owned())]);
    }

    #[test]
    fn what_would_be_lost_is_refused_and_named() {
        let error = |name: &str, value: &str| PropertiesBuilder::new().user(name, value).unwrap_err();
        assert_eq!(error("", "v"), PropertyError::EmptyName { value: "v".into() });
        assert_eq!(error("n", ""), PropertyError::EmptyValue { name: "n".into() });
        assert_eq!(error("n\x01", "v"), PropertyError::SeparatorInName { name: "n\x01".into(), byte: 1 });
        assert_eq!(error("n", "v\x02"), PropertyError::SeparatorInValue { name: "n".into(), byte: 2 });
        assert!(PropertiesBuilder::new().keys("").is_err());
        assert!(PropertiesBuilder::new().tag("a\x01b").is_err());
    }

    #[test]
    fn the_limit_is_on_the_encoded_whole() {
        let of = |bytes: usize| PropertiesBuilder::new().user("n", &"v".repeat(bytes - 3)).unwrap().build();
        assert_eq!(of(MAX_PROPERTIES_BYTES).unwrap().encoded().len(), MAX_PROPERTIES_BYTES);
        let bytes = MAX_PROPERTIES_BYTES + 1;
        assert_eq!(of(bytes), Err(PropertyError::TooLong { bytes }));
    }

    #[test]
    fn keys_tag_and_system_properties_go_under_their_own_names() {
        let builder = PropertiesBuilder::new().keys("k1 k2").unwrap().tag("t").unwrap();
        let properties = builder.system(names::UNIQ_KEY, "0A").user("u", "ü").unwrap().build().unwrap();
        assert_eq!(
            properties.encoded().as_ref(),
            "KEYS\x01k1 k2\x02TAGS\x01t\x02UNIQ_KEY\x010A\x02u\x01ü\x02".as_bytes()
        );
    }

    proptest! {
        #[test]
        fn what_is_built_is_read(
            pairs in proptest::collection::vec(("[^\x01\x02]{1,9}", "[^\x01\x02]{1,9}"), 0..6),
        ) {
            let mut builder = PropertiesBuilder::new();
            for (name, value) in &pairs {
                builder = builder.user(&format!("x{name}"), value).unwrap();
            }
            let properties = Properties::from_encoded(builder.build().unwrap().encoded().clone());
            let prefixed = |(name, value): &(String, String)| (format!("x{name}"), value.clone());
            let expected: Vec<_> = pairs.iter().map(prefixed).collect();
            prop_assert_eq!(listed(&properties), expected);
            for (name, _) in &pairs {
                let last = pairs.iter().rfind(|(other, _)| other == name).map(|(_, value)| value.as_str());
                prop_assert_eq!(properties.get(&format!("x{name}")), last);
            }
        }

        #[test]
        fn any_bytes_are_readable(bytes in proptest::collection::vec(0u8..5, 0..40)) {
            let properties = Properties::from_encoded(bytes.into());
            for (name, _) in properties.iter() {
                let _ = properties.get(&name);
            }
        }
    }
}
