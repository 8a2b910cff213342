//! What a submission says of its group.
//!
//! Law: what contradicts itself is refused here; what contradicts other tasks of the group is admission's to say.
//! An index counts in an ordered group only.

use super::Malformed;
use super::fields::{Fields, Required};
use crate::model::{GroupId, Grouping, Terms};

/// The most runners a group may be bound to.
pub const MOST_RUNNERS: u32 = 100_000;
/// The highest index in an ordered group.
pub const HIGHEST_INDEX: u32 = 1_000_000_000;

/// Reads the group a task belongs to, if it names one.
pub fn read_group(task: &Fields<'_>) -> Result<(Option<GroupId>, Grouping), Malformed> {
    let Some(group) = task.object("group")? else { return Ok((None, Grouping::default())) };
    let id = group.id("id").required(&group, "id")?;
    if let Some(none) = group.get("max_runners").filter(|most| most.as_u64() == Some(0)) {
        let why = format!("expected a whole number from 1 to {MOST_RUNNERS}, or nothing for no limit");
        return Err(group.refuse("max_runners", none, why));
    }
    let terms = Terms {
        max_runners: group.count("max_runners", 1, MOST_RUNNERS)?,
        ordered: group.flag("ordered")?.unwrap_or(false),
        stop_on_failure: group.flag("stop_on_failure")?.unwrap_or(false),
    };
    let index = group.count("index", 0, HIGHEST_INDEX)?;
    if terms.ordered && index.is_none() {
        let why = format!(
            "is missing; the tasks of an ordered group start in the order of their index: send one from 0 to \
             {HIGHEST_INDEX}, or leave out \"ordered\""
        );
        return Err(Malformed::new(group.path("index"), why));
    }
    Ok((Some(id), Grouping { terms, index: index.filter(|_| terms.ordered) }))
}

/// Reads the group of a job that a build declares: its id is all that counts for where it may run.
pub fn read_group_id(job: &Fields<'_>) -> Result<Option<GroupId>, Malformed> {
    let Some(group) = job.object("group")? else { return Ok(None) };
    group.id("id").required(&group, "id").map(Some)
}
