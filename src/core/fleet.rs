//! The fleet: what each runner holds, and the runners in the order a strategy would take them.
//!
//! Law: derived from the rows of runners and tasks alone, through `State::put`. A runner's usage is the sum of
//! its assigned and running tasks, so no doubled or lost end can leak or inflate capacity.

mod berths;
mod order;

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

pub(super) use berths::Able;
use berths::Berth;
use order::Order;

use super::fit::{self, Misfit, Usage};
use super::numbered::{Number, Numbered};
use super::rooms::{Room, Rooms, Sitter};
use super::settings::Strategy;
use crate::model::{Kind, Offer, Resources, Runner, RunnerId, RunnerState, Shape, Standing, Task};

/// A runner with what it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Seat {
    pub runner: Arc<Runner>,
    /// What its assigned and running tasks take.
    pub held: Usage,
    /// What builds among them take.
    pub held_by_builds: Usage,
    /// These, in the order of their admission.
    pub tasks: BTreeMap<u64, Arc<Task>>,
    /// Requests for tasks that are open here: the leader's own. What is pulled has room for so many.
    pub asking: usize,
    profile: usize,
    /// Its number in the order of ids.
    order: u64,
}

impl Seat {
    /// What keeps a task of `shape` from being placed here now.
    pub fn misfit(&self, shape: &Shape, of_running_build: bool) -> Option<Misfit> {
        match (self.runner.state(), &self.runner.standing) {
            (RunnerState::Lost, _) => return Some(Misfit::Lost),
            (_, Standing::Held { reason }) => return Some(Misfit::Held { reason: reason.clone() }),
            (RunnerState::Draining, _) if !of_running_build || self.is_dismissed() => {
                return Some(Misfit::Draining);
            }
            _ => {}
        }
        if !self.may_be_given() {
            return Some(Misfit::NotAsking);
        }
        fit::never(shape, &self.runner.offer).or_else(|| fit::room(shape, &self.runner.offer, &self.held))
    }

    /// Whether it was told to leave: then it gets nothing more, also no job of a running build.
    pub fn is_dismissed(&self) -> bool {
        self.runner.standing == Standing::Dismissed
    }

    /// How many tasks it takes at once. Of one that pulls that is what it has: what else will be asked for there, nobody
    /// knows.
    pub fn slots(&self) -> u32 {
        if self.runner.is_unregistered() { self.held.slots } else { self.runner.offer.slots }
    }

    /// Whether a task may be placed here: where tasks are pulled, only while somebody asks.
    fn may_be_given(&self) -> bool {
        self.runner.pull.is_none() || self.asking > 0
    }

    fn room(&self) -> Room {
        let slots = self.runner.offer.slots.saturating_sub(self.held.slots);
        if slots == 0 {
            return Room::default();
        }
        match &self.runner.offer.resources {
            None => Room { cpu: u64::MAX, memory: u64::MAX, slots },
            Some(has) => Room {
                cpu: has.cpu.saturating_sub(self.held.resources.cpu),
                memory: has.memory.saturating_sub(self.held.resources.memory),
                slots,
            },
        }
    }
}

/// Runners of one cost and one offer.
#[derive(Debug, Clone)]
pub struct Profile {
    pub offer: Arc<Offer>,
    cost: u64,
    members: usize,
    ready: Rooms,
    draining: Rooms,
}

/// What tasks take of one runner.
#[derive(Debug, Clone, Default, PartialEq)]
struct Holding {
    held: Usage,
    held_by_builds: Usage,
    tasks: BTreeMap<u64, Arc<Task>>,
}

/// All runners.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    seats: Numbered<RunnerId, Seat>,
    /// By the numbers of the seats.
    berths: Vec<Berth>,
    /// What is held of runners whose row is not there: rows come in any order.
    seatless: BTreeMap<RunnerId, Holding>,
    order: Order,
    profiles: Vec<Profile>,
    numbers: FxHashMap<(u64, Arc<Offer>), usize>,
    /// A guard is switched off: what tasks take is not counted.
    uncounted: bool,
}

impl Fleet {
    /// No runners. `counted` is only false to show what the count is for.
    pub fn new(counted: bool) -> Self {
        Self { uncounted: !counted, ..Self::default() }
    }

    /// Puts a runner in, or replaces its row and keeps what it holds.
    pub fn put(&mut self, runner: Arc<Runner>) {
        let (Holding { held, held_by_builds, tasks }, asking) = match self.take_out(&runner.id) {
            Some(Seat { held, held_by_builds, tasks, asking, .. }) => {
                (Holding { held, held_by_builds, tasks }, asking)
            }
            None => (self.seatless.remove(&runner.id).unwrap_or_default(), 0),
        };
        let profile = self.profile_of(&runner);
        let id = runner.id.clone();
        let order = self.order.put(&id).unwrap_or_else(|| self.renumber(&id));
        let seat = Seat { runner, held, held_by_builds, tasks, asking, profile, order };
        let number = self.seats.number(&id, || seat);
        self.enter(number);
    }

    /// Takes a runner out.
    pub fn remove(&mut self, id: &RunnerId) {
        if let Some(Seat { held, held_by_builds, tasks, .. }) = self.take_out(id)
            && !tasks.is_empty()
        {
            self.seatless.insert(id.clone(), Holding { held, held_by_builds, tasks });
        }
        self.order.remove(id);
    }

    /// Counts a task as held by `runner`.
    pub fn hold(&mut self, runner: &RunnerId, task: &Arc<Task>) {
        let counted = !self.uncounted;
        self.change(runner, |held, held_by_builds, tasks| {
            if counted {
                held.add(&task.shape);
            }
            if task.kind() == Kind::Build {
                held_by_builds.add(&task.shape);
            }
            tasks.insert(task.sequence, task.clone());
        });
    }

    /// Takes in the new row of a task that `runner` holds and that takes there what it took before.
    pub fn renew(&mut self, runner: &RunnerId, task: &Arc<Task>) {
        let tasks = match self.seats.find(runner) {
            Some(number) => Some(&mut self.seats.get_mut(number).tasks),
            None => self.seatless.get_mut(runner).map(|holding| &mut holding.tasks),
        };
        if let Some(tasks) = tasks {
            tasks.insert(task.sequence, task.clone());
        }
    }

    /// Counts a task as held by `runner` no longer.
    pub fn free(&mut self, runner: &RunnerId, task: &Task) {
        let counted = !self.uncounted;
        self.change(runner, |held, held_by_builds, tasks| {
            if counted {
                held.subtract(&task.shape);
            }
            if task.kind() == Kind::Build {
                held_by_builds.subtract(&task.shape);
            }
            tasks.remove(&task.sequence);
        });
    }

    /// One more request for a task is open on `runner`, or one fewer.
    pub fn ask(&mut self, runner: &RunnerId, more: bool) {
        let Some(number) = self.seats.find(runner) else { return };
        self.leave(number);
        let seat = self.seats.get_mut(number);
        seat.asking = if more { seat.asking + 1 } else { seat.asking - 1 };
        self.enter(number);
    }

    /// Nobody asks any more: another leader begins.
    pub fn nobody_asks(&mut self) {
        let asked: Vec<RunnerId> =
            self.seats().filter(|seat| seat.asking > 0).map(|seat| seat.runner.id.clone()).collect();
        for runner in asked {
            while self.get(&runner).is_some_and(|seat| seat.asking > 0) {
                self.ask(&runner, false);
            }
        }
    }

    /// The runner called `id`.
    pub fn get(&self, id: &RunnerId) -> Option<&Seat> {
        self.seats.of(id)
    }

    /// The number of its seat.
    pub(super) fn number(&self, id: &RunnerId) -> Option<Number> {
        self.seats.find(id)
    }

    /// All runners in the order of their ids.
    pub fn seats(&self) -> impl Iterator<Item = &Seat> {
        self.order.after(None).filter_map(|id| self.get(id))
    }

    /// The ids of the runners that come after `after`, in their order; all of them after nothing.
    pub fn after(&self, after: Option<&RunnerId>) -> impl Iterator<Item = &RunnerId> {
        self.order.after(after)
    }

    /// How many runners there are, in whatever state.
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// How many of them are ready.
    pub fn ready(&self) -> usize {
        self.profiles.iter().map(|profile| profile.ready.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.seats.len() == 0
    }

    /// The distinct offers of all runners, in whatever state.
    pub fn offers(&self) -> impl Iterator<Item = &Arc<Offer>> {
        self.profiles.iter().filter(|profile| profile.members > 0).map(|profile| &profile.offer)
    }

    /// The profiles that could ever run `shape`, cheapest first.
    pub fn profiles_for(&self, shape: &Shape) -> Vec<usize> {
        let mut fitting: Vec<usize> = (0..self.profiles.len())
            .filter(|number| {
                let profile = &self.profiles[*number];
                profile.members > 0 && fit::never(shape, &profile.offer).is_none()
            })
            .collect();
        fitting.sort_by_key(|number| self.profiles[*number].cost);
        fitting
    }

    /// The ready runners of `profiles`.
    pub fn ready_in(&self, profiles: &[usize]) -> impl Iterator<Item = &Seat> {
        let ready = profiles.iter().flat_map(|number| self.profiles[*number].ready.seats());
        ready.map(|seat| self.seats.get(seat))
    }

    /// The runner of `profiles` (cheapest first) that takes a task of `shape` first: lowest cost, then the
    /// strategy's order, then id. `may` excludes runners for reasons of the task's own.
    pub fn best(
        &self,
        shape: &Shape,
        profiles: &[usize],
        draining: bool,
        strategy: Strategy,
        mut may: impl FnMut(&Seat) -> bool,
    ) -> Option<&Seat> {
        let mut best: Option<(u64, Room, &Seat)> = None;
        for number in profiles {
            let profile = &self.profiles[*number];
            if best.as_ref().is_some_and(|(cost, ..)| profile.cost > *cost) {
                break;
            }
            let Some((room, seat)) = self.first_in(profile, shape, draining, strategy, &mut may) else {
                continue;
            };
            let better = best.as_ref().is_none_or(|(_, other, held)| {
                let order = match strategy {
                    Strategy::Pack => room.cmp(other),
                    Strategy::Spread => other.cmp(&room),
                };
                order.then(seat.order.cmp(&held.order)).is_lt()
            });
            if better {
                best = Some((profile.cost, room, seat));
            }
        }
        best.map(|(.., seat)| seat)
    }

    /// Of `runners`, the one that takes a task of `shape` first, as [`Fleet::best`] would choose.
    pub fn best_of<'a>(
        &'a self,
        runners: impl Iterator<Item = &'a RunnerId>,
        shape: &Shape,
        state: RunnerState,
        strategy: Strategy,
        mut may: impl FnMut(&Seat) -> bool,
    ) -> Option<&'a Seat> {
        runners
            .filter_map(|id| self.get(id))
            .filter(|seat| seat.runner.state() == state && seat.misfit(shape, true).is_none() && may(seat))
            .min_by(|a, b| {
                let room = match strategy {
                    Strategy::Pack => a.room().cmp(&b.room()),
                    Strategy::Spread => b.room().cmp(&a.room()),
                };
                let cost = self.profiles[a.profile].cost.cmp(&self.profiles[b.profile].cost);
                cost.then(room).then(a.order.cmp(&b.order))
            })
    }

    fn first_in<'a>(
        &'a self,
        profile: &'a Profile,
        shape: &Shape,
        draining: bool,
        strategy: Strategy,
        may: &mut impl FnMut(&Seat) -> bool,
    ) -> Option<(Room, &'a Seat)> {
        let runners = if draining { &profile.draining } else { &profile.ready };
        let takes = |seat: Number| {
            let seat = self.seats.get(seat);
            (fit::room(shape, &profile.offer, &seat.held).is_none() && may(seat)).then_some(seat)
        };
        let Resources { cpu, memory, .. } = shape.resources;
        match strategy {
            Strategy::Pack => runners.fullest(cpu, memory, takes),
            Strategy::Spread => runners.emptiest(cpu, memory, takes),
        }
    }

    fn profile_of(&mut self, runner: &Runner) -> usize {
        let key = (runner.cost.to_bits(), runner.offer.clone());
        if let Some(number) = self.numbers.get(&key) {
            self.profiles[*number].members += 1;
            return *number;
        }
        let profile = Profile {
            offer: runner.offer.clone(),
            cost: key.0,
            members: 1,
            ready: Rooms::default(),
            draining: Rooms::default(),
        };
        let number = match self.profiles.iter().position(|profile| profile.members == 0) {
            Some(free) => {
                self.profiles[free] = profile;
                free
            }
            None => {
                self.profiles.push(profile);
                self.profiles.len() - 1
            }
        };
        self.numbers.insert(key, number);
        number
    }

    /// Gives every runner a new number in the order of ids, and says that of `id`.
    fn renumber(&mut self, id: &RunnerId) -> u64 {
        let seats: Vec<Number> = self.seats.iter().map(|(seat, ..)| seat).collect();
        seats.iter().for_each(|seat| self.leave(*seat));
        self.order.renumber();
        for seat in seats {
            self.seats.get_mut(seat).order = self.order.get(self.seats.name(seat));
            self.enter(seat);
        }
        self.order.get(id)
    }

    fn take_out(&mut self, id: &RunnerId) -> Option<Seat> {
        let number = self.seats.find(id)?;
        self.leave(number);
        self.berths[number as usize] = Berth::default();
        let seat = self.seats.remove(number).expect("it was just found");
        let profile = &mut self.profiles[seat.profile];
        profile.members -= 1;
        if profile.members == 0 {
            self.numbers.remove(&(profile.cost, profile.offer.clone()));
        }
        Some(seat)
    }

    fn change(
        &mut self,
        runner: &RunnerId,
        change: impl FnOnce(&mut Usage, &mut Usage, &mut BTreeMap<u64, Arc<Task>>),
    ) {
        let Some(number) = self.seats.find(runner) else {
            let holding = self.seatless.entry(runner.clone()).or_default();
            change(&mut holding.held, &mut holding.held_by_builds, &mut holding.tasks);
            if holding.tasks.is_empty() {
                self.seatless.remove(runner);
            }
            return;
        };
        self.leave(number);
        let seat = self.seats.get_mut(number);
        change(&mut seat.held, &mut seat.held_by_builds, &mut seat.tasks);
        self.enter(number);
    }

    fn enter(&mut self, number: Number) {
        let seat = self.seats.get(number);
        let (room, order, profile) = (seat.room(), seat.order, &mut self.profiles[seat.profile]);
        let is_ready = seat.runner.state() == RunnerState::Ready;
        let takes = is_ready && seat.may_be_given();
        let cost = profile.cost;
        if let Some(rooms) = rooms_of(profile, seat) {
            rooms.insert(room, Sitter { order, seat: number });
        }
        if self.berths.len() <= number as usize {
            self.berths.resize(number as usize + 1, Berth::default());
        }
        let profile = u32::try_from(seat.profile).expect("fewer profiles than seats");
        self.berths[number as usize] = Berth { is_ready, takes, profile, cost, room, order };
    }

    fn leave(&mut self, number: Number) {
        let seat = self.seats.get(number);
        if let Some(rooms) = rooms_of(&mut self.profiles[seat.profile], seat) {
            rooms.remove(seat.room(), Sitter { order: seat.order, seat: number });
        }
    }
}

/// Where a runner is looked for, if it takes anything.
fn rooms_of<'a>(profile: &'a mut Profile, seat: &Seat) -> Option<&'a mut Rooms> {
    match seat.runner.state() {
        RunnerState::Ready | RunnerState::Draining if !seat.may_be_given() => None,
        RunnerState::Ready => Some(&mut profile.ready),
        RunnerState::Draining if !seat.is_dismissed() => Some(&mut profile.draining),
        RunnerState::Draining | RunnerState::Held | RunnerState::Lost => None,
    }
}

/// Two fleets are the same when they hold the same seats; the numbering of profiles is free.
impl PartialEq for Fleet {
    fn eq(&self, other: &Self) -> bool {
        let same = |(_, id, seat): (Number, &RunnerId, &Seat)| {
            other.get(id).is_some_and(|theirs| {
                seat.runner == theirs.runner
                    && seat.held == theirs.held
                    && seat.held_by_builds == theirs.held_by_builds
                    && seat.tasks == theirs.tasks
            })
        };
        self.seats.len() == other.seats.len()
            && self.order.after(None).eq(other.order.after(None))
            && self.seatless == other.seatless
            && self.seats.iter().all(same)
    }
}
