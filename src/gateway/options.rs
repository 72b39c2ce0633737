//! `/config/NAME`: the options this gateway shares with nsqd, as nsqd writes them.
//!
//! One can be set: `log_level`. `nsqlookupd_tcp_addresses` reads as an empty list: a gateway registers nowhere, for
//! its consumers would come here.

use tracing::level_filters::LevelFilter;

use super::{
    body::Body,
    handlers::Gateway,
    replies::{Error, Reply},
};
use crate::observe::logging;

/// Reads an option.
pub(super) fn read(gateway: &Gateway, name: &str) -> Result<Reply, Error> {
    let config = &gateway.config;
    Ok(match name {
        "log_level" => Reply::Json(number(logging::level()).to_string()),
        "max_msg_size" => Reply::Json(config.max_msg_size.to_string()),
        "max_body_size" => Reply::Json(config.max_body_size.to_string()),
        "max_req_timeout" => Reply::Json(config.max_req_timeout.as_nanos().to_string()),
        "nsqlookupd_tcp_addresses" => Reply::Json("[]".to_owned()),
        "broadcast_address" => Reply::Text(config.broadcast_address.clone()),
        "http_address" => Reply::Text(gateway.http_address.to_string()),
        "tcp_address" => {
            Reply::Text(gateway.tcp_address.map_or_else(String::new, |address| address.to_string()))
        }
        _ => return Err(Error::InvalidOption),
    })
}

/// Sets an option to what the body says, and reads it.
pub(super) async fn set(gateway: &Gateway, name: &str, body: &mut Body) -> Result<Reply, Error> {
    let limit = gateway.config.max_msg_size;
    let value = body.read(limit, &mut gateway.publisher.admit()?).await?;
    if value.is_empty() || value.len() > limit {
        return Err(Error::ValueTooBig);
    }
    match name {
        "log_level" => {
            logging::set_level(level(&value).ok_or(Error::InvalidValue)?);
            read(gateway, name)
        }
        _ => Err(Error::InvalidOption),
    }
}

/// nsqd's words, in any case.
fn level(word: &[u8]) -> Option<LevelFilter> {
    Some(match &*str::from_utf8(word).ok()?.to_ascii_lowercase() {
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warn" => LevelFilter::WARN,
        "error" => LevelFilter::ERROR,
        "fatal" => LevelFilter::OFF,
        _ => return None,
    })
}

/// nsqd's numbers; it has none for what is finer than debug.
fn number(level: LevelFilter) -> u8 {
    match level.into_level() {
        Some(tracing::Level::TRACE | tracing::Level::DEBUG) => 1,
        Some(tracing::Level::INFO) => 2,
        Some(tracing::Level::WARN) => 3,
        Some(tracing::Level::ERROR) => 4,
        None => 5,
    }
}
