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
    option_of(socket, level, name, VALUE_BYTES)
}

/// The same of an option that wants to be asked for with its own size.
///
/// # Errors
/// What `getsockopt(2)` says.
pub fn option_of(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
    bytes: usize,
) -> io::Result<Vec<u8>> {
    let mut value = vec![0; bytes];
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

/// How many bytes a stream has sent that the other end has not acknowledged (TCP) or received (unix).
///
/// # Errors
/// What the ioctl says.
pub fn outgoing_bytes(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes an int. (`SIOCOUTQ` has the number of `TIOCOUTQ`.)
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(bytes).map_err(io::Error::other)
}

/// Sends a message with descriptors, by number, without waiting.
///
/// # Errors
/// What `sendmsg(2)` says.
pub fn pass_descriptors(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    numbers: &[i32],
) -> io::Result<usize> {
    // `struct cmsghdr`, as words: its length, level and type; then the numbers.
    let length = 2 * size_of::<u64>() + size_of_val(numbers);
    let word = |low: i32, high: i32| {
        u64::from(low.cast_unsigned()) | u64::from(high.cast_unsigned()) << 32
    };
    let mut control = vec![length as u64, word(libc::SOL_SOCKET, libc::SCM_RIGHTS)];
    for pair in numbers.chunks(2) {
        control.push(word(pair[0], pair.get(1).copied().unwrap_or(0)));
    }
    let mut piece = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: a message of nothing.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(control.as_slice());
    // SAFETY: all that the message points to lives until the call returns; the kernel only reads it.
    let sent = unsafe {
        libc::sendmsg(
            socket.as_raw_fd(),
            &raw const message,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// How many bytes from the peek offset on belong to messages of a unix stream that end within `buffer`, which gets them. Where one
/// message ends and the next begins shows in nothing else: one that goes on behind the buffer goes on where no memory is, and is
/// not counted.
///
/// # Errors
/// What `recvmsg(2)` says.
pub fn peek_whole_messages(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let mut pieces = [
        libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        },
        libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 1 << 20,
        },
    ];
    // SAFETY: a message of nothing.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = pieces.len();
    // SAFETY: the kernel writes to `buffer`, and fails to write to the null page.
    let length = unsafe {
        libc::recvmsg(
            socket.as_raw_fd(),
            &raw mut message,
            libc::MSG_PEEK | libc::MSG_DONTWAIT,
        )
    };
    match usize::try_from(length) {
        Ok(length) => Ok(length),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EFAULT) => Ok(0),
            error => Err(error),
        },
    }
}
