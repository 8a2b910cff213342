//! Registrations, heartbeats and leaves: what a runner says of itself.
//!
//! Law: a registration replaces the capacity and keeps the assignments. A new incarnation keeps what it lists
//! under the same token; what it leaves out is lost, once the reports of its predecessor were read. Every answer
//! is given after the turn that began after the question arrived was committed.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::draft::Draft;
use super::group;
use super::input::Answer;
use super::intent;
use super::locality;
use super::watch::{Cause, Omission, Suspicion};
use super::wishes;
use crate::model::{
    Class, ClassId, Fact, Heartbeat, HeartbeatAnswer, Held, Leave, Offer, Registered, Registration, Row,
    Runner, RunnerId, Standing, StopOrder, Task, TaskId, TaskState,
};

/// Takes in a registration.
pub(super) fn register(draft: &mut Draft, new: &Registration) -> Answer {
    if let Some(reason) = foreign_table(draft, new) {
        return Answer::RegistrationRefused { reason };
    }
    let known = draft.runner(&new.runner);
    if let Some(row) = known.as_ref().filter(|row| row.lost.is_none() && new.incarnation < row.incarnation) {
        return Answer::RegistrationRefused { reason: superseded(new, row) };
    }
    if let Some(reason) = intent::contradiction(draft.state, new).filter(|_| known.is_none()) {
        return Answer::RegistrationRefused { reason: reason.into() };
    }
    if known.as_ref().is_some_and(|row| row.is_subscription()) {
        let reason = format!("{} is a subscription: register under another id, or end it first", new.runner);
        return Answer::RegistrationRefused { reason: reason.into() };
    }
    let again = known.as_ref().is_some_and(|row| row.incarnation == new.incarnation);
    let was_lost = known.as_ref().is_some_and(|row| row.lost.is_some());
    let restarted = known.is_some() && !again;
    if let Some(row) = known.as_ref().filter(|row| row.offer != new.offer) {
        remember_class(draft, &row.offer);
        draft.state.watch.judge.all = true;
    }
    let row = Runner {
        id: new.runner.clone(),
        incarnation: new.incarnation.clone(),
        offer: shared_offer(draft, &new.offer),
        cost: new.cost,
        class: new.class.clone(),
        intent: new.intent.clone(),
        standing: standing_of(known.as_deref(), again),
        pull: known.as_ref().and_then(|row| row.pull.clone()),
        lost: None,
        registered: draft.now,
        version: new.version.clone(),
        incidents: known.as_ref().map_or(0, |row| row.incidents),
        last_incident: known.as_ref().and_then(|row| row.last_incident),
        refusals: known.as_ref().map_or(0, |row| row.refusals),
        crash: known.as_ref().and_then(|row| row.crash.clone()),
        extra: known.as_ref().map(|row| row.extra.clone()).unwrap_or_default(),
    };
    let unchanged = again && known.as_deref().is_some_and(|old| same_but_time(old, &row));
    if !unchanged {
        draft.put_runner(row);
        let (runner, incarnation) = (new.runner.clone(), new.incarnation.clone());
        draft.fact(Fact::RunnerRegistered { runner, incarnation, again });
    }
    locality::registered(draft, new, again && !was_lost);
    if let Some(id) =
        new.intent.as_ref().filter(|id| known.as_ref().and_then(|row| row.intent.as_ref()) != Some(id))
    {
        let group = wishes::group_of(draft.state, id);
        intent::arrived(draft, id);
        if let Some(group) = group {
            wishes::bind_arrived(draft, &new.runner, &group);
        }
    }
    renew(draft, &new.runner);
    draft.state.watch.losing.remove(&new.runner);
    let running: BTreeSet<Held> = new.running.iter().cloned().collect();
    // Also what a full turn leaves unwritten: what the answer does not name is ended.
    let mut assignments: BTreeSet<Held> = BTreeSet::new();
    for held in &running {
        if confirm(draft, &new.runner, &new.incarnation, held) {
            assignments.insert(held.clone());
        }
    }
    let handback = stays_after_all(draft, &new.runner);
    if restarted {
        suspect_unlisted(draft, new, &running, handback);
    }
    draft.deliver(&new.runner);
    assignments.extend(assignments_of(draft, &new.runner, &new.incarnation));
    Answer::Registered(Registered {
        table: draft.state.table,
        turn: draft.state.turn(),
        lease: draft.state.settings.lease,
        heartbeat: draft.state.settings.heartbeat,
        assignments: assignments.into_iter().collect(),
    })
}

/// A runner that spoke with another table, while this one has never had a task: this table may have been put in
/// the place of a lost one, so it does not start over.
fn foreign_table(draft: &mut Draft, new: &Registration) -> Option<Arc<str>> {
    let seen = new.last_seen.filter(|_| !draft.state.watch.accepts_foreign)?;
    if seen.table == draft.state.table || seen.table.is_nil() || draft.state.tasks().next().is_some() {
        return None;
    }
    let reason: Arc<str> = format!(
        "runner {} last spoke with table {} (turn {}), but this is the new and empty table {}: the data may have been \
         lost or the wrong directory mounted; bring the data back, or accept the empty table with `longshore unfreeze`",
        new.runner, seen.table, seen.turn, draft.state.table
    )
    .into();
    let mut pool = draft.state.pool().clone();
    pool.frozen = Some(reason.clone());
    draft.put_pool(pool);
    draft.fact(Fact::Frozen { reason: reason.clone() });
    Some(reason)
}

/// A registration that a process sent before it ended may come after its successor's. To believe it would be to
/// take the successor's work, which the dead one cannot vouch for.
fn superseded(new: &Registration, row: &Runner) -> Arc<str> {
    format!(
        "incarnation {} of runner {} is older than {}, which holds a lease: an incarnation id must be greater than \
         those before it, as a UUID of version 7 is; a smaller one is taken once that lease is over",
        new.incarnation, new.runner, row.incarnation
    )
    .into()
}

/// A hold and a drain outlive a restart. Whoever was told to leave and starts again may be needed again.
fn standing_of(known: Option<&Runner>, again: bool) -> Standing {
    match known.map(|row| &row.standing) {
        None => Standing::Ready,
        Some(Standing::Dismissed) if !again => Standing::Ready,
        Some(standing) => standing.clone(),
    }
}

fn same_but_time(old: &Runner, new: &Runner) -> bool {
    Runner { registered: new.registered, ..old.clone() } == *new
}

fn shared_offer(draft: &Draft, offer: &Arc<Offer>) -> Arc<Offer> {
    draft.state.fleet().offers().find(|known| *known == offer).unwrap_or(offer).clone()
}

/// A runner that registers has not left; what it handed back on leaving stays handed back.
fn stays_after_all(draft: &mut Draft, runner: &RunnerId) -> BTreeSet<TaskId> {
    let suspicions = &mut draft.state.watch.suspicions;
    if !matches!(suspicions.get(runner).map(|it| &it.cause), Some(Cause::Left { .. })) {
        return BTreeSet::new();
    }
    match suspicions.remove(runner).map(|it| it.cause) {
        Some(Cause::Left { handback }) => handback,
        _ => BTreeSet::new(),
    }
}

fn suspect_unlisted(
    draft: &mut Draft,
    new: &Registration,
    running: &BTreeSet<Held>,
    handback: BTreeSet<TaskId>,
) {
    let is_listed = |task: &Task| {
        let token = task.assignment().map(|held| held.token);
        token.is_some_and(|token| running.contains(&Held { id: task.id.clone(), token }))
    };
    let tasks = tasks_of(draft, &new.runner).into_iter();
    let unlisted: BTreeSet<TaskId> =
        tasks.filter(|task| !is_listed(task)).map(|task| task.id.clone()).collect();
    if unlisted.is_empty() {
        return;
    }
    suspect(draft, &new.runner, Cause::Restarted { unlisted, handback, blamed: false });
}

pub(super) fn suspect(draft: &mut Draft, runner: &RunnerId, cause: Cause) {
    let mark = draft.read_reports();
    draft.state.watch.suspicions.insert(runner.clone(), Suspicion { cause, mark });
}

pub(super) fn tasks_of(draft: &Draft, runner: &RunnerId) -> Vec<Arc<Task>> {
    let seat = draft.state.fleet().get(runner);
    seat.into_iter().flat_map(|seat| seat.tasks.values()).cloned().collect()
}

fn assignments_of(draft: &Draft, runner: &RunnerId, incarnation: &str) -> Vec<Held> {
    let tasks = tasks_of(draft, runner).into_iter();
    tasks
        .filter_map(|task| {
            let held = task.assignment().filter(|held| &*held.incarnation == incarnation)?;
            Some(Held { id: task.id.clone(), token: held.token })
        })
        .collect()
}

fn renew(draft: &mut Draft, runner: &RunnerId) {
    let settings = &draft.state.settings;
    let margin = if settings.guards.lease_margin { settings.lease_margin } else { Default::default() };
    let until = draft.now + settings.lease + margin;
    let watch = &mut draft.state.watch;
    watch.arm(runner, until);
    watch.unheard.remove(runner);
    if watch.suspicions.get(runner).is_some_and(|suspicion| suspicion.cause == Cause::LeaseOver) {
        watch.suspicions.remove(runner);
    }
}

/// Takes in a heartbeat.
pub(super) fn heartbeat(draft: &mut Draft, beat: &Heartbeat) -> Answer {
    let is_its = |row: &Arc<Runner>| {
        row.incarnation == beat.incarnation && row.lost.is_none() && !row.is_unregistered()
    };
    let known = draft.runner(&beat.runner).filter(is_its);
    let leaving = matches!(
        draft.state.watch.suspicions.get(&beat.runner).map(|suspicion| &suspicion.cause),
        Some(Cause::Left { .. })
    );
    if known.is_none() || leaving {
        return Answer::Heartbeat(HeartbeatAnswer {
            number: beat.number,
            register: true,
            ..Default::default()
        });
    }
    renew(draft, &beat.runner);
    let mut stop = Vec::new();
    let mut listed: BTreeSet<TaskId> = BTreeSet::new();
    for held in &beat.running {
        if confirm(draft, &beat.runner, &beat.incarnation, held) {
            listed.insert(held.id.clone());
        } else {
            let reason = "this attempt is not known any more".into();
            stop.push(StopOrder { id: held.id.clone(), token: held.token, reason });
        }
    }
    let is_news = draft.state.watch.is_news(beat);
    if is_news {
        note_omissions(draft, beat, &listed);
    }
    let artifacts = locality::news(draft, beat, is_news);
    stop.extend(stop_orders(draft.state, &beat.runner));
    let leave = known.is_some_and(|row| group::dismiss(draft, &row));
    Answer::Heartbeat(HeartbeatAnswer { number: beat.number, artifacts, stop, register: false, leave })
}

/// Confirms one listed attempt, also one that a predecessor had; false if it is not a live one. What a full turn
/// leaves unwritten, the next heartbeat brings again.
fn confirm(draft: &mut Draft, runner: &RunnerId, incarnation: &Arc<str>, held: &Held) -> bool {
    let Some(task) = draft.task(&held.id) else { return false };
    let Some(assignment) = task.assignment() else { return false };
    if assignment.token != held.token || assignment.runner != *runner {
        return false;
    }
    if (!assignment.confirmed || assignment.incarnation != *incarnation) && !draft.is_full() {
        let mut confirmed = Task::clone(&task);
        if let TaskState::Assigned(assignment) | TaskState::Running(assignment) = &mut confirmed.state {
            assignment.confirmed = true;
            assignment.incarnation = incarnation.clone();
        }
        draft.put_task_quietly(confirmed);
    }
    true
}

/// Counts the heartbeats that leave out a task the runner, or its predecessor, had. One that was sent before the
/// runner had the task may come long after; none is that late whose answer could still lengthen the lease.
fn note_omissions(draft: &mut Draft, beat: &Heartbeat, listed: &BTreeSet<TaskId>) {
    let lease = draft.state.settings.lease;
    let omitted: Vec<TaskId> = tasks_of(draft, &beat.runner)
        .into_iter()
        .filter(|task| !listed.contains(&task.id))
        .filter(|task| {
            let held = task.assignment().expect("a runner holds what is assigned to it");
            let settled = held.assigned + lease <= draft.now;
            settled && (held.confirmed || held.incarnation != beat.incarnation)
        })
        .map(|task| task.id.clone())
        .collect();
    for id in listed {
        draft.state.watch.omissions.remove(&(beat.runner.clone(), id.clone()));
    }
    if omitted.is_empty() {
        return;
    }
    let mark = draft.read_reports();
    for id in omitted {
        let omission = draft
            .state
            .watch
            .omissions
            .entry((beat.runner.clone(), id))
            .or_insert(Omission { beats: 0, mark });
        omission.beats += 1;
        if omission.beats <= 2 {
            omission.mark = mark;
        }
    }
}

/// Every attempt this runner is asked to stop.
pub fn stop_orders(state: &super::state::State, runner: &RunnerId) -> Vec<StopOrder> {
    let seat = state.fleet().get(runner);
    let tasks = seat.into_iter().flat_map(|seat| seat.tasks.values());
    tasks
        .filter_map(|task| {
            let held = task.assignment()?;
            let reason = held.stop.as_ref()?.reason.clone();
            Some(StopOrder { id: task.id.clone(), token: held.token, reason })
        })
        .collect()
}

/// Takes in a leave: the runner goes once its reports were read.
pub(super) fn leave(draft: &mut Draft, leave: &Leave) -> Answer {
    let is_its = |row: &Arc<Runner>| row.incarnation == leave.incarnation && !row.is_unregistered();
    let known = draft.runner(&leave.runner).filter(is_its);
    if known.is_some() {
        let handback = leave.handback.iter().cloned().collect();
        suspect(draft, &leave.runner, Cause::Left { handback });
    }
    Answer::Taken
}

/// Remembers that a runner that makes `offer` was here.
pub(super) fn remember_class(draft: &mut Draft, offer: &Arc<Offer>) {
    let known = draft.state.classes().find(|class| class.offer == *offer).map(|class| class.id.clone());
    let id = known.unwrap_or_else(|| free_class_id(draft));
    let class = Class { id, offer: offer.clone(), last_seen: draft.now };
    draft.put(Row::Class(Arc::new(class)));
}

fn free_class_id(draft: &Draft) -> ClassId {
    let named = |number: usize| ClassId::parse(&format!("seen-{number}")).expect("a legal name");
    (1..).map(named).find(|id| !draft.state.classes.contains_key(id)).expect("the numbers do not end")
}
