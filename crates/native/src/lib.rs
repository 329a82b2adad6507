//! The native checkpointer: captures a tree of processes and plays it on, without any other program.
//!
//! ```text
//!  shim ── capture ──► tasks stopped (ptrace), read, copied ──► Image + pages file
//!  shim ── clone3 ──► process 1 of new namespaces ── restore ──► descriptors opened ─► tree cloned ─► restore programs run
//! ```
//!
//! Everything between the two is data ([`image`]): what a restore does is decided by ordinary, testable code, and only the last step
//! of each process, in which it gives up its own memory, is a list of system calls run by an interpreter ([`restore`]).

pub mod capture;
mod error;
mod half_line;
pub mod image;
pub mod restore;
mod terminal_output;

pub use error::{NativeError, Owner};
