//! Bodies of requests and answers that are not the engine's own types.

use std::collections::BTreeMap;

use fermata_engine::agent::{FileStatus, ProcessState};
use fermata_engine::{BuildSpec, BuildStep, ImageId, PortNumber, Sandbox};
use serde::{Deserialize, Serialize};

use super::encoding;

/// The answer of `/version`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Version {
    /// The server's.
    pub version: String,
}

/// Every answer with an error status.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// For programs.
    pub kind: String,
    /// For people.
    pub message: String,
}

/// A new idle timeout.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ttl {
    /// `null`: never.
    pub seconds: Option<u64>,
}

/// A port to expose.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExposePort {
    /// Inside.
    pub port: PortNumber,
}

/// A process to start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartProcess {
    /// Never a shell string.
    pub argv: Vec<String>,
    /// Working directory; `/` when empty.
    #[serde(default)]
    pub cwd: String,
    /// Added to the image's and the sandbox's, which it overrides.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// On a terminal of this size.
    #[serde(default)]
    pub tty: Option<TerminalSize>,
    /// Whether stdin is a pipe to be written to, instead of `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// Repeating a request with the same id starts one process.
    #[serde(default)]
    pub request_id: String,
}

/// Size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    /// Height.
    pub rows: u16,
    /// Width.
    pub columns: u16,
}

/// A process was started.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Started {
    /// As the sandbox sees it.
    pub pid: i32,
}

/// A process that was started by a caller.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// As the sandbox sees it.
    pub pid: i32,
    /// Whether it has not ended yet.
    pub running: bool,
    /// Once it has ended; 128 + n for signal n.
    pub exit_code: Option<i32>,
    /// What was started; what is not UTF-8 is replaced.
    pub argv: Vec<String>,
    /// Where it was started.
    pub cwd: String,
}

// The environment is left out on purpose: it may hold secrets, and lists are shown and logged.
impl From<ProcessState> for Process {
    fn from(state: ProcessState) -> Self {
        Self {
            pid: state.pid,
            running: state.running,
            exit_code: (!state.running).then_some(state.exit_code),
            argv: state
                .arguments
                .iter()
                .map(|argument| lossy(argument))
                .collect(),
            cwd: lossy(&state.working_directory),
        }
    }
}

/// A signal for a process group.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signal {
    /// Its number.
    pub signal: i32,
}

/// How much of an input was taken.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Written {
    /// All of the body, unless the process ended first.
    pub bytes: u64,
}

/// A file's metadata; symlinks are not followed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct File {
    /// What is not UTF-8 is replaced.
    pub name: String,
    /// Percent-encoded and exact.
    pub encoded_name: String,
    /// `file`, `directory`, `symlink`, `fifo`, `socket`, `character_device` or `block_device`.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Size in bytes.
    pub size: u64,
    /// Seconds since the epoch.
    pub modified_at: i64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Where a symlink points, percent-encoded.
    pub encoded_target: Option<String>,
}

/// Kinds of inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharacterDevice,
    BlockDevice,
    Unknown,
}

impl FileKind {
    /// From `st_mode` (inode(7)).
    fn of(mode: u32) -> Self {
        match mode & 0o170_000 {
            0o100_000 => Self::File,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Symlink,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            0o020_000 => Self::CharacterDevice,
            0o060_000 => Self::BlockDevice,
            _ => Self::Unknown,
        }
    }
}

impl From<FileStatus> for File {
    fn from(status: FileStatus) -> Self {
        let kind = FileKind::of(status.mode);
        Self {
            name: lossy(&status.name),
            encoded_name: encoding::encode(&status.name),
            kind,
            mode: status.mode & 0o7777,
            size: status.size_bytes,
            modified_at: status.modified_at_unix_seconds,
            uid: status.uid,
            gid: status.gid,
            encoded_target: (kind == FileKind::Symlink)
                .then(|| encoding::encode(&status.link_target)),
        }
    }
}

/// What a snapshot is to hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotKind {
    /// The filesystem.
    #[default]
    Filesystem,
    /// Processes, memory, open ports and the filesystem.
    Memory,
}

/// A snapshot to take.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakeSnapshot {
    /// What it is to hold.
    #[serde(default)]
    pub kind: SnapshotKind,
    /// End the sandbox at the instant that is held; for memory snapshots.
    #[serde(default)]
    pub stop: bool,
}

/// How many sandboxes to play on.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlayOn {
    /// One unless it is said.
    pub count: usize,
}

impl Default for PlayOn {
    fn default() -> Self {
        Self { count: 1 }
    }
}

/// One of the sandboxes that were asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Child {
    /// It runs.
    Sandbox(Box<Sandbox>),
    /// It does not.
    Error(ErrorDetail),
}

/// What came of a fork.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Forked {
    /// How long the source stood still.
    pub paused_ms: f64,
    /// One for each that was asked for.
    pub children: Vec<Child>,
}

/// An image to build.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// What to start from; the base image when absent.
    #[serde(default)]
    pub from: Option<ImageId>,
    /// In order.
    #[serde(default)]
    pub steps: Vec<BuildStep>,
    /// For the steps and for every sandbox from the image.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

impl From<Build> for BuildSpec {
    fn from(build: Build) -> Self {
        Self {
            from: build.from,
            steps: build.steps,
            environment: build.environment,
        }
    }
}

/// Names of headers on raw output.
pub mod output_headers {
    /// Offset of the first byte of the body.
    pub const OFFSET: &str = "x-fermata-offset";
    /// What to ask for next.
    pub const NEXT_OFFSET: &str = "x-fermata-next-offset";
    /// Bytes before the body that were dropped because nobody had read them in time.
    pub const DROPPED: &str = "x-fermata-dropped";
    /// `true` when nothing more will come.
    pub const END: &str = "x-fermata-end";
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_has_no_exit_code_and_never_shows_its_environment() {
        let state = ProcessState {
            pid: 7,
            running: true,
            arguments: vec![b"sh".to_vec().into(), vec![0xff].into()],
            environment: vec![fermata_engine::agent::EnvironmentVariable {
                name: b"PASSWORD".to_vec().into(),
                value: b"hunter2".to_vec().into(),
            }],
            ..ProcessState::default()
        };
        let json = serde_json::to_string(&Process::from(state)).unwrap();
        assert!(json.contains(r#""exit_code":null"#), "{json}");
        assert!(!json.contains("hunter2"), "{json}");
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let error = serde_json::from_str::<StartProcess>(r#"{"argv": ["a"], "shell": true}"#)
            .unwrap_err()
            .to_string();
        assert!(error.contains("shell"), "{error}");
    }

    #[test]
    fn names_that_are_not_utf8_stay_exact() {
        let file = File::from(FileStatus {
            name: b"a\xff\n".to_vec().into(),
            mode: 0o120_777,
            link_target: b"/x".to_vec().into(),
            ..FileStatus::default()
        });
        assert_eq!(file.encoded_name, "a%FF%0A");
        assert_eq!(file.kind, FileKind::Symlink);
        assert_eq!(file.mode, 0o777);
        assert_eq!(file.encoded_target.as_deref(), Some("/x"));
    }
}
