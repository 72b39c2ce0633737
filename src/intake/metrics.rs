//! How each topic of each nsqd stands, for metrics, readiness and the log.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::control::{InletReport, IntakeReport, StoredTo};
use crate::{
    nsq::{address::HttpAddress, names::TopicName},
    observe::health::Dependency,
    rocketmq::outcome::Receipt,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    topic: String,
    nsqd: String,
}

/// The metrics of an intake.
#[derive(Debug, Default)]
pub struct Metrics {
    delivered: Family<Labels, Counter>,
    stored: Family<Labels, Counter>,
    retried: Family<Labels, Counter>,
    perhaps_doubled: Family<Labels, Counter>,
    refused: Family<Labels, Counter>,
    in_hand: Family<Labels, Gauge>,
    held: Family<Labels, Gauge>,
    standings: Mutex<Vec<Arc<Standing>>>,
}

/// One topic of one nsqd.
#[derive(Debug)]
pub(super) struct Standing {
    topic: TopicName,
    pub(super) nsqd: HttpAddress,
    delivered: Counter,
    stored: Counter,
    retried: Counter,
    perhaps_doubled: Counter,
    refused: Counter,
    in_hand: Gauge,
    held: Gauge,
    troubles: Mutex<Troubles>,
    /// One past the last message stored, by broker and queue.
    stored_to: Mutex<BTreeMap<(String, i32), i64>>,
}

/// Why it does not take in.
#[derive(Debug)]
struct Troubles {
    hold: Option<String>,
    /// RocketMQ does not answer, or stores nothing.
    rocketmq: Option<String>,
    connection: Option<String>,
}

impl Troubles {
    fn worst(&self) -> Option<&String> {
        self.hold.as_ref().or(self.rocketmq.as_ref()).or(self.connection.as_ref())
    }
}

impl Metrics {
    /// Shows what is counted.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("intake");
        let mut counter = |name: &str, help: &str, family: &Family<Labels, Counter>| {
            registry.register(name, help, family.clone());
        };
        counter("delivered_messages", "Messages nsqd has delivered, again or not", &self.delivered);
        counter("stored_messages", "Messages RocketMQ has stored", &self.stored);
        counter("retried_messages", "Messages sent to RocketMQ again", &self.retried);
        counter(
            "perhaps_doubled_messages",
            "Messages stored after a try without an answer",
            &self.perhaps_doubled,
        );
        counter("refused_messages", "Messages put back because RocketMQ will never take them", &self.refused);
        registry.register("in_hand_messages", "Messages delivered and not finished", self.in_hand.clone());
        registry.register(
            "held",
            "1 while an intake may not take in, for a relay writes there or it is not known whether one does; of RocketMQ or nsqd being away tell /readyz and the log",
            self.held.clone(),
        );
    }

    pub(super) fn standing(&self, topic: TopicName, nsqd: HttpAddress) -> Arc<Standing> {
        let labels = Labels { topic: topic.to_string(), nsqd: nsqd.to_string() };
        let standing = Arc::new(Standing {
            topic,
            nsqd,
            delivered: self.delivered.get_or_create_owned(&labels),
            stored: self.stored.get_or_create_owned(&labels),
            retried: self.retried.get_or_create_owned(&labels),
            perhaps_doubled: self.perhaps_doubled.get_or_create_owned(&labels),
            refused: self.refused.get_or_create_owned(&labels),
            in_hand: self.in_hand.get_or_create_owned(&labels),
            held: self.held.get_or_create_owned(&labels),
            troubles: Mutex::new(Troubles {
                hold: Some("not asked yet whether a relay writes there".to_owned()),
                rocketmq: None,
                connection: None,
            }),
            stored_to: Mutex::default(),
        });
        standing.held.set(1);
        self.standings.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&standing));
        standing
    }

    /// How each of them stands.
    #[must_use]
    pub fn dependencies(&self) -> Vec<Dependency> {
        let standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        let dependency = |standing: &Arc<Standing>| {
            let name = format!("intake of {} from {}", standing.topic, standing.nsqd);
            let troubles = standing.troubles();
            match (&troubles.hold, &troubles.rocketmq, &troubles.connection) {
                (Some(reason), _, _) | (None, Some(reason), _) => {
                    Dependency::vital(name, Err(reason.clone()))
                }
                (None, None, Some(reason)) => Dependency::part(name, Err(reason.clone())),
                (None, None, None) => Dependency::vital(name, Ok(())),
            }
        };
        standings.iter().map(dependency).collect()
    }

    /// How the inlets of one topic stand.
    pub(super) fn report(&self, topic: &TopicName) -> IntakeReport {
        let standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stored_to: BTreeMap<(String, i32), i64> = BTreeMap::new();
        let mut nsqds = Vec::new();
        for standing in standings.iter().filter(|standing| standing.topic == *topic) {
            nsqds.push(InletReport {
                nsqd: standing.nsqd.to_string(),
                in_hand: standing.in_hand.get(),
                stored: standing.stored.get(),
                waiting: standing.troubles().worst().cloned(),
            });
            for (queue, end) in &*standing.stored_to.lock().unwrap_or_else(PoisonError::into_inner) {
                let known = stored_to.entry(queue.clone()).or_default();
                *known = (*known).max(*end);
            }
        }
        let stored_to = stored_to.into_iter();
        let stored_to = stored_to.map(|((broker, queue), offset)| StoredTo { broker, queue, offset });
        IntakeReport { nsqds, stored_to: stored_to.collect() }
    }
}

impl Standing {
    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of why nothing may be taken in; whether that is another reason than before.
    pub(super) fn hold(&self, reason: Option<String>) -> bool {
        self.held.set(i64::from(reason.is_some()));
        replace(&mut self.troubles().hold, reason)
    }

    /// Takes note of why RocketMQ stores nothing now; whether that is another trouble than before.
    pub(super) fn rocketmq(&self, trouble: Option<String>) -> bool {
        replace(&mut self.troubles().rocketmq, trouble)
    }

    /// Takes note of where so many messages were stored.
    pub(super) fn stored_at(&self, receipt: &Receipt, messages: usize) {
        let end = receipt.queue_offset + i64::try_from(messages).unwrap_or(i64::MAX);
        let mut stored_to = self.stored_to.lock().unwrap_or_else(PoisonError::into_inner);
        let known = stored_to.entry((receipt.broker.clone(), receipt.queue_id)).or_default();
        *known = (*known).max(end);
    }

    /// Takes note of how the connection is; whether that is another trouble than before.
    pub(super) fn connection(&self, trouble: Option<String>) -> bool {
        replace(&mut self.troubles().connection, trouble)
    }

    pub(super) fn delivered(&self) {
        self.delivered.inc();
    }

    pub(super) fn stored(&self) {
        self.stored.inc();
    }

    pub(super) fn retried(&self, messages: usize) {
        self.retried.inc_by(messages as u64);
    }

    pub(super) fn perhaps_doubled(&self, messages: usize) {
        self.perhaps_doubled.inc_by(messages as u64);
    }

    pub(super) fn refused(&self) {
        self.refused.inc();
    }

    pub(super) fn in_hand(&self, messages: usize) {
        self.in_hand.set(i64::try_from(messages).unwrap_or(i64::MAX));
    }
}

/// Takes note of a reason; whether that is another than before.
fn replace(slot: &mut Option<String>, with: Option<String>) -> bool {
    let other = *slot != with;
    *slot = with;
    other
}
