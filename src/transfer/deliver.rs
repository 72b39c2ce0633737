//! Brings one batch into nsqd, however long that takes.
//!
//! The only way out is nsqd's `OK` (or the end of the queue's loop, which drops the claim unconfirmed). Each failure
//! sends the batch to another nsqd if there is one. A batch whose answer was lost may be in nsqd already: sending it
//! again may double it, not sending it may lose it, so it is sent again and counted.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};
use tracing::{debug, error, warn};

use super::{
    batch::Batch,
    destinations::Destinations,
    topic::Counters,
    window::{Claim, Confirmed},
};
use crate::{nsq::nsqd::HttpError, retry::Backoff, rocketmq::Queue};

/// How long nsqd may take for one batch; it answers from memory.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

/// Offers the batch to nsqd until one has answered `OK`.
///
/// # Cancellation
/// Dropping the future leaves the claim unconfirmed: the batch is relayed again later.
pub(super) async fn until_confirmed(
    destinations: &Destinations,
    counters: &Counters,
    queue: &Queue,
    lease: &watch::Receiver<Option<Instant>>,
    claim: Claim,
    batch: Batch,
) -> Confirmed {
    debug!(%queue, offset = claim.start(), messages = batch.messages(), "batch begun");
    let payload = batch.payload();
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
    let mut lease = lease.clone();
    loop {
        let nsqd = destinations.choose().await;
        hold_until_leased(&mut lease).await;
        let failure = match nsqd.mpub(destinations.topic(), payload.clone(), PUBLISH_TIMEOUT).await {
            Ok(published) => return claim.confirm(published),
            Err(failure) => failure,
        };
        counters.retried(batch.messages());
        let offset = claim.start();
        let messages = batch.messages();
        match &failure {
            HttpError::Refused { status, .. } if (400..500).contains(status) => {
                error!(%queue, offset, messages, error = %failure, "nsqd will not take this; the queue waits before it");
            }
            HttpError::Unknown { .. } => {
                counters.perhaps_doubled(messages);
                warn!(%queue, offset, messages, error = %failure, "no answer from nsqd; relaying again, perhaps twice");
                destinations.failed(&nsqd);
            }
            HttpError::Refused { .. } | HttpError::NotSent { .. } => {
                warn!(%queue, offset, messages, error = %failure, "nsqd did not take a batch; trying again");
                destinations.failed(&nsqd);
            }
        }
        backoff.wait().await;
    }
}

/// Waits while the queue's lock cannot be relied on: somebody else may be relaying it.
async fn hold_until_leased(lease: &mut watch::Receiver<Option<Instant>>) {
    loop {
        if lease.borrow_and_update().is_some_and(|until| Instant::now() < until) {
            return;
        }
        if lease.changed().await.is_err() {
            // The relay is gone, and this task is about to be.
            std::future::pending::<()>().await;
        }
    }
}
