//! Configuration: one file, the environment and the command line become validated settings.
//!
//! Law: what was read is either understood in full or refused with the place it came from. An unknown key, a
//! value out of its limits and a setting that belongs to a later version are errors, never ignored. Later
//! layers win: defaults, file, `LONGSHORE_SECTION__KEY`, flags.

mod file;
mod layers;
mod validate;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::broker;
use crate::core::settings::Settings as Decisions;
use crate::model::Id;
use crate::telemetry::logs::Logging;

pub use file::{ClassSection, File, QueueSection};
pub use layers::Flag;

/// Everything an operator may set, found to be consistent.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub server: Server,
    /// Where the table is shared over NATS, if it is.
    pub nats: Option<Nats>,
    pub log: Logging,
    /// What the decisions depend on.
    pub decisions: Decisions,
}

/// Where the server listens and keeps its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub listen: SocketAddr,
    pub data: PathBuf,
    /// How much of what work wrote is kept, in bytes.
    pub output_bytes: u64,
    /// For how long.
    pub output_age: Duration,
}

/// A table shared by several replicas over NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nats {
    pub server: broker::Server,
    /// The pools this replica takes part in; ids.
    pub pools: Vec<Id>,
    /// After so long without a turn another replica takes over.
    pub take_over: Duration,
    /// The most pending tasks each of the three windows takes from the stream.
    pub window: usize,
    /// How many tasks must wait before a window is paused for want of capacity; the pool's slots if not said.
    pub ahead: Option<usize>,
    /// How many servers keep each stream.
    pub replicas: usize,
    /// Limits of the streams, in bytes.
    pub table_bytes: u64,
    pub submit_bytes: u64,
    pub report_bytes: u64,
    pub history_bytes: u64,
    /// How long history is kept.
    pub history_age: Duration,
}

/// A configuration that cannot be used: where it came from, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("load {place}: {message}")]
pub struct ConfigError {
    /// The file, variable or flag.
    pub place: String,
    /// Names the key, its value, the limit and the remedy.
    pub message: String,
}

/// Reads and validates the settings.
///
/// `variables` is the environment; of it, only names like `LONGSHORE_LEASE__TTL` count. Nothing is read from
/// a file that was not named.
pub fn load(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (String, String)>,
    flags: &[Flag],
) -> Result<Settings, ConfigError> {
    let merged = layers::merge(file, variables, flags)?;
    let read = layers::extract(&merged)?;
    validate::validate(&read).map_err(|broken| {
        let place = layers::place_of(&merged, &broken.keys);
        ConfigError { place, message: broken.message }
    })
}

/// The variables of this process that may be settings. Text that is not Unicode is none of ours.
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
