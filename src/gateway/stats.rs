//! `/info` and `/stats`, for producers that watch the depth and for monitoring that knows nsqd.
//!
//! Listed are the topics published to, or created, through this gateway. Counts are this gateway's own since it started, as
//! nsqd's are. `depth` is RocketMQ's: the messages the topic's relay has still to relay, whichever gateway took them, on the
//! brokers that answer; 0 where nothing relays the topic. What this gateway has spooled is added. There are no channels here.

use std::{fmt::Write, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde_json::json;

use super::{
    handlers::Gateway,
    replies::{Error, Reply},
    tcp::producers::ProducerStats,
    topic::Topic,
};
use crate::nsq::query::Query;

/// The nsqd that is imitated.
pub(super) const VERSION: &str = "1.3.0";
/// Brokers are asked for this many topics' depths at once, and for this long in all; then the last known ones count.
const ASKED_AT_ONCE: usize = 16;
const ASKED_FOR: Duration = Duration::from_secs(1);
/// A broker that takes longer is left out this time: the others' depths must not stand still for it.
const ANSWERED_WITHIN: Duration = Duration::from_millis(600);
/// A depth is good for so long.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// Answers `/info`.
pub(super) fn info(gateway: &Gateway) -> Reply {
    #[derive(Serialize)]
    struct Info<'a> {
        version: &'a str,
        broadcast_address: &'a str,
        hostname: &'a str,
        http_port: u16,
        /// nsqd says -1 where it listens on no port.
        tcp_port: i32,
        start_time: i64,
        max_heartbeat_interval: u64,
        max_output_buffer_size: u64,
        max_output_buffer_timeout: u64,
        max_deflate_level: u64,
    }
    Reply::json(&Info {
        version: VERSION,
        broadcast_address: &gateway.config.broadcast_address,
        hostname: &gateway.config.hostname,
        http_port: gateway.http_address.port(),
        tcp_port: gateway.tcp_address.map_or(-1, |address| i32::from(address.port())),
        start_time: gateway.started_at,
        max_heartbeat_interval: 60_000_000_000,
        max_output_buffer_size: 65_536,
        max_output_buffer_timeout: 30_000_000_000,
        max_deflate_level: 6,
    })
}

/// Answers `/stats`.
pub(super) async fn stats(gateway: &Gateway, query: &Query<'_>) -> Result<Reply, Error> {
    let filter = query.get("topic").filter(|topic| !topic.is_empty());
    let mut topics = gateway.publisher.known_topics();
    topics.retain(|topic| filter.as_ref().is_none_or(|name| topic.name.as_str() == name));
    let unknown = filter.is_some() && topics.is_empty();
    if query.get("channel").is_some_and(|channel| !channel.is_empty()) {
        topics.clear();
    }
    let clients = wanted(query, "include_clients") && !unknown;
    let producers = if clients { gateway.producers.stats(filter.as_deref()) } else { Vec::new() };
    ask_depths(gateway, &topics).await;
    let memory = wanted(query, "include_mem").then(Memory::now);
    let health = match gateway.publisher.health() {
        Ok(()) => "OK".to_owned(),
        Err(reason) => format!("NOK - {reason}"),
    };
    if query.get("format").as_deref() != Some("json") {
        return Ok(Reply::Text(text(gateway, &topics, &health, memory.as_ref(), &producers)));
    }
    let listed: Vec<_> = topics.iter().map(|topic| TopicStats::of(topic)).collect();
    Ok(Reply::json(&Stats {
        version: VERSION,
        health,
        start_time: gateway.started_at,
        // nsqd writes an empty list where nothing is, and null for a topic it does not know.
        topics: (!unknown).then_some(listed),
        memory,
        producers: Some(producers).filter(|producers| !producers.is_empty()),
    }))
}

#[derive(Serialize)]
struct Stats {
    version: &'static str,
    health: String,
    start_time: i64,
    topics: Option<Vec<TopicStats>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
    producers: Option<Vec<ProducerStats>>,
}

#[derive(Serialize)]
struct TopicStats {
    topic_name: String,
    channels: [(); 0],
    depth: u64,
    backend_depth: u64,
    message_count: u64,
    message_bytes: u64,
    paused: bool,
    e2e_processing_latency: serde_json::Value,
}

impl TopicStats {
    fn of(topic: &Topic) -> Self {
        let (message_count, message_bytes) = topic.counted();
        Self {
            topic_name: topic.name.to_string(),
            channels: [],
            depth: topic.depth(),
            // All of it is on the brokers' disks.
            backend_depth: topic.depth(),
            message_count,
            message_bytes,
            paused: false,
            e2e_processing_latency: json!({"count": 0, "percentiles": null}),
        }
    }
}

/// nsqd's names for what Go's runtime counts. Of these only what the process holds has a counterpart.
#[derive(Serialize, Default)]
struct Memory {
    heap_objects: u64,
    heap_idle_bytes: u64,
    heap_in_use_bytes: u64,
    heap_released_bytes: u64,
    gc_pause_usec_100: u64,
    gc_pause_usec_99: u64,
    gc_pause_usec_95: u64,
    next_gc_bytes: u64,
    gc_total_runs: u64,
}

impl Memory {
    fn now() -> Self {
        Self { heap_in_use_bytes: crate::observe::process::resident_bytes().unwrap_or(0), ..Self::default() }
    }

    fn rows(&self) -> [(&'static str, u64); 9] {
        [
            ("heap_objects", self.heap_objects),
            ("heap_idle_bytes", self.heap_idle_bytes),
            ("heap_in_use_bytes", self.heap_in_use_bytes),
            ("heap_released_bytes", self.heap_released_bytes),
            ("gc_pause_usec_100", self.gc_pause_usec_100),
            ("gc_pause_usec_99", self.gc_pause_usec_99),
            ("gc_pause_usec_95", self.gc_pause_usec_95),
            ("next_gc_bytes", self.next_gc_bytes),
            ("gc_total_runs", self.gc_total_runs),
        ]
    }
}

/// nsqd takes every value it does not know for yes.
fn wanted(query: &Query<'_>, name: &str) -> bool {
    !matches!(query.get(name).as_deref(), Some("false" | "0"))
}

async fn ask_depths(gateway: &Gateway, topics: &[Arc<Topic>]) {
    let (cluster, _) = gateway.publisher.cluster();
    let asking = async {
        // One at a time, and who has waited takes what the one before has heard: each asks every master for all of its groups.
        let _one = gateway.asking_depths.lock().await;
        let topics: Vec<_> = topics.iter().filter(|topic| !topic.knows_depth_for(GOOD_FOR)).collect();
        if topics.is_empty() {
            return;
        }
        // Also what is not answered is not asked again at once.
        let answered = cluster.groups_answered(ANSWERED_WITHIN).await.unwrap_or_default();
        if answered.is_empty() {
            return topics.iter().for_each(|topic| topic.asked_for_depth());
        }
        let groups = &answered;
        stream::iter(topics)
            .for_each_concurrent(ASKED_AT_ONCE, |topic| async move {
                let depth = gateway.publisher.depth(topic, groups).await;
                topic.asked_for_depth();
                if let Some(depth) = depth {
                    topic.set_depth(depth);
                }
            })
            .await;
    };
    if !topics.is_empty() && tokio::time::timeout(ASKED_FOR, asking).await.is_err() {
        topics.iter().for_each(|topic| topic.asked_for_depth());
    }
}

fn text(
    gateway: &Gateway,
    topics: &[Arc<Topic>],
    health: &str,
    memory: Option<&Memory>,
    producers: &[ProducerStats],
) -> String {
    let started = std::time::UNIX_EPOCH + Duration::from_secs(gateway.started_at.unsigned_abs());
    let uptime = started.elapsed().unwrap_or_default();
    let mut text = format!(
        "nsqd v{VERSION} (built w/nsqbridge-{})\nstart_time {}\nuptime {}\n\nHealth: {health}\n",
        env!("CARGO_PKG_VERSION"),
        humantime::format_rfc3339_seconds(started),
        humantime::format_duration(Duration::from_secs(uptime.as_secs())).to_string().replace(' ', ""),
    );
    if let Some(memory) = memory {
        text.push_str("\nMemory:\n");
        for (name, value) in memory.rows() {
            let _ = writeln!(text, "   {name:<25}\t{value}");
        }
    }
    if topics.is_empty() {
        text.push_str("\nTopics: None\n");
    } else {
        text.push_str("\nTopics:");
        for topic in topics {
            let TopicStats { topic_name, depth, backend_depth, message_count, .. } = TopicStats::of(topic);
            let _ = writeln!(
                text,
                "\n   [{topic_name:<15}] depth: {depth:<5} be-depth: {backend_depth:<5} msgs: {message_count:<8} e2e%: "
            );
        }
    }
    text.push_str(if producers.is_empty() { "\nProducers: None\n" } else { "\nProducers:\n" });
    for producer in producers {
        let _ = writeln!(text, "   {producer}");
    }
    text
}
