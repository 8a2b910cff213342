//! Groups: their tasks that are left, and the runners they are bound to.
//!
//! Law: a group is shown as one committed turn left it, and `modification_count` tells two such moments apart.
//! What one answer may hold is bounded; `tasks` and `runners` say how many there are.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::problem::Problem;
use super::request::{Asked, Named};
use crate::core::group::Members;
use crate::model::{GroupId, RunnerId, TaskId};

/// The most groups of one page, and how many there are unless asked otherwise.
const MOST_LISTED: usize = 100;
/// The most tasks and the most runners shown of one group.
const MOST_SHOWN: usize = 1_000;

/// A group as it is shown.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GroupView {
    #[schema(value_type = String)]
    group_id: GroupId,
    /// The runners it is bound to: those that hold a task of it and those a program bound; at most 1,000 are shown.
    #[schema(value_type = Vec<String>)]
    runner_ids: Vec<RunnerId>,
    /// Those among them that a program bound to it, and by way of which it asks for its tasks.
    #[schema(value_type = Vec<String>)]
    bound_by_hand: Vec<RunnerId>,
    /// Its tasks that have not ended, by index, then by admission; at most 1,000 are shown.
    #[schema(value_type = Vec<String>)]
    task_ids: Vec<TaskId>,
    /// How many runners it is bound to.
    runners: usize,
    /// How many of its tasks have not ended.
    tasks: usize,
    /// Counts the turns in which its tasks or its runners changed.
    modification_count: u64,
    /// When it last did, in RFC 3339.
    last_modified: String,
    /// The most runners it may be bound to at the same time; null for no limit.
    max_runners: Option<u32>,
    ordered: bool,
    stop_on_failure: bool,
    /// Why it does not go on, if a task of it stopped it.
    stopped: Option<String>,
}

impl GroupView {
    fn of(id: &GroupId, group: &Members) -> Option<Self> {
        let row = group.row()?;
        Some(Self {
            group_id: id.clone(),
            runner_ids: group.runners().take(MOST_SHOWN).cloned().collect(),
            bound_by_hand: group.by_hand().take(MOST_SHOWN).cloned().collect(),
            task_ids: group.live().take(MOST_SHOWN).cloned().collect(),
            runners: group.runners().len(),
            tasks: group.live().len(),
            modification_count: row.modification_count,
            last_modified: row.last_modified.rfc3339(),
            max_runners: row.terms.max_runners,
            ordered: row.terms.ordered,
            stop_on_failure: row.terms.stop_on_failure,
            stopped: row.stopped.as_ref().map(|stopped| stopped.reason.to_string()),
        })
    }
}

/// A page of groups.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GroupPage {
    groups: Vec<GroupView>,
    /// Asks for the next page, as `after`; null on the last one.
    next: Option<String>,
}

/// Lists groups in the order of their ids: those with tasks that are left or still remembered.
#[utoipa::path(get, path = "/v1/groups", tag = "groups",
    params(("limit" = Option<usize>, Query, description = "1 to 100; 100 if left out"),
        ("after" = Option<String>, Query, description = "The `next` of the page before")),
    responses((status = 200, body = GroupPage), (status = 400, body = Problem)))]
pub(super) async fn list(State(app): State<Arc<App>>, asked: Asked) -> Result<Json<GroupPage>, Problem> {
    asked.only(&["limit", "after"])?;
    let limit = asked.number("limit", 1, MOST_LISTED)?.unwrap_or(MOST_LISTED);
    let after = asked.id("after")?;
    let mut groups: Vec<GroupView> = app.context.handle.view().read(|rows| {
        let groups = rows.groups().after(after.as_ref());
        groups.filter_map(|(id, group)| GroupView::of(id, group)).take(limit + 1).collect()
    });
    let more = groups.len() > limit;
    groups.truncate(limit);
    let next = groups.last().filter(|_| more).map(|group| group.group_id.to_string());
    Ok(Json(GroupPage { groups, next }))
}

/// One group.
#[utoipa::path(get, path = "/v1/groups/{id}", tag = "groups",
    params(("id" = String, Path, description = "The group's id")),
    responses((status = 200, body = GroupView), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Named(id): Named,
    asked: Asked,
) -> Result<Json<GroupView>, Problem> {
    asked.only(&[])?;
    one(&app, &id)
}

/// A group as the last committed turn left it.
pub(super) fn one(app: &App, id: &GroupId) -> Result<Json<GroupView>, Problem> {
    let shown = app.context.handle.view().read(|rows| GroupView::of(id, rows.groups().get(id)?));
    shown.map(Json).ok_or_else(|| Problem::unknown_group(id.as_str()))
}
