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

use super::publish::PublishError;
use crate::nsq::mpub::BodyError;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Go's words for 413; hyper has newer ones.
const TOO_LARGE: ReasonPhrase = ReasonPhrase::from_static(b"Request Entity Too Large");
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// What a request came to.
#[derive(Debug)]
pub(super) enum Reply {
    /// Done.
    Ok,
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

impl Error {
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Error::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            Error::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED"),
            Error::InvalidRequest => (StatusCode::BAD_REQUEST, "INVALID_REQUEST"),
            Error::MissingTopic => (StatusCode::BAD_REQUEST, "MISSING_ARG_TOPIC"),
            Error::InvalidTopic => (StatusCode::BAD_REQUEST, "INVALID_TOPIC"),
            Error::InvalidDefer => (StatusCode::BAD_REQUEST, "INVALID_DEFER"),
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
            Error::Exiting | Error::Publish(PublishError::Unavailable(_) | PublishError::Unknown(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "EXITING")
            }
            // What nsqd would have taken and RocketMQ never will, such as a delay beyond the broker's longest. 400
            // keeps the producer from trying for ever.
            Error::Publish(PublishError::Refused(_)) => (StatusCode::BAD_REQUEST, "INVALID_REQUEST"),
        }
    }
}

impl Reply {
    /// Whether no request can follow on the connection.
    pub(super) fn ends_connection(&self) -> bool {
        matches!(self, Reply::Malformed(..) | Reply::Error(Error::Unreadable | Error::Exiting))
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        match self {
            Reply::Ok => nsq_typed(respond(StatusCode::OK, Some(TEXT), "OK")),
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
