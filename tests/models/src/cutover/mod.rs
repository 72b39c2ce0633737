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
//! By share, the relay of what is left to the old consumer is one more consumer of the same barrier, with a group of its own that is opened last
//! and closed first. It may sleep, and send later what it has read: so it is waited for until it runs no more.
//!
//! And a rollback is written down before it closes the group: whoever finds a paused channel and a closed group must know whether the channel
//! may have been emptied. (Without that, a cutover after a rollback that died lost messages: the third test found it.)

mod drivers;
mod world;

use self::{
    drivers::{At, Goal, State},
    world::{World, bit},
};
use crate::explore::explore;

#[derive(Debug, Clone, Copy)]
struct Rules {
    /// The channel is moved by share: the rest is relayed for the old consumer.
    by_share: bool,
    /// A driver that is started has one of these.
    goals: &'static [Goal],
    drivers: u8,
    /// Messages there will ever be.
    messages: u8,
    /// A driver may look, freeze for as long as its leases last, and then act.
    freezes: bool,
    /// Take a fence for granted once it was there, as a simpler protocol would.
    trusts_fence: bool,
    /// Take a lock that has ended again, if nobody has it then, and go on.
    takes_lock_again: bool,
}

impl Rules {
    fn new(goals: &'static [Goal], drivers: u8) -> Self {
        Rules {
            by_share: false,
            goals,
            drivers,
            messages: 3,
            freezes: false,
            trusts_fence: false,
            takes_lock_again: false,
        }
    }
}

/// Every state there can be, from the beginning; how many there are.
fn check(rules: Rules, begin: World) -> usize {
    let first = State { world: begin, drivers: [At::Off; 2], goals: [rules.goals[0]; 2] };
    let explored = explore(first, |state| state.steps(rules), |state| sound(state, rules));
    let reached =
        |state: &State| rules.goals.iter().any(|goal| goal.is_reached(&state.world, rules.by_share));
    explored.finishes(reached, |_| false);
    explored.states()
}

/// What must hold in every state, and what once a driver says it is done.
fn sound(state: &State, rules: Rules) -> Result<(), &'static str> {
    let World { end, waiting, in_flight, sent, unanswered, group, open, old, new, paused, .. } = state.world;
    let World { stamped, rest, rest_open, left, .. } = state.world;
    let landed = sent - u8::from(unanswered);
    let drivers = &state.drivers[..usize::from(rules.drivers)];
    let done = !rules.freezes && drivers.contains(&At::Done);
    // With different goals, one undoes what the other has done.
    if let [goal] = rules.goals
        && done
        && !goal.is_reached(&state.world, rules.by_share)
    {
        return Err("a driver says it is done, and it is not");
    }
    for message in 0..end {
        let consumed = old[usize::from(message)] + new[usize::from(message)];
        let by_old = (waiting | in_flight) & bit(message) != 0 || message >= landed;
        let is_groups = !rules.by_share || stamped & bit(message) != 0;
        let by_new = is_groups && group.is_some_and(|at| at <= message);
        let by_rest = !is_groups && rest.is_some_and(|at| at <= message);
        let is_left = left & bit(message) != 0;
        // A closed group beside a paused channel is opened again, or the channel unpaused, by whoever finds them.
        let later = by_new && (open || paused) || by_rest && (rest_open || paused);
        if consumed == 0 && !by_old && !is_left && !later {
            return Err("a message is lost");
        }
        let will_be_consumed = u8::from(by_old && !paused)
            + u8::from(by_new && open)
            + u8::from(by_rest && rest_open)
            + u8::from(is_left);
        let exact = !rules.freezes && !rules.goals.contains(&Goal::GiveUp);
        if exact && consumed + will_be_consumed > 1 {
            return Err("a message is doubled");
        }
    }
    Ok(())
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
fn either_way_nothing_is_lost_even_when_two_drivers_freeze() {
    let rules = |goals| Rules { freezes: true, messages: 2, ..Rules::new(goals, 2) };
    println!("rollback, 2 drivers that freeze: {} states", check(rules(&[Goal::RollBack]), cut_over()));
    for begin in [World::new(), cut_over()] {
        let states = check(rules(&[Goal::CutOver, Goal::RollBack]), begin);
        println!("either, 2 drivers that freeze: {states} states");
    }
}

#[test]
#[should_panic(expected = "a message is lost")]
fn a_rollback_that_took_its_lock_again_would_lose() {
    let rules = Rules { freezes: true, takes_lock_again: true, ..Rules::new(&[Goal::RollBack], 2) };
    check(rules, cut_over());
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

fn cut_over_by_share() -> World {
    World { rest: Some(1), rest_open: true, rest_runs: true, ..cut_over() }
}

#[test]
fn by_share_each_message_reaches_the_one_it_is_decided_for_wherever_drivers_die() {
    let rules = |drivers| Rules {
        by_share: true,
        messages: 2,
        ..Rules::new(&[Goal::CutOver, Goal::RollBack], drivers)
    };
    println!("by share, from the beginning: {} states", check(rules(1), World::new()));
    println!("by share, cut over: {} states", check(Rules { messages: 3, ..rules(1) }, cut_over_by_share()));
    println!("by share, 2 drivers: {} states", check(rules(2), cut_over_by_share()));
}
