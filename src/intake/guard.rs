//! Whether a relay writes to an nsqd that messages are taken in from, or may.
//!
//! Three are asked: RocketMQ which relays there are, each of them where it sends, and nsqd who publishes to it. A relay may call an nsqd
//! by another address, so what it sends to is asked who it is. A relay that is silent, or an nsqd that is, is no answer: whoever has not
//! begun waits, and whoever has goes on.
//!
//! A relay that comes later sees the intake's channel before it sends anything, and leaves that nsqd out. One that came up at the same
//! moment may have looked a little earlier; therefore a new channel is left alone for [`SETTLE`], and everything asked again.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::{IntakeConfig, Shared, hold, metrics::Standing};
use crate::{
    nsq::{
        names::TopicName,
        nsqd::{Info, Nsqd},
    },
    rocketmq::Cluster,
    transfer::control,
};

/// Everything is asked again this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// For so long at most a relay does not know of a new channel: it looks every two seconds, and waits two for an answer.
const SETTLE: Duration = Duration::from_secs(6);

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No relay writes there.
    Clear {
        /// The channel is not there yet.
        new: bool,
    },
    /// A relay does, or will.
    Writer(String),
    /// Somebody who must be asked does not answer, or it is too early.
    Unknown(String),
    /// RocketMQ does not say which relays there are.
    Away(String),
}

/// Asks everybody once.
pub(super) async fn look(cluster: &Cluster, config: &IntakeConfig, topic: &TopicName, nsqd: &Nsqd) -> Found {
    asked(cluster, config, topic, nsqd).await.unwrap_or_else(Found::Unknown)
}

async fn asked(
    cluster: &Cluster,
    config: &IntakeConfig,
    topic: &TopicName,
    nsqd: &Nsqd,
) -> Result<Found, String> {
    let here = nsqd.info().await.map_err(|error| error.to_string())?;
    let stats = nsqd.stats_with_clients(Some(topic)).await.map_err(|error| error.to_string())?;
    let publishes = |counts: &[crate::nsq::clients::Published]| {
        counts.iter().any(|published| published.topic == topic.as_str() && published.count > 0)
    };
    if let Some(relay) =
        stats.producers.iter().find(|client| client.is_relay() && publishes(&client.pub_counts))
    {
        let (at, address) = (&relay.remote_address, nsqd.address());
        let reason = format!("a relay publishes to it from {at}: start that with --leave-out {address}");
        return Ok(Found::Writer(reason));
    }
    let channels = stats.topics.iter().flat_map(|topic| &topic.channels);
    let new = !channels.into_iter().any(|channel| channel.channel_name == config.channel.as_str());
    let instances =
        match control::ask(cluster, &config.names, &config.group_prefix, &topic.into(), None).await {
            Ok(instances) => instances,
            Err(error) => return Ok(Found::Away(format!("which relays there are: {error}"))),
        };
    for control::Instance { id, report } in instances {
        let report =
            report.map_err(|reason| format!("the relay {id} does not say where it sends: {reason}"))?;
        if let Some(fence) = report.fence {
            return Err(format!("{} moves a consumer of the topic now", fence.owner));
        }
        for reported in report.nsqds {
            // Where nothing goes and nothing is left, it does not matter who it is.
            if reported.left_out && (reported.undrained == 0 || !new) {
                continue;
            }
            let same = match is_same(&reported.nsqd, nsqd, &here).await {
                Ok(same) => same,
                Err(_) if !reported.ready => false,
                Err(error) => return Err(format!("who {} is, to which {id} sends: {error}", reported.nsqd)),
            };
            if same && !reported.left_out {
                let reason =
                    format!("the relay {id} sends to it: start that with --leave-out {}", reported.nsqd);
                return Ok(Found::Writer(reason));
            }
            if same {
                let left = reported.undrained;
                return Err(format!("{left} messages that {id} put there are not finished yet"));
            }
        }
    }
    Ok(Found::Clear { new })
}

/// Whether two addresses are one process.
async fn is_same(address: &str, nsqd: &Nsqd, here: &Info) -> Result<bool, String> {
    if address == nsqd.address().as_str() {
        return Ok(true);
    }
    let other = Nsqd::new(address.parse().map_err(|error| format!("{error}"))?);
    let there = other.info().await.map_err(|error| error.to_string())?;
    Ok(there.process() == here.process())
}

/// Keeps `allowed` true to what is found, and prepares everything before it is allowed for the first time.
pub(super) async fn keep(
    shared: Arc<Shared>,
    standing: Arc<Standing>,
    topic: TopicName,
    nsqd: Nsqd,
    allowed: watch::Sender<bool>,
) {
    let mut prepared = false;
    let mut unfenced = false;
    let refuse = |reason: String| {
        if standing.hold(Some(reason.clone())) {
            error!(%topic, nsqd = %nsqd.address(), reason, "nothing is taken in");
        }
        allowed.send_replace(false);
    };
    loop {
        match let_go(&shared, &topic, &nsqd, unfenced).await {
            Ok(seen) => unfenced = seen,
            Err(reason) => {
                debug!(%topic, nsqd = %nsqd.address(), reason, "whether the topic is held is not known for now");
            }
        }
        match look(&shared.cluster, &shared.config, &topic, &nsqd).await {
            Found::Writer(reason) => {
                // Somebody may end the intake meanwhile.
                prepared = false;
                refuse(reason);
            }
            Found::Unknown(reason) if *allowed.borrow() => {
                debug!(%topic, nsqd = %nsqd.address(), reason, "not known for now");
            }
            Found::Away(reason) if *allowed.borrow() => {
                if standing.rocketmq(Some(reason.clone())) {
                    warn!(%topic, nsqd = %nsqd.address(), reason, "RocketMQ does not answer");
                }
            }
            Found::Unknown(reason) | Found::Away(reason) => {
                prepared = false;
                refuse(reason);
            }
            Found::Clear { new } if !prepared => match prepare(&shared, &topic, &nsqd).await {
                Ok(()) => {
                    prepared = true;
                    if new {
                        info!(%topic, nsqd = %nsqd.address(), channel = %shared.config.channel, "channel created");
                        tokio::time::sleep(SETTLE).await;
                    }
                    continue;
                }
                Err(reason) => refuse(reason),
            },
            Found::Clear { .. } => {
                standing.hold(None);
                standing.rocketmq(None);
                allowed.send_replace(true);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Lets the topic go on where whoever paused it is gone: at two looks in a row no relay that answers told of a fence, for one that was
/// started anew learns of it within seconds. Looked for before the relays are asked, for the fence comes first. What is written down
/// and not paused is forgotten in the same way, or a later pause of an operator's would be taken for it.
///
/// Whether it is held, and was not fenced at this look.
async fn let_go(shared: &Shared, topic: &TopicName, nsqd: &Nsqd, was_unfenced: bool) -> Result<bool, String> {
    let Shared { cluster, config, .. } = shared;
    let names = &config.names;
    if !hold::is_held(cluster, names, topic, nsqd).await.map_err(|error| error.to_string())? {
        return Ok(false);
    }
    let asked = control::ask(cluster, names, &config.group_prefix, &topic.into(), None).await;
    let instances = asked.map_err(|error| error.to_string())?;
    let mut reports = instances.iter().filter_map(|instance| instance.report.as_ref().ok());
    if reports.any(|report| report.fence.is_some()) {
        return Ok(false);
    }
    if was_unfenced {
        hold::let_go(cluster, names, topic, nsqd).await.map_err(|error| error.to_string())?;
        warn!(%topic, nsqd = %nsqd.address(), "whoever paused the topic to move a consumer is gone: it goes on");
    }
    Ok(!was_unfenced)
}

/// Creates what must be there, and makes the intake known first: a cutover that begins later sees it.
async fn prepare(shared: &Shared, topic: &TopicName, nsqd: &Nsqd) -> Result<(), String> {
    let Shared { config, .. } = shared;
    shared.make_known(topic).await?;
    let in_nsqd = async {
        nsqd.create_topic(topic).await?;
        nsqd.create_channel(topic, &config.channel).await
    };
    in_nsqd.await.map_err(|error| error.to_string())
}
