//! `bench nats`: the same over a NATS server, beside the server's own rate of publishing in the same run.
//!
//! Law: what is compared was measured one after the other in one run on one machine: read the ratios. The pool is
//! one of its own, and its streams are removed at the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::PublishAckFuture;
use clap::Args;
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Figure, floor, show};
use crate::broker::{Connection, Server, chain};
use crate::cli::embedded::Running;
use crate::cli::failure::Failure;
use crate::cli::paper::Paper;
use crate::cli::shared;
use crate::config::{self, Flag};
use crate::core::State;
use crate::model::{Fact, Id, Kind, LifecycleState, Offer, Resources, RunnerId};
use crate::runner::backend::NoopBackend;
use crate::runner::nats::NatsLink;
use crate::runner::{Runner, RunnerConfig};
use crate::wire::subject::Names;

/// Messages on their way to the server at once.
pub(super) const ON_THE_WAY: usize = 1_000;
/// Slots of all runners together, so that all of them have work.
pub(super) const SLOTS: u32 = 4_000;
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How many runners more of them are compared with.
const FEW: u32 = 10;
/// How long nothing may end before the run is given up.
pub(super) const STUCK: Duration = Duration::from_secs(60);

/// Over a NATS server
#[derive(Debug, Args)]
pub(super) struct NatsBench {
    /// The server
    #[arg(long = "nats", value_name = "URL", env = "LONGSHORE_NATS", hide_env_values = true)]
    url: String,
    /// Tasks in single messages; ten times as many in packs
    #[arg(long = "messages", default_value_t = 20_000, value_name = "N")]
    messages: usize,
    /// Tasks of one packed message
    #[arg(long = "packed", default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=1_000))]
    packed: u64,
    /// Runners on as many subjects; more than ten are compared with ten
    #[arg(long = "subjects", default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    subjects: u32,
}

impl NatsBench {
    pub(super) async fn run(&self, paper: Paper, base: Option<&Path>) -> Result<(), Failure> {
        let few = if self.subjects > FEW { Some(self.measure_few(base).await?) } else { None };
        let world = World::start(&self.url, self.subjects, self.messages, base).await?;
        let measured = self.measure(&world, few).await;
        world.stop().await?;
        show(paper, "nats", &measured?);
        Ok(())
    }

    /// The rates with few runners, to compare with.
    async fn measure_few(&self, base: Option<&Path>) -> Result<Rates, Failure> {
        let world = World::start(&self.url, FEW, self.messages, base).await?;
        let rates = self.rates(&world).await;
        world.stop().await?;
        rates
    }

    async fn rates(&self, world: &World) -> Result<Rates, Failure> {
        let single = world.through("single", self.messages, 1).await?;
        let packed = world.through("packed", self.messages * 5, self.pack()).await?;
        Ok(Rates { single, packed })
    }

    fn pack(&self) -> usize {
        usize::try_from(self.packed).expect("at most 1,000")
    }

    async fn measure(&self, world: &World, few: Option<Rates>) -> Result<Vec<Figure>, Failure> {
        let pack = self.pack();
        let publish = world.publish_rate(self.messages).await?;
        let Rates { single, packed } = self.rates(world).await?;
        let floor = world.floor(self.messages * 5, pack).await?;
        let mut starts = world.latency(100, 300).await?;
        let ratio = |rate: f64| format!("{:.2} of the server's own rate", rate / publish);
        let against = |rate: f64, of: fn(&Rates) -> f64| match &few {
            Some(few) => format!("; {:.2} of that with {FEW}", rate / of(few)),
            None => String::new(),
        };
        starts.sort_unstable();
        let hundredth =
            |of: usize| starts[(starts.len() * of / 100).min(starts.len() - 1)].as_secs_f64() * 1e3;
        let runners = self.subjects;
        let figure = |name: &str, value: f64, unit| Figure::new(name, value, unit, json!(value));
        Ok(vec![
            figure("server: publish, acknowledged", publish, "messages/s")
                .noting(format!("{} messages as long as a task, {ON_THE_WAY} on their way", self.messages)),
            figure("through all of it, single messages", single, "tasks/s").noting(format!(
                "{} tasks, {runners} runner(s); {}{}",
                self.messages,
                ratio(single),
                against(single, |few| few.single)
            )),
            figure("through all of it, packs", packed, "tasks/s").noting(format!(
                "{} tasks in packs of {pack}; {}{}",
                self.messages * 5,
                ratio(packed),
                against(packed, |few| few.packed)
            )),
            figure("the messages of packs alone", floor, "tasks/s")
                .noting(format!("as many and as long, nobody decides; {}", ratio(floor))),
            figure("submit to start, p50", hundredth(50), "ms").noting("at 100 tasks/s, alone".to_owned()),
            figure("submit to start, p99", hundredth(99), "ms"),
        ])
    }
}

/// Tasks a second from the first publication until all have ended.
struct Rates {
    single: f64,
    packed: f64,
}

/// A dispatcher and its runners in this process, on a server outside.
struct World {
    server: Server,
    connection: Connection,
    names: Names,
    dispatcher: Running,
    stop: CancellationToken,
    runners: tokio::task::JoinSet<Result<(), crate::runner::RunnerError>>,
    stop_runners: CancellationToken,
    scratch: PathBuf,
}

impl World {
    async fn start(url: &str, runners: u32, tasks: usize, base: Option<&Path>) -> Result<Self, Failure> {
        let run = uuid::Uuid::now_v7().simple().to_string();
        let pool = format!("bench-{run}");
        let base = base.map_or_else(std::env::temp_dir, Path::to_owned);
        let scratch = base.join(format!("longshore-{run}"));
        let remembered = (tasks * 10).clamp(100_000, 10_000_000).to_string();
        let settings = [
            ("server.listen", "127.0.0.1:0"),
            ("nats.url", url),
            ("nats.pools", &format!("[{pool:?}]")),
            ("verdict.settle", "0s"),
            ("table.keep_ended_tasks", &remembered),
        ];
        let flags: Vec<Flag> =
            settings.iter().map(|(key, value)| Flag { name: key, key, value: (*value).to_owned() }).collect();
        let settings = config::load(None, [], &flags)?;
        let nats = settings.nats.clone().expect("a server was named");
        let stop = CancellationToken::new();
        let dispatcher = shared::start(&settings, &nats, stop.clone()).await?;
        let server = Server { url: url.to_owned(), name: "bench".to_owned(), ..Server::default() };
        let connection = Connection::open(&server).await?;
        let mut world = Self {
            server,
            connection,
            names: Names::of_pool(&pool),
            dispatcher,
            stop,
            runners: tokio::task::JoinSet::new(),
            stop_runners: CancellationToken::new(),
            scratch,
        };
        for number in 0..runners {
            let slots = (SLOTS / runners).max(1);
            let runner = runner(&world.server, &world.names, number, slots, &world.scratch).await?;
            world.runners.spawn(runner.run(world.stop_runners.clone()));
        }
        let count = runners as usize;
        world.until("the runners registered", |state| state.fleet().len() == count).await?;
        Ok(world)
    }

    async fn until(&self, what: &str, fact: impl Fn(&State) -> bool) -> Result<(), Failure> {
        let view = self.dispatcher.handle.view();
        let holds = async {
            while !view.read(&fact) {
                sleep(LOOK_AGAIN).await;
            }
        };
        let late = || Failure::Broken(format!("not within {STUCK:?}: {what}"));
        timeout(STUCK, holds).await.map_err(|_| late())
    }

    /// Messages a second that the server takes and acknowledges.
    async fn publish_rate(&self, messages: usize) -> Result<f64, Failure> {
        let stream = format!("{}_PROBE", self.names.prefix().to_uppercase());
        let subject = format!("{}.probe", self.names.prefix());
        let js = &self.connection.jetstream;
        let config = async_nats::jetstream::stream::Config {
            name: stream.clone(),
            subjects: vec![subject.clone()],
            ..Default::default()
        };
        js.create_stream(config).await.map_err(|why| Failure::Broken(chain(&why)))?;
        let bodies = (0..messages).map(|number| (subject.clone(), task(&format!("probe-{number}"))));
        let began = Instant::now();
        publish(&self.connection, bodies).await?;
        let took = began.elapsed();
        js.delete_stream(stream).await.map_err(|why| Failure::Broken(chain(&why)))?;
        Ok(messages as f64 / took.as_secs_f64())
    }

    /// Tasks a second from the first publication until all have ended.
    async fn through(&self, name: &str, tasks: usize, pack: usize) -> Result<f64, Failure> {
        let queue = Id::parse("default").expect("a name");
        let subject = self.names.pending(Kind::Job, &queue, None);
        let bodies = bodies(name, tasks, pack);
        let ended = |state: &State| state.counts().ended;
        let before = self.dispatcher.handle.view().read(ended);
        let began = Instant::now();
        let finished = async {
            let (mut last, mut moved) = (before, Instant::now());
            while last < before + tasks {
                sleep(LOOK_AGAIN).await;
                let now = self.dispatcher.handle.view().read(ended);
                if now > last {
                    (last, moved) = (now, Instant::now());
                }
                if moved.elapsed() > STUCK {
                    return Err(Failure::Broken(format!("only {} of {tasks} tasks ended", last - before)));
                }
            }
            Ok(())
        };
        let bodies = bodies.into_iter().map(|body| (subject.clone(), body));
        tokio::try_join!(publish(&self.connection, bodies), finished)?;
        Ok(tasks as f64 / began.elapsed().as_secs_f64())
    }

    /// Tasks a second where nobody decides.
    async fn floor(&self, tasks: usize, pack: usize) -> Result<f64, Failure> {
        floor::rate(&self.server, self.names.prefix(), bodies("floor", tasks, pack), pack).await
    }

    /// Times from before a task is published until its start is committed, at `rate` tasks a second.
    async fn latency(&self, rate: u64, rounds: usize) -> Result<Vec<Duration>, Failure> {
        let queue = Id::parse("default").expect("a name");
        let subject = self.names.pending(Kind::Job, &queue, None);
        let mut turns = self.dispatcher.handle.turns();
        let mut pace = interval(Duration::from_secs(1) / u32::try_from(rate).expect("a small rate"));
        let mut took = Vec::with_capacity(rounds);
        for number in 0..rounds {
            pace.tick().await;
            let id = format!("late-{number}");
            let began = Instant::now();
            let js = &self.connection.jetstream;
            let sent = js.publish(subject.clone(), task(&id).into()).await;
            sent.map_err(|why| Failure::Broken(chain(&why)))?;
            let started = async {
                while let Ok(turn) = turns.recv().await {
                    let starts = |fact: &Fact| matches!(fact, Fact::Task(event) if event.state == LifecycleState::Running && event.id.as_str() == id);
                    if turn.facts.iter().any(starts) {
                        return;
                    }
                }
            };
            timeout(STUCK, started).await.map_err(|_| Failure::Broken(format!("{id} did not start")))?;
            took.push(began.elapsed());
        }
        Ok(took)
    }

    async fn stop(mut self) -> Result<(), Failure> {
        self.stop_runners.cancel();
        while let Some(ended) = self.runners.join_next().await {
            ended.expect("a runner does not panic").map_err(|why| Failure::Broken(why.to_string()))?;
        }
        self.stop.cancel();
        self.dispatcher.finished().await;
        remove_streams(&self.connection, &self.names).await?;
        // What cannot be removed is left to whoever cleans up temporary files.
        let _ = std::fs::remove_dir_all(&self.scratch);
        Ok(())
    }
}

/// A runner without work of its own, linked over a connection of its own.
pub(super) async fn runner(
    server: &Server,
    names: &Names,
    number: u32,
    slots: u32,
    scratch: &Path,
) -> Result<Runner, Failure> {
    let id = RunnerId::parse(&format!("runner-{number}")).expect("a legal name");
    let connection = Connection::open(server).await?;
    let link = NatsLink::open(connection, names.clone(), &id, None).await;
    let link = link.map_err(|why| Failure::Broken(why.to_string()))?;
    let offer = Offer {
        kinds: [Kind::Job, Kind::Build].into(),
        queues: Default::default(),
        arch: "amd64".into(),
        os: "linux".into(),
        labels: Default::default(),
        taints: Default::default(),
        group: None,
        resources: Some(Resources::new(10_000_000, 1 << 40)),
        slots,
        open: false,
    };
    let data = scratch.join(id.as_str());
    Ok(Runner::new(RunnerConfig::new(id, Arc::new(offer), data), Arc::new(link), Arc::new(NoopBackend)))
}

/// Publishes messages, [`ON_THE_WAY`] at once, and waits until the server has them.
pub(super) async fn publish(
    connection: &Connection,
    bodies: impl IntoIterator<Item = (String, Vec<u8>)>,
) -> Result<(), Failure> {
    let js = &connection.jetstream;
    let mut sent: Vec<PublishAckFuture> = Vec::with_capacity(ON_THE_WAY);
    for (subject, body) in bodies {
        sent.push(js.publish(subject, body.into()).await.map_err(|why| Failure::Broken(chain(&why)))?);
        if sent.len() == ON_THE_WAY {
            acknowledged(sent.drain(..)).await?;
        }
    }
    acknowledged(sent.drain(..)).await
}

/// Removes all that a pool has on the server.
pub(super) async fn remove_streams(connection: &Connection, names: &Names) -> Result<(), Failure> {
    for stream in
        [names.submit_stream(), names.report_stream(), names.history_stream(), names.bucket_stream()]
    {
        let gone = connection.jetstream.delete_stream(&stream).await;
        gone.map_err(|why| Failure::Broken(format!("remove stream {stream}: {}", chain(&why))))?;
    }
    Ok(())
}

pub(super) async fn acknowledged(sent: impl Iterator<Item = PublishAckFuture>) -> Result<(), Failure> {
    use std::future::IntoFuture;
    for kept in join_all(sent.map(IntoFuture::into_future)).await {
        kept.map_err(|why| Failure::Broken(format!("publish: {}", chain(&why))))?;
    }
    Ok(())
}

/// Messages of `pack` tasks each.
pub(super) fn bodies(name: &str, tasks: usize, pack: usize) -> Vec<Vec<u8>> {
    let numbers: Vec<usize> = (0..tasks).collect();
    let body = |chunk: &[usize]| {
        let tasks: Vec<Vec<u8>> = chunk.iter().map(|number| task(&format!("{name}-{number}"))).collect();
        match pack {
            1 => tasks.concat(),
            _ => [b"{\"tasks\":[".to_vec(), tasks.join(&b','), b"]}".to_vec()].concat(),
        }
    };
    numbers.chunks(pack).map(body).collect()
}

fn task(id: &str) -> Vec<u8> {
    let task = json!({"id": id, "resources": {"cpu": "1m", "memory": 1}, "spec": {"command": ["true"]}});
    task.to_string().into_bytes()
}
