//! What two looks at an NSQ amount to.
//!
//! Depths and counts are sums over the nsqds, from the second look. A rate needs both looks at the same processes: where an nsqd was
//! started again in between, or did not answer, there is none.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Seen, SeenNsqd, libraries::library};
use crate::{
    mapping::Names,
    nsq::{
        address::HttpAddress,
        clients::ClientStats,
        names::{ChannelName, TopicName},
        nsqd::{ChannelStats, Stats, TopicStats},
    },
};

/// A running NSQ.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Inventory {
    /// Seconds between the two looks.
    pub sampled_seconds: f64,
    /// The nsqlookupds.
    pub nsqlookupds: Vec<Nsqlookupd>,
    /// The nsqds.
    pub nsqds: Vec<Nsqd>,
    /// The topics.
    pub topics: Vec<Topic>,
}

/// An nsqlookupd.
#[derive(Debug, Clone, Serialize)]
pub struct Nsqlookupd {
    /// Its HTTP address.
    pub address: HttpAddress,
    /// Nsqds it lists.
    pub nsqds: usize,
    /// Why it said nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An nsqd.
#[derive(Debug, Clone, Serialize)]
pub struct Nsqd {
    /// Its HTTP address.
    pub address: HttpAddress,
    /// Its version.
    pub version: Option<String>,
    /// `OK`, or what ails it.
    pub health: Option<String>,
    /// When it started, in seconds since 1970.
    pub start_time: Option<i64>,
    /// The topics it is not to be used for.
    pub tombstoned: BTreeSet<TopicName>,
    /// Why it said nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A topic, on all nsqds.
#[derive(Debug, Clone, Serialize)]
pub struct Topic {
    /// Its name.
    pub topic: TopicName,
    /// Its name in RocketMQ.
    pub rocketmq_topic: String,
    /// The nsqds that have it.
    pub nsqds: BTreeSet<HttpAddress>,
    /// Those of them that are tombstoned for it.
    pub tombstoned: BTreeSet<HttpAddress>,
    /// The nsqds on which copying to channels is stopped.
    pub paused: BTreeSet<HttpAddress>,
    /// Messages not yet copied to channels.
    pub depth: u64,
    /// Messages published since the nsqds started.
    pub messages: u64,
    /// Messages that came between the looks.
    pub arrived: Option<u64>,
    /// Messages published a second.
    pub rate: Option<f64>,
    /// Who publishes over TCP; who publishes over HTTP does not show.
    pub producers: Vec<Client>,
    /// Its channels.
    pub channels: Vec<Channel>,
}

/// A channel, on all nsqds.
#[derive(Debug, Clone, Serialize)]
pub struct Channel {
    /// Its name.
    pub channel: ChannelName,
    /// The consumer group that would stand for it.
    pub group: String,
    /// The nsqds that have it.
    pub nsqds: BTreeSet<HttpAddress>,
    /// The nsqds that have the topic, and not the channel.
    pub missing: BTreeSet<HttpAddress>,
    /// The nsqds on which it is paused.
    pub paused: BTreeSet<HttpAddress>,
    /// Messages waiting.
    pub depth: u64,
    /// Messages delivered and not finished.
    pub in_flight: u64,
    /// Messages waiting for their time.
    pub deferred: u64,
    /// Messages put back by consumers, since the nsqds started.
    pub requeued: u64,
    /// Messages put back for want of an answer, since the nsqds started.
    pub timed_out: u64,
    /// Messages received a second.
    pub rate: Option<f64>,
    /// Messages finished a second.
    pub finish_rate: Option<f64>,
    /// Its consumers.
    pub consumers: Vec<Client>,
}

/// A producer or consumer, on one connection.
#[derive(Debug, Clone, Serialize)]
pub struct Client {
    /// The nsqd it is connected to.
    pub nsqd: HttpAddress,
    /// The name it gives its machine.
    pub hostname: String,
    /// Where it connects from.
    pub remote_address: String,
    /// What it calls itself.
    pub client_id: String,
    /// Its library, and often its program.
    pub user_agent: String,
    /// After how many attempts its library finishes a message unhandled, unless told otherwise.
    pub drops_after: Option<u32>,
    /// Whether it is a relay of this program.
    pub is_relay: bool,
    /// Messages it has published to the topic, or has been given.
    pub messages: u64,
    /// Messages it has and has not finished.
    pub in_flight: u64,
}

impl Topic {
    /// The nsqds a relay sends to: those that have it and are not tombstoned for it.
    #[must_use]
    pub fn served_by(&self) -> BTreeSet<&HttpAddress> {
        self.nsqds.difference(&self.tombstoned).collect()
    }

    /// The channel of this name.
    #[must_use]
    pub fn channel(&self, name: &ChannelName) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.channel == *name)
    }
}

impl Inventory {
    /// The topic of this name.
    #[must_use]
    pub fn topic(&self, name: &TopicName) -> Option<&Topic> {
        self.topics.iter().find(|topic| topic.topic == *name)
    }

    /// Whether any nsqd answered.
    #[must_use]
    pub fn has_answers(&self) -> bool {
        self.nsqds.iter().any(|nsqd| nsqd.error.is_none())
    }
}

/// One nsqd's two looks, where both were had at the same process.
struct Pair<'a> {
    address: &'a HttpAddress,
    before: Option<&'a Stats>,
    after: &'a Stats,
}

/// What was seen, by topic and channel.
#[must_use]
pub fn inventory(seen: &Seen, names: &Names) -> Inventory {
    let pairs: Vec<Pair<'_>> = seen.nsqds.iter().filter_map(|(address, nsqd)| pair(address, nsqd)).collect();
    let mut topics: BTreeSet<TopicName> = seen.registered.keys().cloned().collect();
    topics.extend(
        pairs.iter().flat_map(|pair| &pair.after.topics).filter_map(|topic| topic.topic_name.parse().ok()),
    );
    let nsqlookupds = seen.nsqlookupds.iter().map(|(address, nodes)| Nsqlookupd {
        address: address.clone(),
        nsqds: nodes.as_ref().map_or(0, Vec::len),
        error: nodes.as_ref().err().cloned(),
    });
    Inventory {
        sampled_seconds: seen.apart.as_secs_f64(),
        nsqlookupds: nsqlookupds.collect(),
        nsqds: seen.nsqds.iter().map(|(address, nsqd)| described(address, nsqd)).collect(),
        topics: topics.into_iter().map(|name| topic(seen, &pairs, names, name)).collect(),
    }
}

fn pair<'a>(address: &'a HttpAddress, nsqd: &'a SeenNsqd) -> Option<Pair<'a>> {
    let after = nsqd.after.as_ref().ok()?;
    let before = nsqd.before.as_ref().ok().filter(|before| before.start_time == after.start_time);
    Some(Pair { address, before, after })
}

fn described(address: &HttpAddress, nsqd: &SeenNsqd) -> Nsqd {
    let stats = nsqd.after.as_ref().ok();
    Nsqd {
        address: address.clone(),
        version: stats.map(|stats| stats.version.clone()),
        health: stats.map(|stats| stats.health.clone()),
        start_time: stats.map(|stats| stats.start_time),
        tombstoned: nsqd.tombstoned.clone(),
        error: nsqd.after.as_ref().err().cloned(),
    }
}

fn of<'a>(stats: &'a Stats, topic: &TopicName) -> Option<&'a TopicStats> {
    stats.topics.iter().find(|stats| stats.topic_name == topic.as_str())
}

fn channel_of<'a>(stats: &'a TopicStats, channel: &ChannelName) -> Option<&'a ChannelStats> {
    stats.channels.iter().find(|stats| stats.channel_name == channel.as_str())
}

fn topic(seen: &Seen, pairs: &[Pair<'_>], names: &Names, topic: TopicName) -> Topic {
    let here: Vec<(&Pair<'_>, &TopicStats)> =
        pairs.iter().filter_map(|pair| Some((pair, of(pair.after, &topic)?))).collect();
    let nsqds: BTreeSet<HttpAddress> = here.iter().map(|(pair, _)| pair.address.clone()).collect();
    let is_tombstoned =
        |address: &&HttpAddress| seen.nsqds.get(address).is_some_and(|nsqd| nsqd.tombstoned.contains(&topic));
    let mut channels: BTreeSet<ChannelName> = seen.registered.get(&topic).cloned().unwrap_or_default();
    let named = here.iter().flat_map(|(_, stats)| &stats.channels);
    channels.extend(named.filter_map(|channel| channel.channel_name.parse().ok()));
    let arrived = sum(here.iter().map(|(pair, stats)| {
        let before = of(pair.before?, &topic).map_or(0, |before| before.message_count);
        stats.message_count.checked_sub(before)
    }));
    let producers = here.iter().flat_map(|(pair, _)| {
        let all = seen.nsqds.get(pair.address).and_then(|nsqd| nsqd.producers.get(&topic));
        all.into_iter().flatten().map(|producer| {
            let counts = producer.pub_counts.iter().filter(|counts| counts.topic == topic.as_str());
            client(pair.address, producer, counts.map(|counts| counts.count).sum())
        })
    });
    Topic {
        rocketmq_topic: names.rocketmq_topic(&topic),
        tombstoned: nsqds.iter().filter(is_tombstoned).cloned().collect(),
        paused: here.iter().filter(|(_, stats)| stats.paused).map(|(pair, _)| pair.address.clone()).collect(),
        depth: here.iter().map(|(_, stats)| stats.depth).sum(),
        messages: here.iter().map(|(_, stats)| stats.message_count).sum(),
        arrived,
        rate: arrived.and_then(|arrived| per_second(arrived as f64, seen)),
        producers: producers.collect(),
        channels: channels.into_iter().map(|name| channel(seen, &here, names, &topic, name)).collect(),
        nsqds,
        topic,
    }
}

fn channel(
    seen: &Seen,
    topic_here: &[(&Pair<'_>, &TopicStats)],
    names: &Names,
    topic: &TopicName,
    channel: ChannelName,
) -> Channel {
    let here: Vec<(&Pair<'_>, &ChannelStats)> =
        topic_here.iter().filter_map(|(pair, stats)| Some((*pair, channel_of(stats, &channel)?))).collect();
    let nsqds: BTreeSet<HttpAddress> = here.iter().map(|(pair, _)| pair.address.clone()).collect();
    let missing = topic_here.iter().map(|(pair, _)| pair.address).filter(|address| !nsqds.contains(*address));
    let total = |count: fn(&ChannelStats) -> u64| here.iter().map(|(_, stats)| count(stats)).sum();
    let held = |stats: &ChannelStats| stats.depth + stats.in_flight_count + stats.deferred_count;
    let before = |pair: &Pair<'_>| {
        let before = of(pair.before?, topic).and_then(|stats| channel_of(stats, &channel));
        Some(before.map_or((0, 0), |before| (before.message_count, held(before))))
    };
    let received = sum(here.iter().map(|(pair, stats)| stats.message_count.checked_sub(before(pair)?.0)));
    // What came, and is not there any more. Emptying a channel looks the same.
    let finished = sum(here.iter().map(|(pair, stats)| {
        let (received, held_before) = before(pair)?;
        let came = stats.message_count.checked_sub(received)?;
        Some((came + held_before).saturating_sub(held(stats)))
    }));
    let consumers = here.iter().flat_map(|(pair, stats)| {
        stats.clients.iter().map(|consumer| client(pair.address, consumer, consumer.message_count))
    });
    Channel {
        group: names.channel_group(topic, &channel),
        missing: missing.cloned().collect(),
        paused: here.iter().filter(|(_, stats)| stats.paused).map(|(pair, _)| pair.address.clone()).collect(),
        depth: total(|stats| stats.depth),
        in_flight: total(|stats| stats.in_flight_count),
        deferred: total(|stats| stats.deferred_count),
        requeued: total(|stats| stats.requeue_count),
        timed_out: total(|stats| stats.timeout_count),
        rate: received.and_then(|received| per_second(received as f64, seen)),
        finish_rate: finished.and_then(|finished| per_second(finished as f64, seen)),
        consumers: consumers.collect(),
        nsqds,
        channel,
    }
}

fn client(nsqd: &HttpAddress, client: &ClientStats, messages: u64) -> Client {
    Client {
        nsqd: nsqd.clone(),
        hostname: client.hostname.clone(),
        remote_address: client.remote_address.clone(),
        client_id: client.client_id.clone(),
        user_agent: client.user_agent.clone(),
        drops_after: library(&client.user_agent).and_then(|library| library.drops_after),
        is_relay: client.is_relay(),
        messages,
        in_flight: client.in_flight_count,
    }
}

/// The sum, unless a part is not known.
fn sum(parts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    parts.sum()
}

fn per_second(count: f64, seen: &Seen) -> Option<f64> {
    let seconds = seen.apart.as_secs_f64();
    (seconds > 0.0).then(|| count / seconds)
}

/// The producers and consumers of a topic by the machine and program they give, with how many connections each has.
pub(super) fn by_program(clients: &[Client]) -> BTreeMap<(String, String), usize> {
    let mut programs = BTreeMap::new();
    for client in clients {
        let agent = if client.user_agent.is_empty() { "unnamed" } else { &client.user_agent };
        *programs.entry((client.hostname.clone(), agent.to_owned())).or_default() += 1;
    }
    programs
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn stats(start_time: i64, count: u64, depth: u64, in_flight: u64) -> Stats {
        let json = serde_json::json!({
            "version": "1.3.0", "health": "OK", "start_time": start_time,
            "topics": [{
                "topic_name": "orders", "depth": 1, "backend_depth": 0, "message_count": count, "paused": false,
                "channels": [{
                    "channel_name": "billing", "depth": depth, "backend_depth": 0, "in_flight_count": in_flight,
                    "deferred_count": 0, "message_count": count, "requeue_count": 1, "timeout_count": 0, "paused": true,
                    "clients": [{
                        "client_id": "c", "hostname": "h", "user_agent": "nsq_to_file/1.3.0 go-nsq/1.1.0",
                        "message_count": 7, "in_flight_count": in_flight, "pub_counts": null
                    }]
                }]
            }],
            "producers": null
        });
        serde_json::from_value(json).unwrap()
    }

    type Answer = Result<Stats, String>;

    fn seen(nsqds: &[(&str, Answer, Answer)]) -> Seen {
        let nsqds = nsqds.iter().map(|(address, before, after)| {
            let nsqd = SeenNsqd {
                tombstoned: BTreeSet::new(),
                before: before.clone(),
                after: after.clone(),
                producers: BTreeMap::new(),
            };
            (address.parse().unwrap(), nsqd)
        });
        Seen { nsqds: nsqds.collect(), apart: Duration::from_secs(2), ..Seen::default() }
    }

    #[test]
    fn two_looks_give_rates_and_sums_over_the_nsqds() {
        let seen = seen(&[
            ("a:1", Ok(stats(1, 100, 10, 5)), Ok(stats(1, 120, 0, 5))),
            ("b:1", Ok(stats(1, 0, 0, 0)), Ok(stats(1, 20, 4, 0))),
        ]);
        let inventory = inventory(&seen, &Names::default());
        let [topic] = &inventory.topics[..] else { panic!("{inventory:?}") };
        assert_eq!((topic.depth, topic.messages, topic.arrived, topic.rate), (2, 140, Some(40), Some(20.0)));
        let [channel] = &topic.channels[..] else { panic!("{topic:?}") };
        assert_eq!((channel.depth, channel.in_flight, channel.requeued), (4, 5, 2));
        assert_eq!(channel.rate, Some(20.0));
        assert_eq!(channel.finish_rate, Some((30 + 16) as f64 / 2.0), "30 of the one, 16 of the other");
        assert_eq!((channel.paused.len(), channel.group.as_str()), (2, "orders%%billing"));
        assert!(
            channel.consumers.iter().all(|consumer| consumer.drops_after == Some(5) && !consumer.is_relay)
        );
        assert_eq!(by_program(&channel.consumers).into_values().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn no_rate_is_made_up_where_an_nsqd_was_started_again_or_did_not_answer() {
        for before in [Ok(stats(1, 100, 0, 0)), Err("refused".to_owned())] {
            let inventory = inventory(&seen(&[("a:1", before, Ok(stats(2, 120, 0, 0)))]), &Names::default());
            let topic = &inventory.topics[0];
            assert_eq!((topic.rate, topic.arrived, topic.channels[0].finish_rate), (None, None, None));
            assert_eq!(topic.messages, 120);
        }
    }

    #[test]
    fn a_silent_nsqd_is_listed_with_its_reason_and_a_registered_channel_without_an_nsqd_is_missing_everywhere()
     {
        let mut seen = seen(&[
            ("a:1", Ok(stats(1, 1, 0, 0)), Ok(stats(1, 1, 0, 0))),
            ("b:1", Err("refused".to_owned()), Err("refused".to_owned())),
        ]);
        seen.registered.entry("orders".parse().unwrap()).or_default().insert("audit".parse().unwrap());
        let inventory = inventory(&seen, &Names::default());
        assert_eq!(inventory.nsqds[1].error.as_deref(), Some("refused"));
        assert!(inventory.has_answers());
        let channel = inventory.topics[0].channel(&"audit".parse().unwrap()).unwrap();
        assert!(channel.nsqds.is_empty());
        assert_eq!(channel.missing.len(), 1);
    }
}
