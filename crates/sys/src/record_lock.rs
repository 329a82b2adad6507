//! Locks on ranges of a file.

use std::io;

/// Whom a lock belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockOwner {
    /// The calling process (`F_SETLK`).
    Process,
    /// The open file description (`F_OFD_SETLK`).
    Description,
}

/// Locks a range of what the descriptor with this number leads to, without waiting; no length means to the end, however far that moves.
///
/// # Errors
/// What `fcntl(2)` says (`EAGAIN`: somebody else has it), `EOVERFLOW` for what a file offset cannot express.
pub fn lock_range(
    number: i32,
    owner: LockOwner,
    exclusive: bool,
    start: u64,
    bytes: Option<u64>,
) -> io::Result<()> {
    let offset = |value: u64| {
        libc::off_t::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
    };
    let kind = if exclusive {
        libc::F_WRLCK
    } else {
        libc::F_RDLCK
    };
    // SAFETY: flock is plain data for which all-zero is valid; F_OFD_SETLK wants `l_pid` to be zero.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::c_short::try_from(kind).map_err(io::Error::other)?;
    lock.l_whence = libc::c_short::try_from(libc::SEEK_SET).map_err(io::Error::other)?;
    lock.l_start = offset(start)?;
    lock.l_len = offset(bytes.unwrap_or(0))?;
    let command = match owner {
        LockOwner::Process => libc::F_SETLK,
        LockOwner::Description => libc::F_OFD_SETLK,
    };
    // SAFETY: `lock` is valid for reading.
    match unsafe { libc::fcntl(number, command, &raw const lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
