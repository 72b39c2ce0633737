//! One topic's part of the spool: whether there is anything, what may still be added, and the way to its log.
//!
//! The log blocks, so it is used on threads that may. Who adds or ends spooling holds [`TopicSpool::gate`]: so nobody publishes past
//! messages that are being added.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::MutexGuard, task};

use super::{
    SpoolConfig,
    disk::Folder,
    log::{AppendError, Item, Log, Place},
    metrics::Counters,
    record::Spooled,
};
use crate::rocketmq::producer::unix_millis;

/// What all topics have in use, and may.
#[derive(Debug)]
pub(super) struct Usage {
    bytes: AtomicU64,
    max_bytes: u64,
    max_topic_bytes: u64,
    max_age: Duration,
    max_disk_use: u8,
    root: PathBuf,
}

impl Usage {
    pub(super) fn new(config: &SpoolConfig, root: PathBuf) -> Self {
        Self {
            bytes: AtomicU64::new(0),
            max_bytes: config.max_bytes,
            max_topic_bytes: config.max_topic_bytes,
            max_age: config.max_age,
            max_disk_use: config.max_disk_use,
            root,
        }
    }
}

/// Percent of the disk below `path` that is in use.
fn disk_use(path: &Path) -> io::Result<u8> {
    let disk = rustix::fs::statvfs(path)?;
    // What only root may use counts as used, as `df` counts.
    let used = disk.f_blocks.saturating_sub(disk.f_bfree);
    let total = used + disk.f_bavail;
    Ok(u8::try_from((used * 100).div_ceil(total.max(1))).unwrap_or(100))
}

/// Why messages were not spooled.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotSpooled {
    /// Past a bound.
    #[error("not spooled: {0}")]
    Full(&'static str),
    /// The topic's policy is to refuse now, and what was spooled before is not drained yet.
    #[error("messages spooled before are not drained yet, and --on-unavailable is refuse now")]
    Draining,
    /// The disk failed.
    #[error("not spooled: {0}")]
    Disk(#[from] AppendError),
}

/// What there is.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Standing {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) oldest_ms: Option<i64>,
}

/// One topic's messages.
#[derive(Debug)]
pub(in crate::gateway) struct TopicSpool {
    folder: PathBuf,
    takes: bool,
    usage: Arc<Usage>,
    pub(super) counters: Arc<Counters>,
    log: Arc<Mutex<Option<Log<Folder>>>>,
    standing: Mutex<Standing>,
    spooling: AtomicBool,
    gate: tokio::sync::Mutex<()>,
}

impl TopicSpool {
    pub(super) fn new(folder: PathBuf, takes: bool, usage: Arc<Usage>, counters: Arc<Counters>) -> Self {
        Self {
            folder,
            takes,
            usage,
            counters,
            log: Arc::default(),
            standing: Mutex::default(),
            spooling: AtomicBool::new(false),
            gate: tokio::sync::Mutex::default(),
        }
    }

    /// Looks at what is there, on this thread.
    pub(super) fn open_now(&self) -> io::Result<()> {
        let standing = with_log(&self.log, &self.folder, |log| Ok(standing(log)))?;
        self.take_note(standing);
        self.spooling.store(standing.messages > 0, Ordering::SeqCst);
        Ok(())
    }

    /// Whether new publishes must go behind spooled ones.
    pub(in crate::gateway) fn is_spooling(&self) -> bool {
        self.spooling.load(Ordering::SeqCst)
    }

    /// As long as it is held, nobody adds anything or ends spooling.
    pub(super) async fn gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().await
    }

    /// Publishes go here from now on; whether they did not before. The gate must be held.
    pub(super) fn begin(&self) -> bool {
        !self.spooling.swap(true, Ordering::SeqCst)
    }

    /// Publishes go to RocketMQ again. The gate must be held, and nothing be left.
    pub(super) fn end(&self) {
        self.spooling.store(false, Ordering::SeqCst);
    }

    pub(super) fn standing(&self) -> Standing {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages that wait.
    pub(in crate::gateway) fn messages(&self) -> u64 {
        self.standing().messages
    }

    pub(super) fn in_words(&self) -> String {
        let Standing { messages, bytes, .. } = self.standing();
        let age = self.age().as_secs();
        let refuses = self.refuses().map_or_else(String::new, |reason| format!(", refusing: {reason}"));
        format!("{messages} spooled messages of {bytes} bytes, the oldest {age} s old{refuses}")
    }

    /// How long the oldest message has waited.
    pub(super) fn age(&self) -> Duration {
        let oldest = self.standing().oldest_ms;
        let age = oldest.map_or(0, |oldest| unix_millis().saturating_sub(oldest));
        Duration::from_millis(u64::try_from(age).unwrap_or(0))
    }

    /// Which bound is passed.
    fn refuses(&self) -> Option<&'static str> {
        let usage = &self.usage;
        if usage.bytes.load(Ordering::Relaxed) >= usage.max_bytes {
            return Some("spool-max-bytes");
        }
        if self.standing().bytes >= usage.max_topic_bytes {
            return Some("spool-max-topic-bytes");
        }
        if self.age() > usage.max_age {
            return Some("spool-max-age");
        }
        // Who cannot say how full the disk is will find out by writing.
        let full = disk_use(&usage.root).is_ok_and(|percent| percent > usage.max_disk_use);
        full.then_some("spool-max-disk-use")
    }

    fn take_note(&self, now: Standing) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *standing, now);
        self.usage.bytes.fetch_add(now.bytes, Ordering::Relaxed);
        self.usage.bytes.fetch_sub(before.bytes, Ordering::Relaxed);
    }

    /// Does something with the log, on a thread that may block.
    async fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Log<Folder>) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (log, folder) = (Arc::clone(&self.log), self.folder.clone());
        let acted = task::spawn_blocking(move || {
            with_log(&log, &folder, |log| {
                let done = act(log);
                Ok((done, standing(log)))
            })
        });
        let (done, standing) = acted.await.map_err(io::Error::other)??;
        self.take_note(standing);
        done
    }

    /// Adds messages, all or none; on the disk when it returns. The gate must be held.
    pub(super) async fn append(&self, messages: Vec<Spooled>) -> Result<(), NotSpooled> {
        if !self.takes {
            return Err(NotSpooled::Draining);
        }
        if let Some(bound) = self.refuses() {
            self.counters.refused(bound);
            return Err(NotSpooled::Full(bound));
        }
        let count = messages.len() as u64;
        // Between the two is the outcome: what the log says of it must not be mixed with a log that could not be opened.
        let appended = self.with(move |log| Ok(log.append(&messages))).await;
        match appended {
            Ok(Ok(())) => {
                self.counters.appended(count);
                Ok(())
            }
            Ok(Err(error)) => {
                self.counters.refused("disk");
                Err(error.into())
            }
            Err(error) => {
                self.counters.refused("disk");
                Err(AppendError { error, perhaps_there: false }.into())
            }
        }
    }

    /// The first messages, up to about so many bytes.
    pub(super) async fn read(&self, bytes: usize, messages: usize) -> io::Result<Vec<Item>> {
        self.with(move |log| log.read(bytes, messages)).await
    }

    /// Is done with everything before a place.
    pub(super) async fn advance(&self, to: Place) -> io::Result<()> {
        self.with(move |log| log.advance(to)).await
    }

    /// Keeps bytes for a person to look at; the path of the file they are in.
    pub(super) async fn set_aside(&self, file: &'static str, bytes: Vec<u8>) -> io::Result<PathBuf> {
        self.with(move |log| log.set_aside(file, &bytes)).await?;
        Ok(self.folder.join(file))
    }
}

fn standing(log: &Log<Folder>) -> Standing {
    Standing { messages: log.messages(), bytes: log.bytes(), oldest_ms: log.oldest_ms() }
}

/// The log, opened if it is not.
fn with_log<T>(
    log: &Mutex<Option<Log<Folder>>>,
    folder: &Path,
    act: impl FnOnce(&mut Log<Folder>) -> io::Result<T>,
) -> io::Result<T> {
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    let opened = match log.take() {
        Some(opened) => opened,
        None => Log::open(Folder::open(folder)?)?,
    };
    act(log.insert(opened))
}
