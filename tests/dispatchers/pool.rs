//! A pool to talk to: one dispatcher with a table of its own, or one or three with theirs on JetStream.

use std::cell::Cell;
use std::time::{Duration, Instant};

use longshore::broker::{self, Connection};
use longshore::wire::subject::{DEFAULT_POOL, Names};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::runner::ByHand;
use crate::binary::{PATIENCE, Server, longshore};
use crate::broker::Broker;

/// Tasks of queue `near` wait so long for who holds what they make, and then for who holds what they read.
pub const CACHE_WAIT: u64 = 300;
pub const DEPS_WAIT: u64 = 400;

/// Leases outlive every story here: nobody is lost for being told slowly.
const SETTINGS: [(&str, &str); 7] = [
    ("LONGSHORE_QUEUES__NEAR__CACHE_WAIT", "300ms"),
    ("LONGSHORE_QUEUES__NEAR__DEPS_WAIT", "400ms"),
    ("LONGSHORE_QUEUES__FAR__CACHE_WAIT", "1h"),
    ("LONGSHORE_QUEUES__FAR__DEPS_WAIT", "1h"),
    ("LONGSHORE_NATS__TAKE_OVER", "1s"),
    ("LONGSHORE_LEASE__TTL", "2m"),
    ("LONGSHORE_LOG__LEVEL", "warn"),
];

/// Some dispatchers, and where they keep their table.
pub struct Pool {
    replicas: Vec<Server>,
    /// The next of them to be asked.
    next: Cell<usize>,
    client: reqwest::Client,
    broker: Option<Broker>,
    dir: TempDir,
}

impl Pool {
    /// One dispatcher.
    pub async fn of_one() -> Self {
        let mut pool = Self::new(None);
        pool.replicas.push(pool.start("127.0.0.1:0"));
        pool
    }

    /// One with a table on JetStream.
    pub async fn of_one_on_nats() -> Self {
        Self::on_nats(1).await
    }

    /// Three that share a table.
    pub async fn of_three() -> Self {
        Self::on_nats(3).await
    }

    async fn on_nats(replicas: usize) -> Self {
        let mut pool = Self::new(Some(Broker::start()));
        for _ in 0..replicas {
            pool.replicas.push(pool.start("127.0.0.1:0"));
        }
        pool.until("/v1/status", |status| status["leader"] != Value::Null).await;
        pool
    }

    fn new(broker: Option<Broker>) -> Self {
        let dir = TempDir::with_prefix("longshore-dispatchers-").expect("a temporary directory");
        Self { replicas: Vec::new(), next: Cell::new(0), client: reqwest::Client::new(), broker, dir }
    }

    fn start(&self, listen: &str) -> Server {
        let mut command = longshore();
        command.args(["serve", "--listen", listen]).envs(SETTINGS);
        match &self.broker {
            Some(broker) => command.args(["--nats", &broker.url()]),
            None => command.arg("--data").arg(self.dir.path().join("table")),
        };
        Server::started(&mut command, self.dir.path())
    }

    /// Asks the next replica, and the one after it if that cannot say yet: who follows may not have heard, and nobody
    /// may lead. What is asked is safe to repeat.
    #[expect(clippy::disallowed_methods, reason = "a deadline of a test")]
    async fn ask(&self, method: Method, path: &str, body: &Value) -> Value {
        let began = Instant::now();
        loop {
            let place = self.next.get() % self.replicas.len();
            self.next.set(place + 1);
            let url = format!("{}{path}", self.replicas[place].url);
            let request = self.client.request(method.clone(), &url).timeout(PATIENCE);
            let request = if body.is_null() { request } else { request.body(body.to_string()) };
            let said = match request.send().await {
                Err(why) => why.to_string(),
                Ok(answer) => {
                    let status = answer.status();
                    let text = answer.text().await.unwrap_or_default();
                    if status.is_success() {
                        return serde_json::from_str(&text).expect("it answers in JSON");
                    }
                    assert!(status.is_server_error() || status == 404, "{method} {path}: {status} {text}");
                    text
                }
            };
            assert!(began.elapsed() < PATIENCE, "{method} {path}: {said}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn get(&self, path: &str) -> Value {
        self.ask(Method::GET, path, &Value::Null).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.ask(Method::POST, path, &body).await
    }

    /// Submits tasks in one message.
    pub async fn submit<const N: usize>(&self, tasks: [Value; N]) {
        let answers = self.post("/v1/tasks", json!({"tasks": Vec::from(tasks)})).await;
        for answer in answers.as_array().expect("an answer for each") {
            assert!(
                ["admitted", "accepted", "duplicate"].iter().any(|word| answer["answer"] == *word),
                "{answer}"
            );
        }
    }

    pub async fn cancel(&self, task: &str) {
        self.ask(Method::DELETE, &format!("/v1/tasks/{task}"), &Value::Null).await;
    }

    /// Waits until every replica says so, and says what the last of them said.
    #[expect(clippy::disallowed_methods, reason = "a deadline of a test")]
    pub async fn until(&self, path: &str, fact: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        let mut said = Value::Null;
        for replica in &self.replicas {
            loop {
                let answer = self.client.get(format!("{}{path}", replica.url)).timeout(PATIENCE).send().await;
                if let Ok(answer) = answer {
                    said = answer.json().await.unwrap_or_default();
                    if fact(&said) {
                        break;
                    }
                }
                assert!(began.elapsed() < PATIENCE, "{path} at {}: {said}", replica.url);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        said
    }

    /// Waits until every replica shows the task in this state, or as ended with this outcome.
    pub async fn shows(&self, task: &str, word: &str) -> Value {
        self.until(&format!("/v1/tasks/{task}"), |task| task["state"] == word || task["outcome"] == word)
            .await
    }

    /// A runner of so many cores that knows nothing but the protocol.
    pub async fn runner(&self, id: &'static str, cores: u64) -> ByHand {
        self.runner_like(id, json!({"resources": {"cpu": cores, "memory": "32GiB"}})).await
    }

    /// The same with what else it says.
    pub async fn runner_like(&self, id: &'static str, says: Value) -> ByHand {
        let mut registration = json!({
            "id": id, "incarnation": "one", "kinds": ["job", "build"], "queues": ["*"], "arch": "amd64", "os": "linux",
            "resources": {"cpu": 8, "memory": "32GiB"}, "slots": 100, "running": [], "version": "by hand", "protocol": 1,
        });
        for (field, value) in says.as_object().expect("fields") {
            registration[field] = value.clone();
        }
        self.post("/v1/runners", registration).await;
        ByHand::new(id)
    }

    /// Whoever leads dies. One that is alone is started again; of several another leads.
    pub async fn loses_its_leader(&mut self) {
        if self.replicas.len() == 1 {
            let old = self.replicas.pop().expect("one");
            let address = old.address();
            old.process.kill();
            self.replicas.push(self.start(&address));
            return;
        }
        let mut leading = None;
        for (place, replica) in self.replicas.iter().enumerate() {
            let status = self.client.get(format!("{}/v1/status", replica.url)).send().await;
            let status: Value = status.expect("it answers").json().await.expect("JSON");
            if status["role"] == "leader" {
                leading = Some((place, status["leader"].clone()));
            }
        }
        let (place, dead) = leading.expect("one leads");
        self.replicas.remove(place).process.kill();
        self.until("/v1/status", |status| status["leader"] != Value::Null && status["leader"] != dead).await;
    }

    /// Asks all of them to stop, and sees that each does so in order and leaves nothing in the streams.
    pub async fn stops_with_nothing_left(self) {
        for replica in self.replicas {
            let ended = tokio::task::block_in_place(|| replica.process.terminate());
            assert_eq!(ended.code(), Some(0), "it stops in order");
        }
        let Some(broker) = &self.broker else { return };
        let server = broker::Server { url: broker.url(), name: "test".to_owned(), ..Default::default() };
        let connection = Connection::open(&server).await.expect("the server is there");
        let names = Names::of_pool(DEFAULT_POOL);
        for stream in [names.submit_stream(), names.report_stream()] {
            let mut stream = connection.jetstream.get_stream(stream).await.expect("it is there");
            let info = stream.info().await.expect("it answers");
            assert_eq!(info.state.messages, 0, "{}", info.config.name);
        }
    }
}

/// Each story with one dispatcher, with one on NATS, and with three.
macro_rules! with_one_and_with_three {
    ($($story:ident),+ $(,)?) => {
        mod with_one {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $story() {
                super::$story(super::Pool::of_one().await).await;
            })+
        }
        mod with_one_on_nats {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $story() {
                super::$story(super::Pool::of_one_on_nats().await).await;
            })+
        }
        mod with_three {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $story() {
                super::$story(super::Pool::of_three().await).await;
            })+
        }
    };
}

pub(super) use with_one_and_with_three;
