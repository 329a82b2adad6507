//! A WebSocket on one process: its input, its output, its terminal's size, its end.
//!
//! ```text
//!             ┌─ input ◄───────────────┐
//! process ────┼─ stdout ─►┐            │
//!             ├─ stderr ─►├─ queue ─► socket
//!             └─ exit ───►┘ (last, after both outputs)
//! ```
//!
//! The process does not notice when the caller goes away, and can be attached again.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use bytes::Bytes;
use fermata_engine::agent::Stream;
use fermata_engine::{Agent, Engine, EngineError, OutputFrom, RuntimeError};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::attach_frame::{ClientFrame, OutputStream, ServerFrame};
use super::error::ApiError;
use super::extract::{OfProcess, Parameters};
use super::processes;

/// How long one question to the agent waits; in between the sandbox's idle timer is told that somebody is there.
const WAIT: Duration = Duration::from_secs(15);

/// What the process wrote last may still be on its way through the pipe when its exit is known. Beyond this nobody waits:
/// a child that it left behind may hold the pipe open for days.
const GRACE: Duration = Duration::from_millis(200);

const PIECE_BYTES: u64 = 256 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    #[serde(default)]
    stdout_offset: u64,
    #[serde(default)]
    stderr_offset: u64,
}

pub(super) async fn attach(
    State(engine): State<Engine>,
    OfProcess(id, pid): OfProcess,
    Extension(closing): Extension<CancellationToken>,
    Parameters(from): Parameters<From>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
    let agent = engine.handle(&id).await?.agent;
    // Asked before the upgrade, so that an unknown process is an ordinary 404.
    agent.wait(pid, Duration::ZERO).await?;
    let session = Session {
        agent,
        pid,
        closing,
    };
    Ok(upgrade.on_upgrade(move |socket| session.run(socket, from)))
}

struct Session {
    /// Held to the end: a sandbox with somebody attached is in use.
    agent: Agent,
    pid: i32,
    closing: CancellationToken,
}

impl Session {
    async fn run(self, socket: WebSocket, from: From) {
        let (sink, source) = socket.split();
        let (queue, queued) = mpsc::channel(4);
        let output = async {
            let last = tokio::select! {
                ended = self.output(&queue, from) => match ended {
                    Ok(exit_code) => ServerFrame::Exit(exit_code),
                    Err(error) => ServerFrame::Failure(ApiError::from(error).detail().message),
                },
                () = self.closing.cancelled() => {
                    ServerFrame::Failure(EngineError::ShuttingDown.to_string())
                }
            };
            // The only receiver goes away with the caller.
            let _ = queue.send(last).await;
            drop(queue);
        };
        let conversation = async { tokio::join!(output, forward(queued, sink)) };
        tokio::select! {
            _ = conversation => {}
            // Ends when the caller is gone.
            () = self.input(source) => {}
        }
    }

    /// Both outputs to their ends; gives the exit code.
    async fn output(
        &self,
        queue: &mpsc::Sender<ServerFrame>,
        from: From,
    ) -> Result<i32, RuntimeError> {
        let (tell_exited, exited) = watch::channel(false);
        let exit = async {
            let code = self.exit_code().await;
            // Both readers may have finished already.
            let _ = tell_exited.send(true);
            code
        };
        let (code, stdout, stderr) = tokio::join!(
            exit,
            self.stream(
                OutputStream::Stdout,
                from.stdout_offset,
                queue,
                exited.clone()
            ),
            self.stream(OutputStream::Stderr, from.stderr_offset, queue, exited),
        );
        stdout?;
        stderr?;
        code
    }

    async fn exit_code(&self) -> Result<i32, RuntimeError> {
        loop {
            let state = self.agent.wait(self.pid, WAIT).await?;
            if !state.running {
                return Ok(state.exit_code);
            }
        }
    }

    async fn stream(
        &self,
        name: OutputStream,
        mut offset: u64,
        queue: &mpsc::Sender<ServerFrame>,
        mut exited: watch::Receiver<bool>,
    ) -> Result<(), RuntimeError> {
        let stream = match name {
            OutputStream::Stdout => Stream::Stdout,
            OutputStream::Stderr => Stream::Stderr,
        };
        loop {
            let after_exit = *exited.borrow_and_update();
            let wait = if after_exit { GRACE } else { WAIT };
            let read = self.agent.read_output(
                self.pid,
                stream,
                OutputFrom::Offset(offset),
                PIECE_BYTES,
                wait,
            );
            let chunk = tokio::select! {
                biased;
                chunk = read => chunk?,
                Ok(()) = exited.changed() => continue,
            };
            offset = chunk.offset + chunk.data.len() as u64;
            let nothing = chunk.data.is_empty();
            if chunk.dropped_bytes > 0
                && queue
                    .send(ServerFrame::Dropped(name, chunk.dropped_bytes))
                    .await
                    .is_err()
            {
                return Ok(());
            }
            if !nothing
                && queue
                    .send(ServerFrame::Output(name, chunk.data))
                    .await
                    .is_err()
            {
                return Ok(());
            }
            if chunk.end || (after_exit && nothing) {
                return Ok(());
            }
        }
    }

    async fn input(&self, mut source: SplitStream<WebSocket>) {
        let mut open = true;
        while let Some(Ok(message)) = source.next().await {
            let frame = match message {
                Message::Binary(bytes) => ClientFrame::decode(bytes),
                Message::Close(_) => return,
                Message::Ping(_) | Message::Pong(_) => continue,
                Message::Text(_) => Err(super::attach_frame::InvalidFrame),
            };
            let done = match frame {
                Ok(ClientFrame::Input(_)) if !open => Ok(()),
                Ok(ClientFrame::Input(data)) => self.write(data).await,
                Ok(ClientFrame::Resize(size)) => {
                    self.agent.resize(self.pid, processes::terminal(size)).await
                }
                Err(error) => {
                    tracing::debug!(%error, "attach: ended by a foreign message");
                    return;
                }
            };
            // A process that reads no more is no reason to hide its output from the caller.
            if let Err(error) = done {
                tracing::debug!(%error, "attach: input is not taken any more");
                open = false;
            }
        }
    }

    async fn write(&self, data: Bytes) -> Result<(), RuntimeError> {
        if data.is_empty() {
            self.agent.write_input(self.pid, Vec::new(), true).await?;
            return Ok(());
        }
        processes::write_input(&self.agent, self.pid, data).await
    }
}

async fn forward(mut queued: mpsc::Receiver<ServerFrame>, mut sink: SplitSink<WebSocket, Message>) {
    while let Some(frame) = queued.recv().await {
        if sink.send(Message::Binary(frame.encode())).await.is_err() {
            return;
        }
    }
    // The caller may be gone already.
    let _ = sink.close().await;
}
