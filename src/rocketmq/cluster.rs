//! A handle on one RocketMQ cluster: its name servers, its connections, its routes.
//!
//! Everything else in this library is built from a [`Cluster`]; there is no global state, so one process can work with
//! several. Connections are opened when first needed, kept alive by heartbeats, and reopened with backoff.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::{
    codes::request,
    command::Command,
    connection::{Connection, Inbound, RequestError},
    credentials::Credentials,
    inbound::{self, Describe, Descriptions},
    loose_json::{self, Value},
    route::{Queue, Routes},
    tls::Tls,
};
use crate::{excerpt::excerpt, retry::Backoff};

/// Brokers drop a connection that was silent for 120 s, the Java client beats every 30 s.
pub(super) const HEARTBEAT_EVERY: Duration = Duration::from_secs(30);

/// How to reach a cluster.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// `HOST:PORT` of each name server; at least one.
    pub name_servers: Vec<String>,
    /// Identifies this process to brokers; two processes must not share one.
    pub client_id: String,
    /// Speak TLS to name servers and brokers.
    pub tls: Option<Tls>,
    /// Sign every request.
    pub credentials: Option<Credentials>,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// How long an ordinary request waits for its answer; sends and pulls have deadlines of their own.
    pub request_timeout: Duration,
}

impl ClusterConfig {
    /// Plain, unsigned access through these name servers.
    #[must_use]
    pub fn new(name_servers: Vec<String>) -> Self {
        Self {
            name_servers,
            client_id: client_id(),
            tls: None,
            credentials: None,
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(3),
        }
    }
}

/// `host@pid#random`: readable in the dashboard, and never the same twice.
fn client_id() -> String {
    let host = std::env::var("HOSTNAME")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .unwrap_or_else(|_| "nohost".to_owned());
    format!("{}@{}#{:08x}", host.trim(), std::process::id(), fastrand::u32(..))
}

/// What went wrong with a request that is not a send.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClusterError {
    /// No answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The peer refused.
    #[error("{address} answered {code} to {asked}: {remark}")]
    Refused {
        /// Who refused.
        address: String,
        /// What was asked, in words.
        asked: String,
        /// Its response code.
        code: i32,
        /// Its remark.
        remark: String,
    },
    /// The peer's answer is not what the protocol promises.
    #[error("{address} gave an answer to {asked} that cannot be read: {reason}")]
    Malformed {
        /// Who answered.
        address: String,
        /// What was asked, in words.
        asked: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The name servers know no such topic.
    #[error("the name servers know no topic {0}")]
    UnknownTopic(String),
    /// The time for a send ran out before there was anybody to send it to.
    #[error("the name servers did not say in time where to send")]
    TooLate,
    /// Nothing could be asked for want of a broker.
    #[error("no broker with a master is registered with the name servers now")]
    NoBroker,
    /// The route names no master for the broker.
    #[error("broker {0} has no master in the route now")]
    NoMaster(String),
    /// The broker answered success to a commit, and has not done it.
    #[error("{group} was set to offset {offset} in {queue}, and the broker holds {}", held(*holds))]
    NotCommitted {
        /// For whom.
        group: String,
        /// Where.
        queue: Queue,
        /// What the broker was told.
        offset: i64,
        /// What it holds; `None` for nothing.
        holds: Option<i64>,
    },
}

fn held(offset: Option<i64>) -> String {
    offset.map_or_else(|| "none".to_owned(), |offset| offset.to_string())
}

/// A handle on one cluster; clones share its connections and routes.
#[derive(Debug, Clone)]
pub struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    routes: Arc<Routes>,
    _upkeep: [AbortOnDropHandle<()>; 2],
}

/// A consumer that is described; see [`Cluster::describe`].
#[derive(Debug)]
pub struct Described {
    cluster: Cluster,
    group: String,
}

impl Drop for Described {
    fn drop(&mut self) {
        self.cluster.shared().descriptions.set(&self.group, None);
    }
}

/// What the upkeep tasks share with the handles, without keeping those alive.
pub(super) struct Shared {
    config: ClusterConfig,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    inbound: Inbound,
    descriptions: Arc<Descriptions>,
    membership_changed: watch::Sender<u64>,
    unclaimed: Arc<AtomicU64>,
    /// The index of the name server that answered last.
    name_server: AtomicUsize,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The place of one peer's connection.
type Slot = tokio::sync::Mutex<SlotState>;

#[derive(Debug, Default)]
struct SlotState {
    connection: Option<Arc<Connection>>,
    failure: Option<ConnectFailure>,
}

#[derive(Debug)]
struct ConnectFailure {
    reason: String,
    backoff: Backoff,
    retry_at: Instant,
}

impl Cluster {
    /// Makes the handle; nothing is contacted before the first request.
    #[must_use]
    pub fn new(config: ClusterConfig) -> Self {
        let (membership_changed, _) = watch::channel(0);
        let descriptions = Arc::<Descriptions>::default();
        let shared = Arc::new(Shared {
            inbound: inbound::answers(
                config.client_id.clone(),
                membership_changed.clone(),
                Arc::clone(&descriptions),
            ),
            descriptions,
            config,
            slots: Mutex::default(),
            membership_changed,
            unclaimed: Arc::default(),
            name_server: AtomicUsize::new(0),
        });
        let routes = Arc::new(Routes::default());
        let keep_alive = tokio::spawn(keep_alive(Arc::clone(&shared)));
        let keep_fresh = tokio::spawn(super::route::keep_fresh(Arc::clone(&routes), Arc::clone(&shared)));
        let upkeep = [AbortOnDropHandle::new(keep_alive), AbortOnDropHandle::new(keep_fresh)];
        Self(Arc::new(Inner { shared, routes, _upkeep: upkeep }))
    }

    /// The configuration this handle was made with.
    #[must_use]
    pub fn config(&self) -> &ClusterConfig {
        &self.0.shared.config
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0.shared
    }

    pub(super) fn routes(&self) -> &Routes {
        &self.0.routes
    }

    /// Changes whenever a broker reports that a consumer group's members changed.
    #[must_use]
    pub fn membership_changes(&self) -> watch::Receiver<u64> {
        self.0.shared.membership_changed.subscribe()
    }

    /// Describes this client's consumer of `group` to whoever asks for its running information, until the guard is dropped.
    #[must_use]
    pub fn describe(&self, group: &str, describe: Describe) -> Described {
        self.shared().descriptions.set(group, Some(describe));
        Described { cluster: self.clone(), group: group.to_owned() }
    }

    /// Answers dropped because no request waited for them, over all connections so far.
    #[must_use]
    pub fn unclaimed_answers(&self) -> u64 {
        self.0.shared.unclaimed_answers()
    }

    /// Sends a request to `address`; an answer of any code is `Ok`.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn request(
        &self,
        address: &str,
        command: Command,
        timeout: Duration,
    ) -> Result<Command, RequestError> {
        self.0.shared.request(address, command, timeout).await
    }

    /// The version ordinal of the server behind the open connection to `address`; every answer carries it.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub(super) async fn peer_version(&self, address: &str) -> Result<i32, ClusterError> {
        match self.shared().connection(address).await?.peer_version() {
            Some(version) => Ok(version),
            None => self.version(address).await,
        }
    }

    /// Asks a broker for its version ordinal, and so whether it answers at all.
    ///
    /// # Errors
    /// When it does not, or refuses.
    pub async fn version(&self, address: &str) -> Result<i32, ClusterError> {
        let shared = self.shared();
        let beat = heartbeat(&shared.config.client_id, &serde_json::json!([]));
        Ok(shared.ask(address, "its version", beat).await?.version)
    }

    /// Sends a request that must be answered with success.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] for every other code.
    pub async fn ask(&self, address: &str, asked: &str, command: Command) -> Result<Command, ClusterError> {
        self.0.shared.ask(address, asked, command).await
    }
}

impl Shared {
    pub(super) fn config(&self) -> &ClusterConfig {
        &self.config
    }

    pub(super) fn current_name_server(&self) -> &AtomicUsize {
        &self.name_server
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<String, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unclaimed_answers(&self) -> u64 {
        let slots: Vec<_> = self.slots().values().cloned().collect();
        let open = slots
            .iter()
            .filter_map(|slot| Some(slot.try_lock().ok()?.connection.as_ref()?.unclaimed_answers()));
        self.unclaimed.load(Ordering::Relaxed) + open.sum::<u64>()
    }

    pub(super) async fn request(
        &self,
        address: &str,
        mut command: Command,
        timeout: Duration,
    ) -> Result<Command, RequestError> {
        let started = Instant::now();
        let connecting = tokio::time::timeout(timeout, self.connection(address)).await;
        let connection = connecting.unwrap_or_else(|_| {
            let reason = format!("no connection within {timeout:?}");
            Err(RequestError::NotSent { address: address.to_owned(), reason })
        })?;
        if let Some(credentials) = &self.config.credentials {
            // 4.9 leaves this one field out of the text it verifies, 5.x keeps it in; we never send it.
            credentials.sign(&mut command.ext, &command.body, false);
        }
        let left = timeout.saturating_sub(started.elapsed());
        if left.is_zero() {
            // It would be written all the same, and its outcome unknown.
            let reason = "no time was left for an answer".to_owned();
            return Err(RequestError::NotSent { address: address.to_owned(), reason });
        }
        connection.request(command, left).await
    }

    pub(super) async fn ask(
        &self,
        address: &str,
        asked: &str,
        command: Command,
    ) -> Result<Command, ClusterError> {
        let answer = self.request(address, command, self.config.request_timeout).await?;
        if answer.code != super::codes::response::SUCCESS {
            return Err(refused(address, asked, &answer));
        }
        Ok(answer)
    }

    /// The open connection to `address`, or a new one.
    ///
    /// Callers queue behind one attempt; after a failed one, everybody is told so at once until the backoff has passed.
    async fn connection(&self, address: &str) -> Result<Arc<Connection>, RequestError> {
        let slot = Arc::clone(self.slots().entry(address.to_owned()).or_default());
        if let Ok(state) = slot.try_lock()
            && let Some(connection) = state.connection.as_ref().filter(|open| !open.is_spent())
        {
            return Ok(Arc::clone(connection));
        }
        // In a task of its own. The first to ask may have less time than connecting takes, and must not end the attempt for all:
        // where handshakes are slow, there would never be a connection. And whoever asks may not be polled for a while, and must not
        // be given the slot's turn meanwhile: nobody else would get one.
        let address = address.to_owned();
        let (config, inbound) = (self.config.clone(), Arc::clone(&self.inbound));
        let opening = open(slot, address.clone(), config, inbound, Arc::clone(&self.unclaimed));
        tokio::spawn(opening).await.unwrap_or_else(|error| {
            Err(RequestError::NotSent { address, reason: format!("connect: {error}") })
        })
    }

    /// The peers with an open connection.
    fn open_peers(&self) -> Vec<String> {
        let slots = self.slots();
        let open = slots.iter().filter(|(_, slot)| {
            slot.try_lock().is_ok_and(|state| state.connection.as_ref().is_some_and(|open| !open.is_spent()))
        });
        open.map(|(address, _)| address.clone()).collect()
    }
}

/// Waits for the slot's turn, and opens its connection unless somebody has by then; leaves it, or why there is none, there.
async fn open(
    slot: Arc<Slot>,
    address: String,
    config: ClusterConfig,
    inbound: Inbound,
    unclaimed: Arc<AtomicU64>,
) -> Result<Arc<Connection>, RequestError> {
    let mut state = slot.lock().await;
    if let Some(connection) = &state.connection {
        if !connection.is_spent() {
            return Ok(Arc::clone(connection));
        }
        unclaimed.fetch_add(connection.unclaimed_answers(), Ordering::Relaxed);
        state.connection = None;
    }
    if let Some(failure) = &state.failure
        && Instant::now() < failure.retry_at
    {
        return Err(RequestError::NotSent { address, reason: failure.reason.clone() });
    }
    match Connection::open(&address, config.tls.as_ref(), config.connect_timeout, inbound).await {
        Ok(connection) => {
            let connection = Arc::new(connection);
            *state = SlotState { connection: Some(Arc::clone(&connection)), failure: None };
            Ok(connection)
        }
        Err(error) => {
            let (RequestError::NotSent { reason, .. } | RequestError::Unknown { reason, .. }) = &error;
            let mut backoff = state.failure.take().map_or_else(
                || Backoff::new(Duration::from_millis(50), Duration::from_secs(2)),
                |failure| failure.backoff,
            );
            let retry_at = Instant::now() + backoff.next_delay();
            state.failure = Some(ConnectFailure { reason: reason.clone(), backoff, retry_at });
            Err(error)
        }
    }
}

/// The error for an answer that is not a success.
pub(super) fn refused(address: &str, asked: &str, answer: &Command) -> ClusterError {
    ClusterError::Refused {
        address: address.to_owned(),
        asked: asked.to_owned(),
        code: answer.code,
        remark: excerpt(answer.remark()),
    }
}

/// What those said that answered.
///
/// # Errors
/// When some were asked, and none answered.
pub(super) fn those_that_answer<T>(
    asked: impl IntoIterator<Item = Result<T, ClusterError>>,
) -> Result<Vec<T>, ClusterError> {
    let (mut said, mut failure) = (Vec::new(), None);
    for answer in asked {
        match answer {
            Ok(answer) => said.push(answer),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if said.is_empty() => Err(error),
        _ => Ok(said),
    }
}

/// What stands in the payload of an answer.
pub(super) fn parsed(address: &str, asked: &str, answer: &Command) -> Result<Value, ClusterError> {
    loose_json::parse(&answer.body).map_err(|error| malformed(address, asked, error))
}

/// The error for an answer that cannot be read.
pub(super) fn malformed(address: &str, asked: &str, reason: impl ToString) -> ClusterError {
    ClusterError::Malformed {
        address: address.to_owned(),
        asked: asked.to_owned(),
        reason: excerpt(&reason.to_string()),
    }
}

/// Keeps idle connections open: a broker would close one after 120 s, perhaps just as a send is written.
async fn keep_alive(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(HEARTBEAT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for address in shared.open_peers() {
            if shared.config.name_servers.contains(&address) {
                continue;
            }
            let beat = heartbeat(&shared.config.client_id, &serde_json::json!([]));
            if let Err(error) = shared.ask(&address, "a heartbeat", beat).await {
                debug!(%address, %error, "heartbeat failed");
            }
        }
    }
}

/// A heartbeat request; `consumers` lists the groups this client is a member of.
pub(super) fn heartbeat(client_id: &str, consumers: &serde_json::Value) -> Command {
    let body = serde_json::json!({
        "clientID": client_id,
        "consumerDataSet": consumers,
        "producerDataSet": [],
    });
    Command::request(request::HEART_BEAT).body(body.to_string())
}

/// Addresses of one broker's instances by broker id; 0 is the master.
pub type BrokerAddresses = BTreeMap<i64, String>;
