//! Longshore: a dispatcher for container jobs and builds. `ARCHITECTURE.md` is the map.

pub mod adapters;
pub mod broker;
pub mod cli;
pub mod config;
pub mod conform;
pub mod core;
pub mod http;
pub mod model;
pub mod nats;
pub mod ports;
pub mod runner;
pub mod runtime;
pub mod simulation;
pub mod telemetry;
pub mod wire;
