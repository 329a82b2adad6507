//! The wire interfaces: gateways translate their wire words into calls of the engine.
//!
//! ```text
//! Beam client ─► beam (gRPC) ─┐
//!                             ├─► engine
//! anything else ─► rest ──────┘
//! ```

mod auth;
pub mod beam;
mod grpc;
pub mod rest;

pub use auth::Auth;
pub use grpc::serve_grpc;
