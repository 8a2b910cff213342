//! Credit: how much more may be pulled from a stream of submissions into the table.
//!
//! Law: no credit, no outstanding pull. What is not pulled stays in the stream, on its disk, and costs the
//! dispatcher nothing. A window that waits for capacity is looked at again after a second, so that tasks which
//! fit nowhere never keep those behind them from runners that are free.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::core::State;
use crate::core::state::Window;

/// How long a pause for want of capacity lasts before a little more is pulled.
pub const PROBE: Duration = Duration::from_secs(1);
/// The fewest tasks that must wait before a window is paused for want of capacity.
pub const AHEAD_LEAST: usize = 100;

/// Why nothing is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The last pull placed nothing, and enough waits already.
    Capacity,
    /// As many wait as the window takes.
    Window,
    /// The table takes nothing.
    Table,
    /// An operator asked for it.
    Operator,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 4] = [Reason::Capacity, Reason::Window, Reason::Table, Reason::Operator];

    /// The word in status and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Capacity => "capacity",
            Reason::Window => "window",
            Reason::Table => "table",
            Reason::Operator => "operator",
        }
    }
}

/// What the committed rows say of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Level {
    pub pending: usize,
    /// Ended tasks that are remembered: more of them means that something ended.
    pub ended: usize,
    /// How many tasks of any sort the window takes.
    pub window: usize,
    /// How many more tasks the queue that has the most may have.
    pub share_left: usize,
    /// Whether the bodies of waiting tasks take as many bytes as they may.
    pub bytes_full: bool,
    /// How many must wait before it is paused for want of capacity.
    pub ahead: usize,
    /// Whether an operator has paused the pool, and this window with it.
    pub held: bool,
}

impl Level {
    /// The level of a window in the committed rows; `ahead` overrides the pool's slots.
    pub fn of(state: &State, window: Window, ahead: Option<usize>) -> Self {
        let counts = state.counts();
        let queued = counts.queued.iter().filter(|((of, _), _)| *of == window).map(|(_, queued)| *queued);
        let slots = || state.fleet().seats().map(|seat| seat.slots() as usize).sum::<usize>();
        // What waits for whoever asks says nothing about capacity.
        let pulled =
            counts.queued.iter().filter(|((of, queue), _)| *of == window && state.is_pulled_queue(queue));
        let pulled: usize = pulled.map(|(_, queued)| *queued).sum();
        Self {
            pending: counts.pending.get(&window).copied().unwrap_or(0),
            ended: counts.ended,
            window: state.settings.window,
            share_left: state.settings.window_share.saturating_sub(queued.max().unwrap_or(0)),
            bytes_full: counts.body_bytes >= state.settings.window_bytes,
            ahead: ahead.unwrap_or_else(|| slots().max(AHEAD_LEAST)) + pulled,
            held: state.pool().is_paused() && window.is_held_by_pause(),
        }
    }
}

/// The credit of one window.
#[derive(Debug, Default)]
pub struct Credit {
    /// What stood when the last pull began, and what it has brought since.
    last: Option<(Level, usize)>,
    /// The level at which it was paused for want of capacity, and when.
    paused: Option<(Level, Duration)>,
}

impl Credit {
    /// How many more tasks may be pulled at monotonic time `now`, while `on_the_way` were pulled and are not
    /// decided. Jobs of builds are always pulled: `patient` is false for their window.
    pub fn give(
        &mut self,
        level: Level,
        on_the_way: usize,
        now: Duration,
        patient: bool,
    ) -> Result<usize, Reason> {
        if level.held {
            return Err(Reason::Operator);
        }
        let room = level.window.saturating_sub(level.pending + on_the_way);
        if !patient {
            // Their build waits for them: a few always, and the core says which of them have no room.
            return Ok(room.max(AHEAD_LEAST));
        }
        if room == 0 || level.bytes_full {
            return Err(Reason::Window);
        }
        // What is next in the stream may be of the queue that has its share: a little is pulled in any case.
        let room = room.min(level.share_left.saturating_sub(on_the_way).max(AHEAD_LEAST));
        if self.wants_capacity(level, now) {
            return Err(Reason::Capacity);
        }
        if level.share_left == 0 && self.paused.is_none() && self.last.is_some() {
            // Looked at already: the rest of that queue comes back by itself, and is not asked for on and on.
            self.paused = Some((level, now));
            return Err(Reason::Window);
        }
        if self.paused.take().is_some() {
            // One look: whether it placed anything is judged when it is decided.
            self.last = Some((level, 0));
            return Ok(room.min(level.ahead));
        }
        if self.last.is_none_or(|(_, brought)| brought > 0) {
            self.last = Some((level, 0));
        }
        Ok(room)
    }

    /// Takes note of so many tasks that a pull has brought into the table.
    pub fn brought(&mut self, tasks: usize) {
        if let Some((_, brought)) = &mut self.last {
            *brought += tasks;
        }
    }

    fn wants_capacity(&mut self, level: Level, now: Duration) -> bool {
        if let Some((at, since)) = self.paused {
            let moved = level.pending < at.pending
                || level.ended != at.ended
                || level.pending < level.ahead.min(at.pending);
            return !moved && now.saturating_sub(since) < PROBE;
        }
        let placed_nothing = self
            .last
            .is_some_and(|(before, brought)| brought > 0 && level.pending >= before.pending + brought);
        if placed_nothing && level.pending >= level.ahead {
            self.paused = Some((level, now));
            return true;
        }
        false
    }
}

/// How the windows stand, for status and metrics.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<[Option<Reason>; 3]>>);

impl Board {
    /// Why nothing is pulled into `window`, if so.
    pub fn paused(&self, window: Window) -> Option<Reason> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[place(window)]
    }

    /// Notes how a window stands; whether that is news.
    pub fn note(&self, window: Window, paused: Option<Reason>) -> bool {
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut board[place(window)], paused) != paused
    }
}

fn place(window: Window) -> usize {
    match window {
        Window::Builds => 0,
        Window::Jobs => 1,
        Window::JobsOfBuilds => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::ZERO;

    fn level(pending: usize) -> Level {
        Level {
            pending,
            ended: 0,
            window: 1_000,
            share_left: 1_000,
            bytes_full: false,
            ahead: 100,
            held: false,
        }
    }

    #[test]
    fn a_window_takes_what_it_has_room_for() {
        let mut credit = Credit::default();
        assert_eq!(credit.give(level(0), 0, START, true), Ok(1_000));
        assert_eq!(credit.give(level(300), 200, START, true), Ok(500));
        assert_eq!(credit.give(level(900), 100, START, true), Err(Reason::Window));
        let shared = Level { share_left: 400, ..level(300) };
        assert_eq!(credit.give(shared, 100, START, true), Ok(300));
        let unshared = Level { share_left: 0, ..level(300) };
        assert_eq!(Credit::default().give(unshared, 0, START, true), Ok(AHEAD_LEAST));
        let full = Level { bytes_full: true, ..level(0) };
        assert_eq!(credit.give(full, 0, START, true), Err(Reason::Window));
    }

    #[test]
    fn what_fits_nowhere_is_not_pulled_on_and_on() {
        let mut credit = Credit::default();
        assert_eq!(credit.give(level(0), 0, START, true), Ok(1_000));
        credit.brought(150);
        assert_eq!(credit.give(level(150), 0, START, true), Err(Reason::Capacity));
        // Something was placed: on it goes.
        assert!(credit.give(level(149), 0, START, true).is_ok());
        credit.brought(10);
        assert_eq!(credit.give(level(159), 0, START, true), Err(Reason::Capacity));
        // Something ended.
        assert!(credit.give(Level { ended: 1, ..level(159) }, 0, START, true).is_ok());
    }

    #[test]
    fn a_pull_that_placed_something_is_followed_by_another() {
        let mut credit = Credit::default();
        assert!(credit.give(level(0), 0, START, true).is_ok());
        credit.brought(500);
        assert!(credit.give(level(400), 0, START, true).is_ok());
    }

    #[test]
    fn a_pause_for_capacity_is_broken_by_a_small_look_each_second() {
        let mut credit = Credit::default();
        assert!(credit.give(level(0), 0, START, true).is_ok());
        credit.brought(150);
        assert_eq!(credit.give(level(150), 0, START, true), Err(Reason::Capacity));
        assert_eq!(credit.give(level(150), 0, PROBE / 2, true), Err(Reason::Capacity));
        assert_eq!(credit.give(level(150), 0, PROBE, true), Ok(100));
        credit.brought(100);
        assert_eq!(credit.give(level(250), 0, PROBE, true), Err(Reason::Capacity));
    }

    #[test]
    fn a_queue_that_has_its_share_is_not_pulled_on_and_on() {
        let mut credit = Credit::default();
        assert!(credit.give(level(0), 0, START, true).is_ok());
        let shared = Level { share_left: 0, ..level(500) };
        assert_eq!(credit.give(shared, 0, START, true), Err(Reason::Window));
        assert!(credit.give(shared, 0, PROBE / 2, true).is_err());
        assert_eq!(credit.give(shared, 0, PROBE, true), Ok(AHEAD_LEAST));
        assert!(credit.give(shared, 0, PROBE, true).is_err());
        let moved = Level { share_left: 1, ..level(499) };
        assert!(credit.give(moved, 0, PROBE, true).is_ok());
    }

    #[test]
    fn nothing_is_pulled_into_a_window_that_an_operator_holds() {
        let mut credit = Credit::default();
        assert_eq!(credit.give(Level { held: true, ..level(0) }, 0, START, true), Err(Reason::Operator));
        assert_eq!(credit.give(level(0), 0, START, true), Ok(1_000));
    }

    #[test]
    fn jobs_of_builds_are_always_pulled() {
        let mut credit = Credit::default();
        assert!(credit.give(level(0), 0, START, false).is_ok());
        credit.brought(150);
        assert_eq!(credit.give(level(150), 0, START, false), Ok(850));
        assert_eq!(credit.give(level(1_000), 0, START, false), Ok(AHEAD_LEAST));
    }
}
