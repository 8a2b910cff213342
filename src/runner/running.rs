//! The work that runs: one task of the runtime each, which starts it, waits for its end and says both.
//!
//! Law: whatever was asked to start is answered by exactly one `Ended`, also if the back end breaks off.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use super::backend::{self, Backend, Start, StopSender};
use super::outbox::Keep;
use super::output::{Outputs, Secrets};
use super::session::Input;
use crate::model::{AssignmentMessage, AttemptOutcome, End, Held, WorkOrder};

/// Where what becomes of work is said.
#[derive(Clone)]
pub(super) struct Ways {
    pub inputs: UnboundedSender<Input>,
    pub keep: UnboundedSender<Keep>,
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

/// All work that was started and has not ended.
pub(super) struct Running {
    backend: Arc<dyn Backend>,
    url: Option<Arc<str>>,
    ways: Ways,
    work: BTreeMap<Held, (StopSender, AbortHandle)>,
}

impl Running {
    pub(super) fn new(backend: Arc<dyn Backend>, url: Option<Arc<str>>, ways: Ways) -> Self {
        Self { backend, url, ways, work: BTreeMap::new() }
    }

    /// Waits until what work wrote is on its way, but not for long.
    pub(super) async fn flush(&self) {
        self.ways.outputs.flush().await;
    }

    pub(super) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    pub(super) fn start(&mut self, held: Held, assignment: &AssignmentMessage, order: Arc<WorkOrder>) {
        let (sender, stops) = backend::stops();
        let secrets = self.ways.secrets(&order);
        let start = Start {
            held: held.clone(),
            kind: assignment.kind,
            attempt: assignment.attempt,
            url: self.url.clone(),
            output: self.ways.outputs.begin(&held, secrets.clone()),
            order,
            stops,
        };
        let (backend, ways) = (self.backend.clone(), self.ways.clone());
        let task = tokio::spawn(async move {
            let held = start.held.clone();
            let ran = AssertUnwindSafe(run(&*backend, start, &ways)).catch_unwind().await;
            let mut end = ran.unwrap_or_else(|_| {
                let message = "its back end broke off; what it did is not known".into();
                End {
                    outcome: AttemptOutcome::Failed,
                    exit_code: None,
                    message: Some(message),
                    artifacts: Vec::new(),
                }
            });
            end.message = end.message.map(|message| secrets.mask(&message).into());
            let _ = ways.keep.send(Keep::Gone(held.clone()));
            let _ = ways.inputs.send(Input::Ended { held, end });
        });
        self.work.insert(held, (sender, task.abort_handle()));
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

async fn run(backend: &dyn Backend, start: Start, ways: &Ways) -> End {
    let ended = |outcome, message: String| End {
        outcome,
        exit_code: None,
        message: Some(message.into()),
        artifacts: Vec::new(),
    };
    if start.stops.asked() {
        return ended(AttemptOutcome::Cancelled, "stopped before it was started".to_owned());
    }
    let held = start.held.clone();
    match backend.start(start).await {
        Ok(work) => {
            if let Some(group) = work.group {
                let _ = ways.keep.send(Keep::Running(held.clone(), group));
            }
            let _ = ways.inputs.send(Input::Started(held));
            work.end.await
        }
        Err(why) if why.own_fault => ended(AttemptOutcome::Failed, why.reason),
        Err(why) => ended(AttemptOutcome::StartFailed, why.reason),
    }
}
