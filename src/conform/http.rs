//! The door over HTTP: the calls of runners and pullers, carried to the dispatcher and the counter.
//!
//! Law: it decides nothing. Until it is opened its address is taken and connections to it are refused; with it goes
//! all that waits at it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post};
use axum::serve::ListenerExt;
use serde::Deserialize;
use tokio::net::TcpSocket;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::counter::{Answer, Asked, Counter};
use super::dispatcher::{Dispatcher, Reply, Weather};
use crate::model::time::parse_span;
use crate::model::{Id, RunnerId};
use crate::wire::message::Said;
use crate::wire::output::read_pieces;
use crate::wire::refusal::{CONFLICT, UNKNOWN_RUNNER};
use crate::wire::subject::Ask;

/// How often a poll looks whether something is to be sent again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// An address, and what answers there.
#[derive(Debug)]
pub struct Door {
    address: SocketAddr,
    routes: Router,
    closed: Option<TcpSocket>,
    serving: Option<AbortOnDropHandle<io::Result<()>>>,
}

#[derive(Debug, Clone)]
struct Behind {
    dispatcher: Dispatcher,
    counter: Counter,
}

/// What a pull or a poll asks for.
#[derive(Debug, Default, Deserialize)]
struct Wanted {
    wait: Option<String>,
    puller: Option<Id>,
}

impl Door {
    /// A closed door at `address`, or at a free port of this machine.
    pub async fn new(
        address: Option<SocketAddr>,
        dispatcher: Dispatcher,
        counter: Counter,
    ) -> io::Result<Self> {
        let address = address.unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let routes = Router::new()
            .route("/v1/runners", post(register))
            .route("/v1/runners/{id}/heartbeat", post(heartbeat))
            .route("/v1/runners/{id}/leave", post(leave))
            .route("/v1/runners/{id}/reports", post(reports))
            .route("/v1/runners/{id}/assignments", get(assignments))
            .route("/v1/runners/{id}/output", post(output))
            .route("/v1/subscriptions", post(subscribe))
            .route("/v1/subscriptions/{id}", patch(pull))
            .route("/v1/subscriptions/{id}", delete(unsubscribe))
            .route("/v1/leases/{id}/{word}", post(say))
            .with_state(Behind { dispatcher, counter });
        Ok(Self { address: socket.local_addr()?, routes, closed: Some(socket), serving: None })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Opens it.
    pub async fn open(&mut self) -> io::Result<()> {
        let Some(socket) = self.closed.take() else { return Ok(()) };
        let listener = socket.listen(1024)?.tap_io(|stream| drop(stream.set_nodelay(true)));
        let routes = self.routes.clone();
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await });
        self.serving = Some(AbortOnDropHandle::new(serving));
        Ok(())
    }
}

impl Behind {
    /// Waits as long as nothing is answered.
    async fn keeps_silent(&self) {
        let (mut dispatcher, mut counter) = (self.dispatcher.changes(), self.counter.changes());
        while self.dispatcher.weather() == Weather::Silent || self.counter.weather() == Weather::Silent {
            tokio::select! {
                changed = dispatcher.changed() => changed.expect("this scene holds it"),
                changed = counter.changed() => changed.expect("this scene holds it"),
            }
        }
    }

    async fn carry(&self, reply: Reply, taken: StatusCode) -> Response {
        match reply {
            Reply::Taken(body) => json(taken, body),
            Reply::Refused(refusal) => {
                let status = match refusal.code.as_str() {
                    UNKNOWN_RUNNER => 404,
                    CONFLICT => 409,
                    _ => 400,
                };
                shown(Answer::problem(status, &refusal.code, &refusal.detail))
            }
            Reply::Away => shown(away()),
            Reply::Silence => {
                self.keeps_silent().await;
                shown(away())
            }
        }
    }

    async fn ask(&self, ask: Ask, id: Option<&str>, body: &[u8]) -> Response {
        let runner: Option<RunnerId> = match id.map(str::parse).transpose() {
            Ok(runner) => runner,
            Err(_) => return shown(Answer::problem(400, "malformed", "the path names no runner")),
        };
        self.carry(self.dispatcher.answer(ask, runner.as_ref(), body), StatusCode::OK).await
    }

    /// What stands instead of an answer at the moment, for `asked` at the counter.
    async fn counter_is_closed(&self, asked: impl FnOnce() -> Asked) -> Option<Response> {
        let weather = self.counter.weather();
        if !matches!(weather, Weather::Away | Weather::Silent) {
            return None;
        }
        self.counter.was_not_answered(asked());
        if weather == Weather::Silent {
            self.keeps_silent().await;
        }
        Some(shown(away()))
    }
}

async fn register(State(behind): State<Behind>, body: Bytes) -> Response {
    behind.ask(Ask::Register, None, &body).await
}

async fn heartbeat(State(behind): State<Behind>, Path(id): Path<String>, body: Bytes) -> Response {
    behind.ask(Ask::Heartbeat, Some(&id), &body).await
}

async fn leave(State(behind): State<Behind>, Path(id): Path<String>, body: Bytes) -> Response {
    behind.ask(Ask::Leave, Some(&id), &body).await
}

async fn reports(State(behind): State<Behind>, Path(id): Path<RunnerId>, body: Bytes) -> Response {
    let said = Said { runner: Some(&id), ..Said::default() };
    behind.carry(behind.dispatcher.report(said, &body), StatusCode::ACCEPTED).await
}

/// What work writes is taken and not kept.
async fn output(Path(_): Path<RunnerId>, body: Bytes) -> Response {
    match read_pieces(&body) {
        Ok(pieces) => json(StatusCode::ACCEPTED, format!("{{\"taken\":{}}}", pieces.len()).into_bytes()),
        Err(why) => shown(Answer::problem(400, "malformed", &why.to_string())),
    }
}

async fn assignments(
    State(behind): State<Behind>,
    Path(_): Path<RunnerId>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let late = late(&wanted, Duration::from_secs(30));
    let mut changes = behind.dispatcher.changes();
    loop {
        match behind.dispatcher.weather() {
            Weather::Away => return shown(away()),
            Weather::Silent => {
                behind.keeps_silent().await;
                return shown(away());
            }
            _ if !behind.dispatcher.knows_its_runner() => {
                return shown(Answer::problem(404, "unknown_runner", "it has not registered here"));
            }
            _ => {}
        }
        if let Some(delivery) = behind.dispatcher.delivery() {
            return json(StatusCode::OK, delivery);
        }
        if Instant::now() >= late {
            return json(StatusCode::OK, br#"{"assignments":[],"stop":[]}"#.to_vec());
        }
        // A change and the time to look again are both reasons to go on.
        let _ = timeout_at(late.min(Instant::now() + LOOK_AGAIN), changes.changed()).await;
    }
}

async fn subscribe(State(behind): State<Behind>, body: Bytes) -> Response {
    match behind.counter_is_closed(|| Counter::subscription(&body)).await {
        Some(closed) => closed,
        None => shown(behind.counter.subscribe(&body)),
    }
}

async fn pull(State(behind): State<Behind>, Path(id): Path<Id>, Query(wanted): Query<Wanted>) -> Response {
    let late = late(&wanted, Duration::ZERO);
    let mut changes = behind.counter.changes();
    loop {
        if let Some(closed) = behind.counter_is_closed(|| Asked::Pulled(wanted.puller.clone())).await {
            return closed;
        }
        if let Some(answer) = behind.counter.pull(&id, wanted.puller.as_ref(), Instant::now() >= late) {
            return shown(answer);
        }
        // A change and the end of the wait are both reasons to go on.
        let _ = timeout_at(late, changes.changed()).await;
    }
}

async fn unsubscribe(Path(_): Path<Id>) -> Response {
    StatusCode::NO_CONTENT.into_response()
}

async fn say(
    State(behind): State<Behind>,
    Path((id, word)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    match behind.counter_is_closed(|| Counter::word(&id, &word, &body)).await {
        Some(closed) => closed,
        None => shown(behind.counter.say(&id, &word, &body)),
    }
}

/// Until when it may wait; what cannot be read is not waited for.
fn late(wanted: &Wanted, otherwise: Duration) -> Instant {
    let wait = wanted.wait.as_deref().map_or(otherwise, |wait| parse_span(wait).unwrap_or_default());
    Instant::now() + wait.min(Duration::from_secs(300))
}

fn away() -> Answer {
    Answer::problem(503, "no_leader", "nobody decides at the moment; ask again")
}

fn json(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn shown(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).expect("the kit answers with statuses there are");
    let mut headers = HeaderMap::new();
    if let Some(seconds) = answer.again {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    let kind = if answer.status < 400 { "application/json" } else { "application/problem+json" };
    headers.insert(header::CONTENT_TYPE, kind.parse().expect("a legal value"));
    (status, headers, answer.body).into_response()
}
