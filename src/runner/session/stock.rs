//! The stock: which artifacts this runner says it holds.
//!
//! Law: begins with what the runner was given and grows by what succeeded here. It is told in full with each
//! registration, so it is bounded by what a registration can carry; the longest known go first.

use std::collections::{BTreeSet, VecDeque};

use crate::model::ArtifactId;

/// The most bytes of names that are told: well within a message.
const MOST_BYTES: usize = 128 << 10;

/// The artifacts of one runner.
#[derive(Debug, Clone, Default)]
pub(super) struct Stock {
    names: BTreeSet<ArtifactId>,
    by_age: VecDeque<ArtifactId>,
    bytes: usize,
}

impl Stock {
    pub fn add(&mut self, artifact: &ArtifactId) {
        if !self.names.insert(artifact.clone()) {
            return;
        }
        self.bytes += artifact.as_str().len();
        self.by_age.push_back(artifact.clone());
        while self.bytes > MOST_BYTES
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.bytes -= oldest.as_str().len();
            self.names.remove(&oldest);
        }
    }

    /// What a registration says; nothing if there is nothing.
    pub fn told(&self) -> Option<Vec<ArtifactId>> {
        (!self.by_age.is_empty()).then(|| self.by_age.iter().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_known_go_first_when_the_names_are_too_many_for_a_registration() {
        let name = |number: usize| ArtifactId::parse(&format!("{number:0>256}")).expect("a name");
        let mut stock = Stock::default();
        assert_eq!(stock.told(), None);
        for number in 0..513 {
            stock.add(&name(number));
            stock.add(&name(number));
        }
        let told = stock.told().expect("something");
        assert_eq!((told.len(), &told[0], told.last()), (512, &name(1), Some(&name(512))));
    }
}
