//! Who is connected to an nsqd, as its statistics tell.

use serde::Deserialize;

use super::{nsqd::null_as_empty, tcp::USER_AGENT};

/// A connected client. Counters are since it connected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ClientStats {
    /// What it calls itself.
    pub client_id: String,
    /// The name it gives its machine.
    pub hostname: String,
    /// Where its connection comes from.
    pub remote_address: String,
    /// Its library, and often its program: `nsq_to_file/1.3.0 go-nsq/1.1.0`.
    pub user_agent: String,
    /// Messages it has been given.
    pub message_count: u64,
    /// Messages it has put back.
    pub requeue_count: u64,
    /// Messages it has now.
    pub in_flight_count: u64,
    /// What it has published, by topic. Unless one topic was asked for, nsqd tells one of them only.
    #[serde(deserialize_with = "null_as_empty")]
    pub pub_counts: Vec<Published>,
}

/// What a client has published to a topic.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Published {
    /// The topic.
    pub topic: String,
    /// Messages.
    pub count: u64,
}

impl ClientStats {
    /// Whether it is a relay of this program, of whatever version.
    #[must_use]
    pub fn is_relay(&self) -> bool {
        self.user_agent.split('/').next() == USER_AGENT.split('/').next()
    }
}
