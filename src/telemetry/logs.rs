//! Logs: one line for each fact.
//!
//! Law: lowercase, past tense, values as fields under the names the API uses. `error` means that a person must
//! act, `warn` that we recovered, `info` tells the lives of tasks and runners, `debug` has one line per turn.
//! Texts that came from outside are quoted, so that none can pass for a line or a field of its own.

use std::io::{self, IsTerminal};

use tracing::field::display;
use tracing::{Subscriber, error, info, warn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::{EnvFilter, fmt};

use crate::model::{Fact, Found, IntentChange, Lifecycle, LifecycleState};

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logging {
    pub format: Format,
    pub level: Level,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The least important level that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    /// All of them.
    pub const ALL: [Level; 5] = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

/// Writes the logs of this process to standard error, with colours only on a terminal. Has no effect when
/// somebody else has taken the logs already.
pub fn install(logging: Logging) {
    let colours = io::stderr().is_terminal();
    // Somebody embedding the library may have chosen already: theirs stays.
    let _ = tracing::subscriber::set_global_default(subscriber(logging, io::stderr, colours));
}

/// The same, written to `writer`. Libraries below ours only speak from `warn` on.
pub fn subscriber<W>(logging: Logging, writer: W, colours: bool) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let level = logging.level.as_str();
    let others = if matches!(logging.level, Level::Error) { "error" } else { "warn" };
    // The client of Kubernetes calls every answer it does not like an error; whoever asked says what it means.
    let filter = EnvFilter::new(format!("{others},kube_client::client=off,longshore={level}"));
    let lines = fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    match logging.format {
        Format::Text => Box::new(lines.with_ansi(colours).finish()),
        Format::Json => Box::new(lines.json().flatten_event(true).with_ansi(false).finish()),
    }
}

/// Writes one line for each fact of a committed turn.
pub fn log(facts: &[Fact]) {
    facts.iter().for_each(log_one);
}

fn log_one(fact: &Fact) {
    match fact {
        Fact::Task(lifecycle) => log_task(lifecycle),
        Fact::SubmissionRefused { id, answer, reason } => {
            info!(task = %id, %answer, reason = &**reason, "submission refused");
        }
        Fact::StopAsked { id, runner, token, reason } => {
            info!(task = %id, %runner, %token, reason = &**reason, "task asked to stop");
        }
        Fact::StaleReport { id, runner, token, report } => {
            warn!(task = %id, %runner, %token, %report, "stale report ignored");
        }
        Fact::Locality { id, runner, output, inputs } => {
            let word = |found: &Option<Found>| found.map(Found::as_str);
            info!(task = %id, %runner, output = word(output), inputs = word(inputs), "artifacts looked for");
        }
        Fact::RunnerRegistered { runner, incarnation, again: false } => {
            info!(%runner, incarnation = &**incarnation, "runner registered");
        }
        Fact::RunnerRegistered { runner, incarnation, again: true } => {
            info!(%runner, incarnation = &**incarnation, "runner registered again");
        }
        Fact::RunnerLeft { runner } => info!(%runner, "runner left"),
        Fact::RunnerLost { runner, reason, tasks } => {
            warn!(%runner, tasks, reason = &**reason, "runner lost")
        }
        Fact::RunnerHeld { runner, reason } => warn!(%runner, reason = &**reason, "runner held"),
        Fact::RunnerDraining { runner } => info!(%runner, "runner set to drain"),
        Fact::RunnerResumed { runner } => info!(%runner, "runner resumed"),
        Fact::RunnerForgotten { runner } => info!(%runner, "runner forgotten"),
        Fact::RunnerDismissed { runner, group } => {
            info!(%runner, %group, "runner told to leave: its group has nothing left for it");
        }
        Fact::GroupStopped { group, task, reason } => {
            info!(%group, %task, reason = &**reason, "group stopped");
        }
        Fact::Subscribed { subscription, queue } => info!(%subscription, %queue, "queue subscribed to"),
        Fact::Unsubscribed { subscription, forgotten: false } => info!(%subscription, "subscription ended"),
        Fact::Unsubscribed { subscription, forgotten: true } => {
            info!(%subscription, "subscription forgotten")
        }
        Fact::RunnerBound { runner, group } => info!(%runner, %group, "runner bound to a group"),
        Fact::RunnerUnbound { runner, group } => info!(%runner, %group, "runner removed from a group"),
        Fact::LeaseOver { id, runner, token } => {
            warn!(task = %id, %runner, %token, "lease of a pulled task ended without a word");
        }
        Fact::ClassForgotten { class } => info!(%class, "class forgotten"),
        Fact::Intent { intent, class, change, runners, reason } => {
            let reason = reason.as_deref();
            match change {
                IntentChange::Asked => info!(%intent, %class, runners, reason, "runners asked for"),
                IntentChange::Acknowledged => info!(%intent, %class, runners, "intent acknowledged"),
                IntentChange::Declined => warn!(%intent, %class, runners, reason, "intent declined"),
                IntentChange::Expired => warn!(%intent, %class, runners, reason, "intent expired"),
                IntentChange::Arrived => info!(%intent, %class, "runner of an intent arrived"),
                IntentChange::Withdrawn => info!(%intent, %class, runners, "intent withdrawn"),
            }
        }
        Fact::QueuePaused { queue } => info!(%queue, "queue paused"),
        Fact::QueueUnpaused { queue } => info!(%queue, "queue unpaused"),
        Fact::PoolPaused => info!("pool paused"),
        Fact::PoolUnpaused => info!("pool unpaused"),
        Fact::CancelRemembered { id } => info!(task = %id, "cancel of an unseen task remembered"),
        Fact::BuildsUnsafe { build } => {
            warn!(task = %build, "builds stopped from starting: no room for this build's jobs");
        }
        Fact::BuildsSafe => info!("builds allowed to start again"),
        Fact::Reserved { task, runner, fits_by } => {
            info!(%task, %runner, fits_by = fits_by.map(tracing::field::display), "runner kept for a task")
        }
        Fact::ReservationOver { task, runner } => info!(%task, %runner, "runner kept no longer"),
        Fact::SweepFound { tasks } => warn!(tasks, "placeable tasks found only by the sweep"),
        Fact::TookOver { turn } => info!(turn, "leadership taken over"),
        Fact::Frozen { reason } => {
            error!(reason = &**reason, "pool frozen: nothing is decided until it is unfrozen")
        }
        Fact::Unfrozen => info!("pool unfrozen"),
    }
}

fn log_task(fact: &Lifecycle) {
    let (task, kind, queue) = (&fact.id, fact.kind, &fact.queue);
    let (attempt, exit_code) = (fact.attempt, fact.exit_code);
    let runner = fact.runner.as_ref().map(display);
    let token = fact.token.as_ref().map(display);
    let reason = fact.reason.as_deref();
    match fact.state {
        LifecycleState::Pending if attempt == 0 => {
            let tenant = &fact.tenant;
            info!(%task, %kind, %queue, %tenant, reason, "task admitted");
        }
        LifecycleState::Pending => info!(%task, attempt, reason, "task returned to pending"),
        LifecycleState::Assigned => {
            info!(%task, attempt, runner, token, waited_ms = fact.waited_ms, "task assigned");
        }
        LifecycleState::Running => info!(%task, attempt, runner, token, "task started"),
        LifecycleState::Ended => {
            let outcome = fact.outcome.map(display);
            let ran_ms = fact.ran_ms;
            info!(%task, outcome, attempt, runner, token, exit_code, ran_ms, reason, "task ended");
        }
    }
}
