//! Assignments: what the committed rows hold for each runner, on a subject of its own.
//!
//! Law: what is published is read from the rows at that moment, packed per runner, and published again until the
//! runner confirms it. A runner that hears nothing loses time and never a task.
//!
//! A turn says which tasks to look at; all that a runner has is looked at when something is due again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use super::Context;
use crate::model::{Change, Row, RunnerId, TaskId, TurnRecord};
use crate::runtime::deliveries::{Look, Most, Sent};
use crate::wire::message::write_delivery;

/// What one message takes: bodies, and around each some 200 bytes.
const MOST: Most = Most { assignments: 500, bytes: 150 << 10 };
/// The most wake-ups taken before anything is published.
const BATCH: usize = 4_096;

/// A runner for which there is something new since a turn.
#[derive(Debug)]
pub(super) struct Woken {
    pub runner: RunnerId,
    pub turn: Arc<TurnRecord>,
}

/// What is to be looked at for a runner.
#[derive(Debug)]
enum Due {
    All,
    Tasks(Vec<TaskId>),
}

/// What the rows of a turn say is new, and for whom.
#[derive(Debug, Default)]
struct News {
    /// The tasks that stand on each runner.
    tasks: FxHashMap<RunnerId, Vec<TaskId>>,
    /// Runners whose own rows are among them.
    runners: FxHashSet<RunnerId>,
}

/// What is kept for a runner.
#[derive(Debug, Default)]
struct Line {
    sent: Sent,
    /// When all it has is looked at again.
    again: Option<Instant>,
}

/// Publishes for as long as it is polled. Begins with every runner there is: what was published before this
/// replica led is not known here.
pub(super) async fn send(context: &Context, woken: &mut UnboundedReceiver<Woken>) {
    let mut lines: FxHashMap<RunnerId, Line> = FxHashMap::default();
    let mut again: BTreeMap<Instant, BTreeSet<RunnerId>> = BTreeMap::new();
    let view = context.handle.view();
    let mut due: BTreeMap<RunnerId, Due> =
        view.read(|state| state.fleet().seats().map(|seat| (seat.runner.id.clone(), Due::All)).collect());
    let mut batch = Vec::new();
    loop {
        for (runner, due) in std::mem::take(&mut due) {
            let line = lines.entry(runner.clone()).or_default();
            let (at, known) = publish(context, &runner, &due, &mut line.sent).await;
            if !known {
                lines.remove(&runner);
            } else if let Some(at) = at.filter(|at| line.again.is_none_or(|before| *at < before)) {
                line.again = Some(at);
                again.entry(at).or_default().insert(runner);
            }
        }
        let next = again.keys().next().copied();
        let next = async { tokio::time::sleep_until(next.expect("guarded")).await };
        tokio::select! {
            taken = woken.recv_many(&mut batch, BATCH) => {
                if taken == 0 {
                    return;
                }
                sort(batch.drain(..), &mut due);
            }
            () = next, if !again.is_empty() => {
                let Some((at, runners)) = again.pop_first() else { continue };
                for runner in runners {
                    // One that was looked at earlier than this says has another time.
                    if let Some(line) = lines.get_mut(&runner).filter(|line| line.again == Some(at)) {
                        line.again = None;
                        due.insert(runner, Due::All);
                    }
                }
            }
        }
    }
}

/// Finds in the turns what to look at for each runner: the tasks they gave it or asked it to stop, or all it has where
/// its own row has changed, or where no task of a turn says what is new.
fn sort(woken: impl Iterator<Item = Woken>, due: &mut BTreeMap<RunnerId, Due>) {
    let mut last: Option<(Arc<TurnRecord>, News)> = None;
    for Woken { runner, turn } in woken {
        let (_, news) = match &mut last {
            Some(last) if Arc::ptr_eq(&last.0, &turn) => last,
            other => {
                let news = News::of(&turn);
                other.insert((turn, news))
            }
        };
        let more = news.tasks.remove(&runner).filter(|_| !news.runners.contains(&runner));
        match (due.get_mut(&runner), more) {
            (Some(Due::All), _) => {}
            (Some(Due::Tasks(before)), Some(more)) => before.extend(more),
            (None, Some(more)) => drop(due.insert(runner, Due::Tasks(more))),
            (_, None) => drop(due.insert(runner, Due::All)),
        }
    }
}

impl News {
    fn of(turn: &TurnRecord) -> Self {
        let mut news = Self::default();
        for change in &turn.changes {
            match change {
                Change::Put(Row::Task(task)) => {
                    if let Some(held) =
                        task.assignment().filter(|held| !held.confirmed || held.stop.is_some())
                    {
                        news.tasks.entry(held.runner.clone()).or_default().push(task.id.clone());
                    }
                }
                Change::Put(Row::Runner(runner)) => drop(news.runners.insert(runner.id.clone())),
                _ => {}
            }
        }
        news
    }
}

/// Publishes what there is for a runner; says when something is due again, and whether the runner is known.
async fn publish(
    context: &Context,
    runner: &RunnerId,
    due: &Due,
    sent: &mut Sent,
) -> (Option<Instant>, bool) {
    loop {
        let now = Instant::now();
        let look = context.handle.view().read(|state| match (state.fleet().get(runner), due) {
            (Some(seat), Due::All) => sent.look(state, seat, now, MOST),
            (Some(seat), Due::Tasks(tasks)) => sent.look_at(tasks, state, seat, now, MOST),
            (None, _) => Look::UnknownRunner,
        });
        match look {
            Look::Found { delivery, again } => {
                let to = context.names.assign(runner);
                // What is not heard is published again.
                let _ = context.connection.client.publish(to, write_delivery(&delivery).into()).await;
                if again > now {
                    return (Some(again), true);
                }
            }
            Look::Nothing { again } => return (again, true),
            Look::UnknownRunner => return (None, false),
        }
    }
}
