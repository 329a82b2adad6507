//! The messages between daemon, shim and agent, and how they are framed.
//!
//! ```text
//! daemon ── shim.proto ──► shim
//!   └────── agent.proto ─► agent
//! ```
//!
//! Shims and agents of an earlier release keep running under a later daemon, and agents live on inside memory snapshots:
//! protobuf's rules for adding fields are the compatibility rules of these two interfaces.

mod chain;
pub mod frame;
mod spec;

pub use chain::error_chain;
pub use frame::{FrameError, MAX_FRAME_BYTES};
pub use spec::*;

/// Messages of the agent's interface.
#[allow(
    missing_docs,
    clippy::all,
    clippy::doc_markdown,
    reason = "generated; documented in agent.proto"
)]
#[expect(
    clippy::allow_attributes,
    reason = "which lints the generated code trips depends on the generator"
)]
pub mod agent {
    include!(concat!(env!("OUT_DIR"), "/fermata.agent.v1.rs"));
}

/// Messages of the shim's interface.
#[allow(
    missing_docs,
    clippy::all,
    clippy::doc_markdown,
    reason = "generated; documented in shim.proto"
)]
#[expect(
    clippy::allow_attributes,
    reason = "which lints the generated code trips depends on the generator"
)]
pub mod shim {
    include!(concat!(env!("OUT_DIR"), "/fermata.shim.v1.rs"));
}

/// The abstract unix socket, in the sandbox's network namespace, on which its agent listens.
pub const AGENT_SOCKET_NAME: &[u8] = b"fermata-agent";

/// Where the agent is found inside every sandbox; the pool's agent layer puts it there.
pub const AGENT_PATH: &str = "/.fermata/agent";
