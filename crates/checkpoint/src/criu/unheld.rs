//! What CRIU would not notice that it cannot hold: a restore would fail, or miss something.

use std::io;

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags};

use crate::CheckpointError;

/// Refuses POSIX message queues: CRIU mounts their file system again, empty.
pub(super) fn refuse(init_pid: i32) -> Result<(), CheckpointError> {
    let path = format!("/proc/{init_pid}/root");
    let queues =
        queues(&path).map_err(CheckpointError::file("look for message queues in", path))?;
    if queues.is_empty() {
        return Ok(());
    }
    Err(CheckpointError::Refused {
        process: None,
        reason: format!("it has POSIX message queues ({})", queues.join(", ")),
        log: String::new(),
    })
}

fn queues(root: &str) -> io::Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags | OFlags::PATH, Mode::empty())?;
    // Names from inside are not to be followed, least of all into the host.
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let directory = match rustix::fs::openat2(&root, "dev/mqueue", flags, Mode::empty(), resolve) {
        Ok(directory) => directory,
        Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}
