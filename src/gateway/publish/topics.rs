//! Finds the topics that are published to, and creates those that are new.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

use super::{PublishError, Publisher};
use crate::{gateway::topic::Topic, nsq::names::TopicName, retry::Backoff, rocketmq::ClusterError};

/// What a topic is looked for for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// It must exist.
    Existing,
    /// It is created if it may be.
    Created,
    /// As well, but one that may be spooled need not be there yet.
    ToPublish,
}

impl Publisher {
    /// The topic, created on every broker if it is new.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn ensure_topic(self: &Arc<Self>, name: &TopicName) -> Result<Arc<Topic>, PublishError> {
        #[cfg(test)]
        if let Some(script) = &self.script {
            return script.ask_for_topic(name).await;
        }
        self.find(name, Wanted::Created).await
    }

    /// The topic, if it exists in RocketMQ.
    ///
    /// # Errors
    /// [`PublishError::NoSuchTopic`], or why that cannot be said.
    pub async fn existing_topic(self: &Arc<Self>, name: &TopicName) -> Result<Arc<Topic>, PublishError> {
        #[cfg(test)]
        if let Some(script) = &self.script {
            return script.ask_for_topic(name).await;
        }
        self.find(name, Wanted::Existing).await
    }

    pub(super) async fn find(
        self: &Arc<Self>,
        name: &TopicName,
        wanted: Wanted,
    ) -> Result<Arc<Topic>, PublishError> {
        let create = self.config.create_topics && wanted != Wanted::Existing;
        if let Some(topic) = self.known_topic(name) {
            return Ok(topic);
        }
        if create && name.is_ephemeral() && !self.config.ephemeral_topics {
            return Err(PublishError::Ephemeral(name.clone()));
        }
        let topic = self.topic(name);
        let met = || self.spool.as_ref().is_some_and(|spool| spool.has_met(name));
        let spools = wanted == Wanted::ToPublish && topic.spools && (create || met());
        // In a task of its own: a producer that hangs up must not leave a topic on half of the brokers.
        let (publisher, wanted) = (Arc::clone(self), Arc::clone(&topic));
        let ensuring = self.tasks.spawn(async move {
            match publisher.ensure(&wanted, create, Instant::now() + publisher.config.budget).await {
                // It is created when what is spooled gets to RocketMQ.
                Err(PublishError::Unavailable(_)) if spools => Ok(wanted),
                Err(error) => {
                    publisher.forget(&wanted);
                    Err(error)
                }
                Ok(()) => Ok(wanted),
            }
        });
        // Who may be spooled need not wait for it. It goes on all the same: a slow broker is to have the topic, or be named.
        let within = if spools { self.spool_after() } else { Duration::MAX };
        match timeout(within, ensuring).await {
            Ok(ensured) => ensured.unwrap_or_else(|error| Err(PublishError::Unavailable(error.to_string()))),
            Err(_) => Ok(topic),
        }
    }

    /// Looks for the topic, and creates it on every broker if it may, until `deadline`.
    ///
    /// A broker that will not have it is tried again and then left out: the others take what is published.
    pub(in crate::gateway) async fn ensure(
        &self,
        topic: &Topic,
        create: bool,
        deadline: Instant,
    ) -> Result<(), PublishError> {
        // The rest is for what is to be published.
        let last_try = deadline - deadline.saturating_duration_since(Instant::now()) / 4;
        let mut tried = Tried::default();
        let ensure = async {
            let _one_at_a_time = topic.ensuring.lock().await;
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
            // The route of a topic that is there in part says no more than that.
            let mut begun = create && topic.missed();
            while !topic.exists() {
                let there = if begun {
                    self.create(topic, last_try, &mut tried).await
                } else {
                    match self.cluster.route(&topic.rocketmq_topic).await {
                        Ok(_) => true,
                        Err(ClusterError::UnknownTopic(_)) if create => {
                            begun = true;
                            continue;
                        }
                        Err(ClusterError::UnknownTopic(_)) => {
                            return Err(PublishError::NoSuchTopic(topic.name.clone()));
                        }
                        Err(error) => {
                            tried.failure = Some(error);
                            false
                        }
                    }
                };
                if there {
                    topic.seen(&self.metrics);
                } else {
                    backoff.wait().await;
                }
            }
            Ok(())
        };
        let ensured = timeout_at(deadline, ensure).await;
        match (ensured, tried) {
            (Err(_), Tried { without: None, failure }) => {
                let reason =
                    failure.map_or_else(|| "no answer in time".to_owned(), |error| error.to_string());
                Err(PublishError::Unavailable(format!("topic {}: {reason}", topic.rocketmq_topic)))
            }
            (Ok(Err(error)), _) => Err(error),
            (_, Tried { without, .. }) => {
                if let Some(without) = without {
                    created(topic, without);
                    topic.seen(&self.metrics);
                }
                Ok(())
            }
        }
    }

    /// Creates the topic where it is not; whether that is enough.
    async fn create(&self, topic: &Topic, last_try: Instant, tried: &mut Tried) -> bool {
        let (name, queues) = (&topic.rocketmq_topic, self.config.topic_queues);
        let creating = self.cluster.create_topic_where_it_can(name, queues);
        let created = match tried.without {
            None => creating.await,
            Some(_) => match timeout_at(last_try, creating).await {
                Ok(created) => created,
                Err(_) => return true,
            },
        };
        match created {
            Ok(without) => {
                let enough = without.is_empty() || Instant::now() >= last_try;
                tried.without = Some(without);
                enough
            }
            Err(error) => {
                tried.failure = Some(error);
                false
            }
        }
    }
}

/// What came of looking for a topic and creating it.
#[derive(Default)]
struct Tried {
    failure: Option<ClusterError>,
    /// Once a broker has it: those that do not, and why.
    without: Option<Vec<(String, ClusterError)>>,
}

fn created(topic: &Topic, without: Vec<(String, ClusterError)>) {
    info!(topic = %topic.name, rocketmq_topic = topic.rocketmq_topic, "topic created");
    for (broker, error) in without {
        warn!(topic = %topic.name, rocketmq_topic = topic.rocketmq_topic, broker, %error,
            "topic not created on this broker, which gets nothing of it until somebody creates it there");
    }
}
