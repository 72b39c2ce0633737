//! The cutover of a channel, and the way back, as a model: every order of events, every crash, two drivers at once.
//!
//! RocketMQ and nsqd have no transaction between them, so a cutover is a row of single writes, and its driver may die, freeze or meet
//! another driver between any two. What is checked here before any of it is built:
//!
//! - **Never lost.** Whatever happens, every message reaches the old consumer or the new one.
//! - **Never doubled** as long as no driver freezes between looking and acting: then each message reaches exactly one of them.
//! - **Never stuck.** From everywhere, running the command once more finishes it.
//!
//! ```text
//! cutover    fence ─ quiet? ─ barrier ─ group's offsets := barrier ─ pause the channel ─ still the same? ─ open the group ─ unfence
//! rollback   fence at R ─ group at R? ─ write down ─ close the group, at S ─ relay up to S ─ empty the channel ─ same? ─ unpause ─ unfence
//! ```
//!
//! Two things carry it. The group is *closed* (RocketMQ's `consumeEnable=false`) until its offsets are right: opening it is the one write
//! that counts, and everything before it can be done over. And nobody trusts a fence: it is a lease, and the relay goes on when it ends. What
//! is trusted is nsqd's count of what was published, the same before the quiet was seen and after the channel was paused.
//!
//! And a rollback is written down before it closes the group: whoever finds a paused channel and a closed group must know whether the channel
//! may have been emptied. (Without that, a cutover after a rollback that died lost messages: the third test found it.)

use std::collections::{HashMap, HashSet, VecDeque};

/// The most messages a state can hold.
const MESSAGES: usize = 3;

type Mask = u8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct World {
    /// Published by producers; every offset below is in RocketMQ.
    end: u8,
    /// The relay: what it has sent to nsqd, whether the last of it is unanswered, and what it has committed.
    sent: u8,
    unanswered: bool,
    committed: u8,
    /// Whose fence the relay obeys, and up to which offset it may go on all the same.
    fence: Option<(u8, u8)>,
    /// nsqd: messages published to the topic; the channel's waiting and in flight.
    published: u8,
    waiting: Mask,
    in_flight: Mask,
    paused: bool,
    /// The group: where it stands, and whether it may consume.
    group: Option<u8>,
    open: bool,
    /// It is written down that a rollback has begun since the last cutover, and may have emptied the channel.
    returning: bool,
    /// How often each message was consumed by the old consumer and by the new one; 2 for more.
    old: [u8; MESSAGES],
    new: [u8; MESSAGES],
    /// The drivers' mutual exclusion, a lease as well.
    lock: Option<u8>,
}

/// Where a driver stands. It knows nothing but what it has seen since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    /// Not started, or dead.
    Off,
    Begin,
    Fenced,
    /// Count of what was published, taken while the relay had answered for everything.
    Counted {
        published: u8,
    },
    Quiet {
        published: u8,
        barrier: u8,
    },
    OffsetsSet {
        published: u8,
    },
    Paused {
        published: u8,
    },
    Same,
    Opened,
    /// Rollback.
    Stopping {
        reached: u8,
    },
    Returning,
    GivingUp,
    Closed,
    Following {
        stands: u8,
    },
    BeforeEmptying {
        published: u8,
    },
    Emptied {
        published: u8,
    },
    Unpaused,
    /// What is half done is undone before anything else: the group goes on, or the channel does.
    Undoing {
        reopen: bool,
    },
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    world: World,
    drivers: [At; 2],
    goals: [Goal; 2],
}

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Goal {
    CutOver,
    RollBack,
    /// Roll back from consumers that do not consume: what they had comes again.
    GiveUp,
}

impl Goal {
    fn is_reached(self, world: &World) -> bool {
        match self {
            Goal::CutOver => world.is_cut_over(),
            Goal::RollBack | Goal::GiveUp => !world.paused && !world.open,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Rules {
    /// A driver that is started has one of these.
    goals: &'static [Goal],
    drivers: u8,
    /// Messages there will ever be.
    messages: u8,
    /// A driver may look, freeze for as long as its leases last, and then act.
    freezes: bool,
    /// Take a fence for granted once it was there, as a simpler protocol would.
    trusts_fence: bool,
}

impl Rules {
    fn new(goals: &'static [Goal], drivers: u8) -> Self {
        Rules { goals, drivers, messages: 3, freezes: false, trusts_fence: false }
    }
}

fn bump(count: &mut u8) {
    *count = (*count + 1).min(2);
}

fn bit(message: u8) -> Mask {
    1 << message
}

impl World {
    fn new() -> Self {
        World {
            end: 0,
            sent: 0,
            unanswered: false,
            committed: 0,
            fence: None,
            published: 0,
            waiting: 0,
            in_flight: 0,
            paused: false,
            group: None,
            open: false,
            returning: false,
            old: [0; MESSAGES],
            new: [0; MESSAGES],
            lock: None,
        }
    }

    fn is_cut_over(&self) -> bool {
        self.paused && self.open
    }

    /// The relay has answered for all it sent.
    fn is_settled(&self) -> bool {
        !self.unanswered && self.committed == self.sent
    }

    fn is_empty(&self) -> bool {
        self.waiting == 0 && self.in_flight == 0
    }

    /// What everybody but the drivers may do next.
    fn events(&self, messages: u8) -> Vec<(&'static str, World)> {
        let mut next = Vec::new();
        let mut may = |what: &'static str, change: &dyn Fn(&mut World)| {
            let mut world = *self;
            change(&mut world);
            next.push((what, world));
        };
        if self.end < messages {
            may("a producer publishes", &|world| world.end += 1);
        }
        let limit = self.fence.map_or(self.end, |(_, limit)| limit.min(self.end));
        if self.is_settled() && self.sent < limit {
            may("the relay sends a message", &|world| {
                world.sent += 1;
                world.unanswered = true;
            });
        }
        if self.unanswered {
            may("nsqd has it", &|world| {
                world.unanswered = false;
                world.published += 1;
                world.waiting |= bit(world.sent - 1);
            });
        }
        if !self.unanswered && self.committed < self.sent {
            may("the relay commits", &|world| world.committed = world.sent);
        }
        for message in 0..self.end {
            if self.waiting & bit(message) != 0 && !self.paused {
                may("the old consumer takes a message", &|world| {
                    world.waiting &= !bit(message);
                    world.in_flight |= bit(message);
                });
            }
            if self.in_flight & bit(message) != 0 {
                may("the old consumer finishes a message", &|world| {
                    world.in_flight &= !bit(message);
                    bump(&mut world.old[usize::from(message)]);
                });
                may("the old consumer puts a message back", &|world| {
                    world.in_flight &= !bit(message);
                    world.waiting |= bit(message);
                });
            }
        }
        if let Some(at) = self.group
            && self.open
            && at < self.end
        {
            may("the new consumer consumes a message", &|world| {
                bump(&mut world.new[usize::from(at)]);
                world.group = Some(at + 1);
            });
        }
        next
    }
}

impl State {
    fn with(&self, driver: u8, at: At, change: impl Fn(&mut World)) -> State {
        let mut state = *self;
        change(&mut state.world);
        state.drivers[usize::from(driver)] = at;
        state
    }

    /// Whether a driver's next act rests on something it saw before and that its leases protect.
    fn acts_on_what_it_saw(at: At) -> bool {
        !matches!(at, At::Off | At::Begin | At::Done)
    }

    fn steps(&self, rules: Rules) -> Vec<(String, State)> {
        let mut next: Vec<(String, State)> = self
            .world
            .events(rules.messages)
            .into_iter()
            .map(|(what, world)| (what.to_owned(), State { world, ..*self }))
            .collect();
        for driver in 0..rules.drivers {
            let at = self.drivers[usize::from(driver)];
            if at == At::Off {
                for goal in rules.goals {
                    let mut state = self.with(driver, At::Begin, |_| {});
                    state.goals[usize::from(driver)] = *goal;
                    next.push((format!("driver {driver} is started: {goal:?}"), state));
                }
                continue;
            }
            if at != At::Done {
                next.push((format!("driver {driver} dies"), self.with(driver, At::Off, |_| {})));
            }
            if let Some((what, state)) = self.driver_step(driver, rules) {
                next.push((format!("driver {driver}: {what}"), state));
            }
        }
        // A lease outlives its driver for a while, and ends at any time once that is dead. One whose driver lives ends only if it froze.
        let lives = |driver: u8| State::acts_on_what_it_saw(self.drivers[usize::from(driver)]);
        let ends = |owner: u8| rules.freezes || !lives(owner);
        if let Some(owner) = self.world.lock.filter(|owner| ends(*owner)) {
            next.push((
                format!("the lock of driver {owner} ends"),
                State { world: World { lock: None, ..self.world }, ..*self },
            ));
        }
        // The fence may also be lost with the relay instance that obeyed it, whoever lives.
        if self.world.fence.is_some() {
            next.push((
                "the fence ends".to_owned(),
                State { world: World { fence: None, ..self.world }, ..*self },
            ));
        }
        next
    }

    /// The one thing a driver does next; `None` while it waits.
    fn driver_step(&self, me: u8, rules: Rules) -> Option<(&'static str, State)> {
        let World { lock, fence, published, committed, paused, group, open, returning, .. } = self.world;
        let fenced = fence.is_some_and(|(owner, _)| owner == me);
        let goal = self.goals[usize::from(me)];
        let same = |before: u8| rules.trusts_fence || (before == published && self.world.is_settled());
        let go = |what, at, change: &dyn Fn(&mut World)| Some((what, self.with(me, at, change)));
        let again = || go("begins again", At::Begin, &|_| {});
        match self.drivers[usize::from(me)] {
            At::Off | At::Done => None,
            At::Begin => {
                if lock.is_some_and(|owner| owner != me) {
                    return None;
                }
                let lock_it = |world: &mut World| world.lock = Some(me);
                match goal {
                    Goal::CutOver if self.world.is_cut_over() => {
                        go("finds it done", At::Done, &|world| world.lock = None)
                    }
                    Goal::RollBack | Goal::GiveUp if !paused && !open => {
                        go("finds it done", At::Done, &|world| world.lock = None)
                    }
                    // Paused, and the group closed. If a rollback has begun, the channel may lack what the group has: the group goes on. If
                    // none has, nobody knows whether the old consumer had more before the pause: the channel goes on.
                    _ if paused && !open => {
                        go("finds it half done", At::Undoing { reopen: returning }, &lock_it)
                    }
                    Goal::GiveUp if !returning => go("closes the group", At::GivingUp, &|world| {
                        world.lock = Some(me);
                        world.open = false;
                    }),
                    _ => go("fences the relay", At::Fenced, &|world| {
                        world.lock = Some(me);
                        world.fence = Some((me, world.sent));
                    }),
                }
            }
            At::Undoing { .. } if lock != Some(me) => again(),
            At::Undoing { reopen: true } => {
                go("opens the group again", At::Begin, &|world| world.open = true)
            }
            At::Undoing { reopen: false } => {
                go("unpauses the channel", At::Begin, &|world| world.paused = false)
            }
            _ if lock != Some(me) => again(),
            At::Fenced if !fenced => again(),
            At::Fenced if !self.world.is_settled() => None,
            At::Fenced => match goal {
                Goal::CutOver => go("counts what was published", At::Counted { published }, &|_| {}),
                Goal::RollBack | Goal::GiveUp => {
                    go("sees how far the relay is", At::Stopping { reached: committed }, &|_| {})
                }
            },
            At::Counted { published } => {
                if !self.world.is_empty() {
                    return if fenced { None } else { again() };
                }
                go("sees the channel empty", At::Quiet { published, barrier: committed }, &|_| {})
            }
            At::Quiet { published, barrier } => {
                go("sets the group's offsets", At::OffsetsSet { published }, &|world| {
                    world.group = Some(barrier);
                    world.returning = false;
                })
            }
            At::OffsetsSet { published } => {
                go("pauses the channel", At::Paused { published }, &|world| world.paused = true)
            }
            At::Paused { published } if same(published) => {
                go("sees nothing published meanwhile", At::Same, &|_| {})
            }
            At::Paused { .. } => {
                go("sees that something was published", At::Undoing { reopen: false }, &|_| {})
            }
            At::Same => go("opens the group", At::Opened, &|world| world.open = true),
            At::Stopping { .. } if !fenced => again(),
            At::Stopping { reached } if group.is_none_or(|at| at < reached) => None,
            At::Stopping { .. } if goal == Goal::GiveUp => {
                go("closes the group", At::GivingUp, &|world| world.open = false)
            }
            At::Stopping { .. } => {
                go("writes down that it goes back", At::Returning, &|world| world.returning = true)
            }
            At::Returning => go("closes the group", At::Closed, &|world| world.open = false),
            At::GivingUp => go("unpauses the channel", At::Unpaused, &|world| world.paused = false),
            At::Closed => {
                let stands = group.unwrap_or(0);
                go("lets the relay follow the group", At::Following { stands }, &|world| {
                    world.fence = Some((me, stands));
                })
            }
            At::Following { .. } if !fenced => {
                go("sees that the fence ended", At::Undoing { reopen: true }, &|_| {})
            }
            At::Following { stands } if committed < stands || !self.world.is_settled() => None,
            At::Following { stands } if committed > stands => {
                go("sees the relay ahead", At::Undoing { reopen: true }, &|_| {})
            }
            At::Following { .. } => {
                go("counts what was published", At::BeforeEmptying { published }, &|_| {})
            }
            At::BeforeEmptying { published } => {
                go("empties the channel", At::Emptied { published }, &|world| {
                    // nsqd drops what is in flight as well.
                    world.waiting = 0;
                    world.in_flight = 0;
                })
            }
            At::Emptied { published } if same(published) => {
                go("unpauses the channel", At::Unpaused, &|world| world.paused = false)
            }
            At::Emptied { .. } => {
                go("sees that something was published", At::Undoing { reopen: true }, &|_| {})
            }
            At::Opened | At::Unpaused => go("lets the relay go on", At::Done, &|world| {
                world.lock = None;
                world.fence = world.fence.filter(|(owner, _)| *owner != me);
            }),
        }
    }
}

/// Every state there can be, from the beginning; panics with the way to the first bad one.
fn check(rules: Rules, begin: World) -> usize {
    let first = State { world: begin, drivers: [At::Off; 2], goals: [rules.goals[0]; 2] };
    let mut from: HashMap<State, Option<(State, String)>> = HashMap::from([(first, None)]);
    let mut open = VecDeque::from([first]);
    while let Some(state) = open.pop_front() {
        if let Err(broken) = sound(&state, rules) {
            panic!("{broken}: {:?}\n{}", state.world, way_to(&state, &from));
        }
        for (what, next) in state.steps(rules) {
            from.entry(next).or_insert_with(|| {
                open.push_back(next);
                Some((state, what))
            });
        }
    }
    finishes_from_everywhere(rules, &from);
    from.len()
}

fn way_to(state: &State, from: &HashMap<State, Option<(State, String)>>) -> String {
    let mut way = Vec::new();
    let mut at = state;
    while let Some(Some((before, what))) = from.get(at) {
        way.push(what.clone());
        at = before;
    }
    way.reverse();
    way.join("\n")
}

/// What must hold in every state, and what once a driver says it is done.
fn sound(state: &State, rules: Rules) -> Result<(), &'static str> {
    let World { end, waiting, in_flight, sent, unanswered, group, open, old, new, paused, .. } = state.world;
    let landed = sent - u8::from(unanswered);
    let drivers = &state.drivers[..usize::from(rules.drivers)];
    let done = !rules.freezes && drivers.contains(&At::Done);
    // With different goals, one undoes what the other has done.
    if let [goal] = rules.goals
        && done
        && !goal.is_reached(&state.world)
    {
        return Err("a driver says it is done, and it is not");
    }
    for message in 0..end {
        let consumed = old[usize::from(message)] + new[usize::from(message)];
        let by_old = (waiting | in_flight) & bit(message) != 0 || message >= landed;
        let by_new = group.is_some_and(|at| at <= message);
        // A closed group beside a paused channel is opened again, or the channel unpaused, by whoever finds them.
        if consumed == 0 && !by_old && !(by_new && (open || paused)) {
            return Err("a message is lost");
        }
        let will_be_consumed = u8::from(by_old && !paused) + u8::from(by_new && open);
        let exact = !rules.freezes && !rules.goals.contains(&Goal::GiveUp);
        if exact && consumed + will_be_consumed > 1 {
            return Err("a message is doubled");
        }
    }
    Ok(())
}

/// From every state some way leads to the goal: a driver that is started again can always finish.
fn finishes_from_everywhere(rules: Rules, from: &HashMap<State, Option<(State, String)>>) {
    let mut before: HashMap<State, Vec<State>> = HashMap::new();
    for state in from.keys() {
        for (_, next) in state.steps(rules) {
            before.entry(next).or_default().push(*state);
        }
    }
    let reached = |state: &&State| rules.goals.iter().any(|goal| goal.is_reached(&state.world));
    let mut open: Vec<State> = from.keys().filter(reached).copied().collect();
    let mut finish: HashSet<State> = open.iter().copied().collect();
    while let Some(state) = open.pop() {
        for earlier in before.get(&state).into_iter().flatten() {
            if finish.insert(*earlier) {
                open.push(*earlier);
            }
        }
    }
    let stuck = from.keys().find(|state| !finish.contains(*state));
    assert!(stuck.is_none(), "stuck: {stuck:?}\n{}", way_to(stuck.unwrap(), from));
}

/// A channel that was cut over at the first message, which its old consumer had.
fn cut_over() -> World {
    World {
        end: 1,
        sent: 1,
        committed: 1,
        published: 1,
        paused: true,
        group: Some(1),
        open: true,
        old: [1, 0, 0],
        ..World::new()
    }
}

#[test]
fn a_cutover_loses_and_doubles_nothing_wherever_its_drivers_die() {
    for drivers in 1..=2 {
        let states = check(Rules::new(&[Goal::CutOver], drivers), World::new());
        println!("cutover, {drivers} drivers: {states} states");
    }
}

#[test]
fn a_cutover_and_a_rollback_started_in_any_order_lose_and_double_nothing_wherever_they_die() {
    for begin in [World::new(), cut_over()] {
        let rules = Rules { messages: 2, ..Rules::new(&[Goal::CutOver, Goal::RollBack], 2) };
        println!("either, 2 drivers: {} states", check(rules, begin));
    }
}

#[test]
fn giving_the_group_up_loses_nothing_whatever_was_begun_before() {
    const ALL: &[Goal] = &[Goal::CutOver, Goal::RollBack, Goal::GiveUp];
    let two = |drivers| Rules { messages: 2, ..Rules::new(ALL, drivers) };
    println!("any, a driver: {} states", check(two(1), World::new()));
    println!("any, a driver: {} states", check(Rules::new(ALL, 1), cut_over()));
    println!("any, 2 drivers: {} states", check(two(2), cut_over()));
}

#[test]
fn a_cutover_loses_nothing_even_when_its_drivers_freeze() {
    let rules = Rules { freezes: true, messages: 2, ..Rules::new(&[Goal::CutOver], 2) };
    println!("cutover, 2 drivers that freeze: {} states", check(rules, World::new()));
}

#[test]
fn a_rollback_loses_and_doubles_nothing_wherever_its_drivers_die() {
    for drivers in 1..=2 {
        let states = check(Rules::new(&[Goal::RollBack], drivers), cut_over());
        println!("rollback, {drivers} drivers: {states} states");
    }
}

#[test]
fn a_rollback_loses_nothing_even_when_its_driver_freezes() {
    let rules = Rules { freezes: true, ..Rules::new(&[Goal::RollBack], 1) };
    println!("rollback, a driver that freezes: {} states", check(rules, cut_over()));
}

#[test]
#[should_panic(expected = "a message is doubled")]
fn a_cutover_that_trusted_its_fence_would_double() {
    check(Rules { trusts_fence: true, ..Rules::new(&[Goal::CutOver], 1) }, World::new());
}

#[test]
#[should_panic(expected = "a message is lost")]
fn a_rollback_that_trusted_its_fence_would_lose() {
    check(Rules { trusts_fence: true, ..Rules::new(&[Goal::RollBack], 1) }, cut_over());
}
