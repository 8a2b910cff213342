//! Together: builds whose group, of one runner, keeps jobs of theirs beside them.
//!
//! Law: such a build needs a runner with room for it and, beside it, for any one of those jobs; so that is what its
//! verdict is held against, and what an intent asks for. Looks at whole shapes, with the planner's own `fit`.

use std::sync::Arc;

use super::fit::{self, Usage};
use super::state::State;
use crate::model::{Offer, Resources, Shape};

/// Whether a group of one runner keeps `job` where `build` is.
pub(super) fn keeps(state: &State, build: &Shape, job: &Shape) -> bool {
    let group = job.group.as_ref().filter(|_| job.group == build.group);
    group.and_then(|group| state.groups().get(group)).is_some_and(|group| !group.admits_several())
}

/// Those of its job shapes that are kept where `build` is.
pub(super) fn kept(state: &State, build: &Shape, jobs: &[Arc<Shape>]) -> Vec<Arc<Shape>> {
    jobs.iter().filter(|job| keeps(state, build, job)).cloned().collect()
}

/// Whether a runner that makes `offer`, were it empty, could run `build` and beside it one job of each of `shapes` at a
/// time.
pub(super) fn fit(build: &Shape, shapes: &[Arc<Shape>], offer: &Offer) -> bool {
    let mut beside = Usage::default();
    beside.add(build);
    let has_room =
        |job: &Arc<Shape>| fit::never(job, offer).is_none() && fit::room(job, offer, &beside).is_none();
    fit::never(build, offer).is_none() && shapes.iter().all(has_room)
}

/// The build's shape with the resources of both: its own, and beside them the most that any of `shapes` asks for.
pub(super) fn sum(build: &Shape, shapes: &[Arc<Shape>]) -> Shape {
    let mut most = Resources::default();
    for Resources { cpu, memory, other } in shapes.iter().map(|shape| &shape.resources) {
        (most.cpu, most.memory) = (most.cpu.max(*cpu), most.memory.max(*memory));
        for (name, amount) in other {
            let known = most.other.entry(name.clone()).or_default();
            *known = (*known).max(*amount);
        }
    }
    let mut both = build.clone();
    both.resources.add(&most);
    both
}
