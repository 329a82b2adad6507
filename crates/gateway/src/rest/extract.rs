//! Extractors whose rejections are [`ApiError`]s.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use fermata_engine::{EngineError, PortNumber, SandboxId, SnapshotId};
use serde::de::DeserializeOwned;

use super::encoding;
use super::error::ApiError;

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Json(value) = Json::from_request(request, state)
            .await
            .map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
        Ok(Self(value))
    }
}

/// The query's parameters.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(value) = Query::from_request_parts(parts, state)
            .await
            .map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
        Ok(Self(value))
    }
}

/// `{sandbox}` of the route.
pub(super) struct InSandbox(pub(super) SandboxId);

impl<S: Send + Sync> FromRequestParts<S> for InSandbox {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        #[derive(serde::Deserialize)]
        struct Segment {
            sandbox: String,
        }
        let segment: Segment = path(parts, state).await?;
        Ok(Self(parse_sandbox(&segment.sandbox)?))
    }
}

/// `{sandbox}` and `{pid}` of the route.
pub(super) struct OfProcess(pub(super) SandboxId, pub(super) i32);

impl<S: Send + Sync> FromRequestParts<S> for OfProcess {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        #[derive(serde::Deserialize)]
        struct Segments {
            sandbox: String,
            pid: i32,
        }
        let segments: Segments = path(parts, state).await?;
        Ok(Self(parse_sandbox(&segments.sandbox)?, segments.pid))
    }
}

/// `{sandbox}` and `{port}` of the route.
pub(super) struct OfPort(pub(super) SandboxId, pub(super) PortNumber);

impl<S: Send + Sync> FromRequestParts<S> for OfPort {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        #[derive(serde::Deserialize)]
        struct Segments {
            sandbox: String,
            port: i64,
        }
        let segments: Segments = path(parts, state).await?;
        let port = PortNumber::try_from(segments.port).map_err(EngineError::InvalidPort)?;
        Ok(Self(parse_sandbox(&segments.sandbox)?, port))
    }
}

/// `{snapshot}` of the route.
pub(super) struct OfSnapshot(pub(super) SnapshotId);

impl<S: Send + Sync> FromRequestParts<S> for OfSnapshot {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        #[derive(serde::Deserialize)]
        struct Segment {
            snapshot: String,
        }
        let segment: Segment = path(parts, state).await?;
        let id = segment.snapshot.parse().map_err(EngineError::InvalidId)?;
        Ok(Self(id))
    }
}

async fn path<T, S>(parts: &mut Parts, state: &S) -> Result<T, ApiError>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    let Path(segments) = Path::from_request_parts(parts, state)
        .await
        .map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
    Ok(segments)
}

fn parse_sandbox(text: &str) -> Result<SandboxId, ApiError> {
    text.parse()
        .map_err(|error| ApiError::from(EngineError::InvalidId(error)))
}

/// `path=` of the query: a path inside the sandbox, as bytes.
pub(super) struct InnerPath(pub(super) Vec<u8>);

impl<S: Send + Sync> FromRequestParts<S> for InnerPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        inner_path(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

fn inner_path(query: &str) -> Result<Vec<u8>, ApiError> {
    let encoded = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("path="))
        .ok_or_else(|| ApiError::invalid("the query has no path"))?;
    let path = encoding::decode(encoded)
        .ok_or_else(|| ApiError::invalid("the path is not percent-encoded"))?;
    if path.is_empty() {
        return Err(ApiError::invalid("the path is empty"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_found_among_other_parameters_and_may_be_any_bytes() {
        assert_eq!(inner_path("mode=420&path=/a%FFb&x=1").unwrap(), b"/a\xffb");
    }

    #[test]
    fn no_path_an_empty_one_and_a_broken_one_are_refused() {
        for query in ["", "mode=1", "path=", "path=%f"] {
            inner_path(query).unwrap_err();
        }
    }
}
