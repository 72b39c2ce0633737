//! Takes what producers publish: the topic, the bounds, the way into RocketMQ.
//!
//! `Ok` means that RocketMQ answered `SEND_OK` for every message of the request, and nothing weaker. Each message gets
//! its id once; every retry that might double it carries the same one.
//!
//! ```text
//! publish ─▶ topic (looked for, created) ─▶ its lane ─▶ store: batch by batch ─▶ each caller's outcome
//! ```

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use prometheus_client::registry::Registry;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use super::{
    admission::{Admission, AdmissionLimits, NoRoom, Permit},
    health::Health,
    lane::{Publish, Stored},
    metrics::{Metrics, MetricsConfig},
    share::Shares,
    spool::{self, Spool, SpoolConfig, SpoolError},
    store,
    topic::Topic,
};
use crate::{
    audit::{Pace, Recorder},
    mapping::Names,
    nsq::names::TopicName,
    observe::health::Dependency,
    retry::Backoff,
    rocketmq::{
        Cluster, ClusterError, Message, Producer, message::Levels, properties::PropertiesBuilder,
        unique_key::UniqueKeys,
    },
};

/// A topic's audit records follow each other no faster.
const AUDITED_EVERY: Duration = Duration::from_secs(5);
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

/// Stores messages in one RocketMQ cluster.
#[derive(Debug)]
pub struct Publisher {
    cluster: Cluster,
    producer: Producer,
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
    /// Stands in for RocketMQ where the HTTP side is tested alone.
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
        let counted = Arc::clone(&metrics);
        let pace = Pace { every: AUDITED_EVERY, spread: true };
        let recorder = || Recorder::new(cluster.clone(), config.names.clone(), "nsqbridge-gateway", pace);
        let recorder = config.audit.then(recorder);
        let health = Health::watch(cluster.clone(), config.levels);
        Ok(Self {
            producer: Producer::new(cluster.clone(), "nsqbridge-gateway")
                .with_levels(config.levels)
                .with_observer(Arc::new(move |tried| counted.tried(tried))),
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
                self.spawn(spool::drain(Arc::clone(self), topic, spool));
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

    /// Stores a request's messages in order and in one queue; `Ok` only when every one is stored.
    ///
    /// # Errors
    /// See [`PublishError`]; of several messages the first ones may be stored all the same.
    ///
    /// # Cancellation
    /// Dropping the future only ends the wait: what has begun to be stored is stored.
    pub async fn publish(self: &Arc<Self>, request: PublishRequest) -> Result<Stored, PublishError> {
        #[cfg(test)]
        if let Some(script) = &self.script {
            let asking = self.tasks.spawn(script.clone().ask(request));
            return asking.await.unwrap_or_else(|error| Err(PublishError::Unknown(error.to_string())));
        }
        let deadline = Instant::now() + self.config.budget;
        let topic = match self.spooling_topic(&request.topic) {
            Some(topic) => topic,
            None => self.ensure_topic(&request.topic).await?,
        };
        let PublishRequest { bodies, properties, accepted_ms, defer, wants_ids, mut permit, .. } = request;
        permit.charge(&topic)?;
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
        outcome.await.unwrap_or_else(|_| {
            Err(PublishError::Unknown("sending failed by a fault of this program".to_owned()))
        })
    }

    /// The topic, created on every broker if it is new.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn ensure_topic(self: &Arc<Self>, name: &TopicName) -> Result<Arc<Topic>, PublishError> {
        #[cfg(test)]
        if let Some(script) = &self.script {
            return script.ask_for_topic(name).await;
        }
        self.find(name, self.config.create_topics).await
    }

    /// The topic, if it exists in RocketMQ.
    ///
    /// # Errors
    /// [`PublishError::NoSuchTopic`], or why that cannot be said.
    pub async fn existing_topic(self: &Arc<Self>, name: &TopicName) -> Result<Arc<Topic>, PublishError> {
        #[cfg(test)]
        if let Some(script) = &self.script {
            return script.ask_for_topic(name).await;
        }
        self.find(name, false).await
    }

    async fn find(self: &Arc<Self>, name: &TopicName, create: bool) -> Result<Arc<Topic>, PublishError> {
        if let Some(topic) = self.known_topic(name) {
            return Ok(topic);
        }
        if create && name.is_ephemeral() && !self.config.ephemeral_topics {
            return Err(PublishError::Ephemeral(name.clone()));
        }
        // In a task of its own: a producer that hangs up must not leave a topic on half of the brokers.
        let (publisher, name) = (Arc::clone(self), name.clone());
        let ensuring = self.tasks.spawn(async move {
            let topic = publisher.topic(&name);
            let spools = create && topic.spool.is_some();
            let budget = if spools { publisher.spool_after() } else { publisher.config.budget };
            match publisher.ensure(&topic, create, Instant::now() + budget).await {
                // It is created when what is spooled gets to RocketMQ.
                Err(PublishError::Unavailable(_)) if spools => Ok(topic),
                Err(error) => {
                    publisher.forget(&topic);
                    Err(error)
                }
                Ok(()) => Ok(topic),
            }
        });
        ensuring.await.unwrap_or_else(|error| Err(PublishError::Unavailable(error.to_string())))
    }

    /// Looks for the topic, and creates it on every broker if it may, until `deadline`.
    pub(super) async fn ensure(
        &self,
        topic: &Topic,
        create: bool,
        deadline: Instant,
    ) -> Result<(), PublishError> {
        let mut last = None;
        let ensure = async {
            let _one_at_a_time = topic.ensuring.lock().await;
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
            while !topic.exists() {
                match self.look_for_or_create(topic, create).await {
                    Ok(()) => topic.seen(&self.metrics),
                    Err(ClusterError::UnknownTopic(_)) => {
                        return Err(PublishError::NoSuchTopic(topic.name.clone()));
                    }
                    Err(error) => {
                        last = Some(error);
                        backoff.wait().await;
                    }
                }
            }
            Ok(())
        };
        let ensured = tokio::time::timeout_at(deadline, ensure).await;
        ensured.unwrap_or_else(|_| {
            let reason = last.map_or_else(|| "no answer in time".to_owned(), |error| error.to_string());
            Err(PublishError::Unavailable(format!("topic {}: {reason}", topic.rocketmq_topic)))
        })
    }

    async fn look_for_or_create(&self, topic: &Topic, create: bool) -> Result<(), ClusterError> {
        let name = &topic.rocketmq_topic;
        if !(create && topic.missed()) {
            match self.cluster.route(name).await {
                Err(ClusterError::UnknownTopic(_)) if create => {}
                found => return found.map(drop),
            }
        }
        self.cluster.create_topic(name, self.config.topic_queues).await?;
        info!(topic = %topic.name, rocketmq_topic = name, "topic created");
        Ok(())
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
            let spool = self.spool.as_ref().and_then(|spool| spool.topic(name));
            let stamps = self.config.shares.of(name);
            Arc::new(Topic::new(name.clone(), rocketmq_topic, stamps, spool))
        };
        Arc::clone(topics.entry(name.clone()).or_insert_with(make))
    }

    /// Names nobody could use are not kept: there may be very many.
    fn forget(&self, topic: &Arc<Topic>) {
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
        bodies.iter().map(|body| Message {
            body: body.clone(),
            properties: publish.stamps.put(&publish.properties, body),
            unique_key: self.keys.mint(),
            born_at: publish.accepted_ms,
            deliver_at: None,
        })
    }

    /// Runs something to its end, whether somebody waits for it or not.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
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

    pub(super) fn creates_topics(&self) -> bool {
        self.config.create_topics
    }

    pub(super) fn producer(&self) -> &Producer {
        &self.producer
    }

    pub(super) fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_ref()
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The messages the topic's relay has still to relay, 0 without one; `None` when that cannot be said now.
    pub(super) async fn depth(&self, topic: &Topic, groups: &BTreeSet<String>) -> Option<u64> {
        let group = self.config.names.relay_group(&self.config.relay_group_prefix, &topic.name);
        // Brokers answer for a group they do not know as for one that has read nothing.
        if !groups.contains(&group) {
            return Some(0);
        }
        let queues = self.cluster.consume_stats(&group, &topic.rocketmq_topic).await.ok()?;
        let behind = queues.values().map(|queue| queue.broker_offset - queue.consumer_offset);
        let stored: u64 = behind.map(|behind| u64::try_from(behind).unwrap_or(0)).sum();
        Some(stored + topic.spool.as_ref().map_or(0, |spool| spool.messages()))
    }

    /// What is stored through this publisher: its cluster and how topics and groups are named there.
    pub(super) fn cluster(&self) -> (&Cluster, &PublishConfig) {
        (&self.cluster, &self.config)
    }

    /// Waits until everything that was begun has its outcome; nothing more must be published.
    pub(super) async fn drain(&self) {
        self.tasks.close();
        let wait = self.config.spool.drain_on_stop;
        if tokio::time::timeout(wait, self.tasks.wait()).await.is_err() {
            self.stopping.cancel();
            self.tasks.wait().await;
        }
        if let Some(recorder) = &self.recorder {
            recorder.drain(LAST_RECORDS_WITHIN).await;
        }
    }

    /// The publishes and topic creations under way.
    pub(super) fn under_way(&self) -> usize {
        self.admission.held().1
    }

    /// Whether publishing can be expected to work now, and why not.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn health(&self) -> Result<(), String> {
        self.health.state()
    }

    /// What publishing depends on.
    #[must_use]
    pub fn dependencies(&self) -> Vec<Dependency> {
        let mut dependencies = self.health.dependencies();
        dependencies.extend(self.spool.iter().map(|spool| Dependency::part("spool", spool.state())));
        dependencies
    }
}
