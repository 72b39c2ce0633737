//! How often each offset of a queue was relayed, by what relays wrote down before they committed.

use std::collections::BTreeMap;

/// Runs of offsets, each with how often it was covered.
#[derive(Debug, Clone, Default)]
pub struct Coverage(BTreeMap<i64, i32>);

impl Coverage {
    /// Covers `from..to` once more.
    pub fn add(&mut self, from: i64, to: i64) {
        if from < to {
            self.change(from, 1);
            self.change(to, -1);
        }
    }

    /// Neighbours of one depth leave nothing between them.
    fn change(&mut self, at: i64, by: i32) {
        let step = self.0.entry(at).or_default();
        *step += by;
        if *step == 0 {
            self.0.remove(&at);
        }
    }

    /// How often the offset was covered. Asked for in rising order it costs a step each; see [`Depths`].
    #[must_use]
    pub fn depths(&self) -> Depths<'_> {
        Depths { steps: self.0.iter().peekable(), depth: 0 }
    }
}

/// Tells depths of rising offsets.
pub struct Depths<'a> {
    steps: std::iter::Peekable<std::collections::btree_map::Iter<'a, i64, i32>>,
    depth: i32,
}

impl Depths<'_> {
    /// How often the offset was covered; it must not be below the one asked for before.
    pub fn at(&mut self, offset: i64) -> u32 {
        while let Some((_, step)) = self.steps.next_if(|(at, _)| **at <= offset) {
            self.depth += step;
        }
        u32::try_from(self.depth).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_offset_is_as_deep_as_the_runs_over_it(runs in proptest::collection::vec((0_i64..50, 0_i64..9), 0..20)) {
            let mut coverage = Coverage::default();
            runs.iter().for_each(|(from, length)| coverage.add(*from, from + length));
            let mut depths = coverage.depths();
            for offset in 0..60 {
                let over = runs.iter().filter(|(from, length)| (*from..from + length).contains(&offset)).count();
                prop_assert_eq!(depths.at(offset) as usize, over, "at {}", offset);
            }
        }
    }

    #[test]
    fn runs_that_follow_each_other_take_the_room_of_one() {
        let mut coverage = Coverage::default();
        (0..1_000).for_each(|n| coverage.add(n * 10, n * 10 + 10));
        assert_eq!(coverage.0.len(), 2);
    }
}
