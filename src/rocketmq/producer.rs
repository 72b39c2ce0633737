//! Sends messages, and says exactly what became of them.
//!
//! [`Producer::deliver`] tries brokers in turn until one answers `SEND_OK`, the message proves illegal, or the budget is
//! spent. Every try carries the same unique key, so a consumer can tell a repeat. An outcome that was once unknown
//! stays unknown: a later "not sent" does not undo what the first broker may have stored.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tracing::debug;

use super::{
    avoidance::Avoidance,
    cluster::{Cluster, ClusterError},
    codes::request,
    command::Command,
    connection::RequestError,
    message::{self, Levels, Message},
    outcome::{Failure, Hint, Outcome, Receipt, classify},
    route::{Queue, Route},
};
use crate::{excerpt::excerpt, retry::Backoff};

/// While another broker could take the message, one try may last this long; the last broker gets all that is left.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);

/// A try with less time than this is not begun after a failure: it would make a certain outcome unknown, and its broker look slow.
const LEAST_TRY: Duration = Duration::from_millis(100);

/// While another broker could take the message, the name servers have this long to tell a newer route.
const ROUTE_PATIENCE: Duration = Duration::from_millis(500);

/// A broker that is left alone is asked after this many failures of the others.
const PATIENCE: usize = 3;

/// What follows a try whose outcome is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnUnknown {
    GoOn,
    End,
}

/// What one request to a broker came to.
#[derive(Debug)]
pub struct Try<'a> {
    /// The broker asked.
    pub broker: &'a str,
    /// The messages it carried.
    pub messages: usize,
    /// From the call to the outcome.
    pub took: Duration,
    /// The outcome.
    pub outcome: &'a Outcome,
}

/// Is told of every try; for metrics.
pub type Observer = Arc<dyn Fn(&Try<'_>) + Send + Sync>;

/// Sends to one cluster; share it between tasks.
pub struct Producer {
    cluster: Cluster,
    group: String,
    levels: Levels,
    observer: Option<Observer>,
    avoidance: Avoidance,
    turn: AtomicUsize,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Producer {
    /// `group` is the producer group brokers show for its sends.
    #[must_use]
    pub fn new(cluster: Cluster, group: impl Into<String>) -> Self {
        Self {
            cluster,
            group: group.into(),
            levels: Levels::RoundUp,
            observer: None,
            avoidance: Avoidance::default(),
            // Producers that start together should not all begin at queue 0.
            turn: AtomicUsize::new(fastrand::usize(..)),
        }
    }

    /// Says what to do with delays a 4.x broker can only keep roughly; they are rounded up otherwise.
    #[must_use]
    pub fn with_levels(self, levels: Levels) -> Self {
        Self { levels, ..self }
    }

    /// Tells `observer` of every try.
    #[must_use]
    pub fn with_observer(self, observer: Observer) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// Delivers one message, or several as one batch (one queue, consecutive places, all or none), within `budget`.
    ///
    /// Starts with `first` if given, so that parts of a larger whole share a queue; other brokers are tried when it fails.
    ///
    /// # Cancellation
    /// Dropping the future stops the tries; a message already written may still be stored.
    pub async fn deliver(
        &self,
        topic: &str,
        messages: &[Message],
        first: Option<&Queue>,
        budget: Duration,
    ) -> Outcome {
        self.tries(topic, messages, first.cloned(), BTreeSet::new(), OnUnknown::GoOn, budget).await
    }

    /// As [`Self::deliver`], but leaves out some brokers, and ends with the first outcome that is not known: for who sends the same again
    /// and again, and must know how often it is perhaps stored. Without another broker nothing is sent.
    ///
    /// # Cancellation
    /// As [`Self::deliver`].
    pub async fn deliver_without(
        &self,
        topic: &str,
        messages: &[Message],
        left_out: &BTreeSet<String>,
        budget: Duration,
    ) -> Outcome {
        self.tries(topic, messages, None, left_out.clone(), OnUnknown::End, budget).await
    }

    async fn tries(
        &self,
        topic: &str,
        messages: &[Message],
        mut preferred: Option<Queue>,
        mut left_out: BTreeSet<String>,
        on_unknown: OnUnknown,
        budget: Duration,
    ) -> Outcome {
        let deadline = Instant::now() + budget;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        let mut last_broker = None;
        let mut unknown: Option<Failure> = None;
        let mut without = BTreeSet::new();
        let mut failures = 0;
        loop {
            let mut asking_until = deadline;
            let failed = match in_time(deadline, self.cluster.route(topic)).await {
                Ok(route) => match self.choose(
                    &without_brokers(&route, &left_out),
                    preferred.take(),
                    last_broker.as_deref(),
                    failures,
                ) {
                    Some((queue, others)) => {
                        let left = deadline.saturating_duration_since(Instant::now());
                        let timeout = if others { left.min(TRY_TIMEOUT) } else { left };
                        last_broker = Some(queue.broker.clone());
                        let sent = self.send(&queue, messages, timeout).await;
                        if others {
                            asking_until = deadline.min(Instant::now() + ROUTE_PATIENCE);
                        }
                        sent
                    }
                    // Nobody is left who may be asked.
                    None if !left_out.is_empty() => {
                        return settle(unknown, not_sent("no other broker".to_owned(), Hint::None));
                    }
                    None => {
                        not_sent(format!("topic {topic} has no queue that may be written"), Hint::StaleRoute)
                    }
                },
                Err(ClusterError::UnknownTopic(topic)) => {
                    return settle(
                        unknown,
                        not_sent(format!("topic {topic} does not exist"), Hint::UnknownTopic),
                    );
                }
                Err(error) => not_sent(error.to_string(), Hint::None),
            };
            let hint = match &failed {
                Outcome::Delivered(_) | Outcome::Rejected(_) => return settle(unknown, failed),
                Outcome::NotSent(failure) => failure.hint,
                Outcome::Unknown(_) if on_unknown == OnUnknown::End => return failed,
                Outcome::Unknown(failure) => {
                    unknown = Some(failure.clone());
                    failure.hint
                }
            };
            failures += 1;
            let delay = backoff.next_delay();
            if Instant::now() + delay + LEAST_TRY >= deadline {
                return settle(unknown, failed);
            }
            debug!(topic, ?failed, "send failed; trying again");
            tokio::time::sleep(delay).await;
            match hint {
                Hint::None | Hint::Busy => {}
                Hint::StoredWeakly => left_out.extend(last_broker.clone()),
                Hint::StaleRoute => drop(in_time(asking_until, self.cluster.fresh_route(topic)).await),
                Hint::UnknownTopic => {
                    // Brokers are the judges: let the name servers say whether it lives elsewhere now.
                    without.extend(last_broker.clone());
                    let route = in_time(asking_until, self.cluster.doubted_route(topic)).await;
                    if route.is_ok_and(|route| {
                        route.write_queues.iter().all(|queue| without.contains(&queue.broker))
                    }) {
                        return settle(unknown, failed);
                    }
                }
            }
        }
    }

    /// Sends once to one queue.
    ///
    /// # Cancellation
    /// As [`Self::deliver`].
    pub async fn send(&self, queue: &Queue, messages: &[Message], timeout: Duration) -> Outcome {
        let started = Instant::now();
        let outcome = self.send_once(queue, messages, timeout).await;
        if let Some(observer) = &self.observer {
            let (broker, took) = (queue.broker.as_str(), started.elapsed());
            observer(&Try { broker, messages: messages.len(), took, outcome: &outcome });
        }
        outcome
    }

    async fn send_once(&self, queue: &Queue, messages: &[Message], timeout: Duration) -> Outcome {
        let failure = |reason: String, hint| Failure { broker: queue.broker.clone(), reason, hint };
        if let Err(illegal) = message::check_topic(&queue.topic) {
            return Outcome::Rejected(failure(illegal.to_string(), Hint::None));
        }
        let started = Instant::now();
        let deadline = started + timeout;
        let address = match in_time(deadline, self.cluster.master_of(queue)).await {
            Ok(address) => address,
            Err(error) => return Outcome::NotSent(failure(error.to_string(), Hint::StaleRoute)),
        };
        let version = if messages.iter().any(|message| message.deliver_at.is_some()) {
            // A 4.9 broker ignores a timer, delivers at once and answers success: know the line before sending one.
            let asked = tokio::time::timeout_at(deadline, self.cluster.peer_version(&address)).await;
            let late = || "the broker did not tell its version in time".to_owned();
            match asked.map_err(|_| late()).and_then(|told| told.map_err(|error| error.to_string())) {
                Ok(version) => version,
                Err(reason) => {
                    self.avoidance.observe(&queue.broker, started.elapsed(), true);
                    return Outcome::NotSent(failure(reason, Hint::None));
                }
            }
        } else {
            0
        };
        let payload = match message::payload(messages, version, self.levels, unix_millis()) {
            Ok(payload) => payload,
            Err(illegal) => return Outcome::Rejected(failure(illegal.to_string(), Hint::None)),
        };
        let code = if payload.is_batch { request::SEND_BATCH_MESSAGE } else { request::SEND_MESSAGE_V2 };
        let properties = String::from_utf8_lossy(payload.properties.encoded()).into_owned();
        let command = Command::request(code)
            .field("a", &self.group)
            .field("b", &queue.topic)
            // The template for creating an unknown topic. Naming the topic itself forbids that: a broker would create
            // it on itself alone, with a queue count nobody chose.
            .field("c", &queue.topic)
            .field("d", 4)
            .field("e", queue.id)
            .field("f", 0)
            .field("g", messages.first().map_or(0, |message| message.born_at))
            .field("h", 0)
            .field("i", properties)
            .field("j", 0)
            .field("k", false)
            .field("m", payload.is_batch)
            .field("n", &queue.broker)
            .body(payload.body);
        let left = timeout.saturating_sub(started.elapsed());
        let answer = self.cluster.request(&address, command, left).await;
        self.avoidance.observe(&queue.broker, started.elapsed(), answer.is_err());
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(error @ RequestError::NotSent { .. }) => {
                return Outcome::NotSent(failure(error.to_string(), Hint::StaleRoute));
            }
            Err(error @ RequestError::Unknown { .. }) => {
                return Outcome::Unknown(failure(error.to_string(), Hint::StaleRoute));
            }
        };
        if let Some((arm, hint)) = classify(answer.code, answer.remark()) {
            return arm.outcome(failure(format!("code {}: {}", answer.code, excerpt(answer.remark())), hint));
        }
        match (answer.number("queueId"), answer.number("queueOffset")) {
            (Ok(queue_id), Ok(queue_offset)) => Outcome::Delivered(Receipt {
                broker: queue.broker.clone(),
                queue_id: i32::try_from(queue_id).unwrap_or(queue.id),
                queue_offset,
                message_id: answer.ext.remove("msgId").unwrap_or_default(),
                perhaps_twice: false,
            }),
            (Err(error), _) | (_, Err(error)) => Outcome::Unknown(failure(error.to_string(), Hint::None)),
        }
    }

    /// The next queue in turn, and whether another broker could be tried after it.
    fn choose(
        &self,
        queues: &[&Queue],
        preferred: Option<Queue>,
        last: Option<&str>,
        failures: usize,
    ) -> Option<(Queue, bool)> {
        let others = |chosen: &Queue| queues.iter().any(|queue| queue.broker != chosen.broker);
        if let Some(queue) = preferred.filter(|queue| queues.contains(&queue)) {
            let others = others(&queue);
            return Some((queue, others));
        }
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = || (0..queues.len()).map(|step| queues[start.wrapping_add(step) % queues.len()]);
        let other = |queue: &&Queue| Some(queue.broker.as_str()) != last;
        let fit = |queue: &&Queue| !self.avoidance.avoids(&queue.broker);
        // One that was only busy is asked again before one that does not answer at all, and would leave the outcome unknown.
        let queue = in_turn()
            .find(|queue| other(queue) && fit(queue))
            .or_else(|| in_turn().find(fit).filter(|_| failures < PATIENCE))
            .or_else(|| in_turn().find(other))
            .or_else(|| in_turn().next())?;
        Some((queue.clone(), others(queue)))
    }
}

fn without_brokers<'a>(route: &'a Route, brokers: &BTreeSet<String>) -> Vec<&'a Queue> {
    route.write_queues.iter().filter(|queue| !brokers.contains(&queue.broker)).collect()
}

/// Questions asked on the way to a send count against its time.
async fn in_time<T>(
    deadline: Instant,
    question: impl Future<Output = Result<T, ClusterError>>,
) -> Result<T, ClusterError> {
    tokio::time::timeout_at(deadline, question).await.unwrap_or(Err(ClusterError::TooLate))
}

/// An earlier unknown outcome outlasts every later failure, a rejection included.
fn settle(unknown: Option<Failure>, last: Outcome) -> Outcome {
    match (unknown, last) {
        (Some(_), Outcome::Delivered(receipt)) => {
            Outcome::Delivered(Receipt { perhaps_twice: true, ..receipt })
        }
        (_, delivered @ Outcome::Delivered(_)) => delivered,
        (Some(unknown), _) => Outcome::Unknown(unknown),
        (None, last) => last,
    }
}

fn not_sent(reason: String, hint: Hint) -> Outcome {
    Outcome::NotSent(Failure { broker: "-".to_owned(), reason, hint })
}

/// Milliseconds since 1970.
#[must_use]
pub fn unix_millis() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rocketmq::ClusterConfig;

    #[tokio::test]
    async fn a_busy_broker_is_asked_again_before_one_that_does_not_answer_and_not_for_ever() {
        let producer = Producer::new(Cluster::new(ClusterConfig::new(Vec::new())), "p");
        let queue = |broker: &str| Queue { topic: "t".to_owned(), broker: broker.to_owned(), id: 0 };
        let queues = [&queue("busy"), &queue("frozen")];
        let chosen = |last, failures| producer.choose(&queues, None, last, failures).unwrap().0.broker;
        assert_eq!(chosen(Some("busy"), 1), "frozen", "nothing is known of it");
        producer.avoidance.observe("frozen", Duration::ZERO, true);
        for (last, failures, expected) in [
            (None, 0, "busy"),
            (Some("busy"), 1, "busy"),
            (Some("busy"), PATIENCE, "frozen"),
            (Some("frozen"), PATIENCE, "busy"),
        ] {
            assert_eq!(chosen(last, failures), expected, "{last:?} after {failures}");
        }
    }
}
