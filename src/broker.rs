//! The connection to a NATS server: one a process, shared by everything in it that speaks NATS.
//!
//! Law: what the server refuses is never silent. Permission violations come back without naming the request they
//! belong to, so they are logged, counted and kept for whoever waits for an answer that will not come.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::{self, context::ContextBuilder};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use tokio::sync::watch;

/// How long an answer of the server is waited for.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long the first connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The longest pause between two attempts to connect again.
const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// Where the server is and who we are to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Server {
    /// One or more addresses, separated by commas. The first that names a user and password speaks for all,
    /// unless they are given beside it.
    pub url: String,
    /// A credentials file.
    pub credentials: Option<PathBuf>,
    pub user: Option<String>,
    pub password: Option<String>,
    /// The name shown by the server; also the name of the inbox where a user has one of its own.
    pub name: String,
    /// What replies come to, where permissions ask for it, such as `_INBOX_dispatcher`.
    pub inbox: Option<String>,
}

/// What is wrong with the address of a NATS server, if anything.
pub fn wrong_with(url: &str) -> Option<String> {
    // An address without a scheme is NATS's.
    let whole = if url.contains("://") { url.to_owned() } else { format!("nats://{url}") };
    match reqwest::Url::parse(&whole) {
        Err(why) => Some(format!("is no URL: {why}")),
        Ok(parsed) => match parsed.scheme() {
            "nats" | "tls" if parsed.has_host() => None,
            "nats" | "tls" => Some("names no host".to_owned()),
            other => Some(format!("has the scheme {other:?}")),
        },
    }
}

/// What has happened to the connection so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Weather {
    /// How often it was made; more than once means that messages may have been missed in between.
    pub connects: u64,
    pub connected: bool,
    /// The last thing the server refused, if it ever did.
    pub refused: Option<String>,
}

/// A connection that mends itself.
#[derive(Debug, Clone)]
pub struct Connection {
    pub client: Client,
    pub jetstream: jetstream::Context,
    /// Where the server is, fit to be shown.
    pub url: Arc<str>,
    weather: watch::Receiver<Weather>,
    refusals: Arc<AtomicU64>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("connect to NATS at {url}: {why}; start a nats-server there or name another (--nats URL)")]
    Unreachable { url: String, why: String },
    #[error("NATS at {url:?} {why}; give an address like nats://127.0.0.1:4222 (--nats URL)")]
    Address { url: String, why: String },
    #[error("read the NATS credentials {file}: {why}")]
    Credentials { file: String, why: String },
}

impl Connection {
    /// Connects. From then on it connects again by itself, for ever.
    pub async fn open(server: &Server) -> Result<Self, ConnectError> {
        let unreachable = |why: String| ConnectError::Unreachable { url: shown(&server.url), why };
        let (tell, weather) = watch::channel(Weather::default());
        let refusals = Arc::new(AtomicU64::new(0));
        let mut options = ConnectOptions::new();
        if let Some(file) = &server.credentials {
            options = options.credentials_file(file).await.map_err(|why| ConnectError::Credentials {
                file: file.display().to_string(),
                why: why.to_string(),
            })?;
        }
        let given = server.user.clone().zip(server.password.clone());
        if let Some((user, password)) = given.or_else(|| user_in(&server.url)) {
            options = options.user_and_password(user, password);
        }
        if let Some(inbox) = &server.inbox {
            options = options.custom_inbox_prefix(inbox);
        }
        let counted = refusals.clone();
        let options = options
            .name(&server.name)
            .connection_timeout(CONNECT_WITHIN)
            .request_timeout(Some(ANSWER_WITHIN))
            .ping_interval(Duration::from_secs(5))
            .subscription_capacity(1 << 16)
            .reconnect_delay_callback(|attempt| {
                let steps = u32::try_from(attempt.min(8)).unwrap_or(8);
                (Duration::from_millis(10) * (1 << steps)).min(RECONNECT_MAX)
            })
            .event_callback(move |event| {
                note(&tell, &counted, &event);
                std::future::ready(())
            });
        let urls: Vec<String> = server.url.split(',').map(|url| url.trim().to_owned()).collect();
        if let Some((url, why)) = urls.iter().find_map(|url| Some((url, wrong_with(url)?))) {
            return Err(ConnectError::Address { url: shown(url), why });
        }
        let client = options.connect(urls).await.map_err(|why| unreachable(chain(&why)))?;
        let jetstream =
            ContextBuilder::new().timeout(ANSWER_WITHIN).ack_timeout(ANSWER_WITHIN).build(client.clone());
        Ok(Self { client, jetstream, url: shown(&server.url).into(), weather, refusals })
    }

    /// What has happened to the connection, and every change of it.
    pub fn weather(&self) -> watch::Receiver<Weather> {
        self.weather.clone()
    }

    /// How many times the server refused something for want of permission.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }
}

fn note(tell: &watch::Sender<Weather>, refusals: &AtomicU64, event: &Event) {
    match event {
        Event::Connected => {
            tracing::info!("nats connected");
            tell.send_modify(|weather| {
                weather.connects += 1;
                weather.connected = true;
            });
        }
        Event::Disconnected => {
            tracing::warn!("nats connection lost");
            tell.send_modify(|weather| weather.connected = false);
        }
        Event::ServerError(why) => {
            tracing::error!(%why, "nats refused something");
            refusals.fetch_add(1, Ordering::Relaxed);
            tell.send_modify(|weather| weather.refused = Some(why.to_string()));
        }
        Event::ClientError(why) => tracing::warn!(%why, "nats client had an error"),
        Event::SlowConsumer(subscription) => {
            tracing::warn!(subscription, "nats messages were dropped: read too slowly")
        }
        Event::LameDuckMode | Event::Draining | Event::Closed => tracing::info!(%event, "nats connection"),
    }
}

/// The user and password an address names: the client itself looks at neither.
fn user_in(urls: &str) -> Option<(String, String)> {
    let address = |url: &str| url.trim().parse::<ServerAddr>().ok();
    let named = urls.split(',').filter_map(address).find(ServerAddr::has_user_pass)?;
    Some((named.username()?.to_owned(), named.password().unwrap_or_default().to_owned()))
}

/// Addresses without the names and passwords in them, for logs and messages.
pub fn shown(urls: &str) -> String {
    let one = |url: &str| match url.trim().split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit('@').next().unwrap_or(rest)),
        None => url.trim().rsplit('@').next().unwrap_or(url).to_owned(),
    };
    urls.split(',').map(one).collect::<Vec<_>>().join(",")
}

/// An error with its causes.
pub fn chain(why: &dyn std::error::Error) -> String {
    let mut text = why.to_string();
    let mut cause = why.source();
    while let Some(why) = cause {
        let more = why.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = why.source();
    }
    text
}
