//! Becoming another program.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Replaces the calling program; `arguments[0]` is its path. Returns only when that failed, with the reason.
#[must_use]
pub fn execute(arguments: &[CString], environment: &[CString]) -> io::Error {
    let Some(path) = arguments.first() else {
        return io::Error::from_raw_os_error(libc::EINVAL);
    };
    let pointers = |strings: &[CString]| {
        strings
            .iter()
            .map(|string| CStr::as_ptr(string))
            .chain([std::ptr::null()])
            .collect::<Vec<_>>()
    };
    let arguments = pointers(arguments);
    let environment = pointers(environment);
    // SAFETY: all strings end in a zero byte, both arrays in a null pointer, and all of them outlive the call.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Marks every descriptor from `first` on to be closed by `execve(2)`.
///
/// # Errors
/// What `close_range(2)` says.
pub fn close_on_execute_from(first: u32) -> io::Result<()> {
    // SAFETY: no pointers; the flag only changes a property of descriptors and closes none.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes descriptor `number` refer to what `source` refers to, kept over `execve(2)`. Only for a process about to execute:
/// whatever had that number is closed behind its owner's back.
///
/// # Errors
/// What `dup2(2)` says.
pub fn duplicate_to(source: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: no pointers; the caller is about to execute another program, so no owner of `number` will close it again.
    if unsafe { libc::dup2(source.as_raw_fd(), number) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
