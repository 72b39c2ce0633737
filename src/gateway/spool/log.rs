//! One topic's spooled messages on a disk: appended at one end, taken from the other.
//!
//! Files of up to [`SEGMENT_BYTES`], named after the sequence of their first message; a small file says up to which sequence messages are
//! done with. A file that was there before this process is never appended to, so what a crash has torn stays the end of its file.
//! What a file lacks is seen by its sequences, which have no gaps: nothing is skipped in silence.

use std::{collections::VecDeque, io};

use bytes::{Buf, Bytes, BytesMut};

use super::{
    disk::Disk,
    record::{self, Found, HEAD, Spooled},
};

/// A file is closed when it has so many bytes.
const SEGMENT_BYTES: u64 = 16 << 20;
/// What is read at a time.
const CHUNK: usize = 1 << 20;
const SUFFIX: &str = ".spool";
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
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    first: u64,
    /// Bytes that are synced.
    len: u64,
}

/// A place between two messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    segment: u64,
    offset: u64,
    sequence: u64,
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
        let mut firsts: Vec<u64> =
            disk.list()?.iter().filter_map(|file| file.strip_suffix(SUFFIX)?.parse().ok()).collect();
        firsts.sort_unstable();
        let done = read_done(&disk)?;
        let mut segments = VecDeque::new();
        for first in firsts {
            segments.push_back(Segment { first, len: disk.len(&name(first))? });
        }
        let start = segments.front().map_or(0, |segment| segment.first);
        let place = Place { segment: start, offset: 0, sequence: done.unwrap_or(start).max(start) };
        let next = segments.back().map_or(place.sequence, |segment| segment.first);
        let mut log = Self { disk, segments, writable: false, next, place, oldest_ms: None };
        log.find_end()?;
        log.next = log.next.max(log.place.sequence);
        log.skip_done()?;
        Ok(log)
    }

    /// Looks in the last file for the last message.
    fn find_end(&mut self) -> io::Result<()> {
        let Some(&last) = self.segments.back() else { return Ok(()) };
        let mut place = Place { segment: last.first, offset: 0, sequence: last.first };
        loop {
            let items = self.read_from(place, CHUNK, usize::MAX)?;
            let Some(end) = items.last() else { return Ok(()) };
            place = end.after();
            self.next = self.next.max(place.sequence);
        }
    }

    /// Goes to the first message that is not done with.
    fn skip_done(&mut self) -> io::Result<()> {
        let done = self.place.sequence;
        let mut place = Place { sequence: self.place.segment, ..self.place };
        'reading: loop {
            let items = self.read_from(place, CHUNK, usize::MAX)?;
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
            self.advance(self.place)?;
        }
        Ok(())
    }

    /// Messages not done with.
    pub(super) fn messages(&self) -> u64 {
        self.next - self.place.sequence
    }

    /// Bytes they take, with what is not yet taken away before them.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    /// When the oldest of them was spooled.
    pub(super) fn oldest_ms(&self) -> Option<i64> {
        self.oldest_ms
    }

    /// Appends messages, all or none, and returns when they are on the disk.
    pub(super) fn append(&mut self, messages: &[Spooled]) -> Result<(), AppendError> {
        let certain = |error| AppendError { error, perhaps_there: false };
        let full = self.segments.back().is_some_and(|segment| segment.len >= SEGMENT_BYTES);
        if !self.writable || full || self.segments.is_empty() {
            self.writable = false;
            self.disk.create(&name(self.next)).map_err(certain)?;
            self.segments.retain(|segment| segment.first != self.next);
            self.segments.push_back(Segment { first: self.next, len: 0 });
            if self.messages() == 0 {
                self.place = Place { segment: self.next, offset: 0, sequence: self.next };
            }
            self.writable = true;
        }
        let Some(segment) = self.segments.back_mut() else {
            return Err(certain(io::Error::other("no file to append to")));
        };
        let mut bytes = BytesMut::new();
        for (sequence, message) in (self.next..).zip(messages) {
            record::encode(sequence, message, &mut bytes);
        }
        let file = name(segment.first);
        let appended = self.disk.append(&file, &bytes).and_then(|()| self.disk.sync(&file));
        if let Err(error) = appended {
            // What a failed write or sync leaves is not known. The next message gets a new file, and this one is cut off.
            self.writable = false;
            let perhaps_there = self.disk.truncate(&file, segment.len).is_err();
            if perhaps_there {
                // They are read if they are there: their sequences are not given away again.
                segment.len = self.disk.len(&file).unwrap_or(segment.len);
                self.next += messages.len() as u64;
            }
            return Err(AppendError { error, perhaps_there });
        }
        segment.len += bytes.len() as u64;
        if self.next == self.place.sequence {
            self.oldest_ms = messages.first().map(|message| message.spooled_ms);
        }
        self.next += messages.len() as u64;
        Ok(())
    }

    /// The first messages, up to about so many bytes.
    pub(super) fn read(&mut self, bytes: usize, messages: usize) -> io::Result<Vec<Item>> {
        // What could not be taken away when it was done with.
        self.take_away_done()?;
        let items = self.read_from(self.place, bytes, messages)?;
        if let Some(Item::Message { spooled, .. }) = items.first() {
            self.oldest_ms = Some(spooled.spooled_ms);
        }
        Ok(items)
    }

    fn read_from(&self, mut place: Place, bytes: usize, messages: usize) -> io::Result<Vec<Item>> {
        let mut items = Vec::new();
        let mut taken = 0;
        while taken < bytes && items.len() < messages {
            let Some(segment) = self.segments.iter().find(|segment| segment.first == place.segment) else {
                break;
            };
            if place.offset >= segment.len {
                let next = self.segments.iter().find(|segment| segment.first > place.segment);
                // Behind the last file there may be what a failing disk was given and did not keep.
                let sequence = next.map_or(self.next, |next| next.first).max(place.sequence);
                let missing = sequence - place.sequence;
                place.sequence = sequence;
                if let Some(next) = next {
                    place = Place { segment: next.first, offset: 0, ..place };
                }
                if missing > 0 {
                    items.push(Item::Damaged { bytes: Bytes::new(), missing, after: place });
                }
                if next.is_none() {
                    break;
                }
                continue;
            }
            let left = usize::try_from(segment.len - place.offset).unwrap_or(usize::MAX);
            let mut chunk =
                Bytes::from(self.disk.read(&name(segment.first), place.offset, left.min(CHUNK))?);
            if let Some(needed) = record::needed(&chunk).filter(|needed| *needed > chunk.len()) {
                chunk = self.disk.read(&name(segment.first), place.offset, left.min(needed))?.into();
            }
            if chunk.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it was"));
            }
            let last = chunk.len() == left;
            let before = place.offset;
            while taken < bytes && items.len() < messages {
                let (item, length) = match record::next(&chunk, last) {
                    Found::End => break,
                    Found::Damaged { sequence, bytes } => {
                        place.offset += bytes as u64;
                        let sequence =
                            sequence.map_or(place.sequence, |sequence| (sequence + 1).max(place.sequence));
                        let missing = sequence - place.sequence;
                        place.sequence = sequence;
                        (Item::Damaged { bytes: chunk.slice(..bytes), missing, after: place }, bytes)
                    }
                    Found::Message { sequence, spooled, bytes } => {
                        if sequence > place.sequence {
                            let missing = sequence - place.sequence;
                            place.sequence = sequence;
                            items.push(Item::Damaged { bytes: Bytes::new(), missing, after: place });
                        }
                        place.offset += bytes as u64;
                        let done = sequence < place.sequence;
                        place.sequence = place.sequence.max(sequence + 1);
                        if done {
                            chunk.advance(bytes);
                            continue;
                        }
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

    /// Is done with everything before a place.
    pub(super) fn advance(&mut self, to: Place) -> io::Result<()> {
        let mut done = to.sequence.to_be_bytes().to_vec();
        done.extend_from_slice(&crc32fast::hash(&done).to_be_bytes());
        // What is done with is not sent again by this process, whatever the disk says; and files go first, for a full disk needs the room.
        self.place = to;
        let taken_away = self.take_away_done();
        self.disk.replace(DONE, &done)?;
        taken_away
    }

    /// Takes files away that nothing is left of.
    fn take_away_done(&mut self) -> io::Result<()> {
        while let Some(first) = self.segments.front().copied() {
            if self.messages() > 0 && first.first >= self.place.segment {
                break;
            }
            self.disk.remove(&name(first.first))?;
            self.segments.pop_front();
        }
        if self.messages() == 0 {
            self.oldest_ms = None;
            self.writable = false;
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

/// Up to which sequence messages are done with.
fn read_done(disk: &impl Disk) -> io::Result<Option<u64>> {
    if !disk.list()?.iter().any(|file| file == DONE) {
        return Ok(None);
    }
    let bytes = disk.read(DONE, 0, 12)?;
    let whole = bytes.len() == 12 && crc32fast::hash(&bytes[..8]).to_be_bytes() == bytes[8..];
    // A damaged one is as good as none: messages are stored again, with the same ids.
    Ok(bytes.first_chunk().filter(|_| whole).map(|sequence| u64::from_be_bytes(*sequence)))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{Arc, Mutex},
    };

    use proptest::prelude::*;

    use super::*;
    use crate::gateway::spool::record::tests::spooled;

    /// Bytes a disk writes as one; small, so that messages are torn often.
    const SECTOR: usize = 16;

    #[derive(Debug, Default, Clone)]
    struct File {
        content: Vec<u8>,
        synced: usize,
    }

    #[derive(Debug, Default, Clone)]
    struct Files {
        files: BTreeMap<String, File>,
        /// Taken away since the last crash.
        removed: BTreeMap<String, File>,
        /// Operations until one fails.
        fails_in: Option<u32>,
    }

    /// A disk that forgets, when the power goes, some of what was not synced.
    #[derive(Debug, Default, Clone)]
    struct Model(Arc<Mutex<Files>>);

    impl Model {
        fn crash(&self, mut keeps: impl FnMut() -> bool) {
            let mut files = self.0.lock().unwrap();
            files.fails_in = None;
            let removed = std::mem::take(&mut files.removed);
            for (name, file) in removed {
                if keeps() {
                    files.files.entry(name).or_insert(file);
                }
            }
            for file in files.files.values_mut() {
                // Sectors arrive in any order: each is there or full of zeros, and the file may be shorter.
                let unsynced = file.content.split_off(file.synced);
                let kept: Vec<(bool, &[u8])> =
                    unsynced.chunks(SECTOR).map(|sector| (keeps(), sector)).collect();
                let until = kept.iter().rposition(|(kept, _)| *kept).map_or(0, |last| last + 1);
                for (kept, sector) in &kept[..until] {
                    file.content.extend(sector.iter().map(|byte| if *kept { *byte } else { 0 }));
                }
                file.synced = file.content.len();
            }
        }

        fn op(&self) -> io::Result<()> {
            let mut files = self.0.lock().unwrap();
            match &mut files.fails_in {
                Some(0) => Err(io::Error::other("the disk fails")),
                Some(left) => {
                    *left -= 1;
                    Ok(())
                }
                None => Ok(()),
            }
        }
    }

    impl Disk for Model {
        fn list(&self) -> io::Result<Vec<String>> {
            Ok(self.0.lock().unwrap().files.keys().cloned().collect())
        }

        fn len(&self, file: &str) -> io::Result<u64> {
            Ok(self.0.lock().unwrap().files[file].content.len() as u64)
        }

        fn read(&self, file: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
            let files = self.0.lock().unwrap();
            let content = &files.files[file].content;
            let from = (offset as usize).min(content.len());
            Ok(content[from..(from + length).min(content.len())].to_vec())
        }

        fn create(&mut self, file: &str) -> io::Result<()> {
            self.op()?;
            self.0.lock().unwrap().files.insert(file.to_owned(), File::default());
            Ok(())
        }

        fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
            let failed = self.op();
            let mut files = self.0.lock().unwrap();
            let content = &mut files.files.get_mut(file).unwrap().content;
            // A failed write may have written some of it.
            let written = if failed.is_ok() { bytes.len() } else { bytes.len() / 2 };
            content.extend_from_slice(&bytes[..written]);
            failed
        }

        fn sync(&mut self, file: &str) -> io::Result<()> {
            self.op()?;
            let mut files = self.0.lock().unwrap();
            let file = files.files.get_mut(file).unwrap();
            file.synced = file.content.len();
            Ok(())
        }

        fn truncate(&mut self, file: &str, length: u64) -> io::Result<()> {
            self.op()?;
            let mut files = self.0.lock().unwrap();
            let file = files.files.get_mut(file).unwrap();
            file.content.truncate(length as usize);
            file.synced = file.content.len();
            Ok(())
        }

        fn replace(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
            self.op()?;
            let new = File { content: bytes.to_vec(), synced: bytes.len() };
            self.0.lock().unwrap().files.insert(file.to_owned(), new);
            Ok(())
        }

        fn remove(&mut self, file: &str) -> io::Result<()> {
            self.op()?;
            let mut files = self.0.lock().unwrap();
            let gone = files.files.remove(file).unwrap();
            files.removed.insert(file.to_owned(), gone);
            Ok(())
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Appends so many messages.
        Append(usize),
        /// Takes so many.
        Drain(usize),
        /// The disk fails from so many operations on; a crash mends it.
        Fail(u32),
        Crash(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (1_usize..5).prop_map(Step::Append),
            4 => (1_usize..6).prop_map(Step::Drain),
            1 => (0_u32..4).prop_map(Step::Fail),
            2 => any::<u64>().prop_map(Step::Crash),
        ]
    }

    fn body(message: &Spooled) -> u32 {
        let bytes = &message.message.body;
        u32::from_be_bytes(*bytes.first_chunk().unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]
        #[test]
        fn what_was_acknowledged_comes_out_in_order_whatever_is_torn(steps in proptest::collection::vec(step(), 1..40)) {
            let disk = Model::default();
            let mut log = Log::open(disk.clone()).unwrap();
            let mut number = 0_u32;
            // Acknowledged and not drained, in order; and what may be there as well.
            let mut held: VecDeque<u32> = VecDeque::new();
            let mut perhaps: Vec<u32> = Vec::new();
            let drain = |log: &mut Log<Model>, most: usize, held: &mut VecDeque<u32>, perhaps: &mut Vec<u32>| -> Result<(), TestCaseError> {
                let Ok(items) = log.read(usize::MAX, most) else { return Ok(()) };
                for item in items {
                    let after = item.after();
                    let seen = match &item {
                        Item::Message { spooled, .. } => {
                            let seen = body(spooled);
                            // What was drained before a crash may come again, but only from the front.
                            prop_assert!(held.front() == Some(&seen) || perhaps.contains(&seen), "{seen} out of order: {held:?}");
                            Some(seen)
                        }
                        Item::Damaged { .. } => None,
                    };
                    let advanced = log.advance(after);
                    if seen.is_some() && held.front() == seen.as_ref() {
                        held.pop_front();
                    }
                    if advanced.is_err() {
                        // It was stored, and may be once more.
                        perhaps.extend(seen);
                        break;
                    }
                }
                Ok(())
            };
            for step in steps {
                match step {
                    Step::Append(count) => {
                        let messages: Vec<Spooled> = (number..).take(count)
                            .map(|n| spooled([&n.to_be_bytes()[..], &vec![7; (n % 50) as usize]].concat(), None)).collect();
                        let numbers = number..number + count as u32;
                        number = numbers.end;
                        match log.append(&messages) {
                            Ok(()) => held.extend(numbers),
                            Err(error) if error.perhaps_there => perhaps.extend(numbers),
                            Err(_) => {}
                        }
                    }
                    Step::Drain(most) => drain(&mut log, most, &mut held, &mut perhaps)?,
                    Step::Fail(after) => disk.0.lock().unwrap().fails_in = Some(after),
                    Step::Crash(seed) => {
                        drop(log);
                        let mut random = fastrand::Rng::with_seed(seed);
                        disk.crash(|| random.bool());
                        log = Log::open(disk.clone()).unwrap();
                        prop_assert!(log.messages() >= held.len() as u64, "{} of {held:?}", log.messages());
                    }
                }
            }
            disk.0.lock().unwrap().fails_in = None;
            let before = held.len();
            drain(&mut log, usize::MAX, &mut held, &mut perhaps)?;
            drain(&mut log, usize::MAX, &mut held, &mut perhaps)?;
            prop_assert!(held.is_empty(), "{held:?} of {before} did not come out");
            prop_assert_eq!(log.messages(), 0);
            prop_assert_eq!(log.bytes(), 0);
        }
    }

    #[test]
    fn a_damaged_message_is_set_aside_and_those_behind_it_come_out() {
        let disk = Model::default();
        let mut log = Log::open(disk.clone()).unwrap();
        let messages: Vec<Spooled> = (0_u32..5).map(|n| spooled(n.to_be_bytes().to_vec(), None)).collect();
        log.append(&messages).unwrap();
        let whole = log.bytes() as usize;
        {
            let mut files = disk.0.lock().unwrap();
            let file = files.files.get_mut(&name(0)).unwrap();
            // The payload of the third.
            file.content[whole * 2 / 5 + HEAD + 40] ^= 1;
        }
        let mut log = Log::open(disk).unwrap();
        let items = log.read(usize::MAX, usize::MAX).unwrap();
        let said: Vec<String> = items
            .iter()
            .map(|item| match item {
                Item::Message { spooled, .. } => body(spooled).to_string(),
                Item::Damaged { missing, .. } => format!("damaged {missing}"),
            })
            .collect();
        assert_eq!(said, ["0", "1", "damaged 1", "3", "4"]);
    }
}
