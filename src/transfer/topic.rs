//! The relay of one feed: which of its queues are this instance's, and one loop for each.
//!
//! Every round asks for the topic's queues and the group's members, computes this instance's share, tells the loops of
//! other queues to drain (a queue is unlocked when its loop has drained and committed), locks or renews the rest, and
//! sees that each locked queue has a loop. A round never waits for a loop: locks would not be renewed meanwhile. Of very many topics each
//! has its round less often; locks are renewed between them.
//! A queue whose loop ended is begun again from its committed offset, later each time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::{self, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{debug, error, info, warn};

use super::{
    Shared, TransferConfig,
    committed::{self, Looks},
    deliver::Delivery,
    destinations::Destinations,
    gate::Gate,
    held::Held,
    pace::Pace,
    parking::Parking,
    queue::{Ended, QueueRelay},
    retention,
    state::TopicState,
    undrained::journal::Journal,
};
use crate::{
    audit::Ledger,
    mapping::Feed,
    nsq::names::TopicName,
    retry::Backoff,
    rocketmq::{
        Cluster, ClusterError, Queue, QueueReader,
        group::{Member, allocate},
    },
};

/// A round is due this long after the last, or at once when the group's members change.
const ROUND_EVERY: Duration = Duration::from_secs(1);
/// Whoever waits to be let in asks this often.
const ASK_GATE_EVERY: Duration = Duration::from_secs(1);
/// The channels nsqlookupd knows are asked for this often.
const ASK_LOOKUPD_EVERY: Duration = Duration::from_secs(2);
/// Locks are looked after at least this often, however seldom rounds come: twice before a lease ends, should one try fail.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// Locks are renewed when this much of the lease is left.
const RENEW_BEFORE: Duration = Duration::from_secs(20);
/// A queue that was relayed this long before it failed has failed for the first time.
const WELL_AFTER: Duration = Duration::from_secs(60);
/// A held queue is reported at least this often.
const REMIND_EVERY: Duration = Duration::from_secs(30);
/// Progress is logged this often, if there was any.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// One feed's relay.
pub(super) struct TopicRelay {
    cluster: Cluster,
    config: Arc<TransferConfig>,
    /// The NSQ topic.
    topic: TopicName,
    /// What lets it begin and go on, if not everything does.
    gate: Option<Gate>,
    rocketmq_topic: String,
    group: String,
    delivery: Arc<Delivery>,
    journal: Arc<Journal>,
    looks: Looks,
    ledger: Option<Arc<Ledger>>,
    state: Arc<TopicState>,
    shared: Arc<Shared>,
    owned: HashMap<Queue, Owned>,
    loops: JoinSet<(Queue, Result<Ended, Held>)>,
    failures: HashMap<Queue, Failure>,
}

/// A queue this instance holds the lock of.
struct Owned {
    lease: watch::Sender<Option<Instant>>,
    drain: CancellationToken,
    begun: Instant,
    /// Its loop.
    task: task::Id,
}

/// A queue whose loop ended with a fault.
struct Failure {
    backoff: Backoff,
    retry_at: Instant,
}

impl TopicRelay {
    pub(super) fn new(shared: Arc<Shared>, feed: Feed) -> Self {
        let Shared { cluster, config, fleet, metrics, completed, .. } = &*shared;
        let topic = feed.topic().clone();
        let destinations = Arc::new(Destinations::new(
            &feed,
            Arc::clone(fleet),
            config.choice.clone(),
            config.names.clone(),
            Arc::clone(completed),
        ));
        let pace = Arc::new(Pace::new(config.max_rate));
        let of_topic = metrics.of(&feed);
        let group = config.names.feed_group(&config.group_prefix, &feed);
        let (ledger, gate) = match feed.clone() {
            Feed::Topic(topic) => (shared.recorder.as_ref().map(|recorder| recorder.topic(&topic)), None),
            Feed::Share(share) => {
                (None, Some(Gate::new(cluster.clone(), &config.names, share, group.clone())))
            }
        };
        let delivery = Delivery {
            feed: feed.clone(),
            destinations: Arc::clone(&destinations),
            limits: config.limits,
            pace: Arc::clone(&pace),
            parking: Parking::new(cluster.clone(), &config.names, &feed),
            metrics: Arc::clone(&of_topic),
            ordered: config.ordered,
            audited: ledger.is_some(),
        };
        let state = Arc::new(TopicState::new(topic.clone(), destinations, pace, of_topic));
        metrics.show(&state);
        let journal = Arc::new(Journal::new(cluster.clone(), &config.names, &feed, &group));
        let rocketmq_topic = config.names.rocketmq_topic(feed.source());
        Self {
            cluster: cluster.clone(),
            rocketmq_topic,
            journal,
            looks: committed::unseen().1,
            ledger,
            gate,
            group,
            topic,
            config: Arc::clone(config),
            delivery: Arc::new(delivery),
            state,
            shared: Arc::clone(&shared),
            owned: HashMap::new(),
            loops: JoinSet::new(),
            failures: HashMap::new(),
        }
    }

    /// Relays until `drain`, or until its gate is closed; then finishes what is in flight, commits, unlocks and leaves the group.
    pub(super) async fn run(mut self, drain: CancellationToken) {
        // Before anything is created in nsqd, where the topic may be another's.
        if drain.run_until_cancelled(self.admitted()).await.is_none() {
            return;
        }
        let views = self.shared.fleet.watch(&self.topic);
        let ask_every = self.shared.paced(ASK_LOOKUPD_EVERY);
        let ready = Arc::clone(&self.state.destinations).keep_ready(views, ask_every);
        let _destinations = AbortOnDropHandle::new(tokio::spawn(ready));
        let (looks, looked) = committed::unseen();
        self.looks = looked;
        let Some(member) = drain.run_until_cancelled(self.join()).await else { return };
        let _looking = AbortOnDropHandle::new(tokio::spawn(committed::keep_looking(
            self.cluster.clone(),
            self.group.clone(),
            self.rocketmq_topic.clone(),
            self.shared.paced(committed::LOOK_EVERY),
            looks,
        )));
        let _retention = AbortOnDropHandle::new(tokio::spawn(retention::keep_watching(
            Arc::clone(&self.state),
            QueueReader::new(self.cluster.clone(), &self.group),
            self.shared.reserves.subscribe(),
            self.shared.paced(retention::WATCH_EVERY),
        )));
        let state = Arc::clone(&self.state);
        let _described =
            self.cluster.describe(&self.group, Arc::new(move |asked| super::control::answer(&state, asked)));
        let mut changes = self.cluster.membership_changes();
        // Whoever closes a gate waits for it.
        let round_every = if self.gate.is_some() { ROUND_EVERY } else { self.shared.paced(ROUND_EVERY) };
        let mut rounds = tokio::time::interval(round_every);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewals = tokio::time::interval(RENEW_EVERY);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reports = tokio::time::interval(REPORT_EVERY);
        let mut reported = 0;
        while !drain.is_cancelled() {
            tokio::select! {
                () = drain.cancelled() => break,
                Some(ended) = self.loops.join_next() => {
                    let mut unlock = Vec::from_iter(self.ended(ended));
                    while let Some(ended) = self.loops.try_join_next() {
                        unlock.extend(self.ended(ended));
                    }
                    member.unlock(&unlock).await;
                }
                _ = reports.tick() => self.report(&mut reported),
                _ = rounds.tick() => {
                    self.state.measure();
                    match self.gate_is_open().await {
                        Ok(true) => self.round(&member).await,
                        Ok(false) => break,
                        Err(error) => debug!(topic = %self.topic, %error, "whether it may go on is not known now"),
                    }
                }
                _ = changes.changed(), if self.gate.is_none() => self.round(&member).await,
                _ = renewals.tick(), if round_every > RENEW_EVERY => {
                    let owned = self.owned.keys().cloned().collect();
                    self.lock_due(&member, owned).await;
                }
            }
        }
        self.leave(member).await;
        self.report(&mut reported);
    }

    /// Whether it may go on; said when it may not.
    async fn gate_is_open(&mut self) -> Result<bool, ClusterError> {
        let Some(gate) = &mut self.gate else { return Ok(true) };
        let open = gate.is_open().await?;
        if !open {
            info!(topic = %self.topic, "no longer by share: what is in flight is finished, and nothing more is sent");
        }
        Ok(open)
    }

    /// Waits until it may begin.
    async fn admitted(&self) {
        let Some(gate) = &self.gate else { return };
        let mut said = None;
        loop {
            match gate.keeps_out().await {
                Ok(None) => break,
                Ok(why) if why == said => {}
                Ok(why) => {
                    info!(topic = %self.topic, reason = why, "waiting");
                    self.state.keep_out(why.clone());
                    said = why;
                }
                Err(error) => {
                    self.cannot_begin(&error);
                    said = None;
                }
            }
            tokio::time::sleep(ASK_GATE_EVERY).await;
        }
        self.state.keep_out(None);
    }

    /// Waits until the topic exists, then joins its group.
    async fn join(&self) -> Member {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
        let mut waiting = false;
        loop {
            match self.try_join().await {
                Ok(member) => {
                    self.state.keep_out(None);
                    return member;
                }
                Err(ClusterError::UnknownTopic(topic)) => {
                    if !waiting {
                        info!(topic, "the topic does not exist yet; waiting for its first message");
                    }
                    waiting = true;
                    self.state.keep_out(Some("the topic does not exist in RocketMQ yet".to_owned()));
                }
                Err(error) => self.cannot_begin(&error),
            }
            backoff.wait().await;
        }
    }

    fn cannot_begin(&self, error: &ClusterError) {
        warn!(topic = %self.topic, %error, "cannot begin; trying again");
        self.state.keep_out(Some(format!("it cannot begin: {error}")));
    }

    async fn try_join(&self) -> Result<Member, ClusterError> {
        self.cluster.route(&self.rocketmq_topic).await?;
        if self.gate.is_none()
            && let Err(error) = self.cluster.create_group(&self.group).await
        {
            // Without the right to create groups the first heartbeat may still do it.
            warn!(group = self.group, %error, "consumer group not created");
        }
        let member = Member::join(self.cluster.clone(), &self.group, &self.rocketmq_topic).await?;
        info!(topic = %self.topic, group = self.group, "relaying");
        Ok(member)
    }

    async fn round(&mut self, member: &Member) {
        let share = match self.share(member).await {
            Ok(share) => {
                self.give_up_held(&share);
                share
            }
            Err(error) => {
                debug!(topic = %self.topic, %error, "membership unknown; keeping the queues there are");
                self.owned.keys().cloned().collect()
            }
        };
        for (queue, owned) in &self.owned {
            if !share.contains(queue) {
                owned.drain.cancel();
            }
        }
        // A queue that is being given up keeps its lock until it is drained and committed.
        let leaving = self.owned.keys().filter(|queue| !share.contains(queue));
        let wanted = share.iter().chain(leaving).cloned().collect();
        self.lock_due(member, wanted).await;
    }

    /// Locks or renews those of these queues for which that is due, and sees that each has a loop.
    async fn lock_due(&mut self, member: &Member, mut wanted: Vec<Queue>) {
        let now = Instant::now();
        let due = |queue: &Queue| match self.owned.get(queue) {
            // One that is lost is not renewed: its loop ends, and a new one begins where the other instance has left the queue.
            Some(owned) => owned.lease.borrow().is_some_and(|until| until < now + RENEW_BEFORE),
            None => self.failures.get(queue).is_none_or(|failure| failure.retry_at <= now),
        };
        wanted.retain(due);
        if wanted.is_empty() {
            return;
        }
        // Whoever closes the gate relies on it that no queue is locked behind it.
        if let Some(gate) = &self.gate
            && !gate.look().await.unwrap_or(false)
        {
            return;
        }
        let locked = member.lock(&wanted).await;
        for queue in wanted {
            if locked.granted.contains(&queue) {
                match self.owned.get(&queue) {
                    Some(owned) => drop(owned.lease.send_replace(Some(locked.until))),
                    None => self.begin(queue, locked.until),
                }
            } else if locked.refused.contains(&queue)
                && let Some(owned) = self.owned.get(&queue)
            {
                warn!(%queue, "another instance holds the lock of this queue; leaving it");
                owned.lease.send_replace(None);
            }
        }
    }

    /// A held queue that is another's now is that one's to report.
    fn give_up_held(&mut self, share: &[Queue]) {
        self.failures.retain(|queue, _| {
            let mine = share.contains(queue) || self.owned.contains_key(queue);
            if !mine {
                self.state.forget(queue);
            }
            mine
        });
    }

    /// The queues that are this instance's to relay.
    async fn share(&self, member: &Member) -> Result<Vec<Queue>, ClusterError> {
        let route = self.cluster.route(&self.rocketmq_topic).await?;
        let members = member.members().await?;
        Ok(allocate(&route.read_queues, &members, &self.cluster.config().client_id))
    }

    fn begin(&mut self, queue: Queue, until: Instant) {
        let (lease, held) = watch::channel(Some(until));
        let drain = CancellationToken::new();
        let relay = QueueRelay {
            cluster: self.cluster.clone(),
            group: self.group.clone(),
            queue: queue.clone(),
            delivery: Arc::clone(&self.delivery),
            state: Arc::clone(&self.state),
            lease: held,
            drain: drain.clone(),
            drain_timeout: self.config.drain_timeout,
            max_bytes: self.config.max_bytes_per_queue,
            memory: Arc::clone(&self.shared.memory),
            on_gap: self.config.on_gap,
            looks: self.looks.clone(),
            lanes: self.shared.lanes(),
            park_unreadable: self.config.park_unreadable,
            journal: Arc::clone(&self.journal),
            replay: self.config.replay,
            ledger: self.ledger.clone(),
        };
        let of_loop = queue.clone();
        let task = self.loops.spawn(async move { (of_loop, relay.run().await) }).id();
        self.owned.insert(queue, Owned { lease, drain, begun: Instant::now(), task });
    }

    /// Takes note of a loop's end; returns the queue if its lock is still held.
    fn ended(&mut self, ended: Result<(Queue, Result<Ended, Held>), JoinError>) -> Option<Queue> {
        let (queue, result) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let failed = self.owned.iter().find(|(_, owned)| owned.task == error.id());
                let queue = failed.map(|(queue, _)| queue.clone())?;
                (queue.clone(), Err(Held::DeliveryFailed { queue, error: error.to_string() }))
            }
        };
        let ran = self.owned.remove(&queue).map_or(Duration::ZERO, |owned| owned.begun.elapsed());
        match result {
            Ok(Ended::Drained) => {
                self.failures.remove(&queue);
                self.state.forget(&queue);
            }
            Ok(Ended::LeaseLost) => {
                debug!(%queue, "left to its new owner");
                self.state.forget(&queue);
                return None;
            }
            Err(held) => self.hold(&queue, &held, ran),
        }
        Some(queue)
    }

    /// Lets a queue that could not go on rest, longer each time.
    fn hold(&mut self, queue: &Queue, held: &Held, ran: Duration) {
        self.state.hold(queue, held.to_string());
        if ran > WELL_AFTER {
            self.failures.remove(queue);
        }
        // What only time can mend is tried again soon; what a person must mend is repeated for the log's sake.
        let longest = if held.needs_a_person() { REMIND_EVERY } else { Duration::from_secs(2) };
        let failure = self.failures.entry(queue.clone()).or_insert_with(|| Failure {
            backoff: Backoff::new(Duration::from_millis(500), REMIND_EVERY),
            retry_at: Instant::now(),
        });
        let retry_in = failure.backoff.next_delay().min(longest);
        failure.retry_at = Instant::now() + retry_in;
        if held.needs_a_person() {
            error!(topic = %self.topic, reason = %held, ?retry_in, "queue held");
        } else {
            warn!(topic = %self.topic, reason = %held, ?retry_in, "queue interrupted");
        }
    }

    async fn leave(&mut self, member: Member) {
        for owned in self.owned.values() {
            owned.drain.cancel();
        }
        let mut unlock = Vec::new();
        while let Some(ended) = self.loops.join_next().await {
            unlock.extend(self.ended(ended));
        }
        member.unlock(&unlock).await;
        member.leave().await;
    }

    fn report(&self, reported: &mut u64) {
        let [read, relayed, retried, parked, perhaps_doubled] = self.state.metrics.totals();
        if relayed == *reported {
            return;
        }
        *reported = relayed;
        let (backlog, queues) = (self.state.lag(), self.owned.len());
        info!(topic = %self.topic, read, relayed, retried, parked, perhaps_doubled, backlog, queues, "progress");
    }
}
