//! What a pseudo-terminal is set to, asked and set through its controller end.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// `struct termios2`
pub const SETTINGS_BYTES: usize = 44;

// asm-generic/ioctls.h
const TCGETS2: libc::Ioctl = 0x802C_542A;
const TCSETS2: libc::Ioctl = 0x402C_542B;
const TIOCGPTN: libc::Ioctl = 0x8004_5430;
const TIOCSPTLCK: libc::Ioctl = 0x4004_5431;
const TIOCGPKT: libc::Ioctl = 0x8004_5438;
const TIOCGPTLCK: libc::Ioctl = 0x8004_5439;
const TIOCGEXCL: libc::Ioctl = 0x8004_5440;
const TIOCSTI: libc::Ioctl = 0x5412;
const TIOCPKT: libc::Ioctl = 0x5420;
const TIOCSCTTY: libc::Ioctl = 0x540E;
const TIOCGPGRP: libc::Ioctl = 0x540F;
const TIOCSPGRP: libc::Ioctl = 0x5410;
const TIOCGSID: libc::Ioctl = 0x5429;

/// `struct termios2` as the kernel has it.
///
/// # Errors
/// What the ioctl says.
pub fn settings(terminal: BorrowedFd<'_>) -> io::Result<[u8; SETTINGS_BYTES]> {
    let mut settings = [0; SETTINGS_BYTES];
    // SAFETY: `settings` has the size of what the kernel writes.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), TCGETS2, settings.as_mut_ptr()) })?;
    Ok(settings)
}

/// Sets them at once.
///
/// # Errors
/// What the ioctl says.
pub fn set_settings(terminal: BorrowedFd<'_>, settings: &[u8; SETTINGS_BYTES]) -> io::Result<()> {
    // SAFETY: `settings` has the size of what the kernel reads.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), TCSETS2, settings.as_ptr()) })
}

/// The number of the terminal of this controller end in its devpts.
///
/// # Errors
/// What the ioctl says (`ENOTTY`: not a controller end).
pub fn number(controller: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(get(controller, TIOCGPTN)?.cast_unsigned())
}

/// Whether its other end cannot be opened by its name.
///
/// # Errors
/// What the ioctl says.
pub fn is_locked(controller: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(get(controller, TIOCGPTLCK)? != 0)
}

/// Sets that.
///
/// # Errors
/// What the ioctl says.
pub fn set_locked(controller: BorrowedFd<'_>, locked: bool) -> io::Result<()> {
    set(controller, TIOCSPTLCK, locked.into())
}

/// Whether reads of the controller end tell of changes too.
///
/// # Errors
/// What the ioctl says.
pub fn is_packet_mode(controller: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(get(controller, TIOCGPKT)? != 0)
}

/// Sets that.
///
/// # Errors
/// What the ioctl says.
pub fn set_packet_mode(controller: BorrowedFd<'_>, packets: bool) -> io::Result<()> {
    set(controller, TIOCPKT, packets.into())
}

/// Whether nobody may open it any more (`TIOCEXCL`).
///
/// # Errors
/// What the ioctl says.
pub fn is_exclusive(terminal: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(get(terminal, TIOCGEXCL)? != 0)
}

/// The session that the terminal controls, if any.
///
/// # Errors
/// What the ioctl says.
pub fn session(controller: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    match get(controller, TIOCGSID) {
        Ok(session) => Ok(Some(session)),
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The foreground process group; 0 when there is none.
///
/// # Errors
/// What the ioctl says.
pub fn foreground(controller: BorrowedFd<'_>) -> io::Result<i32> {
    get(controller, TIOCGPGRP)
}

/// Makes a terminal, by the number of a descriptor of its programs' end, the one that controls the caller's session, which
/// the caller leads.
///
/// # Errors
/// What the ioctl says.
pub fn control_session(programs: i32) -> io::Result<()> {
    // SAFETY: takes a plain number.
    check(unsafe { libc::ioctl(programs, TIOCSCTTY, 0) })
}

/// Sets the foreground process group of the caller's terminal, also from the background; `false` if that is another terminal.
///
/// # Errors
/// What the ioctl says.
pub fn set_foreground(programs: i32, group: i32) -> io::Result<bool> {
    let stop: u64 = 1 << (libc::SIGTTOU - 1);
    let mut before: u64 = 0;
    // SAFETY: both sets have the eight bytes that are named.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_BLOCK,
            &raw const stop,
            &raw mut before,
            size_of::<u64>(),
        )
    })?;
    // SAFETY: the kernel reads the four bytes of `group`.
    let result = check(unsafe { libc::ioctl(programs, TIOCSPGRP, &raw const group) });
    // SAFETY: the set has the eight bytes that are named.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const before,
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    })?;
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a terminal, by its programs' end, take a byte for typed (`TIOCSTI`).
///
/// # Errors
/// What the ioctl says.
pub fn fake_input(programs: BorrowedFd<'_>, byte: u8) -> io::Result<()> {
    // SAFETY: the kernel reads one byte.
    check(unsafe { libc::ioctl(programs.as_raw_fd(), TIOCSTI, &raw const byte) })
}

fn get(terminal: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<i32> {
    let mut value: i32 = 0;
    // SAFETY: every request passed here writes an int.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), request, &raw mut value) })?;
    Ok(value)
}

fn set(terminal: BorrowedFd<'_>, request: libc::Ioctl, value: i32) -> io::Result<()> {
    // SAFETY: every request passed here reads an int.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), request, &raw const value) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    check_long(result.into())
}

fn check_long(result: libc::c_long) -> io::Result<()> {
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
