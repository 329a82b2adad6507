//! Options of sockets, as bytes.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Longer than the value of any option that is asked for.
const VALUE_BYTES: usize = 256;

/// The value of an option, whatever its form.
///
/// # Errors
/// What `getsockopt(2)` says (`ENOPROTOOPT`: this kind of socket has none such).
pub fn option(socket: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<Vec<u8>> {
    let mut value = vec![0; VALUE_BYTES];
    let mut length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: `value` is valid for writing `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    value.truncate(usize::try_from(length).map_err(io::Error::other)?);
    Ok(value)
}

/// Sets an option.
///
/// # Errors
/// What `setsockopt(2)` says.
pub fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: `value` is valid for reading `length` bytes.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            length,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// How many instructions the filter of a socket has (`SO_GET_FILTER`); 0 when there is none.
///
/// # Errors
/// What `getsockopt(2)` says (`EACCES`: it is a program that cannot be read).
pub fn filter_length(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut length: libc::socklen_t = 0;
    // SAFETY: with a length of zero the kernel writes nothing but the number of instructions into it.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_GET_FILTER,
            std::ptr::null_mut(),
            &raw mut length,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(length)
}
