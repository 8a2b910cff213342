//! The client of the HTTP API: one request, one answer or one `Failure`.
//!
//! Law: every request the command line makes may be made again (ids are the caller's, commands say what shall
//! be), so a server that is busy or just starting is asked again after the pause it names. A server that was
//! never reached is said to be unreachable at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::failure::{Failure, Problem};
use crate::model::{Id, Traceparent};

/// How long a server that was reached before may be away, or busy, until a command gives up.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Speaks to one server.
#[derive(Debug)]
pub(super) struct Client {
    url: String,
    /// The pool that is asked about, if not the server's first.
    pool: Option<Id>,
    http: reqwest::Client,
    reached: AtomicBool,
}

/// What is sent with a request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Body<'a> {
    #[default]
    None,
    Json(&'a Value),
    /// JSON that is text already.
    Text(&'a str),
}

impl Client {
    /// A client of the server at `url`.
    pub(super) fn new(url: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            let example = "give an address like http://127.0.0.1:8080";
            Failure::Usage(format!("--url ({url:?}) {why}; {example}"))
        };
        let parsed = reqwest::Url::parse(url).map_err(|why| wrong(&format!("is no URL: {why}")))?;
        match parsed.scheme() {
            "http" => {}
            "https" => return Err(wrong("asks for TLS, which this version does not speak")),
            other => return Err(wrong(&format!("has the scheme {other:?}"))),
        }
        let http = reqwest::Client::builder().connect_timeout(Duration::from_secs(5));
        let http = http.default_headers(trace()).build();
        let http = http.map_err(|why| Failure::Broken(format!("prepare requests: {why}")))?;
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self { url, pool: None, http, reached: AtomicBool::new(false) })
    }

    /// The same, about one pool.
    pub(super) fn in_pool(self, pool: Option<Id>) -> Self {
        Self { pool, ..self }
    }

    /// The address of `path`, about the pool that is meant.
    fn address(&self, path: &str) -> String {
        let mark = if path.contains('?') { '&' } else { '?' };
        let pool = self.pool.as_ref().map(|pool| format!("{mark}pool={pool}")).unwrap_or_default();
        format!("{}{path}{pool}", self.url)
    }

    /// Reads what stands at `path`.
    pub(super) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, Failure> {
        self.ask(Method::GET, &with_query(path, query), Body::None, None).await
    }

    /// Reads the text at `path`, once.
    pub(super) async fn text(&self, path: &str) -> Result<String, Failure> {
        let text = self.stream(path, &[]).await?.text().await;
        text.map_err(|why| self.unreachable(&Method::GET, path, &why))
    }

    /// Posts to `path`.
    pub(super) async fn post(&self, path: &str, body: Body<'_>) -> Result<Value, Failure> {
        self.ask(Method::POST, path, body, None).await
    }

    /// Posts to `path` what must not be taken twice: asked again, it gets the first answer.
    pub(super) async fn post_once(&self, path: &str, body: Body<'_>) -> Result<Value, Failure> {
        let key = Uuid::now_v7().to_string();
        self.ask(Method::POST, path, body, Some(&key)).await
    }

    /// Deletes what stands at `path`.
    pub(super) async fn delete(&self, path: &str, query: &[(&str, String)]) -> Result<Value, Failure> {
        self.ask(Method::DELETE, &with_query(path, query), Body::None, None).await
    }

    /// Opens the stream at `path`. It is tried once: who reads a stream knows how to go on without it.
    pub(super) async fn stream(&self, path: &str, query: &[(&str, String)]) -> Result<Response, Failure> {
        let path = with_query(path, query);
        let sent = self.http.get(self.address(&path)).send().await;
        let response = sent.map_err(|why| self.unreachable(&Method::GET, &path, &why))?;
        self.reached.store(true, Ordering::Relaxed);
        if response.status().is_success() {
            return Ok(response);
        }
        Err(Failure::Problem(problem(response).await))
    }

    /// Asks until there is an answer that a pause would not change.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Body<'_>,
        once: Option<&str>,
    ) -> Result<Value, Failure> {
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let failure = match self.send(&method, path, body, once).await {
                Ok(response) => {
                    self.reached.store(true, Ordering::Relaxed);
                    let after = retry_after(&response);
                    let (status, read) = (response.status(), self.read(response, &method, path).await);
                    match read {
                        Err(Failure::Problem(problem)) if is_busy(status, &problem) => {
                            pause = after.unwrap_or(pause);
                            Failure::Problem(problem)
                        }
                        Err(failure @ Failure::Unreachable { .. }) => failure,
                        answered => return answered,
                    }
                }
                Err(why) => {
                    let failure = self.unreachable(&method, path, &why);
                    if !self.reached.load(Ordering::Relaxed) {
                        return Err(failure);
                    }
                    failure
                }
            };
            // A full window is the server's way to say "later": the caller waits as long as it takes.
            let full = matches!(&failure, Failure::Problem(problem) if problem.status == 429);
            if !full && began.elapsed() + pause > PATIENCE {
                return Err(failure);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn send(
        &self,
        method: &Method,
        path: &str,
        body: Body<'_>,
        once: Option<&str>,
    ) -> reqwest::Result<Response> {
        let request = self.http.request(method.clone(), self.address(path)).timeout(ANSWER_WITHIN);
        let request = match once {
            Some(key) => request.header("Idempotency-Key", key),
            None => request,
        };
        match body {
            Body::None => request,
            Body::Json(value) => request.json(value),
            Body::Text(text) => request.header(CONTENT_TYPE, "application/json").body(text.to_owned()),
        }
        .send()
        .await
    }

    async fn read(&self, response: Response, method: &Method, path: &str) -> Result<Value, Failure> {
        if !response.status().is_success() {
            return Err(Failure::Problem(problem(response).await));
        }
        let bytes = response.bytes().await.map_err(|why| self.unreachable(method, path, &why))?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|why| {
            Failure::Broken(format!("{method} {}{path} did not answer in JSON: {why}", self.url))
        })
    }

    fn unreachable(&self, method: &Method, path: &str, why: &reqwest::Error) -> Failure {
        // The innermost cause says it ("connection refused"); what is around it repeats the address.
        let mut cause: &dyn std::error::Error = why;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let why =
            if why.is_timeout() { format!("no answer within {ANSWER_WITHIN:?}") } else { cause.to_string() };
        let path = path.split('?').next().unwrap_or_default();
        Failure::Unreachable { url: self.url.clone(), tried: format!("{method} {path}"), why }
    }
}

/// Whether the same request may be taken after a pause. A frozen pool waits for a person.
fn is_busy(status: StatusCode, problem: &Problem) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
        && problem.code != "frozen"
}

/// The trace this process was started for: what a build submits belongs to the build's.
fn trace() -> HeaderMap {
    let said = std::env::var(Traceparent::VARIABLE).ok();
    let trace = said.and_then(|said| Traceparent::parse(&said)).map(|trace| trace.to_string());
    let header = trace.and_then(|trace| HeaderValue::from_str(&trace).ok());
    header.map(|value| (HeaderName::from_static(Traceparent::NAME), value)).into_iter().collect()
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds: f64 = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok().map(|pause| pause.clamp(FIRST_PAUSE, PATIENCE))
}

async fn problem(response: Response) -> Problem {
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    let document: Value = serde_json::from_str(&text).unwrap_or_default();
    let field = |name: &str| document.get(name).and_then(Value::as_str).map(str::to_owned);
    let spoken = || status.canonical_reason().unwrap_or("not understood").to_owned();
    Problem {
        status: status.as_u16(),
        code: field("code").unwrap_or_else(|| status.as_u16().to_string()),
        undecided: document.get("undecided").and_then(Value::as_bool).unwrap_or(false),
        detail: field("detail").or_else(|| field("title")).unwrap_or_else(spoken),
    }
}

fn with_query(path: &str, query: &[(&str, String)]) -> String {
    let mut url = reqwest::Url::parse("http://server").expect("a legal URL");
    url.set_path(path);
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}{query}", url.path())
}
