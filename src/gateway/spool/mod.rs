//! What is published while RocketMQ is away, kept on this machine's disk until it is back.
//!
//! ```text
//! publish ─▶ lane ─▶ enter ─▶ RocketMQ                  as long as it takes messages
//!                      └────▶ topic ─▶ log ─▶ disk      append, sync, only then OK
//!                               └▶ drain ─▶ RocketMQ    in order, with the ids of then, when it is back
//! ```
//!
//! What it promises, for topics whose policy is [`OnUnavailable::Spool`]:
//! - `OK` means that RocketMQ has answered `SEND_OK`, or that the message is synced to the disk. Its id is minted once.
//! - A new publish never overtakes spooled ones: while there are any, the topic's publishes go behind them.
//! - What may be stored already is spooled with the same ids: perhaps once more with each try, which become rare, never lost, and each
//!   counted.
//! - A message that cannot be read, or that RocketMQ will never take, is set aside in a file, counted and named in the log; those behind
//!   it go on.
//! - A disk that fails keeps nothing from RocketMQ that it still gives, and no other topic from anything.
//! - Bounds in bytes, age and share of the disk; past them a publish is refused as without a spool.
//! - A producer waits for the disk no longer than for RocketMQ. What a disk takes later all the same is stored.
//!
//! # Why a log of its own
//! Compared were redb 4.6 and fjall 3.1, both well kept. redb trusts a file that was closed in order and may panic over one that was damaged
//! since; one bad page costs the whole file. fjall ends its journal at the first damaged entry, and what stands behind it is
//! gone without a word. Here a damaged message must cost itself only, and say so.

mod disk;
mod drain;
mod enter;
mod log;
mod metrics;
mod record;
#[cfg(test)]
mod tests;
mod topic;
mod tries;

#[cfg(feature = "fuzzing")]
pub(crate) use self::record::{rewritten, scan};

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::error;

pub use self::enter::DISK_TIME;
pub(super) use self::{
    drain::drain,
    enter::enter,
    topic::{Appended, TopicSpool},
};
use self::{metrics::Counters, topic::Usage};
use crate::nsq::names::TopicName;

/// Topics' folders are called this and the topic, which itself may be `..`.
const PREFIX: &str = "topic-";

/// What becomes of publishes while RocketMQ is not available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnavailable {
    /// The producer hears 503.
    Refuse,
    /// They are kept on the disk.
    Spool,
}

/// How to spool.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// The folder; without one nothing is spooled.
    pub path: Option<PathBuf>,
    /// For topics that have no policy of their own.
    pub policy: OnUnavailable,
    /// For some topics.
    pub policies: BTreeMap<TopicName, OnUnavailable>,
    /// How long a publish is tried before it is spooled.
    pub after: Duration,
    /// Bytes of all topics, past which publishes are refused.
    pub max_bytes: u64,
    /// Bytes of one topic.
    pub max_topic_bytes: u64,
    /// A topic whose oldest message has waited longer takes no more.
    pub max_age: Duration,
    /// Percent of the disk that may be used, by whomever.
    pub max_disk_use: u8,
    /// How long a graceful stop waits for RocketMQ to take what is spooled; the rest is kept for the next start.
    pub drain_on_stop: Duration,
}

impl Default for SpoolConfig {
    /// No spool.
    fn default() -> Self {
        Self {
            path: None,
            policy: OnUnavailable::Refuse,
            policies: BTreeMap::new(),
            after: Duration::from_secs(1),
            max_bytes: 1 << 30,
            max_topic_bytes: 1 << 30,
            max_age: Duration::from_secs(3600),
            max_disk_use: 80,
            drain_on_stop: Duration::ZERO,
        }
    }
}

impl SpoolConfig {
    /// Whether any topic is to be spooled.
    #[must_use]
    pub fn spools(&self) -> bool {
        self.policy == OnUnavailable::Spool
            || self.policies.values().any(|policy| *policy == OnUnavailable::Spool)
    }

    fn policy_of(&self, topic: &TopicName) -> OnUnavailable {
        self.policies.get(topic).copied().unwrap_or(self.policy)
    }
}

/// Why there is no spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process has it.
    #[error("{}: another gateway spools there; give each gateway a --spool-path of its own", .0.display())]
    Taken(PathBuf),
    /// The disk refuses.
    #[error("{}: {error}. What is spooled there is left as it is", path.display())]
    Disk {
        /// What was looked at.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// The spool of a gateway.
#[derive(Debug)]
pub(super) struct Spool {
    config: SpoolConfig,
    root: PathBuf,
    /// Held for as long as the spool is used.
    _lock: File,
    usage: Arc<Usage>,
    counters: Arc<Counters>,
    topics: Mutex<BTreeMap<TopicName, Arc<TopicSpool>>>,
    /// Topics that an earlier process has spooled something of.
    earlier: BTreeSet<TopicName>,
}

impl Spool {
    /// Opens the spool, if there is to be one, and finds what an earlier process left there.
    pub(super) fn open(config: SpoolConfig) -> Result<Option<Self>, SpoolError> {
        let Some(root) = config.path.clone() else { return Ok(None) };
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| SpoolError::Disk { path, error }
        };
        disk::make(&root).map_err(failed(&root))?;
        let lock = root.join("lock");
        // What is on a disk that may only be read is to get to RocketMQ all the same.
        let file = File::create(&lock).or_else(|_| File::open(&lock)).map_err(failed(&lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SpoolError::Taken(root)),
            Err(TryLockError::Error(error)) => return Err(failed(&lock)(error)),
        }
        let mut spool = Self {
            usage: Arc::new(Usage::new(&config, root.clone())),
            config,
            _lock: file,
            counters: Arc::default(),
            topics: Mutex::default(),
            earlier: BTreeSet::new(),
            root,
        };
        for entry in fs::read_dir(&spool.root).map_err(failed(&spool.root))? {
            let entry = entry.map_err(failed(&spool.root))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(Ok(topic)) = name.strip_prefix(PREFIX).map(str::parse::<TopicName>) {
                let found = spool.topic(&topic);
                if let Err(error) = found.open_now() {
                    let path = entry.path();
                    error!(%topic, path = %path.display(), %error,
                        "what is spooled for a topic cannot be looked at; its publishes are refused until it can");
                }
                spool.earlier.insert(topic);
            }
        }
        Ok(Some(spool))
    }

    /// Whether what is published to the topic may be spooled.
    pub(super) fn takes(&self, topic: &TopicName) -> bool {
        self.config.policy_of(topic) == OnUnavailable::Spool
    }

    /// Whether the topic is no stranger though RocketMQ cannot be asked: it is named in the settings, or was spooled before.
    pub(super) fn has_met(&self, topic: &TopicName) -> bool {
        self.config.policies.contains_key(topic) || self.earlier.contains(topic)
    }

    /// What is left of a topic from before.
    pub(super) fn left_of(&self, topic: &TopicName) -> Option<Arc<TopicSpool>> {
        self.lock().get(topic).filter(|known| known.is_spooling()).cloned()
    }

    /// A topic's part of it. One is made when something is to be spooled, for there may be very many names.
    pub(super) fn topic(&self, topic: &TopicName) -> Arc<TopicSpool> {
        let made = || {
            let folder = self.root.join(format!("{PREFIX}{topic}"));
            let takes = self.takes(topic);
            Arc::new(TopicSpool::new(folder, takes, Arc::clone(&self.usage), Arc::clone(&self.counters)))
        };
        let mut topics = self.lock();
        // What nobody else has, nobody else can get meanwhile: there are never two logs of one folder.
        topics.retain(|_, topic| Arc::strong_count(topic) > 1 || topic.is_spooling());
        Arc::clone(topics.entry(topic.clone()).or_insert_with(made))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TopicName, Arc<TopicSpool>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The topics that may have spooled messages.
    pub(super) fn topics(&self) -> Vec<(TopicName, Arc<TopicSpool>)> {
        let topics = self.lock();
        topics.iter().map(|(name, topic)| (name.clone(), Arc::clone(topic))).collect()
    }

    /// Whether publishes of every topic are taken without RocketMQ: a load balancer that hears so sends them all here.
    pub(super) fn stands_in(&self) -> bool {
        let Self { config: SpoolConfig { policy, policies, .. }, usage, .. } = self;
        let every = policies.values().chain([policy]).all(|policy| *policy == OnUnavailable::Spool);
        every && usage.takes()
    }

    /// Topics with spooled messages, in words; an error while there are any, or the disk fails.
    pub(super) fn state(&self) -> Result<(), String> {
        let words: Vec<String> =
            self.spooling().map(|(name, topic)| format!("{name}: {}", topic.in_words())).collect();
        if words.is_empty() { Ok(()) } else { Err(words.join("; ")) }
    }

    fn spooling(&self) -> impl Iterator<Item = (TopicName, Arc<TopicSpool>)> {
        self.topics().into_iter().filter(|(_, topic)| topic.is_spooling())
    }
}
