//! Locality: how long a task waits for runners that hold what it reads or makes, and what is known of who holds what.
//!
//! The ladder, for queues that have it: a task whose output is known on a ready runner that could ever run it waits
//! first only for such runners, up to `cache_wait`; known nowhere, or nowhere any more, that step is skipped. Then,
//! counted from there and always in full, up to `deps_wait` for runners that hold at least one of its inputs. Then
//! anyone.
//!
//! Law: news of artifacts only ever adds runners, at once; it never restarts a wait nor takes a right away. A wait
//! begins once in a task's life and its ends stand in its row, so neither a successor nor a second attempt waits
//! again. A task that waits reserves nothing and is in no line.

use std::sync::Arc;

use super::artifacts::Group;
use super::backlog::Tier;
use super::draft::Draft;
use super::ladder::Step;
use super::numbered::Number;
use super::state::State;
use crate::model::{
    ArtifactId, ArtifactNews, Fact, Found, Heartbeat, Holding, Key, Registration, Row, RunnerId, RunnerState,
    Shape, Task, Wait,
};

/// Whether a ready runner that could ever run `shape` holds the artifact.
pub(super) fn is_known(state: &State, shape: &Shape, artifact: &ArtifactId) -> bool {
    state.artifacts.find(artifact).is_some_and(|artifact| is_waited_for(state, shape, artifact))
}

fn is_waited_for(state: &State, shape: &Shape, artifact: Number) -> bool {
    state.fleet().any_able(state.artifacts.seats(artifact).flatten(), shape)
}

/// The wait of a pending task whose time and turn have come; nothing if its queue has no locality.
pub(super) fn wait_of(state: &State, task: &Task) -> Option<Arc<Wait>> {
    let waits = state.settings.locality.get(&task.shape.queue)?;
    if !task.is_pending() {
        return None;
    }
    let began = state.now();
    if !state.settings.guards.locality {
        return Some(Arc::new(Wait { cache_until: began, deps_until: began }));
    }
    let output = task.artifacts.as_ref().and_then(|own| own.output.as_ref());
    let cached = output.is_some_and(|output| is_known(state, &task.shape, output));
    let cache_until = if cached { began + waits.cache_wait } else { began };
    Some(Arc::new(Wait { cache_until, deps_until: cache_until + waits.deps_wait }))
}

/// Begins the waits of tasks whose time has come, as far as the budget goes.
pub(super) fn begin_waits(draft: &mut Draft) {
    while let Some(task) = draft.state.ladder().next_unbegun().cloned() {
        if draft.is_full() {
            return draft.more();
        }
        let mut task = Task::clone(&task);
        task.wait = wait_of(draft.state, &task);
        draft.put_task_quietly(task);
    }
}

/// Ends the first step of tasks whose output no runner they could wait for holds any more.
pub(super) fn end_vain_waits(draft: &mut Draft) {
    while let Some(artifact) = draft.state.watch.fewer_holders.first().cloned() {
        let number = draft.state.artifacts.find(&artifact);
        let groups = number.map(|number| draft.state.artifacts.groups_of(number)).unwrap_or_default();
        let shape = |group: &Group| &draft.state.ladder().line(group.line).shape;
        let in_vain = |group: &Group| !is_waited_for(draft.state, shape(group), group.artifact);
        let groups: Vec<Group> = groups.into_iter().map(|(group, _)| group).filter(in_vain).collect();
        for group in groups {
            if !end_first_step(draft, group) {
                return draft.more();
            }
        }
        draft.state.watch.fewer_holders.remove(&artifact);
    }
}

/// False if the turn was full before all were done.
fn end_first_step(draft: &mut Draft, group: Group) -> bool {
    let ladder = draft.state.ladder();
    let tasks = draft.state.artifacts.ranks(group).filter_map(|rank| ladder.at(rank.sequence()));
    let waiting = tasks.filter(|climber| climber.step == Step::Cache);
    let tasks: Vec<Arc<Task>> = waiting.map(|climber| climber.task.clone()).collect();
    for task in tasks {
        if draft.is_full() {
            return false;
        }
        let mut task = Task::clone(&task);
        if let Some(wait) = &mut task.wait {
            let deps_wait = wait.deps_until.since(wait.cache_until);
            *wait = Arc::new(Wait { cache_until: draft.now, deps_until: draft.now + deps_wait });
        }
        draft.put_task_quietly(task);
    }
    true
}

/// Whether a runner may have a pending task by the step it is on.
pub(super) fn may_have(state: &State, task: &Task, runner: &RunnerId) -> bool {
    let Some(step) = state.ladder().step(task).filter(|step| *step != Step::Open) else { return true };
    let Some(own) = &task.artifacts else { return false };
    let holds = |artifact| state.artifacts.holds(runner, artifact);
    match step {
        Step::Unbegun => false,
        Step::Cache => own.output.iter().any(holds),
        Step::Dependencies | Step::Open => own.output.iter().chain(&own.inputs).any(holds),
    }
}

/// What is to be said of where a task goes, if its queue has locality and it wants anything. The runner was found as one
/// that is so near: what that says is not looked up again.
pub(super) fn found(state: &State, task: &Task, runner: &RunnerId, near: Tier) -> Option<Fact> {
    let climber = state.ladder().at(task.sequence)?;
    let own = task.artifacts.as_ref()?;
    let (artifacts, shape) = (&state.artifacts, &task.shape);
    let found = |wanted: &[Number]| {
        if artifacts.holds_any(runner, wanted) {
            return Found::Hit;
        }
        let elsewhere = wanted.iter().any(|artifact| is_waited_for(state, shape, *artifact));
        if elsewhere { Found::Timeout } else { Found::Miss }
    };
    let output = own.output.is_some().then(|| match near {
        Tier::Cached => Found::Hit,
        Tier::Dependency | Tier::Rest => found(climber.wants(Tier::Cached)),
    });
    let inputs = (!own.inputs.is_empty()).then(|| match climber.step {
        _ if near == Tier::Dependency => Found::Hit,
        // On the first step it does not seek them yet.
        Step::Unbegun | Step::Cache => {
            found(&own.inputs.iter().filter_map(|input| artifacts.find(input)).collect::<Vec<_>>())
        }
        Step::Dependencies | Step::Open => found(climber.wants(Tier::Dependency)),
    });
    Some(Fact::Locality { id: task.id.clone(), runner: runner.clone(), output, inputs })
}

/// Takes in what a registration says of artifacts: all the runner holds. One that says nothing leaves what is known
/// of the same incarnation.
pub(super) fn registered(draft: &mut Draft, new: &Registration, again: bool) {
    let listed = match &new.artifacts {
        None if again => return,
        None => &[][..],
        Some(listed) => listed,
    };
    draft.state.watch.untold.retain(|(runner, ..)| *runner != new.runner);
    let keep: std::collections::BTreeSet<&ArtifactId> = listed.iter().collect();
    let gone = draft.state.artifacts.of(&new.runner).filter(|artifact| !keep.contains(artifact));
    let gone: Vec<ArtifactId> = gone.cloned().collect();
    tell(draft, &new.runner, gone, false);
    tell(draft, &new.runner, listed.to_vec(), true);
}

/// Takes in what a heartbeat says of artifacts. Answers the number of the newest news taken in.
pub(super) fn news(draft: &mut Draft, beat: &Heartbeat, is_new: bool) -> Option<u64> {
    let news: &ArtifactNews = beat.artifacts.as_ref()?;
    let newest = draft.state.watch.newest_news.entry(beat.runner.clone()).or_default();
    let repeated = newest.0 == beat.incarnation && newest.1 >= news.number;
    if repeated || !is_new {
        let known = (newest.0 == beat.incarnation).then_some(newest.1);
        return known;
    }
    *newest = (beat.incarnation.clone(), news.number);
    tell(draft, &beat.runner, news.removed.clone(), false);
    tell(draft, &beat.runner, news.added.clone(), true);
    Some(news.number)
}

/// Takes in what a runner holds since an attempt succeeded there.
pub(super) fn made(draft: &mut Draft, task: &Task, runner: &RunnerId, said: &[ArtifactId]) {
    let output = task.artifacts.as_ref().and_then(|own| own.output.as_ref());
    let made: Vec<ArtifactId> = output.into_iter().chain(said).cloned().collect();
    tell(draft, runner, made, true);
}

/// Takes news in, as far as the budget goes; the rest follows in the next turns.
fn tell(draft: &mut Draft, runner: &RunnerId, artifacts: Vec<ArtifactId>, held: bool) {
    let untold = &mut draft.state.watch.untold;
    untold.extend(artifacts.into_iter().map(|artifact| (runner.clone(), artifact, held)));
    take_in_news(draft);
}

/// Takes in the news that waits.
pub(super) fn take_in_news(draft: &mut Draft) {
    while let Some((runner, artifact, held)) = draft.state.watch.untold.pop_front() {
        if draft.is_full() {
            draft.state.watch.untold.push_front((runner, artifact, held));
            return draft.more();
        }
        if !held {
            if draft.state.artifacts.holds(&runner, &artifact) {
                draft.delete(Key::Holding(runner, artifact));
            }
        } else if draft.runner(&runner).is_some_and(|row| row.state() != RunnerState::Lost) {
            hold(draft, runner, artifact);
        }
    }
}

fn hold(draft: &mut Draft, runner: RunnerId, artifact: ArtifactId) {
    if draft.state.artifacts.holds(&runner, &artifact) {
        return;
    }
    if draft.state.artifacts.count(&runner) >= draft.state.settings.runner_artifacts {
        let oldest = draft.state.artifacts.of(&runner).next().cloned();
        draft.delete(Key::Holding(runner.clone(), oldest.expect("the limit is at least 1")));
    }
    let sequence = draft.next_sequence();
    draft.put(Row::Holding(Holding { runner, artifact, sequence }));
}

/// A runner that is away holds nothing: takes out its rows, as far as the budget goes.
pub(super) fn forget_absent(draft: &mut Draft) {
    while let Some(runner) = draft.state.absent_holders.first().cloned() {
        draft.state.watch.newest_news.remove(&runner);
        let oldest = draft.state.artifacts.of(&runner).next().cloned();
        if draft.is_full() {
            return draft.more();
        }
        draft.delete(Key::Holding(runner, oldest.expect("whoever is in this set holds something")));
    }
}
