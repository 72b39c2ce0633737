//! What the gateway counts, under Prometheus' names and units.
//!
//! Topics beyond [`MetricsConfig::max_topics`] share one label value: producers choose topic names, and must not be
//! able to make a scrape grow without bound.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

use super::admission::Admission;
use crate::{
    nsq::names::TopicName,
    rocketmq::{Cluster, Outcome, producer::Try},
};

/// Stands for all topics beyond the bound; no NSQ topic is named so.
const OTHER: &str = "(other)";
/// From well below a broker's round trip to beyond any producer's patience.
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
const BATCH_MESSAGES: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 1_000.0, 10_000.0];

/// How much to count.
#[derive(Debug, Clone)]
pub struct MetricsConfig {
    /// Topics with a label value of their own.
    pub max_topics: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    endpoint: &'static str,
    topic: Arc<String>,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TopicLabels {
    topic: Arc<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BrokerLabels {
    broker: String,
    outcome: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The gateway's metrics.
#[derive(Debug)]
pub struct Metrics {
    config: MetricsConfig,
    labelled: Mutex<HashSet<Arc<String>>>,
    other: Arc<String>,
    none: Arc<String>,
    requests: Histograms<RequestLabels>,
    messages: Family<TopicLabels, Counter>,
    bytes: Family<TopicLabels, Counter>,
    sends: Histograms<BrokerLabels>,
    batches: Histogram,
    perhaps_doubled: Counter,
    /// Open connections of producers.
    pub(super) connections: Gauge,
}

impl Metrics {
    /// Metrics that nobody scrapes yet.
    #[must_use]
    pub fn new(config: MetricsConfig) -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(SECONDS);
        Self {
            config,
            labelled: Mutex::default(),
            other: Arc::new(OTHER.to_owned()),
            none: Arc::default(),
            requests: Family::new_with_constructor(seconds),
            messages: Family::default(),
            bytes: Family::default(),
            sends: Family::new_with_constructor(seconds),
            batches: Histogram::new(BATCH_MESSAGES),
            perhaps_doubled: Counter::default(),
            connections: Gauge::default(),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry, admission: &Arc<Admission>, cluster: &Cluster) {
        let registry = registry.sub_registry_with_prefix("gateway");
        registry.register_with_unit(
            "request_duration",
            "Requests of producers by endpoint, topic and outcome, from head to answer",
            Unit::Seconds,
            self.requests.clone(),
        );
        registry.register("messages", "Messages stored in RocketMQ", self.messages.clone());
        registry.register_with_unit(
            "message",
            "Body bytes stored in RocketMQ",
            Unit::Bytes,
            self.bytes.clone(),
        );
        registry.register_with_unit(
            "send_duration",
            "Requests to brokers by broker and outcome",
            Unit::Seconds,
            self.sends.clone(),
        );
        registry.register("batch_messages", "Messages in one request to a broker", self.batches.clone());
        registry.register(
            "perhaps_doubled_messages",
            "Messages stored, or to be stored again, after a try without an answer: each may be one more copy with the same id",
            self.perhaps_doubled.clone(),
        );
        registry.register("connections", "Open connections of producers", self.connections.clone());
        let held = Held { admission: Arc::clone(admission), cluster: cluster.clone() };
        registry.register_collector(Box::new(held));
    }

    /// The label value of a topic that has just become known.
    pub(super) fn label(&self, topic: &TopicName) -> Arc<String> {
        let mut labelled = self.labelled.lock().unwrap_or_else(PoisonError::into_inner);
        let name = Arc::new(topic.to_string());
        if let Some(known) = labelled.get(&name) {
            return Arc::clone(known);
        }
        if labelled.len() >= self.config.max_topics {
            return Arc::clone(&self.other);
        }
        labelled.insert(Arc::clone(&name));
        name
    }

    /// Counts a request; without a topic when it named none that exists.
    pub(super) fn request(
        &self,
        endpoint: &'static str,
        topic: Option<&Arc<String>>,
        outcome: &'static str,
        took: Duration,
    ) {
        let topic = Arc::clone(topic.unwrap_or(&self.none));
        let labels = RequestLabels { endpoint, topic, outcome };
        self.requests.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts what RocketMQ has stored.
    pub(super) fn stored(&self, topic: Option<&Arc<String>>, messages: usize, bytes: usize) {
        let labels = TopicLabels { topic: Arc::clone(topic.unwrap_or(&self.none)) };
        self.messages.get_or_create(&labels).inc_by(messages as u64);
        self.bytes.get_or_create(&labels).inc_by(bytes as u64);
    }

    pub(super) fn perhaps_doubled(&self, messages: usize) {
        self.perhaps_doubled.inc_by(messages as u64);
    }

    /// Counts a request to a broker.
    pub(super) fn tried(&self, tried: &Try<'_>) {
        let outcome = match tried.outcome {
            Outcome::Delivered(_) => "stored",
            Outcome::Rejected(_) => "refused",
            Outcome::NotSent(_) => "not_stored",
            Outcome::Unknown(_) => "unknown",
        };
        let labels = BrokerLabels { broker: tried.broker.to_owned(), outcome };
        self.sends.get_or_create(&labels).observe(tried.took.as_secs_f64());
        self.batches.observe(tried.messages as f64);
    }
}

/// Reads at the time of a scrape what is counted elsewhere.
#[derive(Debug)]
struct Held {
    admission: Arc<Admission>,
    cluster: Cluster,
}

impl Collector for Held {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (bytes, requests) = self.admission.held();
        let limits = self.admission.limits();
        let mut gauge = |name: &str, help: &str, value: usize| {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)
        };
        gauge("in_flight_bytes", "Bytes of requests being read or waiting for RocketMQ", bytes)?;
        gauge(
            "in_flight_bytes_limit",
            "Past this a publish is answered 503, over TCP after a wait",
            limits.bytes,
        )?;
        gauge("in_flight_requests", "HTTP requests being read or waiting for RocketMQ", requests)?;
        gauge("in_flight_requests_limit", "Past this a publish over HTTP is answered 503", limits.requests)?;
        let unclaimed = ConstCounter::new(self.cluster.unclaimed_answers());
        let metric = encoder.encode_descriptor(
            "unclaimed_answers",
            "Answers of brokers that no request waited for: late or doubled ones",
            None,
            unclaimed.metric_type(),
        )?;
        unclaimed.encode(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_beyond_the_bound_share_a_label() {
        let metrics = Metrics::new(MetricsConfig { max_topics: 2 });
        let label = |name: &str| metrics.label(&name.parse().unwrap()).to_string();
        assert_eq!(
            [label("a"), label("b"), label("c"), label("a"), label("d")],
            ["a", "b", OTHER, "a", OTHER]
        );
    }
}
