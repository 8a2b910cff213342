//! A scripted container engine: the calls of Docker's API that the back end makes, over a real socket, and the words in
//! which a story says what happens there. It runs nothing.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Query, Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::door::Door;

/// What the engine makes of one kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Nothing is done and nothing answered, until the weather changes.
    Silent,
    /// It is done, and what is answered makes no sense.
    Garbage,
    /// It is done, and answered when the weather changes.
    Late,
}

#[derive(Debug, Clone, Default)]
pub struct Container {
    labels: Value,
    /// How it ended, if it did: its code.
    ended: Option<i64>,
    started: bool,
}

#[derive(Debug, Default)]
struct Engine {
    images: Vec<String>,
    containers: BTreeMap<String, Container>,
    weather: BTreeMap<&'static str, Weather>,
    /// The calls that were made, in order.
    calls: Vec<&'static str>,
    /// Containers that were ever started.
    started: Vec<String>,
}

/// A scripted engine and the door to it.
#[derive(Debug)]
pub struct Scripted {
    engine: Arc<Mutex<Engine>>,
    changed: watch::Sender<u64>,
    pub door: Door,
    _serving: AbortOnDropHandle<()>,
    _dir: TempDir,
}

impl Scripted {
    /// An engine that has the image `tools:1`.
    pub async fn start() -> Self {
        let dir = TempDir::new().expect("a directory");
        let inner: PathBuf = dir.path().join("inner.sock");
        let engine = Engine { images: vec!["tools:1".to_owned()], ..Engine::default() };
        let (engine, changed) = (Arc::new(Mutex::new(engine)), watch::Sender::new(0));
        let api = Api { engine: engine.clone(), changed: changed.clone() };
        let router = Router::new().fallback(answer).with_state(api);
        let listener = UnixListener::bind(&inner).expect("a free path");
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        let door = Door::to(inner, dir.path().join("engine.sock"));
        Self { engine, changed, door, _serving: AbortOnDropHandle::new(serving), _dir: dir }
    }

    pub fn weather(&self, of: &'static str, weather: Weather) {
        self.change(|engine| engine.weather.insert(of, weather));
    }

    pub fn fair(&self) {
        self.change(|engine| engine.weather.clear());
    }

    /// Every container that runs ends with this code.
    pub fn all_end(&self, code: i64) {
        self.change(|engine| {
            let running = engine.containers.values_mut().filter(|one| one.started && one.ended.is_none());
            running.for_each(|one| one.ended = Some(code));
        });
    }

    /// Waits until a call was made so often.
    pub async fn called(&self, call: &'static str, times: usize) {
        let often = || lock(&self.engine).calls.iter().filter(|made| **made == call).count();
        self.until(&format!("{call} is called {times} times"), || often() >= times).await;
    }

    /// Waits until so many containers were ever started, whether or not anybody has heard of it.
    pub async fn has_started(&self, many: usize) {
        self.until(&format!("{many} are started"), || self.started() == many).await;
    }

    /// The names of containers that are there, and whether each runs.
    pub fn containers(&self) -> Vec<(String, bool)> {
        let engine = lock(&self.engine);
        let shown = |(name, one): (&String, &Container)| (name.clone(), one.started && one.ended.is_none());
        engine.containers.iter().map(shown).collect()
    }

    /// How many containers were ever started.
    pub fn started(&self) -> usize {
        lock(&self.engine).started.len()
    }

    async fn until(&self, what: &str, fact: impl Fn() -> bool) {
        let mut changed = self.changed.subscribe();
        let wait = async {
            while !fact() {
                changed.changed().await.expect("the engine is there");
            }
        };
        let patience = std::time::Duration::from_secs(20);
        tokio::time::timeout(patience, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    fn change<T>(&self, change: impl FnOnce(&mut Engine) -> T) {
        change(&mut lock(&self.engine));
        self.changed.send_modify(|version| *version += 1);
    }
}

fn lock(engine: &Mutex<Engine>) -> MutexGuard<'_, Engine> {
    engine.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Clone)]
struct Api {
    engine: Arc<Mutex<Engine>>,
    changed: watch::Sender<u64>,
}

async fn answer(
    State(api): State<Api>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Response {
    let path = request.uri().path().to_owned();
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    if parts[0].starts_with("v1.") {
        parts.remove(0);
    }
    let Some((call, name)) = called(request.method(), &parts, &query) else {
        return refused(404, &format!("the story knows no {} {path}", request.method()));
    };
    let body = to_bytes(request.into_body(), 1 << 20).await.expect("a body");
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    lock(&api.engine).calls.push(call);
    api.changed.send_modify(|version| *version += 1);
    let weather = lock(&api.engine).weather.get(call).copied();
    if weather == Some(Weather::Silent) {
        api.while_weather(call, Weather::Silent).await;
    }
    let answer = api.carry_out(call, &name, &query, body).await;
    match weather {
        Some(Weather::Late) => {
            api.while_weather(call, Weather::Late).await;
            answer
        }
        Some(Weather::Garbage) => (StatusCode::OK, "<html>no engine of yours</html>").into_response(),
        Some(Weather::Silent) | None => answer,
    }
}

/// Which call it is, and of what.
fn called(
    method: &Method,
    parts: &[&str],
    query: &HashMap<String, String>,
) -> Option<(&'static str, String)> {
    let of = |call, name: &str| Some((call, name.to_owned()));
    match (method.as_str(), parts) {
        ("GET", ["version"]) => of("version", ""),
        ("GET", ["images", name @ .., "json"]) => of("look for image", &name.join("/")),
        ("POST", ["images", "create"]) => of("pull", query.get("fromImage")?),
        ("POST", ["containers", "create"]) => of("create", query.get("name")?),
        ("GET", ["containers", "json"]) => of("list", ""),
        ("POST", ["containers", name, "start"]) => of("start", name),
        ("GET", ["containers", name, "logs"]) => of("logs", name),
        ("POST", ["containers", name, "wait"]) => of("wait", name),
        ("GET", ["containers", name, "json"]) => of("inspect", name),
        ("POST", ["containers", name, "kill"]) => of("kill", name),
        ("DELETE", ["containers", name]) => of("remove", name),
        _ => None,
    }
}

impl Api {
    async fn while_weather(&self, call: &str, weather: Weather) {
        let mut changed = self.changed.subscribe();
        while lock(&self.engine).weather.get(call) == Some(&weather) {
            changed.changed().await.expect("the story goes on");
        }
    }

    async fn carry_out(
        &self,
        call: &str,
        name: &str,
        query: &HashMap<String, String>,
        body: Value,
    ) -> Response {
        if call == "wait" {
            return self.wait(name).await;
        }
        let answer = self.at_once(call, name, query, &body);
        self.changed.send_modify(|version| *version += 1);
        answer
    }

    fn at_once(&self, call: &str, name: &str, query: &HashMap<String, String>, body: &Value) -> Response {
        let mut engine = lock(&self.engine);
        let nothing = StatusCode::NO_CONTENT.into_response();
        match call {
            "version" => Json(json!({"ApiVersion": "1.41", "Version": "scripted"})).into_response(),
            "look for image" if engine.images.iter().any(|image| image == name) => {
                Json(json!({"Id": name})).into_response()
            }
            "look for image" => refused(404, &format!("No such image: {name}")),
            "pull" => {
                engine.images.push(name.to_owned());
                "{\"status\":\"Download complete\"}\n".into_response()
            }
            "create" => {
                let made = Container { labels: body["Labels"].clone(), ..Container::default() };
                engine.containers.insert(name.to_owned(), made);
                (StatusCode::CREATED, Json(json!({"Id": name, "Warnings": []}))).into_response()
            }
            "list" => Json(engine.listed(query)).into_response(),
            "logs" => self.logs(name),
            _ => {
                let Some(container) = engine.containers.get_mut(name) else {
                    return refused(404, &format!("No such container: {name}"));
                };
                match call {
                    "start" => {
                        container.started = true;
                        engine.started.push(name.to_owned());
                        nothing
                    }
                    "kill" if container.ended.is_some() => refused(409, "it is not running"),
                    "kill" => {
                        let killed = query.get("signal").is_some_and(|signal| signal == "SIGKILL");
                        container.ended = Some(if killed { 137 } else { 143 });
                        nothing
                    }
                    "remove" => {
                        engine.containers.remove(name);
                        nothing
                    }
                    _ => {
                        let running = container.started && container.ended.is_none();
                        let state = json!({"Running": running, "ExitCode": container.ended.unwrap_or(0),
                            "OOMKilled": false, "Error": ""});
                        Json(json!({"Id": name, "State": state})).into_response()
                    }
                }
            }
        }
    }

    async fn wait(&self, name: &str) -> Response {
        let mut changed = self.changed.subscribe();
        loop {
            let found = lock(&self.engine).containers.get(name).map(|one| one.ended);
            match found {
                None => return refused(404, &format!("No such container: {name}")),
                Some(Some(code)) => return Json(json!({"StatusCode": code})).into_response(),
                Some(None) => changed.changed().await.expect("the story goes on"),
            }
        }
    }

    /// One line, then nothing until it has ended.
    fn logs(&self, name: &str) -> Response {
        let (api, name) = (self.clone(), name.to_owned());
        let line = b"a line\n";
        let head = [&[1, 0, 0, 0, 0, 0, 0, u8::try_from(line.len()).expect("short")][..], line].concat();
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from(head))]);
        let rest = futures_util::stream::once(async move {
            api.wait(&name).await;
            Ok(Bytes::new())
        });
        Body::from_stream(first.chain(rest)).into_response()
    }
}

impl Engine {
    fn listed(&self, query: &HashMap<String, String>) -> Value {
        let filters: Value =
            query.get("filters").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let wanted: Vec<&str> =
            filters["label"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let has = |one: &Container| {
            wanted
                .iter()
                .all(|label| label.split_once('=').is_some_and(|(key, value)| one.labels[key] == value))
        };
        let shown = self.containers.iter().filter(|(_, one)| has(one));
        shown.map(|(name, one)| json!({"Id": name, "Labels": one.labels})).collect()
    }
}

fn refused(status: u16, message: &str) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    (status, Json(json!({"message": message}))).into_response()
}
