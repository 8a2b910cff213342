//! Prospects: the tasks that a runner is to get because it holds something of theirs.
//!
//! Story: woken tasks enter in the order of their places, one after another. Each woken runner shows its wanted
//! artifacts in the order of the tasks that want them; each shown artifact brings in the groups of its tasks; each
//! group its tasks one by one, until one finds no room on any holder. Where many woken runners have room and list more than
//! there are tasks, all tasks enter instead. The planner takes all of them and the heads of the lines in one order.
//!
//! Law: a prospect is placed only on a ready runner that holds what makes it one. A runner with no room for the
//! smallest of them shows nothing, and tasks of a line for which no runner has room are passed over, so what is looked
//! at follows what can be placed.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::artifacts::Group;
use super::backlog::{Place, Rank, Tier};
use super::fleet::{Able, Seat};
use super::ladder::{Climber, Step};
use super::numbered::Number;
use super::state::State;
use super::wake::Wakes;
use crate::model::{RunnerId, RunnerState, Task};

/// Beyond so many holders, runners are looked for in the order of the fleet.
const FEW_HOLDERS: usize = 1_024;

/// Up to so many woken runners with room show what they hold, whatever that is.
const FEW_RUNNERS: usize = 64;

/// Where prospects come from.
#[derive(Debug)]
enum Source {
    /// A runner, and how far it has shown what it holds.
    Runner { id: RunnerId, shown: (Place, Number) },
    /// Tasks that want the same.
    Group { group: Group, passed: Option<Rank> },
    /// Tasks, the last first.
    Tasks { left: Vec<Place> },
}

/// What is known of a line of the ladder during one planning.
#[derive(Debug, Default)]
struct Line {
    able: Able,
    is_open: Option<bool>,
    /// How often a task of it found no room on its holders.
    failed: u32,
    /// No runner has room for a task of it, whatever it holds.
    full: bool,
}

/// The prospects of one planning.
#[derive(Debug, Default)]
pub(super) struct Prospects {
    sources: Vec<Source>,
    shown: FxHashSet<Number>,
    lines: Vec<Line>,
    /// Sources that are to enter the order, with their places.
    pub entering: Vec<(Place, usize)>,
}

impl Prospects {
    /// Everything the wake-ups name.
    pub fn of(state: &State, wakes: &Wakes) -> Self {
        let mut prospects = Self::default();
        if state.ladder().is_empty() {
            return prospects;
        }
        let everyone = wakes.holders.is_some();
        let woken = wakes.runners.keys().filter(|_| !everyone);
        let runners = woken.chain(state.fleet().after(None).filter(|_| everyone));
        let roomy = runners.filter(|id| state.fleet().get(id).is_some_and(|seat| has_room(state, seat)));
        let roomy: Vec<&RunnerId> = roomy.collect();
        let climbers = state.ladder().climbers();
        let listed = roomy.iter().map(|id| state.artifacts.listed_len(id)).sum::<usize>();
        // A few runners have little room: what they show is not all looked at.
        if roomy.len() > FEW_RUNNERS && listed >= climbers.len() {
            prospects.enter_tasks(state, climbers);
            return prospects;
        }
        for runner in roomy {
            prospects.show_next(state, runner.clone(), None);
        }
        let named = wakes.tasks.keys().filter_map(|id| state.ladder().at(state.task(id.as_str())?.sequence));
        let builds = state.ladder().builds().filter(|_| wakes.builds.is_some());
        prospects.enter_tasks(state, named.chain(builds));
        prospects
    }

    fn enter_tasks<'a>(&mut self, state: &State, climbers: impl Iterator<Item = &'a Climber>) {
        let mut left = Vec::with_capacity(2 * climbers.size_hint().0);
        for climber in climbers.filter(|climber| climber.step != Step::Unbegun) {
            for tier in [Tier::Cached, Tier::Dependency] {
                if !climber.wants(tier).is_empty() && self.is_open(state, climber.line) {
                    left.push(climber.rank.at(tier));
                }
            }
        }
        left.sort_unstable_by(|a, b| b.cmp(a));
        self.sources.push(Source::Tasks { left });
        self.enter_next(state, self.sources.len() - 1);
    }

    /// Enters the next of a source's tasks that still waits and may find room.
    fn enter_next(&mut self, state: &State, number: usize) {
        let Source::Tasks { left } = &mut self.sources[number] else { return };
        while let Some(place) = left.last().copied() {
            let waits = climber_at(state, place)
                .is_some_and(|climber| !self.lines.get(climber.line as usize).is_some_and(|line| line.full));
            if waits {
                return self.entering.push((place, number));
            }
            left.pop();
        }
    }

    fn enter(&mut self, place: Place, source: Source) {
        self.entering.push((place, self.sources.len()));
        self.sources.push(source);
    }

    fn line(&mut self, number: Number) -> &mut Line {
        let number = number as usize;
        if self.lines.len() <= number {
            self.lines.resize_with(number + 1, Line::default);
        }
        &mut self.lines[number]
    }

    fn is_open(&mut self, state: &State, line: Number) -> bool {
        *self.line(line).is_open.get_or_insert_with(|| state.is_open(state.ladder().line(line)))
    }

    fn show_next(&mut self, state: &State, id: RunnerId, shown: Option<(Place, Number)>) {
        if !state.fleet().get(&id).is_some_and(|seat| has_room(state, seat)) {
            return;
        }
        // What another has shown is in the order already.
        let next =
            state.artifacts.listed_after(&id, shown).find(|(_, artifact)| !self.shown.contains(artifact));
        if let Some(next) = next {
            self.enter(next.0, Source::Runner { id, shown: next });
        }
    }

    /// The task that source number `number` brings at `place`; nothing if it brings none by itself.
    pub fn take(&mut self, state: &mut State, number: usize, place: Place) -> Option<Arc<Task>> {
        match &mut self.sources[number] {
            Source::Runner { id, shown } => {
                let (id, shown) = (id.clone(), *shown);
                self.show(state, &id, shown);
                self.show_next(state, id, Some(shown));
                None
            }
            Source::Group { group, passed } => {
                let next = state.artifacts.first(*group, *passed)?.at(group.tier);
                if next != place {
                    // Its first task was placed by way of another artifact.
                    self.entering.push((next, number));
                    return None;
                }
                climber_at(state, place).map(|climber| climber.task.clone())
            }
            Source::Tasks { left } => {
                left.pop();
                let task = climber_at(state, place).map(|climber| climber.task.clone());
                if task.is_none() {
                    self.enter_next(state, number);
                }
                task
            }
        }
    }

    /// Brings in the groups of an artifact that a runner shows, and puts its place on the runner's list right.
    fn show(&mut self, state: &mut State, runner: &RunnerId, (listed, artifact): (Place, Number)) {
        if !self.shown.insert(artifact) {
            return;
        }
        let groups = state.artifacts.groups_of(artifact);
        let first = groups.iter().map(|(group, rank)| rank.at(group.tier)).min();
        if first != Some(listed) {
            state.artifacts.relist(runner, artifact, first);
        }
        for (group, rank) in groups {
            if self.is_open(state, group.line) {
                self.enter(rank.at(group.tier), Source::Group { group, passed: None });
            }
        }
    }

    /// What source number `number` brought was placed, or `passed` over, or found no room: the next enters, of a group
    /// only where others like it may find room.
    pub fn go_on(&mut self, state: &State, number: usize, found_room: bool, passed: Option<Rank>) {
        match &mut self.sources[number] {
            Source::Group { group, passed: before } if found_room || passed.is_some() => {
                *before = passed.or(*before);
                if let Some(rank) = state.artifacts.first(*group, *before) {
                    self.entering.push((rank.at(group.tier), number));
                }
            }
            Source::Tasks { .. } => self.enter_next(state, number),
            Source::Group { .. } | Source::Runner { .. } => {}
        }
    }

    /// Of the ready runners that hold something the task at `place` wants, the one that takes it first.
    pub fn best_holder(
        &mut self,
        state: &State,
        place: Place,
        may: &mut impl FnMut(&Seat) -> bool,
    ) -> Option<RunnerId> {
        let climber = climber_at(state, place)?;
        let (wants, shape, strategy) =
            (climber.wants(place.tier()), &climber.task.shape, state.settings.strategy);
        let (artifacts, fleet) = (&state.artifacts, state.fleet());
        let line = self.line(climber.line);
        let many = wants.iter().map(|artifact| artifacts.seats(*artifact).len()).sum::<usize>();
        let found = if many <= FEW_HOLDERS {
            let seats = wants.iter().flat_map(|artifact| artifacts.seats(*artifact)).flatten();
            fleet.best_seated(seats, shape, &mut line.able, strategy, may)
        } else {
            let holds = |seat: &Seat| artifacts.holds_any(&seat.runner.id, wants);
            let profiles = fleet.profiles_for(shape);
            fleet.best(shape, &profiles, false, strategy, |seat| holds(seat) && may(seat))
        };
        if found.is_none() {
            line.failed += 1;
            // Asked less and less often: it costs a look at every profile.
            line.full =
                line.full || (line.failed.is_power_of_two() && !fleet.any_room(shape, &mut line.able));
        }
        found.map(|seat| seat.runner.id.clone())
    }
}

/// The task that has this place on a runner so near, if it still waits.
fn climber_at(state: &State, place: Place) -> Option<&Climber> {
    state.ladder().at(place.sequence()).filter(|climber| climber.rank.at(place.tier()) == place)
}

/// Whether a runner has room for the smallest task that wants anything.
fn has_room(state: &State, seat: &Seat) -> bool {
    let offer = &seat.runner.offer;
    let Some(least) = state.ladder().least_cpu() else { return false };
    seat.runner.state() == RunnerState::Ready
        && seat.held.slots < offer.slots
        && offer.resources.as_ref().is_none_or(|has| has.cpu >= seat.held.resources.cpu + least)
}
