//! What may be done to topics and channels.
//!
//! Creating is real: a topic on every broker; for a channel the consumer group `TOPIC%%CHANNEL`, which gets every message
//! published from then on, as a new channel would. What would take messages away from others, or stop them, is refused with
//! 403 `FORBIDDEN`: the topic belongs to all of its gateways, relays and groups, and RocketMQ's own tools are there
//! for that. Arguments are checked as nsqd checks them, and in its order.

use tokio::{sync::Mutex, time::timeout};
use tracing::warn;

use super::{
    handlers::Gateway,
    publish::PublishError,
    replies::{Error, Reply},
    routes::Action,
};
use crate::{
    mapping::MAX_GROUP_BYTES,
    nsq::{
        names::{ChannelName, TopicName},
        query::Query,
    },
};

/// One consumer group is created at a time.
static CREATING: Mutex<()> = Mutex::const_new(());

/// Answers `/topic/ACTION`.
pub(super) async fn on_topic(gateway: &Gateway, action: Action, query: &Query<'_>) -> Result<Reply, Error> {
    let text = query.get("topic").ok_or(Error::MissingTopic)?;
    let name = match (text.parse::<TopicName>(), action) {
        (Ok(name), _) => name,
        (Err(_), Action::Create | Action::Empty) => return Err(Error::InvalidTopic),
        // nsqd only looks it up.
        (Err(_), _) => return Err(Error::TopicNotFound),
    };
    let publisher = &gateway.publisher;
    if action == Action::Create {
        publisher.ensure_topic(&name).await?;
        return Ok(Reply::Done);
    }
    publisher.existing_topic(&name).await?;
    // Nothing pauses a topic here, so it already is what is asked for.
    if action == Action::Unpause { Ok(Reply::Done) } else { Err(forbidden(&name, action)) }
}

/// Answers `/channel/ACTION`.
pub(super) async fn on_channel(gateway: &Gateway, action: Action, query: &Query<'_>) -> Result<Reply, Error> {
    let topic = query.get("topic").ok_or(Error::MissingTopic)?;
    let topic: TopicName = topic.parse().map_err(|_| Error::InvalidArgTopic)?;
    let channel = query.get("channel").ok_or(Error::MissingChannel)?;
    let channel: ChannelName = channel.parse().map_err(|_| Error::InvalidArgChannel)?;
    let publisher = &gateway.publisher;
    let known = publisher.existing_topic(&topic).await?;
    if action != Action::Create {
        return Err(Error::ChannelNotFound);
    }
    let (cluster, config) = publisher.cluster();
    let group = config.names.channel_group(&topic, &channel);
    if group.len() > MAX_GROUP_BYTES {
        return Err(Error::InvalidArgChannel);
    }
    let cluster = cluster.clone();
    // In a task of its own: a client that hangs up must not leave a group that is closed.
    let within = publisher.budget();
    let creating = publisher.spawn(async move {
        // One at a time: the slower of two would set offsets of a group that is open by then.
        let Ok(_one) = timeout(within, CREATING.lock()).await else {
            return Err("other channels are being created".to_owned());
        };
        cluster.create_group_at_end(&group, &known.rocketmq_topic).await.map_err(|error| error.to_string())
    });
    let created = creating.await.map_err(|error| error.to_string()).and_then(|created| created);
    created.map_err(PublishError::Unavailable)?;
    Ok(Reply::Done)
}

fn forbidden(topic: &TopicName, action: Action) -> Error {
    warn!(%topic, ?action, "refused: a gateway does not take messages from others; use RocketMQ's mqadmin");
    Error::Forbidden
}
