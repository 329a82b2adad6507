//! `/v1/sandboxes/{sandbox}/processes`

use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use fermata_engine::agent::{EnvironmentVariable, Stream, Terminal};
use fermata_engine::{AgentClient, Engine, Handle, OutputFrom, StartRequest};
use futures::StreamExt as _;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::extract::{Body, InSandbox, OfProcess, Parameters};
use super::model::{Process, Signal, StartProcess, Started, TerminalSize, Written, output_headers};

/// Longer waits are cut, so that no proxy in between takes the connection for dead.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Largest piece of output in one answer.
const LARGEST_OUTPUT: u64 = 4 << 20;

pub(super) async fn start(
    State(engine): State<Engine>,
    InSandbox(id): InSandbox,
    Body(request): Body<StartProcess>,
) -> Result<(StatusCode, Json<Started>), ApiError> {
    if request.argv.is_empty() {
        return Err(ApiError::invalid("argv is empty"));
    }
    let handle = engine.handle(&id).await?;
    let start = start_request(&handle, request);
    let pid = handle.agent.start(start).await?;
    Ok((StatusCode::CREATED, Json(Started { pid })))
}

fn start_request(handle: &Handle, request: StartProcess) -> StartRequest {
    let mut environment = handle.environment.clone();
    environment.extend(request.env);
    if request.tty.is_some() {
        // Full-screen programs refuse to start without it.
        environment
            .entry("TERM".to_owned())
            .or_insert_with(|| "xterm".to_owned());
    }
    StartRequest {
        arguments: request.argv.into_iter().map(String::into_bytes).collect(),
        working_directory: request.cwd.into_bytes(),
        environment: environment
            .into_iter()
            .map(|(name, value)| EnvironmentVariable {
                name: name.into_bytes().into(),
                value: value.into_bytes().into(),
            })
            .collect(),
        terminal: request.tty.map(terminal),
        open_stdin: request.stdin,
        request_id: request.request_id,
        ..StartRequest::default()
    }
}

pub(super) fn terminal(size: TerminalSize) -> Terminal {
    Terminal {
        rows: size.rows.into(),
        columns: size.columns.into(),
    }
}

pub(super) async fn list(
    State(engine): State<Engine>,
    InSandbox(id): InSandbox,
) -> Result<Json<Vec<Process>>, ApiError> {
    let states = engine.handle(&id).await?.agent.processes().await?;
    Ok(Json(states.into_iter().map(Process::from).collect()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wait {
    #[serde(default)]
    wait_ms: u64,
}

pub(super) async fn inspect(
    State(engine): State<Engine>,
    OfProcess(id, pid): OfProcess,
    Extension(closing): Extension<CancellationToken>,
    Parameters(wait): Parameters<Wait>,
) -> Result<Json<Process>, ApiError> {
    let agent = engine.handle(&id).await?.agent;
    let state = tokio::select! {
        state = agent.wait(pid, bounded(wait.wait_ms)) => state?,
        () = closing.cancelled() => agent.wait(pid, Duration::ZERO).await?,
    };
    Ok(Json(state.into()))
}

fn bounded(wait_ms: u64) -> Duration {
    Duration::from_millis(wait_ms).min(LONGEST_WAIT)
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum StreamName {
    Stdout,
    Stderr,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Output {
    stream: StreamName,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    wait_ms: u64,
    max_bytes: Option<u64>,
}

pub(super) async fn output(
    State(engine): State<Engine>,
    OfProcess(id, pid): OfProcess,
    Extension(closing): Extension<CancellationToken>,
    Parameters(output): Parameters<Output>,
) -> Result<Response, ApiError> {
    let stream = match output.stream {
        StreamName::Stdout => Stream::Stdout,
        StreamName::Stderr => Stream::Stderr,
    };
    let max_bytes = output
        .max_bytes
        .unwrap_or(LARGEST_OUTPUT)
        .clamp(1, LARGEST_OUTPUT);
    let agent = engine.handle(&id).await?.agent;
    let read = |wait| {
        let from = OutputFrom::Offset(output.offset);
        agent.read_output(pid, stream, from, max_bytes, wait)
    };
    let chunk = tokio::select! {
        chunk = read(bounded(output.wait_ms)) => chunk?,
        () = closing.cancelled() => read(Duration::ZERO).await?,
    };
    let header = |name, value: String| (HeaderName::from_static(name), value);
    let next = chunk.offset + chunk.data.len() as u64;
    let headers = [
        header(output_headers::OFFSET, chunk.offset.to_string()),
        header(output_headers::NEXT_OFFSET, next.to_string()),
        header(output_headers::DROPPED, chunk.dropped_bytes.to_string()),
        header(output_headers::END, chunk.end.to_string()),
    ];
    Ok((headers, chunk.data).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// Whether the input ends with this body.
    #[serde(default)]
    close: bool,
}

pub(super) async fn write_stdin(
    State(engine): State<Engine>,
    OfProcess(id, pid): OfProcess,
    Parameters(input): Parameters<Input>,
    body: HttpBody,
) -> Result<Json<Written>, ApiError> {
    let agent = engine.handle(&id).await?.agent;
    let mut bytes = 0;
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece =
            piece.map_err(|error| ApiError::invalid(format!("the body broke off: {error}")))?;
        bytes += piece.len() as u64;
        write_input(&agent, pid, piece).await?;
    }
    if input.close {
        agent.write_input(pid, Vec::new(), true).await?;
    }
    Ok(Json(Written { bytes }))
}

/// Writes all of it.
pub(super) async fn write_input(
    agent: &AgentClient,
    pid: i32,
    mut data: Bytes,
) -> Result<(), fermata_engine::RuntimeError> {
    while !data.is_empty() {
        let taken = agent.write_input(pid, data.to_vec(), false).await?;
        let taken = usize::try_from(taken).unwrap_or(usize::MAX).min(data.len());
        drop(data.split_to(taken));
    }
    Ok(())
}

pub(super) async fn resize(
    State(engine): State<Engine>,
    OfProcess(id, pid): OfProcess,
    Body(size): Body<TerminalSize>,
) -> Result<StatusCode, ApiError> {
    let agent = engine.handle(&id).await?.agent;
    agent.resize(pid, terminal(size)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn signal(
    State(engine): State<Engine>,
    OfProcess(id, pid): OfProcess,
    Body(signal): Body<Signal>,
) -> Result<StatusCode, ApiError> {
    if !(1..=64).contains(&signal.signal) {
        return Err(ApiError::invalid(format!(
            "{} is not a signal",
            signal.signal
        )));
    }
    let agent = engine.handle(&id).await?.agent;
    agent.signal(pid, signal.signal).await?;
    Ok(StatusCode::NO_CONTENT)
}
