//! The list of tasks, page by page, the newest first.
//!
//! Law: a page looks at no more than [`MOST_EXAMINED`] tasks however few of them pass the filter, so a page may
//! hold fewer than asked for, or none, and still have a next one; the list ends where `next` is null. The cursor
//! is a place in the order of admission: what is submitted meanwhile moves no page, and no task is shown twice.

use std::iter::Peekable;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::problem::Problem;
use super::request::Asked;
use super::tasks::TaskView;
use crate::core::State as Rows;
use crate::core::shelves::Shelf;
use crate::model::{Id, Kind, LifecycleState, Task};

/// The most tasks of one page.
pub const MOST_LISTED: usize = 1_000;
/// The tasks of a page when nothing else is asked for.
pub const LISTED: usize = 100;
/// The most tasks one page looks at.
pub const MOST_EXAMINED: usize = 10_000;

/// A page of tasks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TaskPage {
    tasks: Vec<TaskView>,
    /// Asks for the next page, as `after`; null on the last one.
    next: Option<String>,
}

/// What a list is asked to show.
#[derive(Debug)]
struct Filter {
    state: Option<LifecycleState>,
    kind: Option<Kind>,
    queue: Option<Id>,
    tenant: Option<Id>,
    build: Option<Id>,
    group: Option<Id>,
}

impl Filter {
    fn read(asked: &Asked) -> Result<Self, Problem> {
        let states = [
            LifecycleState::Pending,
            LifecycleState::Assigned,
            LifecycleState::Running,
            LifecycleState::Ended,
        ];
        Ok(Self {
            state: asked.one_of("state", &states.map(|state| (state.as_str(), state)))?,
            kind: asked.one_of("kind", &[("job", Kind::Job), ("build", Kind::Build)])?,
            queue: asked.id("queue")?,
            tenant: asked.id("tenant")?,
            build: asked.id("build")?,
            group: asked.id("group")?,
        })
    }

    fn shelves(&self) -> Vec<Shelf> {
        let pending = match self.kind {
            Some(kind) => vec![Shelf::pending(kind)],
            None => vec![Shelf::PendingJobs, Shelf::PendingBuilds],
        };
        match self.state {
            Some(LifecycleState::Pending) => pending,
            Some(LifecycleState::Assigned | LifecycleState::Running) => vec![Shelf::Held],
            Some(LifecycleState::Ended) => vec![Shelf::Ended],
            None => pending.into_iter().chain([Shelf::Held, Shelf::Ended]).collect(),
        }
    }

    fn passes(&self, task: &Task) -> bool {
        self.state.is_none_or(|state| task.state_word() == state.as_str())
            && self.kind.is_none_or(|kind| task.kind() == kind)
            && self.queue.as_ref().is_none_or(|queue| task.shape.queue == *queue)
            && self.tenant.as_ref().is_none_or(|tenant| task.tenant == *tenant)
            && self.build.as_ref().is_none_or(|build| task.build.as_ref() == Some(build))
            && self.group.as_ref().is_none_or(|group| task.shape.group.as_ref() == Some(group))
    }
}

/// Lists tasks, the newest first.
#[utoipa::path(get, path = "/v1/tasks", tag = "tasks",
    params(
        ("state" = Option<String>, Query, description = "pending, assigned, running or ended"),
        ("kind" = Option<String>, Query, description = "job or build"),
        ("queue" = Option<String>, Query, description = "Only tasks of this queue"),
        ("tenant" = Option<String>, Query, description = "Only tasks of this tenant"),
        ("build" = Option<String>, Query, description = "Only the jobs of this build"),
        ("group" = Option<String>, Query, description = "Only tasks of this group"),
        ("limit" = Option<usize>, Query, description = "1 to 1000; 100 if left out"),
        ("after" = Option<String>, Query, description = "The `next` of the page before")),
    responses((status = 200, body = TaskPage), (status = 400, body = Problem)))]
pub(super) async fn list(State(app): State<Arc<App>>, asked: Asked) -> Result<Json<TaskPage>, Problem> {
    asked.only(&["state", "kind", "queue", "tenant", "build", "group", "limit", "after"])?;
    let filter = Filter::read(&asked)?;
    let limit = asked.number("limit", 1, MOST_LISTED)?.unwrap_or(LISTED);
    let after = asked.number("after", 0, u64::MAX)?;
    let view = app.context.handle.view();
    let (tasks, next, now) = view.read(|rows| {
        let (tasks, next) = page(rows, &filter, limit, after);
        (tasks, next, app.now(rows))
    });
    let tasks = tasks.iter().map(|task| TaskView::of(task, now)).collect();
    Ok(Json(TaskPage { tasks, next: next.map(|next| next.to_string()) }))
}

/// The newest tasks below `after` that pass, and where to go on if there may be more.
fn page(rows: &Rows, filter: &Filter, limit: usize, after: Option<u64>) -> (Vec<Arc<Task>>, Option<u64>) {
    let mut shelves: Vec<_> =
        filter.shelves().into_iter().map(|shelf| rows.shelves().newest(shelf, after).peekable()).collect();
    let (mut tasks, mut last) = (Vec::new(), None);
    for examined in 0.. {
        let newest = |(number, shelf): (usize, &mut Peekable<_>)| {
            shelf.peek().map(|task: &&Arc<Task>| (task.sequence, number))
        };
        let Some((sequence, number)) = shelves.iter_mut().enumerate().filter_map(newest).max() else {
            return (tasks, None);
        };
        if tasks.len() == limit || examined == MOST_EXAMINED {
            return (tasks, last);
        }
        last = Some(sequence);
        let task = shelves[number].next().expect("it was just seen");
        tasks.extend(filter.passes(task).then(|| task.clone()));
    }
    (tasks, last)
}
