//! Artifacts: which runner holds which, and which of them pending tasks want.
//!
//! Law: derived from the rows alone, through `State::put`. Each artifact has one entry with its holders and with the
//! tasks that seek it, so news of one costs as much as it has holders. For each runner there is a list of the wanted
//! artifacts it holds, by the place of the first task that wants one. A listed place may be too early, never too late:
//! what leaves a list's top is looked up again by whoever reads it, so tasks that come and go touch no lists.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Included, Unbounded};

use rustc_hash::FxHashMap;

use super::backlog::{Place, Rank, Tier};
use super::numbered::{Number, Numbered};
use super::seekers::{Seeker, Seekers};
use crate::model::{ArtifactId, Holding, RunnerId};

/// Tasks of one line that want the same artifact in the same way: they fit on the same of its holders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    pub artifact: Number,
    pub tier: Tier,
    pub line: Number,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    /// The runners that hold it, in the order of their numbers.
    holders: Vec<Number>,
    seekers: Seekers,
}

/// What is known of one runner.
#[derive(Debug, Clone, Default)]
struct OnRunner {
    /// What it holds, and since which place in the order of news.
    since: FxHashMap<Number, u64>,
    by_age: BTreeSet<(u64, Number)>,
    listed: BTreeSet<(Place, Number)>,
    places: FxHashMap<Number, Place>,
}

/// All artifacts that somebody holds or wants.
#[derive(Debug, Clone, Default)]
pub struct ArtifactIndex {
    entries: Numbered<ArtifactId, Entry>,
    runners: Numbered<RunnerId, OnRunner>,
    /// Where each of these runners sits in the fleet; nothing of one that has no row.
    seats: Vec<Option<Number>>,
}

impl ArtifactIndex {
    /// Puts a holding in place of an earlier one of the same runner and artifact. `seat` is where the runner sits.
    pub(super) fn hold(&mut self, holding: &Holding, seat: Option<Number>) -> Number {
        let number = self.entries.number(&holding.artifact, Entry::default);
        let runner = self.runners.number(&holding.runner, OnRunner::default);
        self.sits(runner, seat);
        let on_runner = self.runners.get_mut(runner);
        match on_runner.since.insert(number, holding.sequence) {
            Some(before) => {
                on_runner.by_age.remove(&(before, number));
            }
            None => {
                let holders = &mut self.entries.get_mut(number).holders;
                let place = holders.binary_search(&runner).expect_err("it did not hold it");
                holders.insert(place, runner);
            }
        }
        on_runner.by_age.insert((holding.sequence, number));
        number
    }

    /// Takes a holding out.
    pub(super) fn release(&mut self, runner: &RunnerId, artifact: &ArtifactId) {
        let found = self.entries.find(artifact).zip(self.runners.find(runner));
        let Some((number, runner)) = found else { return };
        let on_runner = self.runners.get_mut(runner);
        let Some(since) = on_runner.since.remove(&number) else { return };
        let holders = &mut self.entries.get_mut(number).holders;
        holders.remove(holders.binary_search(&runner).expect("who holds it is among its holders"));
        on_runner.by_age.remove(&(since, number));
        on_runner.unlist(number);
        if on_runner.by_age.is_empty() {
            self.runners.remove(runner);
        }
        self.drop_if_unused(number);
    }

    /// Notes where a runner sits now.
    pub(super) fn seat(&mut self, runner: &RunnerId, seat: Option<Number>) {
        if let Some(runner) = self.runners.find(runner) {
            self.sits(runner, seat);
        }
    }

    fn sits(&mut self, runner: Number, seat: Option<Number>) {
        let runner = runner as usize;
        if self.seats.len() <= runner {
            self.seats.resize(runner + 1, None);
        }
        self.seats[runner] = seat;
    }

    /// Takes in that a task seeks the artifact. Nothing if it does already.
    pub(super) fn seek(&mut self, artifact: &ArtifactId, seeker: Seeker) -> Option<Number> {
        let number = self.entries.number(artifact, Entry::default);
        let entry = self.entries.get_mut(number);
        if !entry.seekers.insert(seeker) {
            return None;
        }
        let place = seeker.rank.at(seeker.tier);
        for holder in &entry.holders {
            let on_runner = self.runners.get_mut(*holder);
            if on_runner.places.get(&number).is_none_or(|listed| place < *listed) {
                on_runner.list(number, place);
            }
        }
        Some(number)
    }

    /// Takes in that the task seeks it no more.
    pub(super) fn unseek(&mut self, number: Number, seeker: Seeker) {
        self.entries.get_mut(number).seekers.remove(seeker);
        self.drop_if_unused(number);
    }

    fn drop_if_unused(&mut self, number: Number) {
        let entry = self.entries.get(number);
        if entry.holders.is_empty() && entry.seekers.is_empty() {
            self.entries.remove(number);
        }
    }

    /// Lists a wanted artifact on a runner that holds it, or takes it off the list.
    pub(super) fn relist(&mut self, runner: &RunnerId, number: Number, place: Option<Place>) {
        let Some(runner) = self.runners.find(runner) else { return };
        let on_runner = self.runners.get_mut(runner);
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
        let from = (after.map_or(Unbounded, Excluded), Unbounded);
        self.runners.of(runner).into_iter().flat_map(move |on_runner| on_runner.listed.range(from)).copied()
    }

    /// How many artifacts are on a runner's list.
    pub(super) fn listed_len(&self, runner: &RunnerId) -> usize {
        self.runners.of(runner).map_or(0, |on_runner| on_runner.listed.len())
    }

    /// The artifacts on a runner's list.
    pub(super) fn listed(&self, runner: &RunnerId) -> impl Iterator<Item = (Place, Number)> {
        self.listed_after(runner, None)
    }

    /// The number of an artifact that somebody holds or wants.
    pub(super) fn find(&self, artifact: &ArtifactId) -> Option<Number> {
        self.entries.find(artifact)
    }

    pub(super) fn name(&self, number: Number) -> &ArtifactId {
        self.entries.name(number)
    }

    /// The runners that hold an artifact, in whatever state, in the order of their ids.
    pub fn holders(&self, artifact: &str) -> impl ExactSizeIterator<Item = &RunnerId> {
        let entry = self.entries.of(artifact);
        let holders = entry.map_or(&[][..], |entry| &entry.holders).iter();
        let mut names: Vec<&RunnerId> = holders.map(|holder| self.runners.name(*holder)).collect();
        names.sort();
        names.into_iter()
    }

    /// The seats of the runners that hold an artifact, in no order.
    pub(super) fn seats(&self, artifact: Number) -> impl ExactSizeIterator<Item = Option<Number>> + Clone {
        self.entries.get(artifact).holders.iter().map(|holder| self.seats[*holder as usize])
    }

    /// Whether the runner holds the artifact.
    pub fn holds(&self, runner: &RunnerId, artifact: &ArtifactId) -> bool {
        self.entries.find(artifact).is_some_and(|artifact| self.holds_any(runner, &[artifact]))
    }

    /// Whether the runner holds one of these artifacts.
    pub(super) fn holds_any(&self, runner: &RunnerId, artifacts: &[Number]) -> bool {
        let Some(runner) = self.runners.find(runner) else { return false };
        artifacts.iter().any(|artifact| self.entries.get(*artifact).holders.binary_search(&runner).is_ok())
    }

    /// The first of the tasks that seek an artifact by way of a group, or the first after `after`.
    pub(super) fn first(&self, group: Group, after: Option<Rank>) -> Option<Rank> {
        let Group { artifact, tier, line } = group;
        let at = |rank| Seeker { tier, line, rank };
        let from = after.map_or(Included(at(Rank::FIRST)), |after| Excluded(at(after)));
        let found = self.entries.get(artifact).seekers.from(from).next()?;
        (found.tier == tier && found.line == line).then_some(found.rank)
    }

    /// The ranks of a group, in order.
    pub(super) fn ranks(&self, group: Group) -> impl Iterator<Item = Rank> {
        let Group { artifact, tier, line } = group;
        let first = Seeker { tier, line, rank: Rank::FIRST };
        let seekers = self.entries.get(artifact).seekers.from(Included(first));
        seekers.take_while(move |seeker| seeker.tier == tier && seeker.line == line).map(|seeker| seeker.rank)
    }

    /// The groups that want an artifact, each with its first task's rank.
    pub(super) fn groups_of(&self, artifact: Number) -> Vec<(Group, Rank)> {
        let seekers = &self.entries.get(artifact).seekers;
        let mut found: Vec<(Group, Rank)> = Vec::new();
        let mut next = seekers.iter().next();
        while let Some(Seeker { tier, line, rank }) = next.copied() {
            found.push((Group { artifact, tier, line }, rank));
            next = seekers.from(Excluded(Seeker { tier, line, rank: Rank::LAST })).next();
        }
        found
    }

    /// The place of the first task that wants an artifact; nothing if none does.
    pub(super) fn first_place(&self, artifact: Number) -> Option<Place> {
        self.groups_of(artifact).iter().map(|(group, rank)| rank.at(group.tier)).min()
    }

    /// All that is sought, with who seeks it.
    pub(super) fn sought(&self) -> impl Iterator<Item = (&ArtifactId, &Seeker)> {
        self.entries
            .iter()
            .flat_map(|(_, name, entry)| entry.seekers.iter().map(move |seeker| (name, seeker)))
    }

    /// How many artifacts a runner holds.
    pub fn count(&self, runner: &RunnerId) -> usize {
        self.runners.of(runner).map_or(0, |on_runner| on_runner.by_age.len())
    }

    /// What a runner holds, the longest known first.
    pub fn of(&self, runner: &RunnerId) -> impl Iterator<Item = &ArtifactId> {
        let numbers = self.runners.of(runner).into_iter().flat_map(|on_runner| &on_runner.by_age);
        numbers.map(|(_, number)| self.name(*number))
    }

    /// The runners that hold anything, with where each sits.
    pub(super) fn seated(&self) -> impl Iterator<Item = (&RunnerId, Option<Number>)> {
        self.runners.iter().map(|(number, name, _)| (name, self.seats[number as usize]))
    }

    /// The rows this was made from, in no order.
    pub fn holdings(&self) -> impl Iterator<Item = Holding> {
        self.entries.iter().flat_map(move |(artifact, name, entry)| {
            entry.holders.iter().map(move |holder| Holding {
                runner: self.runners.name(*holder).clone(),
                artifact: name.clone(),
                sequence: self.runners.get(*holder).since[&artifact],
            })
        })
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

/// Two are the same when the same runners hold the same, and as many artifacts are known; numbers and how early
/// something is listed are free. Who seeks what, the ladder compares.
impl PartialEq for ArtifactIndex {
    fn eq(&self, other: &Self) -> bool {
        let held = |index: &Self, artifact: &ArtifactId| {
            index.holders(artifact.as_str()).cloned().collect::<Vec<_>>()
        };
        let ages = |index: &Self, runner: &RunnerId| {
            let held = index.runners.of(runner).into_iter().flat_map(|on_runner| &on_runner.by_age);
            held.map(|(since, artifact)| (*since, index.name(*artifact).clone())).collect::<Vec<_>>()
        };
        self.entries.len() == other.entries.len()
            && self.entries.iter().all(|(_, name, _)| {
                other.entries.find(name).is_some() && held(self, name) == held(other, name)
            })
            && self.runners.len() == other.runners.len()
            && self.runners.iter().all(|(_, runner, _)| ages(self, runner) == ages(other, runner))
    }
}
