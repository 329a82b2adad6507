//! The CRIU driver.
//!
//! ```text
//!  daemon ─ Criu::capture ─► fermata-shim engine ─ exec ─► criu swrk 3 ──► image files
//!  shim ─── restore ──────── clone3 ─────────────── exec ─► criu swrk 3 ─ clone(CLONE_PARENT) ─► process 1
//!              └───────── requests and notifications over a SOCK_SEQPACKET pair ─────────┘
//! ```
//!
//! CRIU runs in the sandbox's network namespace, at a capture as at a restore: to CRIU that namespace is then its own, which is left
//! alone. As an external one it would be looked into, and reading the connection tracking table took two thirds of an idle
//! sandbox's pause.
//!
//! CRIU is spoken to directly (criu.org/RPC); `swrk` serves one socket that it inherits and ends with it.

mod capture;
mod conversation;
mod launch;
mod log;
mod mirror;
mod program;
mod restore;
mod unheld;

/// CRIU's messages.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated; documented in criu.proto"
)]
#[expect(
    clippy::allow_attributes,
    reason = "which lints the generated code trips depends on the generator"
)]
mod rpc {
    include!(concat!(env!("OUT_DIR"), "/criu.rs"));
}

use std::path::{Path, PathBuf};

use fermata_protocol::{CriuSpec, EngineSpec, RestoreSpec};

use crate::{CheckpointError, Checkpointer, Engine, Remainder, Tree};

pub use launch::{LaunchError, become_engine, learn_kernel, leave_mount_namespace};
pub use program::{Program, Version};
pub use restore::{Restored, Stage, restore};

/// How its descriptors are numbered after [`become_engine`]: the socket first, then those that were passed, in order.
pub(crate) const SOCKET_DESCRIPTOR: i32 = 3;

/// Captures and restores with CRIU.
#[derive(Debug)]
pub struct Criu {
    program: Program,
    launcher: PathBuf,
}

impl Criu {
    /// `launcher` is the shim program: it starts CRIU where nothing of it reaches the host.
    #[must_use]
    pub fn new(program: Program, launcher: PathBuf) -> Self {
        Self { program, launcher }
    }

    fn spec(&self) -> CriuSpec {
        self.program.spec()
    }
}

impl Checkpointer for Criu {
    fn engine(&self) -> Engine {
        Engine {
            name: "criu".to_owned(),
            version: self.program.version().to_string(),
        }
    }

    fn capture(
        &self,
        tree: &Tree<'_>,
        into: &Path,
        at_instant: &mut dyn FnMut() -> std::io::Result<()>,
    ) -> Result<Option<Box<dyn Remainder>>, CheckpointError> {
        capture::capture(&self.spec(), &self.launcher, tree, into, at_instant)?;
        Ok(None)
    }

    fn restore_spec(&self, images: &Path) -> RestoreSpec {
        RestoreSpec {
            images: images.to_owned(),
            engine: EngineSpec::Criu(self.spec()),
        }
    }
}
