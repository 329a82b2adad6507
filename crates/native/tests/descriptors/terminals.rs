//! Pseudo-terminals.

use std::fs::File;
use std::io::{Read as _, Write as _};

use fermata_sys::terminal;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcgetwinsize, tcsetattr};

use super::harness::{Case, Guest, held, put, refused, take};

pub(crate) const CASES: &[Case] = &[
    ("a_terminal_keeps_number_settings_and_size", settings),
    ("a_terminal_controls_a_session_again", session),
    ("a_terminal_keeps_unread_output", unread),
    ("a_line_that_is_being_typed_can_be_ended", half_line),
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
    let guest = Guest::start(|| {
        let pair = terminal::open(24, 80).unwrap();
        rustix::io::write(&pair.programs, b"line\n\tprompt").unwrap();
        put(100, pair.controller);
        put(101, pair.programs);
    });
    let first = guest.capture().unwrap();
    let second = guest.capture().unwrap();
    let processed = b"line\r\n\tprompt";
    assert_eq!(first.descriptions.terminals[0].output, processed);
    assert_eq!(first.descriptions, second.descriptions);
    drop(guest);
    second.play_on(|| {
        let (mut controller, programs) = (File::from(take(100)), File::from(take(101)));
        let mut output = Vec::new();
        rustix::io::write(&programs, b"\n").unwrap();
        while !output.ends_with(b"prompt\r\n") {
            output.extend(read_soon(&mut controller));
        }
        assert_eq!(output, [processed.as_slice(), b"\r\n"].concat());
    });
}

fn no_controller() {
    let pair = terminal::open(24, 80).unwrap();
    let reason = refused(|| put(101, pair.programs.try_clone().unwrap()));
    assert!(reason.contains("controller"), "{reason}");
}

fn half_line() {
    // With characters that would mean something if they were not typed behind ^V.
    let typed = b"half a\x16\x03 \x16\n\x16\x16\x16\x13line";
    let line = b"half a\x03 \n\x16\x13line";
    let guest = Guest::start(|| {
        let pair = terminal::open(24, 80).unwrap();
        let mut controller = File::from(pair.controller);
        controller.write_all(typed).unwrap();
        // The echo comes from a thread of the kernel, perhaps in pieces; "\x03" is echoed as "^C".
        let mut echo = Vec::new();
        while !echo.ends_with(b"line") {
            echo.extend(read_soon(&mut controller));
        }
        put(100, controller);
        put(101, pair.programs);
    });
    let first = guest.capture().unwrap();
    let second = guest.capture().unwrap();
    assert_eq!(first.descriptions.terminals[0].half_line, line);
    assert_eq!(first.descriptions, second.descriptions);
    // Its number is wanted again.
    drop(guest);
    second.play_on(|| {
        let (mut controller, mut programs) = (File::from(take(100)), File::from(take(101)));
        assert_eq!(rustix::io::ioctl_fionread(&programs).unwrap(), 0);
        assert_eq!(rustix::io::ioctl_fionread(&controller).unwrap(), 0);
        // A character is taken back, as by somebody at the keyboard.
        controller.write_all(b"\x7f\n").unwrap();
        let whole = [&line[..line.len() - 1], b"\n"].concat();
        assert_eq!(read_soon(&mut programs), whole);
    });
}

fn read_soon(file: &mut File) -> Vec<u8> {
    use rustix::event::{PollFd, PollFlags, poll};
    poll(&mut [PollFd::new(file, PollFlags::IN)], None).unwrap();
    let mut bytes = vec![0; 256];
    let length = file.read(&mut bytes).unwrap();
    bytes.truncate(length);
    bytes
}
