//! Making a network namespace.

use std::io;

/// Moves the calling thread, and only it, into a new, empty network namespace.
///
/// # Errors
/// What `unshare(2)` says.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: no pointers; CLONE_NEWNET changes nothing that other threads share with this one.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
