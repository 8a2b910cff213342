//! The other side: a runner, which takes assignments under a lease, runs them and reports how they ended.
//!
//! A runner of your own is a function, and what it offers:
//!
//! ```no_run
//! use std::{io::Write, time::Duration};
//!
//! use longshore::runner::{Attempt, End, Runner, Update};
//!
//! async fn greet(mut attempt: Attempt) -> Result<End, std::io::Error> {
//!     writeln!(attempt.output, "hello from {}, attempt {}", attempt.task, attempt.number)?;
//!     tokio::select! {
//!         () = tokio::time::sleep(Duration::from_secs(3)) => Ok(End::succeeded()),
//!         Some(Update::Stop { .. }) = attempt.updates.next() => Ok(End::stopped()),
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let runner = Runner::builder()
//!     .url("http://127.0.0.1:8080") // or nats://127.0.0.1:4222
//!     .id("greeter")
//!     .data_dir("/var/lib/greeter")
//!     .cpu(2.0)
//!     .memory(4 << 30)
//!     .run(greet)
//!     .build()
//!     .await?;
//! runner.run_until(tokio::signal::ctrl_c()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Builder`] says what else can be set, [`Builder::run`] what a function must know, and [`backend`] what a back end
//! of your own must promise. `docs/runners.md` is the longer story.
//!
//! [`session`] decides, purely; this loop carries out what it says and tells it what happened. The law of the
//! loop: it never waits for a disk, a network or a process, so that work can always be ended in time.
//!
//! Flow: `link` → [`session::Input`] → session → [`session::Output`] → `backend`, `outbox`, `link`.

pub mod backend;
pub mod http;
pub mod link;
pub mod nats;
pub mod outbox;
pub mod session;

mod attempt;
mod builder;
mod calls;
mod environment;
pub(crate) mod machine;
pub mod output;
mod pause;
mod positions;
mod posting;
mod running;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
pub use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use crate::model::{ArtifactId, AttemptOutcome, End, Kind, TaskId, Token, WorkOrder};
use crate::model::{AssignmentMessage, ClassId, IntentId, Leave, Offer, RunnerId};
pub use attempt::{Attempt, Update, Updates};
use backend::{Backend, group::StillThere};
pub use builder::{BuildError, Builder};
use link::Link;
use outbox::{Keep, Left, Outbox, OutboxError};
pub use output::OutputWriter;
use output::Outputs;
use positions::Positions;
use running::{Running, Ways};
use session::{Input, Output, Session, SessionConfig};

/// The most inputs taken before outputs are carried out.
const BATCH: usize = 4_096;
/// The longest sleep: timers do not count suspension, the session's clock does.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

/// What a runner is.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    pub id: RunnerId,
    pub offer: Arc<Offer>,
    /// Price of one placement here; the lowest is taken first.
    pub cost: f64,
    pub class: Option<ClassId>,
    /// What it holds from the start.
    pub artifacts: Vec<ArtifactId>,
    /// The intent it was started for.
    pub intent: Option<IntentId>,
    /// Where it keeps its outbox; one runner a directory.
    pub data_dir: PathBuf,
    /// Between TERM and KILL of work that is asked to stop.
    pub stop_grace: Duration,
    /// How long running work may go on by itself when the runner is asked to leave.
    pub leave_wait: Duration,
    /// How long before its lease's end it begins to end its work.
    pub stop_by: Duration,
    /// How long the back end may take to start an attempt, and as long again to end one that did not start in time.
    pub start_timeout: Duration,
    /// How much of what one attempt writes is sent to the dispatcher, in bytes; 0 sends nothing.
    pub output_limit: u64,
    /// Variables of the task's or the runner's environment whose values are masked in what work writes.
    pub masked: Vec<String>,
    /// How long after an attempt ended here the same task is started again at the earliest.
    pub min_retry: Duration,
    /// How long it waits for something to do before it asks again.
    pub poll: Duration,
}

impl RunnerConfig {
    /// A runner with the usual settings.
    pub fn new(id: RunnerId, offer: Arc<Offer>, data_dir: PathBuf) -> Self {
        Self {
            id,
            offer,
            cost: 1.0,
            class: None,
            artifacts: Vec::new(),
            intent: None,
            data_dir,
            stop_grace: Duration::from_secs(10),
            leave_wait: Duration::ZERO,
            stop_by: Duration::from_secs(1),
            start_timeout: Duration::from_secs(600),
            output_limit: 1 << 20,
            masked: Vec::new(),
            min_retry: Duration::from_secs(1),
            poll: Duration::from_secs(30),
        }
    }

    fn session(&self) -> SessionConfig {
        let incarnation = uuid::Uuid::now_v7().to_string();
        SessionConfig {
            cost: self.cost,
            class: self.class.clone(),
            artifacts: self.artifacts.clone(),
            intent: self.intent.clone(),
            stop_by: self.stop_by,
            stop_grace: self.stop_grace,
            min_retry: self.min_retry,
            ..SessionConfig::new(self.id.clone(), incarnation.into(), self.offer.clone())
        }
    }
}

/// Why a runner cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunnerError {
    #[error("open the runner's outbox: {0}")]
    Outbox(#[from] OutboxError),
    #[error(transparent)]
    StillThere(#[from] StillThere),
    #[error("its back end: {why}; start the runner again")]
    Backend { why: String },
    #[error("register runner {runner}: {why}")]
    Refused { runner: RunnerId, why: String },
}

/// A runner that was not started yet.
pub struct Runner {
    config: RunnerConfig,
    link: Arc<dyn Link>,
    backend: Arc<dyn Backend>,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Runner {
    /// A runner that speaks over `link` and runs its work with `backend`.
    pub fn new(config: RunnerConfig, link: Arc<dyn Link>, backend: Arc<dyn Backend>) -> Self {
        Self { config, link, backend }
    }

    /// Says step by step what a runner is.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Runs until `stop` resolves and it has left, as [`Runner::run`] does.
    pub async fn run_until(self, stop: impl Future) -> Result<(), RunnerError> {
        let cancelled = CancellationToken::new();
        let mut running = std::pin::pin!(self.run(cancelled.clone()));
        tokio::select! {
            ended = &mut running => return ended,
            _ = stop => cancelled.cancel(),
        }
        running.await
    }

    /// Runs until it is cancelled and has left: what was not started is handed back, what runs is stopped.
    ///
    /// What an earlier start left running is gone on with if the back end can, and else ended first. Fails if the outbox cannot be used, if what was left
    /// cannot be ended, or if the dispatcher refuses the very first registration for good.
    pub async fn run(self, cancelled: CancellationToken) -> Result<(), RunnerError> {
        let directory = self.config.data_dir.clone();
        let opened = tokio::task::spawn_blocking(move || open(&directory)).await;
        let (outbox, left) = opened.expect("opening the outbox does not panic")?;
        let (inputs, arriving) = mpsc::unbounded_channel();
        let (keep, kept) = mpsc::unbounded_channel();
        let (post, posted) = mpsc::unbounded_channel();
        let (refused, refusals) = mpsc::unbounded_channel();
        let (broken, breaks) = mpsc::unbounded_channel();
        let (listens, listening) = watch::channel(false);
        let positions = self.backend.outlives().then(|| Positions::of(&self.config.data_dir));
        let outputs = Outputs::new(self.config.output_limit, positions);
        let (masked, link) = (self.config.masked.clone(), self.link.clone());
        let ways =
            Ways { inputs: inputs.clone(), keep: keep.clone(), broken, outputs: outputs.clone(), masked };
        let mut running = Running::new(self.backend.clone(), link.url(), self.config.start_timeout, ways);
        let restored = go_on(&mut running, left, &keep, &self.config.id).await?;
        let session = Session::new(self.config.session(), restored, boottime());
        let keeping = tokio::spawn(posting::keep(Arc::new(outbox), kept, post));
        let id = self.config.id.clone();
        let posting = posting::post(link.clone(), id.clone(), posted, inputs.clone());
        let _posting = AbortOnDropHandle::new(tokio::spawn(posting));
        let polling = calls::poll(link.clone(), id, self.config.poll, listening, inputs.clone());
        let _polling = AbortOnDropHandle::new(tokio::spawn(polling));
        let sending = outputs.send(link, self.config.id.clone());
        let _sending = AbortOnDropHandle::new(tokio::spawn(sending));
        let lived = Loop {
            session,
            running,
            link: self.link,
            inputs,
            keep,
            refused,
            listens,
            registered: false,
            config: self.config,
        };
        lived.live(arriving, refusals, breaks, keeping, cancelled).await
    }
}

/// Opens the outbox and ends the processes an earlier start left. Blocks.
fn open(directory: &std::path::Path) -> Result<(Outbox, Left), RunnerError> {
    let (outbox, mut left) = Outbox::open(directory)?;
    let mut gone = Vec::new();
    for (held, group) in std::mem::take(&mut left.running) {
        let ended = group.end_left_behind(held.id.as_str(), held.token)?;
        if ended > 0 {
            tracing::warn!(task = %held.id, token = %held.token, processes = ended, "work an earlier start left was ended");
        }
        gone.push(Keep::Gone(held));
    }
    outbox.write(&gone)?;
    Ok((outbox, left))
}

/// Goes on with what an earlier start began, as far as the back end can; nothing else of it is there afterwards.
async fn go_on(
    running: &mut Running,
    left: Left,
    keep: &mpsc::UnboundedSender<Keep>,
    runner: &RunnerId,
) -> Result<session::Restored, RunnerError> {
    let adopted = running.adopt(&left.unended()).await.map_err(|why| RunnerError::Backend { why })?;
    for session::Inherited { held, .. } in &adopted.running {
        tracing::info!(task = %held.id, token = %held.token, "work of an earlier start is gone on with");
    }
    if adopted.ended > 0 {
        tracing::warn!(%runner, left = adopted.ended, "what else an earlier start left was ended");
    }
    for begun in left.begun.iter().map(AssignmentMessage::held) {
        if !adopted.running.iter().any(|one| one.held == begun) {
            let _ = keep.send(Keep::Gone(begun));
        }
    }
    Ok(session::Restored { running: adopted.running, running_until: adopted.until, ..left.restored })
}

/// Time since the machine started, suspension included.
pub fn boottime() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

struct Loop {
    session: Session,
    running: Running,
    link: Arc<dyn Link>,
    inputs: mpsc::UnboundedSender<Input>,
    keep: mpsc::UnboundedSender<Keep>,
    refused: mpsc::UnboundedSender<String>,
    listens: watch::Sender<bool>,
    registered: bool,
    config: RunnerConfig,
}

impl Loop {
    async fn live(
        mut self,
        mut arriving: mpsc::UnboundedReceiver<Input>,
        mut refusals: mpsc::UnboundedReceiver<String>,
        mut breaks: mpsc::UnboundedReceiver<String>,
        mut keeping: JoinHandle<Result<(), OutboxError>>,
        cancelled: CancellationToken,
    ) -> Result<(), RunnerError> {
        let mut batch = Vec::new();
        let mut leaving = false;
        batch.push(Input::Tick);
        let backend = self.running.backend().clone();
        let mut broken = backend.broken();
        loop {
            if let Some(leave) = self.take(&mut batch) {
                return self.farewell(leave, keeping).await;
            }
            tokio::select! {
                _ = arriving.recv_many(&mut batch, BATCH) => {}
                () = tokio::time::sleep(self.until_wake()) => batch.push(Input::Tick),
                () = cancelled.cancelled(), if !leaving => {
                    leaving = true;
                    tracing::info!(runner = %self.config.id, "runner is leaving");
                    batch.push(Input::Leave { wait: self.config.leave_wait });
                }
                Some(why) = refusals.recv(), if !self.registered => {
                    return Err(RunnerError::Refused { runner: self.config.id, why });
                }
                // An outbox that cannot be written, or a back end that broke, ends the runner: it could not keep its promises. Its work
                // ends with it.
                why = &mut broken => return Err(RunnerError::Backend { why }),
                Some(why) = breaks.recv() => return Err(RunnerError::Backend { why }),
                ended = &mut keeping => {
                    return Ok(ended.expect("the outbox's duty does not panic")?);
                }
            }
        }
    }

    /// Takes all inputs and carries out what follows from them; returns the farewell when it is time.
    fn take(&mut self, batch: &mut Vec<Input>) -> Option<Leave> {
        let mut inputs: VecDeque<Input> = batch.drain(..).collect();
        let mut farewell = None;
        while let Some(input) = inputs.pop_front() {
            self.registered |= matches!(input, Input::Registered { .. });
            if matches!(&input, Input::HeartbeatAnswered(answer) if answer.leave) && self.session.takes_work()
            {
                tracing::info!(runner = %self.config.id, "runner is told to leave: its group has nothing left for it");
            }
            if let Input::Ended { held, .. } = &input {
                self.running.forget(held);
            }
            let outputs = self.session.on(boottime(), input);
            if let Some(until) = self.session.work_until() {
                self.running.backend().hold_until(until);
            }
            for output in outputs {
                farewell = self.carry_out(output, &mut inputs).or(farewell);
            }
        }
        let takes_work = self.session.takes_work();
        self.listens.send_if_modified(|listens| std::mem::replace(listens, takes_work) != takes_work);
        farewell
    }

    fn carry_out(&mut self, output: Output, inputs: &mut VecDeque<Input>) -> Option<Leave> {
        let (link, answers) = (self.link.clone(), self.inputs.clone());
        match output {
            Output::Register { number, registration } => {
                let refused = self.refused.clone();
                tokio::spawn(calls::register(link, number, registration, answers, refused));
            }
            Output::Heartbeat(heartbeat) => {
                tokio::spawn(calls::heartbeat(link, heartbeat, answers));
            }
            Output::Report { number, report } => self.keep(Keep::Report { number, report }),
            Output::Forget { through } => self.keep(Keep::Forget { through }),
            Output::Seen(seen) => self.keep(Keep::Seen(seen)),
            Output::Start { assignment, order } => {
                let held = assignment.held();
                match self.running.backend().at_once(&held) {
                    Some(end) => {
                        inputs.push_back(Input::Started(held.clone()));
                        inputs.push_back(Input::Ended { held, end });
                    }
                    None => self.running.start(held, &assignment, order),
                }
            }
            Output::Stop { held, grace, reason } => {
                tracing::info!(task = %held.id, token = %held.token, grace_ms = grace.as_millis(), %reason, "task asked to stop");
                self.running.stop(&held, grace);
            }
            Output::Leave(leave) => return Some(leave),
        }
        None
    }

    fn keep(&self, keep: Keep) {
        // The other end goes only when the outbox broke, and then the loop ends.
        let _ = self.keep.send(keep);
    }

    fn until_wake(&self) -> Duration {
        let wake = self.session.next_wake().map(|wake| wake.saturating_sub(boottime()));
        wake.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)
    }

    async fn farewell(
        self,
        leave: Leave,
        keeping: JoinHandle<Result<(), OutboxError>>,
    ) -> Result<(), RunnerError> {
        calls::leave(self.link, leave).await;
        self.running.flush().await;
        drop((self.keep, self.running));
        // Nothing runs any more, so nobody else keeps anything: the duty ends when all is on disk.
        keeping.await.expect("the outbox's duty does not panic")?;
        tracing::info!(runner = %self.config.id, "runner left");
        Ok(())
    }
}
