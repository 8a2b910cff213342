//! The other side: a runner, which takes assignments under a lease, runs them and reports how they ended.

pub mod session;
