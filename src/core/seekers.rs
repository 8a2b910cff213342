//! Seekers: the pending tasks that want one artifact.
//!
//! Law: a set in order, whatever it is kept in. Most artifacts are wanted by a handful of tasks, which lie side by side; what
//! half the tasks of a pool want is kept in a tree.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::backlog::{Rank, Tier};
use super::numbered::Number;

/// A pending task that wants an artifact: on which line of the ladder, how near its holders are, and its rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seeker {
    pub tier: Tier,
    pub line: Number,
    pub rank: Rank,
}

/// More than so many are kept in a tree, from then on.
const FEW: usize = 32;

/// All that seek one artifact.
#[derive(Debug, Clone)]
pub(super) enum Seekers {
    /// Sorted.
    Few(Vec<Seeker>),
    Many(BTreeSet<Seeker>),
}

impl Default for Seekers {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Seekers {
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Few(few) => few.is_empty(),
            Self::Many(many) => many.is_empty(),
        }
    }

    /// False if it is there already.
    pub fn insert(&mut self, seeker: Seeker) -> bool {
        match self {
            Self::Few(few) => {
                let Err(place) = few.binary_search(&seeker) else { return false };
                if few.len() < FEW {
                    few.insert(place, seeker);
                } else {
                    *self = Self::Many(few.iter().copied().chain([seeker]).collect());
                }
                true
            }
            Self::Many(many) => many.insert(seeker),
        }
    }

    pub fn remove(&mut self, seeker: Seeker) {
        match self {
            Self::Few(few) => {
                if let Ok(place) = few.binary_search(&seeker) {
                    few.remove(place);
                }
            }
            Self::Many(many) => {
                many.remove(&seeker);
            }
        }
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Seeker> {
        self.from(Bound::Unbounded)
    }

    /// Those from one place of the order on.
    pub fn from(&self, start: Bound<Seeker>) -> impl Iterator<Item = &Seeker> {
        let (few, many) = match self {
            Self::Few(few) => {
                let before = |seeker: &Seeker| match &start {
                    Bound::Included(first) => seeker < first,
                    Bound::Excluded(before) => seeker <= before,
                    Bound::Unbounded => false,
                };
                (&few[few.partition_point(before)..], None)
            }
            Self::Many(many) => (&[][..], Some(many.range((start, Bound::Unbounded)))),
        };
        few.iter().chain(many.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seeker() -> impl Strategy<Value = Seeker> {
        let tier = prop_oneof![Just(Tier::Cached), Just(Tier::Dependency)];
        let rank = prop_oneof![Just(Rank::FIRST), Just(Rank::LAST)];
        (tier, 0..40u32, rank).prop_map(|(tier, line, rank)| Seeker { tier, line, rank })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]
        #[test]
        fn they_are_a_sorted_set_however_many_there_are(
            steps in prop::collection::vec((any::<bool>(), seeker()), 0..200),
            from in seeker(),
        ) {
            let (mut tested, mut sorted) = (Seekers::default(), BTreeSet::new());
            for (comes, seeker) in steps {
                if comes {
                    prop_assert_eq!(tested.insert(seeker), sorted.insert(seeker));
                } else {
                    tested.remove(seeker);
                    sorted.remove(&seeker);
                }
                prop_assert_eq!(tested.is_empty(), sorted.is_empty());
            }
            prop_assert!(tested.iter().eq(&sorted));
            for start in [Bound::Included(from), Bound::Excluded(from)] {
                prop_assert!(tested.from(start).eq(sorted.range((start, Bound::Unbounded))));
            }
        }
    }
}
