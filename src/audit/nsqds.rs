//! What an nsqd has counted since it started, held against what the relays gave it since then.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    VerifyError,
    reconcile::{At, Finding, Weight, What},
    record::Process,
    report::time,
    stored::SLACK_MS,
    written::AuditTopic,
};
use crate::nsq::{
    names::TopicName,
    nsqd::{HttpError, Nsqd},
};

/// A relay writes down what it has given within this time.
const WRITTEN_WITHIN: Duration = Duration::from_secs(6);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Compares; what nsqd cannot be asked for is a doubt.
///
/// # Errors
/// When RocketMQ cannot be asked.
pub(super) async fn compare(
    audit: &mut AuditTopic,
    topic: &TopicName,
    nsqd: &Nsqd,
) -> Result<Option<Finding>, VerifyError> {
    let address = nsqd.address();
    let finding = |weight, what, messages, detail| {
        Some(Finding { minute: None, at: At::Nsqd, weight, what, messages, ids: Vec::new(), detail })
    };
    // Before it is asked, so that whatever these tell of is in its count.
    let start_time = match nsqd.info().await {
        Ok(info) => info.start_time,
        Err(error) => return Ok(finding(Weight::Doubt, What::Incomplete, 0, error.to_string())),
    };
    let process = Process { nsqd: address.clone(), start_time };
    let from_ms = start_time.saturating_mul(1_000) - SLACK_MS;
    let given = async |audit: &mut AuditTopic| -> Result<i64, VerifyError> {
        Ok(audit.given_since(from_ms).await?.get(&process).copied().unwrap_or(0))
    };
    let at_least = given(audit).await?;
    let has = match counted(topic, nsqd).await {
        Ok((started, has)) if started == start_time => has,
        Ok(_) => {
            let detail = format!("{address} was started again just now; ask again");
            return Ok(finding(Weight::Doubt, What::Incomplete, 0, detail));
        }
        Err(error) => return Ok(finding(Weight::Doubt, What::Incomplete, 0, error.to_string())),
    };
    if has < at_least {
        let detail = format!(
            "{address} has {has} messages since it started, and was given {at_least}: its topic was deleted, or it has lost them"
        );
        return Ok(finding(Weight::Loss, What::NotInNsqd, at_least.abs_diff(has), detail));
    }
    // What it was given just now is written down in a moment.
    let deadline = Instant::now() + WRITTEN_WITHIN;
    let mut at_most = at_least;
    while at_most < has && Instant::now() < deadline {
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        at_most = given(audit).await?;
    }
    if has <= at_most {
        return Ok(None);
    }
    let finding = |weight, what, detail| finding(weight, what, has.abs_diff(at_most), detail);
    if let Some(until) = audit.expired_until
        && is_older(start_time, until)
    {
        let detail = format!(
            "{address} has {has} messages since it started, before the oldest audit record there still is ({}): those that are there tell of \
             {at_most}, so the two cannot be compared",
            time(until)
        );
        return Ok(finding(Weight::Note, What::Incomplete, detail));
    }
    let begun = audit.relays_since.map_or_else(|| "never".to_owned(), time);
    let detail = format!(
        "{address} has {has} messages since it started, and relays gave it {at_most} since their audit began ({begun}): somebody \
         publishes to it directly, or parked messages were retried, or answers were lost"
    );
    let weight = if audit.expired_until.is_some() { Weight::Doubt } else { Weight::Note };
    Ok(finding(weight, What::Bypass, detail))
}

/// Whether an nsqd that started then, in seconds, was perhaps given something in a record that has expired since. Every nsqd that runs
/// for longer than brokers keep records is.
fn is_older(start_time: i64, expired_until_ms: i64) -> bool {
    start_time.saturating_mul(1_000) - SLACK_MS < expired_until_ms
}

async fn counted(topic: &TopicName, nsqd: &Nsqd) -> Result<(i64, i64), HttpError> {
    let stats = nsqd.stats(Some(topic)).await?;
    let of_topic = stats.topics.iter().find(|stats| stats.topic_name == topic.as_str());
    let has = of_topic.map_or(0, |stats| i64::try_from(stats.message_count).unwrap_or(i64::MAX));
    Ok((stats.start_time, has))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_nsqd_is_compared_only_when_no_record_of_its_time_can_have_expired() {
        let slack = SLACK_MS / 1_000;
        assert!(is_older(1_000, 2_000_000));
        assert!(is_older(2_000, 2_000_000), "clocks differ");
        assert!(is_older(2_000 + slack - 1, 2_000_000));
        assert!(!is_older(2_000 + slack, 2_000_000));
    }
}
