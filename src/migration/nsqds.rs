//! The nsqds of a topic: what they count, and a channel's pause.
//!
//! nsqd's counters are the only proof there is that a consumer has everything. A message on its way from topic to channel, or between two
//! states of a channel, is in none of them for a moment; so a channel counts as quiet only when it was seen empty twice,
//! [`APART`] or more, with the same counts of what was published, put back and timed out.
//!
//! Where producers publish straight to an nsqd with an intake, these are not the counts of the topic, which grow, but of what came to the channel
//! and to the intake's: see [`super::intakes`].

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};

use futures_util::future::{join_all, try_join_all};

use super::{
    lock::Lock,
    refusal::{Reason, Trouble},
};
use crate::{
    mapping::is_intake,
    nsq::{
        address::HttpAddress,
        names::{ChannelName, TopicName},
        nsqd::{ChannelStats, HttpError, Nsqd, Stats},
        nsqlookupd::Nsqlookupd,
    },
    retry::Backoff,
};

/// Two looks that prove something are this far apart.
pub(super) const APART: Duration = Duration::from_secs(1);
/// What has to be done on every nsqd is tried so often on each.
const TRIES: usize = 5;

/// The nsqds that have a topic, or may have.
#[derive(Debug, Clone)]
pub(super) struct Nsqds {
    all: Vec<Nsqd>,
    /// What else some of them are called.
    aliases: BTreeMap<HttpAddress, Vec<HttpAddress>>,
    topic: TopicName,
    channel: ChannelName,
}

/// All of them at one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look(pub(super) BTreeMap<HttpAddress, NsqdLook>);

/// One nsqd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NsqdLook {
    /// Other addresses it is known by.
    aliases: Vec<HttpAddress>,
    pub(super) start_time: i64,
    /// None where the topic is not.
    pub(super) topic: Option<TopicLook>,
}

/// Its topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicLook {
    published: u64,
    depth: u64,
    paused: bool,
    pub(super) channel: Option<ChannelLook>,
    /// What is taken in there.
    intake: Option<IntakeLook>,
    /// Its other channels.
    pub(super) others: usize,
}

/// The channels of intakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct IntakeLook {
    /// Messages in whatever state, and those of them that wait for their time.
    messages: u64,
    deferred: u64,
    received: u64,
    put_back: u64,
    is_connected: bool,
}

/// The channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChannelLook {
    pub(super) depth: u64,
    pub(super) in_flight: u64,
    pub(super) deferred: u64,
    received: u64,
    put_back: u64,
    pub(super) paused: bool,
}

impl ChannelLook {
    /// Messages that wait, that are in flight, and that are deferred.
    fn messages(self) -> [u64; 3] {
        [self.depth, self.in_flight, self.deferred]
    }
}

/// What every nsqd process has had published; where it is taken in, what came to the channel and to the intake's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Published(BTreeMap<HttpAddress, Count>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    start_time: i64,
    taken_in: bool,
    messages: u64,
}

impl Published {
    /// Why it is not what it was.
    pub(super) fn compare(&self, now: &Published) -> Result<(), Trouble> {
        for (nsqd, before) in &self.0 {
            let (reason, detail) = match now.0.get(nsqd) {
                Some(after) if after == before => continue,
                Some(after) if after.start_time == before.start_time => {
                    let more = after.messages.saturating_sub(before.messages);
                    match (before.taken_in, after.taken_in) {
                        (true, true) => (
                            Reason::FenceLost,
                            format!(
                                "{more} messages went to channels of {nsqd}, though the topic was paused"
                            ),
                        ),
                        (false, false) => (
                            Reason::BypassProducerDetected,
                            format!("{more} messages were published to {nsqd}, and the relay sent none"),
                        ),
                        _ => (Reason::NsqdsChanged, format!("an intake of {nsqd} began or was ended")),
                    }
                }
                _ => (Reason::NsqdRestarted, format!("{nsqd} restarted")),
            };
            return Err(Trouble::new(reason, detail));
        }
        Ok(())
    }

    /// The part of nsqds that are taken in.
    pub(super) fn taken_in(mut self) -> Self {
        self.0.retain(|_, count| count.taken_in);
        self
    }
}

impl Look {
    /// The process that somebody knows by this address.
    pub(super) fn of(&self, address: &str) -> Option<&NsqdLook> {
        let is_it = |(known, look): &(&HttpAddress, &NsqdLook)| {
            known.as_str() == address || look.aliases.iter().any(|alias| alias.as_str() == address)
        };
        self.0.iter().find(is_it).map(|(_, look)| look)
    }

    /// What was published.
    pub(super) fn published(&self) -> Published {
        let count = |look: &NsqdLook| {
            let (start_time, topic) = (look.start_time, look.topic.as_ref());
            let (taken_in, messages) = match topic.map(|topic| (topic, topic.intake)) {
                None => (false, 0),
                Some((topic, None)) => (false, topic.published),
                Some((topic, Some(intake))) => {
                    (true, intake.received + topic.channel.map_or(0, |channel| channel.received))
                }
            };
            Count { start_time, taken_in, messages }
        };
        Published(self.0.iter().map(|(nsqd, look)| (nsqd.clone(), count(look))).collect())
    }

    /// How often messages were put back, by intakes as well.
    pub(super) fn put_back(&self) -> u64 {
        let by_intakes: u64 = self.intakes().map(|(_, _, intake)| intake.put_back).sum();
        self.channels().map(|(_, channel)| channel.put_back).sum::<u64>() + by_intakes
    }

    fn intakes(&self) -> impl Iterator<Item = (&HttpAddress, &TopicLook, IntakeLook)> {
        self.topics().filter_map(|(nsqd, topic)| Some((nsqd, topic, topic.intake?)))
    }

    /// The nsqds the topic is taken in from.
    pub(super) fn taken_in(&self) -> impl Iterator<Item = &HttpAddress> {
        self.intakes().map(|(nsqd, ..)| nsqd)
    }

    /// Whether the channel holds more, somewhere, than an intake beside it was given since it began: messages of producers that were there
    /// before it, and that RocketMQ has not.
    pub(super) fn is_beyond_intakes(&self) -> bool {
        self.intakes().any(|(_, topic, intake)| {
            topic.channel.is_some_and(|channel| channel.messages().iter().sum::<u64>() > intake.received)
        })
    }

    /// Whether an intake is connected wherever there is a channel of one.
    pub(super) fn intakes_run(&self) -> Result<(), Trouble> {
        match self.intakes().find(|(_, _, intake)| !intake.is_connected) {
            Some((nsqd, ..)) => {
                let detail = format!("{nsqd} has an intake's channel, and no intake is connected to it");
                Err(Trouble::new(Reason::IntakeSilent, detail))
            }
            None => Ok(()),
        }
    }

    /// Whether everything that came to intakes is stored, and nothing more comes to them.
    pub(super) fn is_stored(&self) -> Result<(), Trouble> {
        for (nsqd, topic, IntakeLook { messages, deferred, .. }) in self.intakes() {
            if !topic.paused {
                return Err(Trouble::new(Reason::FenceLost, format!("the topic is not paused on {nsqd}")));
            }
            if messages > 0 && messages == deferred {
                let detail = format!(
                    "{nsqd}: {deferred} were put off, by their producers or as RocketMQ refuses them"
                );
                return Err(Trouble::new(Reason::DeferredMessagesPending, detail));
            }
            if messages > 0 {
                let detail = format!("{nsqd}: {messages} messages are not stored in RocketMQ yet");
                return Err(Trouble::new(Reason::IntakeLags, detail));
            }
        }
        Ok(())
    }

    /// The channel wherever it is.
    pub(super) fn channels(&self) -> impl Iterator<Item = (&HttpAddress, ChannelLook)> {
        self.0.iter().filter_map(|(nsqd, look)| Some((nsqd, look.topic.as_ref()?.channel?)))
    }

    fn topics(&self) -> impl Iterator<Item = (&HttpAddress, &TopicLook)> {
        self.0.iter().filter_map(|(nsqd, look)| Some((nsqd, look.topic.as_ref()?)))
    }

    /// An nsqd where the topic has other channels.
    pub(super) fn others(&self) -> Option<&HttpAddress> {
        self.topics().find(|(_, topic)| topic.others > 0).map(|(nsqd, _)| nsqd)
    }

    /// Whether the same nsqds have the topic as before, each with the channel, paused: an nsqd that came meanwhile would deliver it.
    pub(super) fn is_paused_as(&self, before: &Self) -> Result<(), Trouble> {
        let names = |look: &Self| look.topics().map(|(nsqd, _)| nsqd.clone()).collect::<Vec<_>>();
        if names(self) != names(before) {
            return Err(Trouble::new(Reason::NsqdsChanged, "an nsqd that has the topic came or went"));
        }
        self.is_complete()?;
        match self.channels().find(|(_, channel)| !channel.paused) {
            Some((nsqd, _)) => {
                Err(Trouble::new(Reason::NsqdsChanged, format!("{nsqd} delivers the channel")))
            }
            None => Ok(()),
        }
    }

    /// Messages of the channel, over all nsqds: waiting, in flight, deferred.
    pub(super) fn messages(&self) -> [u64; 3] {
        self.channels()
            .map(|(_, channel)| channel.messages())
            .fold([0; 3], |[a, b, c], [x, y, z]| [a + x, b + y, c + z])
    }

    /// Messages of the channel in whatever state, and those the relay has on their way to it.
    pub(super) fn held(&self) -> u64 {
        let relayed = self.topics().filter(|(_, topic)| topic.intake.is_none());
        self.messages().iter().sum::<u64>() + relayed.map(|(_, topic)| topic.depth).sum::<u64>()
    }

    /// Messages that wait in the topic itself.
    pub(super) fn uncopied(&self) -> u64 {
        self.topics().map(|(_, topic)| topic.depth).sum()
    }

    /// Whether everything was copied to the channels that will be for now.
    pub(super) fn is_copied(&self) -> Result<(), Trouble> {
        self.is_stored()?;
        for (nsqd, topic) in self.topics().filter(|(_, topic)| topic.intake.is_none()) {
            if topic.paused {
                return Err(Trouble::new(Reason::TopicPaused, format!("on {nsqd}")));
            }
            if topic.depth > 0 {
                let detail = format!("{nsqd}: {} messages wait in the topic", topic.depth);
                return Err(Trouble::new(Reason::NsqChannelNotDrained, detail));
            }
        }
        Ok(())
    }

    /// Whether the channel's consumers have everything, as far as one look can tell.
    pub(super) fn is_empty(&self) -> Result<(), Trouble> {
        self.is_copied()?;
        for (nsqd, ChannelLook { depth, in_flight, deferred, .. }) in self.channels() {
            let detail =
                format!("{nsqd}: {depth} messages wait, {in_flight} are in flight, {deferred} deferred");
            match (depth + in_flight, deferred) {
                (0, 0) => {}
                (0, _) => return Err(Trouble::new(Reason::DeferredMessagesPending, detail)),
                _ => return Err(Trouble::new(Reason::NsqChannelNotDrained, detail)),
            }
        }
        Ok(())
    }

    /// Whether the channel is wherever the topic is.
    pub(super) fn is_complete(&self) -> Result<(), Trouble> {
        let missing = |detail: String| Err(Trouble::new(Reason::ChannelMissingOnNsqd, detail));
        if self.channels().next().is_none() {
            return missing(format!("none of {} nsqds has it", self.0.len()));
        }
        match self.topics().find(|(_, topic)| topic.channel.is_none()) {
            Some((nsqd, _)) => missing(format!("{nsqd} has the topic, and not the channel")),
            None => Ok(()),
        }
    }
}

impl Nsqds {
    /// The nsqds given, those nsqlookupd lists, and those the relays know: each process once, or what it holds would count twice.
    ///
    /// # Errors
    /// When an nsqlookupd does not answer: nobody would know which nsqds it lists.
    pub(super) async fn find(
        topic: &TopicName,
        channel: &ChannelName,
        given: &[Nsqd],
        nsqlookupds: &[Nsqlookupd],
        known: impl IntoIterator<Item = HttpAddress>,
    ) -> Result<Self, Trouble> {
        let mut all: BTreeMap<HttpAddress, Nsqd> =
            given.iter().map(|nsqd| (nsqd.address().clone(), nsqd.clone())).collect();
        for address in known {
            all.entry(address.clone()).or_insert_with(|| Nsqd::new(address));
        }
        for answer in join_all(nsqlookupds.iter().map(Nsqlookupd::nodes)).await {
            let nodes =
                answer.map_err(|error| Trouble::new(Reason::NsqlookupdUnavailable, error.to_string()))?;
            // One that is tombstoned for the topic gets nothing more, and may have messages all the same.
            for node in nodes.into_iter().filter(|node| node.topics.contains(topic)) {
                all.entry(node.address.clone()).or_insert_with(|| Nsqd::new(node.address));
            }
        }
        let infos = join_all(all.values().map(Nsqd::info)).await;
        let (mut processes, mut aliases) = (BTreeMap::new(), BTreeMap::<_, Vec<_>>::new());
        let each_once = all.into_values().zip(&infos).filter(|(nsqd, info)| {
            // Whoever looks will hear of one that does not answer.
            let Ok(info) = info else { return true };
            let address = nsqd.address().clone();
            match processes.entry(info.process()) {
                Entry::Vacant(new) => {
                    new.insert(address);
                    true
                }
                Entry::Occupied(known) => {
                    aliases.entry(known.get().clone()).or_default().push(address);
                    false
                }
            }
        });
        let all = each_once.map(|(nsqd, _)| nsqd).collect();
        Ok(Self { all, aliases, topic: topic.clone(), channel: channel.clone() })
    }

    /// These and others.
    pub(super) fn and(mut self, others: &Self) -> Self {
        let known = |nsqd: &&Nsqd| !self.all.iter().any(|known| known.address() == nsqd.address());
        let more: Vec<Nsqd> = others.all.iter().filter(known).cloned().collect();
        self.all.extend(more);
        self
    }

    /// The nsqds the topic is taken in from, and whether it is paused there.
    pub(super) fn taken_in<'a>(&'a self, look: &'a Look) -> impl Iterator<Item = (&'a Nsqd, bool)> {
        self.all.iter().filter_map(|nsqd| {
            look.intakes()
                .find(|(address, ..)| *address == nsqd.address())
                .map(|(_, topic, _)| (nsqd, topic.paused))
        })
    }

    /// The same nsqds, and a channel of the same name of another topic.
    pub(super) fn of(&self, topic: &TopicName) -> Self {
        Self { topic: topic.clone(), ..self.clone() }
    }

    /// Asks all of them.
    ///
    /// # Errors
    /// When one does not answer.
    pub(super) async fn look(&self) -> Result<Look, Trouble> {
        let looks = self.all.iter().map(async |nsqd| {
            let stats = nsqd.stats(Some(&self.topic)).await?;
            Ok::<_, HttpError>((nsqd.address().clone(), self.read(nsqd.address(), &stats)))
        });
        Ok(Look(try_join_all(looks).await?.into_iter().collect()))
    }

    fn read(&self, address: &HttpAddress, stats: &Stats) -> NsqdLook {
        let topic = stats.topics.iter().find(|topic| topic.topic_name == self.topic.as_str()).map(|topic| {
            let of_channel = topic.channels.iter().find(|of| of.channel_name == self.channel.as_str());
            let channel = of_channel.map(|channel| ChannelLook {
                depth: channel.depth,
                in_flight: channel.in_flight_count,
                deferred: channel.deferred_count,
                received: channel.message_count,
                put_back: channel.requeue_count + channel.timeout_count,
                paused: channel.paused,
            });
            let takes_in = |of: &&ChannelStats| of.channel_name.parse().is_ok_and(|name| is_intake(&name));
            let intake = topic.channels.iter().filter(takes_in).fold(None, |sum: Option<IntakeLook>, of| {
                let sum = sum.unwrap_or(IntakeLook { is_connected: true, ..IntakeLook::default() });
                Some(IntakeLook {
                    messages: sum.messages + of.depth + of.in_flight_count + of.deferred_count,
                    deferred: sum.deferred + of.deferred_count,
                    received: sum.received + of.message_count,
                    put_back: sum.put_back + of.requeue_count + of.timeout_count,
                    is_connected: sum.is_connected && of.client_count.unwrap_or(of.clients.len()) > 0,
                })
            });
            TopicLook {
                published: topic.message_count,
                intake,
                depth: topic.depth,
                paused: topic.paused,
                others: topic.channels.len() - usize::from(channel.is_some()),
                channel,
            }
        });
        let aliases = self.aliases.get(address).cloned().unwrap_or_default();
        NsqdLook { aliases, start_time: stats.start_time, topic }
    }

    /// Creates the topic and the channel on every one of them.
    pub(super) async fn create(&self) -> Result<(), Trouble> {
        self.on_each(None, &Look(BTreeMap::new()), async |nsqd| {
            nsqd.create_topic(&self.topic).await?;
            nsqd.create_channel(&self.topic, &self.channel).await
        })
        .await
    }

    /// Pauses the channel wherever it is.
    pub(super) async fn pause(&self, lock: &Lock, at: &Look) -> Result<(), Trouble> {
        self.on_each(Some(lock), at, async |nsqd| nsqd.pause_channel(&self.topic, &self.channel).await).await
    }

    /// Lets it deliver again wherever it is.
    pub(super) async fn unpause(&self, lock: &Lock, at: &Look) -> Result<(), Trouble> {
        self.on_each(Some(lock), at, async |nsqd| nsqd.unpause_channel(&self.topic, &self.channel).await)
            .await
    }

    /// Drops what it has wherever it is.
    pub(super) async fn empty(&self, lock: &Lock, at: &Look) -> Result<(), Trouble> {
        self.on_each(Some(lock), at, async |nsqd| nsqd.empty_channel(&self.topic, &self.channel).await).await
    }

    /// Deletes it on every one of them; without a lock where nobody else moves it.
    pub(super) async fn delete_everywhere(&self, lock: Option<&Lock>) -> Result<(), Trouble> {
        let all = Look(BTreeMap::new());
        self.on_each(lock, &all, async |nsqd| nsqd.delete_channel(&self.topic, &self.channel).await).await
    }

    /// All of them.
    pub(super) fn all(&self) -> &[Nsqd] {
        &self.all
    }

    /// Does it on every nsqd that has the channel by `at`, or on all when that is empty; each is tried a few times, for as long as the lock
    /// is held.
    async fn on_each(
        &self,
        lock: Option<&Lock>,
        at: &Look,
        act: impl AsyncFn(&Nsqd) -> Result<(), HttpError>,
    ) -> Result<(), Trouble> {
        let act = async |nsqd: &Nsqd| {
            if let Some(lock) = lock {
                lock.keep().await?;
            }
            Ok::<_, Trouble>(act(nsqd).await?)
        };
        let has =
            |nsqd: &&Nsqd| at.0.is_empty() || at.channels().any(|(address, _)| address == nsqd.address());
        let acts = self.all.iter().filter(has).map(async |nsqd| {
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
            for _ in 1..TRIES {
                match act(nsqd).await {
                    Err(trouble) if !trouble.is_over() => backoff.wait().await,
                    done => return done,
                }
            }
            act(nsqd).await
        });
        // All of them, even when one fails: the fewer are left half done, the better.
        join_all(acts).await.into_iter().collect()
    }
}
