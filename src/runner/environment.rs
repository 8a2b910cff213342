//! The variables work finds in its environment, the same for processes, containers and functions.
//!
//! Law: what work is told of itself goes before what its order says.

use std::collections::BTreeMap;

use super::backend::group::MARKER;
use crate::model::{Kind, TaskId, Token, Traceparent, WorkOrder};

/// The variables of one attempt.
pub(super) fn of(
    task: &TaskId,
    token: Token,
    kind: Kind,
    attempt: u32,
    url: Option<&str>,
    order: &WorkOrder,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    if let Some(trace) = &order.traceparent {
        all.insert(Traceparent::VARIABLE.to_owned(), trace.to_string());
    }
    all.extend(order.env.clone());
    all.remove("LONGSHORE_BUILD");
    let build = match kind {
        Kind::Build => Some(task),
        Kind::Job => order.build.as_ref(),
    };
    let own = [
        ("LONGSHORE_TASK", Some(task.to_string())),
        ("LONGSHORE_ATTEMPT", Some(attempt.to_string())),
        (MARKER, Some(token.to_string())),
        ("LONGSHORE_BUILD", build.map(ToString::to_string)),
        ("LONGSHORE_URL", url.map(str::to_owned)),
    ];
    all.extend(own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    all
}
