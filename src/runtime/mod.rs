//! The loop around the decisions: decide, commit, send effects, report facts, acknowledge — never another order.
//!
//! `replica` is that order without any IO, so the simulation runs the very same steps; `turn_loop` carries them
//! out on a real table; `handle` is the one door for inputs and the one window on committed turns.

pub mod handle;
pub mod log_time;
pub mod replica;
pub mod turn_loop;

pub use handle::{Handle, Status, Unavailable, View};
pub use log_time::LogTime;
pub use replica::{Replica, Settled};
pub use turn_loop::{Stopped, Took, TurnLoop};
