//! One topic's spooled messages on a disk: appended at one end, taken from the other.
//!
//! Files of up to [`SEGMENT_BYTES`], named after the sequence of their first message; a small file says up to which sequence messages are
//! done with. A file that was there before this process is never appended to, so what a crash has torn stays the end of its file.
//! What a file lacks is seen by its sequences, which have no gaps: nothing is skipped in silence.
//!
//! What the disk does not give is read as zeros, which no checksum takes for a message: it costs what stands there, and no more. Such a
//! file is not taken away but renamed, for a person who has other means to read it.

use std::{borrow::Borrow, cmp::Ordering, collections::VecDeque, io};

use bytes::{Buf, Bytes, BytesMut};
use rustix::io::Errno;

use super::{
    disk::Disk,
    record::{self, Found, HEAD, LEAST, Spooled},
};

/// A file is closed when it has so many bytes.
const SEGMENT_BYTES: u64 = 16 << 20;
/// What is read at a time.
const CHUNK: usize = 1 << 20;
/// What a disk does not give is lost in pieces of this size.
const BLOCK: usize = 4096;
const SUFFIX: &str = ".spool";
/// Of files that are kept for a person.
const KEPT: &str = ".kept";
/// Of an empty file that says that the one of this name is to be kept.
const KEEP: &str = ".keep";
const DONE: &str = "done";

/// One topic's messages.
#[derive(Debug)]
pub(super) struct Log<D> {
    disk: D,
    segments: VecDeque<Segment>,
    /// The last segment is this process's own, and whole.
    writable: bool,
    next: u64,
    place: Place,
    oldest_ms: Option<i64>,
    /// What is done with is written down, and cannot be read: it must not come to light again with sequences that are given anew.
    done_unread: bool,
    /// What is written down as done with.
    noted: u64,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    first: u64,
    /// Bytes that are synced.
    len: u64,
    /// Something in it could not be read, or not be set aside: it is not taken away when it is done with.
    kept: bool,
}

/// A place between two messages, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    segment: u64,
    offset: u64,
    sequence: u64,
    /// It is among damaged bytes.
    lost: bool,
    /// The first message whose head is lost in this file: what is found behind it may tell a sequence that is too high.
    first_lost: Option<u64>,
}

impl Place {
    /// The file it is in, by the sequence of its first message.
    pub(super) fn file(self) -> u64 {
        self.segment
    }

    fn start_of(segment: u64) -> Self {
        Self { segment, offset: 0, sequence: segment, lost: false, first_lost: None }
    }

    /// Whether a head so many bytes on is believed. As long as nothing of its file is lost it is where it must be. Behind that it may come
    /// from a body, that is from anybody: it must leave room for what is lost before it, and for no more.
    fn believes(&self, bytes: usize, sequence: u64, below: u64) -> bool {
        let before = (self.offset + bytes as u64) / LEAST as u64;
        let most = self.segment.saturating_add(before);
        let behind = sequence > self.first_lost.unwrap_or(self.sequence);
        let undamaged = bytes == 0 && !self.lost && self.first_lost.is_none();
        undamaged || (behind && sequence <= most && sequence < below)
    }
}

/// What was read, and the place behind it.
#[derive(Debug)]
pub(super) enum Item {
    Message {
        spooled: Box<Spooled>,
        sequence: u64,
        after: Place,
    },
    /// Bytes that are no message, and how many messages are known to be missing with them.
    Damaged {
        bytes: Bytes,
        missing: u64,
        after: Place,
        /// The disk did not give all of them, and perhaps does later.
        unread: bool,
    },
}

impl Item {
    pub(super) fn after(&self) -> Place {
        match self {
            Item::Message { after, .. } | Item::Damaged { after, .. } => *after,
        }
    }
}

/// Why messages were not appended.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(super) struct AppendError {
    pub(super) error: io::Error,
    /// They may be there all the same, and be found later.
    pub(super) perhaps_there: bool,
}

fn name(first: u64) -> String {
    format!("{first:020}{SUFFIX}")
}

impl<D: Disk> Log<D> {
    /// Finds what an earlier process left.
    pub(super) fn open(disk: D) -> io::Result<Self> {
        let files = disk.list()?;
        let mut firsts: Vec<u64> =
            files.iter().filter_map(|file| file.strip_suffix(SUFFIX)?.parse().ok()).collect();
        firsts.sort_unstable();
        let done = read_done(&disk)?;
        let done_unread = done.is_none() && files.iter().any(|file| file == DONE);
        let mut segments = VecDeque::new();
        for first in firsts {
            let kept = files.contains(&format!("{}{KEEP}", name(first)));
            segments.push_back(Segment { first, len: disk.len(&name(first))?, kept });
        }
        let start = segments.front().map_or(0, |segment| segment.first);
        let place = Place { sequence: done.unwrap_or(start).max(start), ..Place::start_of(start) };
        let next = segments.back().map_or(place.sequence, |segment| segment.first);
        let mut log = Self {
            disk,
            segments,
            writable: false,
            next,
            place,
            oldest_ms: None,
            done_unread,
            noted: done.unwrap_or(0),
        };
        log.find_end()?;
        log.next = log.next.max(log.place.sequence);
        log.skip_done()?;
        Ok(log)
    }

    /// Looks in the last file for the last message.
    fn find_end(&mut self) -> io::Result<()> {
        let Some(&last) = self.segments.back() else { return Ok(()) };
        let mut place = Place::start_of(last.first);
        let (mut illegible, mut unread_bytes) = (0, false);
        loop {
            let items = self.read_from(place, CHUNK, usize::MAX, u64::MAX)?;
            let Some(end) = items.last() else { break };
            for item in &items {
                match item {
                    Item::Damaged { bytes, missing: 0, .. } => illegible += bytes.len() as u64,
                    Item::Damaged { .. } | Item::Message { .. } => illegible = 0,
                }
                unread_bytes |= matches!(item, Item::Damaged { unread: true, .. });
            }
            place = end.after();
            self.next = self.next.max(place.sequence);
        }
        // Without a head nobody can tell whether it was acknowledged: it counts as a message, and nothing is written over it. What the
        // disk does not give now may be there tomorrow: no message in it may have a sequence that is given again.
        let most = if unread_bytes { illegible.div_ceil(LEAST as u64) } else { 1 };
        self.next += most.min(illegible);
        Ok(())
    }

    /// Goes to the first message that is not done with.
    fn skip_done(&mut self) -> io::Result<()> {
        let done = self.place.sequence;
        let mut place = Place { sequence: self.place.segment, ..self.place };
        'reading: loop {
            let items = self.read_from(place, CHUNK, usize::MAX, self.next)?;
            if items.is_empty() {
                break;
            }
            for item in items {
                if let Item::Message { spooled, sequence, .. } = &item
                    && *sequence >= done
                {
                    self.oldest_ms = Some(spooled.spooled_ms);
                    break 'reading;
                }
                if item.after().sequence > done {
                    break 'reading;
                }
                place = item.after();
            }
        }
        self.place = Place { sequence: place.sequence.max(done), ..place };
        if self.messages() == 0 {
            // What could not be taken away is tried again later.
            let _ = self.advance(self.place);
        }
        Ok(())
    }

    /// Messages not done with.
    pub(super) fn messages(&self) -> u64 {
        // As long as there are bytes to read, sequences that a damaged file tells end nothing.
        self.next.saturating_sub(self.place.sequence).max(u64::from(self.is_left()))
    }

    /// Whether there are bytes behind the place.
    fn is_left(&self) -> bool {
        self.segments.iter().any(|segment| match segment.first.cmp(&self.place.segment) {
            Ordering::Less => false,
            Ordering::Equal => segment.len > self.place.offset,
            Ordering::Greater => segment.len > 0,
        })
    }

    /// Bytes they take, with what is not yet taken away before them.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    /// When the oldest of them was spooled.
    pub(super) fn oldest_ms(&self) -> Option<i64> {
        self.oldest_ms
    }

    /// Appends messages, all or none, and returns when they are on the disk. There may be very many: of each only its bytes are held, and
    /// of all only a part at a time.
    pub(super) fn append(
        &mut self,
        messages: impl IntoIterator<Item = impl Borrow<Spooled>>,
    ) -> Result<(), AppendError> {
        let certain = |error| AppendError { error, perhaps_there: false };
        if self.done_unread {
            self.advance(self.place).map(drop).map_err(certain)?;
        }
        let full = self.segments.back().is_some_and(|segment| segment.len >= SEGMENT_BYTES);
        if !self.writable || full || self.segments.is_empty() {
            self.writable = false;
            self.disk.create(&name(self.next)).map_err(certain)?;
            self.segments.retain(|segment| segment.first != self.next);
            self.segments.push_back(Segment { first: self.next, len: 0, kept: false });
            if self.messages() == 0 {
                self.place = Place::start_of(self.next);
            }
            self.writable = true;
        }
        let Some(segment) = self.segments.back_mut() else {
            return Err(certain(io::Error::other("no file to append to")));
        };
        let file = name(segment.first);
        let (mut next, mut written, mut oldest_ms) = (self.next, 0, None);
        let write = || {
            let mut bytes = BytesMut::new();
            for message in messages {
                let message: &Spooled = message.borrow();
                oldest_ms.get_or_insert(message.spooled_ms);
                record::encode(next, message, &mut bytes);
                next += 1;
                if bytes.len() >= CHUNK {
                    self.disk.append(&file, &bytes)?;
                    written += bytes.len() as u64;
                    bytes.clear();
                }
            }
            self.disk.append(&file, &bytes)?;
            written += bytes.len() as u64;
            self.disk.sync(&file)
        };
        if let Err(error) = write() {
            // What a failed write or sync leaves is not known. The next message gets a new file, and this one is cut off.
            self.writable = false;
            let perhaps_there = self.disk.truncate(&file, segment.len).is_err();
            if perhaps_there {
                // They are read if they are there: their sequences are not given away again.
                segment.len = self.disk.len(&file).unwrap_or(segment.len);
                self.next = next;
            }
            return Err(AppendError { error, perhaps_there });
        }
        segment.len += written;
        if self.next == self.place.sequence {
            self.oldest_ms = oldest_ms;
        }
        self.next = next;
        Ok(())
    }

    /// The first messages, up to about so many bytes.
    pub(super) fn read(&mut self, bytes: usize, messages: usize) -> io::Result<Vec<Item>> {
        // What could not be taken away when it was done with; who was told then needs no telling now.
        let _ = self.take_away_done();
        let items = self.read_from(self.place, bytes, messages, self.next)?;
        if let Some(Item::Message { spooled, .. }) = items.first() {
            self.oldest_ms = Some(spooled.spooled_ms);
        }
        Ok(items)
    }

    /// Messages from a place on; those in the last file have sequences below `end`.
    fn read_from(
        &mut self,
        mut place: Place,
        bytes: usize,
        messages: usize,
        end: u64,
    ) -> io::Result<Vec<Item>> {
        let mut items = Vec::new();
        let mut taken = 0;
        while taken < bytes && items.len() < messages {
            let found = self.segments.iter().find(|segment| segment.first == place.segment);
            let Some(segment) = found.copied() else { break };
            let next = self.segments.iter().find(|segment| segment.first > place.segment);
            let below = next.map_or(end, |next| next.first);
            if place.offset >= segment.len {
                // Behind the last file there may be what a failing disk was given and did not keep.
                let sequence = next.map_or(self.next, |next| next.first).max(place.sequence);
                let before = place;
                place = Place { sequence, lost: false, ..place };
                if let Some(next) = next {
                    place = Place { sequence, ..Place::start_of(next.first) };
                }
                put_missing(&mut items, before, place);
                if next.is_none() {
                    break;
                }
                continue;
            }
            let left = usize::try_from(segment.len - place.offset).unwrap_or(usize::MAX);
            let (mut chunk, mut whole) = self.chunk(segment.first, place.offset, left.min(CHUNK))?;
            if let Some(needed) = record::needed(&chunk).filter(|needed| *needed > chunk.len()) {
                (chunk, whole) = self.chunk(segment.first, place.offset, left.min(needed))?;
            }
            let last = chunk.len() == left;
            let before = place.offset;
            while taken < bytes && items.len() < messages {
                let believed = |bytes, sequence| place.believes(bytes, sequence, below);
                let (item, length) = match record::next(&chunk, last, believed) {
                    Found::End => break,
                    Found::Damaged { sequence, bytes } => {
                        place.offset += bytes as u64;
                        place.lost = sequence.is_none();
                        if place.lost {
                            place.first_lost.get_or_insert(place.sequence);
                        }
                        let sequence = sequence.map_or(place.sequence, |sequence| {
                            sequence.saturating_add(1).max(place.sequence)
                        });
                        let missing = sequence - place.sequence;
                        place.sequence = sequence;
                        let bytes_here = chunk.slice(..bytes);
                        (Item::Damaged { bytes: bytes_here, missing, after: place, unread: !whole }, bytes)
                    }
                    Found::Message { sequence, spooled, bytes } => {
                        if sequence > place.sequence {
                            let before = place;
                            place.sequence = sequence;
                            put_missing(&mut items, before, place);
                        }
                        place.offset += bytes as u64;
                        place.lost = false;
                        // One that should have come earlier is no reason to leave it out.
                        place.sequence = place.sequence.max(sequence.saturating_add(1));
                        (Item::Message { spooled, sequence, after: place }, bytes)
                    }
                };
                chunk.advance(length);
                taken += length;
                items.push(item);
            }
            if place.offset == before {
                // Not even a head fits what is left of a file that has more behind it.
                debug_assert!(chunk.len() >= HEAD, "a chunk holds a message or damage");
                break;
            }
        }
        Ok(items)
    }

    /// So many bytes of a file, zeros where the disk gives none; and whether it gave all.
    fn chunk(&self, first: u64, offset: u64, length: usize) -> io::Result<(Bytes, bool)> {
        let (bytes, whole) = read_or_zeros(&self.disk, &name(first), offset, length)?;
        Ok((bytes.into(), whole))
    }

    /// Leaves the files of what stands before a place to a person, for it could not be read, or not be set aside.
    pub(super) fn keep(&mut self, to: Place) {
        let from = self.place.segment;
        let is_before =
            |segment: &Segment| segment.first >= from && (segment.first, 0) < (to.segment, to.offset);
        for segment in self.segments.iter_mut().filter(|segment| is_before(segment)) {
            // A disk that does not take note of it forgets it with the process.
            let _ = self.disk.create(&format!("{}{KEEP}", name(segment.first)));
            segment.kept = true;
        }
    }

    /// Is done with everything before a place.
    ///
    /// # Errors
    /// When the disk does not take note of it: after a restart it is sent again. Within, when a file could not be taken away: that is tried
    /// again.
    pub(super) fn advance(&mut self, to: Place) -> io::Result<io::Result<()>> {
        // What is done with is not sent again by this process, whatever the disk says; and files go first, for a full disk needs the room.
        // A place in a file that is gone since it was read is behind already.
        self.place = self.place.max(to);
        let taken_away = self.take_away_done();
        let done = self.done();
        let mut bytes = done.to_be_bytes().to_vec();
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
        self.disk.replace(DONE, &bytes)?;
        (self.noted, self.done_unread) = (done, false);
        Ok(taken_away)
    }

    /// Up to which sequence it is written down that messages are done with: of a file with damage not beyond that, for what stands behind
    /// may tell sequences that are too high. What was written down before stays so, whatever is damaged of it since.
    fn done(&self) -> u64 {
        let done = match self.place.first_lost {
            Some(first) if self.messages() > 0 => first,
            _ => self.place.sequence,
        };
        done.min(self.next).max(self.noted)
    }

    /// Messages that are done with, and are sent again after a restart all the same.
    pub(super) fn again(&self) -> u64 {
        self.place.sequence.min(self.next).saturating_sub(self.done())
    }

    /// Takes files away that nothing is left of.
    fn take_away_done(&mut self) -> io::Result<()> {
        if self.messages() == 0 {
            self.oldest_ms = None;
            // Its file goes, if the disk lets it.
            self.writable = false;
        }
        while let Some(segment) = self.segments.front().copied() {
            if self.messages() > 0 && segment.first >= self.place.segment {
                break;
            }
            let file = name(segment.first);
            if segment.kept {
                self.disk.rename(&file, &format!("{file}{KEPT}"))?;
                let _ = self.disk.remove(&format!("{file}{KEEP}"));
            } else {
                self.disk.remove(&file)?;
            }
            self.segments.pop_front();
        }
        Ok(())
    }

    /// Keeps bytes for a person to look at, in a file of their own.
    pub(super) fn set_aside(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        if !self.disk.list()?.iter().any(|known| known == file) {
            self.disk.create(file)?;
        }
        self.disk.append(file, bytes)?;
        self.disk.sync(file)
    }
}

/// Puts down what is missing between two places: with the bytes there that could not be read, if there are any.
fn put_missing(items: &mut Vec<Item>, before: Place, to: Place) {
    let lacks = to.sequence - before.sequence;
    match items.last_mut() {
        Some(Item::Damaged { missing, after, .. }) if *after == before => {
            *missing += lacks;
            *after = to;
        }
        _ if lacks > 0 => {
            items.push(Item::Damaged { bytes: Bytes::new(), missing: lacks, after: to, unread: false });
        }
        _ => {}
    }
}

/// Bytes of a file, zeros where the disk gives none, and whether it gave all.
fn read_or_zeros(disk: &impl Disk, file: &str, offset: u64, length: usize) -> io::Result<(Vec<u8>, bool)> {
    match disk.read(file, offset, length) {
        Ok(bytes) if bytes.len() == length => return Ok((bytes, true)),
        Err(error) if !is_lost(&error) => return Err(error),
        _ => {}
    }
    let (mut bytes, mut whole) = (Vec::with_capacity(length), true);
    while bytes.len() < length {
        let at = offset + bytes.len() as u64;
        let block = (BLOCK - (at % BLOCK as u64) as usize).min(length - bytes.len());
        let end = bytes.len() + block;
        match disk.read(file, at, block) {
            Ok(read) => bytes.extend_from_slice(&read),
            Err(error) if is_lost(&error) => {}
            Err(error) => return Err(error),
        }
        whole &= bytes.len() == end;
        bytes.resize(end, 0);
    }
    Ok((bytes, whole))
}

/// Whether it is the disk that has lost something: what fails for another reason can be read later.
fn is_lost(error: &io::Error) -> bool {
    let lost = [Errno::IO, Errno::BADMSG, Errno::UCLEAN, Errno::NODATA, Errno::ILSEQ];
    lost.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Up to which sequence messages are done with.
fn read_done(disk: &impl Disk) -> io::Result<Option<u64>> {
    if !disk.list()?.iter().any(|file| file == DONE) {
        return Ok(None);
    }
    let (bytes, _) = read_or_zeros(disk, DONE, 0, 12)?;
    let whole = crc32fast::hash(&bytes[..8]).to_be_bytes() == bytes[8..];
    // A damaged one is as good as none: messages are stored again, with the same ids.
    Ok(bytes.first_chunk().filter(|_| whole).map(|sequence| u64::from_be_bytes(*sequence)))
}

#[cfg(test)]
mod tests;
