//! Channels that become consumer groups, and back: a ledger on both sides, and nothing lost or doubled between them.

mod complete;
mod cutover;
mod drivers;
mod java;
mod planned;
mod refused;
mod rollback;
mod share;
mod taken_in;
mod waits;

use std::{
    collections::BTreeMap,
    process::{Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use nsqbridge::{
    mapping::{Names, STAMPED},
    rocketmq::{
        Cluster, ClusterError, Queue, QueueReader, codes::response, group::Member, reader::Pull,
        record::StoredMessage,
    },
};
use nsqbridge_brokers::{Nsqd, Rig};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::bridge::{
    Consumer, Gateway, Program, SOON, To, cluster, create_channel, create_topic, eventually, insisting,
    topic, transfer,
};

/// Three channels of one topic, each with a consumer, under load.
pub struct Stage<'a> {
    pub rig: &'a Rig,
    pub topic: String,
    pub gateway: Arc<Gateway>,
    pub relay: Program,
    pub moved: Consumer,
    pub others: [Consumer; 2],
}

pub const CHANNELS: [&str; 3] = ["moved", "stays", "stays.too"];

impl<'a> Stage<'a> {
    pub async fn set(rig: &'a Rig, stem: &str) -> Self {
        Self::relayed(rig, stem, |_| Vec::new()).await
    }

    /// The same, with a relay of what is left where the first channel is moved by share.
    pub async fn by_share(rig: &'a Rig, stem: &str) -> Self {
        Self::relayed(rig, stem, |topic| vec!["--share".to_owned(), format!("{topic}/{}", CHANNELS[0])]).await
    }

    async fn relayed(rig: &'a Rig, stem: &str, flags: impl Fn(&str) -> Vec<String>) -> Self {
        let topic = topic(stem);
        let flags = flags(&topic);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let nsqds: Vec<&Nsqd> = rig.nsqds.iter().collect();
        for channel in CHANNELS {
            create_channel(nsqds[0], &topic, channel).await;
        }
        let gateway = Arc::new(Gateway::start(&rig.name_server, &[]).await);
        create_topic(rig, &topic).await;
        let relay = transfer(&rig.name_server, &topic, &To::Nsqds(&nsqds), &flags);
        let [moved, stays, stays_too] = CHANNELS.map(|channel| Consumer::start(&nsqds, &topic, channel));
        Self { rig, topic, gateway, relay, moved, others: [stays, stays_too] }
    }

    pub fn path(&self) -> String {
        format!("{}/{}", self.topic, CHANNELS[0])
    }

    pub fn group(&self) -> String {
        Names::default().channel_group(&self.topic.parse().unwrap(), &CHANNELS[0].parse().unwrap())
    }

    /// Waits until the moved channel's consumer has had this many messages, and every queue is relayed: of a new topic a relay learns
    /// the second broker's some seconds later.
    pub async fn at_work(&self, messages: usize) {
        eventually("the old consumer is at work", SOON, async || self.moved.count() > messages).await;
        relayed(self.rig, &self.topic).await;
    }

    pub fn load(&self, batch: usize, every: Duration) -> Load {
        Load::start(&self.gateway, &self.topic, batch, every)
    }

    /// Runs `nsqbridge COMMAND TOPIC/CHANNEL --execute --yes -o json` and further flags.
    pub async fn act(&self, command: &str, flags: &[&str]) -> Ended {
        act(self.rig, &[&[command, &self.path(), "--execute", "--yes"], flags].concat()).await
    }

    pub async fn status(&self) -> Value {
        let ended = act(self.rig, &["status", &self.path()]).await;
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.events[0]["channels"][0].clone()
    }

    /// Rolls the channel back under load, from consumers that work: the old one goes on, and the new one gets nothing more.
    pub async fn is_given_back(&self, load: Load, new: &impl Ledger) {
        let ended = self.act("rollback", &["--max-pause", "60s"]).await;
        println!("the relay was held for {} ms", ended.done()["paused_ms"]);
        let (old, consumed) = (self.moved.count(), new.received().len());
        eventually("the old consumer is at work again", SOON, async || self.moved.count() > old + 1_000)
            .await;
        let sent = load.stop().await;
        let came = self.settled(sent, new).await;
        assert_eq!(new.received().len(), consumed, "the new consumer got more after the rollback");
        println!("old {}, new {consumed}, lost 0, doubled {}", self.moved.count(), doubled(&came));
        assert_eq!(doubled(&came), 0);
    }

    /// Waits until old and new consumer together have all of `sent`, and the other channels as well; how often each message came
    /// to the moved channel's consumers.
    pub async fn settled(&self, sent: usize, new: &impl Ledger) -> BTreeMap<Bytes, usize> {
        let both = || counted([self.moved.received(), new.received()].concat());
        eventually("old and new consumer have everything", 2 * SOON, async || both().len() == sent).await;
        for consumer in &self.others {
            let received = counted(consumer.wait_for(sent).await);
            assert_eq!((received.len(), received.values().max()), (sent, Some(&1)), "another channel");
        }
        both()
    }
}

/// Waits until every queue of a topic is relayed.
pub async fn relayed(rig: &Rig, topic: &str) {
    eventually("every queue is relayed", 2 * SOON, async || {
        let status = act(rig, &["status", topic]).await;
        status.events.first().is_some_and(|status| status["topics"][0]["unowned_queues"] == 0)
    })
    .await;
}

/// What a command ended with.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub events: Vec<Value>,
    pub errors: String,
}

impl Ended {
    pub fn last(&self) -> &Value {
        self.events.last().unwrap_or_else(|| panic!("nothing said: {}", self.errors))
    }

    pub fn reason(&self) -> &str {
        self.last()["reason"].as_str().unwrap_or_default()
    }

    pub fn done(&self) -> &Value {
        assert_eq!(self.code, 0, "{self:?}");
        self.last()
    }
}

/// Runs `nsqbridge` beside everything else.
pub async fn act(rig: &Rig, arguments: &[&str]) -> Ended {
    let name_server = rig.name_server.addr().to_string();
    let shown = arguments[..2].join(" ");
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let run = move || {
        Command::new(env!("CARGO_BIN_EXE_nsqbridge"))
            .args(&arguments)
            .args(["-o", "json"])
            .env_clear()
            .env("NAMESRV_ADDR", &name_server)
            .env("NSQBRIDGE_LOG_LEVEL", "warn")
            .output()
            .unwrap()
    };
    let Output { status, stdout, stderr } = tokio::task::spawn_blocking(run).await.unwrap();
    let said = String::from_utf8(stdout).unwrap();
    let events: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for event in events.iter().filter(|event| event["seconds"].is_f64()) {
        let (what, seconds) = (event.get("step").or(event.get("reason")), event["seconds"].as_f64().unwrap());
        println!("{seconds:7.2} {} {} {}", shown, what.unwrap_or(&Value::Null), event["message"]);
    }
    Ended { code: status.code().unwrap(), events, errors: String::from_utf8(stderr).unwrap() }
}

/// How often each message came.
pub fn counted(received: Vec<Bytes>) -> BTreeMap<Bytes, usize> {
    let mut counted = BTreeMap::new();
    for body in received {
        *counted.entry(body).or_default() += 1;
    }
    counted
}

pub fn doubled(counted: &BTreeMap<Bytes, usize>) -> usize {
    counted.values().map(|times| times - 1).sum()
}

/// A producer that goes on until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    running: JoinHandle<(usize, Duration)>,
}

impl Load {
    pub fn start(gateway: &Arc<Gateway>, topic: &str, batch: usize, every: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, gateway, topic) = (Arc::clone(&stop), Arc::clone(gateway), topic.to_owned());
        let running = tokio::spawn(async move {
            let (mut sent, began) = (0, Instant::now());
            let mut pace = tokio::time::interval(every);
            while !stopped.load(Ordering::SeqCst) {
                pace.tick().await;
                gateway.publish_all(&topic, &crate::bridge::numbered(sent..sent + batch)).await;
                sent += batch;
            }
            (sent, began.elapsed())
        });
        Self { stop, running }
    }

    /// How many messages were published; every one was acknowledged.
    pub async fn stop(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let (sent, took) = self.running.await.unwrap();
        println!("{sent} messages, {:.0} a second", sent as f64 / took.as_secs_f64());
        sent
    }
}

/// What the consumers of a group have had.
pub trait Ledger {
    /// Everything so far.
    fn received(&self) -> Vec<Bytes>;
}

/// A consumer of a group: waits until it is open, reads from what is committed, and leaves when it is closed; then waits again.
pub struct GroupConsumer {
    received: Arc<Mutex<Vec<Bytes>>>,
    running: JoinHandle<()>,
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl GroupConsumer {
    pub fn start(rig: &Rig, topic: &str, group: &str) -> Self {
        Self::of(rig, topic, group, None)
    }

    /// One that takes what has this property, and passes the rest.
    pub fn of_share(rig: &Rig, topic: &str, group: &str, property: &str) -> Self {
        Self::of(rig, topic, group, Some(property.to_owned()))
    }

    fn of(rig: &Rig, topic: &str, group: &str, property: Option<String>) -> Self {
        let cluster = cluster(rig);
        let topic = Names::default().rocketmq_topic(&topic.parse().unwrap());
        let (group, received) = (group.to_owned(), Arc::new(Mutex::new(Vec::new())));
        let ledger = Arc::clone(&received);
        let running = tokio::spawn(async move {
            loop {
                if cluster.consuming(&group).await.is_ok_and(|consuming| consuming.is_open()) {
                    let Ok(member) = Member::join(cluster.clone(), &group, &topic).await else { continue };
                    consume(&cluster, &group, &topic, property.as_deref(), &ledger).await;
                    member.leave().await;
                }
                // The answer is every group there is, and other tests have many.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        Self { received, running }
    }

    pub fn count(&self) -> usize {
        self.received.lock().unwrap().len()
    }
}

impl Ledger for GroupConsumer {
    fn received(&self) -> Vec<Bytes> {
        self.received.lock().unwrap().clone()
    }
}

/// How many messages the group's consumer asks for.
const BATCH: u32 = 32;

async fn consume(
    cluster: &Cluster,
    group: &str,
    topic: &str,
    property: Option<&str>,
    ledger: &Mutex<Vec<Bytes>>,
) {
    let reader = QueueReader::new(cluster.clone(), group);
    let mut places: Vec<(Queue, i64)> = Vec::new();
    for queue in insisting(|| cluster.topic_stats(topic)).await.into_keys() {
        let at = insisting(|| cluster.committed_offset(group, &queue)).await;
        places.push((queue, at.expect("a group that is opened has its place in every queue")));
    }
    loop {
        let mut more = false;
        for (queue, at) in &mut places {
            match reader.pull(queue, *at, BATCH, Duration::ZERO).await {
                Ok(Pull::Messages { messages, problem: None, .. }) => {
                    more |= messages.len() == BATCH as usize;
                    let next = *at + messages.len() as i64;
                    *at = next;
                    let is_ours = |message: &StoredMessage| {
                        property.is_none_or(|property| message.properties.get(property) == Some(STAMPED))
                    };
                    let ours = messages.into_iter().filter(is_ours).map(|message| message.body);
                    ledger.lock().unwrap().extend(ours);
                    insisting(|| cluster.try_commit(group, queue, next)).await;
                }
                Ok(Pull::Empty { .. }) => {}
                Err(ClusterError::Refused { code: response::NO_PERMISSION, .. }) => return,
                Ok(other) => panic!("{queue} at {at}: {other:?}"),
                Err(problem) => eprintln!("pulled again: {queue} at {at}: {problem}"),
            }
        }
        if !more {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}
