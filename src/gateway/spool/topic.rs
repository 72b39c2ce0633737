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

use tokio::{
    sync::{OwnedMutexGuard, Semaphore, SemaphorePermit},
    task,
    time::Instant,
};

use super::{
    SpoolConfig,
    disk::Folder,
    log::{AppendError, Item, Log, Place},
    metrics::Counters,
    record::Spooled,
};
use crate::rocketmq::{Message, producer::unix_millis, unique_key::UniqueKey};

const MAX_DISK_USE: &str = "spool-max-disk-use";
/// For so long the spool is not counted on after something was not taken: until somebody tries again, nobody knows.
const NOT_TAKEN_FOR: Duration = Duration::from_secs(10);
/// So many topics of a kind hold what they drain in memory at a time.
const TURNS: usize = 4;

/// What all topics have in use, and may.
#[derive(Debug)]
pub(super) struct Usage {
    bytes: AtomicU64,
    max_bytes: u64,
    max_topic_bytes: u64,
    max_age: Duration,
    max_disk_use: u8,
    /// Whether the disk was too full when somebody last wanted to add something.
    was_full: AtomicBool,
    /// When something was not taken last, whatever kept it out.
    not_taken: Mutex<Option<Instant>>,
    root: PathBuf,
    turns: [Semaphore; 2],
}

impl Usage {
    pub(super) fn new(config: &SpoolConfig, root: PathBuf) -> Self {
        Self {
            bytes: AtomicU64::new(0),
            max_bytes: config.max_bytes,
            max_topic_bytes: config.max_topic_bytes,
            max_age: config.max_age,
            max_disk_use: config.max_disk_use,
            was_full: AtomicBool::new(false),
            not_taken: Mutex::default(),
            root,
            turns: [Semaphore::new(TURNS), Semaphore::new(TURNS)],
        }
    }

    /// Which bound keeps every topic out, as far as is known without asking the disk: whoever looks at this must not wait for it.
    fn refuses(&self) -> Option<&'static str> {
        let full = || self.was_full.load(Ordering::Relaxed).then_some(MAX_DISK_USE);
        self.passes().or_else(full)
    }

    /// Whether it can be expected to take what comes, as far as is known without asking the disk.
    pub(super) fn takes(&self) -> bool {
        let not_taken = *self.not_taken.lock().unwrap_or_else(PoisonError::into_inner);
        self.passes().is_none() && not_taken.is_none_or(|at| at.elapsed() >= NOT_TAKEN_FOR)
    }

    fn passes(&self) -> Option<&'static str> {
        (self.bytes.load(Ordering::Relaxed) >= self.max_bytes).then_some("spool-max-bytes")
    }

    /// Whether the disk may take more. It is asked, and may not answer for long.
    fn disk_has_room(&self) -> Result<(), NotSpooled> {
        // Who cannot say how full the disk is will find out by writing.
        let full = disk_use(&self.root).is_ok_and(|percent| percent > self.max_disk_use);
        self.was_full.store(full, Ordering::Relaxed);
        if full { Err(NotSpooled::Full(MAX_DISK_USE)) } else { Ok(()) }
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

/// What is kept in memory of a message that is on the disk.
#[derive(Debug, Clone, Copy)]
pub(in crate::gateway) struct Appended {
    pub(in crate::gateway) unique_key: UniqueKey,
    pub(in crate::gateway) born_at: i64,
    pub(in crate::gateway) deliver_at: Option<i64>,
}

impl From<&Message> for Appended {
    fn from(message: &Message) -> Self {
        let Message { unique_key, born_at, deliver_at, .. } = *message;
        Self { unique_key, born_at, deliver_at }
    }
}

/// What there is.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Standing {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) oldest_ms: Option<i64>,
}

/// What is known of the log without waiting for it.
#[derive(Debug)]
struct Noted {
    standing: Mutex<Standing>,
    usage: Arc<Usage>,
}

impl Noted {
    /// The log must be locked: notes that were taken in another order than things happened would end spooling over messages that
    /// are there.
    fn take(&self, log: &Log<Folder>) {
        let now = Standing { messages: log.messages(), bytes: log.bytes(), oldest_ms: log.oldest_ms() };
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *standing, now);
        // In this order, or another topic might meet a bound for a moment.
        self.usage.bytes.fetch_sub(before.bytes, Ordering::Relaxed);
        self.usage.bytes.fetch_add(now.bytes, Ordering::Relaxed);
    }
}

/// One topic's messages.
#[derive(Debug)]
pub(in crate::gateway) struct TopicSpool {
    folder: PathBuf,
    takes: bool,
    pub(super) counters: Arc<Counters>,
    log: Arc<Mutex<Option<Log<Folder>>>>,
    noted: Arc<Noted>,
    spooling: AtomicBool,
    gate: Arc<tokio::sync::Mutex<()>>,
}

impl TopicSpool {
    pub(super) fn new(folder: PathBuf, takes: bool, usage: Arc<Usage>, counters: Arc<Counters>) -> Self {
        Self {
            folder,
            takes,
            counters,
            log: Arc::default(),
            noted: Arc::new(Noted { standing: Mutex::default(), usage }),
            spooling: AtomicBool::new(false),
            gate: Arc::default(),
        }
    }

    /// Looks at what is there, on this thread. Where the disk does not say, publishes are refused until it does: they must not overtake
    /// what may be there.
    pub(super) fn open_now(&self) -> io::Result<()> {
        let opened = with_log(&self.log, &self.folder, |log| {
            self.noted.take(log);
            Ok(())
        });
        self.spooling.store(opened.is_err() || self.messages() > 0, Ordering::SeqCst);
        opened
    }

    /// Whether new publishes must go behind spooled ones.
    pub(in crate::gateway) fn is_spooling(&self) -> bool {
        self.spooling.load(Ordering::SeqCst)
    }

    /// As long as it is held, nobody adds anything or ends spooling.
    pub(super) async fn gate(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.gate).lock_owned().await
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
        *self.noted.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages that wait.
    pub(in crate::gateway) fn messages(&self) -> u64 {
        self.standing().messages
    }

    pub(super) fn in_words(&self) -> String {
        let Standing { messages, bytes, .. } = self.standing();
        let age = self.age().as_secs();
        let refuses = self.refuses().map_or_else(String::new, |bound| format!(", refusing: {bound}"));
        format!("{messages} spooled messages of {bytes} bytes, the oldest {age} s old{refuses}")
    }

    /// How long the oldest message has waited.
    pub(super) fn age(&self) -> Duration {
        let oldest = self.standing().oldest_ms;
        let age = oldest.map_or(0, |oldest| unix_millis().saturating_sub(oldest));
        Duration::from_millis(u64::try_from(age).unwrap_or(0))
    }

    /// Which bound keeps this topic out, as [`Usage::refuses`].
    fn refuses(&self) -> Option<&'static str> {
        self.passes().or_else(|| self.noted.usage.refuses())
    }

    /// Takes note that something was not taken.
    pub(super) fn not_taken(&self) {
        let mut not_taken = self.noted.usage.not_taken.lock().unwrap_or_else(PoisonError::into_inner);
        *not_taken = Some(Instant::now());
    }

    /// Which bound is passed, of those that are known without asking the disk.
    fn passes(&self) -> Option<&'static str> {
        let usage = &self.noted.usage;
        let of_all = usage.passes();
        let of_topic = (self.standing().bytes >= usage.max_topic_bytes).then_some("spool-max-topic-bytes");
        of_all.or(of_topic).or_else(|| (self.age() > usage.max_age).then_some("spool-max-age"))
    }

    /// Does something with the log, on a thread that may block.
    async fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Log<Folder>) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (log, folder, noted) = (Arc::clone(&self.log), self.folder.clone(), Arc::clone(&self.noted));
        let acted = task::spawn_blocking(move || {
            with_log(&log, &folder, |log| {
                let done = act(log);
                noted.take(log);
                done
            })
        });
        acted.await.map_err(io::Error::other)?
    }

    /// Adds messages, all or none; on the disk when it returns. They are made as they are written. The gate must be held.
    pub(super) async fn append(
        &self,
        messages: impl Iterator<Item = Message> + Send + 'static,
    ) -> Result<Vec<Appended>, NotSpooled> {
        let appended = self.try_append(messages).await;
        if appended.is_err() {
            self.not_taken();
        }
        match &appended {
            Ok(messages) => self.counters.appended(messages.len() as u64),
            Err(NotSpooled::Full(bound)) => self.counters.refused(bound),
            Err(NotSpooled::Disk(_)) => self.counters.refused("disk"),
            Err(NotSpooled::Draining) => {}
        }
        appended
    }

    async fn try_append(
        &self,
        messages: impl Iterator<Item = Message> + Send + 'static,
    ) -> Result<Vec<Appended>, NotSpooled> {
        if !self.takes {
            return Err(NotSpooled::Draining);
        }
        if let Some(bound) = self.passes() {
            return Err(NotSpooled::Full(bound));
        }
        let usage = Arc::clone(&self.noted.usage);
        let spooled_ms = unix_millis();
        let append = move |log: &mut Log<Folder>| {
            usage.disk_has_room()?;
            let mut appended = Vec::new();
            log.append(messages.map(|message| {
                appended.push(Appended::from(&message));
                Spooled { message, spooled_ms }
            }))?;
            Ok(appended)
        };
        // Between the two is the outcome: what the log says of it must not be mixed with a log that could not be opened.
        let appended = self.with(move |log| Ok(append(log))).await;
        appended.unwrap_or_else(|error| Err(AppendError { error, perhaps_there: false }.into()))
    }

    /// Whether it is certain that no message is left: not while the log cannot be opened.
    pub(super) async fn is_empty(&self) -> bool {
        self.with(|log| Ok(log.messages() == 0)).await.unwrap_or(false)
    }

    /// A turn at holding messages in memory to send them. Who was in vain the last time waits among its like: its try may take
    /// long, and those that RocketMQ takes messages of need not wait for it.
    pub(super) async fn turn(&self, in_vain: bool) -> Option<SemaphorePermit<'_>> {
        self.noted.usage.turns[usize::from(in_vain)].acquire().await.ok()
    }

    /// The first messages, up to about so many bytes.
    pub(super) async fn read(&self, bytes: usize, messages: usize) -> io::Result<Vec<Item>> {
        self.with(move |log| log.read(bytes, messages)).await
    }

    /// See [`Log::advance`].
    pub(super) async fn advance(&self, to: Place) -> io::Result<io::Result<()>> {
        self.with(move |log| log.advance(to)).await
    }

    /// See [`Log::again`].
    pub(super) async fn again(&self) -> usize {
        let again = self.with(|log| Ok(log.again())).await;
        again.map_or(0, |messages| usize::try_from(messages).unwrap_or(usize::MAX))
    }

    /// Keeps bytes for a person to look at; the path of the file they are in.
    pub(super) async fn set_aside(&self, file: &'static str, bytes: Vec<u8>) -> io::Result<PathBuf> {
        self.with(move |log| log.set_aside(file, &bytes)).await?;
        Ok(self.folder.join(file))
    }

    /// See [`Log::keep`].
    pub(super) async fn keep(&self, to: Place) -> io::Result<()> {
        self.with(move |log| {
            log.keep(to);
            Ok(())
        })
        .await
    }
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

#[cfg(test)]
mod tests {
    use std::{pin::pin, thread};

    use bytes::Bytes;
    use futures_util::poll;

    use super::*;
    use crate::rocketmq::{properties::PropertiesBuilder, unique_key::UniqueKeys};

    #[tokio::test]
    async fn what_is_added_is_counted_though_an_earlier_read_is_heard_of_later() {
        let folder = tempfile::tempdir().unwrap();
        let config = SpoolConfig { max_disk_use: 100, ..SpoolConfig::default() };
        let usage = Arc::new(Usage::new(&config, folder.path().to_owned()));
        let spool = TopicSpool::new(folder.path().join("topic"), true, usage, Arc::default());
        let message = Message {
            body: Bytes::from_static(b"one"),
            properties: PropertiesBuilder::new(),
            unique_key: UniqueKeys::new().mint(),
            born_at: 0,
            deliver_at: None,
        };
        let mut read = pin!(spool.read(1 << 20, 10));
        assert!(poll!(read.as_mut()).is_pending());
        // A read that is not over yet would find the message.
        while spool.log.lock().unwrap().is_none() {
            thread::yield_now();
        }
        spool.append([message].into_iter()).await.unwrap();
        let found = read.await.unwrap();
        assert_eq!((found.len(), spool.messages()), (0, 1));
    }

    #[tokio::test]
    async fn few_topics_have_a_turn_at_a_time_and_those_in_vain_do_not_hold_up_the_others() {
        let usage = Arc::new(Usage::new(&SpoolConfig::default(), PathBuf::new()));
        let spool = || TopicSpool::new(PathBuf::new(), true, Arc::clone(&usage), Arc::default());
        let spools: Vec<TopicSpool> = (0..=TURNS).map(|_| spool()).collect();
        let mut turns: Vec<_> = Vec::new();
        for spool in &spools[..TURNS] {
            turns.push(spool.turn(true).await);
        }
        let mut one_more = pin!(spools[TURNS].turn(true));
        assert!(poll!(one_more.as_mut()).is_pending());
        assert!(poll!(pin!(spools[TURNS].turn(false))).is_ready());
        turns.pop();
        assert!(poll!(one_more).is_ready());
    }

    #[tokio::test]
    async fn a_topic_whose_folder_cannot_be_looked_at_is_refused_alone_and_until_it_can() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("topic-broken");
        // A file in the place of a folder.
        std::fs::write(&folder, "").unwrap();
        let config = SpoolConfig { max_disk_use: 100, ..SpoolConfig::default() };
        let usage = Arc::new(Usage::new(&config, root.path().to_owned()));
        let spool =
            |name: &str| TopicSpool::new(root.path().join(name), true, Arc::clone(&usage), Arc::default());
        let (broken, whole) = (spool("topic-broken"), spool("topic-whole"));
        assert!(broken.open_now().is_err() && whole.open_now().is_ok());
        assert!(broken.is_spooling() && !whole.is_spooling());
        assert!(!broken.is_empty().await && whole.is_empty().await);
        assert!(matches!(broken.append(std::iter::empty()).await, Err(NotSpooled::Disk(_))));
        std::fs::remove_file(folder).unwrap();
        assert!(broken.is_empty().await);
    }
}
