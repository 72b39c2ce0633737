//! The fence around a topic's relay, as its driver holds it, and around the relay of what is left of a share as well.
//!
//! It is told to every instance again and again, so that one that has just come is fenced as well, and the lease does not end while the
//! driver lives. Whether it holds is no matter of belief: [`Fence::settled`] says that every queue is relayed by an instance that obeys
//! *this* fence, and stands still with all it sent confirmed and committed.

use std::{collections::BTreeMap, time::Duration};

use super::{
    nsqds::Look,
    refusal::{Reason, Trouble},
    subject::{Places, Subject},
};
use crate::{
    mapping::Feed,
    transfer::{
        control::{Change, Instance},
        fence::{FenceLimit, FenceOrder},
        state::{QueueReport, TopicReport},
    },
};

/// A driver that dies holds the relay up for as long at most.
const LEASE: Duration = Duration::from_secs(10);

/// A driver's fence.
#[derive(Debug)]
pub(super) struct Fence<'a> {
    subject: &'a Subject,
    owner: String,
    feeds: Vec<Feed>,
    limits: Vec<FenceLimit>,
}

/// What the instances of each relay say.
pub(super) type Told = BTreeMap<Feed, Vec<Instance>>;

impl<'a> Fence<'a> {
    /// A fence that stops every queue of these relays where it stands. Nobody has heard of it before it is renewed.
    pub(super) fn new(subject: &'a Subject, feeds: Vec<Feed>) -> Self {
        Self { subject, owner: subject.cluster.config().client_id.clone(), feeds, limits: Vec::new() }
    }

    /// Lets every queue go on up to these places.
    pub(super) fn follow(&mut self, places: &Places) {
        let limit = |(queue, offset): (&crate::rocketmq::Queue, &i64)| FenceLimit {
            broker: queue.broker.clone(),
            queue: queue.id,
            offset: *offset,
        };
        self.limits = places.iter().map(limit).collect();
    }

    /// Tells every instance; what they say.
    pub(super) async fn renew(&self) -> Result<Told, Trouble> {
        let lease_ms = u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX);
        let order = FenceOrder { owner: self.owner.clone(), lease_ms, limits: self.limits.clone() };
        self.tell(Change::Fence(order)).await
    }

    /// Lets the relay go on. Where that is not heard the lease ends.
    pub(super) async fn lift(&self) {
        if let Err(trouble) = self.tell(Change::Lift(self.owner.clone())).await {
            tracing::warn!(%trouble, "the fence could not be lifted; it ends with its lease");
        }
    }

    async fn tell(&self, change: Change) -> Result<Told, Trouble> {
        let mut told = Told::new();
        for feed in &self.feeds {
            let instances = self.subject.relays(feed, Some(change.clone())).await?;
            told.insert(feed.clone(), instances);
        }
        Ok(told)
    }

    /// Where a relay stands, once it stands still with all it sent confirmed and committed. `look` was taken after the instances
    /// answered.
    ///
    /// # Errors
    /// Why it does not yet.
    pub(super) async fn settled(&self, feed: &Feed, told: &Told, look: &Look) -> Result<Places, Trouble> {
        let mut reports: BTreeMap<(&str, i32), &QueueReport> = BTreeMap::new();
        for Instance { id, report } in told.get(feed).into_iter().flatten() {
            let report = report
                .as_ref()
                .map_err(|reason| Trouble::new(Reason::RelaySilent, format!("{id}: {reason}")))?;
            self.is_obeyed(id, report)?;
            has_nothing_to_repeat(report, look)?;
            for queue in &report.queues {
                if reports.insert((&queue.broker, queue.queue), queue).is_some() {
                    let detail = format!("{} {} changes hands", queue.broker, queue.queue);
                    return Err(Trouble::new(Reason::RelayInFlight, detail));
                }
            }
        }
        let mut places = Places::new();
        let committed = self.subject.places_of(&self.subject.feed_group(feed)).await?;
        for (queue, committed) in committed {
            let Some(report) = reports.get(&(&*queue.broker, queue.id)) else {
                let detail = format!("{queue} is relayed by nobody for {}", feed.topic());
                return Err(Trouble::new(Reason::RelayMissing, detail));
            };
            stands_still(report, committed)?;
            places.insert(queue, committed);
        }
        Ok(places)
    }

    fn is_obeyed(&self, id: &str, report: &TopicReport) -> Result<(), Trouble> {
        match &report.fence {
            Some(fence) if fence.owner == self.owner => Ok(()),
            Some(fence) => {
                let detail = format!("{id} obeys {} for {} ms yet", fence.owner, fence.left_ms);
                Err(Trouble::new(Reason::RelaySilent, detail))
            }
            None => Err(Trouble::new(Reason::FenceLost, format!("{id} is not fenced; an older version?"))),
        }
    }
}

/// Whether the relay stands exactly at these places.
///
/// # Errors
/// [`Reason::RelayAhead`], which no waiting mends, or that it is not there yet.
pub(super) fn follows(places: &Places, wanted: &Places) -> Result<(), Trouble> {
    if places.iter().any(|(queue, at)| wanted.get(queue).is_none_or(|wanted| at > wanted)) {
        return Err(Trouble::new(Reason::RelayAhead, "the relay is further than it was let go"));
    }
    if places != wanted {
        let left: i64 = wanted.iter().map(|(queue, wanted)| wanted - places.get(queue).unwrap_or(&0)).sum();
        return Err(Trouble::new(Reason::RelayInFlight, format!("the relay has {left} messages before it")));
    }
    Ok(())
}

fn stands_still(report: &QueueReport, committed: i64) -> Result<(), Trouble> {
    let queue = format!("{} {}", report.broker, report.queue);
    if let Some(reason) = &report.held {
        return Err(Trouble::new(Reason::RelayHeld, format!("{queue}: {reason}")));
    }
    if report.replaying {
        return Err(Trouble::new(Reason::UndrainedMessages, format!("{queue}: messages are relayed again")));
    }
    if report.sent != report.relayed || report.relayed != report.committed || report.committed != committed {
        let detail = format!("{queue}: messages are on their way to nsqd");
        return Err(Trouble::new(Reason::RelayInFlight, detail));
    }
    Ok(())
}

/// What an nsqd process that is gone may have lost will be relayed again, into a channel nobody would read any more.
pub(super) fn has_nothing_to_repeat(report: &TopicReport, look: &Look) -> Result<(), Trouble> {
    for undrained in &report.undrained {
        if look.of(&undrained.nsqd).is_none_or(|seen| seen.start_time != undrained.start_time) {
            let detail =
                format!("{} messages that {} may have lost when it went", undrained.messages, undrained.nsqd);
            return Err(Trouble::new(Reason::UndrainedMessages, detail));
        }
    }
    Ok(())
}
