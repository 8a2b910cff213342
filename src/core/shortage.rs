//! Shortage: what waits in the lines for want of a runner.
//!
//! Law: a task that a ready runner has room for waits for something else, and asks for nothing; so does one that its
//! group, a pause or a pull keeps back. Of a build that waits for want of room for its jobs, what is short is what
//! would let it start: a runner for a job, for itself, or for both together.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backlog::{LineKey, Rank};
use super::builds::{self, Witnesses};
use super::fit;
use super::fleet::Seat;
use super::state::State;
use super::together;
use crate::model::{Kind, Offer, Shape, TaskId};

/// How many tasks an intent names.
const NAMED: usize = 5;

/// Tasks of one shape that wait for want of a runner.
pub(super) struct Demand {
    pub tasks: u64,
    pub named: Vec<TaskId>,
    /// The place of the first; nothing is what goes before all others.
    pub first: Option<Rank>,
    /// It is there for running or waiting builds, whose jobs would have no room.
    for_jobs: bool,
    /// Where the shape is the sum of a build and a job that its group keeps beside it: the two.
    both: Option<Both>,
}

/// A build, and the shapes of the jobs that need room beside it.
struct Both {
    build: Arc<Shape>,
    jobs: Vec<Arc<Shape>>,
}

/// What waits for want of a runner, by shape.
pub(super) fn demands(state: &State) -> BTreeMap<Arc<Shape>, Demand> {
    let mut demands: BTreeMap<Arc<Shape>, Demand> = BTreeMap::new();
    let stranded = builds::stranded_shape(state);
    let builds_run = state.job_shapes().next().is_some();
    // A group that may be bound to no other runner waits for its own.
    let may_have_another = |key: &LineKey| {
        let group = key.shape.group.as_ref().and_then(|group| state.groups().get(group));
        group.is_none_or(|group| group.closed_to().is_none())
    };
    let open = |key: &LineKey| state.is_open(key) && may_have_another(key) && !state.is_pulled(&key.shape);
    for (key, line) in state.backlog().lines().filter(|(key, _)| open(key)) {
        let of_builds = key.shape.kind == Kind::Build;
        if of_builds && stranded.is_some() {
            continue;
        }
        let first = *line.first().expect("a line is not empty");
        let kept = together::kept(state, &key.shape, &key.jobs);
        let ready = ready_with_room(state, key, &kept);
        if ready.is_none() && !kept.is_empty() {
            let build = state.waiting(key, first).map(|task| task.id.clone());
            need_both(&mut demands, &key.shape, kept, build, first);
            continue;
        }
        if let Some(seat) = ready {
            // What blocks a build while none runs is that its own jobs would have no room: no end brings that.
            let missing = (of_builds && !builds_run)
                .then(|| builds::blocked_by(state, &mut Witnesses::default(), &key.shape, &key.jobs, seat));
            // Where it has room beside the build's runner, its group is in the way, and one more would not help.
            let missing = missing.flatten().filter(|job| !builds::has_room_elsewhere(state, job, seat));
            if let Some(job) = missing {
                let build = state.waiting(key, first).map(|task| task.id.clone());
                // Where no class takes such a job, another runner for the build itself leaves it its room.
                let shape = if fits_a_class(state, &job) { job } else { key.shape.clone() };
                need(&mut demands, shape, build, first);
            }
            continue;
        }
        let demand = demands.entry(key.shape.clone()).or_insert_with(|| Demand::new(first));
        demand.tasks += line.len() as u64;
        demand.first = demand.first.min(Some(first));
        let names = line.iter().filter_map(|rank| Some(state.waiting(key, *rank)?.id.clone()));
        let room = NAMED - demand.named.len();
        demand.named.extend(names.take(room));
    }
    if let Some(shape) = stranded {
        let demand = demands.entry(shape).or_insert_with(|| Demand { first: None, ..Demand::none() });
        (demand.tasks, demand.first, demand.for_jobs) = (demand.tasks.max(1), None, true);
    }
    demands
}

fn fits_a_class(state: &State, shape: &Shape) -> bool {
    state.settings.classes.iter().any(|class| fit::never(shape, &class.offer).is_none())
}

/// A runner for one task of `shape`, the build or a job of it, so that `build` can start.
fn need(demands: &mut BTreeMap<Arc<Shape>, Demand>, shape: Arc<Shape>, build: Option<TaskId>, first: Rank) {
    let for_jobs = shape.kind == Kind::Job;
    let demand = demands.entry(shape).or_insert_with(|| Demand::new(first));
    demand.tasks = demand.tasks.max(1);
    demand.for_jobs |= for_jobs;
    if demand.named.is_empty() {
        demand.named.extend(build);
    }
}

/// One runner with room for `build` and the jobs that its group keeps beside it.
fn need_both(
    demands: &mut BTreeMap<Arc<Shape>, Demand>,
    shape: &Arc<Shape>,
    jobs: Vec<Arc<Shape>>,
    build: Option<TaskId>,
    first: Rank,
) {
    let sum = Arc::new(together::sum(shape, &jobs));
    need(demands, sum.clone(), build, first);
    let demand = demands.get_mut(&sum).expect("it was just put there");
    demand.both = Some(Both { build: shape.clone(), jobs });
}

impl Demand {
    /// So many tasks that wait in no line, and some of them by name.
    pub fn of(tasks: u64, named: Vec<TaskId>) -> Self {
        Self { tasks, named, ..Self::none() }
    }

    fn new(first: Rank) -> Self {
        Self { first: Some(first), ..Self::none() }
    }

    fn none() -> Self {
        Self { tasks: 0, named: Vec::new(), first: None, for_jobs: false, both: None }
    }

    /// Whether a runner that makes `offer` could take such a task, as far as its shape does not say it.
    pub fn fits(&self, offer: &Offer) -> bool {
        self.both.as_ref().is_none_or(|both| together::fit(&both.build, &both.jobs, offer))
    }

    pub fn reason(&self, shape: &Shape) -> String {
        match (&self.both, self.for_jobs) {
            (Some(both), _) => {
                format!(
                    "no runner has room for a build and the jobs its group keeps beside it: a {}, {shape} together",
                    both.build
                )
            }
            (None, true) => format!("no runner has room for a job of a build: a {shape}"),
            (None, false) => format!("no runner has room: a {shape}"),
        }
    }
}

/// A runner that has room for a task of the line now, and beside it for the jobs `kept` there once all jobs have ended;
/// what keeps it waiting then is no want of runners.
fn ready_with_room<'a>(state: &'a State, key: &LineKey, kept: &[Arc<Shape>]) -> Option<&'a Seat> {
    let (fleet, strategy) = (state.fleet(), state.settings.strategy);
    let profiles = fleet.profiles_for(&key.shape);
    let has_room = |seat: &Seat| kept.iter().all(|job| builds::has_room_beside(state, job, &key.shape, seat));
    let among = |draining| fleet.best(&key.shape, &profiles, draining, strategy, has_room);
    among(false).or_else(|| if key.of_running_build { among(true) } else { None })
}
