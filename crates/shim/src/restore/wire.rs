//! Keeps a sandbox's packets from the world while it is put together.
//!
//! The kernel sends a probe when it is told that a TCP connection has been repaired (`tcp_send_window_probe`), which is before
//! anybody can destroy it. It belongs to the sandbox that was captured, whose peer must not hear of it.

use std::fs::OpenOptions;
use std::io::{self, Write as _};

use fermata_protocol::ShimSpec;

/// Lets the host forward packets from the sandbox, or drop them without a word (`ip_route_input_slow`). Everything else
/// about the wire stays, so that opening takes effect at once; taking a link down would lose its routes, and its coming up is
/// noticed by the kernel in the background.
pub(super) fn set_open(spec: &ShimSpec, open: bool) -> io::Result<()> {
    let Some(path) = &spec.forwarding else {
        return Ok(());
    };
    let value = if open { b"1" } else { b"0" };
    OpenOptions::new().write(true).open(path)?.write_all(value)
}
