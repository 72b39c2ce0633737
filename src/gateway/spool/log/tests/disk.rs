//! A disk that fails where it is told to.
//!
//! Power that goes between two sectors, a write that stops half-way, a block that goes bad: no real disk can be made to do that, and the
//! same way again. This one does it on demand, so that what the log promises can be tried against all of it, and a failure be repeated.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex},
};

use rustix::io::Errno;

use crate::gateway::spool::{disk::Disk, log::BLOCK};

/// Bytes a disk writes as one; small, so that messages are torn often.
const SECTOR: usize = 16;

#[derive(Debug, Default, Clone)]
pub(super) struct File {
    pub(super) content: Vec<u8>,
    synced: usize,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Files {
    pub(super) files: BTreeMap<String, File>,
    /// Taken away since the last crash.
    removed: BTreeMap<String, File>,
    /// Operations until one fails.
    pub(super) fails_in: Option<u32>,
    /// Blocks of a file that cannot be read.
    pub(super) bad: BTreeSet<(String, u64)>,
}

/// A disk that forgets, when the power goes, some of what was not synced.
#[derive(Debug, Default, Clone)]
pub(super) struct Model(pub(super) Arc<Mutex<Files>>);

impl Model {
    pub(super) fn crash(&self, mut keeps: impl FnMut() -> bool) {
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
            let kept: Vec<(bool, &[u8])> = unsynced.chunks(SECTOR).map(|sector| (keeps(), sector)).collect();
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
        let blocks = offset / BLOCK as u64..(offset + length as u64).div_ceil(BLOCK as u64);
        if blocks.into_iter().any(|block| files.bad.contains(&(file.to_owned(), block))) {
            return Err(Errno::IO.into());
        }
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

    fn rename(&mut self, file: &str, to: &str) -> io::Result<()> {
        self.op()?;
        let mut files = self.0.lock().unwrap();
        let moved = files.files.remove(file).unwrap();
        files.files.insert(to.to_owned(), moved);
        Ok(())
    }
}
