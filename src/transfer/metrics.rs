//! What the relays count, under Prometheus' names and units. Topics are the operator's choice here, so each has its
//! own label.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{counter::Counter, family::Family, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use super::{
    retention::Retention,
    state::{NsqdReport, TopicState},
};
use crate::{mapping::Feed, observe::health::Dependency};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TopicLabels {
    topic: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JumpLabels {
    topic: String,
    jump: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NsqdLabels {
    topic: String,
    nsqd: String,
}

/// The metrics of all relays of this process.
#[derive(Debug, Default)]
pub struct Metrics {
    read: Family<TopicLabels, Counter>,
    relayed: Family<NsqdLabels, Counter>,
    retried: Family<TopicLabels, Counter>,
    parked: Family<TopicLabels, Counter>,
    perhaps_doubled: Family<TopicLabels, Counter>,
    missed: Family<TopicLabels, Counter>,
    jumps: Family<JumpLabels, Counter>,
    replayed: Family<NsqdLabels, Counter>,
    from_nsqd: Family<TopicLabels, Counter>,
    of_share: Family<TopicLabels, Counter>,
    topics: Arc<Mutex<Vec<Weak<TopicState>>>>,
}

/// The metrics of one topic.
#[derive(Debug)]
pub(super) struct TopicMetrics {
    topic: String,
    read: Counter,
    retried: Counter,
    parked: Counter,
    perhaps_doubled: Counter,
    missed: Counter,
    jumps: Family<JumpLabels, Counter>,
    replayed_of: Family<NsqdLabels, Counter>,
    relayed_to: Family<NsqdLabels, Counter>,
    relayed: Counter,
    /// Of those that are not nsqd's to be given.
    passed: Counter,
}

impl Metrics {
    /// Shows what is counted.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("transfer");
        registry.register("read_messages", "Messages read from RocketMQ", self.read.clone());
        registry.register("relayed_messages", "Messages nsqd answered OK to", self.relayed.clone());
        registry.register("retried_messages", "Messages sent to nsqd again", self.retried.clone());
        registry.register("parked_messages", "Messages nsqd will never take, parked", self.parked.clone());
        registry.register(
            "perhaps_doubled_messages",
            "Messages sent to nsqd again after a try without an answer",
            self.perhaps_doubled.clone(),
        );
        registry.register(
            "missed_messages",
            "Messages nobody relays: expired before they were, left out as --on-gap says, or lost by an nsqd and expired in RocketMQ",
            self.missed.clone(),
        );
        registry.register(
            "offset_jumps",
            "Offsets that were not where this bridge left them: back, ahead, expired, renewed or beyond_end",
            self.jumps.clone(),
        );
        registry.register(
            "replayed_messages",
            "Messages sent to nsqd again because the nsqd that had them was lost",
            self.replayed.clone(),
        );
        registry.register(
            "from_nsqd_messages",
            "Messages passed without being sent, because they were taken in from nsqd, whose consumers have them",
            self.from_nsqd.clone(),
        );
        registry.register(
            "share_messages",
            "Messages passed without being sent, because they are the consumer group's share",
            self.of_share.clone(),
        );
        registry.register_collector(Box::new(Standing { topics: Arc::clone(&self.topics) }));
    }

    /// How each topic's relay stands. None is vital: a relay that waits is as ready as it can be.
    #[must_use]
    pub fn dependencies(&self) -> Vec<Dependency> {
        let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let topics = topics.iter().filter_map(Weak::upgrade);
        let state = |topic: &TopicState| match (topic.held().first(), topic.waiting()) {
            (Some(reason), _) => Err(format!("held: {reason}")),
            (None, Some(reason)) => Err(format!("waiting: {reason}")),
            (None, None) => Ok(()),
        };
        let retention = |topic: &TopicState| topic.retention().warning().map_or(Ok(()), Err);
        topics
            .flat_map(|topic| {
                [
                    Dependency::part(format!("relay of {}", topic.topic), state(&topic)),
                    Dependency::part(format!("retention of {}", topic.topic), retention(&topic)),
                ]
            })
            .collect()
    }

    pub(super) fn of(&self, feed: &Feed) -> Arc<TopicMetrics> {
        let topic = feed.topic().to_string();
        let labels = TopicLabels { topic: topic.clone() };
        let passed = match feed {
            Feed::Topic(_) => &self.from_nsqd,
            Feed::Share(_) => &self.of_share,
        };
        Arc::new(TopicMetrics {
            topic,
            read: self.read.get_or_create_owned(&labels),
            retried: self.retried.get_or_create_owned(&labels),
            parked: self.parked.get_or_create_owned(&labels),
            perhaps_doubled: self.perhaps_doubled.get_or_create_owned(&labels),
            missed: self.missed.get_or_create_owned(&labels),
            jumps: self.jumps.clone(),
            replayed_of: self.replayed.clone(),
            relayed_to: self.relayed.clone(),
            relayed: Counter::default(),
            passed: passed.get_or_create_owned(&labels),
        })
    }

    /// Shows how this topic stands for as long as it is relayed.
    pub(super) fn show(&self, topic: &Arc<TopicState>) {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        topics.retain(|known| known.strong_count() > 0);
        topics.push(Arc::downgrade(topic));
    }
}

impl TopicMetrics {
    pub(super) fn read(&self, messages: usize) {
        self.read.inc_by(messages as u64);
    }

    pub(super) fn relayed(&self, nsqd: &str, messages: usize) {
        self.relayed.inc_by(messages as u64);
        let labels = NsqdLabels { topic: self.topic.clone(), nsqd: nsqd.to_owned() };
        self.relayed_to.get_or_create(&labels).inc_by(messages as u64);
    }

    pub(super) fn replayed(&self, nsqd: &str, messages: usize) {
        let labels = NsqdLabels { topic: self.topic.clone(), nsqd: nsqd.to_owned() };
        self.replayed_of.get_or_create(&labels).inc_by(messages as u64);
    }

    pub(super) fn passed_by(&self, messages: usize) {
        self.passed.inc_by(messages as u64);
    }

    pub(super) fn retried(&self, messages: usize) {
        self.retried.inc_by(messages as u64);
    }

    pub(super) fn parked(&self) {
        self.parked.inc();
    }

    pub(super) fn perhaps_doubled(&self, messages: usize) {
        self.perhaps_doubled.inc_by(messages as u64);
    }

    /// Counts an offset that was not where it was left, and the messages nobody relays for it.
    pub(super) fn jumped(&self, jump: &str, missed: i64) {
        let labels = JumpLabels { topic: self.topic.clone(), jump: jump.to_owned() };
        self.jumps.get_or_create(&labels).inc();
        self.missed(missed);
    }

    pub(super) fn missed(&self, messages: i64) {
        self.missed.inc_by(u64::try_from(messages).unwrap_or(0));
    }

    /// Read, relayed, retried, parked, perhaps doubled, since the relay began.
    pub(super) fn totals(&self) -> [u64; 5] {
        [&self.read, &self.relayed, &self.retried, &self.parked, &self.perhaps_doubled]
            .map(|counter| counter.get())
    }
}

/// Reads at the time of a scrape how the topics stand.
#[derive(Debug)]
struct Standing {
    topics: Arc<Mutex<Vec<Weak<TopicState>>>>,
}

impl Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let topics: Vec<Arc<TopicState>> = {
            let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
            topics.iter().filter_map(Weak::upgrade).collect()
        };
        let nsqds: Vec<Vec<NsqdReport>> = topics.iter().map(|topic| topic.nsqds()).collect();
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: &dyn Fn(&TopicState) -> f64| {
            let kind = ConstGauge::new(0.0).metric_type();
            let mut family = encoder.encode_descriptor(name, help, unit, kind)?;
            for topic in &topics {
                let labels = TopicLabels { topic: topic.topic.to_string() };
                ConstGauge::new(value(topic)).encode(family.encode_family(&labels)?)?;
            }
            Ok(())
        };
        gauge("queues", "Queues relayed by this process", None, &|topic| topic.queues().len() as f64)?;
        gauge("lag_messages", "Messages of these queues that nsqd does not have yet", None, &|topic| {
            topic.lag() as f64
        })?;
        gauge(
            "lag",
            "Age of the oldest message of these queues that nsqd does not have yet",
            Some(&Unit::Seconds),
            &|topic| topic.lag_seconds(),
        )?;
        gauge(
            "held_queues",
            "Queues that cannot go on; the log and `nsqbridge status` say why",
            None,
            &|topic| topic.held().len() as f64,
        )?;
        gauge(
            "waiting",
            "1 while nothing can be sent, or nothing of some queue; the log and `nsqbridge status` say why",
            None,
            &|topic| f64::from(u8::from(topic.waiting().is_some())),
        )?;
        let mut of_retention =
            |name: &str, help: &str, value: &dyn Fn(&Retention) -> Option<std::time::Duration>| {
                let kind = ConstGauge::new(0.0).metric_type();
                let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), kind)?;
                for topic in &topics {
                    // Nothing is better than a figure nobody knows.
                    let Some(value) = value(&topic.retention()) else { continue };
                    let labels = TopicLabels { topic: topic.topic.to_string() };
                    ConstGauge::new(value.as_secs_f64()).encode(family.encode_family(&labels)?)?;
                }
                Ok::<_, std::fmt::Error>(())
            };
        of_retention("retention", "How long the topic's brokers keep messages at least", &|retention| {
            retention.reserve
        })?;
        of_retention(
            "expires_in",
            "Until the oldest message that nsqd does not have yet may expire",
            &Retention::expires_in,
        )?;
        of_retention(
            "undrained_expires_in",
            "Until the oldest message that an nsqd may still lose may expire, and could not be sent again",
            &Retention::undrained_expires_in,
        )?;
        let mut of_nsqds = |name: &str, help: &str, value: &dyn Fn(&NsqdReport) -> u64| {
            let kind = ConstGauge::new(0.0).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (topic, nsqds) in topics.iter().zip(&nsqds) {
                for nsqd in nsqds {
                    let labels = NsqdLabels { topic: topic.topic.to_string(), nsqd: nsqd.nsqd.clone() };
                    ConstGauge::new(value(nsqd) as f64).encode(family.encode_family(&labels)?)?;
                }
            }
            Ok(())
        };
        of_nsqds(
            "nsqd_depth_messages",
            "Messages that wait in an nsqd, in the topic and its fullest channel",
            &|nsqd| nsqd.depth,
        )?;
        of_nsqds(
            "nsqd_undrained_messages",
            "Messages an nsqd was given that may still be in it, and are sent again if it is lost",
            &|nsqd| nsqd.undrained,
        )?;
        Ok(())
    }
}
