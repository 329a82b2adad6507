//! Making the sandbox's first process.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use fermata_protocol::{CgroupSpec, ShimSpec, error_chain};
use fermata_sys::clone::{Cloned, Namespaces, clone_process, unshare_time_for_children};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::child;
use crate::error::ShimError;

/// A sandbox whose process 1 is ready.
#[derive(Debug)]
pub(crate) struct Started {
    /// Process 1, as the host sees it.
    pub(crate) pid: i32,
    /// Refers to it for as long as it is not reaped.
    pub(crate) pidfd: OwnedFd,
    /// What was mounted when it was ready, as [`mounts`] tells it.
    pub(crate) mounts: u64,
}

/// A number that is another one when anything is mounted or unmounted in the sandbox.
pub(crate) fn mounts(init_pid: i32) -> Result<u64, ShimError> {
    let path = format!("/proc/{init_pid}/mountinfo");
    let text = std::fs::read(&path).map_err(ShimError::file("read", path))?;
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hasher::write(&mut hasher, &text);
    Ok(std::hash::Hasher::finish(&hasher))
}

/// Clones process 1 into its namespaces and waits until the agent in it is ready.
pub(crate) fn start(spec: &ShimSpec) -> Result<Started, ShimError> {
    let unified = open_directory(&spec.cgroup.unified)?;
    let network = open_namespace(&spec.network_namespace)?;
    // The child reports what went wrong here; success closes it by execve(2).
    let (failure_reader, failure_writer) =
        pipe_with(PipeFlags::CLOEXEC).map_err(ShimError::system("make a pipe"))?;
    // Held back until the child is in all of its control groups: nothing it does may go unaccounted.
    let (go_reader, go_writer) =
        pipe_with(PipeFlags::CLOEXEC).map_err(ShimError::system("make a pipe"))?;
    let (ready_reader, ready_writer) =
        pipe_with(PipeFlags::CLOEXEC).map_err(ShimError::system("make a pipe"))?;

    unshare_time_for_children().map_err(ShimError::system("unshare the time namespace"))?;
    let cloned = clone_process(Namespaces::SANDBOX, Some(unified.as_fd()))
        .map_err(ShimError::system("clone process 1"))?;
    let (pid, pidfd) = match cloned {
        Cloned::Child => {
            drop((failure_reader, go_writer, ready_reader));
            let inherited = child::Inherited {
                network,
                go: go_reader,
                ready: ready_writer,
            };
            let Err(error) = child::become_init(spec, &inherited);
            let _ = File::from(failure_writer).write_all(error_chain(&error).as_bytes());
            child::leave();
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop((failure_writer, go_reader, ready_writer, network));

    enter_controllers(&spec.cgroup, pid)?;
    File::from(go_writer)
        .write_all(&[1])
        .map_err(ShimError::system("release process 1"))?;

    let mut message = String::new();
    File::from(failure_reader)
        .read_to_string(&mut message)
        .map_err(ShimError::system("hear from process 1"))?;
    if !message.is_empty() {
        return Err(ShimError::Child { message });
    }
    let mut ready = [0];
    match File::from(ready_reader).read_exact(&mut ready) {
        Ok(()) => Ok(Started {
            pid,
            pidfd,
            // One that has ended already has none, and nobody will capture it.
            mounts: mounts(pid).unwrap_or_default(),
        }),
        Err(_) => Err(ShimError::InitEnded),
    }
}

/// For `CLONE_INTO_CGROUP`.
pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd, ShimError> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
    rustix::fs::open(path, flags, Mode::empty()).map_err(ShimError::file("open", path))
}

/// A namespace, to be joined.
pub(crate) fn open_namespace(path: &Path) -> Result<OwnedFd, ShimError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(ShimError::file("open", path))
}

/// Moves a process into the controllers that are not on the unified hierarchy, where it was born.
pub(crate) fn enter_controllers(cgroup: &CgroupSpec, pid: i32) -> Result<(), ShimError> {
    for controller in &cgroup.controllers {
        let file = controller.join("cgroup.procs");
        std::fs::write(&file, pid.to_string()).map_err(ShimError::file("write", file))?;
    }
    Ok(())
}
