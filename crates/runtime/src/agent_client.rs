//! The daemon's side of the agent's interface.
//!
//! ```text
//! call ──► gate (open | suspended) ──► idle connection, else a new one ──► request, answer ──► idle again
//!                                              │
//!                                    a socket made inside the sandbox's network namespace
//! ```
//!
//! A call whose future is dropped drops its connection, so an answer never reaches the wrong call, and the agent stops
//! working for nobody. `suspend` closes every connection, because a memory capture must not find one; calls that may be
//! repeated are interrupted and repeated afterwards, others are let finish.

mod call;
mod connection;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fermata_protocol::agent::request::Call;
use fermata_protocol::agent::response::Result as Answer;
use fermata_protocol::agent::{
    CreateDirectory, Cursor, DirectoryListing, EnvironmentVariable, FileChunk, FileStatus,
    FindInFiles, FindResult, Hello, HelloResult, ListDirectory, ListProcesses, OutputChunk,
    ProcessState, ReadFile, ReadOutput, RemovePath, ReplaceInFiles, ReplaceResult, ResizeTerminal,
    SignalProcess, StartProcess, StatFile, Stream, Terminal, WaitProcess, WriteFile, WriteInput,
    read_output,
};

use crate::RuntimeError;
use crate::gate::Gate;
use call::{Repeat, answer};

type Result<T> = std::result::Result<T, RuntimeError>;

/// Agents under pressure answer waits early; ask again only after this.
const EARLY_ANSWER_PAUSE: Duration = Duration::from_millis(20);

/// Speaks to the agent of one sandbox. Cheap to clone; connections are kept and reused.
#[derive(Debug, Clone)]
pub struct AgentClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    network_namespace: PathBuf,
    socket_name: Vec<u8>,
    gate: Gate,
    idle: connection::Idle,
}

/// As long as it is held, nothing is connected to the agent, and calls wait.
#[derive(Debug)]
#[must_use = "calls go on as soon as it is dropped"]
pub struct Suspension<'a>(&'a AgentClient);

/// A process to start.
#[derive(Debug, Clone, Default)]
pub struct StartRequest {
    /// argv.
    pub arguments: Vec<Vec<u8>>,
    /// Empty: `/`.
    pub working_directory: Vec<u8>,
    /// The whole environment.
    pub environment: Vec<EnvironmentVariable>,
    /// On a PTY of this size.
    pub terminal: Option<Terminal>,
    /// A pipe instead of `/dev/null`.
    pub open_stdin: bool,
    /// Repeats of the same id start one process.
    pub request_id: String,
    /// How much of each stream is kept for readers, of whom the process waits for those that are there; 0 for the agent's
    /// default.
    pub output_buffer_bytes: u64,
}

/// Where to read output from.
#[derive(Debug, Clone)]
pub enum OutputFrom {
    /// From this byte on.
    Offset(u64),
    /// From where this named reader stopped; a repeated request id gets the same bytes.
    Cursor {
        /// The reader.
        name: String,
        /// The call.
        request_id: String,
    },
    /// As `Cursor`, for text: what is read does not end inside a UTF-8 character, unless the stream does.
    TextCursor {
        /// The reader.
        name: String,
        /// The call.
        request_id: String,
    },
}

/// Every call fails with [`RuntimeError::Refused`] when the agent says no, [`RuntimeError::Connect`] when it cannot be
/// reached, and [`RuntimeError::Call`] when the connection breaks off.
impl AgentClient {
    /// A client of the agent that listens in this network namespace. Nothing is connected yet.
    #[must_use]
    pub fn new(network_namespace: PathBuf) -> Self {
        Self::with_socket_name(
            network_namespace,
            fermata_protocol::AGENT_SOCKET_NAME.to_vec(),
        )
    }

    /// A client of an agent under another name.
    #[must_use]
    pub fn with_socket_name(network_namespace: PathBuf, socket_name: Vec<u8>) -> Self {
        Self {
            shared: Arc::new(Shared {
                network_namespace,
                socket_name,
                gate: Gate::default(),
                idle: connection::Idle::default(),
            }),
        }
    }

    /// Asks who is there.
    pub async fn hello(&self) -> Result<HelloResult> {
        answer!(self.call(Call::Hello(Hello {}), Repeat::Always), Hello)
    }

    /// Starts a process and returns its pid.
    pub async fn start(&self, request: StartRequest) -> Result<i32> {
        let repeat = if request.request_id.is_empty() {
            Repeat::Never
        } else {
            Repeat::Always
        };
        let call = Call::StartProcess(StartProcess {
            arguments: request.arguments.into_iter().map(Into::into).collect(),
            working_directory: request.working_directory.into(),
            environment: request.environment,
            terminal: request.terminal,
            open_stdin: request.open_stdin,
            request_id: request.request_id,
            output_buffer_bytes: request.output_buffer_bytes,
        });
        answer!(self.call(call, repeat), ProcessStarted).map(|started| started.pid)
    }

    /// Waits for the end of a process, at most this long, and returns its state (without its description).
    pub async fn wait(&self, pid: i32, timeout: Duration) -> Result<ProcessState> {
        let deadline = Instant::now() + timeout;
        loop {
            let wait = WaitProcess { pid, timeout_ms: 0 };
            let state = answer!(
                self.call_until(Call::WaitProcess(wait), deadline),
                ProcessState
            )?;
            if !state.running || Instant::now() >= deadline {
                return Ok(state);
            }
            tokio::time::sleep(EARLY_ANSWER_PAUSE).await;
        }
    }

    /// Reads output; waits at most this long for the first byte.
    pub async fn read_output(
        &self,
        pid: i32,
        stream: Stream,
        from: OutputFrom,
        max_bytes: u64,
        timeout: Duration,
    ) -> Result<OutputChunk> {
        let deadline = Instant::now() + timeout;
        let from = match from {
            OutputFrom::Offset(offset) => read_output::From::Offset(offset),
            OutputFrom::Cursor { name, request_id } => read_output::From::Cursor(Cursor {
                name,
                request_id,
                whole_characters: false,
            }),
            OutputFrom::TextCursor { name, request_id } => read_output::From::Cursor(Cursor {
                name,
                request_id,
                whole_characters: true,
            }),
        };
        loop {
            let read = ReadOutput {
                pid,
                stream: stream.into(),
                from: Some(from.clone()),
                max_bytes,
                timeout_ms: 0,
            };
            let chunk = answer!(self.call_until(Call::ReadOutput(read), deadline), Output)?;
            if !chunk.data.is_empty()
                || chunk.dropped_bytes > 0
                || chunk.end
                || Instant::now() >= deadline
            {
                return Ok(chunk);
            }
            tokio::time::sleep(EARLY_ANSWER_PAUSE).await;
        }
    }

    /// Writes all of `data` to the process's input, however long the process takes to read it (drop the future to give
    /// up), then closes the input if `close`. Returns how many bytes were written.
    pub async fn write_input(&self, pid: i32, data: Vec<u8>, close: bool) -> Result<u64> {
        let mut rest = prost::bytes::Bytes::from(data);
        let mut written = 0;
        loop {
            let part = rest.slice(..rest.len().min(call::INPUT_PART_BYTES));
            let is_last = part.len() == rest.len();
            let call = Call::WriteInput(WriteInput {
                pid,
                data: part.clone(),
                close: close && is_last,
            });
            let accepted = answer!(self.call(call, Repeat::Never), InputWritten)?;
            written += accepted.bytes;
            let bytes = usize::try_from(accepted.bytes).unwrap_or(usize::MAX);
            rest = rest.slice(bytes.min(part.len())..);
            if rest.is_empty() {
                return Ok(written);
            }
            if bytes == 0 {
                tokio::time::sleep(EARLY_ANSWER_PAUSE).await;
            }
        }
    }

    /// Sets the size of a process's terminal.
    pub async fn resize(&self, pid: i32, terminal: Terminal) -> Result<()> {
        let call = Call::ResizeTerminal(ResizeTerminal {
            pid,
            terminal: Some(terminal),
        });
        answer!(self.call(call, Repeat::Always), Done).map(drop)
    }

    /// Signals a process's group; succeeds when nobody is left in it.
    pub async fn signal(&self, pid: i32, signal: i32) -> Result<()> {
        let call = Call::SignalProcess(SignalProcess { pid, signal });
        answer!(self.call(call, Repeat::Never), Done).map(drop)
    }

    /// Every process that was started, running or finished, oldest first.
    pub async fn processes(&self) -> Result<Vec<ProcessState>> {
        let call = Call::ListProcesses(ListProcesses {});
        answer!(self.call(call, Repeat::Always), Processes).map(|list| list.processes)
    }

    /// The status of a file; links are followed, unless they lead nowhere.
    pub async fn stat(&self, path: &[u8]) -> Result<FileStatus> {
        let call = Call::StatFile(StatFile {
            path: path.to_vec().into(),
        });
        answer!(self.call(call, Repeat::Always), FileStatus)
    }

    /// The entries of a directory, by name; links are not followed.
    pub async fn list_directory(&self, path: &[u8]) -> Result<DirectoryListing> {
        let call = Call::ListDirectory(ListDirectory {
            path: path.to_vec().into(),
        });
        answer!(self.call(call, Repeat::Always), Directory)
    }

    /// A part of a file; `length` 0: as much as one answer holds.
    pub async fn read_file(&self, path: &[u8], offset: u64, length: u64) -> Result<FileChunk> {
        let call = Call::ReadFile(ReadFile {
            path: path.to_vec().into(),
            offset,
            length,
        });
        answer!(self.call(call, Repeat::Always), FileChunk)
    }

    /// Writes a part of a file; offset 0 creates or truncates it.
    pub async fn write_file(
        &self,
        path: &[u8],
        offset: u64,
        mode: u32,
        data: Vec<u8>,
    ) -> Result<()> {
        let call = Call::WriteFile(WriteFile {
            path: path.to_vec().into(),
            offset,
            mode,
            data: data.into(),
        });
        answer!(self.call(call, Repeat::Always), Done).map(drop)
    }

    /// Makes a directory and its parents; mode 0: 0755.
    pub async fn create_directory(&self, path: &[u8], mode: u32) -> Result<()> {
        let call = Call::CreateDirectory(CreateDirectory {
            path: path.to_vec().into(),
            mode,
        });
        answer!(self.call(call, Repeat::Always), Done).map(drop)
    }

    /// Removes a file or a whole directory; links are removed, not followed.
    pub async fn remove(&self, path: &[u8]) -> Result<()> {
        let call = Call::RemovePath(RemovePath {
            path: path.to_vec().into(),
        });
        answer!(self.call(call, Repeat::Always), Done).map(drop)
    }

    /// Finds a regular expression in the text files below a path.
    pub async fn find_in_files(&self, path: &[u8], pattern: &str) -> Result<FindResult> {
        let call = Call::FindInFiles(FindInFiles {
            path: path.to_vec().into(),
            pattern: pattern.to_owned(),
            max_matches: 0,
        });
        answer!(self.call(call, Repeat::Always), Find)
    }

    /// Replaces a regular expression in the text files below a path.
    pub async fn replace_in_files(
        &self,
        path: &[u8],
        pattern: &str,
        replacement: &str,
    ) -> Result<ReplaceResult> {
        let call = Call::ReplaceInFiles(ReplaceInFiles {
            path: path.to_vec().into(),
            pattern: pattern.to_owned(),
            replacement: replacement.to_owned(),
        });
        answer!(self.call(call, Repeat::Never), Replace)
    }

    /// Closes every connection, and holds calls back as long as the answer is kept: a capture must not find one open. When it
    /// returns, the agent has closed its ends too. Waits for calls under way that cannot be repeated.
    pub async fn suspend(&self) -> Suspension<'_> {
        self.shared.gate.close().await;
        self.shared.idle.close_all().await;
        Suspension(self)
    }
}

impl Drop for Suspension<'_> {
    fn drop(&mut self) {
        self.0.shared.gate.open();
    }
}
