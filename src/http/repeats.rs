//! Repeated commands: a request that carries an `Idempotency-Key` is carried out once.
//!
//! Law: the same key with the same path and body gets the same answer, also while the first is still being
//! decided; with another path or body it is refused. Only answers that were decided are remembered: what failed
//! for now may be tried again under its key. The memory is bounded and this replica's own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rustc_hash::FxHashMap;
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::App;
use super::problem::Problem;
use super::request::Payload;

/// How many keys are remembered.
pub const MOST_KEYS: usize = 10_000;
/// How many bytes of answers are remembered.
const MOST_BYTES: usize = 64 << 20;
/// The longest key, in bytes.
const LONGEST_KEY: usize = 256;
/// The header that carries the key.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The answers that are remembered.
#[derive(Debug, Default)]
pub struct Repeats(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    slots: FxHashMap<String, Slot>,
    /// Keys, the first one first.
    order: VecDeque<String>,
    bytes: usize,
}

#[derive(Debug, Clone)]
struct Slot {
    /// Of the path and the body.
    content: Uuid,
    answer: Arc<OnceCell<Answer>>,
}

#[derive(Debug, Clone)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Repeats {
    /// The slot of `key`, made if it is new; nothing if it stands for something else.
    fn slot(&self, key: &str, content: Uuid) -> Option<Arc<OnceCell<Answer>>> {
        let mut memory = self.memory();
        if let Some(slot) = memory.slots.get(key) {
            return (slot.content == content).then(|| slot.answer.clone());
        }
        let answer = Arc::new(OnceCell::new());
        memory.slots.insert(key.to_owned(), Slot { content, answer: answer.clone() });
        memory.order.push_back(key.to_owned());
        memory.shrink();
        Some(answer)
    }

    /// Counts an answer that is now remembered, unless its slot was given up meanwhile.
    fn answered(&self, key: &str, slot: &Arc<OnceCell<Answer>>, bytes: usize) {
        let mut memory = self.memory();
        if memory.slots.get(key).is_some_and(|kept| Arc::ptr_eq(&kept.answer, slot)) {
            memory.bytes += bytes;
            memory.shrink();
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn shrink(&mut self) {
        while self.slots.len() > MOST_KEYS || self.bytes > MOST_BYTES {
            let Some(key) = self.order.pop_front() else { return };
            let slot = self.slots.remove(&key);
            let bytes = slot.and_then(|slot| slot.answer.get().map(|answer| answer.body.len()));
            self.bytes = self.bytes.saturating_sub(bytes.unwrap_or(0));
        }
    }
}

/// Answers a repeated command from memory, and remembers the answer to a new one.
pub(super) async fn once(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let key = request.headers().get(IDEMPOTENCY_KEY).cloned();
    let Some(key) = key.filter(|_| !matches!(*request.method(), Method::GET | Method::HEAD)) else {
        return next.run(request).await;
    };
    match carry_out_once(&app, key.as_bytes(), request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn carry_out_once(app: &App, key: &[u8], request: Request, next: Next) -> Result<Response, Problem> {
    let bad = |why: String| Problem::new(StatusCode::BAD_REQUEST, "malformed", why).about("Idempotency-Key");
    let key = std::str::from_utf8(key).map_err(|_| bad("header Idempotency-Key is not UTF-8".to_owned()))?;
    if key.is_empty() || key.len() > LONGEST_KEY {
        let bytes = key.len();
        return Err(bad(format!("header Idempotency-Key has {bytes} bytes; 1 to {LONGEST_KEY} are allowed")));
    }
    let target = format!("{} {}", request.method(), request.uri());
    let (parts, body) = request.into_parts();
    let Payload(body) = Payload::from_request(Request::from_parts(parts.clone(), body), &()).await?;
    let content = Uuid::new_v5(&Uuid::new_v5(&Uuid::NAMESPACE_URL, target.as_bytes()), &body);
    let Some(slot) = app.repeats.slot(key, content) else {
        let detail = format!(
            "the Idempotency-Key {key:?} was used for another request before; use a new key for each request"
        );
        return Err(
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "key_reused", detail).about("Idempotency-Key")
        );
    };
    let mut decided_here = false;
    let first = slot
        .get_or_try_init(|| async {
            let response = next.run(Request::from_parts(parts, Body::from(body))).await;
            let answer = take_apart(response).await;
            decided_here = is_decided(answer.status);
            if decided_here { Ok(answer) } else { Err(answer) }
        })
        .await;
    let answer = match first {
        Ok(answer) => answer.clone(),
        Err(answer) => answer,
    };
    if decided_here {
        app.repeats.answered(key, &slot, answer.body.len());
    }
    Ok((answer.status, answer.headers, answer.body).into_response())
}

async fn take_apart(response: Response) -> Answer {
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("answers to commands stand in memory");
    Answer { status: parts.status, headers: parts.headers, body }
}

fn is_decided(status: StatusCode) -> bool {
    !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS
}
