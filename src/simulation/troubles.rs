//! What goes wrong, and how it ceases to.
//!
//! Law: everything here is what the world does to the dispatcher and the runners, never what they decide.

use super::options::Faults;
use super::schedule::{Event, Request, Trouble};
use super::world::World;
use crate::core::input::Command;
use crate::model::RunnerId;
use crate::runner::session::Input as Word;

impl World {
    fn mean(&self, trouble: Trouble) -> u64 {
        match trouble {
            Trouble::TableRefuses => self.faults.refusing_every,
            Trouble::ReplicaDown => self.faults.replica_down_every,
            Trouble::RunnerCrash => self.faults.runner_crash_every,
            Trouble::RunnerCut => self.faults.runner_cut_every,
            Trouble::RunnerFreeze => self.faults.runner_freeze_every,
            Trouble::RunnerLeave => self.faults.runner_leave_every,
            Trouble::Operator => self.faults.operator_every,
        }
    }

    pub(super) fn await_troubles(&mut self) {
        let all = [
            Trouble::TableRefuses,
            Trouble::ReplicaDown,
            Trouble::RunnerCrash,
            Trouble::RunnerCut,
            Trouble::RunnerFreeze,
            Trouble::RunnerLeave,
            Trouble::Operator,
        ];
        for trouble in all {
            self.await_trouble(trouble);
        }
    }

    fn await_trouble(&mut self, trouble: Trouble) {
        let mean = self.mean(trouble);
        if mean > 0 {
            let at = self.now + self.random.between(mean / 4, mean * 7 / 4);
            self.schedule.put(at, Event::Trouble(trouble));
        }
    }

    pub(super) fn trouble(&mut self, trouble: Trouble) {
        if self.calm {
            return;
        }
        if self.runners.is_empty() {
            return self.await_trouble(trouble);
        }
        self.statistics.troubles += 1;
        let now = self.now;
        let runner = self.any_runner();
        match trouble {
            Trouble::TableRefuses => {
                self.table_refuses_until = now + self.random.between(500, 8_000);
                self.tell(|| "the table refuses everything".to_owned());
            }
            Trouble::ReplicaDown => self.replica_trouble(),
            Trouble::RunnerCrash => {
                let after = *self.random.pick(&[200, 3_000, 12_000, 30_000]);
                self.crash_runner(&runner, after);
            }
            Trouble::RunnerCut => self.cut_runner(&runner),
            Trouble::RunnerFreeze => {
                let span = *self.random.pick(&[2_000, 10_000, 30_000, 60_000]);
                self.freeze_runner(&runner, span);
            }
            Trouble::RunnerLeave => {
                if self.runners[&runner].still_until <= now {
                    let wait = std::time::Duration::from_millis(self.random.below(8_000));
                    self.hear(&runner, Word::Leave { wait });
                }
            }
            Trouble::Operator => self.operate(runner),
        }
        self.await_trouble(trouble);
    }

    fn any_runner(&mut self) -> RunnerId {
        let place = self.random.place(self.runners.len());
        self.runners.keys().nth(place).expect("a place below the length").clone()
    }

    fn replica_trouble(&mut self) {
        let number = self.random.place(self.dispatchers.len());
        match self.random.below(4) {
            0 => {
                let after = self.random.between(100, 10_000);
                self.statistics.replicas_ended += 1;
                self.end_replica(number, after);
            }
            1 => {
                let still = *self.random.pick(&[1_000, 4_000, 20_000]);
                self.statistics.replicas_paused += 1;
                self.dispatchers[number].still_until = self.now + still;
            }
            2 => self.dispatchers[number].cut_until = self.now + self.random.between(500, 15_000),
            _ => {
                if let Some(process) = &mut self.dispatchers[number].process {
                    process.stopping = process.replica.is_leading();
                }
            }
        }
    }

    fn cut_runner(&mut self, runner: &RunnerId) {
        let until = self.now + *self.random.pick(&[2_000, 8_000, 25_000, 45_000]);
        let ways = self.random.below(3);
        let side = self.runners.get_mut(runner).expect("a runner of this world");
        if ways != 1 {
            side.mute_until = until;
        }
        if ways != 2 {
            side.deaf_until = until;
        }
        let words = ["both ways", "deaf", "mute"][usize::try_from(ways).expect("a small number")];
        self.tell(|| format!("{runner} is cut off {words} until {until}"));
    }

    fn operate(&mut self, runner: RunnerId) {
        let queue = super::producers::named(["default", "fast"][self.random.place(2)]);
        let command = match self.random.below(8) {
            0 => Command::HoldRunner { runner, reason: "an operator looks at it".into() },
            1 | 2 => Command::DrainRunner { runner },
            3 => Command::ResumeRunner { runner },
            4 => Command::PauseQueue { queue },
            5 => Command::UnpauseQueue { queue },
            6 => Command::PausePool,
            _ => Command::UnpausePool,
        };
        self.tell(|| format!("an operator asks for {command:?}"));
        self.send_to_leaders(None, &Request::Operator(command));
    }

    /// Everything is mended and stays so, and whoever was away comes back.
    pub(super) fn calm_down(&mut self) {
        self.calm = true;
        self.faults = Faults { drift: self.faults.drift, ..Faults::none() };
        self.table_refuses_until = 0;
        for dispatcher in &mut self.dispatchers {
            dispatcher.still_until = dispatcher.still_until.min(self.now);
            dispatcher.cut_until = 0;
        }
        for number in 0..self.dispatchers.len() {
            self.start_replica(number);
        }
        let runners: Vec<RunnerId> = self.runners.keys().cloned().collect();
        for id in runners {
            let runner = self.runners.get_mut(&id).expect("a runner of this world");
            runner.mute_until = 0;
            runner.deaf_until = 0;
            if !runner.is_whole() {
                self.crash_runner(&id, 100);
            }
            self.start_runner(&id);
        }
        self.tell(|| "everything is well from now on".to_owned());
    }

    /// While all is well, an operator lifts every hold and pause there is.
    pub(super) fn lift_holds(&mut self) {
        let Some(state) = self.dispatchers.iter().find(|one| one.leads()).and_then(|one| one.shows()) else {
            return;
        };
        let mut commands: Vec<Command> = Vec::new();
        let paused = state.queues().filter(|queue| queue.paused);
        commands.extend(paused.map(|queue| Command::UnpauseQueue { queue: queue.id.clone() }));
        commands.extend(state.pool().is_paused().then_some(Command::UnpausePool));
        let seats = state.fleet().seats();
        let other = seats.filter(|seat| seat.runner.standing != crate::model::Standing::Ready);
        commands.extend(other.map(|seat| Command::ResumeRunner { runner: seat.runner.id.clone() }));
        for command in commands {
            self.send_to_leaders(None, &Request::Operator(command));
        }
    }
}
