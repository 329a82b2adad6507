//! The daemon's side of the agent's interface.

use std::path::PathBuf;
use std::time::Duration;

use fermata_protocol::agent::{
    DirectoryListing, EnvironmentVariable, FileChunk, FileStatus, FindResult, HelloResult, OutputChunk, ProcessState,
    ReplaceResult, Stream, Terminal,
};

use crate::RuntimeError;

type Result<T> = std::result::Result<T, RuntimeError>;

/// Speaks to the agent of one sandbox. Cheap to clone; connections are kept and reused.
#[derive(Debug, Clone)]
pub struct AgentClient {
    network_namespace: PathBuf,
}

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
}

#[allow(clippy::unimplemented, clippy::unused_async, missing_docs, reason = "signatures first")]
impl AgentClient {
    pub fn new(network_namespace: PathBuf) -> Self {
        Self { network_namespace }
    }
    pub async fn hello(&self) -> Result<HelloResult> { unimplemented!() }
    pub async fn start(&self, request: StartRequest) -> Result<i32> { unimplemented!() }
    pub async fn wait(&self, pid: i32, timeout: Duration) -> Result<ProcessState> { unimplemented!() }
    pub async fn read_output(&self, pid: i32, stream: Stream, from: OutputFrom, max_bytes: u64, timeout: Duration) -> Result<OutputChunk> { unimplemented!() }
    pub async fn write_input(&self, pid: i32, data: Vec<u8>, close: bool) -> Result<u64> { unimplemented!() }
    pub async fn resize(&self, pid: i32, terminal: Terminal) -> Result<()> { unimplemented!() }
    pub async fn signal(&self, pid: i32, signal: i32) -> Result<()> { unimplemented!() }
    pub async fn processes(&self) -> Result<Vec<ProcessState>> { unimplemented!() }
    pub async fn stat(&self, path: &[u8]) -> Result<FileStatus> { unimplemented!() }
    pub async fn list_directory(&self, path: &[u8]) -> Result<DirectoryListing> { unimplemented!() }
    pub async fn read_file(&self, path: &[u8], offset: u64, length: u64) -> Result<FileChunk> { unimplemented!() }
    pub async fn write_file(&self, path: &[u8], offset: u64, mode: u32, data: Vec<u8>) -> Result<()> { unimplemented!() }
    pub async fn create_directory(&self, path: &[u8], mode: u32) -> Result<()> { unimplemented!() }
    pub async fn remove(&self, path: &[u8]) -> Result<()> { unimplemented!() }
    pub async fn find_in_files(&self, path: &[u8], pattern: &str) -> Result<FindResult> { unimplemented!() }
    pub async fn replace_in_files(&self, path: &[u8], pattern: &str, replacement: &str) -> Result<ReplaceResult> { unimplemented!() }
    /// Closes every connection, and refuses calls until `resume`: a capture must not find one open.
    pub async fn suspend(&self) { unimplemented!() }
    pub fn resume(&self) { unimplemented!() }
}
