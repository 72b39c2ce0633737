//! Message records: what a pull answers with, and what a batch is made of.
//!
//! ```text
//! stored  total u32 | magic | body CRC | queue u32 | flag | queue offset u64 | physical offset u64 | sys flag
//!         | born ms u64 | born host | store ms u64 | store host | reconsume times | prepared offset u64
//!         | body: len u32 + bytes | topic: len u8 (v2: u16) + bytes | properties: len i16 + bytes
//! batched total u32 | magic 0 | CRC 0 | flag | body: len u32 + bytes | properties: len i16 + bytes
//!         a host is its address, 4 or 16 bytes as the sys flag says, and its port u32; all big-endian
//! ```
//!
//! A pull moves the reader's offset past everything in the answer. RocketMQ's own clients drop the rest of an
//! answer at the first record they cannot read, and so lose it without a word. Here every such record is a
//! [`RecordError`] that says where it lies, and nothing after it is handed out.
//!
//! Source: `MessageDecoder`, `MessageExtEncoder`, `MessageSysFlag`, `MessageVersion`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};

use super::compression::{Compressor, DecompressError, MAX_DECOMPRESSED_BYTES, decompress};
use super::properties::Properties;

/// The longest body of a single send, in bytes, with a broker's default `maxMessageSize`.
pub const MAX_BODY_BYTES: usize = 4_194_304;

/// The longest encoded batch, in bytes, every record's [`batch_record_len`] counted, with a broker's default
/// `maxMessageSize`.
pub const MAX_BATCH_BYTES: usize = 4_194_304;

const MAGIC_V1: i32 = -626_843_481;
/// Written for topics longer than 127 bytes, which only retry and dead-letter topics can be.
const MAGIC_V2: i32 = -626_843_477;
/// Fills the end of a commit-log file.
const MAGIC_BLANK: i32 = -875_286_124;

const COMPRESSED: i32 = 1;
const BORN_HOST_V6: i32 = 1 << 4;
const STORE_HOST_V6: i32 = 1 << 5;
const NEED_UNWRAP: i32 = 1 << 6;
const INNER_BATCH: i32 = 1 << 7;

/// A message as the broker holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// The topic; the messages of one answer share it.
    pub topic: Arc<str>,
    /// The queue within topic and broker.
    pub queue_id: i32,
    /// The message's place in its queue.
    pub queue_offset: i64,
    /// The message's place in the broker's commit log, in bytes.
    pub physical_offset: i64,
    /// The application's own flag.
    pub flag: i32,
    /// RocketMQ's flag as stored, less the "compressed" bit: [`Self::body`] is not.
    pub sys_flag: i32,
    /// When the producer made it, in milliseconds since 1970, by the producer's clock.
    pub born_timestamp: i64,
    /// Where the producer connected from.
    pub born_host: SocketAddr,
    /// When the broker stored it, in milliseconds since 1970, by the broker's clock.
    pub store_timestamp: i64,
    /// The broker that stored it first.
    pub store_host: SocketAddr,
    /// How often a consumer group has sent it back.
    pub reconsume_times: i32,
    /// Where the prepared half of a transaction lies; 0 outside transactions.
    pub prepared_transaction_offset: i64,
    /// The payload, decompressed. One that was stored plain shares the pulled buffer and keeps all of it in
    /// memory.
    pub body: Bytes,
    /// Names and values beside the payload; shares the pulled buffer.
    pub properties: Properties,
}

#[cfg(test)]
impl StoredMessage {
    /// The first message of `t`/0, from nowhere and of no time.
    pub(crate) fn for_tests(body: impl Into<Bytes>, properties: Properties) -> Self {
        let host = SocketAddr::from(([127, 0, 0, 1], 1));
        Self {
            topic: "t".into(),
            queue_id: 0,
            queue_offset: 0,
            physical_offset: 0,
            flag: 0,
            sys_flag: 0,
            born_timestamp: 0,
            born_host: host,
            store_timestamp: 0,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: body.into(),
            properties,
        }
    }
}

/// A record that cannot be handed out, and where it lies as far as the record itself tells.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} cannot be read: {problem}", Place(self))]
pub struct RecordError {
    /// The queue it names.
    pub queue_id: Option<i32>,
    /// The offset it names within that queue.
    pub queue_offset: Option<i64>,
    /// The commit-log offset it names.
    pub physical_offset: Option<i64>,
    /// Why not.
    pub problem: RecordProblem,
    /// The record as it came, up to the end it announces.
    pub bytes: Bytes,
}

/// What is wrong with a record. None goes away by repeating the pull, unless the bytes were damaged on the
/// way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordProblem {
    /// The bytes end before the record does.
    #[error("it ends early: {needed} more bytes announced, {left} left")]
    Truncated {
        /// Bytes the next part takes.
        needed: usize,
        /// Bytes there are.
        left: usize,
    },
    /// A length below zero. On 4.9.7 this is what properties beyond 32,767 bytes in a batch leave behind.
    #[error("its {part} has the length {length}")]
    NegativeLength {
        /// Which length.
        part: &'static str,
        /// What it says.
        length: i64,
    },
    /// The parts do not fill the record.
    #[error("its parts end {unread} bytes before its total size of {total}")]
    TotalSize {
        /// The announced size.
        total: usize,
        /// What is left over.
        unread: usize,
    },
    /// The filler at the end of a commit-log file, which no pull should give.
    #[error("it is the blank end of a commit-log file")]
    EndOfFile,
    /// Not a record of a known version.
    #[error("its magic number is {0}, not that of a message")]
    Magic(i32),
    /// Many messages in one record, as batch topics of RocketMQ 5 hold them.
    #[error("it is an inner batch (sys flag {sys_flag:#x}), which this client does not support")]
    InnerBatch {
        /// The whole flag.
        sys_flag: i32,
    },
    /// A port that is none.
    #[error("a host in it has port {0}")]
    Port(i32),
    /// The body is not the one that was stored.
    #[error("its body has checksum {computed:#010x}, stored was {stored:#010x}")]
    Crc {
        /// What the broker noted.
        stored: i32,
        /// What the body has.
        computed: i32,
    },
    /// Compressed in a way RocketMQ does not define.
    #[error("its body is compressed by the unknown method {0}")]
    UnknownCompressor(u8),
    /// The compressed body is no good.
    #[error("its body is {0}")]
    Body(DecompressError),
    /// The topic is not text.
    #[error("its topic is not UTF-8")]
    Topic,
}

impl From<TryGetError> for RecordProblem {
    fn from(error: TryGetError) -> Self {
        Self::Truncated { needed: error.requested, left: error.available }
    }
}

/// How an error message names a record.
struct Place<'a>(&'a RecordError);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.queue_id, self.0.queue_offset, self.0.physical_offset) {
            (Some(queue), Some(offset), Some(physical)) => {
                write!(f, "the record of queue {queue} at offset {offset} (commit log {physical})")
            }
            _ => f.write_str("a record without a legible place"),
        }
    }
}

/// Splits the body of a pull answer into records.
///
/// One item per record. It **stops after the first error**: what lies behind is not contiguous with what came
/// before.
#[must_use]
pub fn decode_records(body: Bytes) -> Records {
    Records { rest: body, topic: Arc::from("") }
}

/// See [`decode_records`].
#[derive(Debug, Clone)]
pub struct Records {
    rest: Bytes,
    /// The last record's: mostly the next one's as well.
    topic: Arc<str>,
}

impl Iterator for Records {
    type Item = Result<StoredMessage, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let start = self.rest.clone();
        let decoded = decode_next(&mut self.rest, &mut self.topic).map_err(|problem| {
            self.rest.clear();
            locate(start, problem)
        });
        Some(decoded)
    }
}

impl std::iter::FusedIterator for Records {}

/// Reads a place from its fixed position, but only behind a magic number that makes it one.
fn locate(record: Bytes, problem: RecordProblem) -> RecordError {
    let i32_at = |at: usize| record.get(at..)?.first_chunk().map(|bytes| i32::from_be_bytes(*bytes));
    let i64_at = |at: usize| record.get(at..)?.first_chunk().map(|bytes| i64::from_be_bytes(*bytes));
    let legible = matches!(i32_at(4), Some(MAGIC_V1 | MAGIC_V2));
    RecordError {
        queue_id: i32_at(12).filter(|_| legible),
        queue_offset: i64_at(20).filter(|_| legible),
        physical_offset: i64_at(28).filter(|_| legible),
        problem,
        bytes: i32_at(0)
            .and_then(|size| usize::try_from(size).ok())
            .filter(|size| (1..=record.len()).contains(size))
            .map_or_else(|| record.clone(), |size| record.slice(..size)),
    }
}

fn decode_next(rest: &mut Bytes, topic: &mut Arc<str>) -> Result<StoredMessage, RecordProblem> {
    let total = length("total size", rest.clone().try_get_i32()?)?;
    let mut record = take(rest, total)?;
    record.try_get_i32()?;
    let wide_topic = match record.try_get_i32()? {
        MAGIC_V1 => false,
        MAGIC_V2 => true,
        MAGIC_BLANK => return Err(RecordProblem::EndOfFile),
        other => return Err(RecordProblem::Magic(other)),
    };
    let stored_crc = record.try_get_i32()?;
    let queue_id = record.try_get_i32()?;
    let flag = record.try_get_i32()?;
    let queue_offset = record.try_get_i64()?;
    let physical_offset = record.try_get_i64()?;
    let sys_flag = record.try_get_i32()?;
    if sys_flag & (INNER_BATCH | NEED_UNWRAP) != 0 {
        return Err(RecordProblem::InnerBatch { sys_flag });
    }
    let born_timestamp = record.try_get_i64()?;
    let born_host = host(&mut record, sys_flag & BORN_HOST_V6 != 0)?;
    let store_timestamp = record.try_get_i64()?;
    let store_host = host(&mut record, sys_flag & STORE_HOST_V6 != 0)?;
    let reconsume_times = record.try_get_i32()?;
    let prepared_transaction_offset = record.try_get_i64()?;
    let body_len = length("body", record.try_get_i32()?)?;
    let stored_body = take(&mut record, body_len)?;
    let topic_len =
        if wide_topic { length("topic", record.try_get_i16()?)? } else { record.try_get_u8()?.into() };
    let topic_name = take(&mut record, topic_len)?;
    let properties_len = length("properties", record.try_get_i16()?)?;
    let properties = take(&mut record, properties_len)?;
    if !record.is_empty() {
        return Err(RecordProblem::TotalSize { total, unread: record.len() });
    }
    let computed = body_crc(&stored_body);
    if computed != stored_crc {
        return Err(RecordProblem::Crc { stored: stored_crc, computed });
    }
    if topic.as_bytes() != &topic_name[..] {
        *topic = Arc::from(str::from_utf8(&topic_name).map_err(|_| RecordProblem::Topic)?);
    }
    Ok(StoredMessage {
        topic: Arc::clone(topic),
        queue_id,
        queue_offset,
        physical_offset,
        flag,
        sys_flag: sys_flag & !COMPRESSED,
        born_timestamp,
        born_host,
        store_timestamp,
        store_host,
        reconsume_times,
        prepared_transaction_offset,
        body: plain_body(stored_body, sys_flag)?,
        properties: Properties::from_encoded(properties),
    })
}

fn length(part: &'static str, length: impl Into<i64>) -> Result<usize, RecordProblem> {
    let length = length.into();
    usize::try_from(length).map_err(|_| RecordProblem::NegativeLength { part, length })
}

fn take(bytes: &mut Bytes, len: usize) -> Result<Bytes, RecordProblem> {
    if len > bytes.len() {
        return Err(RecordProblem::Truncated { needed: len, left: bytes.len() });
    }
    Ok(bytes.split_to(len))
}

fn host(record: &mut Bytes, v6: bool) -> Result<SocketAddr, RecordProblem> {
    let address = match v6 {
        true => IpAddr::from(record.try_get_u128()?.to_be_bytes()),
        false => IpAddr::from(record.try_get_u32()?.to_be_bytes()),
    };
    let port = record.try_get_i32()?;
    let port = u16::try_from(port).map_err(|_| RecordProblem::Port(port))?;
    Ok(SocketAddr::new(address, port))
}

fn plain_body(stored: Bytes, sys_flag: i32) -> Result<Bytes, RecordProblem> {
    // Like Java, which leaves an empty body alone whatever the flag says.
    if sys_flag & COMPRESSED == 0 || stored.is_empty() {
        return Ok(stored);
    }
    let compressor = Compressor::from_sys_flag(sys_flag).map_err(RecordProblem::UnknownCompressor)?;
    decompress(compressor, &stored, MAX_DECOMPRESSED_BYTES).map_err(RecordProblem::Body)
}

/// The checksum that the broker computes over the body as it stores it, that is still compressed. Java keeps
/// it positive.
fn body_crc(stored: &[u8]) -> i32 {
    (crc32fast::hash(stored) & 0x7FFF_FFFF) as i32
}

/// The bytes one record takes in a batch.
#[must_use]
pub const fn batch_record_len(body_len: usize, properties_len: usize) -> usize {
    22 + body_len + properties_len
}

/// Appends one record of a `SEND_BATCH_MESSAGE` body.
///
/// The broker fills in the checksum itself. A record has no sys flag, so the body must not be compressed, and
/// the broker ignores delays among its properties, which are given as they are encoded.
///
/// # Panics
/// When the body is longer than an `i32` tells or the properties are longer than an `i16` does: a caller that
/// keeps to [`MAX_BATCH_BYTES`] and takes its properties from a builder or a record cannot get there, and a
/// length cut to fit would damage other messages in the broker.
pub fn encode_batch_record(buf: &mut BytesMut, flag: i32, body: &[u8], properties: &[u8]) {
    let total = batch_record_len(body.len(), properties.len());
    buf.reserve(total);
    buf.put_i32(i32::try_from(total).expect("a batch is limited to 4 MiB"));
    buf.put_i32(0);
    buf.put_i32(0);
    buf.put_i32(flag);
    buf.put_i32(body.len() as i32);
    buf.put_slice(body);
    put_properties(buf, properties);
}

/// Appends a record as a broker stores and sends it: the inverse of [`decode_records`], for testing against
/// scripted brokers.
///
/// The body goes out as it is; with the "compressed" bit (1) in `sys_flag` it must be compressed already. The
/// bits for IPv6 hosts and the record's version follow from hosts and topic.
///
/// # Panics
/// When a part is longer than its length field can tell.
pub fn encode_stored(buf: &mut BytesMut, message: &StoredMessage) {
    let v6_bits = if message.born_host.is_ipv6() { BORN_HOST_V6 } else { 0 }
        | if message.store_host.is_ipv6() { STORE_HOST_V6 } else { 0 };
    let start = buf.len();
    let wide_topic = message.topic.len() > 127;
    buf.put_i32(0);
    buf.put_i32(if wide_topic { MAGIC_V2 } else { MAGIC_V1 });
    buf.put_i32(body_crc(&message.body));
    buf.put_i32(message.queue_id);
    buf.put_i32(message.flag);
    buf.put_i64(message.queue_offset);
    buf.put_i64(message.physical_offset);
    buf.put_i32(message.sys_flag & !(BORN_HOST_V6 | STORE_HOST_V6) | v6_bits);
    buf.put_i64(message.born_timestamp);
    put_host(buf, message.born_host);
    buf.put_i64(message.store_timestamp);
    put_host(buf, message.store_host);
    buf.put_i32(message.reconsume_times);
    buf.put_i64(message.prepared_transaction_offset);
    buf.put_i32(i32::try_from(message.body.len()).expect("a body is shorter than 2 GiB"));
    buf.put_slice(&message.body);
    if wide_topic {
        buf.put_i16(i16::try_from(message.topic.len()).expect("a topic is shorter than 32 KiB"));
    } else {
        buf.put_u8(message.topic.len() as u8);
    }
    buf.put_slice(message.topic.as_bytes());
    put_properties(buf, message.properties.encoded());
    let total = i32::try_from(buf.len() - start).expect("a record is shorter than 2 GiB");
    buf[start..start + 4].copy_from_slice(&total.to_be_bytes());
}

fn put_host(buf: &mut BytesMut, host: SocketAddr) {
    match host.ip() {
        IpAddr::V4(address) => buf.put_slice(&address.octets()),
        IpAddr::V6(address) => buf.put_slice(&address.octets()),
    }
    buf.put_i32(host.port().into());
}

fn put_properties(buf: &mut BytesMut, encoded: &[u8]) {
    buf.put_i16(i16::try_from(encoded.len()).expect("properties are shorter than 32 KiB"));
    buf.put_slice(encoded);
}

#[cfg(test)]
mod tests;
