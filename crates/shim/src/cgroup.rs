//! Freezing, killing and clearing away the sandbox's control groups.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use fermata_protocol::CgroupSpec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::ShimError;

/// Stops every process, and returns when all stand still; undoes it when that takes longer than `limit`.
pub(crate) fn freeze(cgroup: &CgroupSpec, limit: Duration) -> Result<(), ShimError> {
    write(cgroup, "cgroup.freeze", "1")?;
    if wait_for_event(cgroup, "frozen 1", limit)? {
        return Ok(());
    }
    thaw(cgroup)?;
    Err(ShimError::System {
        action: "freeze the sandbox in time",
        source: io::ErrorKind::TimedOut.into(),
    })
}

/// Lets them go on.
pub(crate) fn thaw(cgroup: &CgroupSpec) -> Result<(), ShimError> {
    write(cgroup, "cgroup.freeze", "0")
}

/// The processes in it, as the host sees them.
pub(crate) fn members(cgroup: &CgroupSpec) -> Result<Vec<i32>, ShimError> {
    let path = cgroup.unified.join("cgroup.procs");
    let text = std::fs::read_to_string(&path).map_err(ShimError::file("read", path))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Kills every process, also a frozen one.
pub(crate) fn kill(cgroup: &CgroupSpec) -> Result<(), ShimError> {
    write(cgroup, "cgroup.kill", "1")
}

/// Whether the memory controller has killed anything here.
pub(crate) fn was_out_of_memory(cgroup: &CgroupSpec) -> bool {
    let Some(directory) = &cgroup.memory else {
        return false;
    };
    // v2 counts in memory.events, v1 in memory.oom_control.
    ["memory.events", "memory.oom_control"]
        .iter()
        .filter_map(|name| std::fs::read_to_string(directory.join(name)).ok())
        .any(|text| {
            text.lines()
                .filter_map(|line| line.strip_prefix("oom_kill "))
                .any(|count| count != "0")
        })
}

/// Whether nothing is left in it, waiting for that.
pub(crate) fn wait_until_empty(cgroup: &CgroupSpec, limit: Duration) -> bool {
    wait_for_event(cgroup, "populated 0", limit).unwrap_or(false)
}

/// Removes the directories once nothing is left in them.
pub(crate) fn remove(cgroup: &CgroupSpec, limit: Duration) {
    // A failure leaves empty directories; the daemon sweeps them at its next start.
    let _ = kill(cgroup);
    wait_until_empty(cgroup, limit);
    for directory in cgroup.controllers.iter().chain([&cgroup.unified]) {
        let _ = std::fs::remove_dir(directory);
    }
}

fn write(cgroup: &CgroupSpec, name: &str, value: &str) -> Result<(), ShimError> {
    let path = cgroup.unified.join(name);
    std::fs::write(&path, value).map_err(ShimError::file("write", path))
}

/// Waits until `cgroup.events` has the line. Its changes raise POLLPRI (cgroup-v2.rst, "Un-populated Notification").
fn wait_for_event(cgroup: &CgroupSpec, line: &str, limit: Duration) -> Result<bool, ShimError> {
    let path = cgroup.unified.join("cgroup.events");
    let deadline = Instant::now() + limit;
    let mut file = File::open(&path).map_err(ShimError::file("open", &path))?;
    loop {
        if read_again(&mut file)
            .map_err(ShimError::file("read", &path))?
            .lines()
            .any(|found| found == line)
        {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = Timespec::try_from(left).ok();
        let mut descriptors = [PollFd::new(&file, PollFlags::PRI)];
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(ShimError::file("watch", Path::new(&path))(error)),
        }
    }
}

fn read_again(file: &mut File) -> io::Result<String> {
    use std::io::{Read as _, Seek as _};
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}
