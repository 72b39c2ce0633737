//! Takes what producers publish: the topic, the bounds, the way into RocketMQ.
//!
//! `Ok` means that RocketMQ answered `SEND_OK` for every message of the request, and nothing weaker. Each message gets
//! its id once; every retry that might double it carries the same one.
//!
//! ```text
//! publish ─▶ topic (looked for, created) ─▶ its lane ─▶ store: batch by batch ─▶ each caller's outcome
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use prometheus_client::registry::Registry;
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

mod topics;

use self::topics::Wanted;
use super::{
    admission::{self, Admission, AdmissionLimits, NoRoom, Permit},
    health::Health,
    lane::{Like, Publish, Stored},
    metrics::{Metrics, MetricsConfig},
    share::Shares,
    spool::{self, Spool, SpoolConfig, SpoolError, TopicSpool},
    store,
    topic::Topic,
};
use crate::{
    audit::{Pace, Recorder},
    mapping::Names,
    nsq::names::TopicName,
    observe::health::Dependency,
    rocketmq::{
        Cluster, Message, Producer, message::Levels, properties::PropertiesBuilder, unique_key::UniqueKeys,
    },
};

/// A topic's audit records follow each other no faster.
const AUDITED_EVERY: Duration = Duration::from_secs(5);
/// A stop waits this much longer than a publish may take for what was begun.
const LAST_OUTCOMES_WITHIN: Duration = Duration::from_secs(10);
/// A stop waits this long for the last audit records.
const LAST_RECORDS_WITHIN: Duration = Duration::from_secs(2);

/// How to store what is published.
#[derive(Debug, Clone)]
pub struct PublishConfig {
    /// What the topics are called in RocketMQ.
    pub names: Names,
    /// Create topics nobody has created yet; otherwise they are refused.
    pub create_topics: bool,
    /// Store what is published to `#ephemeral` topics, as durably as the rest; otherwise they are refused.
    pub ephemeral_topics: bool,
    /// Queues a new topic gets on each broker.
    pub topic_queues: u32,
    /// How long a publish may be tried; below the 5 s after which producers commonly give up.
    pub budget: Duration,
    /// What becomes of delays a 4.x broker can only keep roughly.
    pub levels: Levels,
    /// What may be held in memory.
    pub admission: AdmissionLimits,
    /// What is counted.
    pub metrics: MetricsConfig,
    /// The prefix of the relays' consumer groups; how far they are tells a topic's depth.
    pub relay_group_prefix: String,
    /// What becomes of publishes while RocketMQ is not available.
    pub spool: SpoolConfig,
    /// Write down what was accepted, for `nsqbridge verify`.
    pub audit: bool,
    /// What is stamped for channels that are moved by share.
    pub shares: Shares,
}

impl Default for PublishConfig {
    /// What the command line does by default.
    fn default() -> Self {
        Self {
            names: Names::default(),
            create_topics: true,
            ephemeral_topics: true,
            topic_queues: 8,
            budget: Duration::from_secs(4),
            levels: Levels::RoundUp,
            admission: AdmissionLimits { bytes: 256 << 20, topic_bytes: 64 << 20, requests: 10_000 },
            metrics: MetricsConfig { max_topics: 200 },
            relay_group_prefix: "nsqbridge-transfer".to_owned(),
            spool: SpoolConfig::default(),
            audit: true,
            shares: Shares::default(),
        }
    }
}

/// Why a publish is not acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// Nothing was stored: repeating is safe.
    #[error("not stored: {0}")]
    Unavailable(String),
    /// Some or all of it may be stored: repeating may duplicate it.
    #[error("perhaps stored, repeating may duplicate: {0}")]
    Unknown(String),
    /// RocketMQ will never take it as it is.
    #[error("refused, repeating cannot help: {0}")]
    Refused(String),
    /// RocketMQ will never hold it back so long, or not as exactly as demanded.
    #[error("defer refused, repeating cannot help: {0}")]
    DeferRefused(String),
    /// Nobody has created the topic, and this gateway is not to.
    #[error("topic {0} does not exist, and --unknown-topics is refuse: create it in RocketMQ")]
    NoSuchTopic(TopicName),
    /// Ephemeral topics are not taken.
    #[error("topic {0} is ephemeral, and --ephemeral-topics is refuse")]
    Ephemeral(TopicName),
    /// Nothing was stored for want of room: repeating later is safe.
    #[error("not stored: {0}")]
    Full(#[from] NoRoom),
}

/// What one request asks to be stored.
#[derive(Debug)]
pub struct PublishRequest {
    /// Where to.
    pub topic: TopicName,
    /// One or more.
    pub bodies: Vec<Bytes>,
    /// What goes beside each body.
    pub properties: PropertiesBuilder,
    /// When the request was complete, in milliseconds since 1970.
    pub accepted_ms: i64,
    /// How much later a single body is to be delivered.
    pub defer: Option<Duration>,
    /// Return the messages' ids.
    pub wants_ids: bool,
    /// The room it takes.
    pub permit: Permit,
}

/// What a publish does whose topic has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It hears so at once.
    Refuse,
    /// It waits, as long as a publish may take.
    Wait,
}

/// A publish that has begun: it is stored, or not, whether somebody waits for that or not.
#[derive(Debug)]
pub struct Begun(oneshot::Receiver<Result<Stored, PublishError>>);

impl Begun {
    /// What came of it; `Ok` only when every message is stored.
    ///
    /// # Errors
    /// See [`PublishError`]; of several messages the first ones may be stored all the same.
    pub async fn outcome(self) -> Result<Stored, PublishError> {
        self.0.await.unwrap_or_else(|_| {
            Err(PublishError::Unknown("sending failed by a fault of this program".to_owned()))
        })
    }
}

/// Stores messages in one RocketMQ cluster.
#[derive(Debug)]
pub struct Publisher {
    cluster: Cluster,
    producer: Producer,
    /// Sends a deferred message with a level of delay.
    by_level: Producer,
    keys: UniqueKeys,
    config: PublishConfig,
    topics: RwLock<HashMap<TopicName, Arc<Topic>>>,
    admission: Arc<Admission>,
    metrics: Arc<Metrics>,
    /// Batches and topic creations under way, whether somebody still waits for them or not.
    tasks: TaskTracker,
    health: Health,
    spool: Option<Arc<Spool>>,
    /// What is spooled is left for the next start.
    stopping: CancellationToken,
    recorder: Option<Recorder>,
    /// Stands in for RocketMQ where what producers speak is tested alone.
    #[cfg(test)]
    script: Option<super::tests::Script>,
}

impl Publisher {
    /// Makes a publisher and begins to watch the cluster's health.
    ///
    /// # Errors
    /// When there is to be a spool and it cannot be used.
    pub fn new(cluster: Cluster, config: PublishConfig) -> Result<Self, SpoolError> {
        let spool = Spool::open(config.spool.clone())?.map(Arc::new);
        let metrics = Arc::new(Metrics::new(config.metrics.clone()));
        let producer = |levels| {
            let counted = Arc::clone(&metrics);
            Producer::new(cluster.clone(), "nsqbridge-gateway")
                .with_levels(levels)
                .with_observer(Arc::new(move |tried| counted.tried(tried)))
        };
        let pace = Pace { every: AUDITED_EVERY, spread: true };
        let recorder = || Recorder::new(cluster.clone(), config.names.clone(), "nsqbridge-gateway", pace);
        let recorder = config.audit.then(recorder);
        let health = Health::watch(cluster.clone(), config.levels);
        Ok(Self {
            producer: producer(config.levels),
            by_level: producer(Levels::Nearest),
            cluster,
            keys: UniqueKeys::new(),
            topics: RwLock::default(),
            admission: Admission::new(config.admission.clone()),
            config,
            metrics,
            tasks: TaskTracker::new(),
            health,
            spool,
            stopping: CancellationToken::new(),
            recorder,
            #[cfg(test)]
            script: None,
        })
    }

    /// Begins to bring into RocketMQ what an earlier process has spooled.
    pub fn resume(self: &Arc<Self>) {
        for (name, spool) in self.spool.iter().flat_map(|spool| spool.topics()) {
            if spool.is_spooling() {
                info!(topic = %name, messages = spool.messages(), "found in the spool");
                let topic = self.topic(&name);
                topic.named(&self.metrics);
                let draining = spool::drain(Arc::clone(self), Arc::clone(&topic), spool);
                self.spawn(async move {
                    draining.await;
                    if !topic.spools {
                        topic.lane.side_by_side();
                    }
                });
            }
        }
    }

    /// A publisher in good health that does as the script says.
    #[cfg(test)]
    pub(super) fn for_tests(script: super::tests::Script, config: PublishConfig) -> Self {
        let cluster = Cluster::new(crate::rocketmq::ClusterConfig::new(Vec::new()));
        Self { script: Some(script), health: Health::good(), ..Self::new(cluster, config).expect("no spool") }
    }

    /// Shows what is counted.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry, &self.admission, &self.cluster);
        self.spool.iter().for_each(|spool| spool.register(registry));
    }

    /// Lets a request in, or says at once that there is no room.
    ///
    /// # Errors
    /// See [`NoRoom`].
    pub fn admit(&self) -> Result<Permit, NoRoom> {
        self.admission.admit()
    }

    /// Lets a command in, of a connection that bounds how many it may have on their way.
    ///
    /// # Errors
    /// See [`NoRoom`].
    pub(super) fn admit_command(&self) -> Result<Permit, NoRoom> {
        self.admission.admit_command()
    }

    /// Stores a request's messages in order and in one queue; `Ok` only when every one is stored.
    ///
    /// # Errors
    /// See [`PublishError`]; of several messages the first ones may be stored all the same.
    ///
    /// # Cancellation
    /// Dropping the future only ends the wait: what has begun to be stored is stored.
    pub async fn publish(self: &Arc<Self>, request: PublishRequest) -> Result<Stored, PublishError> {
        self.begin(request, WhenFull::Refuse).await?.outcome().await
    }

    /// Begins to store a request's messages, as [`Self::publish`] does: the topic is there, and they are in line.
    ///
    /// # Errors
    /// Why nothing was begun; nothing is stored.
    ///
    /// # Cancellation
    /// Dropping the future leaves the messages unpublished; the topic is created all the same.
    pub async fn begin(
        self: &Arc<Self>,
        request: PublishRequest,
        when_full: WhenFull,
    ) -> Result<Begun, PublishError> {
        #[cfg(test)]
        if let Some(script) = &self.script {
            let (answer, outcome) = oneshot::channel();
            let asking = script.clone().ask(request);
            self.tasks.spawn(async move { drop(answer.send(asking.await)) });
            return Ok(Begun(outcome));
        }
        let deadline = Instant::now() + self.config.budget;
        let topic = match self.spooling_topic(&request.topic) {
            Some(topic) => topic,
            None => self.find(&request.topic, Wanted::ToPublish).await?,
        };
        let PublishRequest { bodies, properties, accepted_ms, defer, wants_ids, mut permit, .. } = request;
        match when_full {
            WhenFull::Refuse => permit.charge(&topic)?,
            WhenFull::Wait => admission::room(deadline, || permit.charge(&topic)).await?,
        }
        let (answer, outcome) = oneshot::channel();
        let answer = Some(answer);
        let (stamps, failure) = (topic.stamps.clone(), None);
        let publish =
            Publish { bodies, properties, stamps, accepted_ms, deadline, wants_ids, answer, failure, permit };
        if let Some(defer) = defer {
            let later = i64::try_from(defer.as_millis()).unwrap_or(i64::MAX);
            let deliver_at = accepted_ms.saturating_add(later);
            self.tasks.spawn(store::send_deferred(Arc::clone(self), topic, publish, deliver_at));
        } else if topic.lane.join(publish) {
            self.tasks.spawn(store::send_all(Arc::clone(self), topic));
        }
        Ok(Begun(outcome))
    }

    /// The topic, if it was seen to exist.
    pub(super) fn known_topic(&self, name: &TopicName) -> Option<Arc<Topic>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics.get(name).filter(|topic| topic.exists()).cloned()
    }

    /// The topic, if its publishes go to the spool: RocketMQ need not be asked for it.
    fn spooling_topic(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.spool.as_ref()?;
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics.get(name).filter(|topic| topic.is_spooling()).cloned()
    }

    /// All topics that were published to or created, by name.
    pub(super) fn known_topics(&self) -> Vec<Arc<Topic>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let known = topics.values().filter(|topic| topic.exists() || topic.is_spooling());
        let mut known: Vec<_> = known.cloned().collect();
        known.sort_by(|one, two| one.name.cmp(&two.name));
        known
    }

    fn topic(&self, name: &TopicName) -> Arc<Topic> {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let rocketmq_topic = self.config.names.rocketmq_topic(name);
            let spools = self.spool.as_ref().is_some_and(|spool| spool.takes(name));
            let left = self.spool.as_ref().and_then(|spool| spool.left_of(name));
            let stamps = self.config.shares.of(name);
            Arc::new(Topic::new(name.clone(), rocketmq_topic, stamps, spools, left))
        };
        Arc::clone(topics.entry(name.clone()).or_insert_with(make))
    }

    /// Where the topic's publishes go while RocketMQ does not take them; `None` for nowhere.
    pub(super) fn spool_of<'a>(&self, topic: &'a Topic) -> Option<&'a Arc<TopicSpool>> {
        match &self.spool {
            Some(spool) if topic.spools => Some(topic.spool.get_or_init(|| spool.topic(&topic.name))),
            // What is left from before goes first, and nothing follows it there.
            _ => topic.spool.get().filter(|left| left.is_spooling()),
        }
    }

    /// Names nobody could use are not kept: there may be very many.
    pub(super) fn forget(&self, topic: &Arc<Topic>) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let unused = |known: &Topic| !known.exists() && !known.is_spooling();
        if topics.get(&topic.name).is_some_and(|known| Arc::ptr_eq(known, topic) && unused(known)) {
            topics.remove(&topic.name);
        }
    }

    /// Gives a publish's bodies their ids and stamps.
    pub(super) fn messages<'a>(
        &'a self,
        publish: &'a Publish,
        bodies: &'a [Bytes],
    ) -> impl Iterator<Item = Message> + 'a {
        let like = publish.like();
        bodies.iter().map(move |body| self.message(&like, body.clone()))
    }

    /// Gives one body its id and stamps.
    pub(super) fn message(&self, like: &Like, body: Bytes) -> Message {
        Message {
            properties: like.stamps.put(&like.properties, &body),
            body,
            unique_key: self.keys.mint(),
            born_at: like.accepted_ms,
            deliver_at: None,
        }
    }

    /// Runs something to its end, whether somebody waits for it or not.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tasks.spawn(task)
    }

    /// How long a publish may be tried.
    pub(super) fn budget(&self) -> Duration {
        self.config.budget
    }

    /// How long before it is spooled.
    pub(super) fn spool_after(&self) -> Duration {
        self.config.spool.after
    }

    /// Cancelled when what is spooled is to be left for the next start.
    pub(super) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    #[cfg(test)]
    pub(super) fn spool(&self) -> Option<&Arc<Spool>> {
        self.spool.as_ref()
    }

    pub(super) fn creates_topics(&self) -> bool {
        self.config.create_topics
    }

    pub(super) fn producer(&self) -> &Producer {
        &self.producer
    }

    /// For deferred messages that are acknowledged, and that RocketMQ does not hold back for as long as it should.
    pub(super) fn by_level(&self) -> &Producer {
        &self.by_level
    }

    pub(super) fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_ref()
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The messages RocketMQ has that the topic's relay has still to relay, 0 without one, on the masters whose `groups` are given; `None`
    /// when that cannot be said now.
    pub(super) async fn depth(
        &self,
        topic: &Topic,
        groups: &BTreeMap<String, BTreeSet<String>>,
    ) -> Option<u64> {
        let group = self.config.names.relay_group(&self.config.relay_group_prefix, &topic.name);
        let route = self.cluster.route(&topic.rocketmq_topic).await.ok()?;
        let answering: Vec<_> = route.masters().filter_map(|(_, address)| groups.get(address)).collect();
        answering.first()?;
        // Brokers answer for a group they do not know as for one that has read nothing.
        if !answering.iter().any(|known| known.contains(&group)) {
            return Some(0);
        }
        let queues = self
            .cluster
            .consume_stats_on(&group, &topic.rocketmq_topic, |address| groups.contains_key(address))
            .await
            .ok()?;
        let behind = queues.values().map(|queue| queue.broker_offset - queue.consumer_offset);
        Some(behind.map(|behind| u64::try_from(behind).unwrap_or(0)).sum())
    }

    /// What is stored through this publisher: its cluster and how topics and groups are named there.
    pub(super) fn cluster(&self) -> (&Cluster, &PublishConfig) {
        (&self.cluster, &self.config)
    }

    /// Waits until everything that was begun has its outcome, unless the spool's disk is stuck; nothing more must be published.
    pub(super) async fn drain(&self) {
        self.tasks.close();
        let wait = self.config.spool.drain_on_stop;
        if tokio::time::timeout(wait, self.tasks.wait()).await.is_err() {
            self.stopping.cancel();
            // Only a disk that does not answer takes longer: it must not keep the process from ending.
            let within = self.config.budget + LAST_OUTCOMES_WITHIN;
            if tokio::time::timeout(within, self.tasks.wait()).await.is_err() {
                error!(tasks = self.tasks.len(), waited = ?within,
                    "stopping, though the spool's disk does not answer; whether it has what it was last given is not known");
            }
        }
        if let Some(recorder) = &self.recorder
            && !recorder.drain(LAST_RECORDS_WITHIN).await
        {
            warn!(
                "audit records are not written; `nsqbridge verify` will find messages no gateway has told of"
            );
        }
    }

    /// The HTTP requests under way.
    pub(super) fn under_way(&self) -> usize {
        self.admission.held().1
    }

    /// Whether publishing can be expected to work now, by RocketMQ or by the spool, and why not.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn health(&self) -> Result<(), String> {
        // Without leave to create topics nobody can say which there are.
        let stands_in =
            || self.config.create_topics && self.spool.as_ref().is_some_and(|spool| spool.stands_in());
        self.health.state().or_else(|reason| if stands_in() { Ok(()) } else { Err(reason) })
    }

    /// See [`Health::answers`].
    pub(super) fn answers(&self, brokers: &BTreeSet<String>) -> bool {
        self.health.answers(brokers)
    }

    /// What publishing depends on.
    #[must_use]
    pub fn dependencies(&self) -> Vec<Dependency> {
        let mut dependencies = vec![Dependency::vital("publishing", self.health())];
        dependencies.extend(self.health.dependencies());
        dependencies.extend(self.spool.iter().map(|spool| Dependency::part("spool", spool.state())));
        dependencies
    }
}
