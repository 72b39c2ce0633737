//! What nsqd checks, in the order it checks (`nsqd/http.go`, 1.3.0), and then the publish.
//!
//! The order differs between the two: `/pub` looks at size and body before the topic, `/mpub` at the topic before the
//! body. Where nsqd creates a topic for a request it then refuses or finds empty, RocketMQ is left alone, with one
//! exception: a bad `defer` creates the topic here as there.
//!
//! # Cancellation
//! A handler is dropped with its connection. The publish itself runs in a task of its own, so that what has begun to be
//! stored is stored and logged as usual, whether its producer has hung up or not; a drain waits for it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{Request, body::Incoming, http::request::Parts};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, warn};

use super::{
    GatewayConfig,
    body::{self, Body},
    protocol,
    publish::{PublishError, Publisher},
    replies::{Error, Reply},
    routes::{self, Route},
};
use crate::nsq::{
    mpub::{self, BodyError},
    names::TopicName,
    query::Query,
};

/// What all requests share.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) publisher: Arc<Publisher>,
    pub(super) config: GatewayConfig,
    /// Once cancelled, every further request is answered `EXITING`.
    pub(super) drain: CancellationToken,
    /// The publishes under way, whether somebody still waits for them or not.
    pub(super) publishing: TaskTracker,
}

/// What to answer, and whether the connection ends with it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) close: bool,
}

/// Answers one request.
pub(super) async fn handle(gateway: &Gateway, request: Request<Incoming>) -> Answer {
    let (head, mut body) = body::open(request);
    let reply = reply(gateway, &head, &mut body).await;
    let unread = body.leave().await;
    let close = unread || reply.ends_connection() || gateway.drain.is_cancelled();
    Answer { reply, close }
}

async fn reply(gateway: &Gateway, head: &Parts, body: &mut Body) -> Reply {
    if gateway.drain.is_cancelled() {
        return Reply::Error(Error::Exiting);
    }
    let result = match protocol::check(head).and_then(|()| routes::find(&head.method, &head.uri)) {
        Err(reply) => return reply,
        Ok(Route::Ping) => return Reply::Ping(gateway.publisher.health()),
        Ok(Route::Pub) => publish_one(gateway, head, body).await,
        Ok(Route::Mpub) => publish_many(gateway, head, body).await,
    };
    result.map_or_else(Reply::Error, |()| Reply::Ok)
}

async fn publish_one(gateway: &Gateway, head: &Parts, body: &mut Body) -> Result<(), Error> {
    let limit = gateway.config.max_msg_size;
    if body.announced() > limit as u64 {
        return Err(Error::MessageTooBig);
    }
    let body = body.read(limit).await?;
    if body.len() > limit {
        return Err(Error::MessageTooBig);
    }
    if body.is_empty() {
        return Err(Error::MessageEmpty);
    }
    let query = query(head)?;
    let topic = topic(&query)?;
    let Some(defer) = query.get("defer") else {
        return publish(gateway, topic, vec![body], None).await;
    };
    let Some(defer) = parse_defer(&defer, gateway.config.max_req_timeout) else {
        // nsqd has created the topic by the time it looks at `defer`.
        gateway.publisher.ensure_topic(&topic).await.map_err(|error| failed(&topic, error))?;
        return Err(Error::InvalidDefer);
    };
    publish(gateway, topic, vec![body], Some(defer).filter(|defer| !defer.is_zero())).await
}

async fn publish_many(gateway: &Gateway, head: &Parts, body: &mut Body) -> Result<(), Error> {
    let GatewayConfig { max_msg_size, max_body_size, .. } = gateway.config;
    if body.announced() > max_body_size as u64 {
        return Err(Error::BodyTooBig);
    }
    let query = query(head)?;
    let topic = topic(&query)?;
    // nsqd takes every value it does not know for yes.
    let binary = !matches!(query.get("binary").as_deref(), None | Some("false" | "0"));
    let body = body.read(max_body_size).await?;
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
        return Ok(());
    }
    publish(gateway, topic, messages, None).await
}

/// Publishes in a task of its own: nobody who hangs up cancels it.
async fn publish(
    gateway: &Gateway,
    topic: TopicName,
    bodies: Vec<Bytes>,
    defer: Option<Duration>,
) -> Result<(), Error> {
    let publisher = Arc::clone(&gateway.publisher);
    let publishing = gateway.publishing.spawn(async move {
        publisher.publish(&topic, bodies, defer).await.map_err(|error| failed(&topic, error))
    });
    publishing.await.unwrap_or_else(|error| {
        error!(%error, "a publish ended without an outcome");
        Err(Error::Publish(PublishError::Unknown(error.to_string())))
    })
}

fn failed(topic: &TopicName, error: PublishError) -> Error {
    warn!(%topic, %error, "publish not acknowledged");
    Error::Publish(error)
}

fn query(head: &Parts) -> Result<Query, Error> {
    Query::parse(head.uri.query().unwrap_or_default()).map_err(|_| Error::InvalidRequest)
}

fn topic(query: &Query) -> Result<TopicName, Error> {
    query.get("topic").ok_or(Error::MissingTopic)?.parse().map_err(|_| Error::InvalidTopic)
}

/// Milliseconds as Go's `ParseInt` reads them: a sign, digits, nothing else. nsqd multiplies before it compares and
/// takes some values beyond the limit for small ones; this does not.
fn parse_defer(text: &str, longest: Duration) -> Option<Duration> {
    let defer = Duration::from_millis(text.parse::<i64>().ok()?.try_into().ok()?);
    (defer <= longest).then_some(defer)
}
