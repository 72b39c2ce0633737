//! Asks RocketMQ, and nsqds, what became of the messages of a stretch of time.
//!
//! The order of the questions matters: first how far the relay has committed, then what was written down, then what is stored.
//! So everything below a committed offset has its record, everything accepted in a record is stored by then, and what
//! comes meanwhile is never taken for a loss.
//!
//! A long stretch is looked at in pieces, so that memory stays bounded.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::Duration,
};

use serde::Serialize;

use super::{
    VerifyError,
    entry::{minute_of, start_of},
    nsqds,
    read::patiently,
    reconcile::{At, Finding, Minute, Seen, Weight, What},
    stored::{Oldest, Passed, SLACK_MS, Stored, committed},
    written::{AuditTopic, Written},
};
use crate::{
    mapping::Names,
    nsq::{names::TopicName, nsqd::Nsqd},
    rocketmq::{Cluster, producer::unix_millis},
};

/// The consumer group brokers show for what is read; it commits nothing.
pub const GROUP: &str = "nsqbridge-verify";
/// Minutes looked at together: some 30 KiB each.
const PIECE: i64 = 12 * 60;
/// Ids looked up to tell a message stored twice from one nobody has accounted for.
const LOOKED_UP: usize = 50;

/// What to look at.
#[derive(Debug)]
pub struct Question {
    /// The cluster.
    pub cluster: Cluster,
    /// What topics are called there.
    pub names: Names,
    /// The consumer group of a topic's relay is this, a dash and the topic.
    pub group_prefix: String,
    /// The topic.
    pub topic: TopicName,
    /// How long a stretch.
    pub window: Duration,
    /// How long before now it ends.
    pub until: Duration,
    /// nsqds to ask what they have counted.
    pub nsqds: Vec<Nsqd>,
}

/// Messages of the stretch at each hop.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Totals {
    /// Answered `OK`.
    pub accepted: i64,
    /// Answered with an error, and perhaps stored.
    pub unknown: i64,
    /// In RocketMQ.
    pub stored: i64,
    /// In nsqd, counted once for each time.
    pub relayed: i64,
    /// Parked.
    pub parked: i64,
    /// Given to an nsqd again, for one that had been lost.
    pub replayed: i64,
    /// Not relayed yet.
    pub pending: i64,
}

/// What became of them.
#[derive(Debug)]
pub struct Answer {
    /// The NSQ topic.
    pub topic: TopicName,
    /// The first minute.
    pub from: i64,
    /// The last.
    pub to: i64,
    /// How many there are at each hop.
    pub totals: Totals,
    /// Everything that is not as it should be.
    pub findings: Vec<Finding>,
    /// What the relay has passed, for [`super::repair`].
    pub passed: Vec<Passed>,
}

impl Answer {
    /// The heaviest finding; `None` when there is none.
    #[must_use]
    pub fn weight(&self) -> Option<Weight> {
        self.findings.iter().map(|finding| finding.weight).max()
    }
}

/// Looks.
///
/// # Errors
/// When nothing can be said; asking again is safe, nothing was changed.
pub async fn ask(question: &Question) -> Result<Answer, VerifyError> {
    let Question { cluster, names, topic, window, until, .. } = question;
    let now_ms = unix_millis();
    let before =
        |duration: Duration| now_ms.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(now_ms));
    let to = minute_of(before(*until));
    let from = minute_of(before(until.saturating_add(*window))).min(to);
    let mut audit = AuditTopic::find(cluster, &names.audit_topic(topic)).await?;
    let mut answer = Answer {
        topic: topic.clone(),
        from,
        to,
        totals: Totals::default(),
        findings: Vec::new(),
        passed: Vec::new(),
    };
    // Where an account may not ask, a queue whose oldest message is young makes a doubt.
    let oldest = cluster.oldest_messages().await.unwrap_or_default();
    let mut first = from;
    while first <= to {
        let last = to.min(first + PIECE - 1);
        look_at(question, &mut audit, first..=last, &oldest, now_ms, &mut answer).await?;
        first = last + 1;
    }
    tell_copies(question, &mut answer.findings).await?;
    for nsqd in &question.nsqds {
        answer.findings.extend(nsqds::compare(&mut audit, topic, nsqd).await?);
    }
    Ok(answer)
}

async fn look_at(
    question: &Question,
    audit: &mut AuditTopic,
    looked_at: RangeInclusive<i64>,
    oldest: &Oldest,
    now_ms: i64,
    answer: &mut Answer,
) -> Result<(), VerifyError> {
    let (first, last) = (*looked_at.start(), *looked_at.end());
    let Question { cluster, names, group_prefix, topic, .. } = question;
    let group = names.relay_group(group_prefix, topic);
    let rocketmq_topic = names.rocketmq_topic(topic);
    let mut minutes: BTreeMap<i64, Minute> =
        (first..=last).map(|minute| (minute, Minute::default())).collect();
    let committed = committed(cluster, &rocketmq_topic, &group).await?;
    let written = audit.read(start_of(first) - SLACK_MS, &mut minutes).await?;
    let mut stored = Stored::find(cluster, &committed, &minutes, oldest, audit.relays_since).await?;
    stored.count(&written, &mut minutes, now_ms).await?;

    let brokers: BTreeSet<&str> = committed.keys().map(|queue| queue.broker.as_str()).collect();
    let away: Vec<&String> =
        written.brokers.iter().filter(|broker| !brokers.contains(broker.as_str())).collect();
    let incomplete = written.incomplete.filter(|(from, to)| *from <= last && first <= *to);
    let seen = Seen {
        all_stored: away.is_empty() && stored.expired_until.is_none(),
        all_written: away.is_empty() && written.missing + written.unreadable == 0 && incomplete.is_none(),
    };
    answer.findings.extend(gaps(&written, &stored, &away, incomplete));
    for (minute, counted) in &minutes {
        answer.totals.add(counted);
        answer.findings.extend(counted.judge(*minute, now_ms, seen));
    }
    // What is only perhaps missing is not to be relayed again.
    if seen.all_written {
        answer.passed.append(&mut stored.passed);
    }
    Ok(())
}

impl Totals {
    fn add(&mut self, minute: &Minute) {
        self.accepted += minute.accepted.count() + minute.deferred.count();
        self.unknown += minute.unknown.count();
        self.stored += minute.stored.count() + minute.stored_deferred.count();
        self.stored += minute.stored_untold.messages as i64;
        self.relayed += minute.relayed.count() - minute.parked;
        self.parked += minute.parked;
        self.replayed += minute.replayed;
        self.pending += minute.pending as i64;
    }
}

/// What could not be looked at.
fn gaps(
    written: &Written,
    stored: &Stored,
    away: &[&String],
    incomplete: Option<(i64, i64)>,
) -> Vec<Finding> {
    let finding = |weight, at, what, messages, detail: String| Finding {
        minute: None,
        at,
        weight,
        what,
        messages,
        ids: Vec::new(),
        detail,
    };
    let doubt = |detail| finding(Weight::Doubt, At::Audit, What::Incomplete, 0, detail);
    let mut gaps = Vec::new();
    for broker in away {
        gaps.push(doubt(format!(
            "broker {broker} has stored messages, and perhaps audit records, and is not to be found now"
        )));
    }
    if written.missing > 0 {
        gaps.push(doubt(format!("{} audit records are missing among those that are there", written.missing)));
    }
    if let Some(ms) = stored.expired_until {
        let detail = match ms {
            i64::MAX => "a queue is empty: everything in it has expired".to_owned(),
            ms => format!("what a queue held from before {} has expired", super::report::time(ms)),
        };
        gaps.push(doubt(detail));
    }
    if let Some((from, to)) = incomplete {
        let (from, to) = (super::report::time(start_of(from)), super::report::time(start_of(to)));
        gaps.push(doubt(format!(
            "a process could not write down all it had counted, and has forgotten some of {from} to {to}"
        )));
    }
    if written.unreadable > 0 {
        gaps.push(doubt(format!("{} audit records cannot be read", written.unreadable)));
    }
    if stored.unreadable > 0 {
        let detail = "records that cannot be read, passed by the relay and not parked".to_owned();
        gaps.push(finding(Weight::Loss, At::Relay, What::NotRelayed, stored.unreadable, detail));
    }
    gaps
}

/// Looks up ids that are in RocketMQ more often than was accounted for: some of them are there twice.
async fn tell_copies(question: &Question, findings: &mut Vec<Finding>) -> Result<(), VerifyError> {
    let Question { cluster, names, topic, .. } = question;
    let rocketmq_topic = names.rocketmq_topic(topic);
    let mut looked_up = 0;
    let mut copies = Vec::new();
    for finding in findings.iter_mut().filter(|finding| finding.what == What::NotAccountedFor) {
        let mut twice = Vec::new();
        for id in &finding.ids {
            if looked_up == LOOKED_UP {
                break;
            }
            looked_up += 1;
            let found = patiently(async || cluster.messages_by_unique_key(&rocketmq_topic, id).await).await?;
            if found.len() > 1 {
                twice.push(id.clone());
            }
        }
        if !twice.is_empty() {
            finding.ids.retain(|id| !twice.contains(id));
            finding.messages -= twice.len() as u64;
            copies.push(Finding {
                what: What::StoredTwice,
                messages: twice.len() as u64,
                ids: twice,
                ..finding.clone()
            });
        }
    }
    findings.retain(|finding| finding.what != What::NotAccountedFor || finding.messages > 0);
    findings.append(&mut copies);
    findings.sort_by_key(|finding| finding.minute);
    Ok(())
}
