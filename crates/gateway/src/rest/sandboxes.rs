//! `/v1/sandboxes`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use fermata_engine::{Engine, NetworkPolicy, Sandbox, SandboxSpec};
use serde::Deserialize;

use super::error::ApiError;
use super::extract::{Body, InSandbox, Parameters};
use super::model::Ttl;

pub(super) async fn create(
    State(engine): State<Engine>,
    Body(spec): Body<SandboxSpec>,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    Ok((
        StatusCode::CREATED,
        Json(engine.create_sandbox(spec).await?),
    ))
}

pub(super) async fn list(State(engine): State<Engine>) -> Result<Json<Vec<Sandbox>>, ApiError> {
    Ok(Json(engine.sandboxes().await?))
}

pub(super) async fn inspect(
    State(engine): State<Engine>,
    InSandbox(id): InSandbox,
) -> Result<Json<Sandbox>, ApiError> {
    Ok(Json(engine.sandbox(&id).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stop {
    /// Also forget it, so that it is listed no more.
    #[serde(default)]
    forget: bool,
}

pub(super) async fn stop(
    State(engine): State<Engine>,
    InSandbox(id): InSandbox,
    Parameters(stop): Parameters<Stop>,
) -> Result<Json<Sandbox>, ApiError> {
    let sandbox = engine.stop_sandbox(&id).await?;
    if stop.forget {
        engine.remove_sandbox(&id).await?;
    }
    Ok(Json(sandbox))
}

pub(super) async fn set_ttl(
    State(engine): State<Engine>,
    InSandbox(id): InSandbox,
    Body(ttl): Body<Ttl>,
) -> Result<Json<Sandbox>, ApiError> {
    let timeout = ttl.seconds.map(std::time::Duration::from_secs);
    engine.set_idle_timeout(&id, timeout).await?;
    Ok(Json(engine.sandbox(&id).await?))
}

pub(super) async fn set_network(
    State(engine): State<Engine>,
    InSandbox(id): InSandbox,
    Body(policy): Body<NetworkPolicy>,
) -> Result<Json<Sandbox>, ApiError> {
    engine.set_network(&id, policy).await?;
    Ok(Json(engine.sandbox(&id).await?))
}
