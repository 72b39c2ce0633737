//! A plan drafted from an inventory: every topic and channel that is there, with the defaults. A person goes through it.

use std::fmt::Write;

use crate::{
    mapping::Names,
    migration::scan::{Inventory, Topic},
    nsq::address::HttpAddress,
};

/// What a draft says beside the inventory.
#[derive(Debug)]
pub struct Where<'a> {
    /// RocketMQ's name servers, if they are known.
    pub name_servers: &'a [HttpAddress],
    /// The nsqlookupds.
    pub nsqlookupds: &'a [HttpAddress],
    /// Nsqds that were given beside those.
    pub nsqds: &'a [HttpAddress],
    /// What topics are called.
    pub names: &'a Names,
    /// The relays' group prefix.
    pub group_prefix: &'a str,
}

/// The draft, as the text of a file.
#[must_use]
pub fn draft(inventory: &Inventory, of: &Where<'_>) -> String {
    let mut text = String::from(
        "# A draft of `nsqbridge scan`. migration-plans/README.md explains every field.\n\nformat = 1\n\n[rocketmq]\n",
    );
    let listed = |addresses: &[HttpAddress]| {
        addresses.iter().map(|address| format!("{:?}", address.as_str())).collect::<Vec<_>>().join(", ")
    };
    if of.name_servers.is_empty() {
        text.push_str("# Not given to the scan: put the name servers here.\nnamesrv = [\"rmq-1:9876\"]\n");
    } else {
        let _ = writeln!(text, "namesrv = [{}]", listed(of.name_servers));
    }
    text.push_str("\n[nsq]\n");
    for (field, addresses) in [("lookupd_http_address", of.nsqlookupds), ("nsqd_http_address", of.nsqds)] {
        if !addresses.is_empty() {
            let _ = writeln!(text, "{field} = [{}]", listed(addresses));
        }
    }
    let _ = writeln!(text, "\n[names]\ngroup_prefix = {:?}", of.group_prefix);
    for topic in inventory.topics.iter().filter(|topic| !topic.nsqds.is_empty()) {
        topic_section(&mut text, topic, of.names);
    }
    text
}

fn topic_section(text: &mut String, topic: &Topic, names: &Names) {
    let name = topic.topic.as_str();
    let _ = writeln!(text, "\n[topics.{name:?}]");
    let renamed = names.rename_of(&topic.topic);
    if let Some(renamed) = renamed {
        let _ = writeln!(text, "rename = {renamed:?}");
    }
    for channel in topic.channels.iter().filter(|channel| !channel.nsqds.is_empty()) {
        let _ = writeln!(text, "\n[topics.{name:?}.channels.{:?}]", channel.channel.as_str());
        let _ = writeln!(text, "group = {:?}", channel.group);
        if channel.channel.is_ephemeral() {
            text.push_str("# Ephemeral: it ends with its last consumer, so there would be no way back.\ngoal = \"keep\"\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::migration::{
        plan::{Goal, parse},
        scan::Channel,
    };

    fn channel(names: &Names, topic: &str, channel: &str) -> Channel {
        let (topic, channel) = (topic.parse().unwrap(), channel.parse().unwrap());
        Channel {
            group: names.channel_group(&topic, &channel),
            channel,
            nsqds: BTreeSet::from(["a:1".parse().unwrap()]),
            missing: BTreeSet::new(),
            paused: BTreeSet::new(),
            depth: 0,
            in_flight: 0,
            deferred: 0,
            requeued: 0,
            timed_out: 0,
            rate: None,
            finish_rate: None,
            consumers: Vec::new(),
        }
    }

    #[test]
    fn a_draft_is_a_plan_with_every_channel_and_the_renames() {
        let names = Names::new([("orders.v1".parse().unwrap(), "ORDERS".to_owned())]).unwrap();
        let topic = |name: &str, channels: &[&str]| Topic {
            topic: name.parse().unwrap(),
            rocketmq_topic: names.rocketmq_topic(&name.parse().unwrap()),
            nsqds: BTreeSet::from(["a:1".parse().unwrap()]),
            tombstoned: BTreeSet::new(),
            paused: BTreeSet::new(),
            depth: 0,
            messages: 0,
            arrived: None,
            rate: None,
            producers: Vec::new(),
            channels: channels.iter().map(|channel_name| channel(&names, name, channel_name)).collect(),
        };
        let mut gone = topic("gone", &["c"]);
        gone.nsqds.clear();
        let topics = vec![topic("orders.v1", &["billing", "tail#ephemeral"]), topic("plain", &[]), gone];
        let inventory = Inventory { topics, ..Inventory::default() };
        let addresses = ["a:1".parse().unwrap()];
        let of = Where {
            name_servers: &[],
            nsqlookupds: &addresses,
            nsqds: &[],
            names: &names,
            group_prefix: "relay",
        };
        let text = draft(&inventory, &of);
        let plan =
            parse::plan(&text.parse().unwrap()).unwrap_or_else(|problems| panic!("{problems:?}: {text}"));
        let moved: Vec<_> = plan
            .channels()
            .iter()
            .map(|(topic, channel, planned)| (topic.to_string(), channel.to_string(), planned.goal))
            .collect();
        let expected = [("billing", Goal::Cutover), ("tail#ephemeral", Goal::Keep)];
        assert_eq!(moved, expected.map(|(channel, goal)| ("orders.v1".to_owned(), channel.to_owned(), goal)));
        assert_eq!(plan.names.rocketmq_topic(&"orders.v1".parse().unwrap()), "ORDERS");
        assert_eq!(
            (plan.topics.len(), plan.group_prefix.as_str()),
            (2, "relay"),
            "what no nsqd has is left out"
        );
    }
}
