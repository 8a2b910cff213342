//! The link over HTTP: one request a call. Whoever calls decides when to try again.
//!
//! Law: only an answer of the dispatcher is an answer. Whatever stands between (a proxy's 502, a broken
//! connection, half a body) is silence, and silence may be tried again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Client, Response, StatusCode, header};
use serde_json::Value;

use super::link::{Link, LinkError};
use crate::model::{
    Delivery, Heartbeat, HeartbeatAnswer, Leave, OutputPiece, Registered, Registration, Report, RunnerId,
    time::format_span,
};
use crate::wire::{Malformed, message, output};

/// How long a call may take that is not a long poll.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How much longer than its `wait` a long poll may take.
const POLL_SLACK: Duration = Duration::from_secs(10);
/// How much of an answer's body is repeated in an error, in characters.
const SHOWN: usize = 300;

/// Speaks HTTP to a dispatcher.
#[derive(Debug, Clone)]
pub struct HttpLink {
    base: Arc<str>,
    client: Client,
}

impl HttpLink {
    /// A link to the dispatcher at `url`, such as `http://127.0.0.1:8080`.
    pub fn new(url: &str) -> Result<Self, LinkError> {
        let base = url.trim_end_matches('/');
        let legal = reqwest::Url::parse(base).is_ok_and(|url| url.scheme() == "http" && url.has_host());
        if !legal {
            let message = format!("{url:?} is no address; expected one like http://127.0.0.1:8080");
            return Err(LinkError::Refused { message });
        }
        let client = Client::builder().tcp_nodelay(true).connect_timeout(Duration::from_secs(5)).build();
        let client = client.map_err(|why| LinkError::Refused { message: why.to_string() })?;
        Ok(Self { base: base.into(), client })
    }

    async fn post(&self, path: &str, body: Vec<u8>) -> Result<Answer, LinkError> {
        let url = format!("{}{path}", self.base);
        let request = self.client.post(&url).timeout(ANSWER_WITHIN);
        let sent = request.header(header::CONTENT_TYPE, "application/json").body(body).send().await;
        answer(format!("POST {url}"), sent).await
    }
}

/// The good answer to a call.
struct Answer {
    asked: String,
    body: Vec<u8>,
}

impl Answer {
    /// An answer this version cannot read is not taken for one.
    fn read<T>(&self, read: impl Fn(&[u8]) -> Result<T, Malformed>) -> Result<T, LinkError> {
        read(&self.body).map_err(|why| LinkError::Retry {
            message: format!("{}: the answer: {why}", self.asked),
            after: None,
        })
    }
}

async fn answer(asked: String, sent: reqwest::Result<Response>) -> Result<Answer, LinkError> {
    let silence = |why: reqwest::Error| LinkError::Retry { message: chain(&asked, &why), after: None };
    let response = sent.map_err(silence)?;
    let status = response.status();
    let after = retry_after(&response);
    let body = response.bytes().await.map_err(silence)?.to_vec();
    if status.is_success() {
        return Ok(Answer { asked, body });
    }
    let message = format!("{asked} was answered {status}: {}", said(&body));
    Err(match status {
        // A conflict means that another incarnation of this runner, or none, is known.
        StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::CONFLICT => LinkError::Unknown { message },
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => LinkError::Retry { message, after },
        _ if status.is_client_error() => LinkError::Refused { message },
        _ => LinkError::Retry { message, after },
    })
}

/// What a problem document says, or the beginning of whatever else was answered.
fn said(body: &[u8]) -> String {
    let problem: Option<Value> = serde_json::from_slice(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem.get("detail")?.as_str());
    let beginning = || String::from_utf8_lossy(body).trim().chars().take(SHOWN).collect();
    detail.map_or_else(beginning, str::to_owned)
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// An error with its causes: reqwest's own text leaves out why a connection failed.
fn chain(asked: &str, why: &dyn std::error::Error) -> String {
    let mut text = format!("{asked}: {why}");
    let mut cause = why.source();
    while let Some(why) = cause {
        text = format!("{text}: {why}");
        cause = why.source();
    }
    text
}

#[async_trait]
impl Link for HttpLink {
    async fn register(&self, registration: &Registration) -> Result<Registered, LinkError> {
        let body = message::write_registration(registration);
        match self.post("/v1/runners", body).await {
            Ok(answer) => answer.read(message::read_registered),
            // What stands against it now (another start of this runner, a frozen table) may pass.
            Err(LinkError::Unknown { message }) => Err(LinkError::Retry { message, after: None }),
            Err(why) => Err(why),
        }
    }

    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<HeartbeatAnswer, LinkError> {
        let path = format!("/v1/runners/{}/heartbeat", heartbeat.runner);
        match self.post(&path, message::write_heartbeat(heartbeat)).await {
            Ok(answer) => answer.read(message::read_heartbeat_answer),
            // A dispatcher that cannot read it may want other words: registering settles it.
            Err(LinkError::Refused { message }) => Err(LinkError::Unknown { message }),
            Err(why) => Err(why),
        }
    }

    async fn next_delivery(&self, runner: &RunnerId, wait: Duration) -> Result<Delivery, LinkError> {
        let url = format!("{}/v1/runners/{runner}/assignments?wait={}", self.base, format_span(wait));
        let sent = self.client.get(&url).timeout(wait + POLL_SLACK).send().await;
        let answer = answer(format!("GET {url}"), sent).await?;
        if answer.body.is_empty() {
            return Ok(Delivery::default());
        }
        answer.read(message::read_delivery)
    }

    async fn report(&self, runner: &RunnerId, reports: &[Report]) -> Result<(), LinkError> {
        let path = format!("/v1/runners/{runner}/reports");
        self.post(&path, message::write_reports(reports)).await.map(|_| ())
    }

    async fn output(&self, runner: &RunnerId, pieces: &[OutputPiece]) -> Result<(), LinkError> {
        let path = format!("/v1/runners/{runner}/output");
        self.post(&path, output::write_pieces(pieces)).await.map(|_| ())
    }

    async fn leave(&self, leave: &Leave) -> Result<(), LinkError> {
        let path = format!("/v1/runners/{}/leave", leave.runner);
        self.post(&path, message::write_leave(leave)).await.map(|_| ())
    }

    fn url(&self) -> Option<Arc<str>> {
        Some(self.base.clone())
    }
}
