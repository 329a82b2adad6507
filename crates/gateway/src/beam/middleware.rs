//! What holds for every call: the token, a span, and a name for what is not offered.

use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use tonic::service::Routes;
use tonic::{Code, Status};
use tracing::Instrument as _;

use crate::Auth;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

pub(super) fn wrap(routes: Routes, auth: Auth) -> Routes {
    routes
        .into_axum_router()
        .layer(middleware::from_fn(name_what_is_not_offered))
        .layer(middleware::from_fn_with_state(auth, require_token))
        .layer(middleware::from_fn(trace))
        .into()
}

async fn require_token(State(auth): State<Auth>, request: Request, next: Next) -> Response {
    let authorization = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    if auth.permits(authorization) {
        next.run(request).await
    } else {
        Status::unauthenticated("invalid or missing token").into_http()
    }
}

/// The generated services answer an unknown method with a bare code.
async fn name_what_is_not_offered(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let is_bare = |status: &HeaderValue| {
        status.as_bytes() == b"12" && !response.headers().contains_key(GRPC_MESSAGE)
    };
    if response.headers().get(GRPC_STATUS).is_some_and(is_bare) {
        Status::new(
            Code::Unimplemented,
            format!(
                "{}: not supported by this server yet",
                path.trim_start_matches('/')
            ),
        )
        .into_http()
    } else {
        response
    }
}

async fn trace(request: Request, next: Next) -> Response {
    let span =
        tracing::info_span!("call", id = %uuid::Uuid::now_v7(), method = request.uri().path());
    async move {
        let started = Instant::now();
        let response = next.run(request).await;
        tracing::debug!(
            elapsed_ms = started.elapsed().as_secs_f64() * 1e3,
            "answered"
        );
        response
    }
    .instrument(span)
    .await
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::Service as _;

    use super::*;

    async fn call(authorization: Option<&str>) -> Status {
        let mut routes = wrap(Routes::default(), Auth::new("secret"));
        let mut request = Request::post("/secret.SecretService/ListSecrets");
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let response = routes
            .call(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        Status::from_header_map(response.headers()).unwrap()
    }

    #[tokio::test]
    async fn without_the_token_nothing_is_told() {
        for authorization in [None, Some("Bearer wrong"), Some("secret")] {
            let status = call(authorization).await;
            assert_eq!(status.code(), Code::Unauthenticated);
            assert_eq!(status.message(), "invalid or missing token");
        }
    }

    #[tokio::test]
    async fn what_is_not_offered_is_named() {
        let status = call(Some("Bearer secret")).await;
        assert_eq!(status.code(), Code::Unimplemented);
        assert_eq!(
            status.message(),
            "secret.SecretService/ListSecrets: not supported by this server yet"
        );
    }
}
