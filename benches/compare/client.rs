//! The RocketMQ client alone, beside the Java client's own benchmark programs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use nsqbridge::{
    gateway::publish::{PublishConfig, PublishRequest, Publisher},
    rocketmq::{
        Cluster, Message, Outcome, Producer, Queue, QueueReader, producer::unix_millis,
        properties::PropertiesBuilder, reader::Pull, unique_key::UniqueKeys,
    },
};
use nsqbridge_brokers::{Flush, Rig, rocketmq};
use tokio::task::JoinSet;

use crate::{
    Plan,
    parts::{Fresh, all_stored, cluster, eventually, new_topic, rig},
    table::Row,
};

const BODY: usize = 256;
const WITHIN: Duration = Duration::from_secs(10);
/// What the consumers read.
const BACKLOG: u64 = 1_000_000;
/// Pulls of one queue under way.
const LANES: usize = 4;
const PULL: i64 = 32;
const JAVA: &str = "org.apache.rocketmq.example.benchmark";
/// Java's first reports are of code that is not compiled yet.
const COLD_REPORTS: usize = 2;

/// All rows of the client.
pub async fn rows(plan: &Plan, fresh: &mut Fresh) -> Vec<Row> {
    let rig = rig(1, Flush::Async);
    let cluster = cluster(&rig);
    let rounds = plan.rounds.div_ceil(2);
    let mut rows = Vec::new();
    let mut row = |what: &str, unit, against, ours, theirs, aims| {
        let (what, note) = (what.to_owned(), String::new());
        rows.push(Row { what, unit, against, ours, theirs, aims: Some(aims), less: false, note });
    };

    let (mut single, mut joined, mut java) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        java.push(java_rate(
            &rig,
            "Producer",
            &["-w", "64", "-s", "256", "-t"],
            &fresh_topic(&cluster, fresh).await,
            plan,
        ));
        single.push(single_sends(&cluster, 64, plan, fresh).await);
        joined.push(group_commit(&cluster, 64, plan, fresh).await);
    }
    row("client: single sends, 64 callers", "msg/s", "Java Producer -w 64", single, java.clone(), (1.2, 1.4));
    row(
        "client: 64 callers, batched, own answer each",
        "msg/s",
        "Java Producer -w 64",
        joined,
        java,
        (6.0, 8.0),
    );

    let (mut batches, mut java) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let topic = fresh_topic(&cluster, fresh).await;
        java.push(java_rate(
            &rig,
            "BatchProducer",
            &["-b", "100", "-w", "4", "-s", "256", "-t"],
            &topic,
            plan,
        ));
        batches.push(batches_of(&cluster, 100, 4, plan, fresh).await);
    }
    row(
        "client: batches of 100, 4 in flight",
        "msg/s",
        "Java BatchProducer -b 100 -w 4",
        batches,
        java,
        (2.0, 3.0),
    );

    let (mut pulled, mut java) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let topic = fresh.topic("pull");
        let queues = new_topic(&cluster, &topic).await;
        fill(&cluster, &queues, BACKLOG).await;
        pulled.push(pull_all(&cluster, &queues).await);
        let group = format!("{topic}_java");
        java.push(java_rate(&rig, "Consumer", &["-g", &group, "-p", "false", "-t"], &topic, plan));
    }
    row("client: pull, 8 queues, 256 B", "msg/s", "Java Consumer", pulled, java, (6.0, 10.0));
    rows
}

async fn fresh_topic(cluster: &Cluster, fresh: &mut Fresh) -> String {
    let topic = fresh.topic("client");
    new_topic(cluster, &topic).await;
    topic
}

fn message(keys: &UniqueKeys, body: &Bytes) -> Message {
    Message {
        body: body.clone(),
        properties: PropertiesBuilder::new(),
        unique_key: keys.mint(),
        born_at: unix_millis(),
        deliver_at: None,
    }
}

/// Runs callers for the plan's time; messages a second that were delivered, after the broker was seen to have them all.
async fn rate(
    cluster: &Cluster,
    topic: &str,
    plan: &Plan,
    callers: usize,
    call: impl AsyncFn() -> u64 + Clone + 'static,
) -> f64 {
    let begun = Instant::now();
    let until = begun + plan.lasting;
    let delivered = Arc::new(AtomicU64::new(0));
    let calling = tokio::task::LocalSet::new();
    for _ in 0..callers {
        let (delivered, call) = (Arc::clone(&delivered), call.clone());
        calling.spawn_local(async move {
            while Instant::now() < until {
                delivered.fetch_add(call().await, Ordering::Relaxed);
            }
        });
    }
    calling.await;
    let took = begun.elapsed();
    let delivered = delivered.load(Ordering::Relaxed);
    all_stored(cluster, topic, delivered).await;
    delivered as f64 / took.as_secs_f64()
}

async fn single_sends(cluster: &Cluster, callers: usize, plan: &Plan, fresh: &mut Fresh) -> f64 {
    batches_of(cluster, 1, callers, plan, fresh).await
}

async fn batches_of(cluster: &Cluster, batch: usize, callers: usize, plan: &Plan, fresh: &mut Fresh) -> f64 {
    let topic = fresh_topic(cluster, fresh).await;
    let producer = Arc::new(Producer::new(cluster.clone(), "bench"));
    let keys = Arc::new(UniqueKeys::new());
    let body = Bytes::from(vec![b'x'; BODY]);
    let name = topic.clone();
    let call = async move || {
        let messages: Vec<Message> = (0..batch).map(|_| message(&keys, &body)).collect();
        let outcome = producer.deliver(&name, &messages, None, WITHIN).await;
        assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
        batch as u64
    };
    let call = Arc::new(call);
    rate(cluster, &topic, plan, callers, async move || call().await).await
}

/// Callers that share batches, as the gateway's publishes do.
async fn group_commit(cluster: &Cluster, callers: usize, plan: &Plan, fresh: &mut Fresh) -> f64 {
    let topic = fresh_topic(cluster, fresh).await;
    let publisher = Arc::new(Publisher::new(cluster.clone(), PublishConfig::default()));
    let body = Bytes::from(vec![b'x'; BODY]);
    let name = topic.parse().unwrap();
    let call = Arc::new(async move || {
        let request = PublishRequest {
            topic: nsqbridge::nsq::names::TopicName::clone(&name),
            bodies: vec![body.clone()],
            properties: PropertiesBuilder::new(),
            accepted_ms: unix_millis(),
            defer: None,
            wants_ids: false,
            permit: publisher.admit().unwrap(),
        };
        publisher.publish(request).await.unwrap();
        1
    });
    rate(cluster, &topic, plan, callers, async move || call().await).await
}

/// Fills a topic's queues evenly.
pub async fn fill(cluster: &Cluster, queues: &[Queue], messages: u64) {
    const BATCH: u64 = 1_000;
    let producer = Arc::new(Producer::new(cluster.clone(), "bench"));
    let keys = Arc::new(UniqueKeys::new());
    let body = Bytes::from(vec![b'x'; 200]);
    let mut filling = JoinSet::new();
    for queue in queues {
        let (producer, keys, body, queue) =
            (Arc::clone(&producer), Arc::clone(&keys), body.clone(), queue.clone());
        let batches = messages / BATCH / queues.len() as u64;
        filling.spawn(async move {
            for _ in 0..batches {
                let messages: Vec<Message> = (0..BATCH).map(|_| message(&keys, &body)).collect();
                let outcome = producer.send(&queue, &messages, WITHIN).await;
                assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
            }
        });
    }
    while let Some(filled) = filling.join_next().await {
        filled.unwrap();
    }
    all_stored(cluster, &queues[0].topic, messages).await;
}

/// Reads all there is, several pulls of each queue at a time; messages a second.
async fn pull_all(cluster: &Cluster, queues: &[Queue]) -> f64 {
    let reader = QueueReader::new(cluster.clone(), "bench_pull");
    let begun = Instant::now();
    let mut reading = JoinSet::new();
    for queue in queues {
        let bounds = cluster.queue_bounds(queue).await.unwrap();
        let (reader, queue) = (reader.clone(), queue.clone());
        reading.spawn(async move {
            let offsets = (bounds.min..bounds.max).step_by(PULL as usize);
            let pulls =
                stream::iter(offsets).map(|offset| reader.pull(&queue, offset, PULL as u32, Duration::ZERO));
            let mut pulls = pulls.buffered(LANES);
            let mut read = 0;
            while let Some(pulled) = pulls.next().await {
                match pulled.unwrap() {
                    Pull::Messages { messages, problem: None, .. } => read += messages.len() as u64,
                    other => panic!("{other:?}"),
                }
            }
            read
        });
    }
    let mut read = 0;
    while let Some(part) = reading.join_next().await {
        read += part.unwrap();
    }
    assert_eq!(read, BACKLOG, "not all was read: the figure is void");
    read as f64 / begun.elapsed().as_secs_f64()
}

/// What a benchmark program of RocketMQ reports once it is warm; messages a second.
fn java_rate(rig: &Rig, program: &str, flags: &[&str], topic: &str, plan: &Plan) -> f64 {
    let name_server = rig.name_server.addr().to_string();
    let seconds = (plan.lasting.as_millis() / 2).max(1_000).to_string();
    let mut arguments = flags.to_vec();
    arguments.extend([topic, "-n", &name_server, "-ri", &seconds]);
    let run = rocketmq::run(rig.line, &format!("{JAVA}.{program}"), &arguments).unwrap();
    let reports = || -> Vec<f64> {
        let log = run.log_text();
        log.lines().filter_map(tps).collect()
    };
    eventually(&format!("{program} reports"), || {
        assert!(run.is_running() || reports().len() > COLD_REPORTS, "{}", run.log_tail());
        reports().len() >= COLD_REPORTS + 2
    });
    let warm = &reports()[COLD_REPORTS..];
    run.kill().unwrap();
    warm.iter().sum::<f64>() / warm.len() as f64
}

/// `... TPS: 12345 ...` of a report.
fn tps(line: &str) -> Option<f64> {
    let (_, behind) = line.split_once("TPS: ")?;
    behind.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
