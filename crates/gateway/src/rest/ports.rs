//! `/v1/sandboxes/{sandbox}/ports`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use fermata_engine::{Engine, ExposedPort};

use super::error::ApiError;
use super::extract::{Body, InSandbox, OfPort};
use super::model::ExposePort;

pub(super) async fn list(
    State(engine): State<Engine>,
    InSandbox(id): InSandbox,
) -> Result<Json<Vec<ExposedPort>>, ApiError> {
    Ok(Json(engine.ports(&id).await?))
}

/// Also for a port that is exposed already: the answer is what holds afterwards.
pub(super) async fn expose(
    State(engine): State<Engine>,
    InSandbox(id): InSandbox,
    Body(request): Body<ExposePort>,
) -> Result<Json<ExposedPort>, ApiError> {
    Ok(Json(engine.expose_port(&id, request.port).await?))
}

pub(super) async fn close(
    State(engine): State<Engine>,
    OfPort(id, port): OfPort,
) -> Result<StatusCode, ApiError> {
    engine.close_port(&id, port).await?;
    Ok(StatusCode::NO_CONTENT)
}
