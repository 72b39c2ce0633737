//! A digest of message ids that can be taken apart again.
//!
//! Two hops that saw the same messages have the same sketch, in whatever order they saw them. Where they differ, the difference
//! of their sketches is the sketch of what differs, and as long as that is not much, it tells each id and how often it is too many or
//! too few. The size does not depend on how many messages there are. (An invertible Bloom lookup table: Goodrich and Mitzenmacher,
//! 2011.)
//!
//! Each id goes into four cells. A cell keeps a count, the sum of its ids and the sum of their checks. A cell that holds a single id
//! gives it away: the sum divided by the count, if the check agrees. Taken out of its other cells, it leaves more cells with a single id.
//!
//! What it promises: [`Sketch::decode`] is right or says nothing. It says nothing when more ids differ than about half as many as
//! there are cells, and then with a growing chance; counts are right always.

use std::collections::BTreeMap;

/// Cells of a sketch; ids that differ are told up to about half as many.
pub const CELLS: usize = 96;
/// With three, two of fifty ids would share all their cells in one sketch of thirty, and neither could be told.
const HASHES: usize = 4;
const ROW: usize = CELLS / HASHES;
/// Of an even count a bit of the id is lost for each halving; so many are tried out.
const HALVINGS: u32 = 4;

/// One cell: what went into it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cell {
    /// Ids that went in, less those that went out.
    pub count: i64,
    /// Their sum, modulo 2^128.
    pub ids: u128,
    /// The sum of their checks, modulo 2^64.
    pub checks: u64,
}

impl Cell {
    const ZERO: Self = Self { count: 0, ids: 0, checks: 0 };

    fn times(self, times: i64) -> Self {
        Self {
            count: self.count.wrapping_mul(times),
            ids: self.ids.wrapping_mul(times as u128),
            checks: self.checks.wrapping_mul(times as u64),
        }
    }

    fn add(&mut self, other: Self) {
        self.count = self.count.wrapping_add(other.count);
        self.ids = self.ids.wrapping_add(other.ids);
        self.checks = self.checks.wrapping_add(other.checks);
    }
}

/// A multiset of ids, or the difference of two.
#[derive(Clone, PartialEq, Eq)]
pub struct Sketch(Box<[Cell; CELLS]>);

impl Default for Sketch {
    fn default() -> Self {
        Self(Box::new([Cell::ZERO; CELLS]))
    }
}

impl std::fmt::Debug for Sketch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sketch of {}", self.count())
    }
}

/// Where an id goes, and its check.
struct Spread {
    cells: [usize; HASHES],
    check: u64,
}

impl Spread {
    fn of(id: u128) -> Self {
        let hash = mix(mix(id as u64 ^ 0x9E37_79B9_7F4A_7C15) ^ (id >> 64) as u64);
        let row = |n: usize| n * ROW + (hash >> (16 * n)) as usize % ROW;
        Self { cells: [row(0), row(1), row(2), row(3)], check: mix(hash ^ 0xD1B5_4A32_D192_ED03) }
    }
}

/// Scatters every bit over all (the finalizer of SplitMix64).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

impl Sketch {
    /// Puts an id in.
    pub fn add(&mut self, id: u128) {
        self.add_times(id, 1);
    }

    /// Puts an id in so often; a negative number takes it out.
    pub fn add_times(&mut self, id: u128, times: i64) {
        let spread = Spread::of(id);
        let content = Cell { count: 1, ids: id, checks: spread.check }.times(times);
        for cell in spread.cells {
            self.0[cell].add(content);
        }
    }

    /// Puts in what the other has, so often.
    pub fn merge(&mut self, other: &Self, times: i64) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0.iter()) {
            mine.add(theirs.times(times));
        }
    }

    /// What this has and the other has not, less what the other has and this has not.
    #[must_use]
    pub fn less(&self, other: &Self) -> Self {
        let mut difference = self.clone();
        difference.merge(other, -1);
        difference
    }

    /// What either has.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        sum.merge(other, 1);
        sum
    }

    /// How many there are, each as often as it is there.
    #[must_use]
    pub fn count(&self) -> i64 {
        self.0[..ROW].iter().fold(0, |sum, cell| sum.wrapping_add(cell.count))
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|cell| *cell == Cell::ZERO)
    }

    /// The cells that hold something, with their places.
    pub fn cells(&self) -> impl Iterator<Item = (usize, Cell)> {
        self.0.iter().copied().enumerate().filter(|(_, cell)| *cell != Cell::ZERO)
    }

    /// Puts a cell's content in; `false` where there is no such cell.
    #[must_use]
    pub fn put(&mut self, place: usize, content: Cell) -> bool {
        let Some(cell) = self.0.get_mut(place) else { return false };
        cell.add(content);
        true
    }

    /// Every id and how often it is there; `None` when there are too many to tell.
    #[must_use]
    pub fn decode(&self) -> Option<BTreeMap<u128, i64>> {
        let mut left = self.clone();
        let mut found = BTreeMap::new();
        let mut look_at: Vec<usize> = (0..CELLS).collect();
        // Each success empties a cell; more of them than cells would be going round in circles.
        let mut successes = 0;
        while let Some(cell) = look_at.pop() {
            let Some(id) = left.alone_in(cell) else { continue };
            successes += 1;
            if successes > CELLS {
                return None;
            }
            let count = left.0[cell].count;
            left.add_times(id, -count);
            *found.entry(id).or_insert(0) += count;
            look_at.extend(Spread::of(id).cells);
        }
        left.is_empty().then(|| {
            found.retain(|_, count| *count != 0);
            found
        })
    }

    /// The id in a cell that holds a single one, however often.
    fn alone_in(&self, place: usize) -> Option<u128> {
        let Cell { count, ids, checks } = self.0[place];
        let halvings = count.trailing_zeros();
        if count == 0 || halvings > HALVINGS || ids.trailing_zeros() < halvings {
            return None;
        }
        let known_bits = u128::BITS - halvings;
        let low = (ids >> halvings).wrapping_mul(inverse((count >> halvings) as u128));
        let low = if halvings == 0 { low } else { low & (u128::MAX >> halvings) };
        (0..1_u128 << halvings).map(|high| low | high.checked_shl(known_bits).unwrap_or(0)).find(|id| {
            let spread = Spread::of(*id);
            spread.cells.contains(&place) && spread.check.wrapping_mul(count as u64) == checks
        })
    }
}

/// What an odd number must be multiplied with to give 1, modulo 2^128 (Newton's method, from 3 right bits on).
fn inverse(odd: u128) -> u128 {
    (0..6).fold(odd, |inverse, _| inverse.wrapping_mul(2_u128.wrapping_sub(odd.wrapping_mul(inverse))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sketch(ids: &[(u128, i64)]) -> Sketch {
        let mut sketch = Sketch::default();
        ids.iter().for_each(|(id, times)| sketch.add_times(*id, *times));
        sketch
    }

    /// Ids as a gateway mints them: neighbours differ in a few bits only.
    fn id() -> impl Strategy<Value = u128> {
        let minted = (0_u128..4, 0_u128..70_000).prop_map(|(gateway, n)| (0xA5A5 + gateway) << 96 | n);
        prop_oneof![4 => minted, 1 => any::<u128>()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn a_difference_within_capacity_is_told_exactly(
            common in proptest::collection::vec(id(), 0..2_000),
            differing in proptest::collection::btree_map(id(), prop_oneof![Just(1_i64), Just(-1), -8_i64..=8], 0..40),
            rotation in any::<prop::sample::Index>(),
        ) {
            let (mut one, mut other) = (Sketch::default(), Sketch::default());
            common.iter().for_each(|id| one.add(*id));
            // The other hop saw them in another order.
            let start = rotation.index(common.len().max(1));
            common.iter().cycle().skip(start).take(common.len()).for_each(|id| other.add(*id));
            for (id, times) in &differing {
                if *times > 0 { one.add_times(*id, *times) } else { other.add_times(*id, -*times) }
            }
            let difference = one.less(&other);
            prop_assert_eq!(difference.count(), differing.values().sum::<i64>());
            let expected: BTreeMap<u128, i64> = differing.into_iter().filter(|(_, times)| *times != 0).collect();
            // Two ids may share all their cells; what is told must be right.
            match difference.decode() {
                Some(told) => prop_assert_eq!(told, expected),
                None => prop_assert!(expected.len() > 1),
            }
        }

        #[test]
        fn beyond_capacity_nothing_wrong_is_told(ids in proptest::collection::btree_map(id(), -3_i64..=3, 50..400)) {
            let ids: Vec<_> = ids.into_iter().filter(|(_, times)| *times != 0).collect();
            if let Some(told) = sketch(&ids).decode() {
                prop_assert_eq!(told.into_iter().collect::<Vec<_>>(), ids);
            }
        }

        #[test]
        fn sketches_add_up(ids in proptest::collection::vec((id(), -5_i64..=5), 0..60), cut in any::<prop::sample::Index>()) {
            let (first, second) = ids.split_at(cut.index(ids.len().max(1)).min(ids.len()));
            let whole = sketch(&ids);
            prop_assert_eq!(sketch(first).plus(&sketch(second)), whole.clone());
            prop_assert!(whole.less(&whole).is_empty());
            let mut copied = Sketch::default();
            prop_assert!(whole.cells().all(|(place, cell)| copied.put(place, cell)));
            prop_assert_eq!(copied, whole);
        }
    }

    #[test]
    fn nearly_every_difference_of_half_as_many_ids_as_cells_is_told() {
        let told = |ids: u128| {
            let decodes = |round: u128| {
                let mut sketch = Sketch::default();
                (0..ids).for_each(|n| sketch.add_times(round << 64 | n, if n % 2 == 0 { 1 } else { -1 }));
                sketch.decode().is_some_and(|told| told.len() as u128 == ids)
            };
            (0..2_000).filter(|round| decodes(*round)).count()
        };
        let half = told(CELLS as u128 / 2);
        assert!(half >= 1_980, "{half} of 2000");
        assert_eq!(told(2 * CELLS as u128), 0);
    }

    #[test]
    fn an_id_that_came_often_is_told_with_how_often() {
        for times in [-16, -3, -2, 2, 4, 7, 12, 16] {
            let id = u128::MAX - 5;
            assert_eq!(
                sketch(&[(id, times), (9, 1)]).decode().unwrap(),
                BTreeMap::from([(9, 1), (id, times)])
            );
        }
        assert_eq!(sketch(&[(7, 32)]).decode(), None);
    }
}
