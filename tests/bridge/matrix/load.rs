//! Keeps producers publishing, one message after the other, and lets them rest.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, task::JoinSet};

use super::{
    ledger::Ledger,
    producer::{Client, Producer},
};
use crate::bridge::Gateway;

/// Every other one speaks nsqd's TCP protocol.
const PRODUCERS: usize = 6;
const EACH_EVERY: Duration = Duration::from_millis(40);

pub struct Load {
    on: watch::Sender<bool>,
    /// Producers in the midst of a message.
    busy: Arc<AtomicUsize>,
    /// Messages whose publish was not answered `OK`, by a refusal or by nothing.
    pub unsure: Arc<AtomicUsize>,
    _producers: JoinSet<()>,
}

impl Load {
    /// They wait until told to begin.
    pub fn start(ledger: &Arc<Ledger>, gateways: &[Gateway], topic: &str) -> Self {
        let (on, running) = watch::channel(false);
        let (busy, unsure) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let mut producers = JoinSet::new();
        for index in 0..PRODUCERS {
            let client = match index % 2 {
                0 => Client::http(gateways.iter().map(|gateway| gateway.address).collect()),
                _ => Client::tcp(gateways.iter().map(|gateway| gateway.tcp_address).collect()),
            };
            let producer = Producer {
                ledger: Arc::clone(ledger),
                topic: topic.to_owned(),
                client,
                unsure: Arc::clone(&unsure),
            };
            // Both ways of speaking at home at each gateway.
            producers.spawn(keep_on(producer, index, index / 2, running.clone(), Arc::clone(&busy)));
        }
        Self { on, busy, unsure, _producers: producers }
    }

    pub fn go_on(&self) {
        self.on.send_replace(true);
    }

    /// Tells them to wait after the message each has begun.
    pub fn pause(&self) {
        self.on.send_replace(false);
    }

    /// Whether none is in the midst of a message.
    pub fn is_idle(&self) -> bool {
        self.busy.load(Ordering::SeqCst) == 0
    }
}

async fn keep_on(
    mut producer: Producer,
    first: usize,
    home: usize,
    mut running: watch::Receiver<bool>,
    busy: Arc<AtomicUsize>,
) {
    let mut pace = tokio::time::interval(EACH_EVERY);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut gateway = home;
    for nth in first.. {
        pace.tick().await;
        // First busy, then a look: who pauses them sees either.
        busy.fetch_add(1, Ordering::SeqCst);
        if !*running.borrow() {
            busy.fetch_sub(1, Ordering::SeqCst);
            producer.client.hang_up();
            if running.wait_for(|on| *on).await.is_err() {
                return;
            }
            gateway = home;
            continue;
        }
        producer.publish(nth, &mut gateway).await;
        busy.fetch_sub(1, Ordering::SeqCst);
    }
}
