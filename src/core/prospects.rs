//! Prospects: the tasks that a runner is to get because it holds something of theirs.
//!
//! Story: each woken runner shows its wanted artifacts in the order of the tasks that want them; each shown artifact
//! brings in the groups of its tasks; each group its tasks one by one, until one finds no room on any holder. Woken
//! tasks enter by themselves. The planner takes all of them and the heads of the lines in one order.
//!
//! Law: a prospect is placed only on a ready runner that holds what makes it one. A runner with no room for the
//! smallest of them shows nothing, so what is looked at follows what can be placed.

use rustc_hash::FxHashSet;

use super::artifacts::Number;
use super::backlog::{LineKey, Place, Rank, Tier};
use super::fleet::Seat;
use super::ladder::{Group, Step};
use super::state::State;
use super::wake::Wakes;
use crate::model::{ArtifactId, RunnerId, RunnerState, Task};

/// Beyond so many holders, runners are looked for in the order of the fleet.
const FEW_HOLDERS: usize = 64;

/// Where prospects come from.
#[derive(Debug)]
enum Source {
    /// A runner, and how far it has shown what it holds.
    Runner {
        id: RunnerId,
        shown: Option<(Place, Number)>,
    },
    Group {
        group: Group,
        passed: Option<Rank>,
    },
    /// One woken task.
    Task {
        line: LineKey,
        rank: Rank,
        tier: Tier,
    },
}

/// What a source brings when its turn comes.
pub(super) enum Prospect {
    /// A task to be placed on a runner of this nearness.
    Task(std::sync::Arc<Task>, Tier),
    /// Nothing by itself.
    None,
}

/// The prospects of one planning.
#[derive(Debug, Default)]
pub(super) struct Prospects {
    sources: Vec<Source>,
    shown: FxHashSet<Number>,
    /// Sources that are to enter the order, with their places.
    pub entering: Vec<(Place, usize)>,
}

impl Prospects {
    /// Everything the wake-ups name.
    pub fn of(state: &State, wakes: &Wakes) -> Self {
        let mut prospects = Self::default();
        let everyone = wakes.holders.is_some();
        let woken = wakes.runners.keys().filter(|_| !everyone);
        let all = state.fleet().after(None).filter(|_| everyone);
        for runner in woken.chain(all) {
            prospects.show_next(state, runner.clone(), None);
        }
        let builds = state.ladder().builds().filter(|_| wakes.builds.is_some());
        for id in wakes.tasks.keys().chain(builds) {
            let Some(task) = state.task(id.as_str()).filter(|task| task.is_pending()) else { continue };
            let Some(step) = state.ladder().step(id).filter(|step| *step != Step::Unbegun) else { continue };
            let (line, rank) = state.place_of(task);
            for tier in [Tier::Cached, Tier::Dependency] {
                let reached = tier == Tier::Cached || step >= Step::Dependencies;
                if reached && !wanted(task, tier).is_empty() && state.is_open(&line) {
                    prospects.enter(rank.at(tier), Source::Task { line: line.clone(), rank, tier });
                }
            }
        }
        prospects
    }

    fn enter(&mut self, place: Place, source: Source) {
        self.entering.push((place, self.sources.len()));
        self.sources.push(source);
    }

    fn show_next(&mut self, state: &State, id: RunnerId, shown: Option<(Place, Number)>) {
        if !state.fleet().get(&id).is_some_and(|seat| has_room(state, seat)) {
            return;
        }
        // What another has shown is in the order already.
        let next =
            state.artifacts.listed_after(&id, shown).find(|(_, artifact)| !self.shown.contains(artifact));
        if let Some(next) = next {
            self.enter(next.0, Source::Runner { id, shown: Some(next) });
        }
    }

    /// What source number `number` brings at `place`.
    pub fn take(&mut self, state: &mut State, number: usize, place: Place) -> Prospect {
        match &self.sources[number] {
            Source::Runner { id, shown } => {
                let (id, shown) = (id.clone(), *shown);
                self.show(state, &id, shown.expect("a runner enters with what it shows"));
                self.show_next(state, id, shown);
                Prospect::None
            }
            Source::Group { group, passed } => match state.ladder().first(group, *passed) {
                Some(rank) if rank.at(group.tier) == place => match state.waiting(&group.line, rank) {
                    Some(task) => Prospect::Task(task.clone(), group.tier),
                    None => Prospect::None,
                },
                // Its first task was placed by way of another artifact.
                Some(rank) => {
                    self.entering.push((rank.at(group.tier), number));
                    Prospect::None
                }
                None => Prospect::None,
            },
            Source::Task { line, rank, tier } => match state.waiting(line, *rank) {
                Some(task) => Prospect::Task(task.clone(), *tier),
                None => Prospect::None,
            },
        }
    }

    /// Brings in the groups of an artifact that a runner shows, and puts its place on the runner's list right.
    fn show(&mut self, state: &mut State, runner: &RunnerId, (listed, artifact): (Place, Number)) {
        if !self.shown.insert(artifact) {
            return;
        }
        let groups = state.ladder().groups_of(artifact);
        let first = groups.iter().map(|(group, rank)| rank.at(group.tier)).min();
        if first != Some(listed) {
            state.artifacts.relist(runner, artifact, first);
        }
        for (group, rank) in groups {
            if state.is_open(&group.line) {
                self.enter(rank.at(group.tier), Source::Group { group, passed: None });
            }
        }
    }

    /// A task of source number `number` was placed, or passed over: its next one enters.
    pub fn go_on(&mut self, state: &State, number: usize, passed: Option<Rank>) {
        let Source::Group { group, passed: before } = &mut self.sources[number] else { return };
        *before = passed.or(*before);
        if let Some(rank) = state.ladder().first(group, *before) {
            self.entering.push((rank.at(group.tier), number));
        }
    }
}

/// What a task wants of a runner of this nearness.
fn wanted(task: &Task, tier: Tier) -> &[ArtifactId] {
    let Some(own) = &task.artifacts else { return &[] };
    match tier {
        Tier::Cached => own.output.as_slice(),
        Tier::Dependency => &own.inputs,
        Tier::Rest => &[],
    }
}

/// Whether a runner has room for the smallest task that wants anything.
fn has_room(state: &State, seat: &Seat) -> bool {
    let offer = &seat.runner.offer;
    let Some(least) = state.ladder().least_cpu() else { return false };
    seat.runner.state() == RunnerState::Ready
        && seat.held.slots < offer.slots
        && offer.resources.as_ref().is_none_or(|has| has.cpu >= seat.held.resources.cpu + least)
}

/// Of the ready runners that hold something the task wants of this nearness, the one that takes it first.
pub(super) fn best_holder(
    state: &State,
    task: &Task,
    tier: Tier,
    may: &mut impl FnMut(&Seat) -> bool,
) -> Option<RunnerId> {
    let (wanted, strategy, fleet) = (wanted(task, tier), state.settings.strategy, state.fleet());
    let holders = || wanted.iter().flat_map(|artifact| state.artifacts.holders(artifact.as_str()));
    let many = wanted.iter().map(|artifact| state.artifacts.holders(artifact.as_str()).len()).sum::<usize>();
    let found = if many <= FEW_HOLDERS {
        fleet.best_of(holders(), &task.shape, RunnerState::Ready, strategy, may)
    } else {
        let profiles = fleet.profiles_for(&task.shape);
        fleet.best(&task.shape, &profiles, false, strategy, |seat| {
            wanted.iter().any(|artifact| state.artifacts.holds(&seat.runner.id, artifact)) && may(seat)
        })
    };
    found.map(|seat| seat.runner.id.clone())
}
