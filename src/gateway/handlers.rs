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
use http_body_util::BodyExt;
use hyper::{Request, body::Body, body::Incoming};
use tracing::{error, warn};

use super::{
    GatewayConfig,
    publish::{PublishError, Publisher},
    replies::{Error, Reply},
    routes::{self, Route},
};
use crate::nsq::{
    mpub,
    names::TopicName,
    query::{InvalidQuery, Query},
};

/// How much of a refused body is read on, so that a client still sending gets to see why; nsqd reads as much.
const READ_ON_BYTES: usize = 256 * 1024;
/// And for how long.
const READ_ON_FOR: Duration = Duration::from_millis(500);

/// What all requests share.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) publisher: Arc<Publisher>,
    pub(super) config: GatewayConfig,
}

/// Answers one request.
pub(super) async fn handle(gateway: &Gateway, request: Request<Incoming>) -> Reply {
    let route = match routes::find(request.method(), request.uri()) {
        Ok(route) => route,
        Err(reply) => {
            read_on(request.into_body());
            return reply;
        }
    };
    let result = match route {
        Route::Ping => return Reply::Ping(gateway.publisher.health()),
        Route::Pub => publish_one(gateway, request).await,
        Route::Mpub => publish_many(gateway, request).await,
    };
    result.map_or_else(Reply::Error, |()| Reply::Ok)
}

async fn publish_one(gateway: &Gateway, request: Request<Incoming>) -> Result<(), Error> {
    let limit = gateway.config.max_msg_size;
    let (head, body) = request.into_parts();
    let body = read(body, limit, || Error::MessageTooBig).await?;
    if body.is_empty() {
        return Err(Error::MessageEmpty);
    }
    let query = Query::parse(head.uri.query().unwrap_or_default())?;
    let topic = topic(&query)?;
    let Some(defer) = query.get("defer") else { return publish(gateway, topic, vec![body], None).await };
    let Some(defer) = parse_defer(&defer, gateway.config.max_req_timeout) else {
        // nsqd has created the topic by the time it looks at `defer`.
        gateway.publisher.ensure_topic(&topic).await.map_err(|error| failed(&topic, error))?;
        return Err(Error::InvalidDefer);
    };
    publish(gateway, topic, vec![body], Some(defer).filter(|defer| !defer.is_zero())).await
}

async fn publish_many(gateway: &Gateway, request: Request<Incoming>) -> Result<(), Error> {
    let GatewayConfig { max_msg_size, max_body_size, .. } = gateway.config;
    let (head, body) = request.into_parts();
    if announced(&body) > max_body_size as u64 {
        read_on(body);
        return Err(Error::BodyTooBig);
    }
    let checked = Query::parse(head.uri.query().unwrap_or_default()).map_err(Error::from);
    let (query, topic) = match checked.and_then(|query| Ok((topic(&query)?, query))) {
        Ok((topic, query)) => (query, topic),
        Err(error) => {
            read_on(body);
            return Err(error);
        }
    };
    // nsqd takes every value it does not know for yes.
    let binary = !matches!(query.get("binary").as_deref(), None | Some("false" | "0"));
    let body = read(body, max_body_size, || Error::BodyTooBig).await?;
    let messages = if binary {
        mpub::decode_binary(body, max_msg_size, max_body_size)
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

/// The bytes a body's `Content-Length` announces; 0 when it has none.
fn announced(body: &Incoming) -> u64 {
    body.size_hint().exact().unwrap_or(0)
}

/// Reads a body of at most `limit` bytes.
async fn read(mut body: Incoming, limit: usize, too_big: impl Fn() -> Error) -> Result<Bytes, Error> {
    if announced(&body) > limit as u64 {
        read_on(body);
        return Err(too_big());
    }
    let mut chunks: Vec<Bytes> = Vec::new();
    let mut len = 0;
    while let Some(frame) = body.frame().await {
        let Ok(chunk) = frame.map_err(|_| Error::Unreadable)?.into_data() else { continue };
        len += chunk.len();
        if len > limit {
            read_on(body);
            return Err(too_big());
        }
        chunks.push(chunk);
    }
    Ok(match &mut chunks[..] {
        [whole] => std::mem::take(whole),
        chunks => chunks.concat().into(),
    })
}

/// Reads some of a refused body while the answer is on its way: a client that is still sending would otherwise see a
/// reset instead of it.
fn read_on(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(async move {
        let reading = async {
            let mut read = 0;
            while let Some(Ok(frame)) = body.frame().await {
                read += frame.data_ref().map_or(0, Bytes::len);
                if read > READ_ON_BYTES {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(READ_ON_FOR, reading).await;
    });
}
