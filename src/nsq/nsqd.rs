//! A client of one nsqd's HTTP API.
//!
//! nsqd answers `OK` from memory. That answer is the only thing a [`Published`] can be made of; whoever wants to call a message
//! relayed must show one.

use std::{error::Error as _, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::StatusCode;
use serde::{Deserialize, Deserializer};

use super::{
    address::HttpAddress,
    clients::ClientStats,
    names::{ChannelName, TopicName},
};
use crate::excerpt::excerpt;

/// How long an administrative request may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer that is read; no `/stats` has reason to be longer.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// One nsqd. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Nsqd {
    address: HttpAddress,
    http: reqwest::Client,
}

/// Proof that nsqd answered `OK` to a publish.
#[derive(Debug)]
pub struct Published(());

impl Published {
    /// For the place where the answer was read.
    pub(super) fn answered() -> Self {
        Self(())
    }
}

#[cfg(test)]
impl Published {
    /// A proof without an nsqd.
    pub(crate) fn for_tests() -> Self {
        Self(())
    }
}

/// Why nsqd, or nsqlookupd, did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// It answered, and refused. Repeating a 4xx as it is cannot help. A 503 may be repeated, though nsqd may have
    /// published the first messages of a batch before it.
    #[error("{address} answered {status} {code} to {asked}; {}", advice(*status))]
    Refused {
        /// Who answered.
        address: HttpAddress,
        /// What was asked, as method and path.
        asked: &'static str,
        /// The HTTP status.
        status: u16,
        /// Its error code, such as `TOPIC_NOT_FOUND`, or what it said instead of one.
        code: String,
    },
    /// It could not be reached; nothing was done, and repeating is safe.
    #[error("{address} cannot be reached, nothing was sent and repeating is safe: {reason}")]
    NotSent {
        /// Who was asked.
        address: HttpAddress,
        /// What prevented it.
        reason: String,
    },
    /// It was asked and gave no answer, or one that cannot be read: it may have done it.
    #[error("{address} gave no usable answer to {asked}, and may have done it all the same: {reason}")]
    Unknown {
        /// Who was asked.
        address: HttpAddress,
        /// What was asked, as method and path.
        asked: &'static str,
        /// What ended the wait.
        reason: String,
    },
}

fn advice(status: u16) -> &'static str {
    if (400..500).contains(&status) {
        "the request is at fault, and repeating it as it is cannot help"
    } else {
        "it is at fault, and may be asked again"
    }
}

/// `GET /info`, the part every nsqd 1.x gives.
#[derive(Debug, Clone, Deserialize)]
pub struct Info {
    /// The host it tells others to reach it at.
    pub broadcast_address: String,
    /// The name of its machine.
    pub hostname: String,
    /// Where its HTTP API listens; -1 on a unix socket.
    pub http_port: i32,
    /// Where its TCP protocol listens; -1 on a unix socket.
    pub tcp_port: i32,
    /// When the process started, in seconds since 1970: another value means another process.
    pub start_time: i64,
}

impl Info {
    /// What tells its process from every other, by whatever address it is reached.
    #[must_use]
    pub fn process(&self) -> (&str, &str, i32, i32, i64) {
        (&self.hostname, &self.broadcast_address, self.tcp_port, self.http_port, self.start_time)
    }
}

/// `GET /stats?format=json`, the part that is used.
///
/// A list may be missing or `null`; a counter may not, because 0 would say that a channel is drained.
#[derive(Debug, Clone, Deserialize)]
pub struct Stats {
    /// nsqd's version.
    pub version: String,
    /// `OK`, or `NOK - …`.
    pub health: String,
    /// When the process started, in seconds since 1970: another value means another process.
    pub start_time: i64,
    /// The topics, by name. nsqd writes `null` when a filter matches none.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub topics: Vec<TopicStats>,
    /// Who has published over TCP and is still connected, when clients were asked for; over HTTP nobody is.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub producers: Vec<ClientStats>,
}

/// One topic of [`Stats`].
#[derive(Debug, Clone, Deserialize)]
pub struct TopicStats {
    /// Its name.
    pub topic_name: String,
    /// Its channels, by name.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub channels: Vec<ChannelStats>,
    /// Messages not yet copied to channels, in memory and on disk.
    pub depth: u64,
    /// Messages published since the process started.
    pub message_count: u64,
    /// Whether copying to channels is stopped.
    pub paused: bool,
}

/// One channel of [`TopicStats`].
#[derive(Debug, Clone, Deserialize)]
pub struct ChannelStats {
    /// Its name.
    pub channel_name: String,
    /// Messages waiting, in memory and on disk.
    pub depth: u64,
    /// Messages delivered and not finished.
    pub in_flight_count: u64,
    /// Messages waiting for their time.
    pub deferred_count: u64,
    /// Messages received since the process started.
    pub message_count: u64,
    /// Messages put back by consumers since the process started.
    pub requeue_count: u64,
    /// Messages put back for want of an answer since the process started.
    pub timeout_count: u64,
    /// Whether delivery is stopped.
    pub paused: bool,
    /// How many consumers are connected; the oldest versions tell it only by the list.
    #[serde(default)]
    pub client_count: Option<usize>,
    /// Its consumers, when clients were asked for.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub clients: Vec<ClientStats>,
}

pub(super) fn null_as_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    list: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(list)?.unwrap_or_default())
}

impl Nsqd {
    /// The nsqd whose HTTP API listens at `address`.
    #[must_use]
    pub fn new(address: HttpAddress) -> Self {
        Self { address, http: client() }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &HttpAddress {
        &self.address
    }

    /// Publishes a batch: `payload` is a binary mpub body ([`super::mpub::encode_binary`]).
    ///
    /// # Errors
    /// See [`HttpError`]; a refused batch may be published in part when nsqd was exiting.
    ///
    /// # Cancellation
    /// Dropping the future leaves the outcome unknown.
    pub async fn mpub(
        &self,
        topic: &TopicName,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Published, HttpError> {
        let url = format!("http://{}/mpub?binary=true&topic={}", self.address, escape(topic.as_str()));
        self.publish_to(url, "POST /mpub", payload, timeout).await
    }

    /// Publishes one message, with `defer` to be delivered no earlier than that; nsqd counts in milliseconds.
    ///
    /// # Errors
    /// See [`HttpError`].
    ///
    /// # Cancellation
    /// Dropping the future leaves the outcome unknown.
    pub async fn publish(
        &self,
        topic: &TopicName,
        body: Bytes,
        defer: Option<Duration>,
        timeout: Duration,
    ) -> Result<Published, HttpError> {
        let mut url = format!("http://{}/pub?topic={}", self.address, escape(topic.as_str()));
        if let Some(defer) = defer {
            let milliseconds = defer.as_nanos().div_ceil(1_000_000);
            url.push_str(&format!("&defer={milliseconds}"));
        }
        self.publish_to(url, "POST /pub", body, timeout).await
    }

    async fn publish_to(
        &self,
        url: String,
        asked: &'static str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Published, HttpError> {
        let answer = exchange(self.http.post(url).body(body).timeout(timeout), &self.address, asked).await?;
        if &answer[..] == b"OK" {
            return Ok(Published::answered());
        }
        let reason = format!("the answer is not OK but {:?}", beginning(&answer));
        Err(HttpError::Unknown { address: self.address.clone(), asked, reason })
    }

    /// Creates the topic, if it is new.
    ///
    /// # Errors
    /// See [`HttpError`]; repeating is safe.
    pub async fn create_topic(&self, topic: &TopicName) -> Result<(), HttpError> {
        self.on_topic("/topic/create", "POST /topic/create", topic).await
    }

    /// Creates the channel, if it is new.
    ///
    /// # Errors
    /// See [`HttpError`]; repeating is safe.
    pub async fn create_channel(&self, topic: &TopicName, channel: &ChannelName) -> Result<(), HttpError> {
        self.on_channel("/channel/create", "POST /channel/create", topic, channel).await
    }

    /// Stops copying a topic to its channels; what is published is taken, and waits. Once it has answered, no message is between the topic
    /// and its channels.
    ///
    /// # Errors
    /// See [`HttpError`]; repeating is safe.
    pub async fn pause_topic(&self, topic: &TopicName) -> Result<(), HttpError> {
        self.on_topic("/topic/pause", "POST /topic/pause", topic).await
    }

    /// Lets a topic be copied to its channels again.
    ///
    /// # Errors
    /// See [`HttpError`]; repeating is safe.
    pub async fn unpause_topic(&self, topic: &TopicName) -> Result<(), HttpError> {
        self.on_topic("/topic/unpause", "POST /topic/unpause", topic).await
    }

    async fn on_topic(&self, path: &str, asked: &'static str, topic: &TopicName) -> Result<(), HttpError> {
        let url = format!("http://{}{path}?topic={}", self.address, escape(topic.as_str()));
        exchange(self.http.post(url).timeout(TIMEOUT), &self.address, asked).await.map(drop)
    }

    /// Stops a channel's deliveries; it goes on collecting.
    ///
    /// # Errors
    /// See [`HttpError`]; repeating is safe.
    pub async fn pause_channel(&self, topic: &TopicName, channel: &ChannelName) -> Result<(), HttpError> {
        self.on_channel("/channel/pause", "POST /channel/pause", topic, channel).await
    }

    /// Lets a channel deliver again.
    ///
    /// # Errors
    /// See [`HttpError`]; repeating is safe.
    pub async fn unpause_channel(&self, topic: &TopicName, channel: &ChannelName) -> Result<(), HttpError> {
        self.on_channel("/channel/unpause", "POST /channel/unpause", topic, channel).await
    }

    /// Drops everything a channel has, what is in flight and deferred included.
    ///
    /// # Errors
    /// See [`HttpError`]; it may have dropped it all the same.
    pub async fn empty_channel(&self, topic: &TopicName, channel: &ChannelName) -> Result<(), HttpError> {
        self.on_channel("/channel/empty", "POST /channel/empty", topic, channel).await
    }

    /// Deletes a channel with everything it has, if it is there.
    ///
    /// # Errors
    /// See [`HttpError`]; repeating is safe.
    pub async fn delete_channel(&self, topic: &TopicName, channel: &ChannelName) -> Result<(), HttpError> {
        match self.on_channel("/channel/delete", "POST /channel/delete", topic, channel).await {
            Err(HttpError::Refused { status: 404, .. }) => Ok(()),
            answer => answer,
        }
    }

    async fn on_channel(
        &self,
        path: &str,
        asked: &'static str,
        topic: &TopicName,
        channel: &ChannelName,
    ) -> Result<(), HttpError> {
        let (topic, channel) = (escape(topic.as_str()), escape(channel.as_str()));
        let url = format!("http://{}{path}?topic={topic}&channel={channel}", self.address);
        exchange(self.http.post(url).timeout(TIMEOUT), &self.address, asked).await.map(drop)
    }

    /// Its statistics, for one topic or for all; no topic in the list when it does not have it.
    ///
    /// # Errors
    /// See [`HttpError`]; repeating is safe.
    pub async fn stats(&self, topic: Option<&TopicName>) -> Result<Stats, HttpError> {
        self.ask_stats(topic, false).await
    }

    /// As [`Self::stats`], with who is connected.
    ///
    /// # Errors
    /// See [`HttpError`]; repeating is safe.
    pub async fn stats_with_clients(&self, topic: Option<&TopicName>) -> Result<Stats, HttpError> {
        self.ask_stats(topic, true).await
    }

    async fn ask_stats(&self, topic: Option<&TopicName>, clients: bool) -> Result<Stats, HttpError> {
        const ASKED: &str = "GET /stats";
        let filter = topic.map(|topic| format!("&topic={}", escape(topic.as_str()))).unwrap_or_default();
        let url = format!(
            "http://{}/stats?format=json&include_clients={clients}&include_mem=false{filter}",
            self.address
        );
        let answer = exchange(self.http.get(url).timeout(TIMEOUT), &self.address, ASKED).await?;
        decode(&self.address, ASKED, || serde_json::from_slice(&answer))
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// See [`HttpError`]; repeating is safe.
    pub async fn info(&self) -> Result<Info, HttpError> {
        const ASKED: &str = "GET /info";
        let url = format!("http://{}/info", self.address);
        let answer = exchange(self.http.get(url).timeout(TIMEOUT), &self.address, ASKED).await?;
        decode(&self.address, ASKED, || serde_json::from_slice(&answer))
    }

    /// Its clock, in milliseconds since 1970, cut off to the second; `None` when it does not say.
    ///
    /// # Errors
    /// See [`HttpError`]; repeating is safe.
    pub async fn clock(&self) -> Result<Option<i64>, HttpError> {
        let url = format!("http://{}/ping", self.address);
        let answer = self.http.get(url).timeout(TIMEOUT).send().await;
        let answer = answer.map_err(|error| failed(&error, &self.address, "GET /ping"))?;
        let date =
            answer.headers().get("date").and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        let since = date.and_then(|date| date.duration_since(std::time::UNIX_EPOCH).ok());
        Ok(since.and_then(|since| i64::try_from(since.as_millis()).ok()))
    }
}

/// A client that keeps its connections, follows no redirect and uses no proxy.
pub(super) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(Duration::from_secs(2))
        .tcp_nodelay(true)
        .build()
        .expect("a client without TLS or a proxy needs nothing that could fail")
}

/// Sends a request; the body of a 200, or why there is none.
pub(super) async fn exchange(
    request: reqwest::RequestBuilder,
    address: &HttpAddress,
    asked: &'static str,
) -> Result<Bytes, HttpError> {
    let failed = |error: reqwest::Error| failed(&error, address, asked);
    let mut response = request.send().await.map_err(failed)?;
    let status = response.status();
    // An announced length is but a claim: memory is taken as bytes come.
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            let reason = format!("the answer is longer than {MAX_ANSWER_BYTES} bytes");
            return Err(HttpError::Unknown { address: address.clone(), asked, reason });
        }
        body.extend_from_slice(&chunk);
    }
    let body = body.freeze();
    if status == StatusCode::OK {
        return Ok(body);
    }
    Err(HttpError::Refused {
        address: address.clone(),
        asked,
        status: status.as_u16(),
        code: error_code(&body),
    })
}

fn failed(error: &reqwest::Error, address: &HttpAddress, asked: &'static str) -> HttpError {
    let (address, reason) = (address.clone(), chain(error));
    match error.is_connect() {
        true => HttpError::NotSent { address, reason },
        false => HttpError::Unknown { address, asked, reason },
    }
}

/// What `read` makes of an answer.
pub(super) fn decode<T>(
    address: &HttpAddress,
    asked: &'static str,
    read: impl FnOnce() -> Result<T, serde_json::Error>,
) -> Result<T, HttpError> {
    read().map_err(|error| HttpError::Unknown {
        address: address.clone(),
        asked,
        reason: excerpt(&format!("the answer cannot be read: {error}")),
    })
}

/// The code in `{"message":"CODE"}` (before 1.0 it was `status_txt`), or the beginning of whatever stands there.
fn error_code(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Message {
        #[serde(alias = "status_txt")]
        message: String,
    }
    serde_json::from_slice::<Message>(body).map_or_else(|_| beginning(body), |body| excerpt(&body.message))
}

/// As much of an unexpected answer as an error should carry.
fn beginning(body: &[u8]) -> String {
    excerpt(&String::from_utf8_lossy(&body[..body.len().min(100)]))
}

/// reqwest's errors name their cause only further down.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Escapes a name for a query. `#` is the only character of NSQ's names that needs it.
pub(super) fn escape(name: &str) -> String {
    name.replace('#', "%23")
}

#[cfg(test)]
pub(super) mod tests;
