//! What one process has counted since it last wrote, as bytes.
//!
//! ```text
//! "NBA" 1 | instance u64 | sequence u64
//!   | incomplete: u8 0, or 1 and first and last minute
//!   | highest: n u16, then ids u128
//!   | brokers: n u16, then texts | nsqds: n u16, then texts and start times
//!   | covered: n u32, then broker u16, queue i32, from i64, to i64
//!   | tallies: n u32, then minute i64, hop u8, nsqd u16, due i64, n u8, then cells: place u8, count i64, ids u128, checks u64
//!   | CRC-32 of all before
//! ```
//!
//! Numbers are big-endian, texts have a length of 16 bits. Records add up, in any order; one that is stored twice is known by
//! its instance and sequence. A version this program does not know is an error, not a guess.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};

use super::{
    entry::{Entry, minter_of},
    sketch::{Cell, Sketch},
};
use crate::nsq::address::HttpAddress;

const MAGIC: u32 = u32::from_be_bytes(*b"NBA\x01");
/// Minutes and hops of one record, at most: below what one message can hold.
pub(super) const TALLIES: usize = 600;

/// One nsqd process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Where its HTTP API listens.
    pub nsqd: HttpAddress,
    /// When it started, in seconds since 1970.
    pub start_time: i64,
}

/// A place messages pass, or what became of them there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    /// RocketMQ has answered `SEND_OK`, or the gateway's disk has it: the producer hears `OK`.
    Accepted,
    /// The same, of what RocketMQ is to hold back.
    Deferred,
    /// Perhaps stored: the producer hears an error.
    Unknown,
    /// Put in a gateway's spool.
    Spooled,
    /// Taken from there to RocketMQ.
    Unspooled,
    /// An nsqd process has answered `OK`.
    Relayed(Process),
    /// In the parking topic.
    Parked,
    /// Given to an nsqd process once more, on purpose.
    Replayed(Process),
}

impl Hop {
    fn code(&self) -> u8 {
        match self {
            Hop::Accepted => 1,
            Hop::Deferred => 2,
            Hop::Unknown => 3,
            Hop::Spooled => 4,
            Hop::Unspooled => 5,
            Hop::Relayed(_) => 6,
            Hop::Parked => 7,
            Hop::Replayed(_) => 8,
        }
    }

    fn of(code: u8, process: Option<Process>) -> Option<Self> {
        Some(match (code, process) {
            (1, None) => Hop::Accepted,
            (2, None) => Hop::Deferred,
            (3, None) => Hop::Unknown,
            (4, None) => Hop::Spooled,
            (5, None) => Hop::Unspooled,
            (6, Some(process)) => Hop::Relayed(process),
            (7, None) => Hop::Parked,
            (8, Some(process)) => Hop::Replayed(process),
            _ => return None,
        })
    }

    fn is_of_a_gateway(&self) -> bool {
        matches!(self, Hop::Accepted | Hop::Deferred | Hop::Unknown | Hop::Spooled | Hop::Unspooled)
    }

    fn process(&self) -> Option<&Process> {
        match self {
            Hop::Relayed(process) | Hop::Replayed(process) => Some(process),
            _ => None,
        }
    }
}

/// The messages of one minute at one hop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Their ids.
    pub sketch: Sketch,
    /// When the last of them is due at the latest, in milliseconds since 1970; 0 when none is held back.
    pub due_ms: i64,
}

/// Offsets of a queue that a relay has confirmed and is about to commit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Covered {
    /// The broker.
    pub broker: String,
    /// Its queue.
    pub queue: i32,
    /// The first offset.
    pub from: i64,
    /// One past the last.
    pub to: i64,
}

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// By minute and hop.
    pub tallies: BTreeMap<(i64, Hop), Tally>,
    /// What a relay is done with.
    pub covered: Vec<Covered>,
    /// The highest id a gateway has counted, by who minted it: what is stored beyond, nobody has told of.
    pub highest: BTreeMap<u64, u128>,
    /// The brokers that have stored something.
    pub brokers: BTreeSet<String>,
    /// First and last of the minutes of which something was counted and forgotten.
    pub incomplete: Option<(i64, i64)>,
}

/// The stretch from the first to the last of these, each given by its first and its last.
pub fn spanning<T: Copy + Ord>(stretches: impl Iterator<Item = (T, T)>) -> Option<(T, T)> {
    stretches.reduce(|(from, to), (first, last)| (from.min(first), to.max(last)))
}

impl Delta {
    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tallies.is_empty() && self.covered.is_empty() && self.incomplete.is_none()
    }

    /// Counts messages at a hop.
    pub fn count(&mut self, hop: &Hop, entries: impl IntoIterator<Item = Entry>) {
        self.count_due(hop, entries, 0);
    }

    /// Counts messages RocketMQ holds back, the last until `due_ms` at the latest.
    pub fn count_deferred(&mut self, entries: impl IntoIterator<Item = Entry>, due_ms: i64) {
        self.count_due(&Hop::Deferred, entries, due_ms);
    }

    fn count_due(&mut self, hop: &Hop, entries: impl IntoIterator<Item = Entry>, due_ms: i64) {
        let mut entries = entries.into_iter();
        let mut next = entries.next();
        // Neighbours are of the same minute and from the same gateway mostly.
        while let Some(Entry { minute, id: first }) = next {
            let tally = self.tallies.entry((minute, hop.clone())).or_default();
            tally.due_ms = tally.due_ms.max(due_ms);
            let minter = minter_of(first);
            let mut highest = first;
            while let Some(Entry { id, .. }) =
                next.filter(|entry| entry.minute == minute && minter_of(entry.id) == minter)
            {
                tally.sketch.add(id);
                highest = highest.max(id);
                next = entries.next();
            }
            if hop.is_of_a_gateway() {
                let known = self.highest.entry(minter).or_default();
                *known = highest.max(*known);
            }
        }
    }

    /// Takes note of a broker that has stored something.
    pub fn stored_on(&mut self, broker: &str) {
        if !self.brokers.contains(broker) {
            self.brokers.insert(broker.to_owned());
        }
    }

    /// Takes note of offsets that were relayed or parked.
    pub fn cover(&mut self, broker: &str, queue: i32, from: i64, to: i64) {
        if from >= to {
            return;
        }
        let follows =
            |known: &&mut Covered| known.broker == broker && known.queue == queue && known.to == from;
        match self.covered.iter_mut().find(follows) {
            Some(known) => known.to = to,
            None => self.covered.push(Covered { broker: broker.to_owned(), queue, from, to }),
        }
    }

    /// Takes note that of these minutes, first and last, something was counted that nobody will tell of.
    pub fn lacks(&mut self, minutes: (i64, i64)) {
        self.incomplete = spanning(self.incomplete.into_iter().chain([minutes]));
    }

    /// Takes out the oldest minutes when there are more than fit into a record. The offsets stay: what a relay was done with is told
    /// after where it went, so that of a relay killed in between nothing looks relayed that is not told of.
    pub(super) fn overflow(&mut self) -> Option<Self> {
        if self.tallies.len() <= TALLIES {
            return None;
        }
        let (cut, _) = self.tallies.iter().nth(TALLIES)?;
        let later = self.tallies.split_off(&cut.clone());
        Some(Self { tallies: std::mem::replace(&mut self.tallies, later), ..Self::default() })
    }

    /// Takes over what came before, but for its messages, and says which were forgotten.
    pub(super) fn forget(&mut self, before: Self) {
        let Self { tallies, covered, highest, brokers, incomplete } = before;
        let minutes = tallies.into_keys().map(|(minute, _)| (minute, minute));
        minutes.chain(incomplete).for_each(|minutes| self.lacks(minutes));
        for Covered { broker, queue, from, to } in std::mem::replace(&mut self.covered, covered) {
            self.cover(&broker, queue, from, to);
        }
        for (minter, id) in highest {
            let known = self.highest.entry(minter).or_default();
            *known = id.max(*known);
        }
        self.brokers.extend(brokers);
    }
}

/// What one process wrote at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which process: a number of its own.
    pub instance: u64,
    /// Its how manieth record of the topic, from 0: they leave no gap.
    pub sequence: u64,
    /// What it had counted since the one before.
    pub delta: Delta,
}

/// Bytes that are no record this program can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Another version, or nothing of ours.
    #[error("it does not begin as an audit record of version 1")]
    Magic,
    /// Damaged on its way or on disk.
    #[error("its checksum is wrong")]
    Checksum,
    /// It ends early, or goes on behind its end.
    #[error("its parts do not fill it")]
    Length,
    /// A part that means nothing.
    #[error("its {0} makes no sense")]
    Value(&'static str),
}

impl From<TryGetError> for RecordError {
    fn from(_: TryGetError) -> Self {
        RecordError::Length
    }
}

impl Record {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let Self { instance, sequence, delta } = self;
        let mut out = BytesMut::new();
        out.put_u32(MAGIC);
        out.put_u64(*instance);
        out.put_u64(*sequence);
        out.put_u8(u8::from(delta.incomplete.is_some()));
        if let Some((first, last)) = delta.incomplete {
            out.put_i64(first);
            out.put_i64(last);
        }
        let highest = delta.highest.values().take(usize::from(u16::MAX));
        out.put_u16(highest.len() as u16);
        highest.for_each(|id| out.put_u128(*id));
        let covered = delta.covered.iter().map(|covered| covered.broker.as_str());
        let brokers: BTreeSet<&str> = delta.brokers.iter().map(String::as_str).chain(covered).collect();
        let brokers: Vec<&str> = brokers.into_iter().collect();
        out.put_u16(brokers.len() as u16);
        brokers.iter().for_each(|broker| put_text(&mut out, broker));
        let nsqds: BTreeSet<&Process> = delta.tallies.keys().filter_map(|(_, hop)| hop.process()).collect();
        let nsqds: Vec<&Process> = nsqds.into_iter().collect();
        out.put_u16(nsqds.len() as u16);
        for Process { nsqd, start_time } in &nsqds {
            put_text(&mut out, nsqd.as_str());
            out.put_i64(*start_time);
        }
        out.put_u32(delta.covered.len() as u32);
        for Covered { broker, queue, from, to } in &delta.covered {
            out.put_u16(place_in(&brokers, &broker.as_str()));
            out.put_i32(*queue);
            out.put_i64(*from);
            out.put_i64(*to);
        }
        out.put_u32(delta.tallies.len() as u32);
        for ((minute, hop), Tally { sketch, due_ms }) in &delta.tallies {
            out.put_i64(*minute);
            out.put_u8(hop.code());
            out.put_u16(hop.process().map_or(NO_NSQD, |process| place_in(&nsqds, &process)));
            out.put_i64(*due_ms);
            out.put_u8(sketch.cells().count() as u8);
            for (place, Cell { count, ids, checks }) in sketch.cells() {
                out.put_u8(place as u8);
                out.put_i64(count);
                out.put_u128(ids);
                out.put_u64(checks);
            }
        }
        let checksum = crc32fast::hash(&out);
        out.put_u32(checksum);
        out.freeze()
    }

    /// From bytes.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let Some((mut body, mut checksum)) =
            bytes.split_last_chunk::<4>().map(|(body, sum)| (body, &sum[..]))
        else {
            return Err(RecordError::Length);
        };
        if body.try_get_u32() != Ok(MAGIC) {
            return Err(RecordError::Magic);
        }
        if checksum.try_get_u32()? != crc32fast::hash(&bytes[..bytes.len() - 4]) {
            return Err(RecordError::Checksum);
        }
        let record = decode_body(&mut body)?;
        if body.is_empty() { Ok(record) } else { Err(RecordError::Length) }
    }
}

const NO_NSQD: u16 = u16::MAX;

fn decode_body(body: &mut &[u8]) -> Result<Record, RecordError> {
    let (instance, sequence) = (body.try_get_u64()?, body.try_get_u64()?);
    let incomplete = match body.try_get_u8()? {
        0 => None,
        1 => Some((body.try_get_i64()?, body.try_get_i64()?)),
        _ => return Err(RecordError::Value("mark of incompleteness")),
    };
    let mut highest = BTreeMap::new();
    for _ in 0..body.try_get_u16()? {
        let id = body.try_get_u128()?;
        highest.insert(minter_of(id), id);
    }
    let brokers = (0..body.try_get_u16()?).map(|_| text(body)).collect::<Result<Vec<_>, _>>()?;
    let mut nsqds = Vec::new();
    for _ in 0..body.try_get_u16()? {
        let nsqd = text(body)?.parse().map_err(|_| RecordError::Value("address of an nsqd"))?;
        nsqds.push(Process { nsqd, start_time: body.try_get_i64()? });
    }
    let mut covered = Vec::new();
    for _ in 0..body.try_get_u32()? {
        let broker = brokers.get(usize::from(body.try_get_u16()?)).ok_or(RecordError::Value("broker"))?;
        let (queue, from, to) = (body.try_get_i32()?, body.try_get_i64()?, body.try_get_i64()?);
        if from >= to {
            return Err(RecordError::Value("run of offsets"));
        }
        covered.push(Covered { broker: broker.clone(), queue, from, to });
    }
    let mut tallies = BTreeMap::new();
    for _ in 0..body.try_get_u32()? {
        let (minute, code, nsqd) = (body.try_get_i64()?, body.try_get_u8()?, body.try_get_u16()?);
        let process = match nsqd {
            NO_NSQD => None,
            nsqd => Some(nsqds.get(usize::from(nsqd)).ok_or(RecordError::Value("nsqd"))?.clone()),
        };
        let hop = Hop::of(code, process).ok_or(RecordError::Value("hop"))?;
        let mut tally = Tally { due_ms: body.try_get_i64()?, ..Tally::default() };
        for _ in 0..body.try_get_u8()? {
            let place = usize::from(body.try_get_u8()?);
            let (count, ids, checks) = (body.try_get_i64()?, body.try_get_u128()?, body.try_get_u64()?);
            if !tally.sketch.put(place, Cell { count, ids, checks }) {
                return Err(RecordError::Value("cell"));
            }
        }
        tallies.insert((minute, hop), tally);
    }
    let delta = Delta { tallies, covered, highest, brokers: brokers.into_iter().collect(), incomplete };
    Ok(Record { instance, sequence, delta })
}

fn place_in<T: PartialEq>(list: &[T], one: &T) -> u16 {
    list.iter().position(|known| known == one).map_or(NO_NSQD, |place| place as u16)
}

fn put_text(out: &mut BytesMut, text: &str) {
    let text = &text.as_bytes()[..text.len().min(usize::from(u16::MAX))];
    out.put_u16(text.len() as u16);
    out.put_slice(text);
}

fn text(body: &mut &[u8]) -> Result<String, RecordError> {
    let length = usize::from(body.try_get_u16()?);
    let (text, rest) = body.split_at_checked(length).ok_or(RecordError::Length)?;
    *body = rest;
    String::from_utf8(text.to_vec()).map_err(|_| RecordError::Value("text"))
}

#[cfg(test)]
mod tests;
