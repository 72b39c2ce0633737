//! What is written on each message beside its body, as RocketMQ properties.
//!
//! | property | from |
//! |---|---|
//! | `nsq_topic` | the topic as the producer named it |
//! | `nsq_accepted_ms` | when the gateway had the whole request, in milliseconds since 1970 |
//! | `nsq_gateway` | the gateway's `--broadcast-address` |
//! | `traceparent` | the request's header of that name, if it is one of W3C's Trace Context |
//! | `KEYS` | the request's header `X-Nsqbridge-Keys`: search keys, separated by blanks |
//! | `TAGS` | the request's header `X-Nsqbridge-Tag`: what RocketMQ consumers filter by |
//!
//! All messages of one request carry the same; on some, [`super::share`] writes more. Names come from here alone, so nothing a
//! producer sends can set a property that steers RocketMQ.

use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};

use super::replies::Error;
use crate::{
    mapping::{ACCEPTED_MS, NSQ_TOPIC},
    nsq::names::TopicName,
    rocketmq::properties::PropertiesBuilder,
};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const KEYS: HeaderName = HeaderName::from_static("x-nsqbridge-keys");
const TAG: HeaderName = HeaderName::from_static("x-nsqbridge-tag");
/// More would leave too little of what RocketMQ can store beside a message.
const MAX_HEADER_BYTES: usize = 4 * 1024;

/// The properties of a request's messages.
///
/// # Errors
/// [`Error::InvalidRequest`] for keys or a tag RocketMQ cannot carry.
pub(super) fn properties(
    topic: &TopicName,
    gateway: &str,
    accepted_ms: i64,
    headers: &HeaderMap,
) -> Result<PropertiesBuilder, Error> {
    let refused = |_| Error::InvalidRequest;
    let mut properties = PropertiesBuilder::new()
        .user(NSQ_TOPIC, topic.as_str())
        .and_then(|properties| properties.user(ACCEPTED_MS, &accepted_ms.to_string()))
        .and_then(|properties| properties.user("nsq_gateway", gateway))
        .map_err(refused)?;
    // As the specification asks, one that cannot be understood is as good as none.
    if let Some(parent) = headers.get(TRACEPARENT).and_then(trace_parent) {
        properties = properties.user("traceparent", parent).map_err(refused)?;
    }
    if let Some(keys) = headers.get(KEYS) {
        properties = properties.keys(text(keys)?).map_err(refused)?;
    }
    if let Some(tag) = headers.get(TAG) {
        properties = properties.tag(text(tag)?).map_err(refused)?;
    }
    Ok(properties)
}

fn text(value: &HeaderValue) -> Result<&str, Error> {
    let text = str::from_utf8(value.as_bytes()).map_err(|_| Error::InvalidRequest)?;
    if text.len() > MAX_HEADER_BYTES { Err(Error::InvalidRequest) } else { Ok(text.trim()) }
}

/// `VERSION-TRACE-PARENT-FLAGS`, lower-case hex, no id all zero (W3C Trace Context, section 3.2.2).
fn trace_parent(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?;
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, parent, flags] = parts.get(..4)?.try_into().ok()?;
    let hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let id = |part: &str, digits: usize| hex(part, digits) && part.bytes().any(|byte| byte != b'0');
    let sound = hex(version, 2) && version != "ff" && id(trace, 32) && id(parent, 16) && hex(flags, 2);
    // Later versions may say more behind these four, the first may not.
    (sound && text.len() <= 256 && (version != "00" || parts.len() == 4)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(headers: &[(&'static str, &str)]) -> Result<Vec<(String, String)>, Error> {
        let headers = headers.iter().map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        });
        let topic = "orders.v1#ephemeral".parse().unwrap();
        let properties = properties(&topic, "gw-1", 1_700_000_000_123, &headers.collect())?.build().unwrap();
        Ok(properties.iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_message_says_where_it_came_from() {
        let always = [
            ("nsq_topic", "orders.v1#ephemeral"),
            ("nsq_accepted_ms", "1700000000123"),
            ("nsq_gateway", "gw-1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(stamped(&[]).unwrap(), always);
        let all = stamped(&[
            ("traceparent", PARENT),
            ("x-nsqbridge-keys", " order-17 customer-ü "),
            ("x-nsqbridge-tag", "paid"),
            ("uniq_key", "X"),
            ("delay", "3"),
        ]);
        let more = [("traceparent", PARENT), ("KEYS", "order-17 customer-ü"), ("TAGS", "paid")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(all.unwrap(), [&always[..], &more].concat());
    }

    #[test]
    fn what_cannot_be_carried_is_refused_and_a_strange_trace_left_out() {
        let long = "k".repeat(MAX_HEADER_BYTES + 1);
        for (name, value) in [("x-nsqbridge-keys", ""), ("x-nsqbridge-tag", " "), ("x-nsqbridge-keys", &long)]
        {
            assert!(matches!(stamped(&[(name, value)]), Err(Error::InvalidRequest)), "{name}");
        }
        for strange in [
            "",
            "00",
            &PARENT.to_uppercase(),
            &PARENT.replace("00-0a", "ff-0a"),
            &format!("{PARENT}-more"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        ] {
            assert_eq!(stamped(&[("traceparent", strange)]).unwrap().len(), 3, "{strange}");
        }
        assert_eq!(stamped(&[("traceparent", &PARENT.replacen("00", "01", 1))]).unwrap().len(), 4);
        assert_eq!(
            stamped(&[("traceparent", &format!("{}-x", PARENT.replacen("00", "01", 1)))]).unwrap().len(),
            4
        );
    }
}
