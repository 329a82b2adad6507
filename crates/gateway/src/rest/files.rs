//! `/v1/sandboxes/{sandbox}/files`: streamed in pieces, so that size costs no memory.

use axum::Json;
use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Buf as _, Bytes, BytesMut};
use fermata_engine::agent::FileChunk;
use fermata_engine::{Agent, Engine, RuntimeError};
use futures::{Stream, StreamExt as _};
use serde::Deserialize;

use super::error::ApiError;
use super::extract::{InSandbox, InnerPath, Parameters};
use super::model::File;

/// What goes over the agent's socket at a time.
const PIECE_BYTES: usize = 1 << 20;

const SIZE_HEADER: HeaderName = HeaderName::from_static("x-fermata-size");

pub(super) async fn read(
    State(engine): State<Engine>,
    InSandbox(id): InSandbox,
    InnerPath(path): InnerPath,
) -> Result<Response, ApiError> {
    let agent = engine.handle(&id).await?.agent;
    // Read before the answer begins, so that a missing file gets its own status.
    let first = agent.read_file(&path, 0, PIECE_BYTES as u64).await?;
    // Not Content-Length: the file may grow or shrink meanwhile, and files of procfs say 0.
    let headers = [
        (SIZE_HEADER, first.size_bytes.to_string()),
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
    ];
    let body = HttpBody::from_stream(pieces(agent, path, first));
    Ok((headers, body).into_response())
}

/// A failure in the middle breaks the connection off, which no client can take for the end of the file.
fn pieces(
    agent: Agent,
    path: Vec<u8>,
    first: FileChunk,
) -> impl Stream<Item = Result<Bytes, RuntimeError>> {
    async_stream::try_stream! {
        let mut offset = 0;
        let mut piece = first;
        loop {
            offset += piece.data.len() as u64;
            let end = piece.end || piece.data.is_empty();
            yield piece.data;
            if end {
                break;
            }
            piece = agent.read_file(&path, offset, PIECE_BYTES as u64).await?;
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Mode {
    /// Permission bits, octal.
    mode: Option<String>,
}

impl Mode {
    fn or(self, default: u32) -> Result<u32, ApiError> {
        let Some(text) = self.mode else {
            return Ok(default);
        };
        u32::from_str_radix(&text, 8)
            .ok()
            .filter(|mode| *mode <= 0o7777)
            .ok_or_else(|| ApiError::invalid(format!("{text:?} is not an octal file mode")))
    }
}

pub(super) async fn write(
    State(engine): State<Engine>,
    InSandbox(id): InSandbox,
    InnerPath(path): InnerPath,
    Parameters(mode): Parameters<Mode>,
    body: HttpBody,
) -> Result<StatusCode, ApiError> {
    let mode = mode.or(0o644)?;
    let agent = engine.handle(&id).await?.agent;
    let mut offset = 0;
    let mut pending = BytesMut::new();
    let mut received = body.into_data_stream();
    while let Some(piece) = received.next().await {
        let piece =
            piece.map_err(|error| ApiError::invalid(format!("the body broke off: {error}")))?;
        pending.extend_from_slice(&piece);
        while pending.len() >= PIECE_BYTES {
            let data = pending.copy_to_bytes(PIECE_BYTES).to_vec();
            agent.write_file(&path, offset, mode, data).await?;
            offset += PIECE_BYTES as u64;
        }
    }
    // An empty file is made by an empty write.
    if offset == 0 || !pending.is_empty() {
        agent
            .write_file(&path, offset, mode, pending.to_vec())
            .await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove(
    State(engine): State<Engine>,
    InSandbox(id): InSandbox,
    InnerPath(path): InnerPath,
) -> Result<StatusCode, ApiError> {
    engine.handle(&id).await?.agent.remove(&path).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn stat(
    State(engine): State<Engine>,
    InSandbox(id): InSandbox,
    InnerPath(path): InnerPath,
) -> Result<Json<File>, ApiError> {
    let status = engine.handle(&id).await?.agent.stat(&path).await?;
    Ok(Json(status.into()))
}

pub(super) async fn list(
    State(engine): State<Engine>,
    InSandbox(id): InSandbox,
    InnerPath(path): InnerPath,
) -> Result<Json<Vec<File>>, ApiError> {
    let listing = engine
        .handle(&id)
        .await?
        .agent
        .list_directory(&path)
        .await?;
    Ok(Json(listing.entries.into_iter().map(File::from).collect()))
}

pub(super) async fn create_directory(
    State(engine): State<Engine>,
    InSandbox(id): InSandbox,
    InnerPath(path): InnerPath,
    Parameters(mode): Parameters<Mode>,
) -> Result<StatusCode, ApiError> {
    let mode = mode.or(0o755)?;
    engine
        .handle(&id)
        .await?
        .agent
        .create_directory(&path, mode)
        .await?;
    Ok(StatusCode::CREATED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(text: &str) -> Result<u32, ApiError> {
        Mode {
            mode: Some(text.to_owned()),
        }
        .or(0o644)
    }

    #[test]
    fn modes_are_octal_and_stay_in_range() {
        assert_eq!(mode("755").unwrap(), 0o755);
        assert_eq!(mode("4755").unwrap(), 0o4755);
        assert_eq!(Mode { mode: None }.or(0o600).unwrap(), 0o600);
        for wrong in ["", "9", "10000", "-1", "rwx"] {
            mode(wrong).unwrap_err();
        }
    }
}
