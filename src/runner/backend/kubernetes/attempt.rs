//! One attempt: from its Job that is made to its pod that has ended.
//!
//! Law: once its Job may run, the attempt is over only when its pod was seen to have ended, or the cluster says that
//! neither Job nor pod is there. The Job is removed before the end is told.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::super::ending::{self, Ending};
use super::super::output::Tail;
use super::super::{StartFailed, Stops};
use super::cluster::{Cluster, Trouble};
use super::deadline::Deadlines;
use super::pod::{self, Ended, Stage};
use super::sight::{Following, Seen, Sight};
use super::{Settings, job, whole_seconds};
use crate::model::{AttemptOutcome, End, time::format_span};
use crate::runner::pause::Pause;
use rustix::process::Signal;

/// How long output is still read after a pod has ended.
const READ_ON: Duration = Duration::from_secs(1);
/// Pieces of output that wait to be taken in.
const PIECES: usize = 16;

/// A Job that is to be removed. Dropped before, it is ended and removed.
pub(super) struct Attempt {
    pub cluster: Cluster,
    pub deadlines: Deadlines,
    pub following: Following,
    pub job: String,
    /// The memory its task named, in bytes.
    pub memory: u64,
    /// Whether there may be a Job of its own.
    pub made: bool,
    /// Whether something of it may run.
    pub may_run: bool,
    pub removed: bool,
    /// Why the cluster has not made its Job yet.
    pub trouble: Option<String>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.deadlines.forget(&self.job);
        if self.removed || !self.made {
            return;
        }
        let (cluster, job, may_run) = (self.cluster.clone(), std::mem::take(&mut self.job), self.may_run);
        // Where no runtime is left, its deadline ends it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if may_run { cluster.end(&job).await } else { cluster.remove(&job).await }
            });
        }
    }
}

impl Attempt {
    /// Makes the Job, lets it run, and waits until its container runs or has run.
    pub(super) async fn until_running(&mut self, settings: &Settings, body: &Job) -> Result<(), StartFailed> {
        self.make(settings, body).await?;
        let begun = loop {
            let sight = self.following.sight();
            if sight.job.is_gone() {
                return Err(StartFailed::here("its Job was removed by somebody else"));
            }
            match sight.begun {
                Some(begun) => break begun,
                None => self.following.changed().await,
            }
        };
        self.may_run = true;
        self.deadlines.begin(&self.job, begun).await.map_err(StartFailed::here)?;
        loop {
            let sight = self.following.sight();
            let is_overdue = sight.job.last().is_some_and(pod::is_overdue);
            match &sight.pod {
                Seen::There(pod) => match pod::read(pod, self.memory) {
                    Stage::Stuck(why) => return Err(why),
                    Stage::Ended(Ended { lost: Some(why), .. }) => return Err(StartFailed::here(why)),
                    Stage::Running | Stage::Ended(_) => return Ok(()),
                    Stage::Waiting(_) => {}
                },
                Seen::Gone(_) => return Err(StartFailed::here("its pod was removed by somebody else")),
                Seen::Never if sight.job.is_gone() => {
                    return Err(StartFailed::here("its Job was removed by somebody else"));
                }
                Seen::Never if is_overdue => {
                    return Err(StartFailed::here(
                        "its cluster ended its Job before it had made a pod of it",
                    ));
                }
                Seen::Never => {}
            }
            self.following.changed().await;
        }
    }

    async fn make(&mut self, settings: &Settings, body: &Job) -> Result<(), StartFailed> {
        let mut pause = Pause::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            // Until it is refused, it may be there whatever is answered.
            self.made = true;
            match self.cluster.make(body, |found| job::is_ours(&found.metadata, settings)).await {
                Ok(()) => return Ok(()),
                Err(Trouble::Refused { code, said }) => {
                    self.made = false;
                    let reason = format!("make Job {}: {said}", self.job);
                    // What is asked for may make no sense to any cluster.
                    return Err(StartFailed { reason, own_fault: code == 422 });
                }
                Err(why @ Trouble::Silent(_)) => self.trouble = Some(why.to_string()),
            }
            sleep(pause.next(None)).await;
        }
    }

    /// What is in the way of its container.
    pub(super) fn not_running_within(&mut self, time: Duration) -> StartFailed {
        let Sight { job, pod, begun } = self.following.sight();
        let why = match (job, begun, pod) {
            (Seen::Never, ..) => self.trouble.take().unwrap_or_else(|| "its Job is not seen".to_owned()),
            (_, None, _) => "the cluster's controller of Jobs has not taken it up".to_owned(),
            (.., Seen::Never) => {
                format!(
                    "no pod was made of its Job; `kubectl describe job {}` says why while it is there",
                    self.job
                )
            }
            (.., Seen::There(pod) | Seen::Gone(pod)) => match pod::read(&pod, self.memory) {
                Stage::Waiting(Some(why)) => why,
                _ => "its pod has not begun".to_owned(),
            },
        };
        StartFailed::here(format!("not running within {}: {why}", format_span(time)))
    }

    /// Sees to it that nothing of it is there any more, or ever comes to run.
    pub(super) async fn undo(mut self) {
        self.deadlines.forget(&self.job);
        if self.may_run {
            self.cluster.end(&self.job).await;
            self.removed = true;
        }
    }

    fn has_ended(&self, sight: &Sight) -> bool {
        match &sight.pod {
            Seen::There(pod) => matches!(pod::read(pod, self.memory), Stage::Ended(_)),
            Seen::Gone(_) => true,
            Seen::Never => false,
        }
    }

    /// How it has ended, and whether its cluster ended it when its deadline was over.
    async fn how_it_ended(&self, sight: &Sight) -> (Ended, bool) {
        let mut job = sight.job.last().cloned();
        let ended = match &sight.pod {
            Seen::There(pod) => match pod::read(pod, self.memory) {
                Stage::Ended(ended) => ended,
                _ => Ended::default(),
            },
            // Its Job may know more than was seen of it.
            gone => {
                job = self.cluster.job(&self.job).await.or(job);
                pod::gone(gone.last(), job.as_ref(), self.memory)
            }
        };
        let is_over = self.deadlines.is_over(&self.job) || job.as_ref().is_some_and(pod::is_overdue);
        (ended, is_over)
    }
}

/// What is known of running work while its end is awaited.
pub(super) struct Watch {
    attempt: Attempt,
    output: mpsc::Receiver<Vec<u8>>,
    pod_ended: CancellationToken,
    _reading: AbortOnDropHandle<()>,
    tail: Tail,
    stops: Stops,
    ending: Ending,
}

impl Watch {
    /// Of an attempt whose container runs, or has run.
    pub(super) fn of(mut attempt: Attempt, tail: Tail, stops: Stops, ending: Ending) -> Self {
        let (sender, output) = mpsc::channel(PIECES);
        let pod_ended = CancellationToken::new();
        let pod = attempt
            .following
            .sight()
            .pod
            .last()
            .and_then(|pod| pod.metadata.name.clone())
            .unwrap_or_default();
        let reading = attempt.cluster.clone().read_output(pod, sender, pod_ended.clone());
        let reading = AbortOnDropHandle::new(tokio::spawn(reading));
        Self { attempt, output, pod_ended, _reading: reading, tail, stops, ending }
    }

    pub(super) async fn until_end(mut self) -> End {
        let sight = loop {
            let sight = self.attempt.following.sight();
            if self.attempt.has_ended(&sight) {
                break sight;
            }
            let within = tokio::select! {
                biased;
                () = self.attempt.following.changed() => None,
                grace = self.stops.next() => self.ending.ask(grace).map(|signal| (signal, grace)),
                signal = self.ending.due() => Some((signal, self.ending.timeout_grace())),
                Some(chunk) = self.output.recv() => {
                    self.tail.keep(&chunk);
                    None
                }
            };
            if let Some((signal, grace)) = within {
                self.end_pod(&sight, if signal == Signal::TERM { grace } else { Duration::ZERO });
            }
        };
        let (ended, is_over) = self.attempt.how_it_ended(&sight).await;
        self.pod_ended.cancel();
        let rest = async {
            while let Some(chunk) = self.output.recv().await {
                self.tail.keep(&chunk);
            }
        };
        let _ = timeout(READ_ON, rest).await;
        match sight.pod {
            Seen::There(_) => self.attempt.cluster.remove(&self.attempt.job).await,
            _ => self.attempt.cluster.end(&self.attempt.job).await,
        }
        self.attempt.removed = true;
        self.end(ended, is_over)
    }

    fn end_pod(&self, sight: &Sight, within: Duration) {
        let Some(name) = sight.pod.last().and_then(|pod| pod.metadata.name.clone()) else { return };
        let cluster = self.attempt.cluster.clone();
        let seconds = u32::try_from(whole_seconds(within)).unwrap_or(u32::MAX);
        tokio::spawn(async move { cluster.end_pod(&name, seconds).await });
    }

    fn end(&self, ended: Ended, is_over: bool) -> End {
        let code = ended.exit.code;
        match ended.lost {
            _ if self.ending.is_made() => self.ending.end(ended.exit, &self.tail),
            // The cluster did what its runner would have done: nobody's failure.
            _ if ended.deleted && is_over => {
                let why =
                    "its cluster ended it when its time was over, which its runner had not moved".to_owned();
                ending::end(AttemptOutcome::Handback, code, Some(why), &self.tail)
            }
            Some(why) => ending::end(AttemptOutcome::StartFailed, code, Some(why), &self.tail),
            None => self.ending.end(ended.exit, &self.tail),
        }
    }
}
