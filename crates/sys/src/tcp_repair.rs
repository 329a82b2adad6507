//! `TCP_REPAIR`: a connection is looked at, or made, without a packet being sent.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use crate::socket::{option, option_of, set_option};

const TCP: i32 = libc::IPPROTO_TCP;
// linux/tcp.h
const REPAIR: i32 = 19;
const QUEUE: i32 = 20;
const SEQUENCE: i32 = 21;
const OPTIONS: i32 = 22;
const WINDOW: i32 = 29;
const ON: i32 = 1;
const OFF: i32 = 0;
const OFF_SILENTLY: i32 = -1;
const NO_QUEUE: i32 = 0;

/// A direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpQueue {
    /// What was received.
    Received = 1,
    /// What was sent.
    Sent = 2,
}

/// An option of the handshake: its number in the packet, and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct HandshakeOption {
    /// 2 segment size, 3 window scales, 4 selective acknowledgements, 8 timestamps.
    pub code: u32,
    /// What was agreed.
    pub value: u32,
}

/// Begins to repair.
///
/// # Errors
/// What `setsockopt(2)` says (`EPERM`: it listens, or the caller may not).
pub fn begin(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, REPAIR, ON)
}

/// Ends it, and asks the other end how much it takes.
///
/// # Errors
/// What `setsockopt(2)` says.
pub fn end(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, REPAIR, OFF)
}

/// Ends it without a packet. The kernel has forgotten `SO_REUSEADDR` then.
///
/// # Errors
/// What `setsockopt(2)` says.
pub fn end_silently(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, REPAIR, OFF_SILENTLY)
}

/// Which queue sending and peeking are about; none is the usual.
///
/// # Errors
/// What `setsockopt(2)` says.
pub fn select(socket: BorrowedFd<'_>, queue: Option<TcpQueue>) -> io::Result<()> {
    set(socket, QUEUE, queue.map_or(NO_QUEUE, |queue| queue as i32))
}

/// The sequence number behind the end of a queue.
///
/// # Errors
/// What `getsockopt(2)` says.
pub fn sequence(socket: BorrowedFd<'_>, queue: TcpQueue) -> io::Result<u32> {
    select(socket, Some(queue))?;
    let value = option(socket, TCP, SEQUENCE)?;
    let value = value.first_chunk().ok_or(io::ErrorKind::InvalidData)?;
    Ok(u32::from_ne_bytes(*value))
}

/// Sets that, before the socket is connected.
///
/// # Errors
/// What `setsockopt(2)` says.
pub fn set_sequence(socket: BorrowedFd<'_>, queue: TcpQueue, sequence: u32) -> io::Result<()> {
    select(socket, Some(queue))?;
    set(socket, SEQUENCE, sequence.cast_signed())
}

/// What the handshake would have agreed.
///
/// # Errors
/// What `setsockopt(2)` says.
pub fn agree(socket: BorrowedFd<'_>, options: &[HandshakeOption]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(options)).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes, an array of `struct tcp_repair_opt`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            TCP,
            OPTIONS,
            options.as_ptr().cast(),
            length,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// How many bytes an end that is connected has told the other to take.
///
/// # Errors
/// What `getsockopt(2)` says.
pub fn own_window(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // The fourth of the five in `struct tcp_repair_window`.
    let value = option_of(socket, TCP, WINDOW, 20)?;
    let window = value.get(12..).and_then(|rest| rest.first_chunk());
    Ok(u32::from_ne_bytes(
        *window.ok_or(io::ErrorKind::InvalidData)?,
    ))
}

/// Makes an end that has received everything up to `received` know what the other end takes.
///
/// # Errors
/// What `setsockopt(2)` says.
pub fn set_windows(
    socket: BorrowedFd<'_>,
    received: u32,
    own_bytes: u32,
    other_bytes: u32,
) -> io::Result<()> {
    // `struct tcp_repair_window`: whence the last one came, what may be sent, the most ever, what may be received, and from where.
    let window = [received, other_bytes, other_bytes, own_bytes, received];
    let bytes: Vec<u8> = window.into_iter().flat_map(u32::to_ne_bytes).collect();
    set_option(socket, TCP, WINDOW, &bytes)
}

fn set(socket: BorrowedFd<'_>, name: i32, value: i32) -> io::Result<()> {
    set_option(socket, TCP, name, &value.to_ne_bytes())
}
