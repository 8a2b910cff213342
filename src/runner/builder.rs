//! What a runner is, said step by step and checked before it starts.
//!
//! Law: what the dispatcher would refuse is refused here, with the field, its value, the limit and what to do. Of
//! several faults the first is told.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::attempt::Attempt;
use super::backend::{Backend, FunctionBackend};
use super::http::HttpLink;
use super::link::{Link, LinkError};
use super::nats::NatsLink;
use super::{Runner, RunnerConfig, machine};
use crate::broker::{ConnectError, Connection, Server};
use crate::model::{ArtifactId, End, Id, Kind, Offer, Resources, RunnerId, time::format_span};
use crate::wire::registration::{DEFAULT_SLOTS, MOST_SLOTS};
use crate::wire::subject::{DEFAULT_POOL, Names};

/// Between these a poll may wait.
const POLL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Why a runner could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    #[error("{field} ({value}): {limit}; {remedy}")]
    Invalid { field: &'static str, value: String, limit: String, remedy: &'static str },
    #[error("{field} is missing: {remedy}")]
    Missing { field: &'static str, remedy: &'static str },
    #[error("url: {0}")]
    Link(#[from] LinkError),
    #[error("url: {0}")]
    Connect(#[from] ConnectError),
}

type Make = Box<dyn FnOnce(Duration) -> Arc<dyn Backend> + Send>;

/// What a runner is, as far as it was said. Everything but `id`, `data_dir`, a way to the dispatcher and something that
/// does the work has a default.
#[must_use = "a runner is built by `build`"]
pub struct Builder {
    id: Option<RunnerId>,
    data_dir: Option<PathBuf>,
    url: Option<String>,
    link: Option<Arc<dyn Link>>,
    backend: Option<Make>,
    cpu: Option<u64>,
    memory: Option<u64>,
    resources: Resources,
    offer: Offer,
    /// Everything else; its id, offer and directory are not the runner's.
    config: RunnerConfig,
    wrong: Option<BuildError>,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, data_dir, url, offer, config, wrong, .. } = self;
        let mut all = f.debug_struct("Builder");
        all.field("id", id)
            .field("data_dir", data_dir)
            .field("url", &url.as_deref().map(crate::broker::shown));
        all.field("offer", offer).field("config", config).field("wrong", wrong).finish_non_exhaustive()
    }
}

impl Default for Builder {
    fn default() -> Self {
        let offer = Offer {
            kinds: [Kind::Job, Kind::Build].into(),
            queues: Default::default(),
            arch: machine::arch().into(),
            os: machine::os().into(),
            labels: Default::default(),
            taints: Default::default(),
            group: None,
            resources: None,
            slots: DEFAULT_SLOTS,
            open: false,
        };
        let nobody = RunnerId::parse("nobody").expect("a legal name");
        Self {
            id: None,
            data_dir: None,
            url: None,
            link: None,
            backend: None,
            cpu: None,
            memory: None,
            resources: Resources::default(),
            config: RunnerConfig::new(nobody, Arc::new(offer.clone()), PathBuf::new()),
            offer,
            wrong: None,
        }
    }
}

impl Builder {
    /// Its name, unique among the dispatcher's runners: 1 to 128 characters of `A-Z a-z 0-9 _ = -`. Required.
    pub fn id(mut self, id: &str) -> Self {
        self.id = self.name("id", id);
        self
    }

    /// Where it keeps reports nobody has taken yet; a directory of this runner alone, the same at every start. Required.
    pub fn data_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(directory.into());
        self
    }

    /// Where the dispatcher is: `http://host:port`, or `nats://host:port` (several separated by commas) for the default
    /// pool. Pools, credentials and inboxes on NATS: open a [`NatsLink`] and give it to [`Builder::link`].
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    /// The way to the dispatcher, instead of a url.
    pub fn link(mut self, link: Arc<dyn Link>) -> Self {
        self.link = Some(link);
        self
    }

    /// What runs its work.
    pub fn backend(mut self, backend: Arc<dyn Backend>) -> Self {
        self.backend = Some(Box::new(|_| backend));
        self
    }

    /// Has each attempt made by `function`, up to as many at once as fit. It returns an [`End`], or what becomes one:
    /// `()`, or a `Result` whose error is why the attempt failed. A panic is a failure too.
    ///
    /// The function hears through [`Attempt::updates`] that it is to stop, and is dropped when the grace is over; with
    /// no grace left (the lease is over) it is dropped at once. Dropping takes effect where the function waits: one that
    /// computes for long without waiting goes on, so it should look at
    /// [`stop_asked`](super::Updates::stop_asked). What it starts beside itself holds a clone of the updates; processes
    /// are started so that they end when they are dropped (`kill_on_drop`).
    ///
    /// **What it cannot promise.** While the whole process is stopped (SIGSTOP, a debugger, a machine that thrashes)
    /// nobody can end a function, as a guard ends processes and containers; meanwhile the lease runs out and the task is
    /// given to somebody else. Ask [`is_held`](super::Updates::is_held) just before what must not be done twice, end what
    /// you have others do by [`hold_until`](super::Updates::hold_until), and pass the attempt's token to whoever can
    /// refuse an older one.
    pub fn run<F, Ran, E>(mut self, function: F) -> Self
    where
        F: Fn(Attempt) -> Ran + Send + Sync + 'static,
        Ran: Future<Output = E> + Send + 'static,
        E: Into<End>,
    {
        self.backend = Some(Box::new(|grace| Arc::new(FunctionBackend::new(function, grace))));
        self
    }

    /// Cores it offers, with up to three decimals. Goes with [`Builder::memory`]; without both its slots alone bound what
    /// it takes.
    pub fn cpu(mut self, cores: f64) -> Self {
        let milli = (cores * 1000.0).round();
        let legal = cores.is_finite() && (1.0..=1e12).contains(&milli);
        let limit = "must be 0.001 to 1000000000";
        self.check("cpu", legal, &cores, limit, "give the number of cores it offers");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was checked to fit")]
        let milli = milli.clamp(0.0, 1e12) as u64;
        self.cpu = Some(milli);
        self
    }

    /// Memory it offers, in bytes.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.check("memory", bytes > 0, &bytes, "must be at least 1", "give the bytes it offers");
        self.memory = Some(bytes);
        self
    }

    /// Another resource it offers, like `gpu`, and how many of it.
    pub fn resource(mut self, name: &str, count: u64) -> Self {
        let legal = !name.is_empty() && !["cpu", "memory"].contains(&name);
        let limit = "must have a name, and not that of cpu or memory";
        self.check("resource", legal, &format!("{name:?}"), limit, "use `cpu` and `memory` for those");
        self.resources.other.insert(name.into(), count);
        self
    }

    /// How many tasks it runs at once at most, whatever they ask for; 1 to 10,000, 100 if it is not said.
    pub fn slots(mut self, slots: u32) -> Self {
        let limit = format!("must be 1 to {MOST_SLOTS}");
        let legal = (1..=MOST_SLOTS).contains(&slots);
        self.check("slots", legal, &slots, &limit, "give the number of tasks it may run at once");
        self.offer.slots = slots;
        self
    }

    /// A label tasks may ask for.
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.check("label", !name.is_empty(), &format!("{name:?}"), "is empty", "give it a name");
        self.offer.labels.insert(name.into(), value.into());
        self
    }

    /// Takes only tasks that tolerate this.
    pub fn taint(mut self, taint: &str) -> Self {
        self.check("taint", !taint.is_empty(), &format!("{taint:?}"), "is empty", "give it a name");
        self.offer.taints.insert(taint.into());
        self
    }

    /// Takes only tasks of this queue, and of others named so; of any if none is.
    pub fn queue(mut self, queue: &str) -> Self {
        let queue = self.name("queue", queue);
        self.offer.queues.extend(queue);
        self
    }

    /// Takes only these kinds; jobs and builds if it is not said.
    pub fn kinds(mut self, kinds: impl IntoIterator<Item = Kind>) -> Self {
        self.offer.kinds = kinds.into_iter().collect();
        let some = !self.offer.kinds.is_empty();
        self.check("kinds", some, &"none", "must be one at least", "name Kind::Job, Kind::Build or both");
        self
    }

    /// Takes only tasks of this group, and leaves when it has nothing more for this runner.
    pub fn group(mut self, group: &str) -> Self {
        self.offer.group = self.name("group", group);
        self
    }

    /// The declared class it is of.
    pub fn class(mut self, class: &str) -> Self {
        self.config.class = self.name("class", class);
        self
    }

    /// The intent it was started for.
    pub fn intent(mut self, intent: &str) -> Self {
        self.config.intent = self.name("intent", intent);
        self
    }

    /// The architecture it offers, as image platforms call it; this machine's if it is not said.
    pub fn arch(mut self, arch: &str) -> Self {
        self.offer.arch = arch.into();
        self
    }

    /// The operating system it offers; this machine's if it is not said.
    pub fn os(mut self, os: &str) -> Self {
        self.offer.os = os.into();
        self
    }

    /// Price of one placement here; the cheapest runner that fits is taken first. 1 if it is not said.
    pub fn cost(mut self, cost: f64) -> Self {
        let legal = cost.is_finite() && cost >= 0.0;
        self.check("cost", legal, &cost, "must be 0 or more", "give the price of one placement here");
        self.config.cost = cost;
        self
    }

    /// An artifact it holds from the start.
    pub fn artifact(mut self, artifact: &str) -> Self {
        match ArtifactId::parse(artifact) {
            Ok(artifact) => self.config.artifacts.push(artifact),
            Err(why) => {
                let value = format!("{artifact:?}");
                self.check("artifact", false, &value, &why.to_string(), "name an artifact as tasks do");
            }
        }
        self
    }

    /// How long work that is asked to stop may go on; 10 s if it is not said.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.config.stop_grace = grace;
        self
    }

    /// How long before its lease's end it begins to end its work; 1 s if it is not said.
    pub fn stop_by(mut self, time: Duration) -> Self {
        self.config.stop_by = time;
        self
    }

    /// How long the back end may take to start an attempt, fetching an image included, before the attempt has failed to
    /// start and is made by another runner; 10 min if it is not said. A function has started when it is called. A back end
    /// that takes as long again to end such an attempt is broken, and the runner ends.
    pub fn start_timeout(mut self, time: Duration) -> Self {
        let value = format_span(time);
        self.check(
            "start_timeout",
            !time.is_zero(),
            &value,
            "must be more than 0",
            "10 min suits large images",
        );
        self.config.start_timeout = time;
        self
    }

    /// How long running work may go on by itself when the runner is asked to leave, before it is asked to stop and handed
    /// back; none if it is not said. What was not started is handed back at once.
    pub fn leave_wait(mut self, wait: Duration) -> Self {
        self.config.leave_wait = wait;
        self
    }

    /// How long one request for work waits at the dispatcher, 1 s to 5 min; 30 s if it is not said. What is new comes at
    /// once, however long it is.
    pub fn poll(mut self, wait: Duration) -> Self {
        let limit = format!("must be {} to {}", format_span(POLL.0), format_span(POLL.1));
        let (legal, value) = ((POLL.0..=POLL.1).contains(&wait), format_span(wait));
        self.check("poll", legal, &value, &limit, "30 s suits most networks");
        self.config.poll = wait;
        self
    }

    /// How long after an attempt ended here the same task is started again at the earliest; 1 s if it is not said.
    pub fn min_retry(mut self, pause: Duration) -> Self {
        self.config.min_retry = pause;
        self
    }

    /// How much of what one attempt writes is sent to the dispatcher, in bytes; 1 MiB if it is not said, 0 sends nothing.
    pub fn output_limit(mut self, bytes: u64) -> Self {
        self.config.output_limit = bytes;
        self
    }

    /// A variable, of the task's or this process's environment, whose value is masked in output and messages.
    pub fn mask(mut self, variable: &str) -> Self {
        self.config.masked.push(variable.to_owned());
        self
    }

    /// Checks what was said, and opens the way to the dispatcher: over HTTP nothing is sent yet, a NATS server must
    /// answer.
    pub async fn build(mut self) -> Result<Runner, BuildError> {
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        let missing = |field, remedy| BuildError::Missing { field, remedy };
        let id = self.id.take().ok_or(missing("id", "give it a name of its own"))?;
        let data_dir = self.data_dir.take();
        let data_dir = data_dir.ok_or(missing("data_dir", "name a directory of this runner alone"))?;
        let backend = self.backend.take();
        let backend = backend.ok_or(missing("backend", "say what does the work: `run` or `backend`"))?;
        self.offer.resources = match (self.cpu, self.memory) {
            (Some(cpu), Some(memory)) => Some(Resources { cpu, memory, ..self.resources }),
            (None, None) if self.resources.other.is_empty() => None,
            (None, _) => return Err(missing("cpu", "name it beside the other amounts, or none of them")),
            (_, None) => return Err(missing("memory", "name it beside the other amounts, or none of them")),
        };
        let link = match (self.link, self.url) {
            (Some(link), _) => link,
            (None, Some(url)) => open(&url, &id).await?,
            (None, None) => return Err(missing("url", "say where the dispatcher is, or give a `link`")),
        };
        let backend = backend(self.config.stop_grace);
        let config = RunnerConfig { id, offer: Arc::new(self.offer), data_dir, ..self.config };
        Ok(Runner::new(config, link, backend))
    }

    fn name(&mut self, field: &'static str, text: &str) -> Option<Id> {
        let name = Id::parse(text);
        if let Err(why) = &name {
            self.check(field, false, &format!("{text:?}"), &why.to_string(), "choose another name");
        }
        name.ok()
    }

    fn check(
        &mut self,
        field: &'static str,
        legal: bool,
        value: &impl Display,
        limit: &str,
        remedy: &'static str,
    ) {
        if !legal {
            let (value, limit) = (value.to_string(), limit.to_owned());
            self.wrong.get_or_insert(BuildError::Invalid { field, value, limit, remedy });
        }
    }
}

async fn open(url: &str, id: &RunnerId) -> Result<Arc<dyn Link>, BuildError> {
    if !["nats://", "tls://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Ok(Arc::new(HttpLink::new(url)?));
    }
    let server = Server { url: url.to_owned(), name: format!("runner-{id}"), ..Server::default() };
    let connection = Connection::open(&server).await?;
    Ok(Arc::new(NatsLink::open(connection, Names::of_pool(DEFAULT_POOL), id, None).await?))
}
