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

use crate::core::settings::Settings as Decisions;
use crate::telemetry::logs::Logging;

pub use file::{ClassSection, File};
pub use layers::Flag;

/// Everything an operator may set, found to be consistent.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub server: Server,
    pub log: Logging,
    /// What the decisions depend on.
    pub decisions: Decisions,
}

/// Where the server listens and keeps its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub listen: SocketAddr,
    pub data: PathBuf,
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
