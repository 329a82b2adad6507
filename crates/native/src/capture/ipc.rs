//! What belongs to no process: System V objects and POSIX message queues of the tree's namespaces.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use fermata_sys::clone::join_namespace;

use super::task::Task;
use crate::NativeError;

const KINDS: [(&str, &str); 3] = [
    ("shm", "System V shared memory"),
    ("sem", "System V semaphores"),
    ("msg", "System V message queues"),
];

/// Refuses a tree that has any. The calling thread joins the namespace for that and comes back.
pub(crate) fn refuse(init: &Task) -> Result<(), NativeError> {
    let host_pid = init.host_pid;
    let queues = std::fs::read_dir(format!("/proc/{host_pid}/root/dev/mqueue"));
    if queues.is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(init.unheld("the sandbox has POSIX message queues"));
    }
    let own = File::open("/proc/thread-self/ns/ipc").map_err(init.failed("look at the objects"))?;
    let its = File::open(format!("/proc/{host_pid}/ns/ipc"))
        .map_err(init.failed("look at the objects"))?;
    join_namespace(its.as_fd()).map_err(init.failed("join the IPC namespace"))?;
    let found = KINDS
        .iter()
        .map(|(name, words)| Ok((is_any(name)?, *words)))
        .collect::<io::Result<Vec<_>>>();
    join_namespace(own.as_fd()).map_err(init.failed("leave the IPC namespace"))?;
    let found = found.map_err(init.failed("list the objects"))?;
    match found.iter().find(|(any, _)| *any) {
        Some((_, words)) => Err(init.unheld(format!("the sandbox has {words}"))),
        None => Ok(()),
    }
}

/// A line of titles, and one an object.
fn is_any(kind: &str) -> io::Result<bool> {
    let text = std::fs::read_to_string(format!("/proc/sysvipc/{kind}"))?;
    Ok(text.lines().count() > 1)
}
