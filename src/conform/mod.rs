//! The conformance kit: does a foreign runner or puller keep the rules?
//!
//! Law: what is said of a case rests on what was observed. The kit is the dispatcher the program talks to, and the work
//! it gives out marks a file as it starts, goes on and ends; what the program says of itself is compared with those
//! marks and never replaces them. A case passes, fails with what was expected and what was seen, or was left out by
//! whoever asked; none is skipped by itself. Every wait has a bound, and nothing the kit started outlives its case.
//!
//! `runner/` and `puller/` hold the cases, each a small story on a `scene` of its own: a dispatcher that decides
//! nothing (`dispatcher`, `counter`) behind a door (`http`, `nats`), and a `program`. Its words are those of `wire`.

mod catalogue;
mod counter;
mod dispatcher;
mod http;
mod marks;
mod nats;
mod program;
mod puller;
mod runner;
mod scene;
mod watched;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub use catalogue::{Case, Role, cases};

use crate::broker::Connection;
use scene::Scene;

/// The longest a case may take: each of its waits has a bound of its own, what a server is asked in between may not.
const LONGEST: Duration = Duration::from_secs(300);

/// What is tried, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// One command, started by a shell for each case; `{url}`, `{id}`, `{data}`, … stand for what the variables say.
    pub command: String,
    /// Where the kit listens: cases that share an address run one after another. A free port each if none is named.
    pub listen: Option<SocketAddr>,
    /// Speak NATS there instead of HTTP, as its address and the connection to it.
    pub nats: Option<(String, Connection)>,
    /// How long a lease runs; a heartbeat is asked for every fifth of it.
    pub lease: Duration,
    /// How long the program may take to end work it was asked to stop.
    pub grace: Duration,
    /// A kill takes the program's whole tree of processes, as where it runs in a container.
    pub contained: bool,
    /// Where each case has a directory of its own.
    pub scratch: PathBuf,
    /// Cases at once.
    pub jobs: usize,
}

/// What came of a case.
#[derive(Debug, Clone)]
pub struct Tried {
    pub case: &'static Case,
    pub took: Duration,
    /// What was seen, or why it did not pass.
    pub found: Found,
}

/// Whether a rule was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Passed {
        seen: String,
    },
    Failed(Broken),
    /// Whoever asked said that the rule does not apply.
    LeftOut,
}

/// A rule that was not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}; saw {seen}")]
pub struct Broken {
    pub expected: String,
    pub seen: String,
}

impl Broken {
    fn new(expected: impl fmt::Display, seen: impl fmt::Display) -> Self {
        Self { expected: expected.to_string(), seen: seen.to_string() }
    }
}

/// What a story saw when all went as it must.
type Told = Result<String, Broken>;

/// Fails with what was seen unless `kept`.
fn ensure(kept: bool, expected: impl fmt::Display, seen: impl fmt::Display) -> Result<(), Broken> {
    if kept { Ok(()) } else { Err(Broken::new(expected, seen)) }
}

/// Tries all `cases` and says what came of each, in their order; `done` hears of each as it is done. When `stop` is
/// cancelled, what is being tried is given up and cleared away.
pub async fn run(
    settings: Settings,
    cases: Vec<&'static Case>,
    stop: &CancellationToken,
    done: impl Fn(&Tried),
) -> Vec<Tried> {
    let (settings, done) = (Arc::new(settings), &done);
    let at_once = if settings.listen.is_some() { 1 } else { settings.jobs.max(1) };
    let tried = stream::iter(cases).map(|case| {
        let settings = settings.clone();
        async move {
            let tried = one(settings, case, stop).await;
            done(&tried);
            tried
        }
    });
    tried.buffered(at_once).collect().await
}

async fn one(settings: Arc<Settings>, case: &'static Case, stop: &CancellationToken) -> Tried {
    let began = Instant::now();
    let told = match Scene::set(settings, case).await {
        Ok(mut scene) => {
            let told = tokio::select! {
                told = (case.story)(&mut scene) => told,
                () = sleep(LONGEST) => Err(Broken::new(format!("an end within {LONGEST:?}"), "none")),
                () = stop.cancelled() => Err(Broken::new("to be let finish", "an interrupt")),
            };
            let told = told.and_then(|seen| scene.all_was_readable().map(|()| seen));
            scene.clear().await;
            told
        }
        Err(why) => Err(Broken::new("a place to try it", why)),
    };
    let found = told.map_or_else(Found::Failed, |seen| Found::Passed { seen });
    Tried { case, took: began.elapsed(), found }
}
