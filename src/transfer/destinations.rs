//! The nsqds a topic is relayed into.
//!
//! An nsqd copies a message only to the channels it has at that moment. So an nsqd is used only when it is *ready*: it has answered,
//! it has the topic, and it has every channel that any nsqd or nsqlookupd knows for the topic. An nsqd that failed must
//! become ready again, for it may have come back empty.
//!
//! Which nsqds: the ones given; or, from nsqlookupd, those that have the topic, and all of them while none has.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tracing::{debug, info, warn};

use super::batch::Limits;
use crate::nsq::{
    address::HttpAddress,
    names::{ChannelName, TopicName},
    nsqd::{HttpError, Nsqd},
    nsqlookupd::{Found, Nsqlookupd},
};

/// nsqds and channels are looked at this often.
const REFRESH_EVERY: Duration = Duration::from_secs(2);
/// A failed nsqd is left alone this long, if another can take the messages.
const PENALTY: Duration = Duration::from_secs(2);

/// Where destinations come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// These nsqds.
    Given(Vec<Nsqd>),
    /// Whatever these nsqlookupds list.
    Lookup(Vec<Nsqlookupd>),
}

/// The destinations of one topic.
#[derive(Debug)]
pub(super) struct Destinations {
    topic: TopicName,
    source: Source,
    limits: Limits,
    state: Mutex<State>,
    turn: AtomicUsize,
    /// Somebody found an nsqd failing, or waits for one: look again now.
    wanted: Notify,
    /// An nsqd became ready.
    ready: Notify,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<HttpAddress, Node>,
    /// Every channel seen anywhere since the start.
    channels: BTreeSet<ChannelName>,
}

#[derive(Debug)]
struct Node {
    nsqd: Nsqd,
    /// The channels it is known to have; `None` until it has answered, and again after a failure.
    prepared: Option<BTreeSet<ChannelName>>,
    avoid_until: Instant,
}

impl Destinations {
    pub(super) fn new(topic: TopicName, source: Source, limits: Limits) -> Self {
        Self {
            topic,
            source,
            limits,
            state: Mutex::default(),
            turn: AtomicUsize::new(0),
            wanted: Notify::new(),
            ready: Notify::new(),
        }
    }

    pub(super) fn topic(&self) -> &TopicName {
        &self.topic
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next ready nsqd in turn; waits while there is none.
    pub(super) async fn choose(&self) -> Nsqd {
        loop {
            let notified = self.ready.notified();
            if let Some(nsqd) = self.try_choose() {
                return nsqd;
            }
            self.wanted.notify_one();
            notified.await;
        }
    }

    fn try_choose(&self) -> Option<Nsqd> {
        let state = self.state();
        let usable =
            |node: &&Node| node.prepared.as_ref().is_some_and(|has| has.is_superset(&state.channels));
        let ready: Vec<&Node> = state.nodes.values().filter(usable).collect();
        let now = Instant::now();
        let well: Vec<&Node> = ready.iter().copied().filter(|node| node.avoid_until <= now).collect();
        let candidates = if well.is_empty() { ready } else { well };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        candidates.get(turn % candidates.len().max(1)).map(|node| node.nsqd.clone())
    }

    /// Takes note of a failed publish: the nsqd is left alone for a while, and must become ready again.
    pub(super) fn failed(&self, nsqd: &Nsqd) {
        if let Some(node) = self.state().nodes.get_mut(nsqd.address()) {
            node.prepared = None;
            node.avoid_until = Instant::now() + PENALTY;
        }
        self.wanted.notify_one();
    }

    /// Keeps nodes and channels up to date; runs for as long as the topic is relayed.
    pub(super) async fn keep_ready(self: Arc<Self>) {
        let mut log = Log::default();
        loop {
            self.refresh(&mut log).await;
            tokio::select! {
                () = tokio::time::sleep(REFRESH_EVERY) => {}
                () = self.wanted.notified() => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn refresh(&self, log: &mut Log) {
        let (listed, mut channels) = match self.discover(log).await {
            Some(found) => found,
            // Nobody can say which nsqds there are: go on with the known ones.
            None => (self.state().nodes.values().map(|node| node.nsqd.clone()).collect(), BTreeSet::new()),
        };
        let mut seen = BTreeMap::new();
        for nsqd in &listed {
            match self.channels_of(nsqd).await {
                Ok(has) => {
                    log.well(nsqd.address());
                    channels.extend(has.iter().cloned());
                    seen.insert(nsqd.address().clone(), has);
                }
                Err(error) => log.failing(nsqd.address(), &error),
            }
        }
        let (all, todo) = self.merge(&listed, channels, &seen);
        if !self.every_given_was_seen(&seen, log) {
            return;
        }
        for (nsqd, missing) in todo {
            match self.prepare(&nsqd, &missing).await {
                Ok(()) => {
                    if let Some(node) = self.state().nodes.get_mut(nsqd.address()) {
                        node.prepared = Some(all.clone());
                    }
                    self.ready.notify_waiters();
                }
                Err(error) => log.failing(nsqd.address(), &error),
            }
        }
    }

    /// Takes over what was found; returns all channels, and for each answering nsqd that is not ready what it lacks.
    fn merge(
        &self,
        listed: &[Nsqd],
        channels: BTreeSet<ChannelName>,
        seen: &BTreeMap<HttpAddress, BTreeSet<ChannelName>>,
    ) -> (BTreeSet<ChannelName>, Vec<(Nsqd, Vec<ChannelName>)>) {
        let mut state = self.state();
        let addresses: BTreeSet<&HttpAddress> = listed.iter().map(Nsqd::address).collect();
        state.nodes.retain(|address, _| {
            let keep = addresses.contains(address);
            if !keep {
                info!(topic = %self.topic, nsqd = %address, "no longer a destination");
            }
            keep
        });
        for nsqd in listed {
            state.nodes.entry(nsqd.address().clone()).or_insert_with(|| {
                info!(topic = %self.topic, nsqd = %nsqd.address(), "destination found");
                Node { nsqd: nsqd.clone(), prepared: None, avoid_until: Instant::now() }
            });
        }
        state.channels.extend(channels);
        let all = state.channels.clone();
        let mut todo = Vec::new();
        for (address, has) in seen {
            let Some(node) = state.nodes.get_mut(address) else { continue };
            let missing: Vec<_> = all.difference(has).cloned().collect();
            if !missing.is_empty() {
                // A channel came up elsewhere, or this nsqd lost one: nothing goes there until it has them all.
                node.prepared = None;
            }
            if node.prepared.is_none() {
                todo.push((node.nsqd.clone(), missing));
            }
        }
        (all, todo)
    }

    /// Whether channels can be trusted to be complete: an nsqd that was given and has never answered may have one
    /// that no other knows, and would miss what is relayed before it is seen.
    fn every_given_was_seen(
        &self,
        seen: &BTreeMap<HttpAddress, BTreeSet<ChannelName>>,
        log: &mut Log,
    ) -> bool {
        if matches!(self.source, Source::Lookup(_)) {
            return true;
        }
        log.ever_seen.extend(seen.keys().cloned());
        let state = self.state();
        let unseen = state.nodes.keys().filter(|address| !log.ever_seen.contains(*address));
        let missing: Vec<&str> = unseen.map(HttpAddress::as_str).collect();
        if !missing.is_empty() && !log.waiting {
            log.waiting = true;
            warn!(
                topic = %self.topic, ?missing,
                "waiting for nsqds that have not answered yet: their channels are unknown. Start them, or leave them out"
            );
        }
        missing.is_empty()
    }

    /// The nsqds to relay into, and the channels known without asking them; `None` when nobody can say.
    async fn discover(&self, log: &mut Log) -> Option<(Vec<Nsqd>, BTreeSet<ChannelName>)> {
        let lookupds = match &self.source {
            Source::Given(nsqds) => return Some((nsqds.clone(), BTreeSet::new())),
            Source::Lookup(lookupds) => lookupds,
        };
        let mut found = Found::default();
        let mut everyone = BTreeSet::new();
        let mut answered = false;
        for lookupd in lookupds {
            let both = async { Ok((lookupd.lookup(&self.topic).await?, lookupd.nsqds(&self.topic).await?)) };
            match both.await {
                Ok((of_topic, all)) => {
                    log.well(lookupd.address());
                    answered = true;
                    found.channels.extend(of_topic.channels);
                    found.nsqds.extend(of_topic.nsqds);
                    everyone.extend(all);
                }
                Err(error) => log.failing(lookupd.address(), &error),
            }
        }
        if !answered {
            return None;
        }
        let chosen = if found.nsqds.is_empty() { everyone } else { found.nsqds };
        found.channels.retain(|channel| !channel.is_ephemeral());
        Some((chosen.into_iter().map(|address| self.nsqd_at(address)).collect(), found.channels))
    }

    /// The known nsqd at this address, with its open connections, or a new one.
    fn nsqd_at(&self, address: HttpAddress) -> Nsqd {
        let known = self.state().nodes.get(&address).map(|node| node.nsqd.clone());
        known.unwrap_or_else(|| Nsqd::new(address))
    }

    /// The channels an nsqd has for the topic now; ephemeral ones come and go with their consumers and are left out.
    async fn channels_of(&self, nsqd: &Nsqd) -> Result<BTreeSet<ChannelName>, HttpError> {
        let stats = nsqd.stats(Some(&self.topic)).await?;
        let topic = stats.topics.into_iter().find(|topic| topic.topic_name == self.topic.as_str());
        let names = topic.into_iter().flat_map(|topic| topic.channels).map(|channel| channel.channel_name);
        Ok(names
            .filter_map(|name| name.parse().ok())
            .filter(|name: &ChannelName| !name.is_ephemeral())
            .collect())
    }

    async fn prepare(&self, nsqd: &Nsqd, missing: &[ChannelName]) -> Result<(), HttpError> {
        nsqd.create_topic(&self.topic).await?;
        for channel in missing {
            nsqd.create_channel(&self.topic, channel).await?;
            info!(topic = %self.topic, nsqd = %nsqd.address(), %channel, "channel created");
        }
        debug!(topic = %self.topic, nsqd = %nsqd.address(), "ready");
        Ok(())
    }
}

/// What was said already, so that a lasting fault is logged once.
#[derive(Debug, Default)]
struct Log {
    failing: BTreeSet<HttpAddress>,
    ever_seen: BTreeSet<HttpAddress>,
    waiting: bool,
}

impl Log {
    fn failing(&mut self, address: &HttpAddress, error: &HttpError) {
        if self.failing.insert(address.clone()) {
            warn!(%error, "not usable now; it will be asked again");
        }
    }

    fn well(&mut self, address: &HttpAddress) {
        if self.failing.remove(address) {
            info!(%address, "answers again");
        }
    }
}
