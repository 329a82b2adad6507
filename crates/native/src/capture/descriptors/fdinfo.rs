//! `/proc/PID/fdinfo/N` (`proc_pid_fdinfo(5)`).

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

/// What the kernel shows of a descriptor.
#[derive(Debug)]
pub(super) struct FdInfo {
    pub(super) position: u64,
    /// Without `O_CLOEXEC`, which belongs to the descriptor.
    pub(super) flags: u32,
    pub(super) close_on_execute: bool,
    /// Every line behind those that all kinds have.
    text: String,
}

const CLOSE_ON_EXECUTE: u32 = 0o2_000_000;

impl FdInfo {
    pub(super) fn read(process: &OwnedFd, number: i32) -> io::Result<Self> {
        let file = rustix::fs::openat(
            process,
            format!("fdinfo/{number}"),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut bytes = Vec::with_capacity(1024);
        // It is made at once (single_open() of fs/proc/fd.c), so only a buffer that it has filled may not be all.
        loop {
            bytes.reserve(1024);
            let space = bytes.capacity() - bytes.len();
            let length = rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes))?;
            if length < space {
                break;
            }
        }
        let text = String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
        Self::parse(text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn parse(text: String) -> Option<Self> {
        let position: i64 = value(&text, "pos")?.parse().ok()?;
        let flags = u32::from_str_radix(value(&text, "flags")?, 8).ok()?;
        Some(Self {
            position: position.cast_unsigned(),
            flags: flags & !CLOSE_ON_EXECUTE,
            close_on_execute: flags & CLOSE_ON_EXECUTE != 0,
            text,
        })
    }

    /// What stands behind `name:`.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        value(&self.text, name)
    }

    pub(super) fn decimal(&self, name: &str) -> Option<u64> {
        self.value(name)?.parse().ok()
    }

    pub(super) fn hexadecimal(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.value(name)?, 16).ok()
    }

    /// All lines that begin with `name:`, without it.
    pub(super) fn lines(&self, name: &str) -> impl Iterator<Item = &str> {
        self.text.lines().filter_map(move |line| behind(line, name))
    }
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| behind(line, name))
}

fn behind<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    Some(line.strip_prefix(name)?.strip_prefix(':')?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_close_on_exec_flag_is_told_from_those_of_the_description() {
        let info = FdInfo::parse("pos:\t12\nflags:\t02100002\nmnt_id:\t3\n".to_owned()).unwrap();
        assert_eq!((info.position, info.flags), (12, 0o100_002));
        assert!(info.close_on_execute);
        assert_eq!(info.decimal("mnt_id"), Some(3));
    }
}
