//! Room: on the disk and in the table of open files.

use std::path::Path;

use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};

use super::Check;
use crate::size::ByteSize;

/// The base image and room to work.
const LITTLE_DISK: u64 = 2 << 30;
const ENOUGH_DISK: u64 = 10 << 30;

/// Enough for some hundred sandboxes.
const ENOUGH_FILES: u64 = 4096;

pub(super) fn disk(directory: &Path) -> Check {
    const NAME: &str = "disk";
    // It may not be there before the first start.
    let existing = directory
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or_else(|| Path::new("/"));
    let free = match statvfs(existing) {
        Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
        Err(error) => return Check::fail(NAME, format!("{}: {error}", existing.display())),
    };
    let detail = format!("{} free for {}", ByteSize(free), directory.display());
    let advice = "make room, or name another place with --data-dir";
    if free < LITTLE_DISK {
        Check::fail(NAME, detail).advise(advice)
    } else if free < ENOUGH_DISK {
        Check::warning(NAME, detail).advise(advice)
    } else {
        Check::ok(NAME, detail)
    }
}

pub(super) fn open_files() -> Check {
    const NAME: &str = "open files";
    // The server raises its soft limit to the hard one by itself.
    match getrlimit(Resource::Nofile).maximum {
        Some(hard) if hard < ENOUGH_FILES => Check::warning(NAME, format!("at most {hard}"))
            .advise("raise the hard limit (LimitNOFILE= of a systemd unit, `ulimit -Hn`) for many sandboxes"),
        Some(hard) => Check::ok(NAME, format!("up to {hard}")),
        None => Check::ok(NAME, "unlimited"),
    }
}
