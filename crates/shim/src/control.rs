//! The control socket, and the shim's life until process 1 has ended.
//!
//! ```text
//!              ┌──────────── poll ────────────┐
//!   shim.sock ─┤ new connections              │
//!  connections ┤ one frame in, one frame out  ├─► freeze · thaw · kill · status · wait
//!        pidfd ┤ process 1 has ended          │──► exit.json, answers to those who wait, the end
//!              └──────────────────────────────┘
//! ```
//!
//! A freeze belongs to the connection that asked for it and ends with it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use fermata_native::NativeError;
use fermata_protocol::shim::{
    Captured, Done, Exit, Failure, Instant, Request, Response, StatusResult, Unheld, request::Call,
    response::Result as Answer,
};
use fermata_protocol::{CgroupSpec, ExitRecord, ShimSpec, frame, run_files};
use prost::Message as _;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitOptions, WaitStatus, waitpid};

use crate::capture::{self, Writing};
use crate::cgroup;
use crate::error::ShimError;
use crate::start::Started;

/// How long the last processes of a sandbox may take to vanish after a kill.
const CLEARING_LIMIT: Duration = Duration::from_secs(10);

/// How long a daemon may take for the other half of a snapshot; the sandbox stands still.
const INSTANT_LIMIT: Duration = Duration::from_secs(60);

/// A daemon that does not read its answer must not hold up the others.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The listening socket.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    froze: bool,
    waits_for_exit: bool,
    /// What was captured for it is being written.
    writing: Option<Writing>,
}

/// What a connection wants after its bytes have been read.
enum Next {
    Keep,
    Close,
}

impl Control {
    pub(crate) fn open() -> Result<Self, ShimError> {
        // Left behind by nobody: a run directory is used once. But a shim that is started again says so by this error.
        let listener = UnixListener::bind(run_files::SOCKET)
            .map_err(ShimError::file("listen on", run_files::SOCKET))?;
        listener
            .set_nonblocking(true)
            .map_err(ShimError::file("listen on", run_files::SOCKET))?;
        Ok(Self { listener })
    }

    /// Answers until process 1 has ended and nothing of the sandbox is left.
    pub(crate) fn serve(self, spec: &ShimSpec, started: &Started) -> Result<(), ShimError> {
        let mut connections: Vec<Connection> = Vec::new();
        loop {
            let mut descriptors = vec![
                PollFd::new(&started.pidfd, PollFlags::IN),
                PollFd::new(&self.listener, PollFlags::IN),
            ];
            descriptors.extend(
                connections
                    .iter()
                    .map(|connection| PollFd::new(&connection.stream, PollFlags::IN)),
            );
            descriptors.extend(connections.iter().filter_map(|connection| {
                let writing = connection.writing.as_ref()?;
                Some(PollFd::from_borrowed_fd(writing.end(), PollFlags::IN))
            }));
            match poll(&mut descriptors, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(ShimError::system("wait for events")(error)),
            }
            let ready = descriptors
                .iter()
                .map(|descriptor| !descriptor.revents().is_empty())
                .collect::<Vec<_>>();
            drop(descriptors);

            if ready[0] && self.finish(spec, started, &mut connections)? {
                return Ok(());
            }
            let (streams, writers) = ready[2..].split_at(connections.len());
            let mut writers = writers.iter();
            for connection in &mut connections {
                if connection.writing.is_some() && writers.next().is_some_and(|ready| *ready) {
                    connection.finish_writing();
                }
            }
            let mut had_data = streams.iter();
            connections.retain_mut(|connection| {
                if !had_data.next().is_some_and(|ready| *ready) {
                    return true;
                }
                match connection.receive(spec, started) {
                    Next::Keep => true,
                    Next::Close => {
                        connection.release(&spec.cgroup);
                        false
                    }
                }
            });
            if ready[1] {
                while let Ok((stream, _)) = self.listener.accept() {
                    if stream.set_nonblocking(true).is_ok() {
                        connections.push(Connection {
                            stream,
                            received: Vec::new(),
                            froze: false,
                            waits_for_exit: false,
                            writing: None,
                        });
                    }
                }
            }
        }
    }

    /// Reaps process 1, clears away what it leaves, and tells everyone. `false` when it was not process 1 after all.
    fn finish(
        &self,
        spec: &ShimSpec,
        started: &Started,
        connections: &mut [Connection],
    ) -> Result<bool, ShimError> {
        let pid = rustix::process::Pid::from_raw(started.pid);
        let status = match waitpid(pid, WaitOptions::NOHANG) {
            Ok(Some((_, status))) => status,
            Ok(None) | Err(rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => return Err(ShimError::system("reap process 1")(error)),
        };
        let record = ExitRecord {
            exit_code: exit_code(status),
            out_of_memory: cgroup::was_out_of_memory(&spec.cgroup),
        };
        cgroup::remove(&spec.cgroup, CLEARING_LIMIT);
        publish_exit(record)?;
        let exit = Response {
            result: Some(Answer::Exit(Exit {
                exit_code: record.exit_code,
                out_of_memory: record.out_of_memory,
            })),
        };
        for connection in connections {
            if connection.waits_for_exit {
                // A daemon that is gone reads the file instead.
                let _ = connection.answer(&exit);
            }
        }
        let _ = std::fs::remove_file(run_files::SOCKET);
        Ok(true)
    }
}

impl Connection {
    fn receive(&mut self, spec: &ShimSpec, started: &Started) -> Next {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Next::Close,
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Next::Close,
            }
        }
        while let Some((prefix, body)) = self.received.split_first_chunk::<4>() {
            let Ok(length) = frame::body_length(*prefix) else {
                return Next::Close;
            };
            let Some(body) = body.get(..length) else {
                return Next::Keep;
            };
            let Ok(request) = Request::decode(body) else {
                return Next::Close;
            };
            self.received.drain(..length + 4);
            if let Some(result) = self.handle(request, spec, started) {
                let answered = self.answer(&Response {
                    result: Some(result),
                });
                if answered.is_err() {
                    return Next::Close;
                }
            }
        }
        Next::Keep
    }

    fn handle(&mut self, request: Request, spec: &ShimSpec, started: &Started) -> Option<Answer> {
        let cgroup = &spec.cgroup;
        let done = |result: Result<(), ShimError>| {
            Some(match result {
                Ok(()) => Answer::Done(Done {}),
                Err(error) => failure(&error),
            })
        };
        match request.call {
            Some(Call::Status(_)) => Some(Answer::Status(StatusResult {
                init_pid: started.pid,
                frozen: self.froze,
                version: env!("CARGO_PKG_VERSION").to_owned(),
            })),
            Some(Call::Freeze(freeze)) => {
                let result = cgroup::freeze(cgroup, Duration::from_millis(freeze.timeout_ms));
                self.froze |= result.is_ok();
                done(result)
            }
            Some(Call::Thaw(_)) => {
                let result = cgroup::thaw(cgroup);
                self.froze &= result.is_err();
                done(result)
            }
            Some(Call::Kill(_)) => done(cgroup::kill(cgroup)),
            Some(Call::WaitExit(_)) => {
                self.waits_for_exit = true;
                None
            }
            Some(Call::Capture(capture)) => {
                Some(self.capture(spec, started, Path::new(&capture.directory)))
            }
            Some(Call::GoOn(_)) => Some(Answer::Failure(Failure {
                message: "nothing waits to go on".to_owned(),
                errno: rustix::io::Errno::INVAL.raw_os_error(),
                unheld: None,
            })),
            None => Some(Answer::Failure(Failure {
                message: "this shim does not know the call".to_owned(),
                errno: rustix::io::Errno::NOSYS.raw_os_error(),
                unheld: None,
            })),
        }
    }

    /// While the tree stands still nothing else is answered: the daemon is in the middle of this, and it takes milliseconds.
    fn capture(&mut self, spec: &ShimSpec, started: &Started, directory: &Path) -> Answer {
        let captured = capture::capture(spec, started, directory, &mut || {
            self.answer(&Response {
                result: Some(Answer::Instant(Instant {})),
            })?;
            self.wait_for_go_on()
        });
        match captured {
            Ok(writing) => {
                self.writing = Some(writing);
                Answer::Captured(Captured {})
            }
            Err(error) => failure(&error),
        }
    }

    fn wait_for_go_on(&mut self) -> Result<(), ShimError> {
        let failed = || ShimError::system("hear that the tree may go on");
        self.stream
            .set_nonblocking(false)
            .and_then(|()| self.stream.set_read_timeout(Some(INSTANT_LIMIT)))
            .map_err(failed())?;
        let heard = frame::read::<Request>(&mut self.stream);
        self.stream.set_nonblocking(true).map_err(failed())?;
        match heard {
            Ok(Some(Request {
                call: Some(Call::GoOn(_)),
            })) => Ok(()),
            _ => Err(failed()(std::io::Error::from(
                std::io::ErrorKind::ConnectionAborted,
            ))),
        }
    }

    fn finish_writing(&mut self) {
        let Some(writing) = self.writing.take() else {
            return;
        };
        let result = match writing.finish() {
            Ok(()) => Answer::Done(Done {}),
            Err(error) => failure(&error),
        };
        // A caller that is gone is found out about when its connection is read.
        let _ = self.answer(&Response {
            result: Some(result),
        });
    }

    fn answer(&mut self, response: &Response) -> Result<(), ShimError> {
        let frame = frame::encode(response).map_err(|_| ShimError::System {
            action: "answer with so large a frame",
            source: rustix::io::Errno::MSGSIZE.into(),
        })?;
        self.stream
            .set_nonblocking(false)
            .and_then(|()| self.stream.set_write_timeout(Some(ANSWER_LIMIT)))
            .and_then(|()| self.stream.write_all(&frame))
            .and_then(|()| self.stream.set_nonblocking(true))
            .map_err(ShimError::system("answer"))
    }

    /// What a connection held ends with it, however it ended.
    fn release(&self, cgroup: &CgroupSpec) {
        if self.froze {
            // Nobody is left to be told of a failure.
            let _ = cgroup::thaw(cgroup);
        }
    }
}

fn failure(error: &ShimError) -> Answer {
    Answer::Failure(Failure {
        message: fermata_protocol::error_chain(error),
        errno: 0,
        unheld: unheld(error),
    })
}

fn unheld(error: &ShimError) -> Option<Unheld> {
    let ShimError::Native(error) = error else {
        return None;
    };
    let (owner, reason, for_the_moment) = match error {
        NativeError::Unheld { owner, reason } => (owner, reason.clone(), false),
        NativeError::Busy { owner } => (owner, String::new(), true),
        _ => return None,
    };
    Some(Unheld {
        pid: owner.pid,
        name: owner.name.clone(),
        reason,
        for_the_moment,
    })
}

fn exit_code(status: WaitStatus) -> i32 {
    status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
        .unwrap_or(255)
}

fn publish_exit(record: ExitRecord) -> Result<(), ShimError> {
    let text = serde_json::to_vec(&record).map_err(ShimError::Spec)?;
    let temporary = "exit.json.new";
    std::fs::write(temporary, text).map_err(ShimError::file("write", temporary))?;
    std::fs::rename(temporary, run_files::EXIT).map_err(ShimError::file("write", run_files::EXIT))
}
