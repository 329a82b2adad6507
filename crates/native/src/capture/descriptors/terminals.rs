//! Pseudo-terminals.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::AsFd as _;

use fermata_sys::terminal_state as state;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::tcgetwinsize;

use super::opened::Opened;
use super::{DescriptorCollector, Found, Kind};
use crate::image::{OpenFile, Terminal};
use crate::terminal_output::{self, Peeked};
use crate::{NativeError, half_line};

/// `/dev/ptmx`, and the first and last major number of `/dev/pts/N` (Documentation/admin-guide/devices.txt).
const MULTIPLEXER: (u32, u32) = (5, 2);
const PROGRAMS: std::ops::RangeInclusive<u32> = 136..=143;

/// Both ends of one terminal, as far as they are open.
#[derive(Default)]
struct Ends<'a> {
    controller: Option<&'a Found>,
    programs: Option<&'a Found>,
}

impl Opened<'_> {
    /// An end of a pseudo-terminal, if it is one.
    pub(super) fn terminal(&self) -> Result<Option<OpenFile>, NativeError> {
        let device = self.stat.st_rdev;
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let terminal = if (major, minor) == MULTIPLEXER {
            let number = state::number(self.file.as_fd())
                .map_err(self.failed("ask for the number of a terminal"))?;
            OpenFile::Terminal {
                number,
                is_controller: true,
            }
        } else if PROGRAMS.contains(&major) {
            OpenFile::Terminal {
                number: (major - PROGRAMS.start()) * 256 + minor,
                is_controller: false,
            }
        } else {
            return Ok(None);
        };
        // Another devpts than the sandbox's, or a terminal that was closed behind it.
        if !self.leads_here(&self.link)? {
            return Err(self.unheld(&format!("is {}, a terminal of another place", self.link)));
        }
        Ok(Some(terminal))
    }
}

impl DescriptorCollector<'_> {
    /// What the terminals are set to.
    pub(super) fn terminals(&self) -> Result<Vec<Terminal>, NativeError> {
        let mut terminals: BTreeMap<u32, Ends<'_>> = BTreeMap::new();
        for found in &self.found {
            if let Kind::Complete(OpenFile::Terminal {
                number,
                is_controller,
            }) = &found.kind
            {
                let ends = terminals.entry(*number).or_default();
                if *is_controller {
                    ends.controller = Some(found);
                } else {
                    ends.programs = Some(found);
                }
            }
        }
        if terminals.is_empty() {
            return Ok(Vec::new());
        }
        let ids = self.inner_ids()?;
        terminals
            .into_iter()
            .map(|(number, ends)| self.describe_terminal(number, &ends, &ids))
            .collect()
    }

    fn describe_terminal(
        &self,
        number: u32,
        ends: &Ends<'_>,
        ids: &HashMap<i32, i32>,
    ) -> Result<Terminal, NativeError> {
        let Some(controller) = ends.controller else {
            let Some(programs) = ends.programs else {
                return Err(NativeError::Image {
                    reason: "a terminal without ends".to_owned(),
                });
            };
            return Err(programs.unheld("is a terminal whose controller is not in the sandbox"));
        };
        if let Some(programs) = ends.programs {
            let unread = events(programs)
                .map_err(programs.failed("poll a terminal"))?
                .contains(PollFlags::IN);
            let bytes = rustix::io::ioctl_fionread(&programs.file).unwrap_or(0);
            if unread || bytes > 0 {
                return Err(programs.unheld("is a terminal with something typed and not read yet"));
            }
        }
        let output = output(controller, ends.programs.is_some())?;
        let hung_up = events(controller)
            .map_err(controller.failed("poll a terminal"))?
            .contains(PollFlags::HUP);
        let half_line = if ends.programs.is_some() {
            half_line::peek(&controller.file)
                .map_err(controller.failed("look for a line being typed"))?
        } else {
            Vec::new()
        };
        let file = controller.file.as_fd();
        let failed = || controller.failed("ask a terminal for its settings");
        let is_exclusive = state::is_exclusive(file).map_err(failed())?;
        if is_exclusive {
            return Err(controller.unheld("is a terminal for one only (TIOCEXCL)"));
        }
        let window = tcgetwinsize(file).map_err(|error| failed()(error.into()))?;
        let foreground = match state::session(file).map_err(failed())? {
            None => None,
            Some(_) => {
                let group = state::foreground(file).map_err(failed())?;
                match (group, ids.get(&group)) {
                    (0, _) => None,
                    (_, Some(inner)) => Some(*inner),
                    (_, None) => {
                        return Err(controller.unheld("is a terminal of a group that has ended"));
                    }
                }
            }
        };
        Ok(Terminal {
            number,
            multiplexer: controller.path.clone(),
            settings: state::settings(file).map_err(failed())?.to_vec(),
            window: [
                window.ws_row,
                window.ws_col,
                window.ws_xpixel,
                window.ws_ypixel,
            ],
            is_locked: state::is_locked(file).map_err(failed())?,
            is_packet_mode: state::is_packet_mode(file).map_err(failed())?,
            hung_up,
            output,
            half_line,
            foreground,
        })
    }

    /// Process groups as the sandbox numbers them, by the number that this process sees.
    fn inner_ids(&self) -> Result<HashMap<i32, i32>, NativeError> {
        let mut ids = HashMap::new();
        for table in &self.processes {
            let status = std::fs::read_to_string(format!("/proc/{}/status", table.task.host_pid))
                .map_err(|source| NativeError::Capture {
                action: "read the status",
                owner: table.task.owner(),
                source,
            })?;
            ids.extend(inner_group(&status));
        }
        Ok(ids)
    }
}

/// What the controller is to read. Without an end of the programs nothing could be put back.
fn output(controller: &Found, has_programs: bool) -> Result<Vec<u8>, NativeError> {
    let unread = events(controller)
        .map_err(controller.failed("poll a terminal"))?
        .contains(PollFlags::IN);
    if !unread {
        return Ok(Vec::new());
    }
    let is_packets = state::is_packet_mode(controller.file.as_fd())
        .map_err(controller.failed("ask a terminal for its settings"))?;
    if is_packets || !has_programs {
        return Err(controller.unheld("is a terminal with something not read yet"));
    }
    let peeked = terminal_output::peek(&controller.file)
        .map_err(controller.failed("look at the output of a terminal"))?;
    match peeked {
        Peeked::Held(output) => Ok(output),
        Peeked::TooMuch => Err(controller.unheld("is a terminal with much that is not read yet")),
        Peeked::Stopped => Err(controller.unheld("is a terminal that is stopped (^S)")),
    }
}

/// The process group of `/proc/PID/status`: as the reader sees it and as the process does.
fn inner_group(status: &str) -> Option<(i32, i32)> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpgid:"))?;
    let mut numbers = line.split_whitespace().map(str::parse);
    let outer = numbers.next()?.ok()?;
    let inner = numbers.next_back().map_or(Some(outer), Result::ok)?;
    Some((outer, inner))
}

fn events(end: &Found) -> io::Result<PollFlags> {
    let mut polled = [PollFd::new(&end.file, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default()))?;
    Ok(polled[0].revents())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_a_number_in_each_namespace() {
        assert_eq!(
            inner_group("NSpid:\t7\nNSpgid:\t700\t30\t3\n"),
            Some((700, 3))
        );
        assert_eq!(inner_group("NSpgid:\t700\n"), Some((700, 700)));
    }
}
