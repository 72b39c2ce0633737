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
    let begun = audit.relays_since.map_or_else(|| "never".to_owned(), time);
    let detail = format!(
        "{address} has {has} messages since it started, and relays gave it {at_most} since their audit began ({begun}): somebody \
         publishes to it directly, or parked messages were retried, or answers were lost"
    );
    // What has expired of the audit may tell of them.
    let weight = if audit.expired { Weight::Doubt } else { Weight::Note };
    Ok(finding(weight, What::Bypass, has.abs_diff(at_most), detail))
}

async fn counted(topic: &TopicName, nsqd: &Nsqd) -> Result<(i64, i64), HttpError> {
    let stats = nsqd.stats(Some(topic)).await?;
    let of_topic = stats.topics.iter().find(|stats| stats.topic_name == topic.as_str());
    let has = of_topic.map_or(0, |stats| i64::try_from(stats.message_count).unwrap_or(i64::MAX));
    Ok((stats.start_time, has))
}
