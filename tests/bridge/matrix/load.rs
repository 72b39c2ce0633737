//! Producers as they are in the field: they publish one message after the other, and after anything but `OK` they publish it again
//! at the next gateway.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinSet};

use super::ledger::Ledger;

const PRODUCERS: usize = 6;
const EACH_EVERY: Duration = Duration::from_millis(40);
/// NSQ's client libraries mostly wait this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// One in so many publishes is a batch.
const BATCH_EVERY: usize = 10;
const BATCH: usize = 5;

pub struct Load {
    on: watch::Sender<bool>,
    /// Producers in the midst of a message.
    busy: Arc<AtomicUsize>,
    /// Messages whose publish was answered with something else than `OK`, and those without an answer.
    pub refused: Arc<AtomicUsize>,
    pub unanswered: Arc<AtomicUsize>,
    _producers: JoinSet<()>,
}

#[derive(Clone)]
struct Producer {
    ledger: Arc<Ledger>,
    gateways: Vec<SocketAddr>,
    topic: String,
    http: reqwest::Client,
    refused: Arc<AtomicUsize>,
    unanswered: Arc<AtomicUsize>,
}

impl Load {
    /// They wait until told to begin.
    pub fn start(ledger: &Arc<Ledger>, gateways: &[SocketAddr], topic: &str) -> Self {
        let (on, running) = watch::channel(false);
        let (busy, refused, unanswered) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let mut producers = JoinSet::new();
        for index in 0..PRODUCERS {
            let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
            let producer = Producer {
                ledger: Arc::clone(ledger),
                gateways: gateways.to_vec(),
                topic: topic.to_owned(),
                http,
                refused: Arc::clone(&refused),
                unanswered: Arc::clone(&unanswered),
            };
            let (mut running, busy) = (running.clone(), Arc::clone(&busy));
            producers.spawn(async move {
                let mut pace = tokio::time::interval(EACH_EVERY);
                pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                let home = index % producer.gateways.len();
                let mut gateway = home;
                for nth in index.. {
                    pace.tick().await;
                    // First busy, then a look: who pauses them sees either.
                    busy.fetch_add(1, Ordering::SeqCst);
                    if !*running.borrow() {
                        busy.fetch_sub(1, Ordering::SeqCst);
                        if running.wait_for(|on| *on).await.is_err() {
                            return;
                        }
                        gateway = home;
                        continue;
                    }
                    producer.publish(nth, &mut gateway).await;
                    busy.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
        Self { on, busy, refused, unanswered, _producers: producers }
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

impl Producer {
    /// Publishes until it hears `OK`.
    async fn publish(&self, nth: usize, gateway: &mut usize) {
        let batch = nth.is_multiple_of(BATCH_EVERY);
        let numbers = self.ledger.begin(if batch { BATCH } else { 1 });
        let bodies: Vec<_> = numbers.iter().map(|number| self.ledger.body(*number)).collect();
        let (path, payload) = if batch {
            let payload = nsqbridge::nsq::mpub::encode_binary(bodies.iter().map(|body| &body[..]));
            (format!("/mpub?binary=true&topic={}", self.topic), payload)
        } else {
            (format!("/pub?topic={}", self.topic), bodies[0].clone())
        };
        let started = Instant::now();
        loop {
            self.ledger.tried(&numbers);
            let url = format!("http://{}{path}", self.gateways[*gateway]);
            let answer = async {
                let answer = self.http.post(url).body(payload.clone()).send().await?;
                let status = answer.status().as_u16();
                Ok::<_, reqwest::Error>((status, answer.bytes().await?))
            };
            match answer.await {
                Ok((200, text)) if text == "OK" => break,
                Ok(_) => self.refused.fetch_add(numbers.len(), Ordering::Relaxed),
                Err(_) => self.unanswered.fetch_add(numbers.len(), Ordering::Relaxed),
            };
            *gateway = (*gateway + 1) % self.gateways.len();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.ledger.acknowledged(&numbers, started.elapsed());
    }
}
