//! The inventory, for people.

use std::fmt::Write;

use super::inventory::{Channel, Client, Inventory, Topic, by_program};
use crate::table::align;

/// NSQ as it stands: the nsqds, then a row for each channel, then who is connected.
#[must_use]
pub fn table(inventory: &Inventory) -> String {
    let mut text = String::new();
    for lookupd in &inventory.nsqlookupds {
        let state = lookupd.error.clone().unwrap_or_else(|| format!("lists {} nsqds", lookupd.nsqds));
        let _ = writeln!(text, "nsqlookupd {}  {state}", lookupd.address);
    }
    for nsqd in &inventory.nsqds {
        let state = match (&nsqd.error, &nsqd.version, &nsqd.health) {
            (None, Some(version), Some(health)) => format!("{version}, {health}"),
            (error, ..) => error.clone().unwrap_or_default(),
        };
        let _ = writeln!(text, "nsqd {}  {state}", nsqd.address);
    }
    text.push('\n');
    let mut rows = vec![
        [
            "TOPIC",
            "CHANNEL",
            "NSQDS",
            "IN/S",
            "OUT/S",
            "DEPTH",
            "IN FLIGHT",
            "DEFERRED",
            "CONSUMERS",
            "NOTES",
        ]
        .map(str::to_owned),
    ];
    for topic in &inventory.topics {
        rows.push(topic_row(topic));
        rows.extend(topic.channels.iter().map(|channel| channel_row(topic, channel)));
    }
    text.push_str(&align(&rows));
    let mut clients = vec![["TOPIC", "CHANNEL", "HOST", "PROGRAM", "CONNECTIONS"].map(str::to_owned)];
    for topic in &inventory.topics {
        let name = topic.topic.to_string();
        clients.extend(client_rows(&name, "(publishes)", &topic.producers));
        for channel in &topic.channels {
            clients.extend(client_rows(&name, channel.channel.as_str(), &channel.consumers));
        }
    }
    if clients.len() > 1 {
        text.push('\n');
        text.push_str(&align(&clients));
    }
    text
}

fn topic_row(topic: &Topic) -> [String; 10] {
    let mut notes = Vec::new();
    if topic.rocketmq_topic != topic.topic.as_str() {
        notes.push(format!("is {} in RocketMQ", topic.rocketmq_topic));
    }
    if !topic.paused.is_empty() {
        notes.push(format!("PAUSED on {}", topic.paused.len()));
    }
    if !topic.tombstoned.is_empty() {
        notes.push(format!("tombstoned on {}", topic.tombstoned.len()));
    }
    [
        topic.topic.to_string(),
        "-".to_owned(),
        topic.nsqds.len().to_string(),
        rate(topic.rate),
        "-".to_owned(),
        topic.depth.to_string(),
        "-".to_owned(),
        "-".to_owned(),
        "-".to_owned(),
        notes.join(", "),
    ]
}

fn channel_row(topic: &Topic, channel: &Channel) -> [String; 10] {
    let mut notes = Vec::new();
    if !channel.missing.is_empty() {
        notes.push(format!("MISSING on {}", channel.missing.len()));
    }
    if !channel.paused.is_empty() {
        notes.push(format!("PAUSED on {}", channel.paused.len()));
    }
    if channel.channel.is_ephemeral() {
        notes.push("ephemeral".to_owned());
    }
    if channel.consumers.iter().any(|consumer| consumer.drops_after.is_some()) {
        notes.push("a consumer may drop after its attempts".to_owned());
    }
    [
        topic.topic.to_string(),
        channel.channel.to_string(),
        channel.nsqds.len().to_string(),
        rate(channel.rate),
        rate(channel.finish_rate),
        channel.depth.to_string(),
        channel.in_flight.to_string(),
        channel.deferred.to_string(),
        channel.consumers.len().to_string(),
        notes.join(", "),
    ]
}

fn client_rows<'a>(
    topic: &'a str,
    channel: &'a str,
    clients: &[Client],
) -> impl Iterator<Item = [String; 5]> + use<'a> {
    by_program(clients).into_iter().map(move |((host, agent), connections)| {
        [topic.to_owned(), channel.to_owned(), host, agent, connections.to_string()]
    })
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "?".to_owned(), |rate| format!("{rate:.1}"))
}
