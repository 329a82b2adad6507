//! Starting a process.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use fermata_protocol::agent::failure::Kind;
use fermata_protocol::agent::{EnvironmentVariable, StartProcess};
use fermata_sys::process::{Launch, LaunchError, LaunchStep, Session, launch};
use prost::bytes::Bytes;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::{Description, Output, Process, State, Stream, StreamName, settle};
use crate::agent::Agent;
use crate::failure::{Refusal, kind_of, readable};
use crate::server::source_key;

/// Kept of each stream unless the caller says otherwise.
const OUTPUT_BYTES: usize = 16 << 20;
/// The most a caller may ask to keep.
const MAX_OUTPUT_BYTES: u64 = 64 << 20;
/// Searched when the environment has no PATH; the value that Docker gives its containers.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts a process, once for each request id.
pub(crate) fn start(agent: &Agent, request: StartProcess) -> Result<i32, Refusal> {
    let request_id = request.request_id.clone();
    agent.starts.once(&request_id, || start_now(agent, request))
}

fn start_now(agent: &Agent, request: StartProcess) -> Result<i32, Refusal> {
    let directory = if request.working_directory.is_empty() {
        Bytes::from_static(b"/")
    } else {
        request.working_directory
    };
    let name = match request.arguments.first() {
        Some(name) if !name.is_empty() => name.clone(),
        _ => return Err(Refusal::invalid("the command is empty")),
    };
    let arguments = request
        .arguments
        .iter()
        .map(|argument| c_string("argument", argument.to_vec()))
        .collect::<Result<Vec<_>, _>>()?;
    let environment = environment_strings(&request.environment)?;
    let c_directory = c_string("working directory", directory.to_vec())?;
    check_directory(&directory)?;
    let program = find_program(&name, &directory, &request.environment)?;
    let c_program = c_string("program", program.clone().into_os_string().into_vec())?;

    let limit = match request.output_buffer_bytes {
        0 => OUTPUT_BYTES,
        bytes => usize::try_from(bytes.min(MAX_OUTPUT_BYTES)).unwrap_or(OUTPUT_BYTES),
    };
    // The table is locked from the making of the pipes to the end of this block: the reaper never meets a child of ours that
    // it does not know, and no other child, forked meanwhile, holds an end of these pipes and so delays their end.
    let mut table = agent.table();
    let streams = match request.terminal {
        Some(size) => Streams::terminal(agent, size, limit)?,
        None => Streams::pipes(agent, request.open_stdin, limit)?,
    };
    let session = if streams.state.terminal.is_some() {
        Session::Terminal
    } else {
        Session::Group
    };
    let plan = Launch {
        program: &c_program,
        arguments: &arguments,
        environment: &environment,
        working_directory: &c_directory,
        stdio: [
            streams.stdin.as_fd(),
            streams.stdout.as_fd(),
            streams.stderr.as_fd(),
        ],
        session,
        open_files: Some(agent.open_files),
        reset_oom_score: agent.reset_oom_score,
    };
    let launched = launch(&plan)
        .map_err(|error| Refusal::of_errno(kind_of(&error), "cannot start a process", &error))?;
    let description = Description {
        arguments: request.arguments,
        working_directory: directory.clone(),
        environment: table.shared_environment(request.environment),
    };
    let serial = table.next_serial();
    let process = Arc::new(Process::new(
        launched.pid,
        serial,
        description,
        streams.state,
    ));
    table.insert(&process);
    // While this process holds the child's ends, no stream would ever end.
    drop((streams.stdin, streams.stdout, streams.stderr));
    drop(table);

    let outcome = launched
        .wait_for_exec()
        .map_err(|error| explain(&error, &name, &program, &directory))
        .and_then(|()| watch(agent, &process));
    match outcome {
        Ok(()) => {
            process.state().started = true;
            settle(agent, &process);
            Ok(process.pid.as_raw_nonzero().get())
        }
        Err(refusal) => {
            // A child that failed to exec has ended by itself; one whose output cannot be watched must not run on unseen.
            process.kill();
            agent.table().remove(&process);
            Err(refusal)
        }
    }
}

/// Lets the main thread take the output from now on.
fn watch(agent: &Agent, process: &Arc<Process>) -> Result<(), Refusal> {
    for name in [StreamName::Stdout, StreamName::Stderr] {
        let source = process.state().stream(name).source.clone();
        let Some(source) = source else { continue };
        epoll::add(
            &agent.epoll,
            source,
            epoll::EventData::new_u64(source_key(process.serial, name)),
            epoll::EventFlags::IN,
        )
        .map_err(|error| {
            let error = error.into();
            Refusal::of_errno(
                kind_of(&error),
                "cannot watch the output of a process",
                &error,
            )
        })?;
    }
    Ok(())
}

/// Both ends of a new process's standard streams.
struct Streams {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    /// Holds the agent's ends.
    state: State,
}

impl Streams {
    fn pipes(agent: &Agent, open_stdin: bool, limit: usize) -> Result<Self, Refusal> {
        let (stdin, input) = if open_stdin {
            let (stdin, input) = pipe()?;
            set_nonblocking(&input)?;
            (stdin, Some(Arc::new(input)))
        } else {
            let null = std::fs::File::open("/dev/null")
                .map_err(|error| Refusal::os("open", "/dev/null", &error))?;
            (null.into(), None)
        };
        let output = || -> Result<_, Refusal> {
            let (source, end) = pipe()?;
            set_nonblocking(&source)?;
            let output = Output::new(limit, Arc::clone(&agent.budget), Instant::now());
            Ok((end, Stream::new(Some(Arc::new(source)), output)))
        };
        let (stdout, stdout_stream) = output()?;
        let (stderr, stderr_stream) = output()?;
        Ok(Self {
            stdin,
            stdout,
            stderr,
            state: State {
                started: false,
                exit_code: None,
                settled: false,
                stdout: stdout_stream,
                stderr: stderr_stream,
                input,
                terminal: None,
            },
        })
    }

    fn terminal(
        agent: &Agent,
        size: fermata_protocol::agent::Terminal,
        limit: usize,
    ) -> Result<Self, Refusal> {
        let (rows, columns) = terminal_size(size)?;
        let failed =
            |error: io::Error| Refusal::of_errno(kind_of(&error), "cannot open a terminal", &error);
        let terminal = fermata_sys::terminal::open(rows, columns).map_err(failed)?;
        let copy = || terminal.programs.try_clone().map_err(failed);
        let controller = Arc::new(terminal.controller);
        Ok(Self {
            stdin: copy()?,
            stdout: copy()?,
            stderr: terminal.programs,
            state: State {
                started: false,
                exit_code: None,
                settled: false,
                stdout: Stream::new(
                    Some(Arc::clone(&controller)),
                    Output::new(limit, Arc::clone(&agent.budget), Instant::now()),
                ),
                stderr: Stream::new(None, Output::ended(Arc::clone(&agent.budget))),
                input: Some(Arc::clone(&controller)),
                terminal: Some(controller),
            },
        })
    }
}

pub(crate) fn terminal_size(
    size: fermata_protocol::agent::Terminal,
) -> Result<(u16, u16), Refusal> {
    match (u16::try_from(size.rows), u16::try_from(size.columns)) {
        (Ok(rows), Ok(columns)) => Ok((rows, columns)),
        _ => Err(Refusal::invalid(format!(
            "no terminal has {} rows and {} columns",
            size.rows, size.columns
        ))),
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Refusal> {
    pipe_with(PipeFlags::CLOEXEC).map_err(no_pipe)
}

/// Only our end: the other one belongs to programs that expect to block.
fn set_nonblocking(end: &OwnedFd) -> Result<(), Refusal> {
    rustix::io::ioctl_fionbio(end, true).map_err(no_pipe)
}

fn no_pipe(error: Errno) -> Refusal {
    let error = error.into();
    Refusal::of_errno(kind_of(&error), "cannot make a pipe", &error)
}

fn c_string(what: &str, bytes: Vec<u8>) -> Result<CString, Refusal> {
    CString::new(bytes).map_err(|error| {
        let bytes = error.into_vec();
        Refusal::invalid(format!(
            "{what} {:?} has a zero byte in it",
            readable(&bytes)
        ))
    })
}

fn environment_strings(environment: &[EnvironmentVariable]) -> Result<Vec<CString>, Refusal> {
    environment
        .iter()
        .map(|variable| {
            if variable.name.is_empty() || variable.name.contains(&b'=') {
                return Err(Refusal::invalid(format!(
                    "{:?} is not a name for an environment variable",
                    readable(&variable.name)
                )));
            }
            let text = [&variable.name[..], b"=", &variable.value[..]].concat();
            c_string("environment variable", text)
        })
        .collect()
}

/// The child's own attempt decides; this only makes sure that a missing directory is named before a program that was
/// looked for in vain inside it.
fn check_directory(directory: &[u8]) -> Result<(), Refusal> {
    match std::fs::metadata(Path::new(OsStr::from_bytes(directory))) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(no_directory(directory, &Errno::NOTDIR.into())),
        Err(error) => Err(no_directory(directory, &error)),
    }
}

fn no_directory(directory: &[u8], error: &io::Error) -> Refusal {
    let what = format!("working directory {:?}", readable(directory));
    Refusal::of_errno(kind_of(error), &what, error)
}

/// Finds the file to execute as execvp(3) does, but in the PATH of the process to be.
fn find_program(
    name: &[u8],
    directory: &[u8],
    environment: &[EnvironmentVariable],
) -> Result<PathBuf, Refusal> {
    if name.contains(&b'/') {
        return Ok(PathBuf::from(OsStr::from_bytes(name)));
    }
    let path = environment
        .iter()
        .rev()
        .find(|variable| variable.name == "PATH")
        .map_or(DEFAULT_PATH, |variable| &variable.value);
    let mut not_executable = false;
    for element in path.split(|byte| *byte == b':') {
        // An empty element means the working directory; relative ones are meant from there too.
        let candidate = Path::new(OsStr::from_bytes(directory))
            .join(OsStr::from_bytes(element))
            .join(OsStr::from_bytes(name));
        match std::fs::metadata(&candidate) {
            Ok(metadata) if metadata.is_file() => {
                if metadata.permissions().mode() & 0o111 != 0 {
                    return Ok(candidate);
                }
                not_executable = true;
            }
            _ => {}
        }
    }
    let name = readable(name);
    Err(if not_executable {
        Refusal {
            kind: Kind::NotExecutable,
            message: format!("exec: {name:?}: permission denied"),
            errno: Errno::ACCESS.raw_os_error(),
        }
    } else {
        Refusal {
            kind: Kind::NotFound,
            message: format!("exec: {name:?}: executable file not found in $PATH"),
            errno: Errno::NOENT.raw_os_error(),
        }
    })
}

fn explain(error: &LaunchError, name: &[u8], program: &Path, directory: &[u8]) -> Refusal {
    let source = &error.source;
    match error.step {
        LaunchStep::Prepare => {
            Refusal::of_errno(kind_of(source), "cannot prepare a process", source)
        }
        LaunchStep::WorkingDirectory => no_directory(directory, source),
        LaunchStep::Execute => {
            let what = format!("exec: {:?}", readable(name));
            let file = Path::new(OsStr::from_bytes(directory)).join(program);
            match Errno::from_io_error(source) {
                Some(Errno::ACCESS | Errno::PERM | Errno::NOEXEC | Errno::ISDIR) => {
                    Refusal::of_errno(Kind::NotExecutable, &what, source)
                }
                Some(Errno::NOENT) if file.exists() => {
                    let mut refusal = Refusal::of_errno(Kind::NotExecutable, &what, source);
                    refusal
                        .message
                        .push_str(" (the file is there; its interpreter or loader is not)");
                    refusal
                }
                _ => Refusal::of_errno(kind_of(source), &what, source),
            }
        }
    }
}
