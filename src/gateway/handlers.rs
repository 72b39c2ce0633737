//! What nsqd checks, in the order it checks (`nsqd/http.go`, 1.3.0), and then the publish.
//!
//! The order differs between the two: `/pub` looks at size and body before the topic, `/mpub` at the topic before the
//! body. Where nsqd creates a topic for a request it then refuses or finds empty, RocketMQ is left alone, with one
//! exception: a bad `defer` creates the topic here as there.
//!
//! # Cancellation
//! A handler is dropped with its connection, and that ends its wait and nothing else: what has joined a batch is stored.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{HeaderMap, Request, body::Incoming, header::HeaderName, http::request::Parts};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    GatewayConfig, actions,
    admission::Permit,
    body::{self, Body},
    lane::Stored,
    options, protocol,
    publish::{PublishError, PublishRequest, Publisher},
    replies::{Error, Reply},
    routes::{self, Action, Route},
    stamp, stats,
    tcp::producers::Producers,
};
use crate::{
    nsq::{
        mpub::{self, BodyError},
        names::TopicName,
        query::Query,
    },
    observe::logging::Throttle,
    rocketmq::producer::unix_millis,
};

/// `ids` asks for the ids of the messages in place of `OK`.
const ANSWER: HeaderName = HeaderName::from_static("x-nsqbridge-answer");

/// What all requests share.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) publisher: Arc<Publisher>,
    pub(super) config: GatewayConfig,
    pub(super) http_address: SocketAddr,
    /// Where it speaks nsqd's TCP protocol; `None` for nowhere.
    pub(super) tcp_address: Option<SocketAddr>,
    /// Who is connected there.
    pub(super) producers: Producers,
    /// Held by the request that asks RocketMQ for depths.
    pub(super) asking_depths: tokio::sync::Mutex<()>,
    /// Seconds since 1970.
    pub(super) started_at: i64,
    /// Once cancelled, every further request is answered `EXITING`.
    pub(super) drain: CancellationToken,
    /// Of publishes: outages fail them by the thousand.
    pub(super) failures: Throttle,
}

impl Gateway {
    /// What is to be stored for a request that has just come whole.
    pub(super) fn request(
        &self,
        topic: TopicName,
        bodies: Vec<Bytes>,
        defer: Option<Duration>,
        headers: &HeaderMap,
        permit: Permit,
    ) -> Result<PublishRequest, Error> {
        let accepted_ms = unix_millis();
        let properties = stamp::properties(&topic, &self.config.broadcast_address, accepted_ms, headers)?;
        let wants_ids = headers.get(ANSWER).is_some_and(|answer| answer.as_bytes() == b"ids");
        Ok(PublishRequest { topic, bodies, properties, accepted_ms, defer, wants_ids, permit })
    }

    /// Counts a request that was answered.
    pub(super) fn count(
        &self,
        endpoint: &'static str,
        topic: Option<&TopicName>,
        outcome: &'static str,
        took: Duration,
    ) {
        let known = topic.and_then(|topic| self.publisher.known_topic(topic));
        let label = known.as_ref().and_then(|topic| topic.label());
        self.publisher.metrics().request(endpoint, label, outcome, took);
    }

    /// Says why a producer hears an error that is not its own.
    pub(super) fn log(&self, topic: Option<&TopicName>, error: &PublishError) {
        let topic = topic.map(TopicName::as_str);
        if matches!(error, PublishError::NoSuchTopic(_) | PublishError::Ephemeral(_)) {
            debug!(topic, %error, "refused");
        } else if let Some(left_out) = self.failures.pass() {
            warn!(topic, %error, left_out, "publish not acknowledged");
        }
    }
}

/// What to answer, and whether the connection ends with it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) close: bool,
}

/// Answers one request.
pub(super) async fn handle(gateway: &Gateway, request: Request<Incoming>) -> Answer {
    let started = Instant::now();
    let (head, mut body) = body::open(request, gateway.config.body_timeout);
    let mut endpoint = "other";
    let mut topic = None;
    let reply = if gateway.drain.is_cancelled() {
        Reply::Error(Error::Exiting)
    } else {
        match protocol::check(&head).and_then(|()| routes::find(&head.method, &head.uri)) {
            Err(reply) => reply,
            Ok(route) => {
                endpoint = route.endpoint();
                dispatch(gateway, route, &head, &mut body, &mut topic).await.unwrap_or_else(Reply::Error)
            }
        }
    };
    if let Reply::Error(Error::Publish(error)) = &reply {
        gateway.log(topic.as_ref(), error);
    }
    gateway.count(endpoint, topic.as_ref(), reply.outcome(), started.elapsed());
    let unread = body.leave().await;
    let close = unread || reply.ends_connection() || gateway.drain.is_cancelled();
    Answer { reply, close }
}

async fn dispatch(
    gateway: &Gateway,
    route: Route,
    head: &Parts,
    body: &mut Body,
    topic: &mut Option<TopicName>,
) -> Result<Reply, Error> {
    let reads_first = match route {
        Route::Topic(action) => action != Action::Create,
        Route::Stats | Route::Channel(_) => true,
        _ => false,
    };
    if reads_first {
        body.finish().await?;
    }
    match route {
        Route::Ping => Ok(Reply::Ping(gateway.publisher.health())),
        Route::Info => Ok(stats::info(gateway)),
        Route::Pub => publish_one(gateway, head, body, topic).await,
        Route::Mpub => publish_many(gateway, head, body, topic).await,
        Route::Stats => stats::stats(gateway, &query(head)?).await,
        Route::Topic(action) => actions::on_topic(gateway, action, &query(head)?).await,
        Route::Channel(action) => actions::on_channel(gateway, action, &query(head)?).await,
        Route::ReadOption(name) => options::read(gateway, &name),
        Route::SetOption(name) => options::set(gateway, &name, body).await,
    }
}

async fn publish_one(
    gateway: &Gateway,
    head: &Parts,
    body: &mut Body,
    named: &mut Option<TopicName>,
) -> Result<Reply, Error> {
    let limit = gateway.config.max_msg_size;
    if body.announced() > limit as u64 {
        return Err(Error::MessageTooBig);
    }
    let mut permit = gateway.publisher.admit()?;
    let body = body.read(limit, &mut permit).await?;
    if body.len() > limit {
        return Err(Error::MessageTooBig);
    }
    if body.is_empty() {
        return Err(Error::MessageEmpty);
    }
    let query = query(head)?;
    let topic = topic(&query)?;
    *named = Some(topic.clone());
    let defer = match query.get("defer") {
        None => None,
        Some(text) => match parse_defer(&text, gateway.config.max_req_timeout) {
            Some(defer) => Some(defer).filter(|defer| !defer.is_zero()),
            None => {
                // nsqd has created the topic by the time it looks at `defer`.
                gateway.publisher.ensure_topic(&topic).await?;
                return Err(Error::InvalidDefer);
            }
        },
    };
    publish(gateway, head, topic, vec![body], defer, permit).await
}

async fn publish_many(
    gateway: &Gateway,
    head: &Parts,
    body: &mut Body,
    named: &mut Option<TopicName>,
) -> Result<Reply, Error> {
    let GatewayConfig { max_msg_size, max_body_size, .. } = gateway.config;
    if body.announced() > max_body_size as u64 {
        return Err(Error::BodyTooBig);
    }
    let query = query(head)?;
    let topic = topic(&query)?;
    *named = Some(topic.clone());
    // nsqd takes every value it does not know for yes.
    let binary = !matches!(query.get("binary").as_deref(), None | Some("false" | "0"));
    let mut permit = gateway.publisher.admit()?;
    let body = body.read(max_body_size, &mut permit).await?;
    let messages = if binary {
        // nsqd sets no limit to a binary body in chunks. Here there is one, and a message cut short by it is not bad.
        let cut = body.len() > max_body_size;
        let body = body.slice(..body.len().min(max_body_size));
        mpub::decode_binary(body, max_msg_size, max_body_size).map_err(|error| match error {
            BodyError::BadMessage if cut => BodyError::BodyTooBig,
            error => error,
        })
    } else {
        mpub::split_text(&body, max_msg_size, max_body_size)
    };
    let messages = messages.map_err(Error::Body)?;
    if messages.is_empty() {
        return Ok(Reply::Ok);
    }
    permit.grow_by_messages(messages.len())?;
    publish(gateway, head, topic, messages, None, permit).await
}

async fn publish(
    gateway: &Gateway,
    head: &Parts,
    topic: TopicName,
    bodies: Vec<Bytes>,
    defer: Option<Duration>,
    permit: Permit,
) -> Result<Reply, Error> {
    let request = gateway.request(topic, bodies, defer, &head.headers, permit)?;
    let wants_ids = request.wants_ids;
    let Stored { ids } = gateway.publisher.publish(request).await?;
    if !wants_ids {
        return Ok(Reply::Ok);
    }
    let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    Ok(Reply::json(&json!({ "ids": ids })))
}

fn query(head: &Parts) -> Result<Query<'_>, Error> {
    Query::parse(head.uri.query().unwrap_or_default()).map_err(|_| Error::InvalidRequest)
}

fn topic(query: &Query<'_>) -> Result<TopicName, Error> {
    query.get("topic").ok_or(Error::MissingTopic)?.parse().map_err(|_| Error::InvalidTopic)
}

/// Milliseconds as Go's `ParseInt` reads them: a sign, digits, nothing else. nsqd multiplies before it compares and
/// takes some values beyond the limit for small ones; this does not.
fn parse_defer(text: &str, longest: Duration) -> Option<Duration> {
    let defer = Duration::from_millis(text.parse::<i64>().ok()?.try_into().ok()?);
    (defer <= longest).then_some(defer)
}
