//! One spooled message as bytes, and finding messages among bytes that may be damaged.
//!
//! ```text
//! magic 4 | payload length 4 | sequence 8 | CRC of these 16: 4 | CRC of the payload 4 | payload
//! payload: version 1 | id 32 | accepted_ms 8 | deliver_at 8 | spooled_ms 8 | properties' length 4 | properties | body
//! ```
//!
//! Numbers are big-endian. The head has a checksum of its own, so that a damaged payload costs one message: its length can still be
//! believed. Where a head is damaged, the next one that is whole is looked for: and it must be believable, for a body may hold what looks
//! like a message.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::rocketmq::{Message, properties::PropertiesBuilder, unique_key::UniqueKey};

const MAGIC: u32 = u32::from_be_bytes(*b"NSPL");
/// Bytes before the payload.
pub(super) const HEAD: usize = 24;
const VERSION: u8 = 1;
const FIXED: usize = 1 + 32 + 8 + 8 + 8 + 4;
/// No message takes less.
pub(super) const LEAST: usize = HEAD + FIXED;
/// Far beyond what a publish can have: a length above it is damage.
const MAX_PAYLOAD: usize = 8 << 20;
const AT_ONCE: i64 = i64::MIN;

/// A message in the spool.
#[derive(Debug, Clone)]
pub(in crate::gateway) struct Spooled {
    pub(in crate::gateway) message: Message,
    /// When it was put there, in milliseconds since 1970.
    pub(in crate::gateway) spooled_ms: i64,
}

/// What stands at a place.
#[derive(Debug)]
pub(super) enum Found {
    /// A message, and the bytes it takes.
    Message { sequence: u64, spooled: Box<Spooled>, bytes: usize },
    /// Bytes that are no message; of a message whose head is whole the sequence is known.
    Damaged { sequence: Option<u64>, bytes: usize },
    /// Nothing more, or not the whole of it.
    End,
}

/// Appends a message.
pub(super) fn encode(sequence: u64, spooled: &Spooled, out: &mut BytesMut) {
    let Message { body, properties, unique_key, born_at, deliver_at } = &spooled.message;
    let start = out.len();
    out.put_bytes(0, HEAD);
    out.put_u8(VERSION);
    out.put_slice(unique_key.as_str().as_bytes());
    out.put_i64(*born_at);
    out.put_i64(deliver_at.unwrap_or(AT_ONCE));
    out.put_i64(spooled.spooled_ms);
    out.put_u32(properties.len() as u32);
    out.put_slice(properties.encoded());
    out.put_slice(body);
    let payload = &out[start + HEAD..];
    let (length, crc) = (payload.len() as u32, crc32fast::hash(payload));
    let mut head = [0; HEAD];
    let mut cursor = &mut head[..];
    cursor.put_u32(MAGIC);
    cursor.put_u32(length);
    cursor.put_u64(sequence);
    let sum = crc32fast::hash(&head[..16]);
    head[16..20].copy_from_slice(&sum.to_be_bytes());
    head[20..].copy_from_slice(&crc.to_be_bytes());
    out[start..start + HEAD].copy_from_slice(&head);
}

/// The head at the beginning of `bytes`: sequence, length and checksum of the payload.
fn head(bytes: &[u8]) -> Option<(u64, usize, u32)> {
    let head: &[u8; HEAD] = bytes.first_chunk()?;
    let mut fields = &head[..];
    let magic = fields.get_u32();
    let length = fields.get_u32() as usize;
    let sequence = fields.get_u64();
    let (sum, crc) = (fields.get_u32(), fields.get_u32());
    let whole =
        magic == MAGIC && sum == crc32fast::hash(&head[..16]) && (FIXED..=MAX_PAYLOAD).contains(&length);
    whole.then_some((sequence, length, crc))
}

/// How many bytes a message needs, if its head stands at the beginning.
pub(super) fn needed(bytes: &[u8]) -> Option<usize> {
    head(bytes).map(|(_, length, _)| HEAD + length)
}

/// What stands at the beginning of `bytes`; `last` when nothing comes behind them. A head counts if `believed` takes its sequence at its
/// place among the bytes.
pub(super) fn next(bytes: &Bytes, last: bool, believed: impl Fn(usize, u64) -> bool) -> Found {
    if bytes.is_empty() {
        return Found::End;
    }
    let head_at = |at: usize| head(&bytes[at..]).filter(|(sequence, ..)| believed(at, *sequence));
    let Some((sequence, length, crc)) = head_at(0) else {
        // Damage up to the next head. One may begin in the last few bytes, of which more will come.
        let behind = (1..bytes.len()).find(|&at| head_at(at).is_some());
        let kept = if last { 0 } else { HEAD.min(bytes.len()) };
        return match behind.unwrap_or(bytes.len() - kept) {
            0 => Found::End,
            bytes => Found::Damaged { sequence: None, bytes },
        };
    };
    let bytes_needed = HEAD + length;
    if bytes.len() < bytes_needed {
        // The end of the file cut it off, or more bytes are to come.
        return if last {
            Found::Damaged { sequence: Some(sequence), bytes: bytes.len() }
        } else {
            Found::End
        };
    }
    let payload = bytes.slice(HEAD..bytes_needed);
    let decoded = if crc32fast::hash(&payload) == crc { decode(payload) } else { None };
    match decoded {
        Some(spooled) => Found::Message { sequence, spooled: Box::new(spooled), bytes: bytes_needed },
        None => Found::Damaged { sequence: Some(sequence), bytes: bytes_needed },
    }
}

fn decode(mut payload: Bytes) -> Option<Spooled> {
    if payload.len() < FIXED || payload.get_u8() != VERSION {
        return None;
    }
    let unique_key = UniqueKey::from_digits(&payload.split_to(32))?;
    let (born_at, deliver_at, spooled_ms) = (payload.get_i64(), payload.get_i64(), payload.get_i64());
    let length = payload.get_u32() as usize;
    if length > payload.len() {
        return None;
    }
    let properties = PropertiesBuilder::from_encoded(&payload.split_to(length));
    let deliver_at = (deliver_at != AT_ONCE).then_some(deliver_at);
    let message = Message { body: payload, properties, unique_key, born_at, deliver_at };
    Some(Spooled { message, spooled_ms })
}

/// Reads bytes to their end; how many were messages, and how many damage.
#[cfg(feature = "fuzzing")]
pub(crate) fn scan(bytes: &[u8]) -> (usize, usize) {
    let (mut rest, mut messages, mut damaged) = (Bytes::copy_from_slice(bytes), 0, 0);
    loop {
        match next(&rest, true, |_, _| true) {
            Found::Message { bytes, .. } => {
                messages += bytes;
                rest.advance(bytes);
            }
            Found::Damaged { bytes, .. } => {
                damaged += bytes;
                rest.advance(bytes);
            }
            Found::End => return (messages, damaged),
        }
    }
}

/// Reads a payload, and writes it again.
#[cfg(feature = "fuzzing")]
pub(crate) fn rewritten(payload: &[u8]) -> Option<Vec<u8>> {
    let spooled = decode(Bytes::copy_from_slice(payload))?;
    let mut out = BytesMut::new();
    encode(0, &spooled, &mut out);
    Some(out[HEAD..].to_vec())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rocketmq::unique_key::UniqueKeys;

    pub(in crate::gateway::spool) fn spooled(body: Vec<u8>, deliver_at: Option<i64>) -> Spooled {
        let properties = PropertiesBuilder::new().user("nsq_topic", "t").unwrap().keys("a b").unwrap();
        let unique_key = UniqueKeys::new().mint();
        Spooled {
            message: Message { body: body.into(), properties, unique_key, born_at: 7, deliver_at },
            spooled_ms: 9,
        }
    }

    fn same(one: &Spooled, other: &Spooled) -> bool {
        let (a, b) = (&one.message, &other.message);
        a.body == b.body
            && a.properties.encoded() == b.properties.encoded()
            && (a.unique_key, a.born_at, a.deliver_at) == (b.unique_key, b.born_at, b.deliver_at)
            && one.spooled_ms == other.spooled_ms
    }

    fn all(bytes: Bytes) -> (Vec<(u64, Spooled)>, usize) {
        let (mut rest, mut found, mut damaged) = (bytes, Vec::new(), 0);
        loop {
            match next(&rest, true, |_, _| true) {
                Found::Message { sequence, spooled, bytes } => {
                    found.push((sequence, *spooled));
                    rest.advance(bytes);
                }
                Found::Damaged { bytes, .. } => {
                    damaged += 1;
                    rest.advance(bytes);
                }
                Found::End => return (found, damaged),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bodies in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 1..200), any::<Option<i32>>()), 1..10)) {
            let messages: Vec<_> = bodies.into_iter().map(|(body, due)| spooled(body, due.map(i64::from))).collect();
            let mut out = BytesMut::new();
            for (n, message) in messages.iter().enumerate() {
                encode(n as u64, message, &mut out);
            }
            let (found, damaged) = all(out.freeze());
            prop_assert_eq!(damaged, 0);
            prop_assert_eq!(found.len(), messages.len());
            for (n, (sequence, read)) in found.iter().enumerate() {
                prop_assert_eq!(*sequence, n as u64);
                prop_assert!(same(read, &messages[n]));
            }
        }

        #[test]
        fn a_damaged_byte_costs_one_message_and_is_noticed(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..60), 2..8),
            at in any::<prop::sample::Index>(), flip in 1_u8..,
        ) {
            let mut out = BytesMut::new();
            for (n, body) in bodies.iter().enumerate() {
                encode(n as u64, &spooled(body.clone(), None), &mut out);
            }
            let at = at.index(out.len());
            out[at] ^= flip;
            let (found, damaged) = all(out.freeze());
            prop_assert_eq!(damaged, 1);
            prop_assert_eq!(found.len(), bodies.len() - 1);
            for (sequence, read) in found {
                prop_assert_eq!(&read.message.body[..], &bodies[sequence as usize][..]);
            }
        }

        #[test]
        fn any_bytes_are_read_to_their_end(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let (found, damaged) = all(bytes.clone().into());
            prop_assert!(found.is_empty() && (damaged > 0 || bytes.is_empty()));
        }
    }
}
