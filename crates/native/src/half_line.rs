//! Lines that are being typed at a terminal: in canonical mode nobody can read one before it is whole, or see that there is one.
//!
//! ```text
//!  "half a li" ── ICANON off ──► readable: taken out ── ICANON on, all else off ──► typed again (TIOCSTI): "half a li"
//! ```
//!
//! Nobody runs meanwhile who could read it or set the terminal.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use fermata_sys::terminal_state::{SETTINGS_BYTES, fake_input, set_settings, settings};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};

type Settings = [u8; SETTINGS_BYTES];

// asm-generic/termbits.h: places in `struct termios2`, flags, places in `c_cc`.
const LOCAL_AT: usize = 12;
const CHARACTERS_AT: usize = 17;
const CHARACTERS: usize = 19;
const SIGNALS: u32 = 0x1;
const CANONICAL: u32 = 0x2;
const ECHOES: u32 = 0x8 | 0x10 | 0x20 | 0x40 | 0x200 | 0x400 | 0x800;
const EXTENDED: u32 = 0x8000;
const EXTERNAL: u32 = 0x10000;
const TIME: usize = 5;
const LEAST: usize = 6;
const START: usize = 8;
const STOP: usize = 9;
const LITERAL_NEXT: usize = 15;
/// Control-V
const LITERAL: u8 = 0x16;

fn local(settings: &Settings) -> u32 {
    let [.., a, b, c, d] = settings[..LOCAL_AT + 4] else {
        return 0;
    };
    u32::from_ne_bytes([a, b, c, d])
}

fn with_local(settings: &Settings, flags: u32) -> Settings {
    let mut changed = *settings;
    changed[LOCAL_AT..LOCAL_AT + 4].copy_from_slice(&flags.to_ne_bytes());
    changed
}

/// The line that is being typed, left as it is.
pub(crate) fn peek(controller: &OwnedFd) -> io::Result<Vec<u8>> {
    let before = settings(controller.as_fd())?;
    let flags = local(&before);
    if flags & CANONICAL == 0 || flags & EXTERNAL != 0 {
        return Ok(Vec::new());
    }
    let programs = open(controller)?;
    let mut raw = with_local(&before, flags & !CANONICAL);
    raw[CHARACTERS_AT + TIME] = 0;
    raw[CHARACTERS_AT + LEAST] = 0;
    set_settings(controller.as_fd(), &raw)?;
    let line = take(&programs);
    // Whatever came of it.
    set_settings(controller.as_fd(), &before)?;
    let line = line?;
    type_in(controller, &line)?;
    Ok(line)
}

fn take(programs: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        let waiting = rustix::io::ioctl_fionread(programs)?;
        let waiting = usize::try_from(waiting).map_err(io::Error::other)?;
        if waiting == 0 {
            return Ok(line);
        }
        let mut piece = vec![0; waiting];
        let length = rustix::io::read(programs, piece.as_mut_slice())?;
        if length == 0 {
            return Ok(line);
        }
        line.extend_from_slice(&piece[..length]);
    }
}

/// Types a line without ending it, and without anything being echoed or meant by it.
pub(crate) fn type_in(controller: &OwnedFd, line: &[u8]) -> io::Result<()> {
    if line.is_empty() {
        return Ok(());
    }
    let before = settings(controller.as_fd())?;
    let programs = open(controller)?;
    let flags = local(&before) & !(SIGNALS | ECHOES) | CANONICAL | EXTENDED;
    let mut plain = with_local(&before, flags);
    // The input flags say how what is typed is changed, which has been done; packet mode tells when flow control changes.
    let flow = before[..4].try_into().map_or(0, u32::from_ne_bytes) & FLOW;
    plain[..4].copy_from_slice(&flow.to_ne_bytes());
    for place in 0..CHARACTERS {
        if ![START, STOP].contains(&place) {
            plain[CHARACTERS_AT + place] = 0;
        }
    }
    plain[CHARACTERS_AT + LITERAL_NEXT] = LITERAL;
    let special = [
        LITERAL,
        b'\n',
        before[CHARACTERS_AT + START],
        before[CHARACTERS_AT + STOP],
    ];
    set_settings(controller.as_fd(), &plain)?;
    let typed = line.iter().try_for_each(|byte| {
        if special.contains(byte) {
            fake_input(programs.as_fd(), LITERAL)?;
        }
        fake_input(programs.as_fd(), *byte)
    });
    set_settings(controller.as_fd(), &before)?;
    typed
}

/// `IXON`
const FLOW: u32 = 0x400;

/// The programs' end, without waiting for anything.
pub(crate) fn open(controller: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let programs = ioctl_tiocgptpeer(controller, flags)?;
    rustix::io::ioctl_fionbio(&programs, true)?;
    Ok(programs)
}
