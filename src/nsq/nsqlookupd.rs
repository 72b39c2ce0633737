//! A client of one nsqlookupd's HTTP API.

use std::{collections::BTreeSet, time::Duration};

use serde::Deserialize;

use super::{
    address::HttpAddress,
    names::{ChannelName, TopicName},
    nsqd::{HttpError, client, decode, escape, exchange},
};

const TIMEOUT: Duration = Duration::from_secs(5);

/// One nsqlookupd. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Nsqlookupd {
    address: HttpAddress,
    http: reqwest::Client,
}

/// What an nsqlookupd knows of a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Its channels.
    pub channels: BTreeSet<ChannelName>,
    /// The HTTP addresses of the nsqds that have it, tombstoned ones left out.
    pub nsqds: BTreeSet<HttpAddress>,
}

#[derive(Deserialize)]
struct Lookup {
    #[serde(default)]
    channels: Vec<String>,
    #[serde(default)]
    producers: Vec<Producer>,
}

#[derive(Deserialize)]
struct Nodes {
    #[serde(default)]
    producers: Vec<Producer>,
}

#[derive(Deserialize)]
struct Producer {
    broadcast_address: String,
    http_port: u16,
    #[serde(default)]
    topics: Vec<String>,
    /// One for each of `topics`.
    #[serde(default)]
    tombstones: Vec<bool>,
}

impl Producer {
    fn address(&self) -> HttpAddress {
        HttpAddress::new(&self.broadcast_address, self.http_port)
    }

    fn is_tombstoned(&self, topic: &TopicName) -> bool {
        self.topics.iter().zip(&self.tombstones).any(|(name, tombstone)| *tombstone && name == topic.as_str())
    }
}

impl Nsqlookupd {
    /// The nsqlookupd whose HTTP API listens at `address`.
    #[must_use]
    pub fn new(address: HttpAddress) -> Self {
        Self { address, http: client() }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &HttpAddress {
        &self.address
    }

    /// What it knows of the topic; nothing when nobody has registered it.
    ///
    /// # Errors
    /// See [`HttpError`]; repeating is safe.
    pub async fn lookup(&self, topic: &TopicName) -> Result<Found, HttpError> {
        const ASKED: &str = "GET /lookup";
        let url = format!("http://{}/lookup?topic={}", self.address, escape(topic.as_str()));
        let answer = match exchange(self.http.get(url).timeout(TIMEOUT), &self.address, ASKED).await {
            Ok(answer) => answer,
            Err(HttpError::Refused { status: 404, .. }) => return Ok(Found::default()),
            Err(error) => return Err(error),
        };
        let lookup: Lookup = decode(&answer, &self.address, ASKED)?;
        Ok(Found {
            channels: lookup.channels.iter().filter_map(|name| name.parse().ok()).collect(),
            nsqds: lookup.producers.iter().map(Producer::address).collect(),
        })
    }

    /// The HTTP addresses of all nsqds it knows, but for those tombstoned for `topic`.
    ///
    /// # Errors
    /// See [`HttpError`]; repeating is safe.
    pub async fn nsqds(&self, topic: &TopicName) -> Result<BTreeSet<HttpAddress>, HttpError> {
        const ASKED: &str = "GET /nodes";
        let url = format!("http://{}/nodes", self.address);
        let answer = exchange(self.http.get(url).timeout(TIMEOUT), &self.address, ASKED).await?;
        let nodes: Nodes = decode(&answer, &self.address, ASKED)?;
        let producers = nodes.producers.iter().filter(|producer| !producer.is_tombstoned(topic));
        Ok(producers.map(Producer::address).collect())
    }
}
