//! Makes pseudo-terminals again.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use fermata_sys::{open_file, terminal_state as state};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{Winsize, tcsetwinsize};

use super::Failure;
use crate::image::{Descriptions, OpenFile, Terminal};
use crate::{half_line, terminal_output};

/// Far above what a sandbox may have (`kernel.pty.max`).
const NUMBERS_AT_MOST: u32 = 4096;

/// A terminal made again, with both ends.
#[derive(Debug)]
pub(super) struct OpenTerminal {
    image: Terminal,
    controller: OwnedFd,
    programs: Option<OwnedFd>,
}

/// What is known of it after the forks: numbers that every process inherits.
#[derive(Debug)]
pub(super) struct InheritedTerminal {
    pub(super) number: u32,
    /// The programs' end.
    pub(super) programs: i32,
    pub(super) foreground: Option<i32>,
}

/// Makes all terminals: a number is had by taking those below it too.
pub(super) fn make_all(image: &Descriptions) -> Result<Vec<OpenTerminal>, Failure> {
    let mut spare: Vec<(u32, String, OwnedFd)> = Vec::new();
    let has_programs = |wanted: u32| {
        image.list.iter().any(|description| {
            matches!(description.file, OpenFile::Terminal { number, is_controller: false } if number == wanted)
        })
    };
    image
        .terminals
        .iter()
        .map(|image| {
            let is_it = |(number, multiplexer, _): &(u32, String, OwnedFd)| {
                *number == image.number && *multiplexer == image.multiplexer
            };
            loop {
                if let Some(place) = spare.iter().position(is_it) {
                    let was_open = image.hung_up || has_programs(image.number);
                    return OpenTerminal::set_up(image, spare.swap_remove(place).2, was_open);
                }
                if image.number > NUMBERS_AT_MOST || spare.len() as u64 > NUMBERS_AT_MOST.into() {
                    return Err(Failure::damaged("the number of a terminal"));
                }
                let controller = rustix::fs::open(
                    image.multiplexer.as_str(),
                    OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
                    Mode::empty(),
                )
                .map_err(Failure::to(format!("open {}", image.multiplexer)))?;
                let number = state::number(controller.as_fd())
                    .map_err(Failure::to("ask for the number of a terminal"))?;
                spare.push((number, image.multiplexer.clone(), controller));
            }
        })
        .collect()
}

impl OpenTerminal {
    fn set_up(image: &Terminal, controller: OwnedFd, was_open: bool) -> Result<Self, Failure> {
        let step = || Failure::to("set a terminal up");
        let settings = image
            .settings
            .as_slice()
            .try_into()
            .map_err(|_| Failure::damaged("the settings of a terminal"))?;
        state::set_locked(controller.as_fd(), false).map_err(step())?;
        // When its last descriptor is closed after that, the controller is told; before the first one is opened, it waits.
        let programs = was_open
            .then(|| open_programs(&controller, OFlags::RDWR))
            .transpose()?;
        state::set_settings(controller.as_fd(), settings).map_err(step())?;
        terminal_output::put(&controller, &image.output).map_err(step())?;
        half_line::type_in(&controller, &image.half_line).map_err(step())?;
        let [ws_row, ws_col, ws_xpixel, ws_ypixel] = image.window;
        tcsetwinsize(
            &controller,
            Winsize {
                ws_row,
                ws_col,
                ws_xpixel,
                ws_ypixel,
            },
        )
        .map_err(Failure::to("set the size of a terminal"))?;
        state::set_packet_mode(controller.as_fd(), image.is_packet_mode).map_err(step())?;
        state::set_locked(controller.as_fd(), image.is_locked).map_err(step())?;
        Ok(Self {
            image: image.clone(),
            controller,
            programs,
        })
    }

    pub(super) fn number(&self) -> u32 {
        self.image.number
    }

    /// Another description of one end. There is one controller, which only ever has one.
    pub(super) fn open(&self, is_controller: bool, flags: OFlags) -> Result<OwnedFd, Failure> {
        if is_controller {
            return self
                .controller
                .try_clone()
                .map_err(Failure::to("keep the controller of a terminal"));
        }
        open_programs(&self.controller, flags)
    }

    /// Gives up ownership: what is to lead a session needs the programs' end after the forks.
    pub(super) fn inherit(self, floor: i32) -> Result<Option<InheritedTerminal>, Failure> {
        let Some(programs) = self.programs else {
            return Ok(None);
        };
        Ok(Some(InheritedTerminal {
            number: self.image.number,
            programs: open_file::move_above(programs, floor)
                .map_err(Failure::to("move a descriptor out of the way"))?,
            foreground: self.image.foreground,
        }))
    }
}

/// By ioctl and not by name: that works while it is locked, too.
fn open_programs(controller: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Failure> {
    let access = OpenptFlags::from_bits_retain((flags & OFlags::ACCMODE).bits());
    ioctl_tiocgptpeer(
        controller,
        access | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )
    .map_err(Failure::to::<Errno>(format!(
        "open the other end of terminal descriptor {}",
        controller.as_raw_fd()
    )))
}
