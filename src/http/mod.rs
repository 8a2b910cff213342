//! HTTP: the one door for producers, runners and operators, and the window on what was committed.
//!
//! Law: every write goes through `Handle::ask` and is answered once it is committed; every read shows the last
//! committed turn. The view is never locked across an await, and what one request may look at is bounded.
//! Routes and their description are one list, so `/openapi.json` names each of them.
//!
//! Files by topic: what producers ask (`tasks`, `listing`), what runners say and get (`fleet`, `outbox`, `output`), what pullers do
//! (`subscriptions`, `leases`, `bindings`), what operators do (`runners`, `queues`, `pool`, `intents`) and see (`groups`, `artifacts`),
//! what monitoring reads (`status`, `digest`, `events`, `history`).

mod artifacts;
mod bindings;
mod digest;
mod events;
mod fleet;
mod groups;
mod history;
mod intents;
mod leases;
mod listing;
pub mod outbox;
mod output;
mod pool;
mod problem;
mod queues;
mod repeats;
mod request;
mod runners;
mod status;
mod subscriptions;
mod tasks;

use std::any::Any;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::{Info, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::core::Settings;
use crate::core::State as Rows;
use crate::core::input::{Answer, Input};
use crate::model::Time;
use crate::ports::{Clock, History, OutputStore};
use crate::runtime::credit::Board;
use crate::runtime::{Door, Handle};
use crate::telemetry::Metrics;
pub use outbox::LocalOutbox;
use problem::Problem;
use repeats::Repeats;
use request::Asked;

/// How long a request waits for its turn to be committed.
pub const DECIDE_WITHIN: Duration = Duration::from_secs(5);
/// How long a stop waits for requests that are being answered.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A pool the server speaks for.
#[derive(Clone)]
pub struct Context {
    pub pool: String,
    pub handle: Handle,
    /// Where what is asked goes: this process's own loop, or whoever leads.
    pub door: Arc<dyn Door>,
    pub outbox: Arc<LocalOutbox>,
    pub history: Arc<dyn History>,
    pub output: Arc<dyn OutputStore>,
    pub metrics: Arc<Metrics>,
    pub settings: Arc<Settings>,
    /// For showing how long something has lasted; decides nothing.
    pub clock: Arc<dyn Clock>,
    /// How the windows of a stream stand, where tasks come from one.
    pub board: Option<Board>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("handle", &self.handle).finish_non_exhaustive()
    }
}

/// What every request sees.
pub(crate) struct App {
    context: Context,
    repeats: Repeats,
    /// Long polls and event streams end with it.
    stop: CancellationToken,
}

impl App {
    /// Puts inputs through the door and waits for their answers. A frozen pool is a problem, and so is a door
    /// that does not answer in time: what was asked may then still be decided, and is safe to repeat.
    async fn ask(&self, inputs: Vec<Input>) -> Result<Vec<Answer>, Problem> {
        let answers = self.put(inputs).await?;
        answers.into_iter().map(|answer| answer.ok_or_else(undecided)).collect()
    }

    /// The same for submissions and cancels, which may be durable before they are decided: `None`.
    async fn put(&self, inputs: Vec<Input>) -> Result<Vec<Option<Answer>>, Problem> {
        let context = &self.context;
        match tokio::time::timeout(DECIDE_WITHIN, context.door.put(inputs)).await {
            Ok(answers) => {
                let answers = answers?;
                let frozen = answers.iter().flatten().find_map(|answer| match answer {
                    Answer::Frozen { reason } => Some(reason.clone()),
                    _ => None,
                });
                frozen.map_or(Ok(answers), |reason| Err(Problem::frozen(&reason)))
            }
            Err(_) => match context.handle.status().trouble {
                Some(why) => Err(Problem::table_trouble(&why)),
                None => Err(undecided()),
            },
        }
    }

    /// The same for one input.
    async fn ask_one(&self, input: Input) -> Result<Answer, Problem> {
        let answers = self.ask(vec![input]).await?;
        Ok(answers.into_iter().next().expect("one answer to each input"))
    }

    /// Now, never before the last committed turn.
    fn now(&self, rows: &Rows) -> Time {
        rows.now().max(self.context.clock.wall())
    }
}

fn undecided() -> Problem {
    Problem::no_leader(format!(
        "no turn was committed within {}s; what was asked may still be decided, repeat it",
        DECIDE_WITHIN.as_secs()
    ))
}

/// Serves until `stop` is cancelled: then takes nothing new, ends what waits, and answers what is being decided.
/// Requests that name no pool are for the first.
pub async fn serve(
    listener: tokio::net::TcpListener,
    pools: Vec<Context>,
    stop: CancellationToken,
) -> io::Result<()> {
    let service = pools_router(pools, &stop);
    // An answer is one small write: it must not wait for another.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let serving = axum::serve(listener, service).with_graceful_shutdown(stop.clone().cancelled_owned());
    let too_late = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_WITHIN).await;
    };
    tokio::select! {
        served = serving => served,
        () = too_late => {
            tracing::warn!("requests cut off: not finished within {}s of the stop", STOP_WITHIN.as_secs());
            Ok(())
        }
    }
}

/// The description of the API.
pub fn openapi() -> OpenApi {
    let mut api = commands().merge(others()).into_openapi();
    api.info = Info::new("Longshore", env!("CARGO_PKG_VERSION"));
    api.info.description = Some(env!("CARGO_PKG_DESCRIPTION").to_owned());
    api
}

/// Requests that an `Idempotency-Key` makes safe to repeat, and the reads that share their paths.
fn commands() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default()
        .routes(routes!(tasks::submit, listing::list))
        .routes(routes!(tasks::get, tasks::cancel))
        .routes(routes!(runners::hold))
        .routes(routes!(runners::resume))
        .routes(routes!(runners::drain))
        .routes(routes!(queues::pause))
        .routes(routes!(queues::resume))
        .routes(routes!(intents::ack))
        .routes(routes!(intents::decline))
        .routes(routes!(subscriptions::subscribe))
        .routes(routes!(subscriptions::pull, subscriptions::end))
        .routes(routes!(bindings::bind, bindings::unbind))
        .routes(routes!(bindings::next))
        .routes(routes!(bindings::allocate))
        .routes(routes!(leases::start))
        .routes(routes!(leases::extend))
        .routes(routes!(leases::ack))
        .routes(routes!(leases::nack))
        .routes(routes!(pool::pause))
        .routes(routes!(pool::resume))
        .routes(routes!(status::unfreeze))
}

fn others() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default()
        .routes(routes!(tasks::why))
        .routes(routes!(runners::list, fleet::register))
        .routes(routes!(runners::get))
        .routes(routes!(fleet::heartbeat))
        .routes(routes!(fleet::leave))
        .routes(routes!(fleet::assignments))
        .routes(routes!(fleet::reports))
        .routes(routes!(output::keep))
        .routes(routes!(output::logs))
        .routes(routes!(queues::list))
        .routes(routes!(artifacts::get))
        .routes(routes!(groups::list))
        .routes(routes!(groups::get))
        .routes(routes!(intents::list))
        .routes(routes!(events::events))
        .routes(routes!(history::history))
        .routes(routes!(status::status))
        .routes(routes!(digest::digest))
        .routes(routes!(status::healthz))
        .routes(routes!(status::readyz))
        .routes(routes!(status::metrics))
        .routes(routes!(status::openapi_json))
        .routes(routes!(status::index))
}

fn router(app: Arc<App>) -> Router {
    let once = middleware::from_fn_with_state(app.clone(), repeats::once);
    let (router, _) = commands().route_layer(once).merge(others()).split_for_parts();
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(app)
}

async fn unknown_path(request: Request) -> Problem {
    let path = request.uri().path();
    Problem::new(
        StatusCode::NOT_FOUND,
        "unknown_path",
        format!("there is nothing at {path}; see /openapi.json"),
    )
}

async fn wrong_method(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    let detail =
        format!("{method} is not possible at {path}; the header Allow and /openapi.json say what is");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", detail)
}

/// One router before those of the pools: each request goes to the pool it names.
fn pools_router(pools: Vec<Context>, stop: &CancellationToken) -> Router {
    let names: Arc<[String]> = pools.iter().map(|context| context.pool.clone()).collect();
    let routers = pools
        .into_iter()
        .map(|context| router(Arc::new(App { context, repeats: Repeats::default(), stop: stop.clone() })));
    let routers: Arc<[Router]> = routers.collect();
    if let [only] = &*routers {
        return only.clone().layer(middleware::from_fn(move |request: Request, next: Next| {
            let names = names.clone();
            async move {
                match pool_named(&request, &names) {
                    Ok(_) => next.run(request).await,
                    Err(problem) => problem.into_response(),
                }
            }
        }));
    }
    Router::new().fallback(move |request: Request| {
        let (names, routers) = (names.clone(), routers.clone());
        async move {
            match pool_named(&request, &names) {
                Ok(place) => routers[place].clone().oneshot(request).await.into_response(),
                Err(problem) => problem.into_response(),
            }
        }
    })
}

/// The place of the pool a request names, by `?pool=`.
fn pool_named(request: &Request, names: &[String]) -> Result<usize, Problem> {
    let query = request.uri().query().filter(|query| query.contains("pool"));
    let asked = query.map(Asked::of).transpose()?.unwrap_or_default();
    let Some(pool) = asked.text("pool") else { return Ok(0) };
    names.iter().position(|name| name == pool).ok_or_else(|| {
        let detail = format!("there is no pool {pool:?} here; this server has {}", names.join(", "));
        Problem::new(StatusCode::NOT_FOUND, "unknown_pool", detail).about("pool")
    })
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    let detail = "this request broke an invariant and was given up; the log says which, please report it";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail).into_response()
}

/// An answer whose body is JSON already.
fn json(status: StatusCode, body: impl Into<axum::body::Body>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

/// Every method and path there is.
pub fn routes() -> Vec<(&'static str, String)> {
    let mut routes = Vec::new();
    for (path, item) in openapi().paths.paths {
        let methods = [
            ("GET", item.get),
            ("POST", item.post),
            ("PUT", item.put),
            ("PATCH", item.patch),
            ("DELETE", item.delete),
        ];
        for (method, operation) in methods {
            if operation.is_some() {
                routes.push((method, path.clone()));
            }
        }
    }
    routes
}
