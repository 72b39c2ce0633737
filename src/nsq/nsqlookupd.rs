//! A client of one nsqlookupd's HTTP API.

use std::{collections::BTreeSet, time::Duration};

use serde::Deserialize;

use super::{
    address::HttpAddress,
    names::{ChannelName, TopicName},
    nsqd::{HttpError, client, decode, escape, exchange, null_as_empty},
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

/// An nsqd that has registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its HTTP address.
    pub address: HttpAddress,
    /// The topics it has.
    pub topics: BTreeSet<TopicName>,
    /// Those of them it must not be used for now: somebody took the topic off it.
    pub tombstoned: BTreeSet<TopicName>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default, deserialize_with = "null_as_empty")]
    channels: Vec<String>,
    #[serde(default, deserialize_with = "null_as_empty")]
    producers: Vec<Producer>,
}

/// Before nsqlookupd 1.0 an answer stood inside `data`.
#[derive(Deserialize)]
struct Wrapped {
    data: Option<Answer>,
}

#[derive(Deserialize)]
struct Producer {
    broadcast_address: String,
    http_port: u16,
    #[serde(default, deserialize_with = "null_as_empty")]
    topics: Vec<String>,
    /// One for each of `topics`.
    #[serde(default, deserialize_with = "null_as_empty")]
    tombstones: Vec<bool>,
}

impl Answer {
    fn channels(&self) -> BTreeSet<ChannelName> {
        self.channels.iter().filter_map(|name| name.parse().ok()).collect()
    }
}

impl Producer {
    fn address(&self) -> HttpAddress {
        HttpAddress::new(&self.broadcast_address, self.http_port)
    }

    fn node(&self) -> Node {
        let tombstoned = self.topics.iter().zip(&self.tombstones).filter(|(_, tombstone)| **tombstone);
        Node {
            address: self.address(),
            topics: self.topics.iter().filter_map(|name| name.parse().ok()).collect(),
            tombstoned: tombstoned.filter_map(|(name, _)| name.parse().ok()).collect(),
        }
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
        let path = format!("/lookup?topic={}", escape(topic.as_str()));
        match self.get(&path, "GET /lookup").await {
            Ok(answer) => Ok(Found {
                channels: answer.channels(),
                nsqds: answer.producers.iter().map(Producer::address).collect(),
            }),
            Err(HttpError::Refused { status: 404, code, .. }) if code == "TOPIC_NOT_FOUND" => {
                Ok(Found::default())
            }
            Err(error) => Err(error),
        }
    }

    /// The topic's channels; none when nobody has registered one. They outlive the nsqds that registered them.
    ///
    /// # Errors
    /// See [`HttpError`]; repeating is safe.
    pub async fn channels(&self, topic: &TopicName) -> Result<BTreeSet<ChannelName>, HttpError> {
        let path = format!("/channels?topic={}", escape(topic.as_str()));
        Ok(self.get(&path, "GET /channels").await?.channels())
    }

    /// The HTTP addresses of all nsqds it knows, but for those tombstoned for `topic`.
    ///
    /// # Errors
    /// See [`HttpError`]; repeating is safe.
    pub async fn nsqds(&self, topic: &TopicName) -> Result<BTreeSet<HttpAddress>, HttpError> {
        let nodes = self.nodes().await?.into_iter().filter(|node| !node.tombstoned.contains(topic));
        Ok(nodes.map(|node| node.address).collect())
    }

    /// All nsqds it knows.
    ///
    /// # Errors
    /// See [`HttpError`]; repeating is safe.
    pub async fn nodes(&self) -> Result<Vec<Node>, HttpError> {
        Ok(self.get("/nodes", "GET /nodes").await?.producers.iter().map(Producer::node).collect())
    }

    /// Forgets a channel; nsqds that have it register it again when they next connect.
    ///
    /// # Errors
    /// See [`HttpError`]; repeating is safe.
    pub async fn delete_channel(&self, topic: &TopicName, channel: &ChannelName) -> Result<(), HttpError> {
        let (topic, channel) = (escape(topic.as_str()), escape(channel.as_str()));
        let url = format!("http://{}/channel/delete?topic={topic}&channel={channel}", self.address);
        match exchange(self.http.post(url).timeout(TIMEOUT), &self.address, "POST /channel/delete").await {
            Err(HttpError::Refused { status: 404, .. }) => Ok(()),
            answer => answer.map(drop),
        }
    }

    async fn get(&self, path: &str, asked: &'static str) -> Result<Answer, HttpError> {
        let url = format!("http://{}{path}", self.address);
        let body = exchange(self.http.get(url).timeout(TIMEOUT), &self.address, asked).await?;
        decode(&self.address, asked, || read(&body))
    }
}

fn read(body: &[u8]) -> Result<Answer, serde_json::Error> {
    match serde_json::from_slice::<Wrapped>(body)?.data {
        Some(answer) => Ok(answer),
        None => serde_json::from_slice(body),
    }
}

/// The nodes an answer lists.
#[cfg(feature = "fuzzing")]
pub(crate) fn read_nodes(body: &[u8]) -> Result<Vec<Node>, serde_json::Error> {
    Ok(read(body)?.producers.iter().map(Producer::node).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nsq::nsqd::tests::Server;

    async fn lookupd(status: u16, body: &str) -> Nsqlookupd {
        Nsqlookupd::new(Server::start(&[(status, body)]).await.address)
    }

    fn topic() -> TopicName {
        "t#ephemeral".parse().unwrap()
    }

    #[tokio::test]
    async fn answers_are_read_plain_and_wrapped_as_before_1_0() {
        let plain = r#"{"channels":["a","b#ephemeral"],"producers":[
            {"remote_address":"10.0.0.7:1","hostname":"h","broadcast_address":"h","tcp_port":4150,"http_port":4151,"version":"1.3.0"},
            {"broadcast_address":"fd00::7","http_port":4151}]}"#;
        let wrapped = format!(r#"{{"status_code":200,"status_txt":"OK","data":{plain}}}"#);
        for body in [plain, &wrapped] {
            let found = lookupd(200, body).await.lookup(&topic()).await.unwrap();
            assert_eq!(
                found.channels.iter().map(ChannelName::as_str).collect::<Vec<_>>(),
                ["a", "b#ephemeral"]
            );
            let nsqds: Vec<_> = found.nsqds.iter().map(HttpAddress::as_str).collect();
            assert_eq!(nsqds, ["[fd00::7]:4151", "h:4151"], "IPv6 addresses get brackets");
            assert_eq!(lookupd(200, body).await.channels(&topic()).await.unwrap(), found.channels);
        }
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_read_is_never_taken_for_an_empty_one() {
        let unreadable = r#"{"channels":["a"],"producers":[{"broadcast_address":"h","http_port":-1}]}"#;
        for body in [unreadable, &format!(r#"{{"data":{unreadable}}}"#), "OK", ""] {
            let error = lookupd(200, body).await.lookup(&topic()).await.unwrap_err();
            assert!(matches!(error, HttpError::Unknown { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_topic_nobody_registered_is_no_error_and_any_other_404_is_one() {
        let unknown = lookupd(404, r#"{"message":"TOPIC_NOT_FOUND"}"#).await;
        assert_eq!(unknown.lookup(&topic()).await.unwrap(), Found::default());
        let nobody = lookupd(200, r#"{"channels":null,"producers":null}"#).await;
        assert_eq!(nobody.lookup(&topic()).await.unwrap(), Found::default());
        let no_lookupd = lookupd(404, r#"{"message":"NOT_FOUND"}"#).await;
        let error = no_lookupd.lookup(&topic()).await.unwrap_err();
        assert!(
            matches!(&error, HttpError::Refused { status: 404, code, .. } if code == "NOT_FOUND"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_node_is_left_out_for_the_topic_it_is_tombstoned_for() {
        let body = r#"{"producers":[{"broadcast_address":"h","http_port":1,
            "topics":["x","t#ephemeral"],"tombstones":[false,true]}]}"#;
        let nodes = lookupd(200, body).await.nodes().await.unwrap();
        let [node] = &nodes[..] else { panic!("{nodes:?}") };
        assert_eq!(node.topics.len(), 2);
        assert_eq!(node.tombstoned, [topic()].into());
        assert!(lookupd(200, body).await.nsqds(&topic()).await.unwrap().is_empty());
        assert_eq!(lookupd(200, body).await.nsqds(&"x".parse().unwrap()).await.unwrap().len(), 1);
    }
}
