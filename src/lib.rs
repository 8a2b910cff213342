//! Longshore: a dispatcher for container jobs and builds. `ARCHITECTURE.md` is the map.

pub mod adapters;
pub mod core;
pub mod model;
pub mod ports;
pub mod wire;
