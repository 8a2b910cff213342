//! Problems: every answer that is not what was asked for, as a document of RFC 9457.
//!
//! Law: `code` is stable and made for programs; `detail` is for people and names the field, the value, the limit
//! and the remedy. What may be tried again says when.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::ports::TableError;
use crate::runtime::Unavailable;
use crate::wire::Malformed;
use crate::wire::submission::BodyError;

/// An answer that is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(transparent)]
pub struct Problem(Box<Document>);

/// The document of RFC 9457.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
struct Document {
    /// Always `about:blank`: the code says which problem it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// Stable, for programs: `malformed`, `unknown_task`, `conflict`, …
    code: &'static str,
    /// What is wrong with which field, its value, the limit and the remedy.
    detail: String,
    /// The field it is about, by its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// How the task ended, where that is the problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    /// The task that stands in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    /// Whether what was asked for may be durable and not decided yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    undecided: bool,
    /// Seconds after which it may be tried again; also in the header `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

impl Problem {
    /// A problem of `status` known as `code`.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Document {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Problem"),
            status: status.as_u16(),
            code,
            detail: detail.into(),
            field: None,
            outcome: None,
            task: None,
            undecided: false,
            retry_after: None,
        }))
    }

    /// Something in the path or query that cannot be read.
    pub fn parameter(name: &str, value: &str, why: impl std::fmt::Display) -> Self {
        let shown: String = value.chars().take(64).collect();
        let more = if shown.len() < value.len() { "…" } else { "" };
        Self::new(StatusCode::BAD_REQUEST, "malformed", format!("parameter {name} ({shown:?}{more}) {why}"))
            .about(name)
    }

    /// There is no task called `id`.
    pub fn unknown_task(id: &str) -> Self {
        let detail = format!("no task {id} is known: it was never submitted, or it ended too long ago");
        Self::new(StatusCode::NOT_FOUND, "unknown_task", detail)
    }

    /// There is no runner called `id`.
    pub fn unknown_runner(id: &str) -> Self {
        let detail =
            format!("no runner {id} is known: it never registered, it left, or it was lost long ago");
        Self::new(StatusCode::NOT_FOUND, "unknown_runner", detail)
    }

    /// There is no group called `id`.
    pub fn unknown_group(id: &str) -> Self {
        let detail = format!(
            "there is no group {id}: no task of it was submitted, or its last task is no longer remembered"
        );
        Self::new(StatusCode::NOT_FOUND, "unknown_group", detail)
    }

    /// There is no subscription called `id`.
    pub fn unknown_subscription(id: &str) -> Self {
        let detail = format!(
            "no subscription {id} is known: it was never made, it was ended, or nobody asked on it for too long; \
             POST /v1/subscriptions makes one"
        );
        Self::new(StatusCode::NOT_FOUND, "unknown_subscription", detail)
    }

    /// The pool is frozen.
    pub fn frozen(reason: &str) -> Self {
        let detail = format!(
            "the pool is frozen and nothing is decided: {reason}; once that is settled, POST /v1/unfreeze"
        );
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "frozen", detail).again_after(30)
    }

    /// Nobody decides at the moment.
    pub fn no_leader(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_leader", detail).again_after(1)
    }

    /// The table takes nothing.
    pub fn table_trouble(why: &str) -> Self {
        let detail = format!(
            "the table takes nothing at the moment: {why}; nothing that was answered is lost, try again"
        );
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "table_trouble", detail).again_after(2)
    }

    /// The server is going down.
    pub fn stopping() -> Self {
        let detail = "the dispatcher is stopping and takes nothing more; try again when it is back";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", detail).again_after(5)
    }

    /// The same, said of a field.
    pub fn about(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// The same, with how the task ended.
    pub fn ended(mut self, outcome: &'static str) -> Self {
        self.0.outcome = Some(outcome);
        self
    }

    /// The same, with the task that stands in the way.
    pub fn of_task(mut self, task: &str) -> Self {
        self.0.task = Some(task.to_owned());
        self
    }

    /// The same, where it may only not be decided yet.
    pub fn undecided(mut self, undecided: bool) -> Self {
        self.0.undecided = undecided;
        self
    }

    /// The same, to be tried again after so many seconds.
    pub fn again_after(mut self, seconds: u64) -> Self {
        self.0.retry_after = Some(seconds);
        self
    }
}

impl From<Malformed> for Problem {
    fn from(why: Malformed) -> Self {
        let problem = Self::new(StatusCode::BAD_REQUEST, "malformed", why.to_string());
        if why.field.is_empty() { problem } else { problem.about(why.field) }
    }
}

impl From<BodyError> for Problem {
    fn from(why: BodyError) -> Self {
        match why {
            BodyError::Malformed(why) => why.into(),
            BodyError::TooLarge { .. } | BodyError::TooMany { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", why.to_string())
            }
        }
    }
}

impl From<Unavailable> for Problem {
    fn from(why: Unavailable) -> Self {
        match why {
            Unavailable::Stopping => Self::stopping(),
            Unavailable::Table(why) => Self::table_trouble(&why),
            Unavailable::NoLeader => Self::no_leader(format!("{why}; try again")),
            Unavailable::Frozen(why) => Self::frozen(&why),
            Unavailable::Refused(why) => Self::new(StatusCode::BAD_REQUEST, "refused", why),
        }
    }
}

impl From<TableError> for Problem {
    fn from(why: TableError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "table_trouble", why.to_string()).again_after(2)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).expect("made from a status");
        let body = serde_json::to_vec(&self).expect("texts and numbers");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.0.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
