//! Everything between the daemon and one sandbox: its control groups, its seccomp profile, its network, its shim and its
//! agent. Knows nothing of images, records or wire interfaces.

mod agent_client;
mod error;
pub mod network;

pub use agent_client::{AgentClient, OutputFrom, StartRequest};
pub use error::{RuntimeError, RuntimeErrorKind, error_chain};
