//! Every answer the gateway gives, in nsqd's words.
//!
//! nsqd answers results as they are and errors as `{"message":"CODE"}`, with the header `X-NSQ-Content-Type` on both;
//! `/ping` has neither. Its only answer that asks a producer to try again is 503 `EXITING`: whatever keeps a message
//! from being stored is answered so.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    ext::ReasonPhrase,
    header::{ALLOW, CONTENT_TYPE, HeaderValue, LOCATION},
};

use serde::Serialize;

use super::{admission::NoRoom, publish::PublishError};
use crate::nsq::mpub::BodyError;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Go's words for 413; hyper has newer ones.
const TOO_LARGE: ReasonPhrase = ReasonPhrase::from_static(b"Request Entity Too Large");
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// What a request came to.
#[derive(Debug)]
pub(super) enum Reply {
    /// Stored.
    Ok,
    /// Done, without words.
    Done,
    /// A result in words.
    Text(String),
    /// A result in JSON.
    Json(String),
    /// `/ping`: healthy, or why not.
    Ping(Result<(), String>),
    /// `OPTIONS` on a known path.
    Options(HeaderValue),
    /// A path that is nearly one of ours.
    Redirect(StatusCode, HeaderValue),
    /// A request Go's HTTP server would not have shown to nsqd; the text is its own.
    Malformed(StatusCode, &'static str),
    /// Refused.
    Error(Error),
}

/// nsqd's errors.
#[derive(Debug)]
pub(super) enum Error {
    NotFound,
    MethodNotAllowed(HeaderValue),
    InvalidRequest,
    MissingTopic,
    InvalidTopic,
    InvalidDefer,
    /// What `/channel/ACTION` calls an invalid topic.
    InvalidArgTopic,
    MissingChannel,
    InvalidArgChannel,
    TopicNotFound,
    ChannelNotFound,
    /// The gateway does not do this; nsqd would.
    Forbidden,
    InvalidOption,
    InvalidValue,
    /// A value for an option that is empty or too long; nsqd has one answer for both.
    ValueTooBig,
    MessageEmpty,
    MessageTooBig,
    BodyTooBig,
    Body(BodyError),
    /// The body could not be read to its end.
    Unreadable,
    /// The gateway is stopping.
    Exiting,
    Publish(PublishError),
}

impl From<NoRoom> for Error {
    fn from(bound: NoRoom) -> Self {
        Error::Publish(PublishError::Full(bound))
    }
}

impl From<PublishError> for Error {
    fn from(error: PublishError) -> Self {
        Error::Publish(error)
    }
}

impl Error {
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Error::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            Error::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED"),
            Error::InvalidRequest => (StatusCode::BAD_REQUEST, "INVALID_REQUEST"),
            Error::MissingTopic => (StatusCode::BAD_REQUEST, "MISSING_ARG_TOPIC"),
            Error::InvalidTopic => (StatusCode::BAD_REQUEST, "INVALID_TOPIC"),
            Error::InvalidDefer => (StatusCode::BAD_REQUEST, "INVALID_DEFER"),
            Error::InvalidArgTopic => (StatusCode::BAD_REQUEST, "INVALID_ARG_TOPIC"),
            Error::MissingChannel => (StatusCode::BAD_REQUEST, "MISSING_ARG_CHANNEL"),
            Error::InvalidArgChannel => (StatusCode::BAD_REQUEST, "INVALID_ARG_CHANNEL"),
            Error::TopicNotFound | Error::Publish(PublishError::NoSuchTopic(_)) => {
                (StatusCode::NOT_FOUND, "TOPIC_NOT_FOUND")
            }
            Error::ChannelNotFound => (StatusCode::NOT_FOUND, "CHANNEL_NOT_FOUND"),
            Error::Forbidden => (StatusCode::FORBIDDEN, "FORBIDDEN"),
            Error::InvalidOption => (StatusCode::BAD_REQUEST, "INVALID_OPTION"),
            Error::InvalidValue => (StatusCode::BAD_REQUEST, "INVALID_VALUE"),
            Error::ValueTooBig => (StatusCode::PAYLOAD_TOO_LARGE, "INVALID_VALUE"),
            Error::MessageEmpty => (StatusCode::BAD_REQUEST, "MSG_EMPTY"),
            Error::MessageTooBig | Error::Body(BodyError::MessageTooBig) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "MSG_TOO_BIG")
            }
            Error::BodyTooBig | Error::Body(BodyError::BodyTooBig) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_BIG")
            }
            Error::Body(BodyError::BadBody) => (StatusCode::PAYLOAD_TOO_LARGE, "BAD_BODY"),
            Error::Body(BodyError::BadMessage) => (StatusCode::PAYLOAD_TOO_LARGE, "BAD_MESSAGE"),
            Error::Unreadable => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR"),
            Error::Exiting
            | Error::Publish(
                PublishError::Unavailable(_) | PublishError::Unknown(_) | PublishError::Full(_),
            ) => (StatusCode::SERVICE_UNAVAILABLE, "EXITING"),
            Error::Publish(PublishError::Ephemeral(_)) => (StatusCode::BAD_REQUEST, "INVALID_TOPIC"),
            Error::Publish(PublishError::DeferRefused(_)) => (StatusCode::BAD_REQUEST, "INVALID_DEFER"),
            // What nsqd would have taken and RocketMQ never will, such as a body beyond a broker's own limit. 400 keeps the
            // producer from trying for ever.
            Error::Publish(PublishError::Refused(_)) => (StatusCode::BAD_REQUEST, "INVALID_REQUEST"),
        }
    }
}

impl Reply {
    /// A result in JSON.
    pub(super) fn json(value: &impl Serialize) -> Self {
        // What is written here are our own structures, whose keys are all texts.
        serde_json::to_string(value).map_or(Reply::Error(Error::Unreadable), Reply::Json)
    }

    /// What metrics call it.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Reply::Ping(Err(_)) => "unhealthy",
            Reply::Error(Error::Publish(PublishError::Full(_))) => "full",
            Reply::Error(Error::Exiting) => "draining",
            Reply::Error(Error::Publish(PublishError::Unavailable(_))) => "not_stored",
            Reply::Error(Error::Publish(PublishError::Unknown(_))) => "unknown",
            Reply::Error(Error::Unreadable) => "cut_off",
            Reply::Error(_) | Reply::Malformed(..) => "refused",
            _ => "ok",
        }
    }

    /// Whether no request can follow on the connection.
    pub(super) fn ends_connection(&self) -> bool {
        matches!(self, Reply::Malformed(..) | Reply::Error(Error::Unreadable | Error::Exiting))
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        match self {
            Reply::Ok => nsq_typed(respond(StatusCode::OK, Some(TEXT), "OK")),
            Reply::Done => nsq_typed(respond(StatusCode::OK, None, "")),
            Reply::Text(text) => nsq_typed(respond(StatusCode::OK, Some(TEXT), text)),
            Reply::Json(json) => nsq_typed(respond(StatusCode::OK, Some(JSON), json)),
            Reply::Ping(Ok(())) => respond(StatusCode::OK, Some(TEXT), "OK"),
            Reply::Ping(Err(reason)) => {
                respond(StatusCode::INTERNAL_SERVER_ERROR, Some(TEXT), format!("NOK - {reason}"))
            }
            Reply::Options(allow) => {
                let mut response = respond(StatusCode::OK, None, "");
                response.headers_mut().insert(ALLOW, allow);
                response
            }
            Reply::Redirect(status, location) => {
                let mut response = respond(status, None, "");
                response.headers_mut().insert(LOCATION, location);
                response
            }
            Reply::Malformed(status, text) => respond(status, Some(TEXT).filter(|_| !text.is_empty()), text),
            Reply::Error(error) => {
                let (status, code) = error.status_and_code();
                let mut response =
                    nsq_typed(respond(status, Some(JSON), format!(r#"{{"message":"{code}"}}"#)));
                if let Error::MethodNotAllowed(allow) = error {
                    response.headers_mut().insert(ALLOW, allow);
                }
                response
            }
        }
    }
}

fn respond(
    status: StatusCode,
    content_type: Option<HeaderValue>,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        response.extensions_mut().insert(TOO_LARGE);
    }
    if let Some(content_type) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response
}

fn nsq_typed(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    response.headers_mut().insert("x-nsq-content-type", HeaderValue::from_static("nsq; version=1.0"));
    response
}
