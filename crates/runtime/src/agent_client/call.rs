//! One call: connection, request, answer, and what to do when the connection fails or the gate closes meanwhile.

use std::time::Instant;

use fermata_protocol::FrameError;
use fermata_protocol::agent::failure::Kind;
use fermata_protocol::agent::request::Call;
use fermata_protocol::agent::response::Result as Answer;
use fermata_protocol::agent::{Request, Response};

use super::AgentClient;
use super::connection::Connection;
use crate::RuntimeError;

const PEER: &str = "agent";
/// Input is sent in parts, so that a suspended client never waits long for a process that does not read.
pub(super) const INPUT_PART_BYTES: usize = 1 << 20;

/// Whether a call that may have reached the agent may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Twice does what once does.
    Always,
    Never,
}

/// Unwraps the one answer that fits a call.
macro_rules! answer {
    ($call:expr, $answer:ident) => {
        match $call.await? {
            Answer::$answer(answer) => Ok(answer),
            _ => Err(RuntimeError::UnexpectedAnswer { peer: "agent" }),
        }
    };
}
pub(super) use answer;

enum Outcome {
    Answered(Response),
    Interrupted,
    /// The connection was broken before or while sending, or after it.
    Broken {
        sent: bool,
        error: FrameError,
    },
}

impl AgentClient {
    pub(super) async fn call(&self, call: Call, repeat: Repeat) -> Result<Answer, RuntimeError> {
        self.exchange(Request { call: Some(call) }, repeat, None)
            .await
    }

    /// A call that waits inside the agent until the deadline at most. May always be repeated.
    pub(super) async fn call_until(
        &self,
        call: Call,
        deadline: Instant,
    ) -> Result<Answer, RuntimeError> {
        self.exchange(Request { call: Some(call) }, Repeat::Always, Some(deadline))
            .await
    }

    async fn exchange(
        &self,
        mut request: Request,
        repeat: Repeat,
        deadline: Option<Instant>,
    ) -> Result<Answer, RuntimeError> {
        let mut may_reconnect = true;
        loop {
            let mut pass = self.shared.gate.pass().await;
            if let Some(deadline) = deadline {
                set_timeout(&mut request, deadline);
            }
            let (mut connection, is_new) = match self.shared.idle.take() {
                Some(connection) => (connection, false),
                None => (self.connect().await?, true),
            };
            let exchange = exchange_on(&mut connection, &request);
            let outcome = if repeat == Repeat::Always {
                tokio::select! {
                    outcome = exchange => outcome,
                    () = pass.interrupted() => Outcome::Interrupted,
                }
            } else {
                exchange.await
            };
            match outcome {
                Outcome::Answered(response) => {
                    self.shared.idle.put(connection);
                    return answer_of(response);
                }
                // Still holding the pass: whoever closes the gate waits for the farewell too.
                Outcome::Interrupted => connection.close().await,
                Outcome::Broken { sent, error } => {
                    let in_vain = is_new || !may_reconnect || (sent && repeat == Repeat::Never);
                    if in_vain {
                        return Err(RuntimeError::Call {
                            peer: PEER,
                            source: error,
                        });
                    }
                    // A kept connection may have died unnoticed; a new one shows how things are.
                    may_reconnect = false;
                }
            }
        }
    }

    async fn connect(&self) -> Result<Connection, RuntimeError> {
        let shared = &self.shared;
        Connection::open(&shared.network_namespace, &shared.socket_name)
            .await
            .map_err(|source| RuntimeError::Connect { peer: PEER, source })
    }
}

async fn exchange_on(connection: &mut Connection, request: &Request) -> Outcome {
    // A request that was cut off was not understood either, so it counts as not sent.
    if let Err(error) = connection.send(request).await {
        return Outcome::Broken { sent: false, error };
    }
    match connection.receive().await {
        Ok(response) => Outcome::Answered(response),
        Err(error) => Outcome::Broken { sent: true, error },
    }
}

fn set_timeout(request: &mut Request, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let left_ms = u64::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
    match &mut request.call {
        Some(Call::WaitProcess(wait)) => wait.timeout_ms = left_ms,
        Some(Call::ReadOutput(read)) => read.timeout_ms = left_ms,
        _ => {}
    }
}

fn answer_of(response: Response) -> Result<Answer, RuntimeError> {
    match response.result {
        Some(Answer::Failure(failure)) => Err(RuntimeError::Refused {
            kind: Kind::try_from(failure.kind).unwrap_or(Kind::Internal),
            message: failure.message,
            errno: failure.errno,
        }),
        Some(answer) => Ok(answer),
        None => Err(RuntimeError::UnexpectedAnswer { peer: PEER }),
    }
}
