//! Families: which jobs belong to which build, and which job shapes running builds may still submit.
//!
//! Law: derived from task rows alone, through `State::put`. A build that is being cancelled, or has ended, is
//! worked off from here over as many turns as it takes: what is left to do can be read from the rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{BuildId, Shape, TaskId};

/// The jobs of one build.
#[derive(Debug, Clone, Default, PartialEq)]
struct Family {
    /// Jobs that have not ended.
    live: BTreeSet<TaskId>,
    /// Live jobs that were not asked to end yet.
    unasked: BTreeSet<TaskId>,
}

/// All builds that have jobs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Families {
    families: BTreeMap<BuildId, Family>,
    /// Builds that have ended or are being cancelled.
    cancelling: BTreeSet<BuildId>,
    /// Builds among them with jobs that were not asked to end yet.
    to_work_off: BTreeSet<BuildId>,
    shapes: BTreeMap<Arc<Shape>, usize>,
}

impl Families {
    pub(super) fn join(&mut self, build: &BuildId, job: &TaskId, live: bool, unasked: bool) {
        if !live {
            return;
        }
        let family = self.families.entry(build.clone()).or_default();
        family.live.insert(job.clone());
        if unasked {
            family.unasked.insert(job.clone());
        }
        self.note(build);
    }

    pub(super) fn leave(&mut self, build: &BuildId, job: &TaskId) {
        if let Some(family) = self.families.get_mut(build) {
            family.live.remove(job);
            family.unasked.remove(job);
            if family.live.is_empty() {
                self.families.remove(build);
            }
        }
        self.note(build);
    }

    pub(super) fn set_cancelling(&mut self, build: &BuildId, cancelling: bool) {
        if cancelling {
            self.cancelling.insert(build.clone());
        } else {
            self.cancelling.remove(build);
        }
        self.note(build);
    }

    fn note(&mut self, build: &BuildId) {
        let unasked = self.families.get(build).is_some_and(|family| !family.unasked.is_empty());
        if unasked && self.cancelling.contains(build) {
            self.to_work_off.insert(build.clone());
        } else {
            self.to_work_off.remove(build);
        }
    }

    pub(super) fn add_shapes(&mut self, jobs: &[Arc<Shape>]) {
        for shape in jobs {
            *self.shapes.entry(shape.clone()).or_default() += 1;
        }
    }

    pub(super) fn remove_shapes(&mut self, jobs: &[Arc<Shape>]) {
        for shape in jobs {
            if let Some(count) = self.shapes.get_mut(shape) {
                *count -= 1;
                if *count == 0 {
                    self.shapes.remove(shape);
                }
            }
        }
    }

    /// The live jobs of a build.
    pub fn live(&self, build: &BuildId) -> impl Iterator<Item = &TaskId> {
        self.families.get(build).into_iter().flat_map(|family| &family.live)
    }

    /// Whether a build has live jobs.
    pub fn has_live(&self, build: &BuildId) -> bool {
        self.families.contains_key(build)
    }

    /// A job that is to end because its build has, and was not asked to yet.
    pub(super) fn next_to_work_off(&self) -> Option<(&BuildId, &TaskId)> {
        let build = self.to_work_off.first()?;
        Some((build, self.families.get(build)?.unasked.first()?))
    }

    /// The shapes of the jobs that running builds may submit.
    pub fn shapes(&self) -> impl Iterator<Item = &Arc<Shape>> {
        self.shapes.keys()
    }
}
