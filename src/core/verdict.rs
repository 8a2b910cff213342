//! The verdict: does a task fit now, will it fit later, or can it never fit?
//!
//! Law: `never_fits` is only said when no runner in whatever state, no declared class and none that left or was
//! lost within `class_memory` could ever run the task. An unknown fleet rejects nothing: while the leader
//! settles, nobody is judged.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backlog::LineKey;
use super::draft::Draft;
use super::fit::{self, Misfit, Usage};
use super::state::State;
use super::together;
use crate::model::{ClassId, IfUnplaceable, Offer, Outcome, Shape, Task, Time};

/// Whether and when a task can be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    FitsNow,
    FitsLater,
    NeverFits,
}

impl Verdict {
    /// The word in payloads.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::FitsNow => "fits_now",
            Verdict::FitsLater => "fits_later",
            Verdict::NeverFits => "never_fits",
        }
    }
}

/// Every offer that may be made again: of runners in whatever state, of those that left, of declared classes.
pub fn catalogue(state: &State) -> Vec<(String, Arc<Offer>)> {
    let seen = state.fleet().seats().map(|seat| (format!("runner {}", seat.runner.id), &seat.runner.offer));
    let of_class = |id: &ClassId| format!("class {id}");
    let declared = state.settings.classes.iter().map(|class| (of_class(&class.id), &class.offer));
    let remembered = state.classes().map(|class| (of_class(&class.id), &class.offer));
    let mut distinct: BTreeMap<Arc<Offer>, String> = BTreeMap::new();
    for (name, offer) in declared.chain(remembered).chain(seen) {
        distinct.entry(offer.clone()).or_insert(name);
    }
    distinct.into_iter().map(|(offer, name)| (name, offer)).collect()
}

/// Nothing when some known offer could run a task of `shape` with room for `jobs` beside it; otherwise the
/// misfits with each distinct offer, the closest first.
pub fn never_fits(state: &State, shape: &Shape, jobs: &[Arc<Shape>]) -> Option<Vec<(String, Misfit)>> {
    // What is pulled is held against subscriptions alone, which make the only open offers.
    let pulled = state.is_pulled(shape);
    let offers = || {
        let declared = state.settings.classes.iter().map(|class| &class.offer);
        let all = state.fleet().offers().chain(state.classes().map(|class| &class.offer)).chain(declared);
        all.filter(move |offer| !pulled || offer.open)
    };
    let able = |offer: &&Arc<Offer>| fit::never(shape, offer).is_none();
    if jobs.is_empty() {
        if offers().any(|offer| able(&offer)) {
            return None;
        }
    } else if offers().filter(able).any(|host| jobs_missing(state, shape, jobs, host).is_none()) {
        return None;
    }
    let mut misfits: Vec<(String, Misfit)> = catalogue(state)
        .into_iter()
        .filter(|(_, offer)| !pulled || offer.open)
        .filter_map(|(name, offer)| {
            let misfit = fit::never(shape, &offer).or_else(|| {
                jobs_missing(state, shape, jobs, &offer).map(|shape| Misfit::JobsNeverFit { shape })
            });
            misfit.map(|misfit| (name, misfit))
        })
        .collect();
    misfits.sort_by_key(|(_, misfit)| std::cmp::Reverse(misfit.closeness()));
    Some(misfits)
}

/// The first job shape that could run nowhere while the build sits on a runner that makes the offer `host`.
fn jobs_missing(state: &State, build: &Shape, jobs: &[Arc<Shape>], host: &Arc<Offer>) -> Option<Arc<Shape>> {
    let mut beside = Usage::default();
    beside.add(build);
    let elsewhere = |job: &Shape| {
        if together::keeps(state, build, job) {
            return false;
        }
        let several_hosts = state.fleet().seats().filter(|seat| seat.runner.offer == *host).nth(1).is_some();
        // Of a class, declared or remembered, several may come.
        let declared = state.settings.classes.iter().map(|class| &class.offer);
        let remembered = state.classes().map(|class| &class.offer);
        let seen = state.fleet().offers().filter(|offer| *offer != host || several_hosts);
        declared.chain(remembered).chain(seen).any(|offer| fit::never(job, offer).is_none())
    };
    let beside_it = |job: &Shape| fit::never(job, host).is_none() && fit::room(job, host, &beside).is_none();
    jobs.iter().find(|job| !beside_it(job) && !elsewhere(job)).cloned()
}

/// Says in one sentence why nothing could ever run it.
pub fn rejection(misfits: &[(String, Misfit)]) -> String {
    if misfits.is_empty() {
        return "no runner is registered and no class is declared".to_owned();
    }
    let named: Vec<String> =
        misfits.iter().take(3).map(|(name, misfit)| format!("{name}: {misfit}")).collect();
    let more = misfits.len().saturating_sub(named.len());
    let rest = if more == 0 { String::new() } else { format!("; and {more} more") };
    format!("no known runner or class could ever run it: {}{rest}", named.join("; "))
}

/// Judges the lines that are due: ends what never fits, unless its producer said otherwise.
pub(super) fn judge(draft: &mut Draft) {
    judge_due(draft);
    if !draft.state.watch.is_settling() && !draft.state.watch.judge.lines.is_empty() {
        // The end of one gave another its turn.
        draft.more();
    }
}

fn judge_due(draft: &mut Draft) {
    if draft.state.watch.is_settling() {
        return;
    }
    let due = std::mem::take(&mut draft.state.watch.judge);
    let lines: Vec<LineKey> = if due.all {
        draft.state.backlog().lines().map(|(key, _)| key.clone()).collect()
    } else {
        due.lines.into_iter().collect()
    };
    for key in lines {
        if let Some(misfits) = never_fits(draft.state, &key.shape, &key.jobs) {
            judge_line(draft, &key, &rejection(&misfits));
        }
        if draft.is_full() {
            draft.state.watch.judge.all = true;
            draft.more();
            return;
        }
    }
}

fn judge_line(draft: &mut Draft, key: &LineKey, reason: &str) {
    let mut after = None;
    while let Some(rank) = draft.state.backlog().first(key, after) {
        if draft.is_full() {
            return;
        }
        let task = draft.state.waiting(key, rank).expect("a line names only tasks that are pending").clone();
        match patience(&task) {
            Some(until) if until > draft.now => {
                draft.state.watch.unplaceable.insert((until, task.id.clone()));
            }
            Some(_) => draft.end_undone(&task, Outcome::Rejected, reason),
            None => {}
        }
        after = Some(rank);
    }
}

/// Until when a task waits though nothing could ever run it; `None` is for ever.
pub(super) fn patience(task: &Task) -> Option<Time> {
    match task.limits.if_unplaceable {
        IfUnplaceable::Fail => Some(Time(0)),
        IfUnplaceable::Hold => None,
        IfUnplaceable::FailAfter(span) => Some(task.submitted + span),
    }
}

/// Judges the tasks whose patience is over.
pub(super) fn end_impatient(draft: &mut Draft) {
    while let Some((until, id)) = draft.state.watch.unplaceable.first().cloned() {
        if until > draft.now {
            return;
        }
        if draft.is_full() {
            return draft.more();
        }
        draft.state.watch.unplaceable.pop_first();
        let Some(task) = draft.task(&id).filter(|task| task.is_pending()) else { continue };
        if let Some(misfits) = never_fits(draft.state, &task.shape, &task.jobs) {
            draft.end_undone(&task, Outcome::Rejected, &rejection(&misfits));
        }
    }
}
