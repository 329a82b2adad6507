//! Sandboxes, images and snapshots: what state each is in, what may be done to it, and how an interrupted change is finished
//! or undone. Gateways translate their wire words into these calls.
//!
//! ```text
//! gateway ──► Engine ──► machine (pure: what may happen)
//!                   ├──► records (SQLite: written before every effect)
//!                   ├──► storage ──► pool
//!                   └──► runtime: network slot, control groups, ports, shim, agent
//! ```

mod build;
mod capture;
mod checkpoint;
mod config;
mod create;
mod error;
mod idle;
mod images;
mod live;
mod machine;
mod memory;
mod model;
mod ports;
mod records;
mod recover;
mod restore;
mod sandboxes;
mod snapshot;
mod storage;
mod supervise;

use std::sync::Arc;

pub use config::{CheckpointerChoice, EngineConfig, PortConfig};
pub use error::{EngineError, ErrorKind};
pub use fermata_protocol::agent;
pub use fermata_runtime::{
    AgentClient, OutputFrom, RuntimeError, RuntimeErrorKind, StartRequest, error_chain,
};
pub use live::{Agent, Handle};
pub use model::*;

/// The engine's results.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// The engine; cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<live::Inner>,
}
