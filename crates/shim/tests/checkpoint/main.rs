//! What every checkpointer must be able to do, driven through real shims with guest programs that check themselves.
//!
//! ```text
//! guest sets up ── ready ──► captured at some moment ──► restored twice ──► SIGUSR1 to all three ──► each checks, exit code 0
//! ```
#![expect(clippy::unwrap_used, reason = "a test's fixture fails the test")]

mod contract;
mod faults;
mod identity;
mod timing;
mod world;
