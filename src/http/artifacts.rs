//! Artifacts: which runners hold one.
//!
//! Law: names the runners a task that wants the artifact could be placed on for its sake: ready ones. An artifact
//! nobody holds, or nobody ever spoke of, is held by none.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::problem::Problem;
use super::request::Asked;
use crate::model::{ArtifactId, RunnerId};

/// An artifact as it is shown.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ArtifactView {
    #[schema(value_type = String)]
    id: ArtifactId,
    /// The ready runners that hold it, in the order of their ids.
    #[schema(value_type = Vec<String>)]
    runners: Vec<RunnerId>,
}

/// The ready runners that hold an artifact.
#[utoipa::path(get, path = "/v1/artifacts/{id}", tag = "artifacts",
    params(("id" = String, Path, description = "The artifact's name, 1 to 256 bytes; percent-encoded where it needs to be")),
    responses((status = 200, body = ArtifactView), (status = 400, body = Problem)))]
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    asked: Asked,
) -> Result<Json<ArtifactView>, Problem> {
    asked.only(&[])?;
    let id = ArtifactId::parse(&name).map_err(|why| Problem::parameter("id", &name, why))?;
    let read = app.context.handle.view();
    let runners = read.read(|rows| rows.ready_holders(id.as_str()).cloned().collect());
    Ok(Json(ArtifactView { id, runners }))
}
