//! The nsqd that is given messages by hand.

use crate::{
    mapping::is_intake,
    nsq::{names::TopicName, nsqd::Nsqd},
};

/// Whether it may be given a message of the topic. The relay sees to this before it sends: where the topic is missing, no channel would get
/// the message, and what comes to an intake's channel is stored a second time.
///
/// # Errors
/// Why not, and what to do.
pub(super) async fn may_get(nsqd: &Nsqd, topic: &TopicName) -> Result<(), String> {
    let stats = nsqd.stats(Some(topic)).await.map_err(|error| error.to_string())?;
    let address = nsqd.address();
    let Some(found) = stats.topics.iter().find(|of| of.topic_name == topic.as_str()) else {
        return Err(format!(
            "{address} does not have {topic}, nor any channel of it that would get the messages: name an nsqd that the relay sends to"
        ));
    };
    match found.channels.iter().find(|of| of.channel_name.parse().is_ok_and(|name| is_intake(&name))) {
        Some(intake) => Err(format!(
            "{address} has the intake's channel {}, which would store the messages a second time: name an nsqd without one",
            intake.channel_name
        )),
        None => Ok(()),
    }
}
