//! What really runs the work: the seam between a runner and processes, containers, or nothing at all.
//!
//! Laws, for every back end:
//! - `end` resolves once, and when it does nothing of the work runs any more, children left behind included;
//! - a stop asked with a grace of zero ends the work at once; a later stop may shorten a grace, never lengthen it;
//! - what ended because it was asked to stop has the outcome `cancelled`; what ended by itself has its own,
//!   whatever was asked at that moment;
//! - dropping `end` ends the work without grace.
//!
//! A back end whose work outlives the runner's process (a container, a pod) may go on with it at the next start, as
//! [`Backend::adopt`] says. Then also:
//! - such work runs no longer than `hold_until` last said, whether or not a runner is there: somebody else ends it;
//! - only what is known whole is gone on with; everything else an earlier start left is ended before `adopt` returns.

pub mod cgroup;
pub mod docker;
mod ending;
pub mod function;
pub mod group;
pub mod guard;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod noop;
pub mod output;
pub mod process;
pub mod rlimit;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::environment;
pub use super::output::OutputWriter;
use crate::model::{End, Held, Kind, WorkOrder};
pub use cgroup::Subtree;
pub use docker::DockerBackend;
pub use function::FunctionBackend;
pub use group::ProcessGroup;
pub use guard::Guard;
#[cfg(feature = "kubernetes")]
pub use kubernetes::KubernetesBackend;
pub use noop::NoopBackend;
pub use process::ProcessBackend;
pub use rlimit::Rlimit;

/// An attempt to start.
#[derive(Debug, Clone)]
pub struct Start {
    pub held: Held,
    pub kind: Kind,
    pub attempt: u32,
    /// Where the dispatcher answers over HTTP, if it does.
    pub url: Option<Arc<str>>,
    pub order: Arc<WorkOrder>,
    pub stops: Stops,
    /// Where what the work writes goes.
    pub output: OutputWriter,
}

impl Start {
    /// What the work finds in its environment: what its order says, over that what it is told of itself.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let Held { id, token } = &self.held;
        environment::of(id, *token, self.kind, self.attempt, self.url.as_deref(), &self.order)
    }
}

/// Work that was started.
pub struct Work {
    /// The process group it runs in, if it runs as one of this machine.
    pub group: Option<ProcessGroup>,
    /// Resolves when nothing of it runs any more.
    pub end: BoxFuture<'static, End>,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").field("group", &self.group).finish_non_exhaustive()
    }
}

/// What a new start found of an earlier one.
#[derive(Debug, Default)]
pub struct Adopted {
    /// Until when what is gone on with may run unless `hold_until` says more, counted from when the machine started:
    /// never later than the earlier start was told. Without a meaning if there is no such work.
    pub until: Duration,
    /// What is gone on with. Its `end` resolves as if this start had begun it; at once if it has ended meanwhile.
    pub work: Vec<(Held, Work)>,
    /// How much else was there, and was ended.
    pub ended: usize,
}

/// The work could not be started; nothing of it runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct StartFailed {
    pub reason: String,
    /// Whether no runner could start it: then it is the task's own failure, and nothing against this runner.
    pub own_fault: bool,
}

impl StartFailed {
    /// Another runner, or this one later, might start it.
    pub fn here(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), own_fault: false }
    }

    /// What it asks for cannot be started.
    pub fn anywhere(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), own_fault: true }
    }
}

/// Something that runs work.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Starts one attempt. Asked to stop meanwhile, as also when it takes too long, it ends what it has begun, and
    /// returns only then: work whose end is at hand, or that it could not be started.
    async fn start(&self, start: Start) -> Result<Work, StartFailed>;

    /// Ends what an earlier start of this runner left running here, and says how much that was.
    async fn clean_up(&self) -> Result<usize, String> {
        Ok(0)
    }

    /// Whether its work goes on when this process is killed, so that the next start can go on with it: then what is
    /// begun is kept on disk, and given to `adopt`.
    fn outlives(&self) -> bool {
        false
    }

    /// Goes on with what an earlier start of this runner began and had not ended by what it knew, and ends everything
    /// else that is left of it. Called once, before anything is started; no other start of this runner is alive.
    ///
    /// `begun` is what the earlier start kept, one attempt for each task at most; `begun[i].stops` is that of this start.
    /// `output` takes what the work writes from its very beginning, and passes over what the earlier start has sent;
    /// limits of time count from when the work began. Work that it does not find, cannot tell
    /// how it ended, or of which it does not know until when it may run, it leaves out: that attempt is lost, and
    /// nothing of it may run. An error ends the runner.
    async fn adopt(&self, begun: Vec<Start>) -> Result<Adopted, String> {
        drop(begun);
        Ok(Adopted { ended: self.clean_up().await?, ..Adopted::default() })
    }

    /// Lets its work run until then, counted from when the machine started; told before the first start and whenever it
    /// changes. A back end that can have somebody end its work when this process cannot does so.
    fn hold_until(&self, _until: Duration) {}

    /// Resolves when it can keep its promises no longer, and says why: then the runner ends, and its work with it.
    async fn broken(&self) -> String {
        std::future::pending().await
    }

    /// The end of work that needs no starting and no waiting. Most back ends have none.
    fn at_once(&self, _held: &Held) -> Option<End> {
        None
    }
}

/// Asks one attempt to stop.
#[derive(Debug, Clone)]
pub struct StopSender(watch::Sender<Option<Duration>>);

/// Hears when its attempt is asked to stop.
#[derive(Debug, Clone)]
pub struct Stops(watch::Receiver<Option<Duration>>);

/// The two ends of the wish that an attempt stop.
pub fn stops() -> (StopSender, Stops) {
    let (sender, receiver) = watch::channel(None);
    (StopSender(sender), Stops(receiver))
}

impl StopSender {
    /// Asks it to end within `grace`; zero means at once.
    pub fn ask(&self, grace: Duration) {
        self.0.send_modify(|asked| *asked = Some(asked.map_or(grace, |before| before.min(grace))));
    }
}

impl Stops {
    /// Whether it was asked to stop already.
    pub fn asked(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits until it is asked to stop, or asked again, and says within which grace.
    pub async fn next(&mut self) -> Duration {
        loop {
            if self.0.changed().await.is_err() {
                // Nobody is left who could ask.
                std::future::pending::<()>().await;
            }
            if let Some(grace) = *self.0.borrow_and_update() {
                return grace;
            }
        }
    }
}
