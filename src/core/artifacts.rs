//! Artifacts: which runner holds which, and which of them pending tasks want.
//!
//! Law: derived from the rows alone, through `State::put`. Each artifact has one entry with its holders, so news of
//! one costs as much as it has holders. For each runner there is a list of the wanted artifacts it holds, by the
//! place of the first task that wants one. A listed place may be too early, never too late: what leaves a list's
//! top is looked up again by whoever reads it, so tasks that come and go touch no lists.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::backlog::Place;
use crate::model::{ArtifactId, Holding, RunnerId};

/// The number of an entry while it is in use.
pub(super) type Number = u32;

#[derive(Debug, Clone)]
struct Entry {
    name: ArtifactId,
    /// Who holds it, in the order of their ids, and each holding's place in the order of news.
    holders: Vec<(RunnerId, u64)>,
    /// How many pending tasks want it.
    wanted: u32,
}

/// What is known of one runner.
#[derive(Debug, Clone, Default)]
struct OnRunner {
    by_age: BTreeSet<(u64, Number)>,
    listed: BTreeSet<(Place, Number)>,
    places: FxHashMap<Number, Place>,
}

/// All artifacts that somebody holds or wants.
#[derive(Debug, Clone, Default)]
pub struct ArtifactIndex {
    numbers: FxHashMap<ArtifactId, Number>,
    entries: Vec<Option<Entry>>,
    free: Vec<Number>,
    runners: FxHashMap<RunnerId, OnRunner>,
}

impl ArtifactIndex {
    /// Puts a holding in place of an earlier one of the same runner and artifact.
    pub(super) fn hold(&mut self, holding: &Holding) -> Number {
        let number = self.number(&holding.artifact);
        let holders = &mut self.entry_mut(number).holders;
        let sequence = holding.sequence;
        let before = match holders.binary_search_by(|(runner, _)| runner.cmp(&holding.runner)) {
            Ok(place) => Some(std::mem::replace(&mut holders[place].1, sequence)),
            Err(place) => {
                holders.insert(place, (holding.runner.clone(), sequence));
                None
            }
        };
        let runner = self.runners.entry(holding.runner.clone()).or_default();
        if let Some(before) = before {
            runner.by_age.remove(&(before, number));
        }
        runner.by_age.insert((sequence, number));
        number
    }

    /// Takes a holding out. Says the artifact's number while it has one.
    pub(super) fn release(&mut self, runner: &RunnerId, artifact: &ArtifactId) {
        let Some(number) = self.numbers.get(artifact).copied() else { return };
        let holders = &mut self.entry_mut(number).holders;
        let Ok(place) = holders.binary_search_by(|(holder, _)| holder.cmp(runner)) else { return };
        let (_, sequence) = holders.remove(place);
        if let Some(on_runner) = self.runners.get_mut(runner) {
            on_runner.by_age.remove(&(sequence, number));
            on_runner.unlist(number);
            if on_runner.by_age.is_empty() {
                self.runners.remove(runner);
            }
        }
        self.drop_if_unused(number);
    }

    /// Counts one more task that wants the artifact, the first of them at `place`.
    pub(super) fn want(&mut self, artifact: &ArtifactId, place: Place) -> Number {
        let number = self.number(artifact);
        let entry = self.entries[number as usize].as_mut().expect("a number names an entry");
        entry.wanted += 1;
        for (runner, _) in &entry.holders {
            let on_runner = self.runners.get_mut(runner).expect("a holder holds something");
            if on_runner.places.get(&number).is_none_or(|listed| place < *listed) {
                on_runner.list(number, place);
            }
        }
        number
    }

    /// Counts one task less that wants the artifact.
    pub(super) fn unwant(&mut self, artifact: &ArtifactId) {
        let Some(number) = self.numbers.get(artifact).copied() else { return };
        self.entry_mut(number).wanted -= 1;
        self.drop_if_unused(number);
    }

    /// Lists a wanted artifact on a runner that holds it, or takes it off the list.
    pub(super) fn relist(&mut self, runner: &RunnerId, number: Number, place: Option<Place>) {
        let Some(on_runner) = self.runners.get_mut(runner) else { return };
        match place {
            Some(place) => on_runner.list(number, place),
            None => on_runner.unlist(number),
        }
    }

    /// The wanted artifacts on a runner's list that come after one of them, with their places.
    pub(super) fn listed_after(
        &self,
        runner: &RunnerId,
        after: Option<(Place, Number)>,
    ) -> impl Iterator<Item = (Place, Number)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = (after.map_or(Unbounded, Excluded), Unbounded);
        self.runners.get(runner).into_iter().flat_map(move |on_runner| on_runner.listed.range(from)).copied()
    }

    /// The artifacts on a runner's list.
    pub(super) fn listed(&self, runner: &RunnerId) -> impl Iterator<Item = (Place, Number)> {
        self.runners.get(runner).into_iter().flat_map(|on_runner| &on_runner.listed).copied()
    }

    /// The number of an artifact that somebody holds or wants.
    pub(super) fn find(&self, artifact: &ArtifactId) -> Option<Number> {
        self.numbers.get(artifact).copied()
    }

    pub(super) fn name(&self, number: Number) -> &ArtifactId {
        &self.entries[number as usize].as_ref().expect("a number names an entry").name
    }

    /// The runners that hold an artifact, in whatever state, in the order of their ids.
    pub fn holders(&self, artifact: &str) -> impl ExactSizeIterator<Item = &RunnerId> {
        let entry = self.numbers.get(artifact).and_then(|number| self.entries[*number as usize].as_ref());
        entry.map_or(&[][..], |entry| &entry.holders).iter().map(|(runner, _)| runner)
    }

    /// Whether the runner holds the artifact.
    pub fn holds(&self, runner: &RunnerId, artifact: &ArtifactId) -> bool {
        let Some(number) = self.numbers.get(artifact) else { return false };
        let entry = self.entries[*number as usize].as_ref().expect("a number names an entry");
        entry.holders.binary_search_by(|(holder, _)| holder.cmp(runner)).is_ok()
    }

    /// Whether a pending task wants it.
    pub(super) fn is_wanted(&self, number: Number) -> bool {
        self.entries[number as usize].as_ref().is_some_and(|entry| entry.wanted > 0)
    }

    /// How many artifacts a runner holds.
    pub fn count(&self, runner: &RunnerId) -> usize {
        self.runners.get(runner).map_or(0, |on_runner| on_runner.by_age.len())
    }

    /// What a runner holds, the longest known first.
    pub fn of(&self, runner: &RunnerId) -> impl Iterator<Item = &ArtifactId> {
        let numbers = self.runners.get(runner).into_iter().flat_map(|on_runner| &on_runner.by_age);
        numbers.map(|(_, number)| self.name(*number))
    }

    /// The rows this was made from, in no order.
    pub fn holdings(&self) -> impl Iterator<Item = Holding> {
        self.entries.iter().flatten().flat_map(|entry| {
            entry.holders.iter().map(|(runner, sequence)| Holding {
                runner: runner.clone(),
                artifact: entry.name.clone(),
                sequence: *sequence,
            })
        })
    }

    fn number(&mut self, artifact: &ArtifactId) -> Number {
        if let Some(number) = self.numbers.get(artifact) {
            return *number;
        }
        let entry = Some(Entry { name: artifact.clone(), holders: Vec::new(), wanted: 0 });
        let number = match self.free.pop() {
            Some(number) => {
                self.entries[number as usize] = entry;
                number
            }
            None => {
                self.entries.push(entry);
                Number::try_from(self.entries.len() - 1).expect("fewer than four billion artifacts")
            }
        };
        self.numbers.insert(artifact.clone(), number);
        number
    }

    fn entry_mut(&mut self, number: Number) -> &mut Entry {
        self.entries[number as usize].as_mut().expect("a number names an entry")
    }

    fn drop_if_unused(&mut self, number: Number) {
        let slot = &mut self.entries[number as usize];
        if let Some(entry) = slot.take_if(|entry| entry.holders.is_empty() && entry.wanted == 0) {
            self.numbers.remove(&entry.name);
            self.free.push(number);
        }
    }
}

impl OnRunner {
    fn list(&mut self, number: Number, place: Place) {
        if let Some(before) = self.places.insert(number, place) {
            self.listed.remove(&(before, number));
        }
        self.listed.insert((place, number));
    }

    fn unlist(&mut self, number: Number) {
        if let Some(before) = self.places.remove(&number) {
            self.listed.remove(&(before, number));
        }
    }
}

/// Two are the same when the same runners hold and the same tasks want the same; numbers and how early something is
/// listed are free.
impl PartialEq for ArtifactIndex {
    fn eq(&self, other: &Self) -> bool {
        let same = |(name, number): (&ArtifactId, &Number)| {
            let ours = self.entries[*number as usize].as_ref();
            let theirs = other.numbers.get(name).and_then(|number| other.entries[*number as usize].as_ref());
            ours.zip(theirs)
                .is_some_and(|(ours, theirs)| ours.holders == theirs.holders && ours.wanted == theirs.wanted)
        };
        let ages = |index: &Self, runner: &RunnerId| index.of(runner).cloned().collect::<Vec<_>>();
        self.numbers.len() == other.numbers.len()
            && self.numbers.iter().all(same)
            && self.runners.len() == other.runners.len()
            && self.runners.keys().all(|runner| ages(self, runner) == ages(other, runner))
    }
}
