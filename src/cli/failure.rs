//! How a command fails, and the exit code that says so.
//!
//! Law: 1 the work failed, or the server said no; 2 wrong usage or configuration; 3 the server cannot be
//! reached. What the work itself said with its exit code is passed on as it is.

use std::process::ExitCode;

use super::embedded::StartError;
use crate::broker::ConnectError;
use crate::config::ConfigError;
use crate::ports::TableError;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// What was asked for makes no sense. Names the argument and the remedy.
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "no server answers at {url} ({tried}): {why}\n  start one with `longshore serve`, or name another with \
         --url or LONGSHORE_URL"
    )]
    Unreachable { url: String, tried: String, why: String },
    #[error(transparent)]
    Nats(#[from] ConnectError),
    /// The server answered with a problem document.
    #[error("{} [{}]", .0.detail, .0.code)]
    Problem(Problem),
    /// The work failed; that was said already.
    #[error("the work failed")]
    Work(u8),
    /// Something of this machine or of the server is broken.
    #[error("{0}")]
    Broken(String),
}

/// What a server says of a request it did not carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) detail: String,
    /// Whether what was asked for may be durable and not decided yet.
    pub(super) undecided: bool,
}

impl From<StartError> for Failure {
    fn from(why: StartError) -> Self {
        match why {
            // Another address or directory is what helps.
            StartError::Listen { .. } | StartError::Table(TableError::InUse { .. }) => {
                Failure::Usage(why.to_string())
            }
            StartError::Connect(why) => Failure::Nats(why),
            StartError::Setup(_) | StartError::Table(_) => Failure::Broken(why.to_string()),
        }
    }
}

impl Failure {
    /// The exit code that says it.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Usage(_) | Failure::Config(_) => 2,
            Failure::Problem(problem) if matches!(problem.status, 400 | 413 | 415) => 2,
            Failure::Problem(problem) if matches!(problem.status, 502..=504) && problem.code != "frozen" => 3,
            Failure::Nats(ConnectError::Credentials { .. } | ConnectError::Address { .. }) => 2,
            Failure::Unreachable { .. } | Failure::Nats(ConnectError::Unreachable { .. }) => 3,
            Failure::Work(code) => *code,
            Failure::Problem(_) | Failure::Broken(_) => 1,
        })
    }

    /// Says it on standard error, unless it was said already.
    pub(super) fn show(&self) {
        if !matches!(self, Failure::Work(_)) {
            eprintln!("error: {self}");
        }
    }
}
