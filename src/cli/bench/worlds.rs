//! Worlds for measuring the planner: many runners, many pending tasks of few shapes, nothing else.
//!
//! Law: they are made of the same rows a table holds, and planned by the same turn; nothing is prepared that a
//! dispatcher would not have.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::core::input::{Arrived, Command, Input, Ticket};
use crate::core::settings::Locality;
use crate::core::{Settings, State, Turn, TurnBudget, Waiting, take_turn};
use crate::model::{
    ArtifactId, Artifacts, Change, Holding, Id, IfUnplaceable, Kind, Limits, NewTask, Offer, Resources, Row,
    Runner, Shape, Task, TaskState, Time, TurnId, Wait,
};

/// How many different shapes the tasks have.
pub const SHAPES: usize = 50;

/// What a world is like.
#[derive(Debug, Clone, Copy)]
pub struct World {
    pub runners: usize,
    /// Cores of each runner.
    pub cores: u64,
    pub tasks: usize,
    /// Cores of the smallest task.
    pub from_cores: u64,
}

/// A state that holds `world`, in which nothing has been planned yet.
pub fn state(world: World) -> State {
    let mut state = State::new(Arc::new(Settings { window: usize::MAX, ..Settings::default() }), Uuid::nil());
    (0..world.runners).for_each(|number| state.put(Row::Runner(Arc::new(runner(number, world.cores)))));
    add_tasks(&mut state, world);
    state
}

/// How many different shapes the tasks have in a world with locality.
const LOCAL_SHAPES: usize = 200;
/// How many artifacts each runner holds there.
const HELD: usize = 1_000;
/// How many artifacts there are; each is on as many runners as follows from that.
const ARTIFACTS: usize = 100_000;

/// The same with locality: each runner holds 1,000 of 100,000 artifacts, and each task makes one and reads three. With
/// `waiting` false no queue has locality, and everything else is the same.
pub fn local_state(world: World, waiting: bool) -> State {
    let wait = Duration::from_secs(3_600);
    let waits = Locality { cache_wait: wait, deps_wait: wait };
    let queues = (0..=LOCAL_SHAPES / 16).filter(|_| waiting).map(|queue| (name("queue", queue), waits));
    let settings = Settings { window: usize::MAX, locality: queues.collect(), ..Settings::default() };
    let mut state = State::new(Arc::new(settings), Uuid::nil());
    (0..world.runners).for_each(|number| state.put(Row::Runner(Arc::new(runner(number, world.cores)))));
    for number in 0..world.runners * HELD {
        let (place, sequence) = (number % world.runners, number as u64);
        // No two of one runner's are the same: the second factor shares no divisor with the number of artifacts.
        let artifact = artifact(place * 7_919 + number / world.runners * 101);
        state.put(Row::Holding(Holding { runner: name("runner", place), artifact, sequence }));
    }
    let shapes: Vec<Arc<Shape>> = (0..LOCAL_SHAPES).map(|number| Arc::new(shape(number, 1))).collect();
    let limits = Arc::new(limits(IfUnplaceable::Fail));
    for number in 0..world.tasks {
        let mut task =
            task(name("task", number), number, shapes[number % LOCAL_SHAPES].clone(), limits.clone());
        let inputs = (1..4).map(|input| artifact(number * 31 + input)).collect();
        task.artifacts = Artifacts::of(inputs, Some(artifact(number)));
        task.wait = Some(Arc::new(Wait { cache_until: Time(0), deps_until: Time(u64::MAX) }));
        state.put(Row::Task(Arc::new(task)));
    }
    state
}

fn artifact(number: usize) -> ArtifactId {
    ArtifactId::parse(&format!("sha256-{:064x}", number % ARTIFACTS)).expect("a legal name")
}

/// Puts the world's pending tasks.
pub fn add_tasks(state: &mut State, world: World) {
    let shapes: Vec<Arc<Shape>> =
        (0..SHAPES).map(|number| Arc::new(shape(number, world.from_cores))).collect();
    let limits = Arc::new(limits(IfUnplaceable::Fail));
    for number in 0..world.tasks {
        let task = task(name("task", number), number, shapes[number % SHAPES].clone(), limits.clone());
        state.put(Row::Task(Arc::new(task)));
    }
}

/// A submission with a body of so many bytes, which waits whatever runners there are. Like one that was just read,
/// it shares nothing with others.
pub fn submission(number: usize, body: usize) -> NewTask {
    NewTask {
        id: name("task", number),
        shape: Arc::new(shape(number % SHAPES, 1)),
        tenant: Id::parse("default").expect("a legal name"),
        priority: i32::try_from(number % 3).expect("it is small"),
        build: None,
        jobs: Arc::from([]),
        grouping: Default::default(),
        limits: Arc::new(limits(IfUnplaceable::Hold)),
        artifacts: None,
        content: Uuid::nil(),
        traceparent: None,
        body: "x".repeat(body).into(),
    }
}

/// Takes one turn without a limit, in which something wakes every line.
pub fn turn(state: &mut State) -> Turn {
    let queue = Id::parse("other").expect("a legal name");
    let mut waiting = Waiting::default();
    for (ticket, command) in [Command::PauseQueue { queue: queue.clone() }, Command::UnpauseQueue { queue }]
        .into_iter()
        .enumerate()
    {
        waiting.push(Arrived { ticket: Ticket(ticket as u64), input: Input::Command(command) });
    }
    let (id, budget) =
        (TurnId { leader: Uuid::nil(), counter: 1 }, TurnBudget { rows: usize::MAX, bytes: usize::MAX });
    take_turn(state, &mut waiting, id, Time(1), budget)
}

fn runner(number: usize, cores: u64) -> Runner {
    let offer = Offer {
        kinds: BTreeSet::from([Kind::Job, Kind::Build]),
        queues: BTreeSet::new(),
        arch: if number.is_multiple_of(4) { "arm64" } else { "amd64" }.into(),
        os: "linux".into(),
        labels: Default::default(),
        taints: BTreeSet::new(),
        group: None,
        resources: Some(Resources::new(cores * 1_000, cores << 31)),
        slots: 10_000,
        open: false,
    };
    let cost = [1.0, 2.0, 4.0][number % 3];
    Runner { cost, ..Runner::new(name("runner", number), "first".into(), Arc::new(offer), Time(0)) }
}

fn shape(number: usize, from_cores: u64) -> Shape {
    let cores = from_cores + number as u64 % 4;
    Shape {
        kind: Kind::Job,
        queue: name("queue", number / 16),
        resources: Resources::new(cores * 1_000, (1 + number as u64 / 10) << 29),
        arch: match number % 10 {
            9 => "arm64",
            8 => "amd64",
            _ => "",
        }
        .into(),
        os: "".into(),
        labels: Default::default(),
        tolerations: BTreeSet::new(),
        group: None,
    }
}

fn limits(if_unplaceable: IfUnplaceable) -> Limits {
    Limits { max_attempts: 3, retries: 0, timeout: None, not_before: None, expires_in: None, if_unplaceable }
}

fn task(id: Id, number: usize, shape: Arc<Shape>, limits: Arc<Limits>) -> Task {
    Task {
        id,
        shape,
        tenant: Id::parse("default").expect("a legal name"),
        priority: i32::try_from(number % 3).expect("it is small"),
        build: None,
        jobs: Arc::from([]),
        index: None,
        limits,
        artifacts: None,
        wait: None,
        content: Uuid::nil(),
        sequence: number as u64,
        submitted: Time(0),
        attempt: 0,
        spent: 0,
        retried: 0,
        traceparent: None,
        state: TaskState::Pending { since: Time(0), not_before: None, reason: None },
        extra: Default::default(),
    }
}

fn name(what: &str, number: usize) -> Id {
    Id::parse(&format!("{what}-{number}")).expect("a legal name")
}

/// How many tasks a turn placed.
pub fn placed(turn: &Turn) -> usize {
    let assigned =
        |change: &&Change| matches!(change, Change::Put(Row::Task(task)) if task.assignment().is_some());
    turn.changes.iter().filter(assigned).count()
}

/// Bytes a process (a number, or `self`) holds in memory at the moment, as the kernel counts them.
pub fn resident(process: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = resident.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Head;

    #[test]
    fn runners_of_a_local_world_hold_as_much_as_it_says() {
        let state = local_state(World { runners: 20, cores: 8, tasks: 100, from_cores: 1 }, true);
        assert!(state.fleet().seats().all(|seat| state.artifacts().count(&seat.runner.id) == HELD));
    }

    #[test]
    fn a_turn_looks_at_every_line_whatever_was_woken_before() {
        let world = World { runners: 2, cores: 8, tasks: 100, from_cores: 1 };
        let rows = state(world).rows();
        // A loaded state remembers no wake-up.
        let mut loaded = State::load(Arc::new(Settings::default()), Uuid::nil(), Head::empty(), rows);
        assert!(placed(&turn(&mut loaded)) > 0, "the turn wakes them itself");
        assert_eq!(placed(&turn(&mut loaded)), 0, "and a second finds no room");
    }
}
