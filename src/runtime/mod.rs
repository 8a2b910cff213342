//! The loop around the decisions: decide, commit, send effects, report facts, acknowledge — never another order.
//!
//! `replica` is that order without any IO, so the simulation runs the very same steps; `turn_loop` carries them
//! out on a real table; `member` follows a table that several replicas share, and leads when it falls to it;
//! `handle` is the one door for inputs and the one window on committed turns.

pub mod credit;
pub mod deliveries;
pub mod handle;
pub mod log_time;
pub mod member;
mod pulling;
pub mod replica;
mod turn_loop;

pub use handle::{Door, Handle, Role, Status, Unavailable, View};
pub use log_time::LogTime;
pub use member::{Member, Parts};
pub use replica::{Replica, Settled};
pub use turn_loop::{Report, Stopped, Took};
