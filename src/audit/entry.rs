//! What the audit knows a message by: the minute it was accepted in, and its id.

use sha1::{Digest, Sha1};

use crate::{
    mapping::{ACCEPTED_MS, TAKEN_IN, is_mark_of},
    rocketmq::{properties::names, record::StoredMessage, unique_key::number_of},
};

const MINUTE_MS: i64 = 60_000;
/// A time of acceptance further than this from the time of storage is none of a gateway's.
const BELIEVED_WITHIN_MS: i64 = 30 * 24 * 60 * MINUTE_MS;

/// A message, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Minutes since 1970.
    pub minute: i64,
    /// Its unique key as a number; see [`id_of`].
    pub id: u128,
}

/// The minute of a time in milliseconds since 1970.
#[must_use]
pub fn minute_of(ms: i64) -> i64 {
    ms.div_euclid(MINUTE_MS)
}

/// When a minute begins, in milliseconds since 1970.
#[must_use]
pub fn start_of(minute: i64) -> i64 {
    minute.saturating_mul(MINUTE_MS)
}

/// The number behind a unique key. Keys of 32 hex digits, as gateways mint them, are their number; of any other text it is a
/// hash, so that its name cannot be told from the number.
#[must_use]
pub fn id_of(key: impl AsRef<[u8]>) -> u128 {
    let key = key.as_ref();
    match <&[u8; 32]>::try_from(key) {
        // Without a way out at the first that is none: the compiler then looks at all of them at once.
        Ok(digits) if digits.iter().fold(true, |all, digit| all & digit.is_ascii_hexdigit()) => {
            number_of(digits)
        }
        _ => {
            let mut first = [0; 16];
            first.copy_from_slice(&Sha1::digest(key)[..16]);
            u128::from_be_bytes(first)
        }
    }
}

/// Whose id it is: keys of one gateway process begin alike, and rise from there ([`crate::rocketmq::unique_key`]).
#[must_use]
pub fn minter_of(id: u128) -> u64 {
    (id >> 80) as u64
}

/// An id as RocketMQ's tools write it.
#[must_use]
pub fn name_of(id: u128) -> String {
    format!("{id:032X}")
}

impl Entry {
    /// What a stored message is counted as; none for what was taken in from nsqd, for no gateway has told of it and no relay sends it. One
    /// that no gateway stored counts in the minute it was stored in; one without a key by its place on the broker's disk.
    #[must_use]
    pub fn of(message: &StoredMessage) -> Option<Self> {
        // In one pass: a relay asks it of every message.
        let [mark, key, accepted] = message.properties.get_each([TAKEN_IN, names::UNIQ_KEY, ACCEPTED_MS]);
        if is_mark_of(mark, key) {
            return None;
        }
        let stored = message.store_timestamp;
        let accepted = accepted.and_then(milliseconds);
        let accepted = accepted.filter(|ms| ms.abs_diff(stored) < BELIEVED_WITHIN_MS.unsigned_abs());
        let id = match key {
            Some(key) => id_of(key),
            None => id_of(key_of(message)),
        };
        Some(Self { minute: minute_of(accepted.unwrap_or(stored)), id })
    }
}

fn milliseconds(digits: &[u8]) -> Option<i64> {
    // So many cannot overflow; and no way out at the first that is none, for a relay does this for every message.
    let (mut ms, mut are_digits) = (0_i64, digits.len() <= 18);
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        are_digits &= digit < 10;
        ms = ms.wrapping_mul(10).wrapping_add(i64::from(digit));
    }
    are_digits.then_some(ms)
}

/// What a stored message is named by: its key, or its place on the broker's disk.
#[must_use]
pub fn key_of(message: &StoredMessage) -> String {
    let place = || format!("{}/{:X}", message.store_host, message.physical_offset);
    message.properties.get(names::UNIQ_KEY).map_or_else(place, str::to_owned)
}

/// Whether RocketMQ held a stored message back.
#[must_use]
pub fn was_deferred(message: &StoredMessage) -> bool {
    let marks = [names::TIMER_DELAY_MS, names::TIMER_DELIVER_MS, names::DELAY];
    message.properties.get_each(marks).iter().any(Option::is_some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rocketmq::unique_key::UniqueKeys;

    #[test]
    fn a_minted_key_is_its_number_and_any_other_text_has_one() {
        let key = UniqueKeys::new().mint();
        assert_eq!(key.number(), id_of(key.as_str()));
        assert_eq!(name_of(key.number()), key.as_str());
        assert_eq!(id_of("0000000000000000000000000000002a"), 42);
        assert_eq!(id_of("0123456789abcdefFEDCBA9876543210"), 0x0123_4567_89AB_CDEF_FEDC_BA98_7654_3210);
        assert_ne!(id_of("+0000000000000000000000000000002"), 2);
        assert_ne!(id_of("one"), id_of("other"));
    }

    #[test]
    fn a_time_is_digits_and_nothing_else() {
        assert_eq!(milliseconds(b"1700000012345"), Some(1_700_000_012_345));
        for text in ["-1", "1e3", " 1", "99999999999999999999", "\u{e9}"] {
            assert_eq!(milliseconds(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn minutes_begin_where_they_end() {
        assert_eq!([minute_of(-1), minute_of(0), minute_of(59_999), minute_of(60_000)], [-1, 0, 0, 1]);
        assert_eq!(start_of(minute_of(1_700_000_012_345)), 1_699_999_980_000);
    }
}
