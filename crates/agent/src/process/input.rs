//! Writing to a process's standard input.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fermata_protocol::agent::failure::Kind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Process;
use crate::agent::lock;
use crate::connection::Caller;
use crate::failure::Refusal;

/// How long one call waits for a process that does not read. The caller is told how much was taken and may call again.
const PATIENCE: Duration = Duration::from_secs(1);
/// ^D, which a terminal in its usual mode turns into the end of its input.
const END_OF_INPUT: &[u8] = &[4];

/// How much of the input was written.
#[derive(Debug)]
pub(crate) struct Accepted(pub(crate) usize);

pub(crate) fn write_input(
    process: &Arc<Process>,
    caller: &Caller,
    data: &[u8],
    close: bool,
) -> Result<Accepted, Refusal> {
    let _turn = lock(&process.input_turn);
    let (input, on_terminal) = {
        let state = process.state();
        if state.exit_code.is_some() && data.is_empty() {
            // Closing what has ended is done already.
            return Ok(Accepted(0));
        }
        match &state.input {
            Some(input) => (Arc::clone(input), state.terminal.is_some()),
            None if state.exit_code.is_some() => return Err(ended(process)),
            None => {
                return Err(Refusal::new(
                    Kind::FailedPrecondition,
                    format!("the standard input of process {} is closed", process.pid),
                ));
            }
        }
    };
    let deadline = Instant::now() + PATIENCE;
    let written = write_until(process, caller, &input, data, deadline)?;
    if close && written == data.len() {
        if on_terminal {
            write_until(process, caller, &input, END_OF_INPUT, deadline)?;
        } else {
            process.state().input = None;
        }
    }
    Ok(Accepted(written))
}

fn write_until(
    process: &Process,
    caller: &Caller,
    input: &impl std::os::fd::AsFd,
    data: &[u8],
    deadline: Instant,
) -> Result<usize, Refusal> {
    let mut written = 0;
    while written < data.len() {
        match rustix::io::write(input, &data[written..]) {
            Ok(bytes) => written += bytes,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() || !caller.can_wait() {
                    break;
                }
                wait_writable(caller, input, left);
            }
            // EPIPE from a pipe, EIO from a terminal: nobody is left to read it.
            Err(Errno::PIPE | Errno::IO) => return Err(ended(process)),
            Err(error) => {
                return Err(Refusal::os(
                    "write standard input of",
                    process.pid.to_string(),
                    &error.into(),
                ));
            }
        }
    }
    Ok(written)
}

/// Returns when the input takes more, the caller has hung up, or the time is over; the caller of this looks which.
fn wait_writable(caller: &Caller, input: &impl std::os::fd::AsFd, left: Duration) {
    let mut watched = [
        PollFd::new(input, PollFlags::OUT),
        PollFd::from_borrowed_fd(caller.socket().as_fd(), PollFlags::RDHUP),
    ];
    let timeout = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    };
    // A failing poll is met by the next write or the deadline.
    let _ = poll(&mut watched, Some(&timeout));
    if !watched[1].revents().is_empty() {
        caller.hang_up();
    }
}

fn ended(process: &Process) -> Refusal {
    Refusal::new(
        Kind::FailedPrecondition,
        format!("process {} no longer reads its standard input", process.pid),
    )
}
