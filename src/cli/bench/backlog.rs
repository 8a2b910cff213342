//! `bench backlog`: what a dispatcher holds in memory while tasks wait in the stream, and while they are worked off.
//!
//! Law: the dispatcher is a process of its own, this very program, so nothing of the producer or the runner counts.
//! The pool is one of its own, and its streams are removed at the end.

use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::nats::{LOOK_AGAIN, SLOTS, STUCK, bodies, publish, remove_streams, runner};
use super::worlds::resident;
use super::{Figure, show};
use crate::broker::{Connection, Server, chain};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::paper::Paper;
use crate::model::{Id, Kind};
use crate::runner::Runner;
use crate::wire::subject::Names;

/// Over a NATS server: the memory of a dispatcher with a backlog in the stream
#[derive(Debug, Args)]
pub(super) struct BacklogBench {
    /// The server
    #[arg(long = "nats", value_name = "URL", env = "LONGSHORE_NATS", hide_env_values = true)]
    url: String,
    /// Tasks that wait before there is a runner
    #[arg(long = "waiting", default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    tasks: u64,
    /// Tasks of one packed message
    #[arg(long = "packed", default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000))]
    packed: u64,
}

impl BacklogBench {
    pub(super) async fn run(&self, paper: Paper, base: Option<&std::path::Path>) -> Result<(), Failure> {
        let run = Uuid::now_v7().simple().to_string();
        let pool = format!("bench-{run}");
        let names = Names::of_pool(&pool);
        let server = Server { url: self.url.clone(), name: "bench".to_owned(), ..Server::default() };
        let connection = Connection::open(&server).await?;
        let scratch = base.map_or_else(std::env::temp_dir, std::path::Path::to_owned);
        let scratch = scratch.join(format!("longshore-{run}"));
        let dispatcher = Dispatcher::start(&self.url, &pool).await?;
        let runner = runner(&server, &names, 0, SLOTS, &scratch).await?;
        let measured = self.measure(&connection, &names, &dispatcher, runner).await;
        dispatcher.stop().await;
        remove_streams(&connection, &names).await?;
        // What cannot be removed is left to whoever cleans up temporary files.
        let _ = std::fs::remove_dir_all(&scratch);
        show(paper, "backlog", &measured?);
        Ok(())
    }

    async fn measure(
        &self,
        connection: &Connection,
        names: &Names,
        dispatcher: &Dispatcher,
        runner: Runner,
    ) -> Result<Vec<Figure>, Failure> {
        let count = usize::try_from(self.tasks).expect("ten millions at most");
        let pack = usize::try_from(self.packed).expect("at most 1,000");
        let queue = Id::parse("default").expect("a name");
        let subject = names.pending(Kind::Job, &queue, None);
        let idle = dispatcher.resident()?;

        let packs = bodies("backlog", count, pack).into_iter().map(|body| (subject.clone(), body));
        let waiting = dispatcher.most_during(publish(connection, packs)).await?;
        let left = waiting_in(connection, names).await?;

        let began = Instant::now();
        let runner = tokio::spawn(runner.run(CancellationToken::new()));
        let working = dispatcher.most_during(dispatcher.until_all_ended(connection, names)).await?;
        let rate = count as f64 / began.elapsed().as_secs_f64();
        runner.abort();

        let mebibytes = |name: &str, bytes: u64| {
            let value = bytes as f64 / f64::from(1 << 20);
            Figure::new(name, value, "MiB", json!(value))
        };
        Ok(vec![
            mebibytes("dispatcher, idle", idle),
            mebibytes("dispatcher, tasks waiting", waiting)
                .noting(format!("the most; {count} tasks, {left} messages of {pack} left in the stream")),
            mebibytes("dispatcher, tasks worked off", working).noting("the most; one runner".to_owned()),
            Figure::new("worked off", rate, "tasks/s", json!(rate)),
        ])
    }
}

/// How many messages wait in the stream of submissions.
async fn waiting_in(connection: &Connection, names: &Names) -> Result<u64, Failure> {
    let stream = connection.jetstream.get_stream(names.submit_stream()).await;
    let stream = stream.map_err(|why| Failure::Broken(chain(&why)))?;
    Ok(stream.cached_info().state.messages)
}

/// A dispatcher in a process of its own.
struct Dispatcher {
    process: Child,
    client: Client,
}

impl Dispatcher {
    async fn start(nats: &str, pool: &str) -> Result<Self, Failure> {
        let broken = |why: std::io::Error| Failure::Broken(format!("start a dispatcher: {why}"));
        let program = std::env::current_exe().map_err(broken)?;
        let mut process = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--nats", nats, "--log-level", "error"])
            .env("LONGSHORE_NATS__POOLS", format!("[{pool:?}]"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(broken)?;
        let mut lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let said = async {
            while let Some(line) = lines.next_line().await.map_err(broken)? {
                if let Some(url) = line.split_whitespace().find(|word| word.starts_with("http://")) {
                    return Client::new(url);
                }
            }
            Err(Failure::Broken("the dispatcher ended before it listened".to_owned()))
        };
        let late = |_| Failure::Broken(format!("the dispatcher does not listen within {STUCK:?}"));
        let client = timeout(STUCK, said).await.map_err(late)??;
        Ok(Self { process, client })
    }

    fn resident(&self) -> Result<u64, Failure> {
        let gone = || Failure::Broken("the memory of the dispatcher cannot be read; is it gone?".to_owned());
        self.process.id().and_then(|id| resident(&id.to_string())).ok_or_else(gone)
    }

    /// The most memory it holds until `done`.
    async fn most_during(&self, done: impl Future<Output = Result<(), Failure>>) -> Result<u64, Failure> {
        let most = AtomicU64::new(self.resident()?);
        let looking = async {
            loop {
                sleep(10 * LOOK_AGAIN).await;
                most.fetch_max(self.resident()?, Ordering::Relaxed);
            }
        };
        tokio::select! {
            ended = done => ended?,
            failed = looking => return failed,
        }
        Ok(most.into_inner())
    }

    async fn until_all_ended(&self, connection: &Connection, names: &Names) -> Result<(), Failure> {
        let (mut last, mut moved) = (Value::Null, Instant::now());
        loop {
            sleep(100 * LOOK_AGAIN).await;
            let status = self.client.get("/v1/status", &[]).await?;
            let live = ["pending", "assigned", "running"].map(|state| status["counts"][state].as_u64());
            if live == [Some(0); 3] && waiting_in(connection, names).await? == 0 {
                return Ok(());
            }
            if status["turn"] != last {
                (last, moved) = (status["turn"].clone(), Instant::now());
            }
            if moved.elapsed() > STUCK {
                return Err(Failure::Broken(format!("no task moved within {STUCK:?}: {}", status["counts"])));
            }
        }
    }

    async fn stop(mut self) {
        // It has nothing to keep, and its pool goes with it.
        let _ = self.process.kill().await;
    }
}
