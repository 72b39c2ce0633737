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
        _ => hash_of(key),
    }
}

// Seldom asked for: kept out of the way of what is done for every message.
#[cold]
fn hash_of(key: &[u8]) -> u128 {
    let mut first = [0; 16];
    first.copy_from_slice(&Sha1::digest(key)[..16]);
    u128::from_be_bytes(first)
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

/// A time in decimal digits. Eight at a time, for a relay does this for every message.
fn milliseconds(digits: &[u8]) -> Option<i64> {
    // So many cannot overflow.
    if digits.len() > 18 {
        return None;
    }
    let (eights, rest) = digits.as_chunks::<8>();
    let (mut ms, mut are_digits) = (0_i64, true);
    for eight in eights {
        let digits = u64::from_le_bytes(*eight).wrapping_sub(0x3030_3030_3030_3030);
        // What is no digit is above 9 now, below '0' by borrowing: its highest bit is set, or adding 118 sets it. What is borrowed and
        // carried from there can only make it more that are none.
        are_digits &= (digits | digits.wrapping_add(0x7676_7676_7676_7676)) & 0x8080_8080_8080_8080 == 0;
        // Neighbours become one: by tens, by hundreds, by ten thousands.
        let tens = digits.wrapping_mul(1 + (10 << 8)) >> 8 & 0x00FF_00FF_00FF_00FF;
        let hundreds = tens.wrapping_mul(1 + (100 << 16)) >> 16 & 0x0000_FFFF_0000_FFFF;
        let number = hundreds.wrapping_mul(1 + (10_000 << 32)) >> 32;
        ms = ms.wrapping_mul(100_000_000).wrapping_add(number as i64);
    }
    for byte in rest {
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
    use proptest::prelude::*;

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
        let others = [0, 1, b'-', b'/', b':', b'A', 0x7F, 0x80, 0xB0, 0xFF];
        for (place, other) in (0..18).flat_map(|place| others.map(|other| (place, other))) {
            let mut digits = *b"998877665544332211";
            digits[place] = other;
            assert_eq!(milliseconds(&digits), None, "{digits:?}");
        }
    }

    proptest! {
        #[test]
        fn a_time_is_read_as_it_was_written(ms in 0_i64..1_000_000_000_000_000_000, width in 0_usize..=18) {
            prop_assert_eq!(milliseconds(format!("{ms:0width$}").as_bytes()), Some(ms));
        }
    }

    #[test]
    fn minutes_begin_where_they_end() {
        assert_eq!([minute_of(-1), minute_of(0), minute_of(59_999), minute_of(60_000)], [-1, 0, 0, 1]);
        assert_eq!(start_of(minute_of(1_700_000_012_345)), 1_699_999_980_000);
    }
}
