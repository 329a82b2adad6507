//! What CRIU would not notice that it cannot hold, or only after a long time: a restore would fail, or miss something.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags};

use super::log::pid_inside;
use crate::{CheckpointError, Process, Tree};

/// Refuses a frozen tree that has something of it.
pub(super) fn refuse(tree: &Tree<'_>) -> Result<(), CheckpointError> {
    refuse_queues(tree.init_pid)?;
    let list = tree.cgroup.join("cgroup.procs");
    let pids = fs::read_to_string(&list).map_err(CheckpointError::file("read", list))?;
    for pid in pids.lines().filter_map(|line| line.parse().ok()) {
        // It is frozen, so what cannot be read belongs to a process that was killed meanwhile.
        if let Some(reason) = traced(pid).or_else(|| semaphore(pid)) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Err(CheckpointError::Refused {
                process: Some(Process {
                    pid: pid_inside(pid).unwrap_or(pid),
                    name: name.trim_end().to_owned(),
                }),
                reason,
                log: String::new(),
            });
        }
    }
    Ok(())
}

/// A process has one tracer at most, and CRIU wants to be it. It would try for ten seconds, with all of the tree frozen.
fn traced(pid: i32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let tracer = status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"))?
        .trim()
        .parse()
        .ok()
        .filter(|tracer| *tracer != 0)?;
    let tracer = pid_inside(tracer).unwrap_or(tracer);
    Some(format!("process {tracer} traces it (ptrace(2))"))
}

/// CRIU makes every eventfd(2) again without `EFD_SEMAPHORE`.
fn semaphore(pid: i32) -> Option<String> {
    let is_event = |path: &Path| {
        fs::read_link(path).is_ok_and(|target| target.as_os_str() == "anon_inode:[eventfd]")
    };
    fs::read_dir(format!("/proc/{pid}/fd"))
        .ok()?
        .flatten()
        .filter(|entry| is_event(&entry.path()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|number| {
            fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"))
                .is_ok_and(|text| text.lines().any(is_semaphore))
        })
        .map(|number| format!("its file {number} is an eventfd with EFD_SEMAPHORE"))
}

/// A line of proc_pid_fdinfo(5).
fn is_semaphore(line: &str) -> bool {
    line.strip_prefix("eventfd-semaphore:")
        .is_some_and(|value| value.trim() != "0")
}

/// POSIX message queues: CRIU mounts their file system again, empty.
fn refuse_queues(init_pid: i32) -> Result<(), CheckpointError> {
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
