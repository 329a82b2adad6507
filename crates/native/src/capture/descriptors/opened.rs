//! A descriptor that is being looked at.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use fermata_sys::open_file;
use rustix::fs::{OFlags, Stat};

use super::Task;
use super::fdinfo::FdInfo;
use crate::NativeError;
use crate::image::{Lock, LockKind};

pub(super) struct Opened<'a> {
    pub(super) task: &'a Task,
    pub(super) number: i32,
    pub(super) info: &'a FdInfo,
    pub(super) file: &'a OwnedFd,
    pub(super) stat: Stat,
    /// What `/proc/PID/fd/N` leads to, as the sandbox sees it.
    pub(super) link: String,
    /// `/proc/PID`
    pub(super) process: &'a OwnedFd,
    /// The sandbox's.
    pub(super) root: BorrowedFd<'a>,
}

impl<'a> Opened<'a> {
    pub(super) fn new(
        task: &'a Task,
        number: i32,
        at: i32,
        info: &'a FdInfo,
        file: &'a OwnedFd,
        process: &'a OwnedFd,
        root: BorrowedFd<'a>,
    ) -> Result<Self, NativeError> {
        let failed = |action| {
            move |error: rustix::io::Errno| NativeError::Capture {
                action,
                owner: task.owner(),
                source: error.into(),
            }
        };
        let stat = rustix::fs::fstat(file).map_err(failed("look at a descriptor"))?;
        let link = rustix::fs::readlinkat(process, format!("fd/{at}"), Vec::with_capacity(256))
            .map_err(failed("read the path of a descriptor"))?
            .into_string()
            .map_err(|_| Self::unheld_as(task, number, "has a name that is not UTF-8"))?;
        Ok(Self {
            task,
            number,
            info,
            file,
            stat,
            link,
            process,
            root,
        })
    }

    /// Descriptions of different inodes need not be compared.
    pub(super) fn identity(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    pub(super) fn flags(&self) -> OFlags {
        OFlags::from_bits_retain(self.info.flags)
    }

    pub(super) fn is_path_only(&self) -> bool {
        self.flags().contains(OFlags::PATH)
    }

    /// The kind of something that no file system has. A path begins with a slash, so nobody can make one up.
    pub(super) fn anonymous(&self) -> Option<&str> {
        match self.link.strip_prefix("anon_inode:") {
            Some(name) => Some(name),
            None if self.link.starts_with('/') => None,
            // Pipes and sockets are told by their mode.
            None if self.link.starts_with("pipe:") || self.link.starts_with("socket:") => None,
            None => Some(&self.link),
        }
    }

    pub(super) fn unheld(&self, what: &str) -> NativeError {
        Self::unheld_as(self.task, self.number, what)
    }

    pub(super) fn unheld_as(task: &Task, number: i32, what: &str) -> NativeError {
        NativeError::Unheld {
            owner: task.owner(),
            reason: format!("descriptor {number} {what}"),
        }
    }

    pub(super) fn failed<E: Into<io::Error>>(
        &self,
        action: &'static str,
    ) -> impl FnOnce(E) -> NativeError + use<E> {
        let owner = self.task.owner();
        move |error| NativeError::Capture {
            action,
            owner,
            source: error.into(),
        }
    }

    /// The kernel shows something else than is understood here.
    pub(super) fn not_understood(&self) -> NativeError {
        self.unheld("is shown by the kernel in an unknown form")
    }

    pub(super) fn refuse_signal_owner(&self) -> Result<(), NativeError> {
        if self.is_path_only() {
            return Ok(());
        }
        let has_owner = open_file::has_signal_owner(self.file.as_fd())
            .map_err(self.failed("ask for the owner of a descriptor"))?;
        if has_owner || self.info.flags & ASYNC != 0 {
            return Err(self.unheld("sends signals to its owner (F_SETOWN)"));
        }
        Ok(())
    }

    pub(super) fn locks(&self) -> Result<Vec<Lock>, NativeError> {
        self.info
            .lines("lock")
            .map(|line| {
                parse_lock(line, self.task.pid)
                    .ok_or_else(|| self.unheld(&format!("has a lock that cannot be held: {line}")))
            })
            .collect()
    }
}

/// `O_ASYNC`
const ASYNC: u32 = 0o20_000;

/// `1: POSIX  ADVISORY  WRITE 710 08:01:1234 0 EOF`, as in `proc_locks(5)`.
fn parse_lock(line: &str, pid: i32) -> Option<Lock> {
    let mut words = line.split_whitespace().skip(1);
    let kind = match (words.next()?, words.next()?) {
        ("FLOCK", "ADVISORY") => LockKind::Whole,
        ("OFDLCK", "ADVISORY") => LockKind::Description,
        ("POSIX", "ADVISORY") => LockKind::Process(pid),
        _ => return None,
    };
    let exclusive = match words.next()? {
        "WRITE" => true,
        "READ" => false,
        _ => return None,
    };
    let start: u64 = words.nth(2)?.parse().ok()?;
    let bytes = match words.next()? {
        "EOF" => None,
        last => Some(
            last.parse::<u64>()
                .ok()?
                .checked_sub(start)?
                .checked_add(1)?,
        ),
    };
    Some(Lock {
        kind,
        exclusive,
        start,
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_with_its_last_byte() {
        let lock = parse_lock("1: POSIX  ADVISORY  WRITE 710 08:01:1234 4 7", 3).unwrap();
        assert_eq!(lock.kind, LockKind::Process(3));
        assert_eq!((lock.start, lock.bytes, lock.exclusive), (4, Some(4), true));
    }

    #[test]
    fn a_lock_without_end_has_no_length() {
        let lock = parse_lock("1: FLOCK  ADVISORY  READ 710 08:01:1234 0 EOF", 3).unwrap();
        assert_eq!(lock.kind, LockKind::Whole);
        assert_eq!((lock.bytes, lock.exclusive), (None, false));
    }

    #[test]
    fn a_lease_is_not_a_lock() {
        assert_eq!(
            parse_lock("1: LEASE  ACTIVE  READ 710 08:01:1234 0 EOF", 3),
            None
        );
    }
}
