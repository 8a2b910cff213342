//! What a request says: names in its path, parameters in its query, and its body.
//!
//! Law: every complaint is a problem document that names what stood there and what was expected. The content
//! type is not looked at: the body decides. A parameter nobody knows is refused, since a filter that is ignored
//! shows what was not asked for.

use std::str::FromStr;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use futures_util::StreamExt;

use super::problem::Problem;
use crate::model::{Id, time};
use crate::wire::command::MOST_RUNNERS;
use crate::wire::fields::Fields;
use crate::wire::submission::MOST_BODY;

/// How much of a body that is too large is still read, so that its sender gets to read the answer.
const MOST_DRAINED: usize = 64 << 20;
const DRAIN_FOR: Duration = Duration::from_secs(5);

/// The name in the path.
#[derive(Debug, Clone)]
pub struct Named(pub Id);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|why| Problem::parameter("id", parts.uri.path(), why.body_text()))?;
        Id::parse(&text).map(Self).map_err(|why| Problem::parameter("id", &text, why))
    }
}

/// The parameters of the query.
#[derive(Debug, Clone, Default)]
pub struct Asked(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::of(parts.uri.query().unwrap_or_default())
    }
}

impl Asked {
    /// Takes a query apart. A parameter without a value counts as absent.
    pub fn of(query: &str) -> Result<Self, Problem> {
        let uri = format!("/?{query}").parse().map_err(|why| Problem::parameter("query", query, why))?;
        let Query(mut pairs) = Query::<Vec<(String, String)>>::try_from_uri(&uri)
            .map_err(|why| Problem::parameter("query", query, why.body_text()))?;
        pairs.retain(|(_, value)| !value.is_empty());
        Ok(Self(pairs))
    }

    /// Refuses every parameter that is not one of `known`. `pool` is known everywhere.
    pub fn only(&self, known: &[&str]) -> Result<(), Problem> {
        match self.0.iter().find(|(name, _)| name != "pool" && !known.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, value)) => {
                let known = match known {
                    [] => "only pool is known here".to_owned(),
                    known => format!("known here are {} and pool", known.join(", ")),
                };
                Err(Problem::parameter(name, value, format!("is not a parameter of this request; {known}")))
            }
        }
    }

    /// The value of a parameter, the last one if it is repeated.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A name.
    pub fn id(&self, name: &str) -> Result<Option<Id>, Problem> {
        self.read(name, |text| Id::parse(text).map_err(|why| why.to_string()))
    }

    /// One of the words of `words`.
    pub fn one_of<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, Problem> {
        self.read(name, |text| {
            words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning).ok_or_else(|| {
                let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                format!("must be one of {}", words.join(", "))
            })
        })
    }

    /// A whole number from `least` to `most`.
    pub fn number<T>(&self, name: &str, least: T, most: T) -> Result<Option<T>, Problem>
    where
        T: FromStr + PartialOrd + Copy + std::fmt::Display,
    {
        self.read(name, |text| {
            text.parse::<T>()
                .ok()
                .filter(|number| least <= *number && *number <= most)
                .ok_or_else(|| format!("must be a whole number from {least} to {most}"))
        })
    }

    /// A span of at most `most`.
    pub fn span(&self, name: &str, most: Duration) -> Result<Option<Duration>, Problem> {
        self.read(name, |text| match time::parse_span(text) {
            Ok(span) if span <= most => Ok(span),
            Ok(_) => Err(format!("must be at most {}", time::format_span(most))),
            Err(why) => Err(format!("cannot be read: {why}")),
        })
    }

    fn read<T>(&self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        read(text).map(Some).map_err(|why| Problem::parameter(name, text, why))
    }
}

/// The body, whole.
#[derive(Debug, Clone)]
pub struct Payload(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Payload {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        read_body(request).await.map(Self)
    }
}

impl Payload {
    /// How many runners an acknowledgement's body names, if any; a body may be missing.
    pub fn count(&self) -> Result<Option<u32>, Problem> {
        if self.0.trim_ascii().is_empty() {
            return Ok(None);
        }
        let value = crate::wire::fields::json(&self.0)?;
        let fields = Fields::of_payload(&value)?;
        Ok(fields.count("count", 1, MOST_RUNNERS)?)
    }

    /// What a command's body says as the reason; a body may be missing, and so may the reason.
    pub fn reason(&self) -> Result<Option<String>, Problem> {
        if self.0.trim_ascii().is_empty() {
            return Ok(None);
        }
        let value = crate::wire::fields::json(&self.0)?;
        let fields = Fields::of_payload(&value)?;
        Ok(fields.word("reason")?.map(|reason| reason.to_string()))
    }
}

/// Reads a body of at most 8 MiB. Of a larger one the rest is read and thrown away, within bounds, so that its
/// sender does not find the connection closed before it has read why.
async fn read_body(request: Request) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    let expects = parts.headers.contains_key(header::EXPECT);
    let known = body.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
    if let Some(bytes) = known.filter(|bytes| *bytes > MOST_BODY) {
        if !expects {
            drain(body, 0).await;
        }
        return Err(too_large(&format!("{bytes} bytes")));
    }
    let mut read = Vec::with_capacity(known.unwrap_or(0));
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|why| {
            let detail = format!("the body could not be read after {} bytes: {why}", read.len());
            Problem::new(StatusCode::BAD_REQUEST, "malformed", detail)
        })?;
        if read.len() + chunk.len() > MOST_BODY {
            let seen = read.len() + chunk.len();
            drain(Body::from_stream(chunks), seen).await;
            return Err(too_large(&format!("more than {MOST_BODY} bytes")));
        }
        read.extend_from_slice(&chunk);
    }
    Ok(read.into())
}

fn too_large(size: &str) -> Problem {
    let detail =
        format!("the body has {size}; at most {MOST_BODY} (8 MiB) are allowed, send it in several parts");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
}

async fn drain(body: Body, mut seen: usize) {
    let mut chunks = body.into_data_stream();
    let all = async {
        while let Some(Ok(chunk)) = chunks.next().await {
            seen += chunk.len();
            if seen > MOST_DRAINED {
                return;
            }
        }
    };
    // Whoever sends slower than that may find the connection closed.
    let _ = tokio::time::timeout(DRAIN_FOR, all).await;
}
