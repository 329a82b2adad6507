//! Entries of epolls.
//!
//! The kernel finds an entry by description *and* number, and never looks at the number again: a description can be added under its
//! final number here, in the process that makes the tree, by giving it that number for a moment. Only signal descriptors remember
//! who added them, so those are added by each process itself.

use std::os::fd::OwnedFd;

use fermata_sys::open_file;
use rustix::event::epoll;

use super::{At, Failure};
use crate::image::{Descriptions, OpenFile, Watch};

/// An entry that a process has to add itself.
#[derive(Debug)]
pub(super) struct OwnWatch {
    pub(super) process: i32,
    epoll: i32,
    watch: Watch,
}

impl OwnWatch {
    /// Once its target has its final number.
    pub(super) fn add(&self) -> Result<(), Failure> {
        add(self.epoll, &self.watch)
    }
}

pub(super) fn epoll() -> Result<OwnedFd, Failure> {
    epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Failure::to("make an epoll"))
}

/// Adds the entries of all epolls, and returns those that are left to others.
pub(super) fn add_watches(
    image: &Descriptions,
    numbers: &[i32],
    floor: i32,
) -> Result<Vec<OwnWatch>, At> {
    let mut own = Vec::new();
    for ((place, description), epoll) in (0_u32..).zip(&image.list).zip(numbers) {
        let OpenFile::Poll { watches } = &description.file else {
            continue;
        };
        for watch in watches {
            if let Some(process) = watch.process {
                own.push(OwnWatch {
                    process,
                    epoll: *epoll,
                    watch: *watch,
                });
                continue;
            }
            let target = numbers
                .get(watch.description as usize)
                .ok_or_else(|| (Some(place), Failure::damaged("an entry of an epoll")))?;
            add_as(*epoll, *target, watch, floor).map_err(|failure| (Some(place), failure))?;
        }
    }
    Ok(own)
}

/// Gives `target` the number of the entry while it is added. Whatever has that number now gets it back.
fn add_as(epoll: i32, target: i32, watch: &Watch, floor: i32) -> Result<(), Failure> {
    if watch.number < 0 || watch.number >= floor {
        return Err(Failure::damaged("the number of an entry of an epoll"));
    }
    let step = || Failure::to("give a description the number that an epoll knows it by");
    let displaced = open_file::displace(watch.number, floor).map_err(step())?;
    open_file::place(target, watch.number, true).map_err(step())?;
    let added = add(epoll, watch);
    match displaced {
        Some(displaced) => displaced.put_back(),
        None => open_file::close_all(watch.number.unsigned_abs(), watch.number.unsigned_abs()),
    }
    .map_err(step())?;
    added
}

fn add(epoll: i32, watch: &Watch) -> Result<(), Failure> {
    open_file::watch(epoll, watch.number, watch.events, watch.data)
        .map_err(Failure::to("add an entry to an epoll"))
}
