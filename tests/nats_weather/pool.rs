//! A pool: dispatchers and runners as processes of their own, under settings with which a story takes seconds.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use longshore::broker::{Connection, Server};
use longshore::wire::subject::{DEFAULT_POOL, Names};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::judge::Starts;
use crate::binary::{PATIENCE, Process, longshore};

/// After so long without a turn another replica leads.
pub const TAKE_OVER: Duration = Duration::from_millis(1_500);

/// Waits until `fact` holds and says what it found.
pub async fn until<T>(what: &str, fact: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, fact).await
}

/// The same with a limit of its own.
#[expect(clippy::disallowed_methods, reason = "a deadline of a test")]
pub async fn until_within<T>(limit: Duration, what: &str, mut fact: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = fact().await {
            return found;
        }
        assert!(began.elapsed() < limit, "{what} within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The names of the default pool.
pub fn names() -> Names {
    Names::of_pool(DEFAULT_POOL)
}

/// A connection of a test.
pub async fn connect(url: &str) -> Connection {
    let server = Server { url: url.to_owned(), name: "test".to_owned(), ..Server::default() };
    Connection::open(&server).await.expect("the server is there")
}

/// Where a story happens: a directory, and the settings of its dispatchers.
pub struct Scene {
    dir: TempDir,
    settings: Vec<(&'static str, String)>,
    started: AtomicUsize,
}

impl Scene {
    /// With the usual lease: no story in it waits for one.
    pub fn new() -> Self {
        let dir = TempDir::with_prefix("longshore-weather-").expect("a temporary directory");
        let scene = Self { dir, settings: Vec::new(), started: AtomicUsize::new(0) };
        let take_over = format!("{}ms", TAKE_OVER.as_millis());
        scene.with("LONGSHORE_NATS__TAKE_OVER", take_over).with("LONGSHORE_RETRY__BACKOFF", "100ms")
    }

    /// With a lease that a story can wait for.
    pub fn with_short_leases() -> Self {
        Self::new()
            .with("LONGSHORE_LEASE__TTL", "4s")
            .with("LONGSHORE_LEASE__HEARTBEAT", "1s")
            .with("LONGSHORE_LEASE__MARGIN", "1s")
            .with("LONGSHORE_LEASE__ASSIGNMENT_DEADLINE", "2s")
    }

    /// The same with one setting more.
    pub fn with(mut self, setting: &'static str, value: impl Into<String>) -> Self {
        self.settings.push((setting, value.into()));
        self
    }

    /// Where everything of it is kept.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// How often a task may have been started: a cluster may take longer to elect than a lease lasts, and work that
    /// was ended with its lease is started again.
    pub fn starts(&self) -> Starts {
        let files = std::fs::read_dir(self.dir()).expect("the directory can be read").flatten();
        let mut said = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
        let ended = said.any(|said| said.contains("the lease of its runner ended"));
        if ended { Starts::Again } else { Starts::Once }
    }

    fn log(&self, of: &str) -> (PathBuf, Stdio) {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let path = self.dir().join(format!("{number:02}-{of}.log"));
        let file = std::fs::File::create(&path).expect("the directory can be written");
        (path, file.into())
    }

    /// A dispatcher that was started, and may be unable to.
    pub fn start(&self, nats: &str) -> (Process, PathBuf) {
        let (log, stderr) = self.log("replica");
        let mut command = longshore();
        command.args(["serve", "--listen", "127.0.0.1:0", "--nats", nats]);
        command.envs(self.settings.iter().map(|(name, value)| (*name, value.as_str())));
        (Process::start(command.stdout(Stdio::piped()).stderr(stderr)), log)
    }

    /// A dispatcher that takes part.
    pub fn replica(&self, nats: &str) -> Replica {
        let (mut process, log) = self.start(nats);
        let first = process.first_line();
        let url = first.split_whitespace().find(|word| word.starts_with("http://"));
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        let url = url.unwrap_or_else(|| panic!("no address in {first:?}: {}", said())).to_owned();
        Replica { process, url, log }
    }

    /// Several of them, the first of which leads.
    pub async fn replicas(&self, nats: &str, count: usize) -> Vec<Replica> {
        let mut replicas = vec![self.replica(nats)];
        replicas[0].leads().await;
        replicas.extend((1..count).map(|_| self.replica(nats)));
        replicas
    }

    /// A runner of four cores, its data in a directory of its own.
    pub fn runner(&self, id: &str, nats: &str) -> Process {
        let (_, stderr) = self.log(id);
        let mut command = longshore();
        command.args(["runner", "--nats", nats, "--id", id, "--cpu", "4", "--memory", "8GiB"]);
        command.args(["--grace", "200ms", "--data"]).arg(self.dir().join(id));
        Process::start(command.stderr(stderr))
    }

    /// A task that marks what it does, about every tenth of a second, for so many of them. Its lock is held by its
    /// first process alone, which ends with its runner.
    pub fn task(&self, id: &str, tenths: usize) -> Value {
        let dir = self.dir().display();
        let script = format!(
            "exec 9>>'{dir}'/lock-$LONGSHORE_TASK; \
             say() {{ read -r at rest < /proc/uptime; \
             echo \"$1 $LONGSHORE_TASK $LONGSHORE_TOKEN $PPID $at\" >> '{dir}'/marks; }}; \
             flock -n 9 || say clash; say start; \
             i=0; while [ $i -lt {tenths} ]; do sleep 0.1 9>&-; say alive; i=$((i+1)); done; say end"
        );
        json!({
            "id": id, "resources": {"cpu": 1, "memory": "16MiB"}, "max_attempts": 100,
            "spec": {"command": ["sh", "-c", script]},
        })
    }

    /// So many short ones.
    pub fn tasks(&self, prefix: &str, count: usize) -> Vec<Value> {
        (0..count).map(|number| self.task(&format!("{prefix}{number}"), number % 4)).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let read = std::fs::read_dir(self.dir()).into_iter().flatten().flatten();
        let mut logs: Vec<PathBuf> = read
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|is| is == "log"))
            .collect();
        logs.sort();
        for log in logs {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let telling = |line: &&str| !["task admitted"].iter().any(|usual| line.contains(usual));
            let lines: Vec<&str> = text.lines().filter(telling).collect();
            println!("--- {}", log.file_name().unwrap_or_default().display());
            lines[lines.len().saturating_sub(60)..].iter().for_each(|line| println!("{line}"));
        }
    }
}

/// A dispatcher.
pub struct Replica {
    pub process: Process,
    pub url: String,
    log: PathBuf,
}

impl Replica {
    /// What it answers on a path, if it does; with its status.
    pub async fn asked(&self, path: &str) -> Option<(u16, Value)> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().expect("a client");
        let answer = client.get(format!("{}{path}", self.url)).send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.ok()?))
    }

    /// What it answers on a path that is there.
    pub async fn get(&self, path: &str) -> Option<Value> {
        self.asked(path).await.filter(|(status, _)| *status == 200).map(|(_, body)| body)
    }

    /// How it stands.
    pub async fn status(&self) -> Option<Value> {
        self.get("/v1/status").await
    }

    /// Waits until its status is as `fact` says.
    pub async fn stands(&self, what: &str, fact: impl Fn(&Value) -> bool) -> Value {
        until(what, async || self.status().await.filter(&fact)).await
    }

    /// Waits until it leads.
    pub async fn leads(&self) {
        self.stands("it leads", |status| status["role"] == "leader").await;
    }

    /// Waits until it follows.
    pub async fn follows(&self) {
        self.stands("it follows", |status| status["role"] == "follower" && status["leader"] != Value::Null)
            .await;
    }

    /// Waits until a task is in this state here.
    pub async fn has(&self, id: &str, state: &str) -> Value {
        until(&format!("{id} is {state}"), async || {
            self.get(&format!("/v1/tasks/{id}")).await.filter(|task| task["state"] == state)
        })
        .await
    }

    /// Where it logs.
    pub fn log_path(&self) -> PathBuf {
        self.log.clone()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it to stop, and sees that it does so in order.
    pub async fn stop(self) {
        let log = self.log.clone();
        let ended = tokio::task::block_in_place(|| self.process.terminate());
        assert_eq!(
            ended.code(),
            Some(0),
            "it stops in order: {}",
            std::fs::read_to_string(log).unwrap_or_default()
        );
    }
}

/// The one that leads, by its place.
pub async fn leader(replicas: &[Replica]) -> usize {
    until("one leads", async || {
        for (place, replica) in replicas.iter().enumerate() {
            if replica.status().await.is_some_and(|status| status["role"] == "leader") {
                return Some(place);
            }
        }
        None
    })
    .await
}

/// Waits until so many runners are ready.
pub async fn runners_ready(replica: &Replica, count: usize) {
    until(&format!("{count} runners are ready"), async || {
        let runners = replica.get("/v1/runners").await?;
        let ready = runners["runners"].as_array()?.iter().filter(|runner| runner["state"] == "ready").count();
        (ready == count).then_some(())
    })
    .await;
}
