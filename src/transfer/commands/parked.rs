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
        if let Some(reason) = not_retried(&message) {
            stuck.insert(message.queue);
            retried.stuck.push((message.place, reason.to_owned()));
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

/// Why there is nothing that could be given to nsqd.
fn not_retried(message: &ParkedMessage) -> Option<&'static str> {
    if message.unreadable {
        Some("it cannot be read: look at it with `show`, then `drop` it")
    } else if message.left_at_place {
        Some("its body is only at its place, where `show` says; deal with it there, then `drop` it")
    } else {
        None
    }
}

/// The body of a parked message.
///
/// # Errors
/// Where it lies, when it was too much for the parking topic. `topic` is the relayed one, as RocketMQ calls it.
pub fn body<'a>(message: &'a ParkedMessage, topic: &str) -> Result<&'a [u8], String> {
    if !message.left_at_place {
        return Ok(&message.body);
    }
    let ParkedMessage { place, bytes, .. } = message;
    let mut parts = place.rsplitn(3, ':');
    let [offset, queue, broker] = [(); 3].map(|()| parts.next().unwrap_or_default());
    Err(format!(
        "its {bytes} bytes are more than RocketMQ takes a second time. They are in the topic {topic} for as long as the broker keeps them: \
         mqadmin queryMsgByOffset -n NAMESRV -t '{topic}' -b {broker} -i {queue} -o {offset}"
    ))
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::rocketmq::Queue;

    fn parked() -> ParkedMessage {
        ParkedMessage {
            queue: Queue { topic: "%parked%t".to_owned(), broker: "b".to_owned(), id: 0 },
            offset: 1,
            id: String::new(),
            reason: "5 bytes, nsqd takes 4".to_owned(),
            place: "rack:b-1:3:1712".to_owned(),
            parked_ms: 0,
            body: Bytes::from_static(b"12345"),
            bytes: 5,
            unreadable: false,
            left_at_place: false,
        }
    }

    #[test]
    fn what_is_only_at_its_place_is_told_and_not_retried() {
        assert_eq!(body(&parked(), "t").unwrap(), b"12345");
        assert_eq!(not_retried(&parked()), None);
        let left = ParkedMessage { left_at_place: true, body: Bytes::new(), bytes: 5_000_000, ..parked() };
        let told = body(&left, "a|b").unwrap_err();
        assert!(told.contains("5000000 bytes"), "{told}");
        assert!(told.ends_with("-t 'a|b' -b rack:b-1 -i 3 -o 1712"), "{told}");
        assert!(not_retried(&left).is_some());
    }
}
