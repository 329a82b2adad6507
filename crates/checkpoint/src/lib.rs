//! Capturing a sandbox's processes and playing them on.
//!
//! ```text
//! daemon ── Checkpointer::capture ──► engine (CRIU) ──► image files ── Manifest::seal ──► snapshot directory
//!                                                                                            │ Manifest::read, verify
//! daemon ── Checkpointer::restore_spec ──► ShimSpec ──► shim ── criu::restore ──► process 1 ◄─┘
//! ```
//!
//! All of it is synchronous: a capture runs in a blocking thread of the daemon, a restore in the shim.

pub mod criu;
mod error;
pub mod faults;
mod manifest;
pub mod native;
mod provision;

use std::fmt::Debug;
use std::os::fd::BorrowedFd;
use std::path::Path;

use fermata_protocol::RestoreSpec;
use serde::{Deserialize, Serialize};

pub use error::{CheckpointError, CheckpointErrorKind, Process};
pub use manifest::{Facts, Incompatible, Machine, Manifest, ManifestError, Part, Verifier};
pub use provision::Provision;

/// What captures and restores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// `criu`, say.
    pub name: String,
    /// As it calls itself.
    pub version: String,
}

/// A running sandbox, seen from the host.
#[derive(Debug, Clone, Copy)]
pub struct Tree<'a> {
    /// Process 1.
    pub init_pid: i32,
    /// The run directory of its shim.
    pub shim: &'a Path,
    /// The directory of its control group in the unified hierarchy; frozen by the caller before a capture.
    pub cgroup: &'a Path,
    /// What keeps the freeze: it ends when the last process that has this open has closed it. The engine holds on to it, so
    /// that a daemon which dies during a capture lets the sandbox go on only after the engine has let go of it.
    pub lease: BorrowedFd<'a>,
}

/// What is left of a capture when its tree has been let go. The tree must live until it is written.
pub trait Remainder: Debug + Send + Sync {
    /// Completes the capture; blocks.
    ///
    /// # Errors
    /// [`CheckpointError`]; the capture is then worth nothing.
    fn write(self: Box<Self>) -> Result<(), CheckpointError>;
}

/// Captures and restores process trees.
///
/// Implementations are `Sync`: captures of different sandboxes run at the same time.
pub trait Checkpointer: Debug + Send + Sync {
    /// What is written into manifests.
    fn engine(&self) -> Engine;

    /// Writes the memory and the state of a frozen tree into the empty directory `into`. Calls `at_instant` once, while no task
    /// of it can run and everything has been read, and leaves the tree frozen as it was found.
    ///
    /// Nothing is flushed to the disk: that is for after the thaw ([`Manifest::seal`]). What can be written out while the tree runs
    /// on is left to the caller: without it the capture is not complete.
    ///
    /// # Errors
    /// [`CheckpointError`]; the tree is then as it was, and `into` holds remains that the caller removes.
    fn capture(
        &self,
        tree: &Tree<'_>,
        into: &Path,
        at_instant: &mut dyn FnMut() -> std::io::Result<()>,
    ) -> Result<Option<Box<dyn Remainder>>, CheckpointError>;

    /// What a shim has to be told to play on what was captured into `images`.
    fn restore_spec(&self, images: &Path) -> RestoreSpec;
}
