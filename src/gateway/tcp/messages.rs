//! The messages of an `MPUB` as they come: looked through where they lie, so that what is wrong with one is said before the next has come,
//! and none is moved before all are there.

use super::{commands::Limits, replies::Fault};
use crate::nsq::mpub::{COUNT_BYTES, SIZE_BYTES, legal_count};

/// How far the messages of an `MPUB` have come.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// Known once the first four bytes are there.
    count: Option<usize>,
    found: usize,
    /// Bytes up to the end of the last message found.
    scanned: usize,
}

impl Messages {
    /// Looks on from where it stopped; once all messages are there, the bytes they take.
    pub(super) fn find(&mut self, buffer: &[u8], limits: &Limits) -> Result<Option<usize>, Fault> {
        let Limits { max_msg_size, max_body_size, .. } = *limits;
        let bad = |words: String| Err(Fault::new("E_BAD_MESSAGE", words));
        let count = match self.count {
            Some(count) => count,
            None => {
                let Some(count) = number(buffer, 0) else { return Ok(None) };
                let wrong = || Fault::new("E_BAD_BODY", format!("MPUB invalid message count {count}"));
                self.scanned = COUNT_BYTES;
                *self.count.insert(legal_count(count, max_body_size).ok_or_else(wrong)?)
            }
        };
        while self.found < count {
            let Some(size) = number(buffer, self.scanned) else { return Ok(None) };
            let bytes = match usize::try_from(size) {
                Ok(bytes @ 1..) => bytes,
                _ => return bad(format!("MPUB invalid message({}) body size {size}", self.found)),
            };
            if bytes > max_msg_size {
                return bad(format!("MPUB message too big {bytes} > {max_msg_size}"));
            }
            let end = self.scanned + SIZE_BYTES + bytes;
            // Whatever was announced: all of it is held in memory.
            if end > max_body_size {
                return Err(Fault::new("E_BAD_BODY", format!("MPUB body too big {end} > {max_body_size}")));
            }
            if buffer.len() < end {
                return Ok(None);
            }
            self.found += 1;
            self.scanned = end;
        }
        Ok(Some(self.scanned))
    }

    /// The bytes that are needed to look on.
    pub(super) fn needed(&self, buffer: &[u8]) -> usize {
        let message = number(buffer, self.scanned).and_then(|size| usize::try_from(size).ok());
        match (self.count, message) {
            (None, _) => COUNT_BYTES,
            (Some(_), bytes) => self.scanned + SIZE_BYTES + bytes.unwrap_or(0),
        }
    }

    /// What is wrong when nothing more comes.
    pub(super) fn cut_off(&self, buffer: &[u8]) -> Fault {
        match (self.count, number(buffer, self.scanned)) {
            (None, _) => Fault::new("E_BAD_BODY", "MPUB failed to read message count"),
            (_, None) => {
                let words = format!("MPUB failed to read message({}) body size", self.found);
                Fault::new("E_BAD_MESSAGE", words)
            }
            (_, Some(_)) => Fault::new("E_BAD_MESSAGE", "MPUB failed to read message body"),
        }
    }
}

/// A signed number, big-endian, if it is there.
pub(super) fn number(buffer: &[u8], at: usize) -> Option<i32> {
    buffer.get(at..)?.first_chunk().map(|bytes| i32::from_be_bytes(*bytes))
}
