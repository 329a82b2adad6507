//! The network of sandboxes against the real kernel, each test in namespaces of its own.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "all of this is a test"
)]

mod frame;
mod life;
mod policy;
mod reach;
mod world;
