//! What nsqd checks, in the order it checks (`nsqd/http.go`, 1.3.0), and then the publish.
//!
//! The order differs between the two: `/pub` looks at size and body before the topic, `/mpub` at the topic before the
//! body.
//!
//! # Cancellation
//! hyper drops a handler when its client hangs up. The publish itself runs in a task of its own, so that what has begun to be stored
//! is stored, counted and logged as usual.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{Request, body::Incoming};
use tracing::{error, warn};

use super::{
    GatewayConfig,
    body::{Refusal, open},
    publish::{PublishError, Publisher},
    replies::{Error, Reply},
    routes::{self, Route},
};
use crate::nsq::{
    mpub,
    names::TopicName,
    query::{InvalidQuery, Query},
};

/// What all requests share.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) publisher: Arc<Publisher>,
    pub(super) config: GatewayConfig,
}

/// Answers one request.
pub(super) async fn handle(gateway: &Gateway, request: Request<Incoming>) -> Answer {
    let route = match routes::find(request.method(), request.uri()) {
        Ok(route) => route,
        Err(reply) => {
            let (_, body) = open(request);
            return Answer { reply, close: body.leave().await };
        }
    };
    let result = match route {
        Route::Ping => return Reply::Ping(gateway.publisher.health()).into(),
        Route::Pub => publish_one(gateway, request).await,
        Route::Mpub => publish_many(gateway, request).await,
    };
    match result {
        Ok(()) => Reply::Ok.into(),
        Err(Refusal { error, close }) => Answer { reply: Reply::Error(error), close },
    }
}

/// What to answer, and whether the connection ends with it because some of the request is left unread.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) close: bool,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self { reply, close: false }
    }
}

async fn publish_one(gateway: &Gateway, request: Request<Incoming>) -> Result<(), Refusal> {
    let limit = gateway.config.max_msg_size;
    let (head, body) = open(request);
    let body = body.read(limit, Error::MessageTooBig).await?;
    if body.is_empty() {
        return Err(Error::MessageEmpty.into());
    }
    let query = Query::parse(head.uri.query().unwrap_or_default()).map_err(Error::from)?;
    let topic = topic(&query)?;
    let Some(defer) = query.get("defer") else {
        return Ok(publish(gateway, topic, vec![body], None).await?);
    };
    let Some(defer) = parse_defer(&defer, gateway.config.max_req_timeout) else {
        // nsqd has created the topic by the time it looks at `defer`.
        gateway.publisher.ensure_topic(&topic).await.map_err(|error| failed(&topic, error))?;
        return Err(Error::InvalidDefer.into());
    };
    Ok(publish(gateway, topic, vec![body], Some(defer).filter(|defer| !defer.is_zero())).await?)
}

async fn publish_many(gateway: &Gateway, request: Request<Incoming>) -> Result<(), Refusal> {
    let GatewayConfig { max_msg_size, max_body_size, .. } = gateway.config;
    let (head, body) = open(request);
    if body.announced() > max_body_size as u64 {
        return Err(body.refuse(Error::BodyTooBig).await);
    }
    let checked = Query::parse(head.uri.query().unwrap_or_default()).map_err(Error::from);
    let (query, topic) = match checked.and_then(|query| Ok((topic(&query)?, query))) {
        Ok((topic, query)) => (query, topic),
        Err(error) => return Err(body.refuse(error).await),
    };
    // nsqd takes every value it does not know for yes.
    let binary = !matches!(query.get("binary").as_deref(), None | Some("false" | "0"));
    let body = body.read(max_body_size, Error::BodyTooBig).await?;
    let messages = if binary {
        mpub::decode_binary(body, max_msg_size, max_body_size)
    } else {
        mpub::split_text(&body, max_msg_size, max_body_size)
    };
    let messages = messages.map_err(Error::Body)?;
    if messages.is_empty() {
        return Ok(());
    }
    Ok(publish(gateway, topic, messages, None).await?)
}

/// Publishes in a task of its own: nobody who hangs up cancels it.
async fn publish(
    gateway: &Gateway,
    topic: TopicName,
    bodies: Vec<Bytes>,
    defer: Option<Duration>,
) -> Result<(), Error> {
    let publisher = Arc::clone(&gateway.publisher);
    let publishing = tokio::spawn(async move {
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

impl From<InvalidQuery> for Error {
    fn from(_: InvalidQuery) -> Self {
        Error::InvalidRequest
    }
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
