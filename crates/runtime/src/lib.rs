//! Everything between the daemon and one sandbox: its control groups, its seccomp profile, its network, the
//! ports it exposes, its shim and its agent. Knows nothing of images, records or wire interfaces.

mod agent_client;
pub mod cgroup;
mod error;
mod gate;
mod namespace_socket;
pub mod network;
pub mod ports;
mod seccomp;
mod security;
mod shim_client;
mod syscalls;

pub use agent_client::{AgentClient, OutputFrom, StartRequest};
pub use error::{RuntimeError, RuntimeErrorKind};
pub use fermata_protocol::error_chain;
pub use seccomp::SeccompError;
pub use security::default_security;
pub use shim_client::{Frozen, ShimClient, exit_record, start_shim};
