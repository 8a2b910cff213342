//! A dispatcher to talk to, and a runner that knows nothing but the protocol.

use std::sync::Arc;
use std::time::Duration;

use longshore::adapters::{FaultyTable, MemoryTable, OutputFiles, SystemClock};
use longshore::cli::embedded::{self, Parts, Running};
use longshore::config;
use longshore::core::Settings;
use longshore::model::Row;
use longshore::runtime::Stopped;
use reqwest::{Body, Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes; a story that needs it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A dispatcher on a free port.
pub struct Server {
    pub running: Running,
    stop: CancellationToken,
    client: reqwest::Client,
    _dir: Option<TempDir>,
}

/// An answer over HTTP.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Server {
    /// With default settings, its table in a file.
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// With changed settings, its table in a file.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut settings = config::load(None, [], &[]).expect("the defaults are valid");
        settings.server.listen = ([127, 0, 0, 1], 0).into();
        settings.server.data = dir.path().join("data");
        change(&mut settings.decisions);
        let stop = CancellationToken::new();
        let running = embedded::start(&settings, stop.clone()).await.expect("it starts");
        Self { running, stop, client: reqwest::Client::new(), _dir: Some(dir) }
    }

    /// On a table in memory that goes wrong on demand.
    pub async fn start_on(table: &FaultyTable) -> Self {
        let table = Arc::new(table.clone());
        let dir = TempDir::new().expect("a temporary directory");
        let parts = Parts {
            output: Arc::new(OutputFiles::new(dir.path().join("output"))),
            table: table.clone(),
            history: table,
            clock: Arc::new(SystemClock::new()),
            decisions: Arc::new(Settings::default()),
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let stop = CancellationToken::new();
        let running = embedded::compose(parts, listener, stop.clone()).await.expect("it starts");
        Self { running, stop, client: reqwest::Client::new(), _dir: Some(dir) }
    }

    pub fn faulty_table() -> FaultyTable {
        FaultyTable::over(MemoryTable::new())
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.running.url())
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, self.url(path))
    }

    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        send(self.request(Method::DELETE, path)).await
    }

    pub async fn post(&self, path: &str, body: impl Into<Said>) -> Answer {
        send(self.request(Method::POST, path).body(body.into().0)).await
    }

    /// Submits one task and expects it to be admitted.
    pub async fn submit(&self, task: Value) {
        let answer = self.post("/v1/tasks", task).await.is(202);
        assert_eq!(answer.body[0]["answer"], "admitted", "{answer:?}");
    }

    /// Everything a turn could have changed.
    pub fn rows(&self) -> Vec<Row> {
        self.running.handle.view().read(|state| state.rows())
    }

    /// Expects that everything derived from the committed rows is what the rows say.
    pub fn is_sound(&self) {
        let broken = self.running.handle.view().read(longshore::core::invariant::check);
        assert!(broken.is_empty(), "{broken:?}");
    }

    /// Begins to stop, without waiting for the end.
    pub fn begin_to_stop(&self) {
        self.stop.cancel();
    }

    /// Stops, and says how it ended.
    pub async fn stop(self) -> Stopped {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.running.finished()).await.expect("it stops")
    }

    /// Waits until a runner's poll has been taken.
    pub async fn until_polled(&self) {
        let polled = async {
            while self.running.outbox.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, polled).await.expect("a runner asks");
    }

    /// Waits until the committed rows satisfy `fact`.
    pub async fn until(&self, what: &str, fact: impl Fn(&longshore::core::State) -> bool) {
        let mut turns = self.running.handle.turns();
        let waited = async {
            while !self.running.handle.view().read(&fact) {
                // A gap in the turns is no reason to stop looking.
                let _ = turns.recv().await;
            }
        };
        tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("never true: {what}"));
    }
}

/// A body.
pub struct Said(Body);

impl From<Value> for Said {
    fn from(value: Value) -> Self {
        Self(value.to_string().into())
    }
}

impl From<&Value> for Said {
    fn from(value: &Value) -> Self {
        Self(value.to_string().into())
    }
}

impl From<&'static str> for Said {
    fn from(text: &'static str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Said {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

/// Sends a request and reads the answer whole.
pub async fn send(request: reqwest::RequestBuilder) -> Answer {
    let response = request.timeout(PATIENCE).send().await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.expect("a body");
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Answer { status, headers, body, text }
}

impl Answer {
    /// Expects a status.
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }

    /// Expects a problem document whose detail names all of `named`.
    pub fn problem(self, status: u16, code: &str, named: &[&str]) -> Self {
        let answer = self.is(status);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(answer.body["code"], code, "{}", answer.text);
        assert_eq!(answer.body["status"], status);
        assert_eq!(answer.body["type"], "about:blank");
        let detail = answer.body["detail"].as_str().expect("a detail");
        for named in named {
            assert!(detail.contains(named), "{detail:?} does not name {named:?}");
        }
        answer
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("plain text"))
    }
}

/// A runner that knows nothing but the protocol.
pub struct ByHand<'a> {
    pub server: &'a Server,
    pub id: &'static str,
    pub incarnation: &'static str,
}

impl<'a> ByHand<'a> {
    /// Registers a runner of 8 cores.
    pub async fn register(server: &'a Server, id: &'static str) -> Self {
        let runner = Self { server, id, incarnation: "one" };
        runner.register_again().await;
        runner
    }

    pub fn registration(&self) -> Value {
        json!({
            "id": self.id, "incarnation": self.incarnation, "kinds": ["job", "build"], "queues": ["*"],
            "arch": "amd64", "os": "linux", "resources": {"cpu": 8, "memory": "32GiB", "gpu": 2},
            "slots": 100, "running": [], "version": "by hand", "protocol": 1,
        })
    }

    pub async fn register_again(&self) -> Value {
        let answer = self.server.post("/v1/runners", self.registration()).await.is(200).body;
        assert_eq!(answer["lease"], "15s");
        answer
    }

    pub fn path(&self, what: &str) -> String {
        format!("/v1/runners/{}/{what}", self.id)
    }

    /// One long poll.
    pub async fn poll(&self, wait: &str) -> Value {
        self.server.get(&self.path(&format!("assignments?wait={wait}"))).await.is(200).body
    }

    pub async fn heartbeat(&self, number: u64, running: &[(&str, &str)]) -> Value {
        let running: Vec<Value> =
            running.iter().map(|(id, token)| json!({"id": id, "token": token})).collect();
        let beat = json!({"incarnation": self.incarnation, "number": number, "running": running});
        self.server.post(&self.path("heartbeat"), beat).await.is(200).body
    }

    pub fn started(&self, id: &str, token: &str) -> Value {
        json!({"report": "start", "kind": "job", "id": id, "token": token, "incarnation": self.incarnation})
    }

    pub fn ended(&self, id: &str, token: &str, outcome: &str) -> Value {
        json!({"report": "end", "kind": "job", "id": id, "token": token, "incarnation": self.incarnation,
            "outcome": outcome, "exit_code": 0, "message": "done"})
    }

    pub async fn report(&self, reports: &[Value]) {
        let answer = self.server.post(&self.path("reports"), json!({"reports": reports})).await.is(202);
        assert_eq!(answer.body["taken"], reports.len());
    }

    /// Starts the one task a poll brings, and says which it is, under which token.
    pub async fn start_next(&self) -> (String, String) {
        let delivery = self.poll("10s").await;
        let assignment = &delivery["assignments"][0];
        let text = |field: &str| assignment[field].as_str().expect("a text").to_owned();
        let (id, token) = (text("id"), text("token"));
        self.report(&[self.started(&id, &token)]).await;
        (id, token)
    }
}
