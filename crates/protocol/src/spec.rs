//! What a shim is told once, in a file, when it is started.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything a shim needs to make a sandbox. The daemon writes it as JSON beside the control socket; the file stays there
/// for the next daemon to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShimSpec {
    /// The sandbox's id.
    pub sandbox_id: String,
    /// The name inside the UTS namespace.
    pub hostname: String,
    /// The root filesystem.
    pub root: RootSpec,
    /// The mounted network namespace to join.
    pub network_namespace: PathBuf,
    /// The host's switch for packets from the sandbox: a file that takes `0` and `1`. A restore keeps it off until the
    /// connections that lead out are closed; a cold start leaves it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<PathBuf>,
    /// Where the sandbox is accounted, limited and frozen.
    pub cgroup: CgroupSpec,
    /// Names and limits of what the processes may do.
    pub security: SecuritySpec,
    /// Process 1: path inside the root, then its arguments.
    pub init: Vec<String>,
    /// Process 1's environment.
    pub environment: BTreeMap<String, String>,
    /// Files written into the root before process 1 starts (`/etc/hosts` and the like); a symlink in the way is replaced.
    pub files: BTreeMap<PathBuf, String>,
    /// Size of `/dev/shm` in bytes.
    pub shared_memory_bytes: u64,
    /// When present, process 1 and all others are played on from a capture instead of `init` being started; `init` and
    /// `environment` are those of the tree that was captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreSpec>,
}

/// A captured tree to play on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreSpec {
    /// The directory that the capture was made into. Nothing in it is changed.
    pub images: PathBuf,
    /// What made it, and so must play it on.
    pub engine: EngineSpec,
}

/// A program that captures and restores, as a shim starts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum EngineSpec {
    /// CRIU.
    Criu(CriuSpec),
    /// The shim's own.
    Native,
}

/// How CRIU is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CriuSpec {
    /// Its path and first arguments; more than one when it runs through a loader of its own.
    pub command: Vec<String>,
    /// `PATH` for the programs that it needs itself.
    pub search_path: String,
    /// What it found out about this kernel at an earlier start, kept because finding out takes longer than a restore.
    pub kernel_facts: Option<PathBuf>,
    /// A shared object that it is started with.
    pub preload: Option<PathBuf>,
}

/// An overlayfs root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootSpec {
    /// Mounted read-only layers, uppermost first.
    pub lower: Vec<PathBuf>,
    /// The writable layer.
    pub upper: PathBuf,
    /// overlayfs's scratch directory, on the same filesystem as `upper`.
    pub work: PathBuf,
}

/// The sandbox's control groups. The directories are made and limited by the daemon's side before the shim starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CgroupSpec {
    /// The directory in the unified hierarchy: freezes, kills, and lists processes.
    pub unified: PathBuf,
    /// Directories in v1 controller hierarchies that process 1 must be moved into; empty on a plain v2 machine.
    pub controllers: Vec<PathBuf>,
    /// The directory that holds the memory controller's files, on either version.
    pub memory: Option<PathBuf>,
}

/// What the processes of the sandbox may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecuritySpec {
    /// Capability mask of process 1: bounding, permitted, effective and inheritable set.
    pub capabilities: u64,
    /// Set `no_new_privs`.
    pub no_new_privileges: bool,
    /// Seccomp programs (each instruction packed as code ‖ jt ‖ jf ‖ k in one `u64`), installed in this order.
    pub seccomp: Vec<Vec<u64>>,
    /// Paths hidden behind an empty read-only file or directory.
    pub masked_paths: Vec<PathBuf>,
    /// Paths made read-only.
    pub read_only_paths: Vec<PathBuf>,
}

/// What the shim leaves in `exit.json` when process 1 has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// 128 + n for signal n.
    pub exit_code: i32,
    /// Whether the memory controller killed something in the sandbox.
    pub out_of_memory: bool,
}

/// Files in a sandbox's run directory.
pub mod run_files {
    /// The [`super::ShimSpec`].
    pub const SPEC: &str = "spec.json";
    /// The shim's control socket.
    pub const SOCKET: &str = "shim.sock";
    /// The [`super::ExitRecord`].
    pub const EXIT: &str = "exit.json";
    /// What the shim prints to stderr.
    pub const LOG: &str = "shim.log";
}
