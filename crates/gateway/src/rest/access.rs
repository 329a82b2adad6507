//! Who may call, and one span a request.

use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;

use super::error::ApiError;
use crate::Auth;

pub(super) async fn require_token(
    State(auth): State<Auth>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    if auth.permits(given) {
        Ok(next.run(request).await)
    } else {
        Err(ApiError::route(
            StatusCode::UNAUTHORIZED,
            "invalid or missing token",
        ))
    }
}

pub(super) async fn trace(request: Request, next: Next) -> Response {
    // The query is left out: it may hold file names of the user's.
    let span = tracing::info_span!(
        "request",
        id = %uuid::Uuid::now_v7(),
        method = %request.method(),
        path = request.uri().path(),
    );
    async move {
        let started = Instant::now();
        let response = next.run(request).await;
        tracing::debug!(
            status = response.status().as_u16(),
            elapsed_ms = started.elapsed().as_secs_f64() * 1e3,
            "answered"
        );
        response
    }
    .instrument(span)
    .await
}
