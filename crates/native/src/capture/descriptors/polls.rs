//! What an epoll watches.

use std::os::fd::AsFd as _;

use fermata_sys::open_file;

use super::opened::Opened;
use super::{DescriptorCollector, Found, Kind, place_in_list};
use crate::NativeError;
use crate::image::{OpenFile, Watch};

/// A line of `/proc/PID/fdinfo/N`: an entry whose description is not known yet.
pub(super) struct Watched {
    number: i32,
    events: u32,
    data: u64,
    inode: u64,
    /// The place among the entries with this number, which outlives the descriptor that had it.
    nth: u32,
}

impl Opened<'_> {
    pub(super) fn watched(&self) -> Result<Vec<Watched>, NativeError> {
        let mut list: Vec<Watched> = Vec::new();
        for line in self.info.lines("tfd") {
            let mut watched = parse(line).ok_or_else(|| self.not_understood())?;
            let same = list.iter().filter(|other| other.number == watched.number);
            watched.nth = place_in_list(same.count());
            list.push(watched);
        }
        Ok(list)
    }
}

/// `5 events: 19 data: 1f pos:0 ino:61af sdev:7`, behind `tfd:`.
fn parse(line: &str) -> Option<Watched> {
    let mut words = line.split_whitespace();
    let number = words.next()?.parse().ok()?;
    let rest: Vec<&str> = words.collect();
    let hexadecimal = |name: &str| {
        let place = rest.iter().position(|word| word.starts_with(name))?;
        let digits = match rest[place].strip_prefix(name)? {
            "" => rest.get(place + 1)?,
            digits => digits,
        };
        u64::from_str_radix(digits, 16).ok()
    };
    Some(Watched {
        number,
        events: u32::try_from(hexadecimal("events:")?).ok()?,
        data: hexadecimal("data:")?,
        inode: hexadecimal("ino:")?,
        nth: 0,
    })
}

impl DescriptorCollector<'_> {
    /// The same with descriptions, whichever process has them and by whichever number.
    pub(super) fn watches(
        &self,
        epoll: &Found,
        watched: &[Watched],
    ) -> Result<OpenFile, NativeError> {
        let watches = watched
            .iter()
            .map(|watched| {
                let index = self.target(epoll, watched)?.ok_or_else(|| {
                    epoll.unheld(&format!(
                        "is an epoll that watches something no process has open (as {})",
                        watched.number
                    ))
                })?;
                let is_signals = matches!(
                    self.found[index].kind,
                    Kind::Complete(OpenFile::Signals { .. })
                );
                Ok(Watch {
                    description: place_in_list(index),
                    number: watched.number,
                    events: watched.events,
                    data: watched.data,
                    process: if is_signals {
                        Some(self.who_added(epoll, watched.number, index)?)
                    } else {
                        None
                    },
                })
            })
            .collect::<Result<_, NativeError>>()?;
        Ok(OpenFile::Poll { watches })
    }

    fn target(&self, epoll: &Found, watched: &Watched) -> Result<Option<usize>, NativeError> {
        for (index, found) in self.found.iter().enumerate() {
            if found.identity.1 != watched.inode {
                continue;
            }
            let is_it = open_file::is_watched(
                found.file.as_fd(),
                epoll.file.as_fd(),
                watched.number,
                watched.nth,
            )
            .map_err(epoll.failed("compare what an epoll watches"))?;
            if is_it {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// The first process that has both under fitting numbers: parents come before the children that inherited them.
    fn who_added(&self, epoll: &Found, number: i32, target: usize) -> Result<i32, NativeError> {
        let is_place = |description: u32, index: usize| description == place_in_list(index);
        self.processes
            .iter()
            .find(|table| {
                let has_epoll = table.descriptors.iter().any(|descriptor| {
                    self.found
                        .get(descriptor.description as usize)
                        .is_some_and(|found| std::ptr::eq(found, epoll))
                });
                has_epoll
                    && table.descriptors.iter().any(|descriptor| {
                        descriptor.number == number && is_place(descriptor.description, target)
                    })
            })
            .map(|table| table.task.pid)
            .ok_or_else(|| {
                epoll.unheld("is an epoll that watches the signals of an unknown process")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_whatever_its_width() {
        let line = "       12 events:       1d data: ffffffffffffff01  pos:0 ino:61af sdev:7";
        let watched = parse(line.trim()).unwrap();
        assert_eq!((watched.number, watched.events), (12, 0x1d));
        assert_eq!(
            (watched.data, watched.inode),
            (0xffff_ffff_ffff_ff01, 0x61af)
        );
    }
}
