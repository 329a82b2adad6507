//! What programs have written to a terminal and its controller has not read: taken out, and written again unchanged.
//!
//! Nobody runs meanwhile who could read it, write more or set the terminal.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use fermata_sys::terminal_state::{set_settings, settings};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::half_line::open;

/// Far below what the kernel buffers (8 KiB), so that all of it has room again, however it was cut.
const BYTES_AT_MOST: usize = 2 << 10;
/// The flags of output in `struct termios2`; `OPOST` is the lowest.
const OUTPUT_AT: usize = 4;
const PROCESSED: u8 = 1;

/// Why output was left alone.
pub(crate) enum Peeked {
    Held(Vec<u8>),
    TooMuch,
    Stopped,
}

/// The output that waits, left as it is.
pub(crate) fn peek(controller: &OwnedFd) -> io::Result<Peeked> {
    let waiting = rustix::io::ioctl_fionread(controller)?;
    if waiting > BYTES_AT_MOST as u64 {
        return Ok(Peeked::TooMuch);
    }
    let programs = open(controller)?;
    // Stopped by control-S, it takes nothing, and would not take it back.
    if !events(&programs, PollFlags::OUT)?.contains(PollFlags::OUT) {
        return Ok(Peeked::Stopped);
    }
    let mut output = Vec::new();
    while events(controller, PollFlags::IN)?.contains(PollFlags::IN) {
        let mut piece = vec![0; BYTES_AT_MOST];
        let length = rustix::io::read(controller, piece.as_mut_slice())?;
        output.extend_from_slice(&piece[..length]);
    }
    put(controller, &output)?;
    Ok(Peeked::Held(output))
}

/// Writes output that has been processed already.
pub(crate) fn put(controller: &OwnedFd, mut output: &[u8]) -> io::Result<()> {
    if output.is_empty() {
        return Ok(());
    }
    let programs = open(controller)?;
    let before = settings(controller.as_fd())?;
    let mut plain = before;
    plain[OUTPUT_AT] &= !PROCESSED;
    set_settings(controller.as_fd(), &plain)?;
    let mut result = Ok(());
    while result.is_ok() && !output.is_empty() {
        result = rustix::io::write(&programs, output).map(|length| output = &output[length..]);
    }
    set_settings(controller.as_fd(), &before)?;
    Ok(result?)
}

fn events(file: &OwnedFd, asked: PollFlags) -> io::Result<PollFlags> {
    let mut polled = [PollFd::new(file, asked)];
    poll(&mut polled, Some(&Timespec::default()))?;
    Ok(polled[0].revents())
}
