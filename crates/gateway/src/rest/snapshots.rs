//! `/v1/snapshots`, and how sandboxes become snapshots and snapshots sandboxes.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use fermata_engine::{AfterCapture, Engine, EngineError, MemorySnapshot, RestoreSpec, Sandbox};
use serde::Deserialize;

use super::error::ApiError;
use super::extract::{Body, InSandbox, OfSnapshot, Parameters};
use super::model::{Child, Forked, PlayOn, SnapshotKind, TakeSnapshot};

/// More at once would only wait for one another.
const MOST_CHILDREN: usize = 1000;

pub(super) async fn take(
    State(engine): State<Engine>,
    InSandbox(id): InSandbox,
    Body(request): Body<TakeSnapshot>,
) -> Result<Response, ApiError> {
    match request.kind {
        SnapshotKind::Filesystem if request.stop => Err(ApiError::invalid(
            "stop is for memory snapshots: a filesystem snapshot leaves the sandbox running",
        )),
        SnapshotKind::Filesystem => {
            let snapshot = engine.snapshot_filesystem(&id).await?;
            let snapshot = engine.measure(snapshot).await?;
            Ok((StatusCode::CREATED, Json(snapshot)).into_response())
        }
        SnapshotKind::Memory => {
            let after = if request.stop {
                AfterCapture::Stop
            } else {
                AfterCapture::RunOn
            };
            let snapshot = engine.snapshot_memory(&id, after).await?;
            Ok((StatusCode::CREATED, Json(snapshot)).into_response())
        }
    }
}

pub(super) async fn list(State(engine): State<Engine>) -> Json<Vec<MemorySnapshot>> {
    Json(engine.memory_snapshots())
}

pub(super) async fn inspect(
    State(engine): State<Engine>,
    OfSnapshot(id): OfSnapshot,
) -> Result<Json<MemorySnapshot>, ApiError> {
    Ok(Json(engine.memory_snapshot(&id)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Remove {
    /// Leave the filesystem half as an image.
    #[serde(default)]
    keep_image: bool,
}

pub(super) async fn remove(
    State(engine): State<Engine>,
    OfSnapshot(id): OfSnapshot,
    Parameters(remove): Parameters<Remove>,
) -> Result<StatusCode, ApiError> {
    engine
        .remove_memory_snapshot(&id, remove.keep_image)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A result for each: some may be there although others are not.
pub(super) async fn restore(
    State(engine): State<Engine>,
    OfSnapshot(id): OfSnapshot,
    Body(request): Body<PlayOn>,
) -> Result<Json<Vec<Child>>, ApiError> {
    let count = children(&request)?;
    engine.memory_snapshot(&id)?;
    let restores = (0..count).map(|_| engine.restore(&id, RestoreSpec::default()));
    let restored = futures::future::join_all(restores).await;
    Ok(Json(restored.into_iter().map(child).collect()))
}

pub(super) async fn fork(
    State(engine): State<Engine>,
    InSandbox(id): InSandbox,
    Body(request): Body<PlayOn>,
) -> Result<Json<Forked>, ApiError> {
    let fork = engine.fork(&id, children(&request)?).await?;
    Ok(Json(Forked {
        paused_ms: fork.paused_ms,
        children: fork.children.into_iter().map(child).collect(),
    }))
}

fn children(request: &PlayOn) -> Result<usize, ApiError> {
    if (1..=MOST_CHILDREN).contains(&request.count) {
        return Ok(request.count);
    }
    Err(ApiError::invalid(format!(
        "count must be 1 to {MOST_CHILDREN}"
    )))
}

fn child(result: Result<Sandbox, EngineError>) -> Child {
    match result {
        Ok(sandbox) => Child::Sandbox(Box::new(sandbox)),
        Err(error) => Child::Error(ApiError::from(error).detail()),
    }
}
