//! Sets of offsets, each with the last look at the nsqds that may have missed it.

use std::collections::BTreeMap;

/// Offsets of one queue. Each run of them carries the number of a look at the nsqds: every later look began when all of
/// the run was in nsqd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    /// First offset to one past the last, and the look.
    runs: BTreeMap<i64, Run>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    end: i64,
    look: u64,
}

impl Ranges {
    /// Adds `from..to`; what was there already is asked for by the later look.
    pub(super) fn insert(&mut self, mut from: i64, mut to: i64, look: u64) {
        if from >= to {
            return;
        }
        let overlapping = self.runs.range(..to).rev().take_while(|(_, run)| run.end > from);
        let look = overlapping.map(|(_, run)| run.look).fold(look, u64::max);
        self.remove(from, to);
        // Neighbours of one look become one run.
        if let Some((&start, &run)) = self.runs.range(..from).next_back()
            && run == (Run { end: from, look })
        {
            self.runs.remove(&start);
            from = start;
        }
        if let Some(&next) = self.runs.get(&to).filter(|next| next.look == look) {
            self.runs.remove(&to);
            to = next.end;
        }
        self.runs.insert(from, Run { end: to, look });
    }

    /// Takes `from..to` out.
    pub(super) fn remove(&mut self, from: i64, to: i64) {
        while let Some((&start, &run)) = self.runs.range(..to).next_back() {
            if run.end <= from {
                break;
            }
            self.runs.remove(&start);
            if start < from {
                self.runs.insert(start, Run { end: from, ..run });
            }
            if to < run.end {
                self.runs.insert(to, run);
            }
            if start <= from {
                break;
            }
        }
    }

    /// Takes out every run that a look of this number has seen.
    pub(super) fn forget_seen_by(&mut self, look: u64) {
        self.runs.retain(|_, run| run.look >= look);
    }

    /// The lowest run.
    pub(super) fn first(&self) -> Option<(i64, i64)> {
        self.runs.first_key_value().map(|(&from, run)| (from, run.end))
    }

    /// How many offsets there are.
    pub(super) fn messages(&self) -> u64 {
        self.runs.iter().map(|(from, run)| run.end.abs_diff(*from)).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// What is written down of it, at most so many runs: looks are not, so that runs of different ones are one where they touch.
    pub(super) fn at_most(&self, count: usize) -> Vec<(i64, i64)> {
        let mut runs = self.runs();
        runs.dedup_by(|later, earlier| {
            let touch = later.0 == earlier.1;
            if touch {
                earlier.1 = later.1;
            }
            touch
        });
        nearest_joined(runs, count)
    }

    fn runs(&self) -> Vec<(i64, i64)> {
        self.runs.iter().map(|(from, run)| (*from, run.end)).collect()
    }

    /// Of more than twice as many runs, takes the nearest together until there are so many.
    pub(super) fn shrink(&mut self, count: usize) {
        if self.runs.len() > 2 * count {
            // Those that touch stay apart as long as they may: together they would wait for the latest look of them all.
            for (from, to) in nearest_joined(self.runs(), count) {
                self.insert(from, to, 0);
            }
        }
    }
}

/// At most so many of these runs: the nearest are taken together with what lies between.
fn nearest_joined(mut runs: Vec<(i64, i64)>, count: usize) -> Vec<(i64, i64)> {
    let excess = runs.len().saturating_sub(count.max(1));
    if excess == 0 {
        return runs;
    }
    let mut gaps: Vec<u64> = runs.windows(2).map(|pair| pair[1].0.abs_diff(pair[0].1)).collect();
    gaps.sort_unstable();
    let widest = gaps[excess - 1];
    let mut of_the_widest = excess - gaps.partition_point(|gap| *gap < widest);
    runs.dedup_by(|later, earlier| {
        let gap = later.0.abs_diff(earlier.1);
        let near = gap < widest || (gap == widest && of_the_widest > 0);
        if near {
            of_the_widest -= usize::from(gap == widest);
            earlier.1 = later.1;
        }
        near
    });
    runs
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(i64, i64, u64),
        Remove(i64, i64),
        Forget(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let range = (0_i64..60, 0_i64..12).prop_map(|(from, length)| (from, from + length));
        prop_oneof![
            4 => (range.clone(), 0_u64..8).prop_map(|((from, to), look)| Step::Insert(from, to, look)),
            2 => range.prop_map(|(from, to)| Step::Remove(from, to)),
            1 => (0_u64..8).prop_map(Step::Forget),
        ]
    }

    #[test]
    fn runs_that_touch_are_written_down_as_one_and_forgotten_apart() {
        let mut ranges = Ranges::default();
        for look in 0..5_u64 {
            ranges.insert(look as i64 * 10, look as i64 * 10 + 10, look);
        }
        ranges.insert(60, 70, 9);
        assert_eq!(ranges.at_most(100), [(0, 50), (60, 70)]);
        assert_eq!(ranges.runs.len(), 6);
        ranges.forget_seen_by(3);
        assert_eq!(ranges.at_most(100), [(30, 50), (60, 70)]);
    }

    proptest! {
        #[test]
        fn nothing_is_forgotten_before_its_look(steps in proptest::collection::vec(step(), 1..60)) {
            let mut ranges = Ranges::default();
            // What must be there, with the least look it may be forgotten at.
            let mut held: BTreeMap<i64, u64> = BTreeMap::new();
            let mut removed_last: Option<(i64, i64)> = None;
            for step in steps {
                match step {
                    Step::Insert(from, to, look) => {
                        ranges.insert(from, to, look);
                        for offset in from..to {
                            let known = held.entry(offset).or_default();
                            *known = look.max(*known);
                        }
                        removed_last = None;
                    }
                    Step::Remove(from, to) => {
                        ranges.remove(from, to);
                        held.retain(|offset, _| !(from..to).contains(offset));
                        removed_last = Some((from, to));
                    }
                    Step::Forget(look) => {
                        ranges.forget_seen_by(look);
                        held.retain(|_, known| *known >= look);
                    }
                }
                let has = |offset: i64| ranges.runs.iter().any(|(from, run)| (*from..run.end).contains(&offset));
                for offset in held.keys() {
                    prop_assert!(has(*offset), "{offset} is gone: {ranges:?}");
                }
                if let Some((from, to)) = removed_last {
                    prop_assert!((from..to).all(|offset| !has(offset)));
                }
                let ends: Vec<_> = ranges.runs.iter().map(|(from, run)| (*from, run.end)).collect();
                prop_assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "runs overlap: {ends:?}");
            }
        }

        #[test]
        fn few_runs_cover_all(starts in proptest::collection::btree_set(0_i64..1_000, 1..80), count in 1_usize..20) {
            let mut ranges = Ranges::default();
            for start in &starts {
                ranges.insert(start * 3, start * 3 + 2, 1);
            }
            let few = ranges.at_most(count);
            prop_assert!(few.len() <= count);
            prop_assert_eq!(few.len(), ranges.runs.len().min(count));
            for start in &starts {
                prop_assert!(few.iter().any(|(from, to)| *from <= start * 3 && start * 3 + 2 <= *to));
            }
            let many = ranges.runs.len() > 2 * count;
            ranges.shrink(count);
            prop_assert_eq!(ranges.at_most(usize::MAX) == few, many || ranges.runs.len() <= count);
        }
    }
}
