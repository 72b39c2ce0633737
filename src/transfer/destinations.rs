//! The nsqds one topic is relayed into, and which is next.
//!
//! An nsqd copies a message only to the channels it has at that moment. So an nsqd is used only when it is *ready*: it has
//! answered, it has the topic, and it has every channel that any nsqd or nsqlookupd knows for the topic. What is ready is a
//! process, not an address: a [`Connection`] is used only with the process that was made ready, for one that came up in
//! its place may be empty. An nsqd that failed must become ready again ([`ready`]).
//!
//! Of the ready ones, two are drawn and the one with less waiting is taken; one with more than `max_depth` waiting gets
//! nothing until its consumers have caught up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tracing::info;

mod ready;

use super::{
    completed::Completed,
    fleet::Fleet,
    homes::Homes,
    state::NsqdReport,
    undrained::Process,
    watched::{Fate, Watched},
};
use crate::{
    mapping::{Feed, Names},
    nsq::{
        address::HttpAddress,
        names::{ChannelName, TopicName},
        nsqd::Nsqd,
        tcp::{Connection, TcpError},
    },
    rocketmq::Queue,
};

/// A failed nsqd is left alone this long, if another can take the messages.
const PENALTY: Duration = Duration::from_secs(2);
/// How long connecting may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// nsqd closes a connection it heard nothing from for a minute.
const IDLE_AT_MOST: Duration = Duration::from_secs(20);
/// Connections kept for the next batches.
const IDLE_CONNECTIONS: usize = 8;

/// How destinations are chosen.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Messages that may wait in an nsqd, in the topic and its fullest channel together; 0 for any number.
    pub max_depth: u64,
    /// nsqds that get nothing, for maintenance. Their channels still count.
    pub left_out: BTreeSet<HttpAddress>,
    /// nsqd's `--max-msg-timeout`: how long a consumer may keep a message.
    pub longest_in_flight: Duration,
    /// An nsqd that has not answered for this long has lost what it had.
    pub gone_after: Duration,
}

/// The destinations of one topic.
#[derive(Debug)]
pub(super) struct Destinations {
    topic: TopicName,
    choice: Choice,
    fleet: Arc<Fleet>,
    names: Names,
    completed: Arc<Completed>,
    state: Mutex<State>,
    /// An nsqd became ready, or has room again.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    homes: Homes,
    nodes: BTreeMap<HttpAddress, Node>,
    /// Every channel seen anywhere since the start, but for those that are done with.
    channels: BTreeSet<ChannelName>,
    watched: Watched,
    /// Why nothing can be sent now.
    waiting: Option<String>,
}

#[derive(Debug)]
struct Node {
    nsqd: Nsqd,
    /// The process that has the topic and its channels; `None` until one does, and again after a failure.
    prepared: Option<Prepared>,
    avoid_until: Instant,
    /// Messages are taken in from it: it belongs to old producers.
    taken_in: bool,
    /// Why it is not ready.
    trouble: Option<String>,
    /// What waited there at the last look, what was sent since, and what is on its way.
    depth: u64,
    sent: u64,
    pending: Arc<AtomicU64>,
    idle: Vec<Connection>,
}

#[derive(Debug, Clone)]
struct Prepared {
    channels: BTreeSet<ChannelName>,
    start_time: i64,
    tcp_address: String,
}

/// An nsqd process that is ready, and has room for what it was chosen for.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) nsqd: Nsqd,
    start_time: i64,
    tcp_address: String,
    _pending: Pending,
}

/// Messages on their way to an nsqd, however that ends.
#[derive(Debug)]
struct Pending {
    of_node: Arc<AtomicU64>,
    messages: u64,
}

impl Pending {
    fn new(of_node: &Arc<AtomicU64>, messages: u64) -> Self {
        of_node.fetch_add(messages, Ordering::Relaxed);
        Self { of_node: Arc::clone(of_node), messages }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.of_node.fetch_sub(self.messages, Ordering::Relaxed);
    }
}

impl Destination {
    /// The process.
    pub(super) fn process(&self) -> Process {
        Process { nsqd: self.nsqd.address().clone(), start_time: self.start_time }
    }
}

impl Node {
    fn new(nsqd: Nsqd) -> Self {
        Self {
            nsqd,
            prepared: None,
            avoid_until: Instant::now(),
            taken_in: false,
            trouble: None,
            depth: 0,
            sent: 0,
            pending: Arc::default(),
            idle: Vec::new(),
        }
    }

    /// Whether the process that was made ready is the one that started then.
    fn is_prepared_as(&self, start_time: i64) -> bool {
        self.prepared.as_ref().is_some_and(|prepared| prepared.start_time == start_time)
    }

    /// What waits there, or is about to.
    fn load(&self) -> u64 {
        self.depth + self.sent + self.pending.load(Ordering::Relaxed)
    }
}

impl Destinations {
    pub(super) fn new(
        feed: &Feed,
        fleet: Arc<Fleet>,
        choice: Choice,
        names: Names,
        completed: Arc<Completed>,
    ) -> Self {
        // The topic of a share is for its channel alone, which must be there before the first message, whoever has seen it.
        let channels = match feed {
            Feed::Topic(_) => BTreeSet::new(),
            Feed::Share(share) => BTreeSet::from([share.channel().channel.clone()]),
        };
        let state = Mutex::new(State {
            homes: Homes::new(fleet.nsqlookupds().is_empty()),
            nodes: BTreeMap::new(),
            channels,
            watched: Watched::new(choice.longest_in_flight, choice.gone_after),
            waiting: None,
        });
        let topic = feed.topic().clone();
        Self { topic, choice, fleet, names, completed, state, changed: Notify::new() }
    }

    /// Creates this channel no more.
    pub(super) fn complete(&self, channel: &ChannelName) {
        info!(topic = %self.topic, %channel, "this channel is done with, and will not be created again");
        self.completed.add(self.names.completed_group(&self.topic, channel));
        self.state().channels.remove(channel);
    }

    /// The channels it does not create.
    pub(super) fn completed(&self) -> Vec<String> {
        self.completed.of_topic(&self.names.completed_prefix(&self.topic))
    }

    pub(super) fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Takes note of the nsqds that a queue's record names.
    pub(super) fn told<'a>(&self, nsqds: impl Iterator<Item = &'a HttpAddress>) {
        if self.state().homes.told(nsqds) {
            self.fleet.look_soon();
        }
    }

    /// The nsqds that have had the topic, for a queue's record.
    pub(super) fn homes(&self) -> BTreeSet<HttpAddress> {
        self.state().homes.had()
    }

    /// How many looks at the nsqds have begun.
    pub(super) fn looks(&self) -> u64 {
        self.fleet.looks()
    }

    /// What has become of a process that was given messages.
    pub(super) fn fate(&self, process: &Process) -> Fate {
        let looks = self.fleet.looks();
        self.state().watched.fate(process, looks)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next ready nsqd for so many messages, for one `key` always the same as long as it is ready; waits while there is
    /// none.
    pub(super) async fn choose(&self, messages: usize, key: Option<&Queue>) -> Destination {
        loop {
            let changed = self.changed.notified();
            if let Some(destination) = self.try_choose(messages, key) {
                return destination;
            }
            // Who is away comes back no sooner for being looked for ten times a second.
            if !self.state().homes.are_away() {
                self.fleet.look_soon();
            }
            changed.await;
        }
    }

    fn try_choose(&self, messages: usize, key: Option<&Queue>) -> Option<Destination> {
        let mut state = self.state();
        let now = Instant::now();
        let ready: Vec<&Node> = state
            .nodes
            .values()
            .filter(|node| self.closed(node).is_none())
            .filter(|node| {
                node.prepared.as_ref().is_some_and(|has| has.channels.is_superset(&state.channels))
            })
            .collect();
        let well: Vec<&Node> = ready.iter().copied().filter(|node| node.avoid_until <= now).collect();
        let candidates = if well.is_empty() { ready } else { well };
        let draw = || candidates.get(fastrand::usize(..candidates.len().max(1))).copied();
        let chosen = match key {
            // Rendezvous hashing: an nsqd that comes or goes moves no keys but its own.
            Some(key) => candidates.into_iter().max_by_key(|node| weight(key, node.nsqd.address())),
            None => draw().into_iter().chain(draw()).min_by_key(|node| node.load()),
        };
        let destination = chosen.and_then(|node| {
            let prepared = node.prepared.as_ref()?;
            Some(Destination {
                nsqd: node.nsqd.clone(),
                start_time: prepared.start_time,
                tcp_address: prepared.tcp_address.clone(),
                _pending: Pending::new(&node.pending, messages as u64),
            })
        });
        let waiting = destination.is_none().then(|| self.why(&state));
        if waiting != state.waiting {
            match &waiting {
                Some(reason) => info!(topic = %self.topic, "waiting: {reason}"),
                None => info!(topic = %self.topic, "sending again"),
            }
            state.waiting = waiting;
        }
        destination
    }

    /// Why a ready nsqd gets nothing now.
    fn closed(&self, node: &Node) -> Option<String> {
        if self.choice.left_out.contains(node.nsqd.address()) {
            return Some("left out".to_owned());
        }
        // What is sent there would be taken in, stored again, and sent to every consumer once more.
        if node.taken_in {
            return Some("nsqbridge intake takes its messages in".to_owned());
        }
        let max = self.choice.max_depth;
        (max > 0 && node.load() >= max).then(|| format!("depth {} of at most {max}", node.depth))
    }

    /// Why it gets nothing now, ready or not.
    fn trouble(&self, node: &Node) -> Option<String> {
        self.closed(node).or_else(|| node.trouble.clone())
    }

    fn why(&self, state: &State) -> String {
        let reason = |node: &Node| {
            let trouble = self.trouble(node).unwrap_or_else(|| "not ready yet".to_owned());
            format!("{}: {trouble}", node.nsqd.address())
        };
        let reasons: Vec<String> = state.nodes.values().map(reason).collect();
        if reasons.is_empty() { state.homes.why_none() } else { reasons.join("; ") }
    }

    /// Why nothing can be sent now; `None` while it can.
    pub(super) fn waiting(&self) -> Option<String> {
        self.state().waiting.clone()
    }

    /// How all of them stand.
    pub(super) fn standings(&self) -> Vec<NsqdReport> {
        let state = self.state();
        let standing = |node: &Node| {
            let reason = self.trouble(node);
            NsqdReport {
                nsqd: node.nsqd.address().to_string(),
                ready: node.prepared.is_some() && reason.is_none(),
                depth: node.depth,
                undrained: 0,
                left_out: self.choice.left_out.contains(node.nsqd.address()) || node.taken_in,
                reason,
            }
        };
        state.nodes.values().map(standing).collect()
    }

    /// A connection to the process that was made ready.
    pub(super) async fn connect(&self, to: &Destination) -> Result<Connection, TcpError> {
        while let Some(mut idle) = self.take_idle(to) {
            if idle.idle_for() < IDLE_AT_MOST && idle.is_open() {
                return Ok(idle);
            }
        }
        let connection = Connection::open(&to.tcp_address, CONNECT_WITHIN).await?;
        let not_sent = |reason: String| TcpError::NotSent { address: to.tcp_address.clone(), reason };
        // Asked when the connection is there: were the process replaced later, the connection would be gone with it.
        match tokio::time::timeout(CONNECT_WITHIN, to.nsqd.info()).await {
            Ok(Ok(info)) if info.start_time == to.start_time => Ok(connection),
            Ok(Ok(_)) => Err(not_sent("another process has taken its place".to_owned())),
            Ok(Err(error)) => Err(not_sent(error.to_string())),
            Err(_) => Err(not_sent(format!("no answer within {CONNECT_WITHIN:?}"))),
        }
    }

    fn take_idle(&self, to: &Destination) -> Option<Connection> {
        let mut state = self.state();
        let node = state.nodes.get_mut(to.nsqd.address())?;
        if node.is_prepared_as(to.start_time) { node.idle.pop() } else { None }
    }

    /// Takes note of messages that went there, and keeps the connection for the next.
    pub(super) fn sent(&self, to: &Destination, messages: usize, connection: Option<Connection>) {
        let mut state = self.state();
        let Some(node) = state.nodes.get_mut(to.nsqd.address()) else { return };
        node.sent += messages as u64;
        if node.is_prepared_as(to.start_time) && node.idle.len() < IDLE_CONNECTIONS {
            node.idle.extend(connection);
        }
    }

    /// Takes note of a failed publish: the nsqd is left alone for a while, and must become ready again.
    pub(super) fn failed(&self, at: &Destination, reason: &str) {
        if let Some(node) = self.state().nodes.get_mut(at.nsqd.address()) {
            node.prepared = None;
            node.trouble = Some(reason.to_owned());
            node.idle.clear();
            node.avoid_until = Instant::now() + PENALTY;
        }
        self.fleet.look_soon();
    }
}

/// The same in every instance and after every restart.
fn weight(key: &Queue, nsqd: &HttpAddress) -> u32 {
    crc32fast::hash(format!("{key} {nsqd}").as_bytes())
}
