//! Registering, heartbeats, the end of a lease, and leaving.
//!
//! Law: a lease is only ever lengthened by the answer to a request whose sending time is known, and counted
//! from then. A lease that has ended is never revived, only replaced by a new registration.

use std::time::Duration;

use super::{Lease, Leaving, Output, Registering, Session, Stopping};
use crate::model::{Heartbeat, HeartbeatAnswer, Held, LastSeen, Leave, Registered};

/// The first pause after a registration failed; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a leaving runner waits for its last reports to be taken, beyond the grace of its work.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long a runner that was told to leave lets go on what it was given all the same.
const DISMISSED_WAIT: Duration = Duration::from_secs(24 * 3600);
/// Heartbeats on their way that are remembered.
const MOST_BEATING: usize = 64;

impl Session {
    pub(super) fn lapse_at(&self, lease: &Lease) -> Duration {
        lease.until.saturating_sub(self.config.stop_by.min(lease.length / 2))
    }

    pub(super) fn lapse_if_due(&mut self) {
        let lapses = self.lease.as_ref().map(|lease| self.lapse_at(lease)).or(self.inherited_until);
        let due = lapses.is_some_and(|at| self.now >= at);
        if due && self.config.safeguards.lease_ends_work {
            self.lapse("the lease of its runner ended");
        }
    }

    /// Gives up the lease: everything ends without grace, and it registers once nothing runs.
    fn lapse(&mut self, reason: &str) {
        self.lease = None;
        self.inherited_until = None;
        self.beating.clear();
        self.registering = None;
        self.register_at = Some(self.now);
        self.stop_all(Stopping::Over, reason);
    }

    /// Without a lease it registers only when nothing of its work runs but what an earlier start's lease still covers,
    /// and nothing of that start is unsaid; with one it may renew its registration at any time. One that leaves
    /// registers only to hand back what it inherited.
    pub(super) fn may_register(&self) -> bool {
        let restored =
            self.restored_through.is_some_and(|through| self.reports.range(..=through).next().is_some());
        match self.lease {
            Some(_) => self.registering.is_none(),
            None => {
                let quiet = self.inherited_until.is_some() || self.nothing_runs();
                let stays = self.leaving.is_none() || !self.attempts.is_empty();
                self.registering.is_none() && !restored && quiet && stays
            }
        }
    }

    pub(super) fn register_soon(&mut self) {
        if self.registering.is_none() && self.register_at.is_none() {
            self.register_at = Some(self.now);
        }
    }

    pub(super) fn register_if_due(&mut self) {
        if let Some(registering) = &self.registering
            && self.now >= registering.sent + self.config.answer_within
        {
            self.registering = None;
            self.register_at = Some(self.now);
        }
        let due = self.register_at.is_some_and(|at| self.now >= at);
        if !due || !self.may_register() {
            return;
        }
        self.registrations += 1;
        let number = self.registrations;
        self.register_at = None;
        self.registering = Some(Registering { number, sent: self.now });
        self.out.push(Output::Register { number, registration: self.registration() });
    }

    pub(super) fn on_registration_failed(&mut self, number: u64) {
        if self.registering.as_ref().is_some_and(|registering| registering.number == number) {
            self.registering = None;
            let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
            self.failures = self.failures.saturating_add(1);
            self.register_at = Some(self.now + pause);
        }
    }

    pub(super) fn on_registered(&mut self, number: u64, registered: Registered) {
        // An answer to an earlier registration may know less than what was said since.
        let Some(sent) = self.registering.as_ref().filter(|on_its_way| on_its_way.number == number) else {
            return;
        };
        let sent = sent.sent;
        self.registering = None;
        self.failures = 0;
        let first = !std::mem::replace(&mut self.known, true);
        self.inherited_until = None;
        let other_table = self.last_seen.is_some_and(|seen| seen.table != registered.table);
        self.last_seen = Some(LastSeen { table: registered.table, turn: registered.turn });
        if let Some(seen) = self.last_seen {
            self.out.push(Output::Seen(seen));
        }
        if other_table {
            self.forget_the_old_table();
            if !self.attempts.is_empty() {
                return;
            }
        }
        self.spent.draw_line(&registered);
        self.end_what_is_not_listed(&registered);
        self.lease = Some(Lease {
            until: sent + registered.lease,
            length: registered.lease,
            heartbeat: registered.heartbeat,
            next_heartbeat: sent + registered.heartbeat,
        });
        if first {
            self.say_what_was_inherited();
        }
        self.lapse_if_due();
    }

    /// The reports and tokens of another table mean nothing in this one, and its work is nobody's.
    fn forget_the_old_table(&mut self) {
        if let Some((through, _)) = self.reports.last_key_value() {
            self.out.push(Output::Forget { through: *through });
        }
        self.reports.clear();
        self.unsaid_ends.clear();
        self.spent = super::Spent::default();
        self.lease = None;
        self.beating.clear();
        self.stop_all(Stopping::Disowned, "the dispatcher's table is another one");
        self.register_at = (!self.attempts.is_empty()).then_some(self.now);
    }

    fn end_what_is_not_listed(&mut self, registered: &Registered) {
        let theirs =
            |held: &Held| held.token.turn >= registered.turn || registered.assignments.contains(held);
        let gone: Vec<Held> = self.attempts.keys().filter(|held| !theirs(held)).cloned().collect();
        for held in gone {
            self.stop_one(&held, Stopping::Over, "the dispatcher does not count it as this runner's");
        }
    }

    pub(super) fn beat_if_due(&mut self) {
        let now = self.now;
        let Some(lease) = self.lease.as_mut().filter(|lease| now >= lease.next_heartbeat) else { return };
        lease.next_heartbeat = now + lease.heartbeat;
        self.heartbeats += 1;
        self.beating.insert(self.heartbeats, now);
        while self.beating.len() > MOST_BEATING {
            self.beating.pop_first();
        }
        self.out.push(Output::Heartbeat(Heartbeat {
            runner: self.config.runner.clone(),
            incarnation: self.config.incarnation.clone(),
            number: self.heartbeats,
            running: self.listed(),
            artifacts: None,
        }));
    }

    pub(super) fn on_heartbeat_answered(&mut self, answer: HeartbeatAnswer) {
        let Some(sent) = self.beating.remove(&answer.number) else { return };
        self.beating.retain(|number, _| *number > answer.number);
        if answer.register {
            // It is not counted as ours: it renews nothing.
            self.register_soon();
        } else if let Some(lease) = &mut self.lease {
            lease.until = lease.until.max(sent + lease.length);
        }
        for order in answer.stop {
            self.on_stop(order);
        }
        if answer.leave {
            self.on_leave(DISMISSED_WAIT);
        }
    }

    pub(super) fn on_leave(&mut self, wait: Duration) {
        let stop_at = self.now + wait;
        let leave_at = stop_at + self.config.stop_grace + LAST_WORDS;
        if let Some(leaving) = &mut self.leaving {
            // Asked once more, it leaves the sooner of the two.
            leaving.stop_at = leaving.stop_at.min(stop_at);
            leaving.leave_at = leaving.leave_at.min(leave_at);
            return;
        }
        self.leaving = Some(Leaving { stop_at, leave_at, stopped: false, left: false });
        self.hand_back_waiting("its runner is leaving");
    }

    pub(super) fn go_on_leaving(&mut self) {
        let quiet = self.nothing_runs();
        let Some(leaving) = self.leaving.as_mut() else { return };
        let done = self.attempts.is_empty() && self.reports.is_empty();
        if !done && self.now >= leaving.stop_at && !leaving.stopped {
            leaving.stopped = true;
            self.stop_all(Stopping::Leaving, "its runner is leaving");
            return;
        }
        // Farewell vouches that nothing runs: work that will not die keeps it here, without a lease.
        if done || (self.now >= leaving.leave_at && quiet) {
            leaving.left = true;
            let back = self.unsaid_ends.iter().filter(|(_, end)| end.handback);
            let handback = back.map(|(held, _)| held.id.clone()).collect();
            let leave = Leave {
                runner: self.config.runner.clone(),
                incarnation: self.config.incarnation.clone(),
                handback,
            };
            self.lease = None;
            self.out.push(Output::Leave(leave));
        }
    }
}
