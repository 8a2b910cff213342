//! A pause of the pool holds back what is new, and nothing else.
//!
//! Reads what reached the inbox and the facts of committed turns. Law: while the pool is paused, a task that is
//! given to a runner is a job of a build that has one.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Fact, Kind, LifecycleState, NewTask, TaskId};

/// Whether the pool is paused, and the builds that hold a runner.
#[derive(Debug, Default)]
pub(super) struct Pause {
    paused: bool,
    build_of: BTreeMap<TaskId, TaskId>,
    builds: BTreeSet<TaskId>,
}

impl Pause {
    pub fn submitted(&mut self, task: &NewTask) {
        if let Some(build) = &task.build {
            self.build_of.insert(task.id.clone(), build.clone());
        }
    }

    pub fn said(&mut self, fact: &Fact) -> Option<String> {
        match fact {
            Fact::PoolPaused => self.paused = true,
            Fact::PoolUnpaused => self.paused = false,
            Fact::Task(task) => {
                let placed = task.state == LifecycleState::Assigned;
                if task.kind == Kind::Build {
                    match task.state {
                        LifecycleState::Assigned | LifecycleState::Running => {
                            self.builds.insert(task.id.clone())
                        }
                        LifecycleState::Pending | LifecycleState::Ended => self.builds.remove(&task.id),
                    };
                }
                let its_build_runs =
                    self.build_of.get(&task.id).is_some_and(|build| self.builds.contains(build));
                if self.paused && placed && !its_build_runs {
                    return Some(format!("{} was placed while the pool was paused", task.id));
                }
            }
            _ => {}
        }
        None
    }
}
