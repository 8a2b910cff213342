//! The checkers: what must be true of a run, whatever decided it.
//!
//! Law: `ownership`, `capacity`, `groups`, `promises`, `pace`, `pause`, `pulling` and `asking` read what producers were told or
//! asked, the marks the work itself wrote down, how machines truly are, and the facts of committed turns, never a row.
//! `locality` reads these, and from rows only which runner is known to hold what; `keeping` only which runners are ready.
//! `tables` compares states with each other and with their own rows.

mod asking;
mod capacity;
mod groups;
mod keeping;
mod locality;
mod ownership;
mod pace;
mod pause;
mod promises;
mod pulling;
mod tables;

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

pub(crate) use pace::{Condition, Hand, Machine, Scene};

use super::work::Work;
use crate::core::input::Submitted;
use crate::core::{Settings, State};
use crate::model::{
    ArtifactId, AttemptOutcome, End, Fact, Held, Kind, LifecycleState, NewTask, Offer, Outcome, Report,
    Reported, RunnerId, TaskId, TurnRecord,
};
use crate::ports::Load;

/// In calm, a job that could have been started for so long and was not, waits in vain, in milliseconds.
const STARTED_WITHIN: u64 = 90_000;

/// A law that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When, in the world's milliseconds.
    pub at: u64,
    /// The law's name.
    pub law: &'static str,
    pub what: String,
}

/// All checkers of one run.
#[derive(Debug)]
pub(crate) struct Checkers {
    broken: Vec<Violation>,
    ownership: ownership::Ownership,
    capacity: capacity::Capacity,
    groups: groups::Groups,
    promises: promises::Promises,
    tables: tables::Tables,
    pace: pace::Pace,
    locality: locality::Locality,
    pause: pause::Pause,
    pulling: pulling::Pulling,
    asking: asking::Asking,
    keeping: keeping::Keeping,
    /// A runner went since the last build was placed.
    fleet_shrank: bool,
}

impl Checkers {
    pub fn new(settings: Arc<Settings>, table: Uuid) -> Self {
        Self {
            broken: Vec::new(),
            ownership: ownership::Ownership::default(),
            capacity: capacity::Capacity::default(),
            groups: groups::Groups::default(),
            promises: promises::Promises::default(),
            pace: pace::Pace::new(settings.clone()),
            locality: locality::Locality::new(settings.clone()),
            pause: pause::Pause::default(),
            pulling: pulling::Pulling::default(),
            asking: asking::Asking::new(settings.clone()),
            keeping: keeping::Keeping::new(settings.clone()),
            tables: tables::Tables::new(settings, table),
            fleet_shrank: false,
        }
    }

    /// Notes that a law was broken.
    pub fn broken(&mut self, at: u64, law: &'static str, what: String) {
        self.broken.push(Violation { at, law, what });
    }

    fn note(&mut self, at: u64, law: &'static str, found: impl IntoIterator<Item = String>) {
        self.broken.extend(found.into_iter().map(|what| Violation { at, law, what }));
    }

    pub fn is_broken(&self) -> bool {
        !self.broken.is_empty()
    }

    pub fn into_violations(self) -> Vec<Violation> {
        self.broken
    }

    // What the world is made of.

    /// What a machine truly has, since its last start.
    pub fn has_runner(&mut self, runner: &RunnerId, offer: &Offer) {
        self.capacity.has_runner(runner, offer);
        self.promises.has_runner(runner);
        self.pace.has_runner(runner, offer);
    }

    /// A runner was given an artifact, or has made it.
    pub fn holds(&mut self, runner: &RunnerId, artifact: &ArtifactId) {
        self.locality.has(runner, artifact);
    }

    pub fn planned_task(&mut self, task: &NewTask, possible: bool) {
        self.groups.planned(task);
        if possible {
            self.promises.possible(&task.id);
        }
    }

    // What producers and runners were told, and what runners said.

    pub fn told(&mut self, now: u64, id: &TaskId, answer: &Submitted) {
        let found = self.promises.told(id, answer);
        self.note(now, "promises", found);
    }

    /// A runner with all of its machine was told that it is registered.
    pub fn registered(&mut self, runner: &RunnerId) {
        self.promises.registered(runner);
    }

    /// A report reached the inbox while its runner had a lease, and had had it ever since `leaseless_at`.
    pub fn stored(&mut self, leaseless_at: u64, report: &Report) {
        if let Reported::End(End { outcome: AttemptOutcome::Succeeded, .. }) = &report.what {
            self.promises.finished(&report.id, report.token, leaseless_at);
        }
    }

    pub fn had_no_room(&mut self, now: u64, runner: &RunnerId, task: &TaskId, why: &str) {
        self.broken(now, "capacity", format!("{runner} was given {task} and has no room: {why}"));
    }

    /// A submission reached the inbox.
    pub fn submitted(&mut self, task: &Arc<NewTask>) {
        self.locality.submitted(task);
        self.keeping.submitted(task);
        self.pause.submitted(task);
        if task.shape.kind == Kind::Job {
            self.pace.submitted(task);
        }
    }

    /// A cancel reached the inbox.
    pub fn cancelled(&mut self, id: &TaskId) {
        self.pace.cancelled(id);
    }

    // What the work wrote down.

    /// An attempt reached its machine.
    pub fn work_taken(&mut self, held: &Held) {
        self.pace.taken(held);
    }

    pub fn work_ended(&mut self, held: &Held, how: AttemptOutcome) {
        self.pace.attempt_ended(held, how);
    }

    pub fn work_began(&mut self, now: u64, runner: &RunnerId, held: &Held, work: &Work) {
        let found = self.ownership.began(runner, held);
        self.note(now, "ownership", found);
        let found = self.promises.began(held);
        self.note(now, "promises", found);
        let found = self.capacity.began(runner, held, work);
        self.note(now, "capacity", found);
        let found = self.groups.began(runner, held);
        self.note(now, "groups", found);
    }

    /// The work of a pulled task began, in the hands of whoever pulled it.
    pub fn pulled_began(&mut self, now: u64, puller: &RunnerId, held: &Held) {
        let found = self.ownership.began(puller, held);
        self.note(now, "ownership", found);
        let found = self.promises.began(held);
        self.note(now, "promises", found);
    }

    pub fn work_goes_on(&mut self, now: u64, runner: &RunnerId, held: &Held, work: &Work) {
        let found = self.ownership.began(runner, held);
        self.note(now, "ownership", found);
        let found = self.capacity.began(runner, held, work);
        self.note(now, "capacity", found);
    }

    pub fn work_stopped(&mut self, now: u64, runner: &RunnerId, held: &Held, how: Option<AttemptOutcome>) {
        self.ownership.stopped(runner, held);
        self.capacity.stopped(runner, held);
        self.groups.stopped(held);
        if how == Some(AttemptOutcome::Succeeded) {
            self.promises.succeeded(now, held);
        }
    }

    // What the log says.

    /// The last turn of the log that was looked at.
    pub fn turn(&self) -> u64 {
        self.tables.turn()
    }

    pub fn committed(&mut self, now: u64, turn: &TurnRecord) {
        let found = self.tables.committed(turn);
        self.note(now, "tables", found);
        let found = self.locality.committed(turn);
        self.note(now, "locality", found);
        let found = self.asking.said(&turn.facts);
        self.note(now, "asking", found);
        let found = self.keeping.committed(turn);
        self.note(now, "keeping", found);
        for fact in &turn.facts {
            self.pace.said(fact);
            let found = self.pause.said(fact);
            self.note(now, "pause", found);
            let found = self.pulling.said(fact);
            self.note(now, "pulling", found);
            match fact {
                Fact::Task(lifecycle) => {
                    let placed = lifecycle.state == LifecycleState::Assigned;
                    self.fleet_shrank &= !(placed && lifecycle.kind == Kind::Build);
                    let found = self.promises.entered(lifecycle);
                    self.note(now, "lifecycle", found);
                    let found = self.groups.entered(lifecycle);
                    self.note(now, "groups", found);
                    if lifecycle.state == LifecycleState::Ended
                        && let Some(found) = self.ownership.ended(&lifecycle.id)
                    {
                        let outcome = lifecycle.outcome.map_or("", Outcome::as_str);
                        self.broken(now, "ownership", format!("{found}, and it has ended {outcome}"));
                    }
                }
                Fact::SweepFound { tasks } => {
                    self.broken(now, "wake-ups", format!("only the sweep found {tasks} tasks to place"));
                }
                // Whoever registers may have less than before.
                Fact::RunnerLost { .. }
                | Fact::RunnerLeft { .. }
                | Fact::RunnerHeld { .. }
                | Fact::RunnerRegistered { .. } => {
                    self.fleet_shrank = true;
                }
                Fact::BuildsUnsafe { build } if !self.fleet_shrank => {
                    let what = format!("{build} has no room for a job though the fleet did not shrink");
                    self.broken(now, "builds", what);
                }
                Fact::Frozen { reason } => self.broken(now, "frozen", reason.to_string()),
                _ => {}
            }
        }
    }

    // What replicas and the table hold.

    pub fn decided(&mut self, now: u64, replica: usize, state: &State) {
        let broken = crate::core::invariant::check(state);
        let turn = state.turn();
        self.note(
            now,
            "invariant",
            broken.into_iter().map(|what| format!("replica {replica}, turn {turn}: {what}")),
        );
    }

    /// Planning again at once must place nothing.
    pub fn planned(&mut self, now: u64, state: &State) {
        let missed = crate::core::invariant::missed(state);
        if missed > 0 {
            let turn = state.turn();
            self.broken(
                now,
                "wake-ups",
                format!("after turn {turn}, {missed} tasks could be placed at once"),
            );
        }
    }

    pub fn table_is(&mut self, now: u64, load: &Load) {
        let found = self.tables.table_is(load);
        self.note(now, "tables", found);
    }

    pub fn replica_is(&mut self, now: u64, state: &State, load: &Load) {
        let found = tables::differs(state, load);
        self.note(now, "tables", found);
    }

    /// Holds every open job against what could be done with it at this moment.
    pub fn look_at_pace(&mut self, scene: &Scene, within: u64) {
        let found = self.pace.look(scene, within);
        self.note(scene.now, "pace", found);
    }

    // The end.

    /// In calm: jobs that some runner has had room for all the time must have begun.
    pub fn could_start(&mut self, now: u64, jobs: BTreeSet<TaskId>) {
        for (id, since) in self.promises.could_start(now, jobs) {
            if now - since > STARTED_WITHIN {
                self.broken(now, "liveness", format!("{id} could have started since {since} ms"));
            }
        }
    }

    pub fn has_ended(&self, id: &TaskId) -> bool {
        self.promises.has_ended(id)
    }

    pub fn executes(&self, id: &TaskId) -> bool {
        self.ownership.executes(id)
    }

    pub fn has_room(&self, runner: &RunnerId, cpu: u64) -> bool {
        self.capacity.has_room(runner, cpu)
    }

    pub fn all_ended(&self) -> bool {
        self.promises.all_ended() && self.tables.all_ended()
    }

    pub fn ended(&self) -> u64 {
        self.promises.ended()
    }

    pub fn unended(&self) -> String {
        let told = self.promises.unended();
        format!("told: {told}; in the table: {}", self.tables.unended())
    }

    pub fn at_the_end(&mut self, now: u64, load: &Load) {
        self.table_is(now, load);
        let found = self.tables.at_the_end();
        self.note(now, "drained", found);
        let found = self.ownership.at_the_end();
        self.note(now, "drained", found);
    }
}
