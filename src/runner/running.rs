//! The work that runs: one task of the runtime each, which starts it, waits for its end and says both.
//!
//! Law: whatever was asked to start is answered by exactly one `Ended`, also if the back end breaks off. What does not
//! start in time is ended, and only then has failed to start; a back end that cannot even say that is broken.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::backend::{self, Backend, OutputWriter, Start, StartFailed, StopSender, Work};
use super::outbox::Keep;
use super::output::{Outputs, Secrets};
use super::session::{Inherited, Input};
use crate::model::{AssignmentMessage, AttemptOutcome, End, Held, WorkOrder, time::format_span};
use crate::wire::work::read_work;

/// Where what becomes of work is said.
#[derive(Clone)]
pub(super) struct Ways {
    pub inputs: UnboundedSender<Input>,
    pub keep: UnboundedSender<Keep>,
    /// Why the back end can be trusted no longer.
    pub broken: UnboundedSender<String>,
    pub outputs: Outputs,
    /// Variables whose values nobody is to see.
    pub masked: Vec<String>,
}

impl Ways {
    fn secrets(&self, order: &WorkOrder) -> Secrets {
        let values = |name: &String| [order.env.get(name).cloned(), std::env::var(name).ok()];
        Secrets::new(self.masked.iter().flat_map(values).flatten())
    }
}

/// What became of what an earlier start began.
pub(super) struct Inheritance {
    /// It is gone on with.
    pub running: Vec<Inherited>,
    /// Until when that may run without a lease of this start.
    pub until: Duration,
    /// How much was ended.
    pub ended: usize,
}

/// All work that was started and has not ended.
pub(super) struct Running {
    backend: Arc<dyn Backend>,
    url: Option<Arc<str>>,
    start_timeout: Duration,
    ways: Ways,
    work: BTreeMap<Held, (StopSender, AbortHandle)>,
}

impl Running {
    pub(super) fn new(
        backend: Arc<dyn Backend>,
        url: Option<Arc<str>>,
        start_timeout: Duration,
        ways: Ways,
    ) -> Self {
        Self { backend, url, start_timeout, ways, work: BTreeMap::new() }
    }

    /// Waits until what work wrote is on its way, but not for long.
    pub(super) async fn flush(&self) {
        self.ways.outputs.flush().await;
    }

    pub(super) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    pub(super) fn start(&mut self, held: Held, assignment: &AssignmentMessage, order: Arc<WorkOrder>) {
        if self.backend.outlives() {
            let _ = self.ways.keep.send(Keep::Begun(assignment.clone()));
        }
        let secrets = self.ways.secrets(&order);
        let output = self.ways.outputs.begin(&held, secrets.clone());
        let (start, stop) = self.attempt(assignment, order, output);
        let starter = Starter {
            backend: self.backend.clone(),
            ways: self.ways.clone(),
            stop: stop.clone(),
            within: self.start_timeout,
        };
        self.watch(held, stop, secrets, starter.run(start));
    }

    /// Has the back end go on with what an earlier start began, as far as it can, and end the rest.
    pub(super) async fn adopt(&mut self, begun: &[AssignmentMessage]) -> Result<Inheritance, String> {
        let (mut starts, mut offered) = (Vec::new(), BTreeMap::new());
        for assignment in begun {
            let Ok(order) = read_work(&assignment.task).map(Arc::new) else { continue };
            let secrets = self.ways.secrets(&order);
            let output = self.ways.outputs.go_on(&assignment.held(), secrets.clone());
            let (start, stop) = self.attempt(assignment, order.clone(), output);
            starts.push(start);
            offered.insert(assignment.held(), (assignment.kind, order, stop, secrets));
        }
        let known: Vec<Held> = offered.keys().cloned().collect();
        self.ways.outputs.keep_positions(&known);
        let adopted = self.backend.adopt(starts).await?;
        let mut all = Inheritance { running: Vec::new(), until: adopted.until, ended: adopted.ended };
        for (held, work) in adopted.work {
            let Some((kind, order, stop, secrets)) = offered.remove(&held) else { continue };
            self.watch(held.clone(), stop, secrets, work.end);
            all.running.push(Inherited { held, kind, order });
        }
        Ok(all)
    }

    fn attempt(
        &self,
        assignment: &AssignmentMessage,
        order: Arc<WorkOrder>,
        output: OutputWriter,
    ) -> (Start, StopSender) {
        let (sender, stops) = backend::stops();
        let (held, kind, attempt) = (assignment.held(), assignment.kind, assignment.attempt);
        (Start { held, kind, attempt, url: self.url.clone(), order, stops, output }, sender)
    }

    /// Waits for the end of `work` and says it.
    fn watch(
        &mut self,
        held: Held,
        stop: StopSender,
        secrets: Secrets,
        work: impl Future<Output = End> + Send + 'static,
    ) {
        let (ways, of) = (self.ways.clone(), held.clone());
        let task = tokio::spawn(async move {
            let ended = AssertUnwindSafe(work).catch_unwind().await;
            let mut end =
                ended.unwrap_or_else(|_| End::failed("its back end broke off; what it did is not known"));
            end.message = end.message.map(|message| secrets.mask(&message).into());
            let _ = ways.keep.send(Keep::Gone(of.clone()));
            let _ = ways.inputs.send(Input::Ended { held: of, end });
        });
        self.work.insert(held, (stop, task.abort_handle()));
    }

    pub(super) fn stop(&self, held: &Held, grace: Duration) {
        if let Some((stop, _)) = self.work.get(held) {
            stop.ask(grace);
        }
    }

    pub(super) fn forget(&mut self, held: &Held) {
        self.work.remove(held);
    }
}

impl Drop for Running {
    /// A runner that ends without having left takes its work with it.
    fn drop(&mut self) {
        for (_, task) in self.work.values() {
            task.abort();
        }
    }
}

/// Starts one attempt.
struct Starter {
    backend: Arc<dyn Backend>,
    ways: Ways,
    stop: StopSender,
    within: Duration,
}

impl Starter {
    async fn run(self, start: Start) -> End {
        if start.stops.asked() {
            return ended(AttemptOutcome::Cancelled, "stopped before it was started".to_owned());
        }
        let held = start.held.clone();
        let mut starting = self.backend.start(start);
        match timeout(self.within, &mut starting).await {
            Ok(Ok(work)) => {
                if let Some(group) = work.group {
                    let _ = self.ways.keep.send(Keep::Running(held.clone(), group));
                }
                let _ = self.ways.inputs.send(Input::Started(held));
                work.end.await
            }
            Ok(Err(why)) => not_started(why),
            Err(_) => self.undo(&held, starting).await,
        }
    }

    /// Ends what has not started in time, and has as long again for it.
    async fn undo(&self, held: &Held, starting: impl Future<Output = Result<Work, StartFailed>>) -> End {
        let within = format_span(self.within);
        tracing::warn!(task = %held.id, token = %held.token, within, "a start takes too long and is broken off");
        self.stop.ask(Duration::ZERO);
        let undone = async {
            match starting.await {
                Ok(work) => work.end.await,
                Err(why) => not_started(why),
            }
        };
        match timeout(self.within, undone).await {
            Ok(end) if end.outcome == AttemptOutcome::Cancelled => {
                let why = end.message.map(|why| format!(": {why}")).unwrap_or_default();
                ended(AttemptOutcome::StartFailed, format!("not started within {within}{why}"))
            }
            Ok(end) => end,
            Err(_) => {
                let Held { id, token } = held;
                let why = format!(
                    "it did not start {id} ({token}) within {within}, nor say within as long again that nothing of it runs"
                );
                let _ = self.ways.broken.send(why);
                std::future::pending().await
            }
        }
    }
}

fn not_started(StartFailed { reason, own_fault }: StartFailed) -> End {
    ended(if own_fault { AttemptOutcome::Failed } else { AttemptOutcome::StartFailed }, reason)
}

fn ended(outcome: AttemptOutcome, message: String) -> End {
    End { outcome, exit_code: None, message: Some(message.into()), artifacts: Vec::new() }
}
