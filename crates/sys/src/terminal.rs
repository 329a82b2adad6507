//! Pseudo-terminals.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Both ends of a new pseudo-terminal.
#[derive(Debug)]
pub struct Terminal {
    /// The end of the terminal emulator; non-blocking.
    pub controller: OwnedFd,
    /// The end of the programs.
    pub programs: OwnedFd,
}

/// Opens a pseudo-terminal of the given size. Both ends are close-on-exec, and neither becomes the caller's controlling
/// terminal.
///
/// # Errors
/// The errno of the step that failed (`ENOSPC`: no more pseudo-terminals).
pub fn open(rows: u16, columns: u16) -> io::Result<Terminal> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let controller = openpt(flags)?;
    grantpt(&controller)?;
    unlockpt(&controller)?;
    // By ioctl and not by name: the name is only right within one mount of devpts (ioctl_tty(2), TIOCGPTPEER).
    let programs = ioctl_tiocgptpeer(&controller, flags)?;
    rustix::io::ioctl_fionbio(&controller, true)?;
    resize(&controller, rows, columns)?;
    Ok(Terminal {
        controller,
        programs,
    })
}

/// Sets the size; the kernel tells the foreground process group with `SIGWINCH`.
///
/// # Errors
/// The errno of `TIOCSWINSZ`.
pub fn resize(terminal: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    tcsetwinsize(
        terminal,
        Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_terminal_has_the_size_that_was_asked_for_and_takes_another() {
        let terminal = open(30, 100).unwrap();
        let size = rustix::termios::tcgetwinsize(&terminal.programs).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (30, 100));
        resize(&terminal.controller, 5, 7).unwrap();
        let size = rustix::termios::tcgetwinsize(&terminal.programs).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (5, 7));
    }
}
