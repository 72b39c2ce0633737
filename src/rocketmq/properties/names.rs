//! Property names: those this client uses, and those that are RocketMQ's own. Source: `MessageConst`.

/// Identifies a message through all repeats of its send; the broker indexes it.
pub const UNIQ_KEY: &str = "UNIQ_KEY";
/// Search keys, separated by spaces; the broker indexes each.
pub const KEYS: &str = "KEYS";
/// The tag that consumers filter by.
pub const TAGS: &str = "TAGS";
/// `false`: answer before the message is flushed and replicated.
pub const WAIT: &str = "WAIT";
/// Delay level, 1 to 18; the only delay RocketMQ 4 has.
pub const DELAY: &str = "DELAY";
/// How long to hold a message back, in milliseconds; RocketMQ 5 only, 4 ignores it.
pub const TIMER_DELAY_MS: &str = "TIMER_DELAY_MS";
/// Until when to hold it back, in milliseconds since 1970; RocketMQ 5 only, as other clients say it.
pub const TIMER_DELIVER_MS: &str = "TIMER_DELIVER_MS";

/// Every name of `MessageConst` in 4.9.7 and 5.5.0, less those of [`RESERVED_PREFIXES`]. Sorted.
const RESERVED: &[&str] = &[
    "1ST_POP_TIME",
    "ARRIVE_TIME",
    "BORN_TIMESTAMP",
    "BUYER_ID",
    "CHECK_IMMUNITY_TIME_IN_SECONDS",
    "CLUSTER",
    "CONSUME_START_TIME",
    "CORRECTION_FLAG",
    "CORRELATION_ID",
    "DELAY",
    "DLQ_ORIGIN_MESSAGE_ID",
    "DLQ_ORIGIN_TOPIC",
    "DUP_INFO",
    "EXTEND_UNIQ_INFO",
    "E_T",
    "INNER_BASE",
    "INNER_MULTI_DISPATCH",
    "INNER_MULTI_QUEUE_OFFSET",
    "INNER_NUM",
    "INSTANCE_ID",
    "KEYS",
    "MAX_OFFSET",
    "MAX_RECONSUME_TIMES",
    "MIN_OFFSET",
    "MQ2_FLAG",
    "MSG_REGION",
    "MSG_TYPE",
    "ORIGIN_GROUP",
    "ORIGIN_MESSAGE_ID",
    "PGROUP",
    "POP_CK",
    "POP_CK_OFFSET",
    "PROPERTY_FORWARD_QUEUE_ID",
    "PUSH_REPLY_TIME",
    "REAL_QID",
    "REAL_TOPIC",
    "RECONSUME_TIME",
    "REDIRECT",
    "REPLY_TO_CLIENT",
    "RETRY_TOPIC",
    "TAGS",
    "TRACE_CONTEXT",
    "TRACE_ON",
    "TRANSACTION_CHECK_TIMES",
    "TRANSFER_FLAG",
    "TRANS_OFFSET",
    "TRAN_MSG",
    "TRAN_PREPARED_QUEUE_OFFSET",
    "TTL",
    "UNIQ_KEY",
    "WAIT",
    "_SYS_MSG_PRIORITY_",
    "__BORNHOST",
    "__CRC32#",
    "__LITE_TOPIC",
    "__SHARDINGKEY",
    "__transactionId__",
];

/// Families of names the broker gives a meaning: timers, and what it removes before storing.
const RESERVED_PREFIXES: &[&str] = &["TIMER_", "__RMQ.TRANSIENT."];

/// Whether a property of this name belongs to RocketMQ itself: it may hide the message, redirect it, weaken
/// its durability, or be overwritten.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    RESERVED.binary_search(&name).is_ok() || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::super::{PropertiesBuilder, PropertyError};
    use super::*;

    #[test]
    fn reserved_names_are_refused_from_users() {
        let listed = "\
            KEYS TAGS WAIT DELAY RETRY_TOPIC REAL_TOPIC REAL_QID TRAN_MSG PGROUP MIN_OFFSET MAX_OFFSET \
            BUYER_ID ORIGIN_MESSAGE_ID TRANSFER_FLAG CORRECTION_FLAG MQ2_FLAG RECONSUME_TIME MSG_REGION \
            TRACE_ON UNIQ_KEY EXTEND_UNIQ_INFO MAX_RECONSUME_TIMES CONSUME_START_TIME INNER_NUM INNER_BASE \
            DUP_INFO CHECK_IMMUNITY_TIME_IN_SECONDS TRAN_PREPARED_QUEUE_OFFSET __transactionId__ \
            TRANSACTION_CHECK_TIMES INSTANCE_ID CORRELATION_ID REPLY_TO_CLIENT TTL ARRIVE_TIME \
            PUSH_REPLY_TIME CLUSTER MSG_TYPE POP_CK POP_CK_OFFSET 1ST_POP_TIME __SHARDINGKEY \
            PROPERTY_FORWARD_QUEUE_ID REDIRECT INNER_MULTI_DISPATCH INNER_MULTI_QUEUE_OFFSET TRACE_CONTEXT \
            TIMER_DELAY_SEC TIMER_DELAY_MS TIMER_DELIVER_MS TIMER_ENQUEUE_MS TIMER_DEQUEUE_MS \
            TIMER_ROLL_TIMES TIMER_OUT_MS TIMER_DEL_UNIQKEY TIMER_DELAY_LEVEL TIMER_ANYTHING __BORNHOST \
            BORN_TIMESTAMP __RMQ.TRANSIENT.TOPIC_SYS_FLAG __RMQ.TRANSIENT.x __CRC32# DLQ_ORIGIN_TOPIC \
            DLQ_ORIGIN_MESSAGE_ID E_T ORIGIN_GROUP TRANS_OFFSET __LITE_TOPIC _SYS_MSG_PRIORITY_";
        for name in listed.split_whitespace() {
            let refused = PropertiesBuilder::new().user(name, "1").err();
            assert_eq!(refused, Some(PropertyError::Reserved { name: name.to_owned() }));
        }
        for name in ["keys", "KEYSX", "X_TIMER_", "DELAYED", "plain"] {
            assert!(!is_reserved(name), "{name}");
        }
        assert!(RESERVED.is_sorted(), "searched by halves");
    }
}
