//! Taking, starting, stopping and ending attempts.
//!
//! Law: whatever was taken ends in exactly one end report, and whatever is asked to stop is answered by one:
//! by the attempt's own end, or by a hand-back if it is not here.

use std::sync::Arc;
use std::time::Duration;

use super::misfit::misfit;
use super::spent::Over;
use super::{Attempt, Inherited, Output, Session, Stage, Stopping};
use crate::model::{
    AssignmentMessage, AttemptOutcome, Delivery, End, Held, Kind, Reported, StopOrder, TaskId, Token,
};
use crate::wire::work::read_work;

impl Session {
    pub(super) fn on_delivered(&mut self, delivery: Delivery) {
        // Stops first: one that overtook its assignment, or came beside it, must find it not started.
        for order in delivery.stop {
            self.on_stop(order);
        }
        for assignment in delivery.assignments {
            self.on_assignment(assignment);
        }
        self.start_waiting();
    }

    fn on_assignment(&mut self, assignment: AssignmentMessage) {
        let (held, kind) = (assignment.held(), assignment.kind);
        // Without a lease nothing is taken and nothing answered: whoever registers is told again.
        if self.lease.is_none() || self.attempts.contains_key(&held) || self.unsaid_ends.contains_key(&held) {
            return;
        }
        let over = self.spent.over(held.token).filter(|_| self.config.safeguards.spent_tokens);
        match over {
            Some(Over::Ended) => return,
            Some(Over::GivenBack) => {
                return self.give_back(
                    &held,
                    kind,
                    AttemptOutcome::Refused,
                    "its token was given back before",
                );
            }
            Some(Over::TooOld { before_turn }) => {
                let why = format!("its token {} is older than turn {before_turn}", held.token);
                return self.give_back(&held, kind, AttemptOutcome::Refused, &why);
            }
            None => {}
        }
        if self.leaving.is_some() {
            return self.give_back(&held, kind, AttemptOutcome::Handback, "its runner is leaving");
        }
        let order = match read_work(&assignment.task) {
            Ok(order) => order,
            Err(why) => {
                return self.give_back(
                    &held,
                    kind,
                    AttemptOutcome::StartFailed,
                    &format!("read task: {why}"),
                );
            }
        };
        let (offer, count) = (&self.config.offer, self.attempts.len());
        if let Some(why) = misfit(offer, count, &self.used, kind, &order) {
            return self.give_back(&held, kind, AttemptOutcome::Refused, &why);
        }
        self.spent.saw(held.token);
        if let Some(seen) = &mut self.last_seen {
            seen.turn = seen.turn.max(held.token.turn);
        }
        self.used.add(&order.resources);
        let stage = Stage::Waiting(Box::new(assignment));
        self.waiting.insert(held.clone());
        self.attempts.insert(held.clone(), Attempt { order: Arc::new(order), kind, stage, stop: None });
        if self.may_start_at(&held).is_some_and(|at| at <= self.now) {
            self.start(&held);
        }
    }

    pub(super) fn on_stop(&mut self, order: StopOrder) {
        let held = Held { id: order.id, token: order.token };
        if self.attempts.contains_key(&held) {
            self.stop_one(&held, Stopping::Asked, &order.reason);
        } else if !self.unsaid_ends.contains_key(&held) && self.spent.over(held.token) != Some(Over::Ended) {
            // Of what ended here the end was said: another end might overtake it.
            // An order to stop does not say the kind of what this runner never had.
            self.give_back(&held, Kind::Job, AttemptOutcome::Handback, "it does not run here");
        }
    }

    /// Goes on with what an earlier start began.
    pub(super) fn inherit(&mut self, inherited: Inherited) {
        let Inherited { held, kind, order } = inherited;
        self.spent.saw(held.token);
        self.used.add(&order.resources);
        self.attempts.insert(held, Attempt { order, kind, stage: Stage::Running, stop: None });
    }

    /// Says of what was inherited that it runs, which the earlier start may not have got to, or how it ended. Only to a
    /// dispatcher that knows this incarnation by now.
    pub(super) fn say_what_was_inherited(&mut self) {
        let inherited: Vec<Held> = self.attempts.keys().cloned().collect();
        for held in inherited {
            let Some(attempt) = self.attempts.get_mut(&held) else { continue };
            match &mut attempt.stage {
                Stage::Ended(end) => {
                    let end = End::clone(end);
                    self.on_ended(held, end);
                }
                Stage::Running if attempt.stop.is_none() => {
                    let kind = attempt.kind;
                    self.say(&held, kind, Reported::Start, false);
                }
                _ => {}
            }
        }
    }

    /// Whether nothing that it has runs, or is about to.
    pub(super) fn nothing_runs(&self) -> bool {
        self.attempts.values().all(|attempt| matches!(attempt.stage, Stage::Ended(_)))
    }

    pub(super) fn on_started(&mut self, held: Held) {
        if let Some(attempt) = self.attempts.get_mut(&held)
            && matches!(attempt.stage, Stage::Starting)
        {
            attempt.stage = Stage::Running;
            let kind = attempt.kind;
            self.say(&held, kind, Reported::Start, false);
        }
    }

    pub(super) fn on_ended(&mut self, held: Held, end: End) {
        let Some(attempt) = self.attempts.get_mut(&held) else { return };
        if !self.known && attempt.stop != Some(Stopping::Disowned) {
            attempt.stage = Stage::Ended(Box::new(end));
            return;
        }
        let by_us = end.outcome == AttemptOutcome::Cancelled;
        let outcome = match attempt.stop {
            Some(Stopping::Leaving | Stopping::Over | Stopping::Disowned) if by_us => {
                AttemptOutcome::Handback
            }
            // Ended by nobody's wish and without a result of its own.
            None if by_us => AttemptOutcome::Failed,
            _ => end.outcome,
        };
        let output = attempt.order.output.clone();
        let (kind, disowned) = (attempt.kind, attempt.stop == Some(Stopping::Disowned));
        self.let_go(&held);
        self.last_ends.insert(held.id.clone(), self.now);
        self.ended.push_back((self.now, held.id.clone()));
        if disowned {
            return;
        }
        let mut end = End { outcome, ..end };
        if outcome == AttemptOutcome::Succeeded {
            end.artifacts.extend(output);
            end.artifacts.iter().for_each(|artifact| self.stock.add(artifact));
        }
        self.say(&held, kind, Reported::End(end), true);
    }

    pub(super) fn stop_all(&mut self, why: Stopping, reason: &str) {
        let all: Vec<Held> = self.attempts.keys().cloned().collect();
        for held in all {
            self.stop_one(&held, why, reason);
        }
    }

    pub(super) fn stop_one(&mut self, held: &Held, why: Stopping, reason: &str) {
        let Some(attempt) = self.attempts.get_mut(held) else { return };
        if matches!(attempt.stage, Stage::Ended(_)) {
            if why == Stopping::Disowned {
                attempt.stop = Some(why);
                self.let_go(held);
            }
            return;
        }
        if matches!(attempt.stage, Stage::Waiting(_)) {
            attempt.stop = Some(why);
            let kind = attempt.kind;
            self.let_go(held);
            if why == Stopping::Disowned {
                return;
            }
            let message = format!("not started: {reason}");
            return self.say_end(held, kind, AttemptOutcome::Handback, &message, true);
        }
        // Only what takes the grace away, or the last word, changes a stop that is under way.
        let at_once = why >= Stopping::Over;
        if attempt.stop.is_some_and(|before| !at_once || before >= why) {
            return;
        }
        attempt.stop = Some(why);
        let grace = if at_once { Duration::ZERO } else { self.config.stop_grace };
        self.out.push(Output::Stop { held: held.clone(), grace, reason: reason.into() });
    }

    pub(super) fn hand_back_waiting(&mut self, reason: &str) {
        let waiting: Vec<Held> = self.waiting.iter().cloned().collect();
        for held in waiting {
            self.stop_one(&held, Stopping::Leaving, reason);
        }
    }

    /// Starts what waited for an earlier attempt of its task.
    pub(super) fn start_waiting(&mut self) {
        if self.next_waiting_start().is_none_or(|at| at > self.now) {
            return;
        }
        let due = self.waiting.iter().filter(|held| self.may_start_at(held).is_some_and(|at| at <= self.now));
        let due: Vec<Held> = due.cloned().collect();
        for held in due {
            // Of two attempts of one task that wait, the first that starts holds the other back.
            if self.may_start_at(&held).is_some_and(|at| at <= self.now) {
                self.start(&held);
            }
        }
    }

    pub(super) fn next_waiting_start(&self) -> Option<Duration> {
        self.waiting.iter().filter_map(|held| self.may_start_at(held)).min()
    }

    pub(super) fn forget_old_ends(&mut self) {
        while let Some((at, _)) = self.ended.front()
            && *at + self.config.min_retry <= self.now
            && let Some((at, id)) = self.ended.pop_front()
        {
            if self.last_ends.get(&id) == Some(&at) {
                self.last_ends.remove(&id);
            }
        }
    }

    /// When a waiting attempt may start; `None` if it does not wait, or waits for another attempt's end.
    fn may_start_at(&self, held: &Held) -> Option<Duration> {
        if !self.waiting.contains(held)
            || self.of_task(&held.id).any(|(_, other)| !matches!(other.stage, Stage::Waiting(_)))
        {
            return None;
        }
        let last = self.last_ends.get(&held.id);
        Some(last.map_or(Duration::ZERO, |at| *at + self.config.min_retry))
    }

    fn of_task<'a>(&'a self, id: &'a TaskId) -> impl Iterator<Item = (&'a Held, &'a Attempt)> {
        let first = Held { id: id.clone(), token: Token { epoch: 0, turn: 0, index: 0 } };
        self.attempts.range(first..).take_while(move |(held, _)| held.id == *id)
    }

    fn start(&mut self, held: &Held) {
        let Some(attempt) = self.attempts.get_mut(held) else { return };
        self.waiting.remove(held);
        if let Stage::Waiting(assignment) = std::mem::replace(&mut attempt.stage, Stage::Starting) {
            self.out.push(Output::Start { assignment: *assignment, order: attempt.order.clone() });
        }
    }

    fn let_go(&mut self, held: &Held) {
        if let Some(attempt) = self.attempts.remove(held) {
            self.waiting.remove(held);
            self.used.subtract(&attempt.order.resources);
            if attempt.stop == Some(Stopping::Disowned) {
                return;
            }
            self.spent.remember(held.token, Over::Ended, self.config.tokens_remembered);
        }
    }

    /// Answers for what is not here, and never takes it again.
    fn give_back(&mut self, held: &Held, kind: Kind, outcome: AttemptOutcome, message: &str) {
        self.spent.remember(held.token, Over::GivenBack, self.config.tokens_remembered);
        self.say_end(held, kind, outcome, message, false);
    }

    fn say_end(&mut self, held: &Held, kind: Kind, outcome: AttemptOutcome, message: &str, listed: bool) {
        let end = End { outcome, exit_code: None, message: Some(message.into()), artifacts: Vec::new() };
        self.say(held, kind, Reported::End(end), listed);
    }
}
