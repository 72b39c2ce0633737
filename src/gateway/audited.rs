//! What the gateway counts for the audit: each message RocketMQ has answered `SEND_OK` for, and each it has perhaps stored.
//!
//! It is counted before its producer is answered, and written a few seconds later: a gateway that is killed forgets these.

use super::{publish::Publisher, spool::Appended, topic::Topic};
use crate::{
    audit::{Entry, minute_of, record::Hop},
    rocketmq::{Message, Outcome, message::longest_delay, outcome::Receipt, producer::unix_millis},
};

/// Counts what a send came to.
pub(super) fn count(publisher: &Publisher, topic: &Topic, messages: &[Message], outcome: &Outcome) {
    let Some(recorder) = publisher.recorder().filter(|_| !messages.is_empty()) else { return };
    let entries = || messages.iter().map(entry);
    match outcome {
        Outcome::Delivered(Receipt { broker, .. }) => {
            topic.ledger(recorder).record(|delta| {
                match due_at_latest(messages) {
                    Some(due) => delta.count_deferred(entries(), due),
                    None => delta.count(&Hop::Accepted, entries()),
                }
                delta.stored_on(broker);
            });
        }
        Outcome::Unknown(_) => {
            topic.ledger(recorder).record(|delta| delta.count(&Hop::Unknown, entries()));
        }
        Outcome::Rejected(_) | Outcome::NotSent(_) => {}
    }
}

/// Counts what was synced to the spool, and is answered `OK` therefore. What RocketMQ is to hold back is counted when it goes there.
pub(super) fn spooled(publisher: &Publisher, topic: &Topic, messages: &[Appended]) {
    let Some(recorder) = publisher.recorder() else { return };
    let at_once = messages.iter().filter(|message| message.deliver_at.is_none());
    let entries = || {
        at_once
            .clone()
            .map(|message| Entry { minute: minute_of(message.born_at), id: message.unique_key.number() })
    };
    topic.ledger(recorder).record(|delta| {
        delta.count(&Hop::Accepted, entries());
        delta.count(&Hop::Spooled, entries());
    });
}

/// Counts what a send of spooled messages came to; `deferred` are those that [`spooled`] left out.
pub(super) fn unspooled(
    publisher: &Publisher,
    topic: &Topic,
    messages: &[Message],
    deferred: &[Message],
    outcome: &Outcome,
) {
    let Some(recorder) = publisher.recorder() else { return };
    match outcome {
        Outcome::Delivered(Receipt { broker, .. }) => {
            topic.ledger(recorder).record(|delta| {
                delta.count(&Hop::Unspooled, messages.iter().map(entry));
                delta.stored_on(broker);
            });
        }
        Outcome::Unknown(_) => {
            topic.ledger(recorder).record(|delta| delta.count(&Hop::Unknown, messages.iter().map(entry)));
        }
        Outcome::Rejected(_) | Outcome::NotSent(_) => {}
    }
    count(publisher, topic, deferred, outcome);
}

/// As whoever reads the message will count it: its time of birth is that of its acceptance.
fn entry(message: &Message) -> Entry {
    Entry { minute: minute_of(message.born_at), id: message.unique_key.number() }
}

/// When RocketMQ has delivered what it is to hold back, whatever its line.
fn due_at_latest(messages: &[Message]) -> Option<i64> {
    let due = messages.iter().filter_map(|message| message.deliver_at).max()?;
    let now = unix_millis();
    let delay = std::time::Duration::from_millis(u64::try_from(due - now).unwrap_or(0));
    Some(now.saturating_add(i64::try_from(longest_delay(delay).as_millis()).unwrap_or(i64::MAX)))
}
