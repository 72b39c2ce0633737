//! Brings one batch into nsqd, however long that takes.
//!
//! The only ways out are nsqd's `OK`, the parking topic's for what nsqd will never take, and the end of the queue's
//! loop, which drops the claim unconfirmed. What is not nsqd's to be given ([`Feed::has`]) is not sent. Each failure
//! sends the batch to another nsqd if there is one. A batch whose answer was lost may be in nsqd already: sending it
//! again may double it, not sending it may lose it, so it is sent again and counted. A batch that is refused is taken
//! apart, so that one bad message stands for itself only.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tracing::{debug, warn};

use super::{
    batch::{Batch, Limits},
    destinations::{Destination, Destinations},
    metrics::TopicMetrics,
    pace::Pace,
    parking::Parking,
    window::{At, Claim, Confirmed, Proof},
};
use crate::{
    mapping::Feed,
    nsq::{
        nsqd::{HttpError, Published},
        tcp::TcpError,
    },
    retry::Backoff,
    rocketmq::{Queue, record::StoredMessage},
};

/// How long nsqd may take for one batch; it answers from memory.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// nsqd closes over what it refuses, and its words may be lost with the connection: after so many batches without an
/// answer each message is tried by itself.
const SILENT_REFUSALS: usize = 3;

/// What delivering needs; one for each topic.
pub(super) struct Delivery {
    pub(super) feed: Feed,
    pub(super) destinations: Arc<Destinations>,
    pub(super) limits: Limits,
    pub(super) pace: Arc<Pace>,
    pub(super) parking: Parking,
    pub(super) metrics: Arc<TopicMetrics>,
    /// Keep each queue's order as far as NSQ can: always the same nsqd.
    pub(super) ordered: bool,
    /// The audit counts the messages.
    pub(super) audited: bool,
}

impl Delivery {
    /// Offers the batch to nsqd until all of it is there, or parked.
    ///
    /// # Cancellation
    /// Dropping the future leaves the claim unconfirmed: the batch is relayed again later.
    pub(super) async fn until_confirmed(
        &self,
        queue: &Queue,
        mut lease: watch::Receiver<Option<Instant>>,
        claim: Claim,
        batch: Batch,
    ) -> Confirmed {
        debug!(%queue, offset = claim.start(), messages = batch.messages(), "batch begun");
        let relayed = batch.relayed().count();
        self.metrics.passed_by(batch.messages() - relayed);
        if relayed == 0 {
            return claim.confirm(Proof::NotGiven);
        }
        self.pace.admit(relayed).await;
        if let Some(reason) = batch.unfit(self.limits) {
            let mut proofs = Vec::new();
            for (message, _) in batch.each() {
                hold_until_leased(&mut lease).await;
                proofs.push(self.park(queue, message, &reason).await);
            }
            return self.each(claim, proofs).await;
        }
        match self.whole(queue, &mut lease, &batch).await {
            Some(proof) => claim.confirm(proof),
            None => {
                let mut proofs = Vec::new();
                for (message, goes) in batch.each() {
                    proofs.push(match goes {
                        true => self.one(queue, &mut lease, message).await,
                        false => Proof::NotGiven,
                    });
                }
                self.each(claim, proofs).await
            }
        }
    }

    async fn each(&self, claim: Claim, proofs: Vec<Proof>) -> Confirmed {
        match claim.confirm_each(proofs) {
            Ok(confirmed) => confirmed,
            // Never confirmed, so relayed again: there is no proof for all of it.
            Err(_) => std::future::pending().await,
        }
    }

    /// Publishes the batch as one; `None` when it must be taken apart.
    async fn whole(
        &self,
        queue: &Queue,
        lease: &mut watch::Receiver<Option<Instant>>,
        batch: &Batch,
    ) -> Option<Proof> {
        let payload = batch.payload();
        let messages = batch.relayed().count();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let mut silent = 0;
        loop {
            let to = self.destinations.choose(messages, self.ordered.then_some(queue)).await;
            hold_until_leased(lease).await;
            let failure = match self.destinations.connect(&to).await {
                Ok(mut connection) => {
                    match connection.mpub(self.destinations.topic(), payload.clone(), PUBLISH_TIMEOUT).await {
                        Ok(answer) => {
                            let proof = self.took(&to, messages, answer);
                            self.destinations.sent(&to, messages, Some(connection));
                            return Some(proof);
                        }
                        Err(failure) => failure,
                    }
                }
                Err(failure) => failure,
            };
            self.metrics.retried(messages);
            match &failure {
                TcpError::Refused { .. } => {
                    warn!(%queue, messages, error = %failure, "a batch was refused; trying its messages one by one");
                    return None;
                }
                TcpError::Unknown { .. } => {
                    silent += 1;
                    self.doubt(queue, messages, &failure.to_string());
                }
                TcpError::NotSent { .. } => {
                    debug!(%queue, messages, error = %failure, "nsqd did not take a batch; trying again");
                }
            }
            self.destinations.failed(&to, &failure.to_string());
            if silent >= SILENT_REFUSALS {
                return None;
            }
            backoff.wait().await;
        }
    }

    /// Publishes one message by itself, or parks it. HTTP tells what nsqd thinks of it even where it reads none of it.
    async fn one(
        &self,
        queue: &Queue,
        lease: &mut watch::Receiver<Option<Instant>>,
        message: &StoredMessage,
    ) -> Proof {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        loop {
            let to = self.destinations.choose(1, self.ordered.then_some(queue)).await;
            hold_until_leased(lease).await;
            let body = message.body.clone();
            let failure = match to.nsqd.publish(self.destinations.topic(), body, None, PUBLISH_TIMEOUT).await
            {
                Ok(answer) => {
                    let proof = self.took(&to, 1, answer);
                    self.destinations.sent(&to, 1, None);
                    return proof;
                }
                Err(failure) => failure,
            };
            self.metrics.retried(1);
            match &failure {
                HttpError::Refused { status, code, .. } if finds_fault(*status, code) => {
                    return self.park(queue, message, &failure.to_string()).await;
                }
                HttpError::Unknown { .. } => self.doubt(queue, 1, &failure.to_string()),
                HttpError::Refused { .. } | HttpError::NotSent { .. } => {}
            }
            self.destinations.failed(&to, &failure.to_string());
            backoff.wait().await;
        }
    }

    async fn park(&self, queue: &Queue, message: &StoredMessage, reason: &str) -> Proof {
        let parked = self.parking.park(queue, message, reason).await;
        self.metrics.parked();
        Proof::Parked(parked)
    }

    fn took(&self, to: &Destination, messages: usize, answer: Published) -> Proof {
        self.metrics.relayed(to.nsqd.address().as_str(), messages);
        Proof::Published(answer, At { process: to.process(), look: self.destinations.looks() })
    }

    fn doubt(&self, queue: &Queue, messages: usize, error: &str) {
        self.metrics.perhaps_doubled(messages);
        warn!(%queue, messages, error, "no answer from nsqd; relaying again, perhaps twice");
    }
}

/// Whether nsqd refuses the message for what it is. Any other refusal, such as one by something that stands before nsqd, says
/// nothing of the message, and parking every message for it would empty the topic.
fn finds_fault(status: u16, code: &str) -> bool {
    status == 413 || (status == 400 && code == "MSG_EMPTY")
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
