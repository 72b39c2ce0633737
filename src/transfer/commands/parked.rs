//! `nsqbridge parked`: what nsqd would not take, and another try.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::{
    super::parking::{self, ParkedMessage},
    status::align,
};
use crate::{
    nsq::{
        names::TopicName,
        nsqd::{HttpError, Nsqd},
    },
    rocketmq::{Cluster, ClusterError, producer::unix_millis},
};

/// For people: one row a message, oldest first.
#[must_use]
pub fn table(parked: &[ParkedMessage]) -> String {
    let mut rows = vec![["PLACE", "PARKED", "BYTES", "ID", "REASON"].map(str::to_owned)];
    for message in parked {
        let ago = Duration::from_millis(u64::try_from(unix_millis() - message.parked_ms).unwrap_or(0));
        let ago = humantime::format_duration(Duration::from_secs(ago.as_secs())).to_string().replace(' ', "");
        rows.push([
            message.place.clone(),
            format!("{ago} ago"),
            message.bytes.to_string(),
            message.id.clone(),
            message.reason.clone(),
        ]);
    }
    align(&rows)
}

/// For programs.
#[must_use]
pub fn json(parked: &[ParkedMessage]) -> String {
    json!({ "parked": parked }).to_string()
}

/// What became of another try.
#[derive(Debug)]
pub enum Retried {
    /// nsqd has them all.
    All(usize),
    /// nsqd has these, and not the one behind them; it and the rest of its queue stay parked.
    Stopped {
        /// How many nsqd has now.
        relayed: usize,
        /// Where the next one was.
        place: String,
        /// Why nsqd does not have it.
        error: HttpError,
    },
}

/// Publishes everything that is parked to an nsqd, in order, and takes note of each.
///
/// A crash between the two publishes one message twice.
///
/// # Errors
/// When RocketMQ cannot be asked; what was relayed until then is noted.
pub async fn retry(
    cluster: &Cluster,
    parked: Vec<ParkedMessage>,
    topic: &TopicName,
    nsqd: &Nsqd,
) -> Result<Retried, ClusterError> {
    let mut relayed = 0;
    for message in parked {
        let body: Bytes = message.body.clone();
        if let Err(error) = nsqd.publish(topic, body, None, Duration::from_secs(10)).await {
            return Ok(Retried::Stopped { relayed, place: message.place, error });
        }
        parking::settled(cluster, &message).await?;
        relayed += 1;
    }
    Ok(Retried::All(relayed))
}
