//! The answer of `nsqbridge verify`, for people and for programs.

use std::{
    fmt::Write,
    time::{Duration, UNIX_EPOCH},
};

use serde_json::json;

use super::{
    entry::start_of,
    reconcile::{Finding, Weight, What},
    verify::{Answer, Totals},
};

/// Ids shown on a line for people.
const SHOWN: usize = 10;

/// A time in milliseconds since 1970, to the second.
#[must_use]
pub fn time(ms: i64) -> String {
    let since = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    UNIX_EPOCH
        .checked_add(since)
        .map_or_else(|| ms.to_string(), |time| humantime::format_rfc3339_seconds(time).to_string())
}

fn words(what: What) -> &'static str {
    match what {
        What::NotStored => "accepted, and not in RocketMQ",
        What::NotRelayed => "in RocketMQ, passed by the relay, and not relayed",
        What::NotAccountedFor => "in RocketMQ, and no gateway has told of it",
        What::StoredAfterError => "in RocketMQ, though the producer heard an error",
        What::StoredTwice => "in RocketMQ twice",
        What::RelayedTwice => "relayed more than once",
        What::GoneSince => "relayed, and not in RocketMQ any more",
        What::HeldBack => "held back by RocketMQ until it is due",
        What::InSpool => "in a gateway's spool",
        What::Pending => "not relayed yet",
        What::Differs => "more messages differ than can be told",
        What::Incomplete => "cannot be judged",
        What::Bypass => "in nsqd, and not from the relays",
        What::NotInNsqd => "given to nsqd, and not counted by it",
    }
}

fn level(weight: Weight) -> &'static str {
    match weight {
        Weight::Note => "NOTE",
        Weight::Doubt => "DOUBT",
        Weight::Loss => "LOSS",
    }
}

/// For people: a line for each finding, and what it comes to.
#[must_use]
pub fn table(answer: &Answer) -> String {
    let mut text = String::new();
    for finding in &answer.findings {
        let Finding { minute, weight, what, messages, ids, detail, .. } = finding;
        let minute = minute.map_or_else(|| "-".to_owned(), |minute| time(start_of(minute)));
        let _ = write!(text, "{:<5}  {minute:<20}  ", level(*weight));
        if *messages > 0 {
            let _ = write!(text, "{messages} ");
        }
        text.push_str(words(*what));
        for part in [&ids[..ids.len().min(SHOWN)].join(" "), detail] {
            if !part.is_empty() {
                let _ = write!(text, ": {part}");
            }
        }
        if ids.len() > SHOWN {
            text.push_str(" ... (-o json names more)");
        }
        text.push('\n');
    }
    let Totals { accepted, unknown, stored, relayed, parked, replayed, pending } = answer.totals;
    let (from, to) = (time(start_of(answer.from)), time(start_of(answer.to + 1)));
    let _ = writeln!(text, "{} from {from} to {to}:", answer.topic);
    let _ = writeln!(
        text,
        "{accepted} accepted ({unknown} more perhaps), {stored} stored, {relayed} relayed, {parked} parked, {pending} pending; \
         {replayed} relayed again after an nsqd was lost"
    );
    let _ = writeln!(
        text,
        "{}",
        match answer.weight() {
            Some(Weight::Loss) => "LOSS: messages are missing",
            Some(Weight::Doubt) => "It cannot be said whether a message is missing",
            Some(Weight::Note) | None => "No message is missing",
        }
    );
    text
}

/// For programs.
#[must_use]
pub fn json(answer: &Answer) -> String {
    let findings: Vec<_> = answer
        .findings
        .iter()
        .map(|finding| {
            json!({
                "minute": finding.minute.map(|minute| time(start_of(minute))),
                "at": finding.at,
                "weight": finding.weight,
                "what": finding.what,
                "messages": finding.messages,
                "ids": finding.ids,
                "detail": finding.detail,
            })
        })
        .collect();
    json!({
        "topic": answer.topic.as_str(),
        "from": time(start_of(answer.from)),
        "to": time(start_of(answer.to + 1)),
        "totals": answer.totals,
        "findings": findings,
        "verdict": answer.weight().filter(|weight| *weight > Weight::Note).map_or("clean", |weight| match weight {
            Weight::Loss => "loss",
            _ => "doubt",
        }),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::reconcile::At;

    #[test]
    fn a_report_names_minute_hop_and_ids() {
        let answer = Answer {
            topic: "orders".parse().unwrap(),
            from: 28_000_000,
            to: 28_000_001,
            totals: Totals { accepted: 12, stored: 11, relayed: 11, ..Totals::default() },
            findings: vec![Finding {
                minute: Some(28_000_001),
                at: At::Gateway,
                weight: Weight::Loss,
                what: What::NotStored,
                messages: 1,
                ids: vec!["0A".to_owned()],
                detail: String::new(),
            }],
            passed: Vec::new(),
        };
        let expected = "\
LOSS   2023-03-28T10:41:00Z  1 accepted, and not in RocketMQ: 0A
orders from 2023-03-28T10:40:00Z to 2023-03-28T10:42:00Z:
12 accepted (0 more perhaps), 11 stored, 11 relayed, 0 parked, 0 pending; 0 relayed again after an nsqd was lost
LOSS: messages are missing
";
        assert_eq!(table(&answer), expected);
        let json: serde_json::Value = serde_json::from_str(&json(&answer)).unwrap();
        assert_eq!((&json["verdict"], &json["findings"][0]["what"]), (&"loss".into(), &"not-stored".into()));
    }
}
