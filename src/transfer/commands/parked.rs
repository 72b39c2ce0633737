//! `nsqbridge parked`: what nsqd would not take, and another try.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;

use super::super::parking::{self, ParkedMessage};
use crate::{
    nsq::{names::TopicName, nsqd::Nsqd},
    rocketmq::{Cluster, ClusterError, producer::unix_millis},
    table::align,
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
#[derive(Debug, Default)]
pub struct Retried {
    /// How many nsqd has now.
    pub relayed: usize,
    /// Where a message was that nsqd does not have, and why. What is parked behind it in the same queue was not tried.
    pub stuck: Vec<(String, String)>,
}

/// Publishes everything that is parked to an nsqd, in the order of each parking queue, and takes note of each.
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
    let mut retried = Retried::default();
    let mut stuck = BTreeSet::new();
    for message in parked {
        if stuck.contains(&message.queue) {
            continue;
        }
        if message.unreadable {
            stuck.insert(message.queue);
            let reason = "it cannot be read: look at it with `show`, then `drop` it".to_owned();
            retried.stuck.push((message.place, reason));
            continue;
        }
        match nsqd.publish(topic, message.body.clone(), None, Duration::from_secs(10)).await {
            Ok(_) => {
                parking::settled(cluster, &message).await?;
                retried.relayed += 1;
            }
            Err(error) => {
                stuck.insert(message.queue);
                retried.stuck.push((message.place, error.to_string()));
            }
        }
    }
    Ok(retried)
}

/// The message from `place`, if it is the oldest of its parking queue: only that one can be dropped, for what was dealt
/// with is told by an offset.
///
/// # Errors
/// Why it cannot be dropped.
pub fn droppable<'a>(parked: &'a [ParkedMessage], place: &str) -> Result<&'a ParkedMessage, String> {
    let message = parked
        .iter()
        .find(|message| message.place == place)
        .ok_or(format!("nothing from {place} is parked"))?;
    let oldest = parked.iter().find(|other| other.queue == message.queue).unwrap_or(message);
    if oldest.offset < message.offset {
        return Err(format!(
            "the message from {} was parked before it: deal with that one first",
            oldest.place
        ));
    }
    Ok(message)
}
