//! The cutover of a channel, and the way back, where producers publish straight to an nsqd and an intake takes that in: every order of
//! events, and a driver that dies anywhere.
//!
//! A message such a producer publishes comes twice into the world: to the channel, and through the intake to RocketMQ, in either order. What parts
//! the two sides is the topic's pause in nsqd:
//!
//! ```text
//! cutover    fence ─ pause the topic ─ intake empty? ─ ends of the queues ─ relay up to there, channel empty? ─ group := ends ─ pause the channel ─
//!            still the same? ─ open the group ─ unpause the topic, unfence
//! rollback   fence ─ pause the topic ─ intake empty? ─ ends ─ relay and group there? ─ write down ─ close the group, at S ─ relay up to S ─
//!            empty the channel ─ still the same? ─ unpause the channel ─ unpause the topic, unfence
//! ```
//!
//! The pause may end at any time, as the fence may: its driver dies and the intake ends it, or somebody does in nsqadmin. So neither is trusted, but
//! nsqd's counts of what came to the channel and to the intake. ([`super::cutover`] has what is the same without an intake: two drivers at
//! once, freezes, a relay's messages on their way.)

use crate::explore::explore;

/// Old producers publish the first two, the gateway the last.
const MESSAGES: usize = 3;
const OLD: u8 = 2;

type Mask = u8;

fn bit(message: u8) -> Mask {
    1 << message
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct World {
    /// Messages old producers have published; the gateway's is in the log, or not yet published.
    published: u8,
    /// The nsqd of old producers: what waits in the topic, and the message between topic and channels, with who has it already.
    topic: Mask,
    copying: Option<(u8, bool, bool)>,
    topic_paused: bool,
    /// How many of these came to the channel, and to the intake's.
    to_channel: u8,
    to_intake: u8,
    intake: Mask,
    /// RocketMQ's queue.
    log: [u8; MESSAGES],
    end: u8,
    /// The relay: where it stands, what it gave to the channel, and the offset a fence stops it at.
    relayed: u8,
    given: u8,
    fence: Option<u8>,
    /// The channel, on all nsqds.
    waiting: Mask,
    in_flight: Mask,
    paused: bool,
    group: Option<u8>,
    open: bool,
    returning: bool,
    old: [u8; MESSAGES],
    new: [u8; MESSAGES],
}

/// What a driver has seen, and counts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Seen {
    to_channel: u8,
    to_intake: u8,
    given: u8,
    /// Where the relay must stand.
    at: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    Off,
    Begin,
    Fenced,
    Held,
    Stored(Seen),
    Level(Seen),
    Quiet(Seen),
    OffsetsSet(Seen),
    Paused(Seen),
    Same,
    Returning(Seen),
    Closed(Seen),
    Following(Seen),
    BeforeEmptying(Seen),
    Emptied(Seen),
    /// The last write is done: what is held is let go.
    Reached,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    world: World,
    at: At,
    goal: Goal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Goal {
    CutOver,
    RollBack,
}

#[derive(Debug, Clone, Copy)]
struct Rules {
    goals: &'static [Goal],
    /// As a simpler protocol would not.
    pauses: bool,
    counts: bool,
    waits_for_intake: bool,
}

const RULES: Rules = Rules { goals: &[], pauses: true, counts: true, waits_for_intake: true };

impl World {
    fn is_reached(&self, goal: Goal) -> bool {
        match goal {
            Goal::CutOver => self.paused && self.open,
            Goal::RollBack => !self.paused && !self.open,
        }
    }

    fn seen(&self, at: u8) -> Seen {
        Seen { to_channel: self.to_channel, to_intake: self.to_intake, given: self.given, at }
    }

    /// Whether nothing came to channel or intake since, and nothing will while the topic is paused.
    fn is_held_since(&self, seen: Seen, rules: Rules) -> bool {
        let same = (self.to_channel, self.to_intake) == (seen.to_channel, seen.to_intake);
        !rules.counts || !rules.pauses || (same && self.topic_paused && self.intake == 0)
    }

    /// What everybody but the driver may do next.
    fn events(&self) -> Vec<(&'static str, World)> {
        let mut next = Vec::new();
        let mut may = |what: &'static str, change: &dyn Fn(&mut World)| {
            let mut world = *self;
            change(&mut world);
            next.push((what, world));
        };
        if self.published < OLD {
            may("an old producer publishes", &|world| {
                world.topic |= bit(world.published);
                world.published += 1;
            });
        }
        if !self.log[..usize::from(self.end)].contains(&OLD) {
            may("the gateway stores a message", &|world| world.store(OLD));
        }
        for message in 0..OLD {
            if self.topic & bit(message) != 0 && self.copying.is_none() && !self.topic_paused {
                may("nsqd takes a message out of the topic", &|world| {
                    world.topic &= !bit(message);
                    world.copying = Some((message, false, false));
                });
            }
            if self.intake & bit(message) != 0 {
                may("the intake stores a message, and finishes it", &|world| {
                    world.store(message);
                    world.intake &= !bit(message);
                });
            }
        }
        if let Some((message, to_channel, to_intake)) = self.copying {
            let copied =
                |channel: bool, intake: bool| (!(channel && intake)).then_some((message, channel, intake));
            if !to_channel {
                may("nsqd copies it to the channel", &|world| {
                    world.waiting |= bit(message);
                    world.to_channel += 1;
                    world.copying = copied(true, to_intake);
                });
            }
            if !to_intake {
                may("nsqd copies it to the intake's channel", &|world| {
                    world.intake |= bit(message);
                    world.to_intake += 1;
                    world.copying = copied(to_channel, true);
                });
            }
        }
        if self.relayed < self.fence.unwrap_or(self.end).min(self.end) {
            may("the relay goes on", &|world| {
                let message = world.log[usize::from(world.relayed)];
                world.relayed += 1;
                if message == OLD {
                    world.waiting |= bit(message);
                    world.given += 1;
                }
            });
        }
        for message in 0..=OLD {
            if self.waiting & bit(message) != 0 && !self.paused {
                may("the old consumer takes a message", &|world| {
                    world.waiting &= !bit(message);
                    world.in_flight |= bit(message);
                });
            }
            if self.in_flight & bit(message) != 0 {
                may("the old consumer finishes a message", &|world| {
                    world.in_flight &= !bit(message);
                    world.old[usize::from(message)] += 1;
                });
            }
        }
        if let Some(at) = self.group
            && self.open
            && at < self.end
        {
            may("the new consumer consumes a message", &|world| {
                world.new[usize::from(world.log[usize::from(at)])] += 1;
                world.group = Some(at + 1);
            });
        }
        if self.fence.is_some() {
            may("the fence ends", &|world| world.fence = None);
        }
        if self.topic_paused {
            may("the topic's pause ends", &|world| world.topic_paused = false);
        }
        next
    }

    fn store(&mut self, message: u8) {
        self.log[usize::from(self.end)] = message;
        self.end += 1;
    }
}

impl State {
    fn steps(&self, rules: Rules) -> Vec<(&'static str, State)> {
        let events = self.world.events().into_iter();
        let mut next: Vec<_> = events.map(|(what, world)| (what, State { world, ..*self })).collect();
        if self.at == At::Off {
            for goal in rules.goals {
                next.push(("a driver is started", State { at: At::Begin, goal: *goal, ..*self }));
            }
        } else {
            if self.at != At::Done {
                next.push(("the driver dies", State { at: At::Off, ..*self }));
            }
            next.extend(self.driver_step(rules));
        }
        next
    }

    /// The one thing the driver does next; `None` while it waits.
    fn driver_step(&self, rules: Rules) -> Option<(&'static str, State)> {
        let world = self.world;
        let go = |what, at, change: &dyn Fn(&mut World)| {
            let mut state = State { at, ..*self };
            change(&mut state.world);
            Some((what, state))
        };
        let again = || go("begins again", At::Begin, &|_| {});
        let held = |seen| world.is_held_since(seen, rules);
        match self.at {
            At::Off | At::Done => None,
            At::Begin if world.topic_paused => {
                go("lets the topic go on that somebody left", At::Begin, &|world| world.topic_paused = false)
            }
            At::Begin if world.paused && !world.open && world.returning => {
                go("opens the group again", At::Begin, &|world| world.open = true)
            }
            At::Begin if world.paused && !world.open => {
                go("unpauses the channel", At::Begin, &|world| world.paused = false)
            }
            At::Begin if world.is_reached(self.goal) => {
                go("finds it done", At::Done, &|world| world.fence = None)
            }
            At::Begin => go("fences the relay", At::Fenced, &|world| world.fence = Some(world.relayed)),
            // nsqd answers when nothing is between topic and channels any more.
            At::Fenced if rules.pauses && world.copying.is_some() => None,
            At::Fenced => go("pauses the topic", At::Held, &|world| world.topic_paused = rules.pauses),
            At::Held if rules.pauses && !world.topic_paused => again(),
            At::Held if rules.waits_for_intake && world.intake != 0 => None,
            At::Held => go("sees what came to channel and intake", At::Stored(world.seen(0)), &|_| {}),
            At::Stored(seen) => {
                let seen = Seen { at: world.end, ..seen };
                go("reads the ends, and lets the relay follow", At::Level(seen), &|world| {
                    world.fence = Some(world.end);
                })
            }
            At::Level(seen) if world.fence.is_none() || world.relayed > seen.at || !held(seen) => again(),
            At::Level(seen) if world.relayed < seen.at => None,
            At::Level(seen) if self.goal == Goal::CutOver => match world.waiting | world.in_flight {
                0 => go("sees the channel empty", At::Quiet(Seen { given: world.given, ..seen }), &|_| {}),
                _ => None,
            },
            At::Level(seen) if world.group.is_none_or(|at| at < seen.at) => None,
            At::Level(seen) => {
                go("writes down that it goes back", At::Returning(seen), &|world| world.returning = true)
            }
            At::Quiet(seen) => go("sets the group's offsets", At::OffsetsSet(seen), &|world| {
                world.group = Some(seen.at);
                world.returning = false;
            }),
            At::OffsetsSet(seen) => go("pauses the channel", At::Paused(seen), &|world| world.paused = true),
            At::Paused(seen) if world.relayed == seen.at && world.given == seen.given && held(seen) => {
                go("sees all the same", At::Same, &|_| {})
            }
            At::Paused(_) => again(),
            At::Same => go("opens the group", At::Reached, &|world| world.open = true),
            At::Returning(seen) => go("closes the group", At::Closed(seen), &|world| world.open = false),
            At::Closed(seen) => {
                let stands = world.group.unwrap_or(0);
                go("lets the relay follow the group", At::Following(Seen { at: stands, ..seen }), &|world| {
                    world.fence = Some(stands);
                })
            }
            At::Following(seen) if world.fence.is_none() || world.relayed > seen.at || !held(seen) => again(),
            At::Following(seen) if world.relayed < seen.at => None,
            At::Following(seen) => {
                go("counts", At::BeforeEmptying(Seen { given: world.given, ..seen }), &|_| {})
            }
            At::BeforeEmptying(seen) => go("empties the channel", At::Emptied(seen), &|world| {
                world.waiting = 0;
                world.in_flight = 0;
            }),
            At::Emptied(seen) if world.relayed == seen.at && world.given == seen.given && held(seen) => {
                go("unpauses the channel", At::Reached, &|world| world.paused = false)
            }
            At::Emptied(_) => again(),
            At::Reached => go("lets everything go on", At::Done, &|world| {
                world.topic_paused = false;
                world.fence = None;
            }),
        }
    }

    fn is_sound(&self) -> Result<(), &'static str> {
        let world = self.world;
        if self.at == At::Done && !world.is_reached(self.goal) {
            return Err("a driver says it is done, and it is not");
        }
        if self.at == At::Done && world.topic_paused {
            return Err("a topic is left paused");
        }
        let log = &world.log[..usize::from(world.end)];
        for message in 0..=OLD {
            let offset = (0..world.end).find(|at| log[usize::from(*at)] == message);
            let straight = message < OLD;
            let is_there = if straight { message < world.published } else { offset.is_some() };
            if !is_there {
                continue;
            }
            let on_its_way = world.topic & bit(message) != 0
                || world.copying.is_some_and(|(copied, to_channel, _)| copied == message && !to_channel);
            let by_old = (world.waiting | world.in_flight) & bit(message) != 0
                || if straight { on_its_way } else { offset.is_some_and(|offset| offset >= world.relayed) };
            // What is not stored yet will be at the end.
            let by_new = world.group.is_some_and(|group| group <= offset.unwrap_or(world.end));
            let consumed = world.old[usize::from(message)] + world.new[usize::from(message)];
            if consumed == 0 && !by_old && !(by_new && (world.open || world.paused)) {
                return Err("a message is lost");
            }
            let will_be = u8::from(by_old && !world.paused) + u8::from(by_new && world.open);
            if consumed + will_be > 1 {
                return Err("a message is doubled");
            }
        }
        Ok(())
    }
}

/// Every state there can be, from the beginning; how many there are.
fn check(rules: Rules) -> usize {
    let first = State { world: World::default(), at: At::Off, goal: rules.goals[0] };
    let explored = explore(first, |state| state.steps(rules), State::is_sound);
    for goal in rules.goals {
        let is_over = |state: &State| state.at == At::Done;
        explored.finishes(|state| is_over(state) && state.goal == *goal, is_over);
    }
    explored.states()
}

const BOTH: &[Goal] = &[Goal::CutOver, Goal::RollBack];

#[test]
fn beside_an_intake_a_cutover_loses_and_doubles_nothing_wherever_its_driver_dies() {
    println!("{} states", check(Rules { goals: &[Goal::CutOver], ..RULES }));
}

#[test]
fn nor_do_a_cutover_and_a_rollback_in_any_order() {
    println!("{} states", check(Rules { goals: BOTH, ..RULES }));
}

#[test]
#[should_panic(expected = "a message is doubled")]
fn without_the_pause_of_the_topic_it_would_double() {
    check(Rules { goals: &[Goal::CutOver], pauses: false, ..RULES });
}

#[test]
#[should_panic(expected = "a message is doubled")]
fn if_it_trusted_the_pause_it_would_double() {
    check(Rules { goals: &[Goal::CutOver], counts: false, ..RULES });
}

#[test]
#[should_panic(expected = "a message is doubled")]
fn if_it_did_not_wait_for_the_intake_it_would_double() {
    check(Rules { goals: &[Goal::CutOver], waits_for_intake: false, counts: false, ..RULES });
}
