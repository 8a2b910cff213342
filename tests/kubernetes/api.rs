//! The API of the scripted cluster, over HTTP: make, look, list, change, delete, watch, read output.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Query, Request, State as Shared};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::cluster::{NAMESPACE, State, Weather};
use super::{controllers, rules};

/// How long a watch looks for news before it looks whether it is over.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Clone)]
struct Api {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

/// What a call is about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Called {
    verb: &'static str,
    resource: &'static str,
    name: String,
}

pub async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

pub async fn serve(listener: TcpListener, state: Arc<Mutex<State>>, changed: watch::Sender<u64>) {
    let router = Router::new().fallback(answer).with_state(Api { state, changed });
    axum::serve(listener, router).await.expect("it serves");
}

async fn answer(
    Shared(api): Shared<Api>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Response {
    let path = request.uri().path().to_owned();
    let Some(called) = called(request.method(), &path, &query) else {
        return refused(404, "NotFound", &format!("the server could not find the requested resource {path}"));
    };
    let body = to_bytes(request.into_body(), 1 << 20).await.expect("a body");
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let weather = {
        let mut state = api.state();
        let resource = if called.verb == "log" { "pods/log" } else { called.resource };
        let verb = if called.verb == "log" { "get" } else { called.verb };
        state.calls.insert((verb.to_owned(), resource.to_owned()));
        *state.counts.entry(called.verb.to_owned()).or_default() += 1;
        state.weather
    };
    match weather {
        Weather::CutOff => {
            let mut changed = api.changed.subscribe();
            while api.state().weather == Weather::CutOff {
                let _ = timeout(LOOK, changed.changed()).await;
            }
            return refused(503, "ServiceUnavailable", "nobody hears of this answer");
        }
        Weather::Failing(status) => return refused(status, "InternalError", "the story says so"),
        Weather::Forbids(verb) if verb == called.verb => {
            let message = format!("{} is forbidden: User \"story\" cannot {verb} resource", called.resource);
            return refused(403, "Forbidden", &message);
        }
        _ => {}
    }
    let response = match called.verb {
        "create" => api.create(body),
        "get" => api.get(&called),
        "list" => api.list(&called, &query),
        "patch" => api.patch(&called, &body),
        "delete" => api.delete(&called, &body),
        "watch" => return api.watch(called, &query),
        _ => return api.log(called.name),
    };
    controllers::act(&api.state, &api.changed);
    if weather == Weather::LosesAnswers {
        refused(500, "InternalError", "the story says so")
    } else {
        response
    }
}

fn called(method: &Method, path: &str, query: &HashMap<String, String>) -> Option<Called> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (resource, rest) = match parts.as_slice() {
        ["apis", "batch", "v1", "namespaces", NAMESPACE, "jobs", rest @ ..] => ("jobs", rest),
        ["api", "v1", "namespaces", NAMESPACE, "pods", rest @ ..] => ("pods", rest),
        ["api", "v1", "nodes"] => ("nodes", &[][..]),
        _ => return None,
    };
    let (verb, name) = match (method.as_str(), rest) {
        ("GET", []) if query.get("watch").is_some_and(|watch| watch == "true") => ("watch", ""),
        ("GET", []) => ("list", ""),
        ("POST", []) if resource == "jobs" => ("create", ""),
        ("GET", [name]) => ("get", *name),
        ("GET", [name, "log"]) => ("log", *name),
        ("PATCH", [name]) => ("patch", *name),
        ("DELETE", [name]) => ("delete", *name),
        _ => return None,
    };
    Some(Called { verb, resource, name: name.to_owned() })
}

impl Api {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(&self, mut body: Value) -> Response {
        let mut state = self.state();
        let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if let Err(why) = rules::job(&body) {
            return refused(422, "Invalid", &format!("Job.batch {name:?} is invalid: {why}"));
        }
        if state.jobs.contains_key(&name) {
            return refused(409, "AlreadyExists", &format!("jobs.batch {name:?} already exists"));
        }
        body["metadata"]["uid"] = json!(format!("uid-{name}-{}", state.version));
        state.jobs.insert(name.clone(), body);
        state.tell("jobs", "ADDED", &name);
        (StatusCode::CREATED, Json(state.jobs[&name].clone())).into_response()
    }

    fn get(&self, called: &Called) -> Response {
        let state = self.state();
        let all = if called.resource == "jobs" { &state.jobs } else { &state.pods };
        all.get(&called.name).map_or_else(|| not_found(called), |found| Json(found.clone()).into_response())
    }

    fn list(&self, called: &Called, query: &HashMap<String, String>) -> Response {
        let state = self.state();
        let all: Vec<Value> = match called.resource {
            "jobs" => state.jobs.values().cloned().collect(),
            "pods" => state.pods.values().cloned().collect(),
            _ => state.nodes.clone(),
        };
        let items: Vec<Value> = all.into_iter().filter(|one| is_selected(one, query)).collect();
        let (kind, api) = match called.resource {
            "jobs" => ("JobList", "batch/v1"),
            "pods" => ("PodList", "v1"),
            _ => ("NodeList", "v1"),
        };
        let metadata = json!({"resourceVersion": state.version.to_string()});
        Json(json!({"apiVersion": api, "kind": kind, "metadata": metadata, "items": items})).into_response()
    }

    fn patch(&self, called: &Called, change: &Value) -> Response {
        let mut state = self.state();
        let Some(before) = state.jobs.get(&called.name).cloned() else { return not_found(called) };
        let mut after = before.clone();
        merge(&mut after, change);
        if let Err(why) = rules::change(&before, &after) {
            return refused(422, "Invalid", &format!("Job.batch {:?} is invalid: {why}", called.name));
        }
        state.set_job(&called.name, |job| *job = after);
        Json(state.jobs[&called.name].clone()).into_response()
    }

    fn delete(&self, called: &Called, options: &Value) -> Response {
        let mut state = self.state();
        let all = if called.resource == "jobs" { &state.jobs } else { &state.pods };
        let Some(found) = all.get(&called.name).cloned() else { return not_found(called) };
        if called.resource == "jobs" {
            state.delete_job(&called.name, options["propagationPolicy"].as_str().unwrap_or("Background"));
        } else {
            let usual = found["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
            state.ask_end(&called.name, options["gracePeriodSeconds"].as_u64().unwrap_or(usual));
        }
        Json(found).into_response()
    }

    fn watch(&self, called: Called, query: &HashMap<String, String>) -> Response {
        let from: u64 = query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
        let seconds = query.get("timeoutSeconds").and_then(|text| text.parse().ok()).unwrap_or(60);
        let over = Instant::now() + Duration::from_secs(seconds);
        let (api, query, generation) = (self.clone(), query.clone(), self.state().generation);
        let lines = stream::unfold(Some(from), move |from| {
            let (api, query, called) = (api.clone(), query.clone(), called.clone());
            async move {
                let mut from = from?;
                let mut changed = api.changed.subscribe();
                loop {
                    {
                        let state = api.state();
                        if state.generation != generation || Instant::now() >= over {
                            return None;
                        }
                        if from < state.oldest {
                            let status = status(410, "Expired", "too old resource version");
                            return line(&json!({"type": "ERROR", "object": status}), None);
                        }
                        let shown = |event: &&super::cluster::Event| {
                            event.version > from
                                && event.resource == called.resource
                                && is_selected(&event.object, &query)
                        };
                        if let Some(event) = state.events.iter().find(shown) {
                            let told = json!({"type": event.kind, "object": event.object});
                            return line(&told, Some(event.version));
                        }
                        from = from.max(state.version);
                    }
                    let _ = timeout(LOOK, changed.changed()).await;
                }
            }
        });
        Body::from_stream(lines).into_response()
    }

    fn log(&self, pod: String) -> Response {
        {
            let state = self.state();
            let Some(found) = state.pods.get(&pod) else {
                return not_found(&Called { verb: "get", resource: "pods", name: pod });
            };
            if found["status"]["phase"] == "Pending" {
                return refused(400, "BadRequest", "container \"task\" is waiting to start");
            }
        }
        let (api, generation) = (self.clone(), self.state().generation);
        let chunks = stream::unfold(0, move |from: usize| {
            let (api, pod) = (api.clone(), pod.clone());
            async move {
                let mut changed = api.changed.subscribe();
                loop {
                    {
                        let mut state = api.state();
                        let written = state.logs.get(&pod).map_or(&[][..], |all| &all[from.min(all.len())..]);
                        if from == usize::MAX {
                            return None;
                        }
                        if state.generation != generation {
                            return Some((Err(std::io::Error::other("it broke off")), usize::MAX));
                        }
                        if !written.is_empty() {
                            let (chunk, next) = (Bytes::copy_from_slice(written), from + written.len());
                            state.read.insert(pod);
                            api.changed.send_modify(|_| ());
                            return Some((Ok(chunk), next));
                        }
                        if state.pods.get(&pod).is_none_or(|pod| pod["status"]["phase"] != "Running") {
                            return None;
                        }
                    }
                    let _ = timeout(LOOK, changed.changed()).await;
                }
            }
        });
        Body::from_stream(chunks).into_response()
    }
}

fn line(told: &Value, next: Option<u64>) -> Option<(Result<Bytes, Infallible>, Option<u64>)> {
    Some((Ok(Bytes::from(format!("{told}\n"))), next))
}

fn is_selected(object: &Value, query: &HashMap<String, String>) -> bool {
    let selector = query.get("labelSelector").map(String::as_str).unwrap_or_default();
    selector.split(',').filter(|one| !one.is_empty()).all(|one| {
        let (name, value) = one.split_once('=').expect("name=value");
        object["metadata"]["labels"][name] == value
    })
}

/// A change as RFC 7396 says.
fn merge(into: &mut Value, change: &Value) {
    let Some(change) = change.as_object() else {
        *into = change.clone();
        return;
    };
    for (name, value) in change {
        if value.is_null() {
            into.as_object_mut().map(|object| object.remove(name));
        } else {
            merge(&mut into[name.as_str()], value);
        }
    }
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message})
}

fn refused(code: u16, reason: &str, message: &str) -> Response {
    let status_code = StatusCode::from_u16(code).expect("a status");
    (status_code, Json(status(code, reason, message))).into_response()
}

fn not_found(called: &Called) -> Response {
    refused(404, "NotFound", &format!("{} {:?} not found", called.resource, called.name))
}
