//! Sandboxes, images and snapshots: what state each is in, what may be done to it, and how an interrupted change is finished
//! or undone. Gateways translate their wire words into these calls.

mod error;
mod model;

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;

pub use error::{EngineError, ErrorKind};
pub use fermata_protocol::agent;
pub use fermata_runtime::{
    AgentClient, OutputFrom, RuntimeError, RuntimeErrorKind, StartRequest, error_chain,
};
pub use model::*;

/// The engine's results.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// The engine; cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {}

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Everything the server keeps is under here.
    pub data_directory: PathBuf,
}

/// A running sandbox with what a caller needs to command it. Getting one counts as use of the sandbox.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Speaks to its agent.
    pub agent: AgentClient,
    /// Environment that each process gets: the image's, then the sandbox's.
    pub environment: std::collections::BTreeMap<String, String>,
}

#[allow(clippy::unimplemented, clippy::unused_async, missing_docs, reason = "signatures first")]
impl Engine {
    /// Opens the data directory: prepares pool and base image when they are missing, finds running sandboxes again, and
    /// finishes or undoes what was interrupted. `progress` gets one line of text per step.
    pub async fn open(config: EngineConfig, progress: mpsc::UnboundedSender<String>) -> Result<Self> { unimplemented!() }
    /// Returns when the sandbox takes commands.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox> { unimplemented!() }
    pub async fn sandbox(&self, id: &SandboxId) -> Result<Sandbox> { unimplemented!() }
    pub async fn sandboxes(&self) -> Result<Vec<Sandbox>> { unimplemented!() }
    /// The way to its processes and files. `NotRunning` when it cannot take commands.
    pub async fn handle(&self, id: &SandboxId) -> Result<Handle> { unimplemented!() }
    /// Returns when nothing of it runs any more. Ending an ended one is fine.
    pub async fn stop_sandbox(&self, id: &SandboxId) -> Result<Sandbox> { unimplemented!() }
    /// Forgets an ended sandbox.
    pub async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> { unimplemented!() }
    /// Sets the idle timeout from now on; `None`: never.
    pub async fn set_idle_timeout(&self, id: &SandboxId, timeout: Option<Duration>) -> Result<()> { unimplemented!() }
    pub async fn set_network(&self, id: &SandboxId, policy: NetworkPolicy) -> Result<()> { unimplemented!() }
    /// Holds the filesystem of a running sandbox as a new image; the sandbox runs on.
    pub async fn snapshot_filesystem(&self, id: &SandboxId) -> Result<FilesystemSnapshot> { unimplemented!() }
    pub async fn image(&self, id: &ImageId) -> Result<Image> { unimplemented!() }
    pub async fn images(&self) -> Result<Vec<Image>> { unimplemented!() }
    /// `ImageInUse` while a sandbox runs from it.
    pub async fn remove_image(&self, id: &ImageId) -> Result<()> { unimplemented!() }
    pub fn base_image(&self) -> ImageId { unimplemented!() }
    /// The image that a build of this would give, and whether it is there already.
    pub async fn find_build(&self, spec: &BuildSpec) -> Result<(ImageId, bool)> { unimplemented!() }
    /// Builds, or finds the result of an equal earlier build. Goes on when the receiver is dropped.
    pub fn build_image(&self, spec: BuildSpec) -> mpsc::Receiver<BuildEvent> { unimplemented!() }
    /// Stops taking work. Sandboxes run on for the next start, or are ended.
    pub async fn shut_down(&self, stop_sandboxes: bool) -> Result<()> { unimplemented!() }
}
