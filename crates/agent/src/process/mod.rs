//! The processes that were started on request.
//!
//! ```text
//!            fork            exec                child ended, reaped
//! (absent) ───────► starting ─────► running ───────────────────────► finished ──► forgotten
//!                      │ exec failed: removed       its streams may go on: grandchildren hold them
//! ```
//!
//! The main thread alone reads pipes and reaps; connection threads start, wait, read buffers, write input and signal.

mod held_back;
mod input;
mod output;
mod readers;
mod start;
mod starts;
mod table;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use fermata_protocol::agent::{EnvironmentVariable, ProcessState};
use prost::bytes::Bytes;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::agent::lock;
use crate::connection::Caller;
use crate::failure::Refusal;
use crate::server::source_key;

pub(crate) use held_back::HeldBack;
pub(crate) use input::{Accepted, write_input};
pub(crate) use output::{Budget, From, Output, Piece};
pub(crate) use start::{start, terminal_size};
pub(crate) use starts::Starts;
pub(crate) use table::{Table, reap, settle};

/// The size of one read from a pipe: as much as it holds by default (pipe(7)).
pub(crate) const READ_BYTES: usize = 64 << 10;
/// The kernel holds less than this for a pseudo-terminal.
const TERMINAL_BACKLOG_BYTES: usize = 1 << 20;

/// One of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamName {
    Stdout,
    Stderr,
}

/// A stream's buffer and, until its end, the descriptor it comes from.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) source: Option<Arc<OwnedFd>>,
    pub(crate) output: Output,
    /// The source is not watched, because a reader must catch up first.
    pub(crate) held_back: bool,
}

impl Stream {
    pub(crate) fn new(source: Option<Arc<OwnedFd>>, output: Output) -> Self {
        Self {
            source,
            output,
            held_back: false,
        }
    }
}

/// What changes in the life of a process.
#[derive(Debug)]
pub(crate) struct State {
    /// The program is executing (or has been).
    pub(crate) started: bool,
    /// Set when it is reaped and all it had written is in the buffers.
    pub(crate) exit_code: Option<i32>,
    /// It is in the table's list of finished processes.
    pub(crate) settled: bool,
    pub(crate) stdout: Stream,
    pub(crate) stderr: Stream,
    /// Where input goes; a pipe, or the terminal.
    pub(crate) input: Option<Arc<OwnedFd>>,
    pub(crate) terminal: Option<Arc<OwnedFd>>,
}

impl State {
    pub(crate) fn stream(&mut self, name: StreamName) -> &mut Stream {
        match name {
            StreamName::Stdout => &mut self.stdout,
            StreamName::Stderr => &mut self.stderr,
        }
    }

    fn is_read_fully(&self) -> bool {
        self.stdout.output.is_read_fully() && self.stderr.output.is_read_fully()
    }

    fn is_awaited(&self, now: Instant) -> bool {
        self.stdout.output.is_awaited(now) || self.stderr.output.is_awaited(now)
    }
}

/// What was asked to run.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) arguments: Vec<Bytes>,
    pub(crate) working_directory: Bytes,
    pub(crate) environment: Arc<[EnvironmentVariable]>,
}

/// A process that was started on request.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    /// Never used again, unlike the pid.
    pub(crate) serial: u64,
    pub(crate) description: Description,
    state: Mutex<State>,
    changed: Condvar,
    /// Held while one caller writes input, so that two do not mix theirs.
    input_turn: Mutex<()>,
}

impl Process {
    fn new(pid: Pid, serial: u64, description: Description, state: State) -> Self {
        Self {
            pid,
            serial,
            description,
            state: Mutex::new(state),
            changed: Condvar::new(),
            input_turn: Mutex::new(()),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Wakes every waiter to look again.
    pub(crate) fn wake(&self) {
        // Taking the lock closes the gap between a waiter's look and its sleep.
        drop(self.state());
        self.changed.notify_all();
    }

    /// Blocks until `look` finds what it wants, the deadline passes, or the caller hangs up or cannot wait; the last look
    /// counts.
    pub(crate) fn wait_for<T>(
        self: &Arc<Self>,
        caller: &Caller,
        deadline: Instant,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Option<T> {
        let _attending = caller.attend(self);
        let mut state = self.state();
        loop {
            let found = look(&mut state);
            let now = Instant::now();
            if found.is_some() || now >= deadline || !caller.can_wait() {
                return found;
            }
            (state, _) = self
                .changed
                .wait_timeout(state, deadline - now)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn describe(&self, with_description: bool) -> ProcessState {
        let exit_code = self.state().exit_code;
        let mut described = ProcessState {
            pid: self.pid.as_raw_nonzero().get(),
            running: exit_code.is_none(),
            exit_code: exit_code.unwrap_or(0),
            ..ProcessState::default()
        };
        if with_description {
            described.arguments.clone_from(&self.description.arguments);
            described.working_directory = self.description.working_directory.clone();
            described.environment = self.description.environment.to_vec();
        }
        described
    }

    /// Takes what has come on a stream, at most one buffer full and no more than its readers have room for.
    pub(crate) fn take_output(
        &self,
        epoll: &OwnedFd,
        name: StreamName,
        buffer: &mut [u8],
    ) -> Attention {
        let now = Instant::now();
        let mut state = self.state();
        let stream = state.stream(name);
        let Some(source) = &stream.source else {
            return Attention::Never;
        };
        let room = stream.output.room(now).unwrap_or(usize::MAX);
        if room == 0 {
            // Taken out altogether: epoll tells of a hang-up whatever it is asked for (epoll_ctl(2)). Fails only if it is
            // not in there.
            let _ = epoll::delete(epoll, source);
            stream.held_back = true;
            return Attention::At(stream.output.next_departure(now).unwrap_or(now));
        }
        let length = room.min(buffer.len());
        let attention = match read_source(stream, &mut buffer[..length], now) {
            Taken::Some(_) => Attention::WhenReadable,
            Taken::Nothing => return Attention::WhenReadable,
            Taken::End(source) => {
                // Not watched any more is what is wanted, whatever the reason.
                let _ = epoll::delete(epoll, source);
                Attention::Never
            }
        };
        drop(state);
        self.changed.notify_all();
        attention
    }

    /// Answers a reader, who waits until the deadline for the first byte.
    pub(crate) fn read_output(
        self: &Arc<Self>,
        epoll: &OwnedFd,
        caller: &Caller,
        name: StreamName,
        from: From<'_>,
        max: usize,
        deadline: Instant,
    ) -> Result<Piece, Refusal> {
        let piece = self.wait_for(caller, deadline, |state| {
            let now = Instant::now();
            let piece = state
                .stream(name)
                .output
                .read(from, max, now, deadline)
                .transpose();
            self.go_on(epoll, state, name, now);
            piece
        });
        piece.unwrap_or_else(|| {
            let mut state = self.state();
            Ok(state.stream(name).output.give_up(from, Instant::now()))
        })
    }

    /// Watches a source again that was held back, if there is room; `false` when it is still held back.
    fn go_on(&self, epoll: &OwnedFd, state: &mut State, name: StreamName, now: Instant) -> bool {
        let stream = state.stream(name);
        if stream.held_back
            && stream.output.has_room_again(now)
            && let Some(source) = &stream.source
        {
            let key = epoll::EventData::new_u64(source_key(self.serial, name));
            stream.held_back = epoll::add(epoll, source, key, epoll::EventFlags::IN).is_err();
        }
        !stream.held_back
    }

    /// Takes what an ended process had written, reaps it, marks it as ended, and returns the sources that ended with it.
    ///
    /// A grandchild may hold the pipe and write on for ever: what lay in the pipe at this moment is all that is taken.
    fn finish(&self, buffer: &mut [u8], reap: impl FnOnce() -> i32) -> Vec<Arc<OwnedFd>> {
        let now = Instant::now();
        let mut state = self.state();
        let on_terminal = state.terminal.is_some();
        let mut ended = Vec::new();
        for name in [StreamName::Stdout, StreamName::Stderr] {
            let stream = state.stream(name);
            let Some(source) = &stream.source else {
                continue;
            };
            let mut backlog = if on_terminal {
                TERMINAL_BACKLOG_BYTES
            } else {
                rustix::io::ioctl_fionread(source)
                    .ok()
                    .and_then(|bytes| usize::try_from(bytes).ok())
                    .unwrap_or(READ_BYTES)
            };
            // Taken whether or not there is room, and kept: with the exit code all output must be there.
            // One more look than there are bytes, to see the end of the stream where it is there already.
            loop {
                match read_source(stream, buffer, now) {
                    Taken::Some(bytes) if bytes <= backlog => backlog -= bytes,
                    Taken::Some(_) | Taken::Nothing => break,
                    Taken::End(source) => {
                        ended.push(source);
                        break;
                    }
                }
            }
        }
        // Under the lock: who signals the process holds it too, and must not hit a stranger with the same pid.
        state.exit_code = Some(reap());
        state.input = None;
        drop(state);
        self.changed.notify_all();
        ended
    }

    /// Signals the process group. That nobody is left to be signalled is no error: the caller has what it wants.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        // Held until the signal is sent, because the reaper needs it to give the pid free.
        let state = self.state();
        if state.exit_code.is_some() && fermata_sys::process::is_alive(self.pid) {
            // The kernel gives no pid anew while a group of that number lives (its struct pid is in use), so the group is
            // gone and this is a stranger.
            return Ok(());
        }
        match fermata_sys::process::signal_group(self.pid, signal) {
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(()),
            sent => sent,
        }
    }

    /// Ends a process that did not come to run properly.
    fn kill(&self) {
        // Fails only when it is gone.
        let _ = self.signal(Signal::KILL.as_raw());
    }

    /// Gives up all output; what grandchildren may still write is taken and thrown away.
    fn forget(&self) {
        let mut state = self.state();
        state.stdout.output.discard();
        state.stderr.output.discard();
    }
}

/// When a stream wants to be looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attention {
    WhenReadable,
    /// It is held back; its next reader will be gone then.
    At(Instant),
    /// It has ended.
    Never,
}

enum Taken {
    Some(usize),
    Nothing,
    End(Arc<OwnedFd>),
}

fn read_source(stream: &mut Stream, buffer: &mut [u8], now: Instant) -> Taken {
    let Some(source) = &stream.source else {
        return Taken::Nothing;
    };
    loop {
        return match rustix::io::read(source.as_fd(), &mut *buffer) {
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Taken::Nothing,
            // EIO is how a terminal says that nobody holds its other end any more.
            Ok(0) | Err(_) => {
                stream.output.finish();
                stream.held_back = false;
                stream.source.take().map_or(Taken::Nothing, Taken::End)
            }
            Ok(bytes) => {
                stream.output.append(&buffer[..bytes], now);
                Taken::Some(bytes)
            }
        };
    }
}
