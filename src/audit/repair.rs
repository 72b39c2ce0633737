//! Relays what the relay has passed: by hand, for once, to one nsqd.
//!
//! What is missing in RocketMQ itself cannot be brought back from here. Each message is published by itself and recorded as
//! relayed; whoever stops this on the way finds the messages since the last record once more, and relays them twice.

use std::time::Duration;

use super::{
    Entry, Recorder, VerifyError,
    entry::key_of,
    read::{Met, each},
    record::{Hop, Process},
    stored::Passed,
    verify::{GROUP, Question},
};
use crate::{
    nsq::nsqd::{HttpError, Nsqd},
    rocketmq::{QueueReader, record::StoredMessage},
};

const PUBLISH_WITHIN: Duration = Duration::from_secs(10);
/// Messages read, relayed and recorded at a time.
const PIECE: i64 = 32;

/// What a repair came to.
#[derive(Debug, Default)]
pub struct Repaired {
    /// Messages nsqd has now.
    pub relayed: u64,
    /// Messages it does not have, and why.
    pub stuck: Vec<(String, String)>,
}

/// Why a repair did not go on.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// RocketMQ cannot be asked.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The nsqd cannot be asked.
    #[error(transparent)]
    Nsqd(#[from] HttpError),
}

/// Relays everything that was passed to `nsqd`. What was relayed is recorded when `recorder` is drained.
///
/// # Errors
/// When RocketMQ or nsqd cannot be asked; what was relayed until then is recorded.
pub async fn repair(
    question: &Question,
    passed: &[Passed],
    nsqd: &Nsqd,
    recorder: &Recorder,
) -> Result<Repaired, RepairError> {
    let ledger = recorder.topic(&question.topic);
    let reader = QueueReader::new(question.cluster.clone(), GROUP);
    let process = Process { nsqd: nsqd.address().clone(), start_time: nsqd.info().await?.start_time };
    let mut repaired = Repaired::default();
    for Passed { queue, from, to } in passed {
        let mut next = *from;
        while next < *to {
            let end = (next + PIECE).min(*to);
            let mut messages: Vec<StoredMessage> = Vec::new();
            each(&reader, queue, next, end, |piece| {
                messages.extend(piece.into_iter().filter_map(|met| match met {
                    Met::Message(message) => Some(message),
                    Met::Unreadable(_) => None,
                }));
                Ok(())
            })
            .await?;
            for message in messages {
                match nsqd.publish(&question.topic, message.body.clone(), None, PUBLISH_WITHIN).await {
                    Ok(_) => {
                        repaired.relayed += 1;
                        ledger.record(|delta| {
                            let offset = message.queue_offset;
                            delta.count(&Hop::Relayed(process.clone()), Entry::of(&message));
                            delta.cover(&queue.broker, queue.id, offset, offset + 1);
                        });
                    }
                    Err(error) => repaired.stuck.push((key_of(&message), error.to_string())),
                }
            }
            next = end;
        }
    }
    Ok(repaired)
}
