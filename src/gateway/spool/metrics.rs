//! What the spool counts, under Prometheus' names and units.

use std::sync::Arc;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{counter::Counter, family::Family, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use super::Spool;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    appended: Counter,
    drained: Counter,
    damaged: Counter,
    set_aside: Counter,
    refused: Family<ReasonLabels, Counter>,
}

impl Counters {
    pub(super) fn appended(&self, messages: u64) {
        self.appended.inc_by(messages);
    }

    pub(super) fn drained(&self, messages: u64) {
        self.drained.inc_by(messages);
    }

    pub(super) fn damaged(&self, places: u64) {
        self.damaged.inc_by(places);
    }

    pub(super) fn set_aside(&self, messages: u64) {
        self.set_aside.inc_by(messages);
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabels { reason }).inc();
    }
}

impl Spool {
    /// Shows what is counted.
    pub(in crate::gateway) fn register(self: &Arc<Self>, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("spool");
        let counters = &self.counters;
        registry.register("appended_messages", "Messages synced to the spool", counters.appended.clone());
        registry.register(
            "drained_messages",
            "Spooled messages RocketMQ has taken",
            counters.drained.clone(),
        );
        registry.register(
            "damaged_messages",
            "Places in the spool that could not be read, set aside",
            counters.damaged.clone(),
        );
        registry.register(
            "set_aside_messages",
            "Spooled messages RocketMQ will never take, set aside",
            counters.set_aside.clone(),
        );
        registry.register("refused", "Batches not spooled, by the bound or fault", counters.refused.clone());
        registry.register_collector(Box::new(Standing(Arc::clone(self))));
    }
}

/// Reads at the time of a scrape what is spooled.
#[derive(Debug)]
struct Standing(Arc<Spool>);

impl Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let topics = self.0.topics();
        let standings: Vec<_> = topics.iter().map(|(_, topic)| (topic.standing(), topic.age())).collect();
        let sum = |of: fn(&super::topic::Standing) -> u64| {
            standings.iter().map(|(standing, _)| of(standing)).sum::<u64>()
        };
        let age = standings.iter().map(|(_, age)| age.as_secs_f64()).fold(0.0, f64::max);
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
        };
        gauge(
            "messages",
            "Messages in the spool, of all topics",
            None,
            sum(|standing| standing.messages) as f64,
        )?;
        gauge(
            "used",
            "Bytes of the spool's files",
            Some(&Unit::Bytes),
            sum(|standing| standing.bytes) as f64,
        )?;
        gauge("oldest_age", "Age of the oldest spooled message", Some(&Unit::Seconds), age)?;
        gauge(
            "spooling_topics",
            "Topics whose publishes go to the spool",
            None,
            topics.iter().filter(|(_, topic)| topic.is_spooling()).count() as f64,
        )
    }
}
