//! Whether what an nsqd was given has left it, as far as its counters can tell.
//!
//! nsqd tells no one which messages it has. It counts, for each channel, what came (published, put back by consumers, timed out), what
//! waits, what is deferred and what is in flight. So a *mark* is taken at one look, and later looks show when everything that was
//! there at the mark must have gone, one stage after the other:
//!
//! 1. *Copied*: what waited in the topic at the mark has been copied to its channels.
//! 2. *Handed out*: what waited in a channel, at a look at which it had nothing deferred, has gone to consumers.
//! 3. *Finished*: nothing of it is in flight any more, or it has been in flight for longer than consumers may keep a message, and
//!    nothing was put back since stage 2 began.
//!
//! A message put back begins again with 2. A channel whose consumers put messages back all the time would never get through: an
//! hour ([`LONGEST_DELAY`]) after it has handed out what waited at the mark, that is enough. It is one of two things taken on trust: that
//! no message is put back again and again for longer than that while the channel is never seen without put-backs. The other is the order
//! of what waits ([`Line`]).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use crate::nsq::{
    names::ChannelName,
    nsqd::{ChannelStats, TopicStats},
};

/// nsqd's `--max-req-timeout`, by default: the longest a consumer may put a message back for.
const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// A message is on its way from one count to the next for less than this, so looks closer to each other count as one.
const HAND_OVER: Duration = Duration::from_secs(1);

/// nsqd looks now and then for messages whose time in flight is over.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);

/// While one mark waits for what is in flight, so many are taken.
const MARKS: u32 = 16;

/// What one nsqd process told of one topic at one look.
#[derive(Debug, Default, Clone)]
pub(in crate::transfer) struct Counters {
    depth: u64,
    published: u64,
    channels: BTreeMap<ChannelName, Channel>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Channel {
    /// Published, put back and timed out.
    came: u64,
    put_back: u64,
    waiting: u64,
    deferred: u64,
    in_flight: u64,
}

impl From<&TopicStats> for Counters {
    fn from(topic: &TopicStats) -> Self {
        let channel = |stats: &ChannelStats| {
            let put_back = stats.requeue_count + stats.timeout_count;
            let counted = Channel {
                came: stats.message_count + put_back,
                put_back,
                waiting: stats.depth,
                deferred: stats.deferred_count,
                in_flight: stats.in_flight_count,
            };
            let name: ChannelName = stats.channel_name.parse().ok()?;
            // An ephemeral channel promises nothing.
            (!name.is_ephemeral()).then_some((name, counted))
        };
        Self {
            depth: topic.depth,
            published: topic.message_count,
            channels: topic.channels.iter().filter_map(channel).collect(),
        }
    }
}

impl Counters {
    /// Without the channels that wait for nobody.
    pub(in crate::transfer) fn without(&self, parked: &BTreeSet<ChannelName>) -> Self {
        let channels = self.channels.iter().filter(|(name, _)| !parked.contains(*name));
        Self { channels: channels.map(|(name, channel)| (name.clone(), *channel)).collect(), ..*self }
    }

    fn line(&self) -> Line {
        // What nsqd found on its disk when it started is in `depth` and not in `published`: then the line is found to move later.
        Line { out: self.published.saturating_sub(self.depth), waiting: self.depth }
    }
}

impl Channel {
    fn handed_out(&self) -> u64 {
        self.came.saturating_sub(self.waiting + self.deferred)
    }

    fn line(&self) -> Line {
        Line { out: self.handed_out(), waiting: self.waiting }
    }
}

/// What waited at one look, and how much had gone out by then.
///
/// nsqd takes from two lines, memory and disk, each in order, and when both have something by the toss of a coin. So what has
/// come since may go first; but when [`Self::MARGIN`] more than three times as much has gone out as had waited, all of that is out
/// but for a chance of less than 2^-90.
#[derive(Debug, Clone, Copy)]
struct Line {
    out: u64,
    waiting: u64,
}

impl Line {
    const MARGIN: u64 = 100;

    fn is_through(&self, now: Line) -> bool {
        now.waiting == 0 || now.out.saturating_sub(self.out) >= 3 * self.waiting + Self::MARGIN
    }
}

/// Watches one topic of one nsqd process.
#[derive(Debug)]
pub(in crate::transfer) struct DrainWatch {
    longest_in_flight: Duration,
    drained: u64,
    /// When the last look was taken over.
    seen: Option<Instant>,
    /// The oldest first.
    marks: VecDeque<Mark>,
}

#[derive(Debug)]
struct Mark {
    look: u64,
    at: Instant,
    topic: Line,
    copied: bool,
    /// The channels there were when all was copied.
    channels: Option<BTreeMap<ChannelName, Passage>>,
}

/// How far a channel is with what had come by the mark.
#[derive(Debug)]
struct Passage {
    at_mark: Line,
    /// Since when what waited at the mark has been handed out, once at least.
    counted: Option<Instant>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Until nothing is deferred.
    Deferred,
    /// Until what waited then is handed out.
    HandingOut {
        then: Line,
        put_back: u64,
    },
    /// Until nothing handed out by then is in flight.
    Finishing {
        since: Instant,
        put_back: u64,
    },
    Passed,
}

impl DrainWatch {
    /// `longest_in_flight` is how long a consumer may keep a message.
    pub(in crate::transfer) fn new(longest_in_flight: Duration) -> Self {
        let longest_in_flight = longest_in_flight + NOTICED_WITHIN;
        Self { longest_in_flight, drained: 0, seen: None, marks: VecDeque::new() }
    }

    /// What was in the nsqd when the look of this number began has left it; 0 for nothing.
    pub(in crate::transfer) fn drained(&self) -> u64 {
        self.drained
    }

    /// Takes over a look.
    pub(in crate::transfer) fn see(&mut self, look: u64, counters: &Counters, now: Instant) {
        if self.seen.is_some_and(|seen| now.duration_since(seen) < HAND_OVER) {
            return;
        }
        self.seen = Some(now);
        let longest = self.longest_in_flight;
        let mut passed = 0;
        for (n, mark) in self.marks.iter_mut().enumerate() {
            if mark.passes(counters, longest, now) {
                self.drained = mark.look;
                passed = n + 1;
            }
        }
        // What is gone by a mark is gone by every earlier one.
        self.marks.drain(..passed);
        if self.marks.back().is_none_or(|last| now.duration_since(last.at) >= longest / MARKS) {
            self.marks.push_back(Mark {
                look,
                at: now,
                topic: counters.line(),
                copied: false,
                channels: None,
            });
        }
    }
}

impl Mark {
    fn passes(&mut self, counters: &Counters, longest_in_flight: Duration, now: Instant) -> bool {
        if !self.copied {
            self.copied = self.topic.is_through(counters.line());
            // One message may be on its way from the topic to its channels, and in no count.
            return false;
        }
        let channels = self.channels.get_or_insert_with(|| {
            let passage = |channel: &Channel| Passage {
                at_mark: channel.line(),
                counted: None,
                stage: Stage::Deferred,
            };
            counters.channels.iter().map(|(name, channel)| (name.clone(), passage(channel))).collect()
        });
        let mut all = true;
        for (name, passage) in channels {
            match counters.channels.get(name) {
                Some(channel) => all &= passage.passes(channel, longest_in_flight, now),
                // Deleted, and all it had with it.
                None => passage.stage = Stage::Passed,
            }
        }
        all
    }
}

impl Passage {
    fn passes(&mut self, channel: &Channel, longest_in_flight: Duration, now: Instant) -> bool {
        if self.at_mark.is_through(channel.line()) {
            let counted = *self.counted.get_or_insert(now);
            if now.duration_since(counted) >= LONGEST_DELAY {
                self.stage = Stage::Passed;
            }
        }
        let begin = || match channel.deferred {
            0 => Stage::HandingOut { then: channel.line(), put_back: channel.put_back },
            _ => Stage::Deferred,
        };
        self.stage = match self.stage {
            Stage::Deferred => begin(),
            Stage::HandingOut { put_back, .. } | Stage::Finishing { put_back, .. }
                if channel.put_back != put_back =>
            {
                begin()
            }
            Stage::HandingOut { then, put_back } if then.is_through(channel.line()) => {
                Stage::Finishing { since: now, put_back }
            }
            Stage::Finishing { since, .. }
                if channel.in_flight == 0 || now.duration_since(since) >= longest_in_flight =>
            {
                Stage::Passed
            }
            stage => stage,
        };
        matches!(self.stage, Stage::Passed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONGEST_IN_FLIGHT: u64 = 60;

    /// A topic with one channel, as nsqd keeps it: memory in order, disk in order, and which of the two is next is chance.
    #[derive(Debug, Default)]
    struct Model {
        now: u64,
        published: u64,
        came: u64,
        put_back: u64,
        topic: VecDeque<u64>,
        /// Between the topic and the channel, or between the channel and its consumer: in no count.
        copying: Option<u64>,
        handing: Option<u64>,
        memory: VecDeque<u64>,
        disk: VecDeque<u64>,
        deferred: Vec<(u64, u64)>,
        in_flight: Vec<(u64, u64)>,
    }

    #[derive(Debug, Clone)]
    enum Step {
        Publish,
        Copy,
        HandOut { from_disk: bool },
        Finish(prop::sample::Index),
        PutBack(prop::sample::Index, Option<u64>),
        Wait(u64),
        Look,
    }

    impl Model {
        fn put(&mut self, message: u64) {
            if self.memory.len() < 3 { self.memory.push_back(message) } else { self.disk.push_back(message) }
        }

        fn settle(&mut self) {
            if let Some(message) = self.copying.take() {
                self.came += 1;
                self.put(message);
            }
            if let Some(message) = self.handing.take() {
                self.in_flight.push((message, self.now + LONGEST_IN_FLIGHT));
            }
        }

        fn take(&mut self, step: Step) {
            match step {
                Step::Publish => {
                    self.topic.push_back(self.published);
                    self.published += 1;
                }
                Step::Copy => {
                    self.settle();
                    self.copying = self.topic.pop_front();
                }
                Step::HandOut { from_disk } => {
                    self.settle();
                    let (first, second) = match from_disk {
                        true => (&mut self.disk, &mut self.memory),
                        false => (&mut self.memory, &mut self.disk),
                    };
                    self.handing = first.pop_front().or_else(|| second.pop_front());
                }
                Step::Finish(which) => {
                    if !self.in_flight.is_empty() {
                        self.in_flight.swap_remove(which.index(self.in_flight.len()));
                    }
                }
                Step::PutBack(which, delay) => {
                    if !self.in_flight.is_empty() {
                        let (message, _) = self.in_flight.swap_remove(which.index(self.in_flight.len()));
                        self.put_back += 1;
                        match delay {
                            Some(delay) => self.deferred.push((message, self.now + delay)),
                            None => self.put(message),
                        }
                    }
                }
                Step::Wait(seconds) => {
                    self.now += seconds;
                    let now = self.now;
                    let (late, kept) =
                        std::mem::take(&mut self.in_flight).into_iter().partition(|(_, by)| *by <= now);
                    self.in_flight = kept;
                    for (message, _) in Vec::from_iter::<Vec<(u64, u64)>>(late) {
                        self.put_back += 1;
                        self.put(message);
                    }
                    let (due, kept) =
                        std::mem::take(&mut self.deferred).into_iter().partition(|(_, at)| *at <= now);
                    self.deferred = kept;
                    for (message, _) in Vec::from_iter::<Vec<(u64, u64)>>(due) {
                        self.put(message);
                    }
                }
                Step::Look => {}
            }
        }

        fn counters(&self) -> Counters {
            let channel = Channel {
                came: self.came + self.put_back,
                put_back: self.put_back,
                waiting: (self.memory.len() + self.disk.len()) as u64,
                deferred: self.deferred.len() as u64,
                in_flight: self.in_flight.len() as u64,
            };
            let channels = BTreeMap::from([("a".parse().unwrap(), channel)]);
            Counters { depth: self.topic.len() as u64, published: self.published, channels }
        }

        fn oldest(&self) -> Option<u64> {
            let queued = self.topic.iter().chain(&self.memory).chain(&self.disk).copied();
            let held = self.deferred.iter().chain(&self.in_flight).map(|(message, _)| *message);
            queued.chain(held).chain(self.copying).chain(self.handing).min()
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Publish),
            4 => Just(Step::Copy),
            4 => any::<bool>().prop_map(|from_disk| Step::HandOut { from_disk }),
            4 => any::<prop::sample::Index>().prop_map(Step::Finish),
            1 => (any::<prop::sample::Index>(), prop::option::of(1_u64..90)).prop_map(|(i, d)| Step::PutBack(i, d)),
            1 => (1_u64..40).prop_map(Step::Wait),
            4 => Just(Step::Look),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn what_is_called_drained_is_gone(steps in proptest::collection::vec(step(), 1..150)) {
            let begun = Instant::now();
            let mut model = Model::default();
            let mut watch = DrainWatch::new(Duration::from_secs(LONGEST_IN_FLIGHT));
            // Messages published by each look.
            let mut published = vec![0];
            for step in steps {
                if matches!(step, Step::Look) {
                    model.take(Step::Wait(HAND_OVER.as_secs()));
                    published.push(model.published);
                    let look = published.len() as u64 - 1;
                    watch.see(look, &model.counters(), begun + Duration::from_secs(model.now));
                    // One that follows at once sees the same, and tells nothing new.
                    published.push(model.published);
                    watch.see(look + 1, &model.counters(), begun + Duration::from_secs(model.now));
                    let gone = published[watch.drained() as usize];
                    prop_assert!(
                        model.oldest().is_none_or(|oldest| oldest >= gone),
                        "look {} is called drained, and {:?} is still there", watch.drained(), model.oldest()
                    );
                    // Hand-overs take less than the time between two looks.
                    model.settle();
                }
                model.take(step);
            }
        }
    }

    fn watch_until(
        model: &mut Model,
        watch: &mut DrainWatch,
        looks: std::ops::Range<u64>,
        each: impl Fn(&mut Model),
    ) {
        let begun = Instant::now();
        for look in looks {
            each(model);
            model.settle();
            model.now += 2;
            watch.see(look, &model.counters(), begun + Duration::from_secs(model.now));
        }
    }

    /// What passes through a channel between two looks: it is never empty, and something is always in flight.
    fn busy(model: &mut Model) {
        for _ in 0..10 {
            model.take(Step::Publish);
            model.take(Step::Copy);
            model.take(Step::HandOut { from_disk: false });
            if model.in_flight.len() > 5 {
                model.in_flight.remove(0);
            }
        }
    }

    #[test]
    fn a_channel_that_is_never_empty_is_drained_in_spite_of_two_lines() {
        fastrand::seed(7);
        for _ in 0..50 {
            let (mut model, mut watch) = (Model::default(), DrainWatch::new(Duration::from_secs(60)));
            let mut published = vec![0];
            let begun = Instant::now();
            for look in 1..200 {
                for _ in 0..40 {
                    model.take(Step::Publish);
                    model.take(Step::Copy);
                    if model.memory.len() + model.disk.len() > 20 {
                        model.take(Step::HandOut { from_disk: fastrand::bool() });
                    }
                    if model.in_flight.len() > 3 {
                        model.in_flight.swap_remove(fastrand::usize(..3));
                    }
                }
                model.settle();
                model.now += 2;
                published.push(model.published);
                watch.see(look, &model.counters(), begun + Duration::from_secs(model.now));
                assert!(model.oldest().unwrap() >= published[watch.drained() as usize]);
            }
            assert!(watch.drained() > 100, "only to look {}", watch.drained());
        }
    }

    #[test]
    fn an_idle_channel_is_drained_within_a_few_looks() {
        let (mut model, mut watch) = (Model::default(), DrainWatch::new(Duration::from_secs(60)));
        watch_until(&mut model, &mut watch, 1..7, |_| {});
        assert!(watch.drained() >= 1);
    }

    #[test]
    fn a_busy_channel_is_drained_up_to_about_the_longest_time_in_flight() {
        let (mut model, mut watch) = (Model::default(), DrainWatch::new(Duration::from_secs(60)));
        watch_until(&mut model, &mut watch, 1..200, busy);
        assert!(watch.drained() > 200 - 40, "only to look {}", watch.drained());
    }

    #[test]
    fn a_channel_whose_consumers_put_messages_back_all_the_time_is_given_an_hour() {
        let (mut model, mut watch) = (Model::default(), DrainWatch::new(Duration::from_secs(60)));
        let putting_back = |model: &mut Model| {
            busy(model);
            let (message, _) = model.in_flight.remove(0);
            model.put_back += 1;
            model.put(message);
        };
        watch_until(&mut model, &mut watch, 1..1_700, putting_back);
        assert_eq!(watch.drained(), 0);
        watch_until(&mut model, &mut watch, 1_700..1_900, putting_back);
        assert!(watch.drained() > 0);
    }

    #[test]
    fn nothing_is_drained_from_a_channel_without_consumers() {
        let (mut model, mut watch) = (Model::default(), DrainWatch::new(Duration::from_secs(60)));
        watch_until(&mut model, &mut watch, 1..4_000, |model| {
            model.take(Step::Publish);
            model.take(Step::Copy);
        });
        assert_eq!(watch.drained(), 0);
    }
}
