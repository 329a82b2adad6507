//! From a request to its answer.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use fermata_protocol::agent::failure::Kind;
use fermata_protocol::agent::request::Call;
use fermata_protocol::agent::response::Result as Answer;
use fermata_protocol::agent::{
    Done, HelloResult, InputWritten, OutputChunk, ProcessList, ProcessStarted, ProcessState,
    ReadOutput, Request, ResizeTerminal, Response, SignalProcess, WaitProcess, read_output,
};

use crate::agent::Agent;
use crate::connection::Caller;
use crate::failure::Refusal;
use crate::files;
use crate::process::{self, From, Piece, StreamName};

/// Read at once unless the caller says otherwise.
const READ_BYTES: usize = 1 << 20;
/// Read at once at most: one frame holds it easily.
const MAX_READ_BYTES: u64 = 8 << 20;
/// Longer waits are of no use to anybody.
const MAX_WAIT: Duration = Duration::from_hours(24);

/// Does what was asked. A bug ends the request, not process 1.
pub(crate) fn answer(agent: &Agent, caller: &Caller, request: Request) -> Response {
    let result = match catch_unwind(AssertUnwindSafe(|| perform(agent, caller, request))) {
        Ok(Ok(answer)) => answer,
        Ok(Err(refusal)) => Answer::Failure(refusal.into()),
        Err(panic) => Answer::Failure(Refusal::new(Kind::Internal, panic_message(&*panic)).into()),
    };
    Response {
        result: Some(result),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let words = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a bug in the agent: {}", words.unwrap_or("no words"))
}

fn perform(agent: &Agent, caller: &Caller, request: Request) -> Result<Answer, Refusal> {
    let Some(call) = request.call else {
        return Err(Refusal::invalid("this agent does not know the call"));
    };
    Ok(match call {
        Call::Hello(_) => Answer::Hello(HelloResult {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_unix_nanos: agent.started_at_unix_nanos,
        }),
        Call::StartProcess(start) => Answer::ProcessStarted(ProcessStarted {
            pid: process::start(agent, start)?,
        }),
        Call::WaitProcess(wait) => Answer::ProcessState(wait_process(agent, caller, &wait)?),
        Call::ReadOutput(read) => Answer::Output(read_output(agent, caller, &read)?),
        Call::WriteInput(write) => {
            let process = agent.table().find(write.pid)?;
            let process::Accepted(bytes) =
                process::write_input(&process, caller, &write.data, write.close)?;
            Answer::InputWritten(InputWritten {
                bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
            })
        }
        Call::ResizeTerminal(resize) => resize_terminal(agent, &resize)?,
        Call::SignalProcess(signal) => signal_process(agent, &signal)?,
        Call::ListProcesses(_) => Answer::Processes(ProcessList {
            processes: agent.table().list(),
        }),
        call => files::perform(caller, call)?,
    })
}

fn deadline(timeout_ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(timeout_ms).min(MAX_WAIT)
}

fn wait_process(
    agent: &Agent,
    caller: &Caller,
    wait: &WaitProcess,
) -> Result<ProcessState, Refusal> {
    let process = agent.table().find(wait.pid)?;
    process.wait_for(caller, deadline(wait.timeout_ms), |state| state.exit_code);
    Ok(process.describe(false))
}

fn read_output(agent: &Agent, caller: &Caller, read: &ReadOutput) -> Result<OutputChunk, Refusal> {
    let process = agent.table().find(read.pid)?;
    let name = match read.stream {
        0 => StreamName::Stdout,
        1 => StreamName::Stderr,
        other => return Err(Refusal::invalid(format!("there is no stream {other}"))),
    };
    let from = match &read.from {
        Some(read_output::From::Offset(offset)) => From::Offset(*offset),
        Some(read_output::From::Cursor(cursor)) if cursor.whole_characters => From::TextCursor {
            name: &cursor.name,
            request_id: &cursor.request_id,
        },
        Some(read_output::From::Cursor(cursor)) => From::Cursor {
            name: &cursor.name,
            request_id: &cursor.request_id,
        },
        None => From::Offset(0),
    };
    let max = match read.max_bytes {
        0 => READ_BYTES,
        bytes => usize::try_from(bytes.min(MAX_READ_BYTES)).unwrap_or(READ_BYTES),
    };
    let Piece {
        offset,
        data,
        dropped_bytes,
        end,
    } = process.read_output(
        &agent.epoll,
        caller,
        name,
        from,
        max,
        deadline(read.timeout_ms),
    )?;
    Ok(OutputChunk {
        offset,
        data,
        dropped_bytes,
        end,
    })
}

fn resize_terminal(agent: &Agent, resize: &ResizeTerminal) -> Result<Answer, Refusal> {
    let process = agent.table().find(resize.pid)?;
    let (rows, columns) = process::terminal_size(resize.terminal.unwrap_or_default())?;
    let terminal = process.state().terminal.clone().ok_or_else(|| {
        Refusal::new(
            Kind::FailedPrecondition,
            format!("process {} has no terminal", resize.pid),
        )
    })?;
    fermata_sys::terminal::resize(&terminal, rows, columns)
        .map_err(|error| Refusal::os("resize the terminal of", resize.pid.to_string(), &error))?;
    Ok(Answer::Done(Done {}))
}

fn signal_process(agent: &Agent, signal: &SignalProcess) -> Result<Answer, Refusal> {
    if !(1..=64).contains(&signal.signal) {
        return Err(Refusal::invalid(format!(
            "{} is not a signal",
            signal.signal
        )));
    }
    let process = agent.table().find(signal.pid)?;
    process
        .signal(signal.signal)
        .map_err(|error| Refusal::os("signal process", signal.pid.to_string(), &error))?;
    Ok(Answer::Done(Done {}))
}
