//! The RocketMQ client alone, beside the Java client's own benchmark programs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use nsqbridge::{
    gateway::publish::{PublishConfig, PublishRequest, Publisher},
    nsq::names::TopicName,
    rocketmq::{
        Cluster, Message, Outcome, Producer, Queue, QueueReader, producer::unix_millis,
        properties::PropertiesBuilder, reader::Pull, unique_key::UniqueKeys,
    },
};
use nsqbridge_brokers::Flush;
use tokio::task::JoinSet;

use crate::{
    Plan, java,
    parts::{Fresh, all_stored, cluster, new_topic, one_broker, warm_up},
    publish::BODY,
    report::Report,
    table::{By, Row},
};

const WITHIN: Duration = Duration::from_secs(10);
/// Pulls of one queue under way.
const LANES: usize = 4;
const PULL: i64 = 32;

fn row(what: String, against: &'static str, ours: Vec<f64>, theirs: Vec<f64>, aims: (f64, f64)) -> Row {
    let (by, note) = (By::Times, String::new());
    Row { what, unit: "msg/s", against, ours, theirs, by, aims: Some(aims), note }
}

/// One message at a time, alone and sharing batches.
pub async fn sends(plan: &Plan, fresh: &mut Fresh, report: &Report) {
    let rig = one_broker(Flush::Async);
    let cluster = cluster(&rig);
    warm_up(&rig, plan, fresh).await;
    // The broker stores lone messages by a way of its own.
    batches_of(&cluster, 1, 64, plan, fresh).await;
    let (mut single, mut joined, mut java) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.few_rounds() {
        single.push(batches_of(&cluster, 1, 64, plan, fresh).await);
        let topic = fresh_topic(&cluster, fresh).await;
        java.push(java::sending_rate(&rig, "Producer", &["-w", "64", "-s", &BODY.to_string()], &topic));
        joined.push(group_commit(&cluster, 64, plan, fresh).await);
    }
    let against = "Java Producer -w 64";
    report.row(row(
        format!("client: single sends, {BODY} B, 64 callers"),
        against,
        single,
        java.clone(),
        (1.2, 1.4),
    ));
    let what = format!("client: 64 callers sharing batches, {BODY} B");
    report.row(row(what, against, joined, java, (6.0, 8.0)));
}

/// Ready-made batches.
pub async fn batches(plan: &Plan, fresh: &mut Fresh, report: &Report) {
    let rig = one_broker(Flush::Async);
    let cluster = cluster(&rig);
    warm_up(&rig, plan, fresh).await;
    let (mut ours, mut java) = (Vec::new(), Vec::new());
    for _ in 0..plan.few_rounds() {
        ours.push(batches_of(&cluster, 100, 4, plan, fresh).await);
        let topic = fresh_topic(&cluster, fresh).await;
        let flags = ["-b", "100", "-w", "4", "-s", &BODY.to_string()];
        java.push(java::sending_rate(&rig, "BatchProducer", &flags, &topic));
    }
    let what = format!("client: batches of 100 × {BODY} B, 4 in flight");
    report.row(row(what, "Java BatchProducer -b 100 -w 4", ours, java, (2.0, 3.0)));
}

/// Reading all there is.
pub async fn pulls(plan: &Plan, fresh: &mut Fresh, report: &Report) {
    // Enough for Java to become warm.
    let backlog = 3 * plan.backlog;
    let rig = one_broker(Flush::Async);
    let cluster = cluster(&rig);
    let (mut ours, mut java) = (Vec::new(), Vec::new());
    for round in 0..plan.few_rounds() {
        let topic = fresh.topic("pull");
        let queues = new_topic(&cluster, &topic).await;
        fill(&cluster, &queues, backlog).await;
        if round == 0 {
            // The broker's Java compiles what reading runs through.
            pull_all(&cluster, &queues, backlog).await;
        }
        ours.push(pull_all(&cluster, &queues, backlog).await);
        java.push(java::reading_rate(&rig, &cluster, &topic, backlog).await);
    }
    let what = format!("client: pull {FILLED} B, 8 queues");
    report.row(row(what, "Java Consumer", ours, java, (6.0, 10.0)));
}

async fn fresh_topic(cluster: &Cluster, fresh: &mut Fresh) -> String {
    let topic = fresh.topic("client");
    new_topic(cluster, &topic).await;
    topic
}

pub fn message(keys: &UniqueKeys, body: &Bytes) -> Message {
    Message {
        body: body.clone(),
        properties: PropertiesBuilder::new(),
        unique_key: keys.mint(),
        born_at: unix_millis(),
        deliver_at: None,
    }
}

/// Runs callers for the plan's time; messages a second that were delivered, after the broker was seen to have them all.
async fn rate<Calling: Future<Output = u64> + Send>(
    cluster: &Cluster,
    topic: &str,
    plan: &Plan,
    callers: usize,
    call: impl Fn() -> Calling + Clone + Send + 'static,
) -> f64 {
    let begun = Instant::now();
    let until = begun + plan.lasting;
    let mut calling = JoinSet::new();
    for _ in 0..callers {
        let call = call.clone();
        calling.spawn(async move {
            let mut delivered = 0;
            while Instant::now() < until {
                delivered += call().await;
            }
            delivered
        });
    }
    let delivered: u64 = calling.join_all().await.into_iter().sum();
    let took = begun.elapsed();
    all_stored(cluster, &[topic], delivered).await;
    delivered as f64 / took.as_secs_f64()
}

async fn batches_of(cluster: &Cluster, batch: usize, callers: usize, plan: &Plan, fresh: &mut Fresh) -> f64 {
    let topic = fresh_topic(cluster, fresh).await;
    let producer = Producer::new(cluster.clone(), "bench");
    let of_all = Arc::new((producer, UniqueKeys::new(), Bytes::from(vec![b'x'; BODY]), topic.clone()));
    let call = move || {
        let of_all = Arc::clone(&of_all);
        async move {
            let (producer, keys, body, topic) = &*of_all;
            let messages: Vec<Message> = (0..batch).map(|_| message(keys, body)).collect();
            let outcome = producer.deliver(topic, &messages, None, WITHIN).await;
            assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
            batch as u64
        }
    };
    rate(cluster, &topic, plan, callers, call).await
}

/// Callers that share batches, as the gateway's publishes do.
async fn group_commit(cluster: &Cluster, callers: usize, plan: &Plan, fresh: &mut Fresh) -> f64 {
    let topic = fresh_topic(cluster, fresh).await;
    let publisher = Arc::new(Publisher::new(cluster.clone(), PublishConfig::default()).unwrap());
    let body = Bytes::from(vec![b'x'; BODY]);
    let name: TopicName = topic.parse().unwrap();
    let call = move || {
        let publisher = Arc::clone(&publisher);
        let request = PublishRequest {
            topic: name.clone(),
            bodies: vec![body.clone()],
            properties: PropertiesBuilder::new(),
            accepted_ms: unix_millis(),
            defer: None,
            wants_ids: false,
            permit: publisher.admit().unwrap(),
        };
        async move {
            publisher.publish(request).await.unwrap();
            1
        }
    };
    rate(cluster, &topic, plan, callers, call).await
}

/// The bodies a topic is filled with.
const FILLED: usize = 200;

/// Fills a topic's queues evenly.
pub async fn fill(cluster: &Cluster, queues: &[Queue], messages: u64) {
    const BATCH: u64 = 1_000;
    let producer = Arc::new(Producer::new(cluster.clone(), "bench"));
    let keys = Arc::new(UniqueKeys::new());
    let body = Bytes::from(vec![b'x'; FILLED]);
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
    all_stored(cluster, &[&queues[0].topic], messages).await;
}

/// Reads all there is, several pulls of each queue at a time; messages a second.
async fn pull_all(cluster: &Cluster, queues: &[Queue], backlog: u64) -> f64 {
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
    assert_eq!(read, backlog, "not all was read: the figure is void");
    read as f64 / begun.elapsed().as_secs_f64()
}
