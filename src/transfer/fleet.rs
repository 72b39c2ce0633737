//! The nsqds there are and how they are, looked at for all topics at once.
//!
//! Which nsqds: the ones given, or those the nsqlookupds list. Every look asks each of them once, side by side, so that
//! two hundred topics cost no more than one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::undrained::drain::Counters;
use crate::nsq::{
    address::HttpAddress,
    names::{ChannelName, TopicName},
    nsqd::{HttpError, Nsqd, Stats},
    nsqlookupd::{Node, Nsqlookupd},
};

/// nsqds and channels are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Somebody waits for the next look.
const LOOK_SOON: Duration = Duration::from_millis(100);
/// How long one nsqd may take to answer; the others wait for it.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Beyond so many topics an nsqd is asked for the statistics of all it has.
const ASKED_ONE_BY_ONE: usize = 4;

/// Where destinations come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// These nsqds.
    Given(Vec<Nsqd>),
    /// Whatever these nsqlookupds list.
    Lookup(Vec<Nsqlookupd>),
}

/// All nsqds at one look.
#[derive(Debug, Default)]
pub(super) struct View {
    /// The number of the look.
    pub(super) look: u64,
    pub(super) nsqds: BTreeMap<HttpAddress, Seen>,
    /// Given nsqds that have never answered: nobody knows their channels.
    pub(super) never_seen: Vec<HttpAddress>,
}

/// One nsqd at one look.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) nsqd: Nsqd,
    /// The topics it has registered, and those it is tombstoned for; of a given nsqd nothing is known.
    pub(super) registered: BTreeSet<TopicName>,
    pub(super) tombstoned: BTreeSet<TopicName>,
    /// What it said, or why it said nothing.
    pub(super) process: Result<Arc<ProcessSeen>, String>,
}

/// What an nsqd process says of itself.
#[derive(Debug)]
pub(super) struct ProcessSeen {
    /// Seconds since 1970; another value means another process, perhaps an empty one.
    pub(super) start_time: i64,
    /// Where its TCP protocol listens, as `HOST:PORT`.
    pub(super) tcp_address: String,
    topics: BTreeMap<String, TopicSeen>,
}

/// A topic of one nsqd.
#[derive(Debug, Default, Clone)]
pub(super) struct TopicSeen {
    /// Ephemeral channels come and go with their consumers and are left out.
    pub(super) channels: BTreeSet<ChannelName>,
    /// Those of them that are paused.
    pub(super) paused: BTreeSet<ChannelName>,
    /// Messages that wait in the topic itself, and in each of its channels.
    depth: u64,
    depths: BTreeMap<ChannelName, u64>,
    pub(super) counters: Counters,
}

impl ProcessSeen {
    pub(super) fn topic(&self, topic: &TopicName) -> TopicSeen {
        self.topics.get(topic.as_str()).cloned().unwrap_or_default()
    }
}

impl TopicSeen {
    /// Messages that wait there: the topic's own, and those of its fullest channel that is not parked.
    pub(super) fn waiting(&self, parked: &BTreeSet<ChannelName>) -> u64 {
        let running = self.depths.iter().filter(|(name, _)| !parked.contains(*name));
        self.depth + running.map(|(_, depth)| *depth).max().unwrap_or(0)
    }
}

/// The nsqds, and what the last look at them showed.
#[derive(Debug)]
pub(super) struct Fleet {
    source: Source,
    /// The topics somebody relays.
    topics: Mutex<BTreeSet<TopicName>>,
    view: watch::Sender<Arc<View>>,
    wanted: Notify,
    /// Looks begun.
    looks: AtomicU64,
}

impl Fleet {
    pub(super) fn new(source: Source) -> Arc<Self> {
        let (view, _) = watch::channel(Arc::default());
        Arc::new(Self {
            source,
            topics: Mutex::default(),
            view,
            wanted: Notify::new(),
            looks: AtomicU64::new(0),
        })
    }

    /// The nsqlookupds, when destinations come from them.
    pub(super) fn nsqlookupds(&self) -> &[Nsqlookupd] {
        match &self.source {
            Source::Given(_) => &[],
            Source::Lookup(lookupds) => lookupds,
        }
    }

    /// Looks at this topic, too, from the next look on.
    pub(super) fn watch(&self, topic: &TopicName) -> watch::Receiver<Arc<View>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.clone());
        self.look_soon();
        self.view.subscribe()
    }

    /// How many looks have begun: the next sees what has happened by now.
    pub(super) fn looks(&self) -> u64 {
        self.looks.load(Ordering::SeqCst)
    }

    /// Somebody found an nsqd failing, or waits for one.
    pub(super) fn look_soon(&self) {
        self.wanted.notify_one();
    }

    /// Looks again and again, for as long as anything is relayed.
    pub(super) async fn keep_looking(self: Arc<Self>) {
        let mut log = Log::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.wanted.notified() => tokio::time::sleep(LOOK_SOON).await,
            }
            let view = self.look(&mut log).await;
            self.view.send_replace(Arc::new(view));
        }
    }

    async fn look(&self, log: &mut Log) -> View {
        let before = Arc::clone(&self.view.borrow());
        let listed = match self.discover(&before, log).await {
            Some(listed) => listed,
            // Nobody can say which nsqds there are: go on with the known ones.
            None => before.nsqds.values().cloned().collect(),
        };
        let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let look = self.looks.fetch_add(1, Ordering::SeqCst) + 1;
        let looks = listed.into_iter().map(|seen| {
            let topics = &topics;
            async move {
                let answer = tokio::time::timeout(ANSWER_WITHIN, ask(&seen, topics)).await;
                let answer = answer.map_err(|_| format!("no answer within {ANSWER_WITHIN:?}"));
                Seen { process: answer.and_then(|answer| answer.map_err(|error| error.to_string())), ..seen }
            }
        });
        let mut view = View { look, ..View::default() };
        for seen in join_all(looks).await {
            let address = seen.nsqd.address();
            match &seen.process {
                Ok(_) => log.well(address),
                Err(reason) => log.failing(address, reason),
            }
            if matches!(self.source, Source::Given(_)) && !log.ever_seen.contains(address) {
                view.never_seen.push(address.clone());
            }
            view.nsqds.insert(address.clone(), seen);
        }
        view
    }

    /// The nsqds there are; `None` when nobody can say.
    async fn discover(&self, before: &View, log: &mut Log) -> Option<Vec<Seen>> {
        let known = |nsqd: Nsqd, node: Option<Node>| {
            let known = before.nsqds.get(nsqd.address());
            Seen {
                // The known one has open connections.
                nsqd: known.map_or(nsqd, |seen| seen.nsqd.clone()),
                process: known.map_or_else(|| Err("not asked yet".to_owned()), |seen| seen.process.clone()),
                registered: node.as_ref().map(|node| node.topics.clone()).unwrap_or_default(),
                tombstoned: node.map(|node| node.tombstoned).unwrap_or_default(),
            }
        };
        let lookupds = match &self.source {
            Source::Given(nsqds) => {
                return Some(nsqds.iter().map(|nsqd| known(nsqd.clone(), None)).collect());
            }
            Source::Lookup(lookupds) => lookupds,
        };
        let mut nodes: BTreeMap<HttpAddress, Node> = BTreeMap::new();
        let mut answered = false;
        let answers = join_all(lookupds.iter().map(Nsqlookupd::nodes)).await;
        for (lookupd, answer) in lookupds.iter().zip(answers) {
            match answer {
                Ok(listed) => {
                    log.well(lookupd.address());
                    answered = true;
                    for node in listed {
                        match nodes.get_mut(&node.address) {
                            Some(other) => {
                                other.topics.extend(node.topics);
                                other.tombstoned.extend(node.tombstoned);
                            }
                            None => drop(nodes.insert(node.address.clone(), node)),
                        }
                    }
                }
                Err(error) => log.failing(lookupd.address(), &error.to_string()),
            }
        }
        answered.then(|| {
            nodes.into_values().map(|node| known(Nsqd::new(node.address.clone()), Some(node))).collect()
        })
    }
}

/// Asks one nsqd for everything that matters.
async fn ask(seen: &Seen, topics: &BTreeSet<TopicName>) -> Result<Arc<ProcessSeen>, HttpError> {
    let mut answers: Vec<Stats> = Vec::new();
    if topics.len() <= ASKED_ONE_BY_ONE {
        for topic in topics {
            answers.push(seen.nsqd.stats(Some(topic)).await?);
        }
    } else {
        answers.push(seen.nsqd.stats(None).await?);
    }
    let started = answers.iter().map(|stats| stats.start_time).max();
    let known = seen.process.as_ref().ok().filter(|process| Some(process.start_time) == started);
    let (start_time, tcp_address) = match known {
        Some(process) => (process.start_time, process.tcp_address.clone()),
        None => {
            let info = seen.nsqd.info().await?;
            let host = seen.nsqd.address().host();
            (info.start_time, format!("{host}:{}", info.tcp_port))
        }
    };
    // Of one that was replaced between two questions, the older answers count for nothing.
    answers.retain(|stats| stats.start_time == start_time);
    let topics = answers.into_iter().flat_map(|stats| stats.topics).map(|topic| {
        let mut seen =
            TopicSeen { depth: topic.depth, counters: Counters::from(&topic), ..TopicSeen::default() };
        for channel in &topic.channels {
            let Ok(name) = channel.channel_name.parse::<ChannelName>() else { continue };
            seen.depths.insert(name.clone(), channel.depth);
            if name.is_ephemeral() {
                continue;
            }
            if channel.paused {
                seen.paused.insert(name.clone());
            }
            seen.channels.insert(name);
        }
        (topic.topic_name, seen)
    });
    Ok(Arc::new(ProcessSeen { start_time, tcp_address, topics: topics.collect() }))
}

/// What was said already, so that a lasting fault is logged once.
#[derive(Debug, Default)]
struct Log {
    failing: BTreeSet<HttpAddress>,
    ever_seen: BTreeSet<HttpAddress>,
}

impl Log {
    fn failing(&mut self, address: &HttpAddress, reason: &str) {
        if self.failing.insert(address.clone()) {
            warn!(%address, reason, "not usable now; it will be asked again");
        }
    }

    fn well(&mut self, address: &HttpAddress) {
        self.ever_seen.insert(address.clone());
        if self.failing.remove(address) {
            info!(%address, "answers again");
        }
    }
}
