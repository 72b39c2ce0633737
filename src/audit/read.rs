//! Reads stretches of queues for the audit, never more of them at a time than one answer.

use std::time::Duration;

use super::VerifyError;
use crate::{
    retry::Backoff,
    rocketmq::{
        ClusterError, Queue, QueueReader,
        reader::{PULL_MAX, Problem, Pull},
        record::StoredMessage,
    },
};

/// A question that fails is asked so many times.
const TRIES: usize = 5;

/// What stands at an offset.
#[derive(Debug)]
pub(super) enum Met {
    /// A message.
    Message(StoredMessage),
    /// Something that cannot be read.
    Unreadable(i64),
}

/// Reads `from..to` in pieces, each handed to `met`; what has expired meanwhile is left out.
///
/// # Errors
/// When the broker cannot be asked, or does not show what it says it has.
pub(super) async fn each(
    reader: &QueueReader,
    queue: &Queue,
    from: i64,
    to: i64,
    mut met: impl FnMut(Vec<Met>) -> Result<(), VerifyError>,
) -> Result<(), VerifyError> {
    let mut next = from;
    let mut empty = 0;
    while next < to {
        let most = i64::from(PULL_MAX).min(to - next) as u32;
        match patiently(async || reader.pull(queue, next, most, Duration::ZERO).await).await? {
            Pull::Messages { messages, problem, .. } => {
                empty = 0;
                next += messages.len() as i64;
                let mut piece: Vec<Met> = messages.into_iter().map(Met::Message).collect();
                if let Some(problem) = problem {
                    let last = match problem {
                        Problem::Gap { to, .. } => to,
                        Problem::Record { offset, .. }
                        | Problem::Displaced { offset, .. }
                        | Problem::Stray { offset, .. } => offset,
                    };
                    piece.extend((next..=last.min(to - 1)).map(Met::Unreadable));
                    next = last + 1;
                }
                met(piece)?;
            }
            Pull::OffsetMoved { bounds, .. } if next < bounds.min => next = bounds.min,
            // What was just stored is shown a moment later.
            Pull::Empty { .. } | Pull::OffsetMoved { .. } if empty < TRIES => {
                empty += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Pull::Empty { .. } | Pull::OffsetMoved { .. } => {
                return Err(VerifyError::NotShown { queue: queue.clone(), offset: next });
            }
        }
    }
    Ok(())
}

/// Asks again for a while before it takes no for an answer.
pub(super) async fn patiently<T>(
    mut ask: impl AsyncFnMut() -> Result<T, ClusterError>,
) -> Result<T, ClusterError> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    for _ in 1..TRIES {
        match ask().await {
            // Asking again changes nothing.
            Err(error @ (ClusterError::UnknownTopic(_) | ClusterError::NoMaster(_))) => return Err(error),
            Err(_) => backoff.wait().await,
            answered => return answered,
        }
    }
    ask().await
}
