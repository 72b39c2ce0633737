//! One topic of one nsqd: takes messages, says that it needs longer, and finishes them once they are stored.
//!
//! nsqd gives no more than was asked for (RDY) before some are finished, and where these are large, no more are asked for before half of them are:
//! so what is in memory is bounded, whatever RocketMQ does.
//! While it stores nothing, nsqd is told so of every message in hand, well before it would deliver them again.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{debug, error, info, warn};

use super::{
    Shared, guard,
    hand::{Hand, Identity, Taken},
    metrics::Standing,
    store::{Fate, Store},
};
use crate::{
    nsq::{
        deliveries::{Command, Delivered},
        names::TopicName,
        nsqd::Nsqd,
        subscription::{Event, Subscription},
    },
    retry::Backoff,
};

/// Batches on their way to RocketMQ at a time.
const BATCHES: usize = 2;
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// nsqd is told this often, in one of its timeouts, that a message takes longer.
const TOUCHES: u32 = 4;
/// What RocketMQ will never take comes back after this time.
const REFUSED_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// One topic of one nsqd.
pub(super) struct Inlet {
    shared: Arc<Shared>,
    topic: TopicName,
    nsqd: Nsqd,
    drain: CancellationToken,
    standing: Arc<Standing>,
    hand: Hand,
    /// They outlive the connection their messages came by.
    sending: JoinSet<Vec<(Identity, Fate)>>,
}

impl Inlet {
    pub(super) fn new(shared: Arc<Shared>, topic: TopicName, nsqd: Nsqd, drain: CancellationToken) -> Self {
        let standing = shared.metrics.standing(topic.clone(), nsqd.address().clone());
        Self { shared, topic, nsqd, drain, standing, hand: Hand::default(), sending: JoinSet::new() }
    }

    /// Takes in until it is to drain.
    pub(super) async fn run(mut self) {
        let (allow, mut allowed) = watch::channel(false);
        let guard = guard::keep(
            Arc::clone(&self.shared),
            Arc::clone(&self.standing),
            self.topic.clone(),
            self.nsqd.clone(),
            allow,
        );
        let guard = AbortOnDropHandle::new(tokio::spawn(guard));
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let drain = self.drain.clone();
        loop {
            let may = async { allowed.wait_for(|allowed| *allowed).await.is_ok() };
            match self.meanwhile(drain.run_until_cancelled(may)).await {
                None => return,
                Some(true) => {}
                // The guard ends by a fault of this program only.
                Some(false) => return raise(guard.await),
            }
            let ended = match self.connect().await {
                Ok((subscription, store)) => {
                    backoff.reset();
                    self.standing.connection(None);
                    info!(topic = %self.topic, nsqd = %self.nsqd.address(), "taking in");
                    self.converse(subscription, &store, &mut allowed).await
                }
                Err(error) => Err(error),
            };
            let Err(error) = ended else { return };
            if self.standing.connection(Some(error.to_string())) {
                warn!(topic = %self.topic, nsqd = %self.nsqd.address(), %error, "not connected; trying again");
            }
            // nsqd delivers them again, perhaps to another instance.
            self.hand.give_up_waiting();
            if self.meanwhile(drain.run_until_cancelled(backoff.wait())).await.is_none() {
                return;
            }
        }
    }

    /// Waits for something while nsqd is not connected, and takes note of what is stored: that is finished when nsqd delivers it again, and is
    /// in hand no more for whoever asks.
    async fn meanwhile<T>(&mut self, something: impl Future<Output = T>) -> T {
        let mut something = std::pin::pin!(something);
        loop {
            self.standing.in_hand(self.hand.here().len());
            tokio::select! {
                done = &mut something => return done,
                Some(sent) = self.sending.join_next() => self.settle(raise(sent), &mut Vec::new()),
            }
        }
    }

    async fn connect(&self) -> io::Result<(Subscription, Arc<Store>)> {
        let info = self.nsqd.info().await.map_err(io::Error::other)?;
        let host = self.nsqd.address().host();
        let address = format!("{host}:{}", info.tcp_port);
        let channel = &self.shared.config.channel;
        let subscription = Subscription::open(&address, &self.topic, channel, CONNECT_WITHIN).await?;
        let name = format!("{}:{}", info.broadcast_address, info.tcp_port);
        let (shared, standing) = (Arc::clone(&self.shared), Arc::clone(&self.standing));
        Ok((subscription, Arc::new(Store::new(shared, standing, self.topic.clone(), &name))))
    }

    /// Takes in by this connection until it breaks, which is the error, or all is drained.
    async fn converse(
        &mut self,
        mut nsqd: Subscription,
        store: &Arc<Store>,
        allowed: &mut watch::Receiver<bool>,
    ) -> io::Result<()> {
        let inlets = self.shared.config.inlets().count().max(1);
        let share = (self.shared.config.max_in_flight / inlets).max(1).min(nsqd.terms.max_rdy_count);
        let share_bytes = self.shared.config.max_in_flight_bytes / inlets;
        let mut full = false;
        let timeout = Duration::from_millis(nsqd.terms.msg_timeout.max(1_000));
        let mut touch = tokio::time::interval(timeout / TOUCHES);
        touch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut words, mut ready, mut until) = (Vec::new(), None, None);
        let drain = self.drain.clone();
        loop {
            let may = *allowed.borrow_and_update();
            if until.is_none() && drain.is_cancelled() {
                until = Some(Instant::now() + self.shared.config.drain_timeout);
                Command::Close.write(&mut words);
            }
            if !may || until.is_some() {
                for id in self.hand.give_up_waiting() {
                    Command::Requeue(id, Duration::ZERO).write(&mut words);
                }
            }
            full = self.hand.bytes() >= if full { share_bytes / 2 } else { share_bytes }.max(1);
            let wanted = if may && !full { share } else { 0 };
            if until.is_none() && ready.replace(wanted) != Some(wanted) {
                Command::Ready(wanted).write(&mut words);
            }
            while self.sending.len() < BATCHES
                && let Some(batch) = self.hand.cut()
            {
                let store = Arc::clone(store);
                self.sending.spawn(async move { store.store(batch).await });
            }
            self.standing.in_hand(self.hand.here().len());
            if !words.is_empty() {
                nsqd.say(&words).await?;
                words.clear();
            }
            if until.is_some() && self.sending.is_empty() {
                nsqd.close().await;
                return Ok(());
            }
            let late = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            // What always has something to do comes last.
            tokio::select! {
                biased;
                _ = touch.tick() => self.hand.here().for_each(|id| Command::Touch(id).write(&mut words)),
                () = drain.cancelled(), if until.is_none() => {}
                changed = allowed.changed() => changed.map_err(io::Error::other)?,
                () = late => {
                    warn!(topic = %self.topic, nsqd = %self.nsqd.address(),
                        "RocketMQ has not answered in time; what it has stored will be stored again, with the same ids");
                    return Ok(());
                }
                Some(sent) = self.sending.join_next() => self.settle(raise(sent), &mut words),
                event = nsqd.next() => self.hear(event?, &mut words)?,
            }
        }
    }

    fn hear(&mut self, event: Event, words: &mut Vec<u8>) -> io::Result<()> {
        match event {
            Event::Message(message) => self.take(message, words),
            Event::Heartbeat => Command::Nop.write(words),
            Event::Fault(fault) if is_of_a_message(&fault) => {
                debug!(topic = %self.topic, nsqd = %self.nsqd.address(), fault, "nsqd says");
            }
            Event::Fault(fault) => {
                return Err(io::Error::other(format!("nsqd ends the connection: {fault}")));
            }
            Event::Taken => {}
        }
        Ok(())
    }

    fn take(&mut self, message: Delivered, words: &mut Vec<u8>) {
        self.standing.delivered();
        let id = message.id;
        if self.hand.take(message) == Taken::Stored {
            Command::Finish(id).write(words);
        }
    }

    fn settle(&mut self, sent: Vec<(Identity, Fate)>, words: &mut Vec<u8>) {
        for (message, fate) in sent {
            match fate {
                Fate::Stored => {
                    self.standing.stored();
                    self.hand.stored(message);
                    Command::Finish(message.0).write(words);
                }
                Fate::Refused(reason) => {
                    self.standing.refused();
                    self.hand.put_back(message);
                    error!(topic = %self.topic, nsqd = %self.nsqd.address(), id = %message.0, reason,
                        "RocketMQ will never take this message; it stays in nsqd, and is tried again");
                    Command::Requeue(message.0, REFUSED_AGAIN_AFTER).write(words);
                }
            }
        }
    }
}

/// Whether nsqd speaks of one message only: its time was up, or its connection gone, and it comes again.
fn is_of_a_message(fault: &str) -> bool {
    ["E_FIN_FAILED", "E_REQ_FAILED", "E_TOUCH_FAILED"].iter().any(|code| fault.starts_with(code))
}

/// Goes on with a task's panic in this one.
fn raise<T>(ended: Result<T, JoinError>) -> T {
    ended.unwrap_or_else(|fault| std::panic::resume_unwind(fault.into_panic()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nsqd_says_of_a_message_does_not_end_the_connection() {
        assert!(is_of_a_message("E_TOUCH_FAILED TOUCH 0a failed ID not in flight"));
        assert!(!is_of_a_message("E_INVALID RDY count 3000 out of range 0-2500"));
    }
}
