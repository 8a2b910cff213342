//! One copy of what many rows share: shapes, limits and names.
//!
//! Law: changes no row's meaning, only its memory. What no row uses any more is dropped by `sweep`.

use std::hash::Hash;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::model::{Id, Limits, Shape, Task};

/// The copies that are shared.
#[derive(Debug, Clone, Default)]
pub struct Intern {
    shapes: FxHashSet<Arc<Shape>>,
    jobs: FxHashSet<Arc<[Arc<Shape>]>>,
    limits: FxHashSet<Arc<Limits>>,
    names: FxHashSet<Id>,
}

impl Intern {
    /// Makes `task` share its shape, limits and tenant with others that have the same.
    pub fn share(&mut self, task: &mut Task) {
        one(&mut self.shapes, &mut task.shape);
        one(&mut self.jobs, &mut task.jobs);
        one(&mut self.limits, &mut task.limits);
        one(&mut self.names, &mut task.tenant);
        if let Some(build) = &mut task.build {
            one(&mut self.names, build);
        }
    }

    /// Forgets what only this holds.
    pub fn sweep(&mut self) {
        self.shapes.retain(|shape| Arc::strong_count(shape) > 1);
        self.jobs.retain(|jobs| Arc::strong_count(jobs) > 1);
        self.limits.retain(|limits| Arc::strong_count(limits) > 1);
        self.names.retain(Id::is_shared);
    }
}

fn one<T: Clone + Eq + Hash>(known: &mut FxHashSet<T>, value: &mut T) {
    match known.get(value) {
        Some(shared) => *value = shared.clone(),
        None => {
            known.insert(value.clone());
        }
    }
}
