//! The simulated world: the same core, the same order around a turn and the same session, under faults.
//!
//! Several replicas on one table, runners with work, producers that repeat themselves, and everything between
//! them that can be lost, doubled, late or in another order; then nothing goes wrong any more and everything must
//! end. Law: a run follows from its seed and options alone. What is true is judged by `checkers`, which read
//! what producers were told and what the work itself wrote down, not the dispatcher's rows.

mod checkers;
mod commits;
mod inbox;
pub mod options;
mod outbox;
mod producers;
mod provisioner;
mod pullers;
mod random;
mod replicas;
mod runners;
mod scene;
mod schedule;
mod troubles;
mod work;
mod world;

pub use checkers::Violation;
pub use options::{Faults, Options};

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Every law that was broken; empty is good.
    pub violations: Vec<Violation>,
    pub statistics: Statistics,
    /// The last events, if they were asked for.
    pub transcript: Vec<String>,
}

/// What a run exercised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    pub events: u64,
    pub virtual_seconds: u64,
    pub tasks: u64,
    pub ended: u64,
    /// Attempts whose work began.
    pub started: u64,
    /// The same of pulled tasks.
    pub pulled: u64,
    pub starts_failed: u64,
    pub cancelled: u64,
    /// Turns that were decided, and those that stand in the log.
    pub turns: u64,
    pub committed: u64,
    pub commit_faults: u64,
    pub take_overs: u64,
    pub deposed: u64,
    pub replicas_ended: u64,
    pub replicas_paused: u64,
    pub troubles: u64,
    pub deliveries: u64,
    pub messages_late: u64,
}

impl std::ops::AddAssign for Statistics {
    fn add_assign(&mut self, more: Self) {
        self.events += more.events;
        self.virtual_seconds += more.virtual_seconds;
        self.tasks += more.tasks;
        self.ended += more.ended;
        self.started += more.started;
        self.pulled += more.pulled;
        self.starts_failed += more.starts_failed;
        self.cancelled += more.cancelled;
        self.turns += more.turns;
        self.committed += more.committed;
        self.commit_faults += more.commit_faults;
        self.take_overs += more.take_overs;
        self.deposed += more.deposed;
        self.replicas_ended += more.replicas_ended;
        self.replicas_paused += more.replicas_paused;
        self.troubles += more.troubles;
        self.deliveries += more.deliveries;
        self.messages_late += more.messages_late;
    }
}

/// Runs the world that `seed` and `options` make.
pub fn run(seed: u64, options: Options) -> Verdict {
    world::World::new(seed, options).run()
}
