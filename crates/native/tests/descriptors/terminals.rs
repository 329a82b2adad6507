//! Pseudo-terminals.

use std::fs::File;
use std::io::{Read as _, Write as _};

use fermata_sys::terminal;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcgetwinsize, tcsetattr};

use super::harness::{Case, Guest, held, put, refused, take};

pub(crate) const CASES: &[Case] = &[
    ("a_terminal_keeps_number_settings_and_size", settings),
    ("a_terminal_controls_a_session_again", session),
    ("a_terminal_with_unread_output_is_refused", unread),
    (
        "a_terminal_without_its_controller_is_refused",
        no_controller,
    ),
];

fn settings() {
    // One is taken, so that the copy has to look for the number.
    let other = terminal::open(1, 1).unwrap();
    let note = tempfile::NamedTempFile::new().unwrap();
    held(
        || {
            let below = terminal::open(1, 1).unwrap();
            let pair = terminal::open(40, 132).unwrap();
            let mut modes = tcgetattr(&pair.programs).unwrap();
            modes.local_modes -= LocalModes::ECHO | LocalModes::ICANON;
            tcsetattr(&pair.programs, OptionalActions::Now, &modes).unwrap();
            let name = rustix::termios::ttyname(&pair.programs, Vec::new()).unwrap();
            std::fs::write(note.path(), name.as_bytes()).unwrap();
            put(100, pair.controller);
            put(101, pair.programs);
            drop(below);
        },
        || {
            let (mut controller, mut programs) = (File::from(take(100)), File::from(take(101)));
            let name = rustix::termios::ttyname(&programs, Vec::new()).unwrap();
            assert_eq!(name.as_bytes(), std::fs::read(note.path()).unwrap());
            let size = tcgetwinsize(&programs).unwrap();
            assert_eq!((size.ws_row, size.ws_col), (40, 132));
            let modes = tcgetattr(&programs).unwrap();
            assert!(
                !modes
                    .local_modes
                    .intersects(LocalModes::ECHO | LocalModes::ICANON)
            );
            controller.write_all(b"x").unwrap();
            let mut bytes = [0; 1];
            programs.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"x");
        },
    );
    drop(other);
}

fn session() {
    use rustix::process::{getpid, setsid};
    let mut captured = Guest::start(|| {
        let pair = terminal::open(24, 80).unwrap();
        setsid().unwrap();
        rustix::process::ioctl_tiocsctty(&pair.programs).unwrap();
        rustix::termios::tcsetpgrp(&pair.programs, getpid()).unwrap();
        put(100, pair.controller);
        put(101, pair.programs);
    })
    .capture()
    .unwrap();
    let terminal = &mut captured.descriptions.terminals[0];
    let number = terminal.number;
    // The guest saw its group by another number than the copy, which leads a pid namespace.
    assert!(terminal.foreground.is_some());
    terminal.foreground = Some(1);
    captured.play_on_after(
        |opened| {
            setsid().unwrap();
            opened.lead_session(number).unwrap();
            assert!(opened.lead_session(number + 1).is_err());
            opened.set_foreground().unwrap();
        },
        || {
            let programs = take(101);
            assert_eq!(rustix::termios::tcgetsid(&programs), Ok(getpid()));
            assert_eq!(rustix::termios::tcgetpgrp(&programs), Ok(getpid()));
        },
    );
}

fn unread() {
    let reason = refused(|| {
        let pair = terminal::open(24, 80).unwrap();
        rustix::io::write(&pair.programs, b"prompt").unwrap();
        put(100, pair.controller);
        put(101, pair.programs);
    });
    assert!(reason.contains("not read yet"), "{reason}");
}

fn no_controller() {
    let pair = terminal::open(24, 80).unwrap();
    let reason = refused(|| put(101, pair.programs.try_clone().unwrap()));
    assert!(reason.contains("controller"), "{reason}");
}
