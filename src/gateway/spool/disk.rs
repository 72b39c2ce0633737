//! What the spool asks of a disk, so that a test can stand in for one that loses what was not synced.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _},
    path::Path,
};

/// One folder of files.
pub(super) trait Disk: Send {
    /// The names of its files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// How long a file is.
    fn len(&self, file: &str) -> io::Result<u64>;
    /// Up to `length` bytes from `offset` on; fewer only at the end.
    fn read(&self, file: &str, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    /// Makes a file, and sees that it is there after a crash.
    fn create(&mut self, file: &str) -> io::Result<()>;
    /// Adds to a file; lost in a crash, or kept in parts, unless it was synced.
    fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()>;
    /// Sees that all that was added to a file is there after a crash.
    fn sync(&mut self, file: &str) -> io::Result<()>;
    /// Cuts a file off.
    fn truncate(&mut self, file: &str, length: u64) -> io::Result<()>;
    /// Puts something in a file's place: after a crash there is the old content or the new one.
    fn replace(&mut self, file: &str, bytes: &[u8]) -> io::Result<()>;
    /// Takes a file away, if it is there; it may be back after a crash.
    fn remove(&mut self, file: &str) -> io::Result<()>;
    /// Gives a file, if it is there, another name; it may have the old one after a crash.
    fn rename(&mut self, file: &str, to: &str) -> io::Result<()>;
}

/// Makes a folder for this user alone, with those above it, and sees that it is there after a crash.
pub(super) fn make(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new(""));
    make(parent)?;
    DirBuilder::new().mode(0o700).create(path)?;
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    File::open(parent)?.sync_all()
}

/// A folder of the file system.
#[derive(Debug)]
pub(super) struct Folder(std::path::PathBuf);

impl Folder {
    /// Makes the folder if it is not there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        make(path)?;
        Ok(Self(path.to_owned()))
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.0)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn len(&self, file: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.0.join(file))?.len())
    }

    fn read(&self, file: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = File::open(self.0.join(file))?;
        let mut bytes = vec![0; length];
        let mut read = 0;
        while read < length {
            match file.read_at(&mut bytes[read..], offset + read as u64)? {
                0 => break,
                more => read += more,
            }
        }
        bytes.truncate(read);
        Ok(bytes)
    }

    fn create(&mut self, file: &str) -> io::Result<()> {
        File::create(self.0.join(file))?.sync_all()?;
        self.sync_folder()
    }

    fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        OpenOptions::new().append(true).open(self.0.join(file))?.write_all(bytes)
    }

    fn sync(&mut self, file: &str) -> io::Result<()> {
        File::open(self.0.join(file))?.sync_data()
    }

    fn truncate(&mut self, file: &str, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.0.join(file))?;
        file.set_len(length)?;
        file.sync_all()
    }

    fn replace(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let new = self.0.join(format!("{file}.new"));
        let mut written = File::create(&new)?;
        written.write_all(bytes)?;
        written.sync_data()?;
        fs::rename(new, self.0.join(file))
    }

    fn remove(&mut self, file: &str) -> io::Result<()> {
        if_there(fs::remove_file(self.0.join(file)))
    }

    fn rename(&mut self, file: &str, to: &str) -> io::Result<()> {
        if_there(fs::rename(self.0.join(file), self.0.join(to)))
    }
}

/// A file that somebody else has taken away is as good as taken away.
fn if_there(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
