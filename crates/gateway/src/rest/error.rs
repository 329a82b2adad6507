//! Failures as HTTP answers.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fermata_engine::{EngineError, ErrorKind, RuntimeError};

use super::model::{ErrorBody, ErrorDetail};

/// The one table from kinds to HTTP statuses and to their names on the wire.
#[must_use]
pub const fn status_of(kind: ErrorKind) -> (StatusCode, &'static str) {
    match kind {
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        ErrorKind::AlreadyExists => (StatusCode::CONFLICT, "already_exists"),
        ErrorKind::InvalidArgument => (StatusCode::BAD_REQUEST, "invalid_argument"),
        ErrorKind::FailedPrecondition => (StatusCode::CONFLICT, "failed_precondition"),
        // Not 429: HTTP clients repeat that by themselves, and a full disk does not get emptier by it.
        ErrorKind::ResourceExhausted => (StatusCode::INSUFFICIENT_STORAGE, "resource_exhausted"),
        ErrorKind::PermissionDenied => (StatusCode::FORBIDDEN, "permission_denied"),
        ErrorKind::Unsupported => (StatusCode::NOT_IMPLEMENTED, "unsupported"),
        ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    }
}

/// A failed request.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

impl ApiError {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let (status, kind) = status_of(kind);
        Self {
            status,
            kind,
            message: message.into(),
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// A request that did not get as far as the engine.
    pub(super) fn route(status: StatusCode, message: &str) -> Self {
        let kind = match status {
            StatusCode::UNAUTHORIZED => "unauthenticated",
            StatusCode::NOT_FOUND => "not_found",
            _ => "invalid_argument",
        };
        Self {
            status,
            kind,
            message: message.to_owned(),
        }
    }

    pub(super) fn detail(&self) -> ErrorDetail {
        ErrorDetail {
            kind: self.kind.to_owned(),
            message: self.message.clone(),
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        Self::new(error.kind(), error.chain())
    }
}

impl From<RuntimeError> for ApiError {
    fn from(error: RuntimeError) -> Self {
        Self::new(error.kind().into(), fermata_engine::error_chain(&error))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::error!(kind = self.kind, error = %self.message, "request failed");
        } else {
            tracing::debug!(kind = self.kind, error = %self.message, "request refused");
        }
        let body = Json(ErrorBody {
            error: self.detail(),
        });
        let mut response = (self.status, body).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [ErrorKind; 9] = [
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        ErrorKind::InvalidArgument,
        ErrorKind::FailedPrecondition,
        ErrorKind::ResourceExhausted,
        ErrorKind::PermissionDenied,
        ErrorKind::Unsupported,
        ErrorKind::Unavailable,
        ErrorKind::Internal,
    ];

    #[test]
    fn every_kind_has_its_own_name_and_an_error_status() {
        let mut names: Vec<_> = KINDS.iter().map(|kind| status_of(*kind).1).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KINDS.len());
        for kind in KINDS {
            let status = status_of(kind).0;
            assert!(
                status.is_client_error() || status.is_server_error(),
                "{kind:?}"
            );
        }
    }

    #[test]
    fn an_engine_error_keeps_its_kind_and_words() {
        let error = ApiError::from(EngineError::SandboxNotFound {
            id: "abc".parse().unwrap(),
        });
        assert_eq!(error.status, StatusCode::NOT_FOUND);
        assert_eq!(error.detail().kind, "not_found");
        assert_eq!(error.detail().message, "sandbox abc was not found");
    }

    #[test]
    fn a_refused_token_says_how_to_authenticate() {
        let response = ApiError::route(StatusCode::UNAUTHORIZED, "no").into_response();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
    }
}
