//! Unique keys: the ids a producer gives its messages, kept through every repeat of a send.
//!
//! RocketMQ indexes the key, so a message can be found by it, and a reader can tell a repeat from a second
//! message. Any text would do; ours has RocketMQ's own shape, because its tools read sender and time out of a
//! key.
//!
//! ```text
//! bytes  RocketMQ                                this client
//! 0..4   IPv4 address                            random, drawn with the minter
//! 4..6   process id, low 16 bits                 the same
//! 6..10  hash of the class loader                random start + bits 16..48 of the mint's number
//! 10..14 ms since the month began                the same, months beginning as in UTC-12
//! 14..16 counter, which wraps at 65,536          bits 0..16 of the mint's number
//! ```
//!
//! One minter never repeats itself within 2^48 keys, even when the clock steps back: the mint's number alone
//! sees to that. Two minters, in two processes or one after the other in a restarted one, collide only if 32
//! random bits, the process id, the second random number give or take what each has minted and the
//! millisecond of the mint all coincide.
//!
//! RocketMQ takes months in the reader's own time zone, and the tools of 4.9 search from the time they read
//! out of a key. Counted from the westernmost zone, that time is never later than the true one, so they find
//! the message everywhere.
//!
//! Source: `MessageClientIDSetter`.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
const WESTERNMOST_ZONE_MS: u64 = DAY_MS / 2;

/// A message's own id: 32 upper-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UniqueKey([u8; 32]);

impl UniqueKey {
    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("hex digits are ASCII")
    }

    /// The digits as one number.
    #[must_use]
    pub fn number(&self) -> u128 {
        number_of(&self.0)
    }
}

impl UniqueKey {
    /// A key read back; `None` for anything but 32 upper-case hex digits.
    #[must_use]
    pub fn from_digits(digits: &[u8]) -> Option<Self> {
        let digits: [u8; 32] = digits.try_into().ok()?;
        digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F')).then_some(Self(digits))
    }
}

impl fmt::Display for UniqueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for UniqueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Mints [`UniqueKey`]s; share one among all threads of a process.
#[derive(Debug)]
pub struct UniqueKeys {
    sender: u32,
    process: u16,
    first_series: u32,
    minted: AtomicU64,
}

impl Default for UniqueKeys {
    fn default() -> Self {
        Self::new()
    }
}

impl UniqueKeys {
    /// A minter unlike any other.
    #[must_use]
    pub fn new() -> Self {
        // The standard library's hash seeds come from the operating system. A generator seeded from clock and
        // thread could repeat itself in containers started from one image at one time.
        let random = RandomState::new().hash_one(0);
        Self {
            sender: (random >> 32) as u32,
            process: std::process::id() as u16,
            first_series: random as u32,
            minted: AtomicU64::new(0),
        }
    }

    /// A key that was never minted before. Does not allocate, block or fail.
    pub fn mint(&self) -> UniqueKey {
        // A clock before 1970 is as good as any: uniqueness does not rest on it.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.key(self.minted.fetch_add(1, Ordering::Relaxed), now.as_millis() as u64)
    }

    fn key(&self, number: u64, now_ms: u64) -> UniqueKey {
        let series = self.first_series.wrapping_add((number >> 16) as u32);
        let fields = u128::from(self.sender) << 96
            | u128::from(self.process) << 80
            | u128::from(series) << 48
            | u128::from(ms_since_month_start(now_ms.saturating_sub(WESTERNMOST_ZONE_MS))) << 16
            | u128::from(number as u16);
        UniqueKey(upper_hex(fields))
    }
}

/// The number that 32 hex digits write, in either case; of other bytes some number. Eight digits at a time, for it is done for
/// every message.
#[must_use]
pub fn number_of(digits: &[u8; 32]) -> u128 {
    let (eights, _) = digits.as_chunks::<8>();
    eights.iter().fold(0, |number, eight| {
        let digits = u64::from_be_bytes(*eight);
        // Letters have bit 6 set, and their low bits count from 1.
        let letters = (digits >> 6) & 0x0101_0101_0101_0101;
        let nibbles = (digits & 0x0F0F_0F0F_0F0F_0F0F) + 9 * letters;
        let bytes = (nibbles | nibbles >> 4) & 0x00FF_00FF_00FF_00FF;
        let pairs = (bytes | bytes >> 8) & 0x0000_FFFF_0000_FFFF;
        number << 32 | u128::from((pairs | pairs >> 16) as u32)
    })
}

fn upper_hex(fields: u128) -> [u8; 32] {
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(fields.to_be_bytes()) {
        for (digit, nibble) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
            *digit = b"0123456789ABCDEF"[usize::from(nibble)];
        }
    }
    digits
}

/// From milliseconds since 1970 to milliseconds since that month's start; at most 31 days' worth.
fn ms_since_month_start(ms: u64) -> u32 {
    // The proleptic Gregorian calendar counted from 1 March 0000, so that a leap day ends its year (Hinnant's
    // method).
    let days = ms / DAY_MS + 719_468;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5;
    (day * DAY_MS + ms % DAY_MS) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_keys_from_several_threads_are_all_different() {
        let keys = UniqueKeys::new();
        let mut minted = std::thread::scope(|scope| {
            let minters =
                [(); 4].map(|()| scope.spawn(|| (0..250_000).map(|_| keys.mint()).collect::<Vec<_>>()));
            minters.map(|minter| minter.join().unwrap()).concat()
        });
        minted.sort_unstable();
        minted.dedup();
        assert_eq!(minted.len(), 1_000_000);
    }

    #[test]
    fn minters_of_one_process_differ() {
        let (one, other) = (UniqueKeys::new(), UniqueKeys::new());
        assert_ne!(one.key(0, 0), other.key(0, 0));
    }

    #[test]
    fn a_clock_that_stands_still_does_not_repeat_a_key() {
        let keys = UniqueKeys { sender: 0, process: 0, first_series: u32::MAX, minted: AtomicU64::new(0) };
        let series = |number| keys.key(number, 0).as_str()[12..20].to_owned();
        assert_eq!([series(0), series(65_535), series(65_536)], ["FFFFFFFF", "FFFFFFFF", "00000000"]);
        assert_ne!(keys.key(0, 0), keys.key(65_536, 0));
    }

    #[test]
    fn the_layout_is_rocketmqs() {
        let keys =
            UniqueKeys { sender: 0x0A00_0001, process: 0xBEEF, first_series: 0x1234_5678, minted: 0.into() };
        // 2023-11-14 22:13:20 UTC is 13 days, 10:13:20 into the month in UTC-12.
        let key = keys.key(0xABCD, 1_700_000_000_000);
        let ms = ((13 * 24 + 10) * 3_600 + 13 * 60 + 20) * 1_000;
        assert_eq!(key.as_str(), format!("0A000001BEEF12345678{ms:08X}ABCD"));
        assert_eq!(key.to_string(), key.as_str());
    }

    #[test]
    fn months_begin_on_their_first() {
        for (first_of_month, name) in [
            (0, "1970-01"),
            (951_868_800, "2000-03, after a leap day"),
            (1_709_251_200, "2024-03, after a leap day"),
            (1_740_787_200, "2025-03"),
            (1_798_761_600, "2027-01"),
            (4_107_542_400, "2100-03, no leap year"),
        ] {
            assert_eq!(ms_since_month_start(first_of_month * 1_000), 0, "{name}");
            assert_eq!(ms_since_month_start(first_of_month * 1_000 + 5), 5, "{name}");
        }
        assert_eq!(ms_since_month_start(951_868_800_000 - 1), 29 * DAY_MS as u32 - 1);
        assert_eq!(ms_since_month_start(1_740_787_200_000 - 1), 28 * DAY_MS as u32 - 1);
    }
}
