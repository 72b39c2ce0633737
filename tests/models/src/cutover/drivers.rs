//! The drivers: a step at a time, each of which may be the last.

use super::{Rules, world::World};

/// Where a driver stands. It knows nothing but what it has seen since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum At {
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
    /// By share: the group stands at the barrier, and the relay of the rest does not.
    GroupSet {
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
    RestOpened,
    /// The rest is opened after an interrupted run.
    Opening,
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
    /// By share: nothing of the rest is to be relayed any more.
    EndingRest {
        stands: u8,
    },
    RestEnded {
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
pub(super) struct State {
    pub(super) world: World,
    pub(super) drivers: [At; 2],
    pub(super) goals: [Goal; 2],
}

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Goal {
    CutOver,
    RollBack,
    /// Roll back from consumers that do not consume: what they had comes again.
    GiveUp,
}

impl Goal {
    pub(super) fn is_reached(self, world: &World, by_share: bool) -> bool {
        match self {
            Goal::CutOver => world.is_cut_over(by_share),
            Goal::RollBack | Goal::GiveUp => !world.paused && !world.open,
        }
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

    pub(super) fn steps(&self, rules: Rules) -> Vec<(String, State)> {
        let mut next: Vec<(String, State)> = self
            .world
            .events(rules.messages, rules.by_share)
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
        let World { rest, rest_open, rest_runs, left, .. } = self.world;
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
                    Goal::CutOver if self.world.is_cut_over(rules.by_share) => {
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
                    // The group was opened, so the rest is as it must be but for that.
                    _ if rules.by_share && paused && !rest_open => {
                        go("finds it half open", At::Opening, &lock_it)
                    }
                    Goal::GiveUp if !returning => go("closes the group", At::GivingUp, &|world| {
                        world.lock = Some(me);
                        world.open = false;
                    }),
                    _ => go("fences the relay", At::Fenced, &|world| {
                        world.lock = Some(me);
                        world.fence = Some((me, [world.sent, world.rest.unwrap_or(0)]));
                    }),
                }
            }
            _ if lock.is_none() && rules.takes_lock_again => {
                go("takes the lock again", self.drivers[usize::from(me)], &|world| world.lock = Some(me))
            }
            At::Undoing { .. } if lock != Some(me) => again(),
            At::Undoing { reopen: true } => {
                go("opens the group again", At::Begin, &|world| world.open = true)
            }
            At::Undoing { reopen: false } => {
                go("unpauses the channel", At::Begin, &|world| world.paused = false)
            }
            _ if lock != Some(me) => again(),
            At::Opening => go("opens the rest", At::Begin, &|world| world.rest_open = true),
            At::Fenced if !fenced => again(),
            At::Fenced if !self.world.is_settled() => None,
            At::Fenced => match goal {
                Goal::CutOver => go("counts what was published", At::Counted { published }, &|_| {}),
                Goal::RollBack | Goal::GiveUp => {
                    let reached = committed.max(rest.unwrap_or(0));
                    go("sees how far the relays are", At::Stopping { reached }, &|_| {})
                }
            },
            At::Counted { published } => {
                if !self.world.is_empty() {
                    return if fenced { None } else { again() };
                }
                go("sees the channel empty", At::Quiet { published, barrier: committed }, &|_| {})
            }
            // Whoever still relays the rest would go on from where it is.
            At::Quiet { .. } if rest_runs => go("sees the rest relayed", At::Begin, &|_| {}),
            At::Quiet { published, barrier } => {
                let next = match rules.by_share {
                    true => At::GroupSet { published, barrier },
                    false => At::OffsetsSet { published },
                };
                go("sets the group's offsets", next, &|world| {
                    world.group = Some(barrier);
                    world.returning = false;
                })
            }
            At::GroupSet { published, barrier } => {
                go("sets the offsets of the rest", At::OffsetsSet { published }, &|world| {
                    world.rest = Some(barrier);
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
                    world.fence = Some((me, [stands; 2]));
                })
            }
            At::Following { .. } if !fenced => {
                go("sees that the fence ended", At::Undoing { reopen: true }, &|_| {})
            }
            At::Following { stands } if committed < stands || !self.world.is_settled() => None,
            At::Following { stands } if committed > stands => {
                go("sees the relay ahead", At::Undoing { reopen: true }, &|_| {})
            }
            At::Following { stands } if rules.by_share => {
                // Only what the fence holds back is missing.
                if rest.is_some_and(|at| at < stands) || left != 0 {
                    return None;
                }
                if rest != Some(stands) {
                    return go("sees the rest ahead", At::Undoing { reopen: true }, &|_| {});
                }
                go("closes the rest", At::EndingRest { stands }, &|world| world.rest_open = false)
            }
            At::EndingRest { .. } if rest_runs => None,
            At::EndingRest { stands } if rest != Some(stands) || left != 0 => {
                go("sees that the rest went on", At::Undoing { reopen: true }, &|_| {})
            }
            At::EndingRest { stands } => go("sees the rest ended", At::RestEnded { stands }, &|_| {}),
            At::RestEnded { stands } if committed != stands || !self.world.is_settled() => {
                go("sees the relay ahead", At::Undoing { reopen: true }, &|_| {})
            }
            At::Following { .. } | At::RestEnded { .. } => {
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
            At::Opened if rules.by_share => {
                go("opens the rest", At::RestOpened, &|world| world.rest_open = true)
            }
            At::Opened | At::RestOpened | At::Unpaused => go("lets the relay go on", At::Done, &|world| {
                world.lock = None;
                world.fence = world.fence.filter(|(owner, _)| *owner != me);
            }),
        }
    }
}
