//! Every state a model can be in: each must be sound, and from each some way must lead on.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt::{Debug, Display},
    hash::Hash,
};

/// All states there can be.
pub(crate) struct Explored<S, W> {
    /// How each was reached first: from which, and by what.
    from: HashMap<S, Option<(S, W)>>,
    /// The states from which each is one step away.
    before: HashMap<S, Vec<S>>,
}

/// Tries every order of `steps` from `first` on; panics with the way to the first state that is not `sound`.
pub(crate) fn explore<S: Copy + Eq + Hash + Debug, W: Display>(
    first: S,
    steps: impl Fn(&S) -> Vec<(W, S)>,
    sound: impl Fn(&S) -> Result<(), &'static str>,
) -> Explored<S, W> {
    let mut explored = Explored { from: HashMap::from([(first, None)]), before: HashMap::new() };
    let mut open = VecDeque::from([first]);
    while let Some(state) = open.pop_front() {
        if let Err(broken) = sound(&state) {
            panic!("{broken}: {state:?}\n{}", explored.way_to(&state));
        }
        for (what, next) in steps(&state) {
            explored.before.entry(next).or_default().push(state);
            explored.from.entry(next).or_insert_with(|| {
                open.push_back(next);
                Some((state, what))
            });
        }
    }
    explored
}

impl<S: Copy + Eq + Hash + Debug, W: Display> Explored<S, W> {
    /// How many states there are.
    pub(crate) fn states(&self) -> usize {
        self.from.len()
    }

    /// From every state some way leads to one that `is_reached`, unless it `is_over` there: a driver that is started again can always finish.
    pub(crate) fn finishes(&self, is_reached: impl Fn(&S) -> bool, is_over: impl Fn(&S) -> bool) {
        let mut open: Vec<S> = self.from.keys().filter(|state| is_reached(state)).copied().collect();
        let mut finish: HashSet<S> = open.iter().copied().collect();
        while let Some(state) = open.pop() {
            for earlier in self.before.get(&state).into_iter().flatten() {
                if finish.insert(*earlier) {
                    open.push(*earlier);
                }
            }
        }
        let stuck = self.from.keys().find(|state| !is_over(state) && !finish.contains(*state));
        assert!(stuck.is_none(), "stuck: {stuck:?}\n{}", self.way_to(stuck.unwrap()));
    }

    fn way_to(&self, state: &S) -> String {
        let mut way = Vec::new();
        let mut at = state;
        while let Some(Some((before, what))) = self.from.get(at) {
            way.push(what.to_string());
            at = before;
        }
        way.reverse();
        way.join("\n")
    }
}
