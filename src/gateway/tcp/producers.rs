//! Who is connected over TCP, for `/stats`: as nsqd does it, listed are those that have published.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;

use super::identify::Client;
use crate::{nsq::names::TopicName, rocketmq::producer::unix_millis};

/// What a client has published is told of so many topics.
const MAX_TOPICS: usize = 100;

/// All connections of one gateway.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Producers {
    connected: Mutex<BTreeMap<u64, Arc<Producer>>>,
    last: AtomicU64,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Producer {
    remote: SocketAddr,
    /// Seconds since 1970.
    since: i64,
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Told {
    client_id: String,
    hostname: String,
    user_agent: String,
    sample_rate: i64,
    published: BTreeMap<TopicName, u64>,
}

/// Listed as long as it is held.
pub(super) struct Listed<'a> {
    producers: &'a Producers,
    number: u64,
    producer: Arc<Producer>,
}

impl Producers {
    pub(super) fn list(&self, remote: SocketAddr) -> Listed<'_> {
        let name = remote.ip().to_string();
        let told = Told {
            client_id: name.clone(),
            hostname: name,
            user_agent: String::new(),
            sample_rate: 0,
            published: BTreeMap::new(),
        };
        let producer = Arc::new(Producer { remote, since: unix_millis() / 1_000, told: Mutex::new(told) });
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, Arc::clone(&producer));
        Listed { producers: self, number, producer }
    }

    /// Everybody who has published; what they have, to this topic if one is named.
    pub(in crate::gateway) fn stats(&self, topic: Option<&str>) -> Vec<ProducerStats> {
        let connected: Vec<_> = self.lock().values().cloned().collect();
        connected.iter().filter_map(|producer| producer.stats(topic)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Producer>>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.producers.lock().remove(&self.number);
    }
}

impl std::ops::Deref for Listed<'_> {
    type Target = Producer;

    fn deref(&self) -> &Producer {
        &self.producer
    }
}

impl Producer {
    /// Takes what a client says of itself; what it leaves out stays.
    pub(super) fn identified(&self, client: &Client) {
        let mut told = self.lock();
        let told = &mut *told;
        for (known, said) in [(&mut told.client_id, &client.id), (&mut told.hostname, &client.hostname)] {
            if !said.is_empty() {
                known.clone_from(said);
            }
        }
        told.user_agent.clone_from(&client.user_agent);
        told.sample_rate = client.sample_rate;
    }

    /// Counts what was acknowledged.
    pub(super) fn published(&self, topic: &TopicName, messages: usize) {
        let published = &mut self.lock().published;
        if let Some(count) = published.get_mut(topic) {
            *count += messages as u64;
        } else if published.len() < MAX_TOPICS {
            published.insert(topic.clone(), messages as u64);
        }
    }

    fn stats(&self, topic: Option<&str>) -> Option<ProducerStats> {
        let told = self.lock();
        let wanted = |name: &TopicName| topic.is_none_or(|topic| name.as_str() == topic);
        let published = told.published.iter().filter(|(name, _)| wanted(name));
        let stats = ProducerStats {
            client_id: told.client_id.clone(),
            hostname: told.hostname.clone(),
            version: "V2",
            remote_address: self.remote.to_string(),
            connect_ts: self.since,
            sample_rate: told.sample_rate,
            user_agent: told.user_agent.clone(),
            pub_counts: published
                .map(|(topic, &count)| PubCount { topic: topic.to_string(), count })
                .collect(),
            ..ProducerStats::default()
        };
        (!told.published.is_empty()).then_some(stats)
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What nsqd tells of a client. What is about consuming and TLS is the same for every producer here.
#[derive(Debug, Default, Serialize)]
pub(in crate::gateway) struct ProducerStats {
    client_id: String,
    hostname: String,
    version: &'static str,
    remote_address: String,
    state: u64,
    ready_count: u64,
    in_flight_count: u64,
    message_count: u64,
    finish_count: u64,
    requeue_count: u64,
    connect_ts: i64,
    sample_rate: i64,
    deflate: bool,
    snappy: bool,
    user_agent: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub_counts: Vec<PubCount>,
    tls: bool,
    tls_cipher_suite: &'static str,
    tls_version: &'static str,
    tls_negotiated_protocol: &'static str,
    tls_negotiated_protocol_is_mutual: bool,
}

#[derive(Debug, Serialize)]
struct PubCount {
    topic: String,
    count: u64,
}

impl fmt::Display for ProducerStats {
    /// As nsqd's text has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.remote_address.rsplit_once(':').map_or("", |(_, port)| port);
        let who = format!("{}:{port} {}", self.hostname, self.user_agent);
        let connected = Duration::from_secs((unix_millis() / 1_000 - self.connect_ts).max(0).unsigned_abs());
        let connected = humantime::format_duration(connected).to_string().replace(' ', "");
        write!(f, "[V2 {who:<21}] ")?;
        if self.pub_counts.is_empty() {
            write!(f, "state: 0 inflt: 0    rdy: 0    fin: 0        re-q: 0        msgs: 0        ")?;
        } else {
            let messages: u64 = self.pub_counts.iter().map(|of| of.count).sum();
            let topics: Vec<_> =
                self.pub_counts.iter().map(|PubCount { topic, count }| format!("{topic}={count}")).collect();
            write!(f, "msgs: {messages:<8} topics: {} ", topics.join(","))?;
        }
        write!(f, "connected: {connected}")
    }
}
