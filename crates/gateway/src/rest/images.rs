//! `/v1/images` and `/v1/builds`

use std::convert::Infallible;

use axum::Json;
use axum::body::Body as HttpBody;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use fermata_engine::{BuildEvent, Engine, EngineError, Image, ImageId};
use futures::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::error::ApiError;
use super::extract::Body;
use super::model::Build;

pub(super) async fn list(State(engine): State<Engine>) -> Result<Json<Vec<Image>>, ApiError> {
    Ok(Json(engine.images().await?))
}

pub(super) async fn inspect(
    State(engine): State<Engine>,
    Path(id): Path<String>,
) -> Result<Json<Image>, ApiError> {
    Ok(Json(engine.image(&parse(&id)?).await?))
}

pub(super) async fn remove(
    State(engine): State<Engine>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    engine.remove_image(&parse(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn parse(id: &str) -> Result<ImageId, ApiError> {
    id.parse()
        .map_err(|error| ApiError::from(EngineError::InvalidId(error)))
}

/// One JSON [`BuildEvent`] a line, as they happen. The build goes on when the caller goes away.
pub(super) async fn build(State(engine): State<Engine>, Body(build): Body<Build>) -> Response {
    let lines = ReceiverStream::new(engine.build_image(build.into()))
        .map(|event| Ok::<_, Infallible>(line(&event)));
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        HttpBody::from_stream(lines),
    )
        .into_response()
}

fn line(event: &BuildEvent) -> Vec<u8> {
    // Strings and a flag under string keys: nothing in it that JSON cannot hold.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line
}
