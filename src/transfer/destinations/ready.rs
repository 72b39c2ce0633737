//! Makes nsqds ready, look after look.
//!
//! ```text
//! channels the nsqlookupds remember ─┐
//! what a look at all nsqds shows ────┴ merge   every channel of the topic, and which of them each nsqd lacks
//!                                        └ prepare   creates those there
//! ```
//!
//! No nsqd is made ready while a channel may be missing from the list: every nsqd that is not left out must have answered once, and one
//! nsqlookupd. Nor is one before the brokers have said which channels are done with, which must not come back.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info, warn};

use super::{Destinations, Node, PENALTY, Prepared, State};
use crate::{
    mapping::is_intake,
    nsq::{
        address::HttpAddress,
        names::ChannelName,
        nsqd::{HttpError, Nsqd},
        nsqlookupd::Nsqlookupd,
    },
    transfer::{
        fleet::{Seen, TopicSeen, View},
        undrained::Process,
    },
};

/// What makes an nsqd ready.
struct Todo {
    nsqd: Nsqd,
    missing: Vec<ChannelName>,
    /// Those of them that are paused on other nsqds.
    paused: BTreeSet<ChannelName>,
    prepared: Prepared,
}

impl Destinations {
    /// Keeps nodes and channels up to date; runs for as long as the topic is relayed.
    pub(in crate::transfer) async fn keep_ready(
        self: Arc<Self>,
        mut views: watch::Receiver<Arc<View>>,
        ask_every: Duration,
    ) {
        let mut ask_at = Instant::now();
        let mut asked = self.fleet.nsqlookupds().is_empty();
        let mut warned = false;
        // A look that was under way when this topic was first asked for may not have asked for it.
        let too_early = self.fleet.looks();
        self.completed.known().await;
        loop {
            let view = Arc::clone(&views.borrow_and_update());
            if view.look <= too_early {
                match views.changed().await {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            }
            if ask_at <= Instant::now() {
                asked |= self.ask_lookupds().await;
                ask_at = Instant::now() + ask_every;
            }
            let todo = self.merge(&view);
            let unseen = view.never_seen.iter().filter(|address| !self.choice.left_out.contains(*address));
            let missing: Vec<&str> = unseen.map(HttpAddress::as_str).collect();
            if !missing.is_empty() {
                let reason = format!(
                    "nsqds that have not answered yet, whose channels are unknown: {}",
                    missing.join(", ")
                );
                if !std::mem::replace(&mut warned, true) {
                    warn!(topic = %self.topic, "waiting for {reason}. Start them, or leave them out");
                }
                self.state().waiting = Some(reason);
            } else if asked {
                join_all(todo.into_iter().map(|todo| self.prepare(todo))).await;
            }
            // Whoever waits looks again: depths have changed, if nothing else has.
            self.changed.notify_waiters();
            tokio::select! {
                changed = views.changed() => if changed.is_err() {
                    return;
                },
                () = tokio::time::sleep_until(ask_at) => {}
            }
        }
    }

    /// Takes over the channels nsqlookupd knows, which outlive their nsqds; whether any of them answered.
    async fn ask_lookupds(&self) -> bool {
        let asks = self.fleet.nsqlookupds().iter().map(|lookupd: &Nsqlookupd| lookupd.channels(&self.topic));
        let mut answered = false;
        for answer in join_all(asks).await {
            match answer {
                Ok(channels) => {
                    answered = true;
                    let wanted = |channel: &ChannelName| !channel.is_ephemeral() && self.creates(channel);
                    self.state().channels.extend(channels.into_iter().filter(wanted));
                }
                Err(error) => debug!(topic = %self.topic, %error, "channels not asked"),
            }
        }
        answered
    }

    /// Takes over a view; returns what has to be done to make nsqds ready.
    fn merge(&self, view: &View) -> Vec<Todo> {
        let mut state = self.state();
        let listed = state.homes.of(view, &self.topic);
        let addresses: BTreeSet<&HttpAddress> = listed.iter().map(|seen| seen.nsqd.address()).collect();
        state.nodes.retain(|address, _| {
            let keep = addresses.contains(address);
            if !keep {
                info!(topic = %self.topic, nsqd = %address, "no longer a destination");
            }
            keep
        });
        let mut paused = BTreeSet::new();
        state.channels.retain(|channel| !self.is_completed(channel));
        let new = state.watched.look(view.look);
        for Seen { nsqd, process, .. } in view.nsqds.values() {
            let Ok(process) = process else { continue };
            let seen = process.topic(&self.topic);
            let counters = seen.counters.without(&self.parked(&seen));
            state.channels.extend(seen.channels.into_iter().filter(|channel| self.creates(channel)));
            paused.extend(seen.paused);
            let known = Process { nsqd: nsqd.address().clone(), start_time: process.start_time };
            if new && state.watched.see(known, &counters) {
                warn!(topic = %self.topic, nsqd = %nsqd.address(),
                    "this nsqd has started again; what it may have lost is relayed again");
            }
        }
        state.watched.tidy();
        let all = state.channels.clone();
        listed.into_iter().filter_map(|seen| self.merge_one(&mut state, seen, &all, &paused)).collect()
    }

    fn merge_one(
        &self,
        state: &mut State,
        seen: &Seen,
        all: &BTreeSet<ChannelName>,
        paused: &BTreeSet<ChannelName>,
    ) -> Option<Todo> {
        let address = seen.nsqd.address();
        let node = state.nodes.entry(address.clone()).or_insert_with(|| {
            info!(topic = %self.topic, nsqd = %address, "destination found");
            Node::new(seen.nsqd.clone())
        });
        let process = match &seen.process {
            Ok(process) => process,
            Err(reason) => {
                node.trouble = Some(reason.clone());
                // It may only be slow, and may be all there is; but whoever answers comes first.
                node.avoid_until = Instant::now() + 2 * PENALTY;
                return None;
            }
        };
        let topic = process.topic(&self.topic);
        node.taken_in = topic.channels.iter().any(is_intake);
        node.depth = topic.waiting(&self.parked(&topic));
        node.sent = 0;
        let missing: Vec<_> = all.difference(&topic.channels).cloned().collect();
        if !missing.is_empty() || !node.is_prepared_as(process.start_time) {
            // A channel came up elsewhere, or another process is there: nothing goes there until it has them all.
            node.prepared = None;
            node.idle.clear();
        }
        if !state.watched.is_told_apart(address) {
            node.trouble = Some("has just started".to_owned());
            self.fleet.look_soon();
            return None;
        }
        if let Some(prepared) = &mut node.prepared {
            node.trouble = None;
            // It has all of them, those included that came up there by themselves.
            prepared.channels.clone_from(all);
            return None;
        }
        Some(Todo {
            nsqd: node.nsqd.clone(),
            paused: missing.iter().filter(|channel| paused.contains(channel)).cloned().collect(),
            missing,
            prepared: Prepared {
                channels: all.clone(),
                start_time: process.start_time,
                tcp_address: process.tcp_address.clone(),
            },
        })
    }

    /// Creates what an nsqd lacks.
    async fn prepare(&self, Todo { nsqd, missing, paused, prepared }: Todo) {
        let created = async {
            nsqd.create_topic(&self.topic).await?;
            for channel in &missing {
                nsqd.create_channel(&self.topic, channel).await?;
                // Paused elsewhere, it is paused here before its first message: its consumer may have moved.
                if paused.contains(channel) {
                    nsqd.pause_channel(&self.topic, channel).await?;
                }
                info!(topic = %self.topic, nsqd = %nsqd.address(), %channel, "channel created");
            }
            nsqd.info().await
        };
        let created: Result<_, HttpError> = created.await;
        let mut state = self.state();
        let Some(node) = state.nodes.get_mut(nsqd.address()) else { return };
        match created {
            Ok(info) if info.start_time == prepared.start_time => {
                debug!(topic = %self.topic, nsqd = %nsqd.address(), "ready");
                node.prepared = Some(prepared);
                node.trouble = None;
            }
            // Another process by now: the next look will tell.
            Ok(_) => self.fleet.look_soon(),
            Err(error) => node.trouble = Some(error.to_string()),
        }
    }

    fn is_completed(&self, channel: &ChannelName) -> bool {
        self.completed.has(&self.names.completed_group(&self.topic, channel))
    }

    /// Whether a channel that is on one nsqd belongs on all of them.
    fn creates(&self, channel: &ChannelName) -> bool {
        !is_intake(channel) && !self.is_completed(channel)
    }

    /// The channels whose consumers are RocketMQ's by now: paused behind a barrier. They wait for nobody, so nobody waits for
    /// them, and what they hold is not relayed again for their sake: every other channel would get it twice.
    fn parked(&self, seen: &TopicSeen) -> BTreeSet<ChannelName> {
        let parked =
            |channel: &&ChannelName| self.completed.has(&self.names.barrier_group(&self.topic, channel));
        seen.paused.iter().filter(parked).cloned().collect()
    }
}
