//! NSQ's names in RocketMQ. The only module that knows both sides.
//!
//! The mapping is total, reversible and free of collisions, because `|` and `%` are legal in RocketMQ's names and never
//! part of NSQ's:
//!
//! | NSQ | RocketMQ |
//! |---|---|
//! | a name RocketMQ accepts | the same |
//! | `.` | `\|` |
//! | `#ephemeral` | `%ephemeral` |
//! | a name RocketMQ reserves | the same behind `%nsq%` |

use crate::nsq::names::{EPHEMERAL, TopicName};

const EPHEMERAL_HERE: &str = "%ephemeral";
const RESERVED_PREFIX: &str = "%nsq%";

/// Topics RocketMQ keeps for itself (`TopicValidator`, 4.9.7 and 5.5.0).
const RESERVED: &[&str] = &[
    "TBW102",
    "SCHEDULE_TOPIC_XXXX",
    "BenchmarkTest",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRACE_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    "CHECKPOINT_TOPIC",
];
const RESERVED_START: &str = "rmq_sys_";
const RESERVED_END: &str = "_REPLY_TOPIC";

fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || name.starts_with(RESERVED_START) || name.ends_with(RESERVED_END)
}

/// The RocketMQ topic that holds an NSQ topic's messages; at most 69 characters.
#[must_use]
pub fn rocketmq_topic(topic: &TopicName) -> String {
    let name = topic.as_str().replace(EPHEMERAL, EPHEMERAL_HERE).replace('.', "|");
    if is_reserved(&name) { format!("{RESERVED_PREFIX}{name}") } else { name }
}

/// The NSQ topic whose messages a RocketMQ topic holds; `None` for a topic no NSQ name maps to.
#[must_use]
pub fn nsq_topic(topic: &str) -> Option<TopicName> {
    let name = topic.strip_prefix(RESERVED_PREFIX).unwrap_or(topic);
    let parsed: TopicName = name.replace(EPHEMERAL_HERE, EPHEMERAL).replace('|', ".").parse().ok()?;
    (rocketmq_topic(&parsed) == topic).then_some(parsed)
}

/// The consumer group of a topic's relay.
#[must_use]
pub fn relay_group(prefix: &str, topic: &TopicName) -> String {
    format!("{prefix}-{}", rocketmq_topic(topic))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rocketmq::message::check_topic;

    fn any_name() -> impl Strategy<Value = String> {
        let reserved = proptest::sample::select(RESERVED).prop_map(str::to_owned);
        prop_oneof![
            8 => "[.a-zA-Z0-9_-]{1,64}",
            4 => "[.a-zA-Z0-9_-]{1,54}#ephemeral",
            2 => reserved,
            1 => "rmq_sys_[.a-z]{0,20}(#ephemeral)?",
            1 => "[.a-z]{0,20}_REPLY_TOPIC",
            1 => "(nsq|ephemeral|RETRY)[.]?",
        ]
    }

    proptest! {
        #[test]
        fn every_nsq_name_has_a_legal_unreserved_name_of_its_own(name in any_name()) {
            let topic: TopicName = name.parse().unwrap();
            let mapped = rocketmq_topic(&topic);
            prop_assert!(check_topic(&mapped).is_ok(), "{}", mapped);
            prop_assert!(!is_reserved(&mapped) || mapped.starts_with(RESERVED_PREFIX));
            prop_assert!(!mapped.starts_with("%RETRY%") && !mapped.starts_with("%DLQ%"));
            prop_assert_eq!(nsq_topic(&mapped), Some(topic));
            if check_topic(&name).is_ok() && !is_reserved(&name) {
                prop_assert_eq!(mapped, name);
            }
        }

        #[test]
        fn no_two_rocketmq_names_stand_for_one_nsq_name(topic in "(%nsq%|%RETRY%|%)?[|a-zA-Z0-9_.%-]{0,30}(%ephemeral)?") {
            if let Some(parsed) = nsq_topic(&topic) {
                prop_assert_eq!(rocketmq_topic(&parsed), topic);
            }
        }
    }

    #[test]
    fn names_map_as_documented() {
        let map = |name: &str| rocketmq_topic(&name.parse().unwrap());
        assert_eq!(map("orders"), "orders");
        assert_eq!(map("orders.v2#ephemeral"), "orders|v2%ephemeral");
        assert_eq!(map("TBW102"), "%nsq%TBW102");
        assert_eq!(nsq_topic("%nsq%orders"), None);
        assert_eq!(nsq_topic("%RETRY%group"), None);
    }
}
