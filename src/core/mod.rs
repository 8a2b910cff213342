//! The decisions: everything the dispatcher does is decided here, in turns.
//!
//! `take_turn` takes the inputs that have arrived, decides, and plans. It is pure: no IO, no clock, no
//! randomness, no logging, no failure. Order within a turn: reports, registrations, commands, submissions,
//! timers, planning. What does not fit into the budget stays in the inbox, or in the rows, for the next turn.
//!
//! The path of a task: `admission` → `backlog` → `planner` → `attempt`. The law everything rests on is in
//! `state`: one writer, everything else derived.

mod admission;
pub mod artifacts;
mod attempt;
pub mod backlog;
mod blame;
pub mod builds;
mod commands;
pub mod demand;
mod draft;
pub mod explain;
mod families;
pub mod fit;
pub mod fleet;
pub mod group;
pub mod input;
mod intent;
pub mod intents;
mod intern;
pub mod invariant;
pub mod ladder;
mod lease;
mod locality;
mod numbered;
mod planner;
mod prospects;
mod pull;
mod registration;
pub mod reservation;
mod rooms;
mod seekers;
pub mod settings;
pub mod shelves;
mod shortage;
pub mod state;
mod timers;
mod together;
pub mod verdict;
mod wake;
mod watch;
mod wishes;

use std::collections::VecDeque;

pub use draft::{Effect, Turn, TurnBudget, admitted_in, lifecycle};
pub use registration::stop_orders;
pub use settings::Settings;
pub use state::State;

use crate::model::{Time, TurnId};
use draft::Draft;
use input::{Answer, Arrived, Command, Input};

/// Inputs that wait for a turn, by the order in which a turn takes them.
#[derive(Debug, Default)]
pub struct Waiting {
    reports: VecDeque<Arrived>,
    runners: VecDeque<Arrived>,
    commands: VecDeque<Arrived>,
    submissions: VecDeque<Arrived>,
}

impl Waiting {
    /// Puts an input behind the others of its sort.
    pub fn push(&mut self, arrived: Arrived) {
        match &arrived.input {
            Input::Report(_) | Input::ReportsRead { .. } => self.reports.push_back(arrived),
            Input::Register(_) | Input::Heartbeat(_) | Input::Leave(_) => self.runners.push_back(arrived),
            Input::Command(_) | Input::Pull(_) | Input::Withdraw { .. } => self.commands.push_back(arrived),
            Input::Submit { .. } => self.submissions.push_back(arrived),
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many inputs wait.
    pub fn len(&self) -> usize {
        self.reports.len() + self.runners.len() + self.commands.len() + self.submissions.len()
    }

    /// Takes out everything that waits.
    pub fn drain(&mut self) -> Vec<Arrived> {
        let sorts = [&mut self.reports, &mut self.runners, &mut self.commands, &mut self.submissions];
        sorts.into_iter().flat_map(std::mem::take).collect()
    }
}

/// Decides turn number `state.turn() + 1`, by `id`, at log time `now`. The state then holds the turn; what does
/// not fit into `budget` stays in `waiting`.
pub fn take_turn(
    state: &mut State,
    waiting: &mut Waiting,
    id: TurnId,
    now: Time,
    budget: TurnBudget,
) -> Turn {
    state.turn += 1;
    state.last_id = id;
    let mut draft = Draft::new(state, now, budget, waiting.len());
    take_in(&mut draft, waiting);
    if !waiting.is_empty() {
        draft.more();
    }
    if draft.state.pool().frozen.is_none() {
        timers::run(&mut draft);
        let woken = !draft.state.wakes.is_empty();
        planner::plan(&mut draft);
        pull::answer_impatient(&mut draft);
        intent::ask(&mut draft, woken);
    }
    group::write_changed(&mut draft);
    draft.finish()
}

fn take_in(draft: &mut Draft, waiting: &mut Waiting) {
    for sort in [&mut waiting.reports, &mut waiting.runners, &mut waiting.commands, &mut waiting.submissions]
    {
        while !draft.is_full() {
            let Some(arrived) = sort.pop_front() else { break };
            if let Some(answer) = take_one(draft, &arrived) {
                draft.answer(arrived.ticket, answer);
            }
        }
    }
}

/// Takes in one input; nothing where it is answered by a later turn.
fn take_one(draft: &mut Draft, Arrived { ticket, input }: &Arrived) -> Option<Answer> {
    if let Some(reason) = draft.state.pool().frozen.clone()
        && !matches!(input, Input::Command(Command::Unfreeze))
    {
        return Some(Answer::Frozen { reason });
    }
    Some(match input {
        Input::Report(report) => {
            attempt::report(draft, report);
            Answer::Taken
        }
        Input::ReportsRead { mark } => {
            let read = &mut draft.state.watch.marks_read;
            *read = (*read).max(*mark);
            Answer::Taken
        }
        Input::Register(registration) => registration::register(draft, registration),
        Input::Heartbeat(beat) => registration::heartbeat(draft, beat),
        Input::Leave(leave) => registration::leave(draft, leave),
        Input::Command(command) => Answer::Commanded(commands::command(draft, command)),
        Input::Pull(asked) => return pull::ask(draft, *ticket, asked),
        Input::Withdraw { asked, gone } => {
            pull::withdraw(draft, asked, *gone);
            Answer::Taken
        }
        Input::Submit { task, sequence } => Answer::Submitted(admission::submit(draft, task, *sequence)),
    })
}
