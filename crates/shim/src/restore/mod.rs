//! Playing a captured tree on instead of starting process 1.
//!
//! ```text
//!  shim ── clone3 into the control group ──► child: own mounts, overlay on root/ ── exec ──► CRIU
//!   │                                                                  process 1 ◄── clone as the shim's child ─┘
//!   │◄── all is in place, nothing runs ──► host name, files, connections, wire ──► go on
//! ```
//!
//! What is the same as at a cold start is done by the same code: control groups, network namespace, overlay.

mod connections;
mod identity;
mod native;
mod wire;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use fermata_checkpoint::criu::{self, Stage};
use fermata_protocol::{CriuSpec, EngineSpec, RestoreSpec, ShimSpec, error_chain};
use fermata_sys::clone::{
    Cloned, Namespaces, clone_process, join_namespace, join_new_session_keyring, unshare_cgroup,
};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};

use crate::child;
use crate::error::ShimError;
use crate::start::{Started, enter_controllers, mounts, open_directory, open_namespace};
use crate::{cgroup, root};

/// How long what a failed restore has left may take to vanish.
const CLEARING_LIMIT: Duration = Duration::from_secs(10);

/// Where the new root is mounted until the tree has it, in a mount namespace that nobody else sees.
const ROOT: &str = "root";

/// Where the tree is put.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    root: &'a Path,
    network: BorrowedFd<'a>,
}

/// Plays the tree on; when that fails nothing of it is left.
pub(crate) fn restore(spec: &ShimSpec, restore: &RestoreSpec) -> Result<Started, ShimError> {
    let started = match &restore.engine {
        EngineSpec::Criu(engine) => play_on(spec, &restore.images, engine),
        EngineSpec::Native => native::restore(spec, &restore.images),
    };
    if started.is_err() {
        clear(spec);
    }
    started
}

fn play_on(spec: &ShimSpec, images: &Path, engine: &CriuSpec) -> Result<Started, ShimError> {
    let network = open_namespace(&spec.network_namespace)?;
    match std::fs::create_dir(ROOT) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(ShimError::file("make", ROOT)(error));
        }
        _ => {}
    }
    let root = std::env::current_dir()
        .map_err(ShimError::file("resolve", "."))?
        .join(ROOT);
    let stage = Stage {
        images,
        root: &root,
    };
    wire::set_open(spec, false).map_err(ShimError::system("close the wire"))?;
    let mut failure = None;
    let restored = criu::restore(
        engine,
        &stage,
        &mut |engine, socket| {
            let place = Place {
                root: &root,
                network: network.as_fd(),
            };
            start_engine(spec, &place, engine, socket).map_err(|error| {
                let summary = io::Error::other(error_chain(&error));
                failure = Some(error);
                summary
            })
        },
        &mut |init_pid| {
            identity::renew(spec, init_pid)?;
            connections::close_outside(network.as_fd())?;
            wire::set_open(spec, true)
        },
    );
    let restored = match (restored, failure) {
        (Ok(restored), _) => restored,
        (Err(_), Some(cause)) => return Err(cause),
        (Err(error), None) => return Err(ShimError::Restore(error)),
    };
    let pidfd = Pid::from_raw(restored.init_pid)
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .map_err(ShimError::system("hold on to process 1"))?;
    Ok(Started {
        pid: restored.init_pid,
        pidfd,
        mounts: mounts(restored.init_pid)?,
    })
}

/// Makes the process that becomes the engine, in the sandbox's control groups, so that what it makes is born there.
fn start_engine(
    spec: &ShimSpec,
    place: &Place<'_>,
    engine: &CriuSpec,
    socket: BorrowedFd<'_>,
) -> Result<i32, ShimError> {
    let unified = open_directory(&spec.cgroup.unified)?;
    // As at a cold start: reports what went wrong, closed by execve(2); and holds back until all control groups are entered.
    let (failure_reader, failure_writer) =
        pipe_with(PipeFlags::CLOEXEC).map_err(ShimError::system("make a pipe"))?;
    let (go_reader, go_writer) =
        pipe_with(PipeFlags::CLOEXEC).map_err(ShimError::system("make a pipe"))?;
    let cloned = clone_process(Namespaces::RESTORER, Some(unified.as_fd()))
        .map_err(ShimError::system("clone the engine's process"))?;
    let pid = match cloned {
        Cloned::Child => {
            drop((failure_reader, go_writer));
            let error = match become_engine(spec, place, engine, socket, &go_reader) {
                Ok(never) => match never {},
                Err(error) => error,
            };
            let _ = File::from(failure_writer).write_all(error_chain(&error).as_bytes());
            child::leave();
        }
        Cloned::Parent { pid, .. } => pid,
    };
    drop((failure_writer, go_reader));
    enter_controllers(&spec.cgroup, pid)?;
    File::from(go_writer)
        .write_all(&[1])
        .map_err(ShimError::system("release the engine"))?;
    let mut message = String::new();
    File::from(failure_reader)
        .read_to_string(&mut message)
        .map_err(ShimError::system("hear from the engine"))?;
    if message.is_empty() {
        Ok(pid)
    } else {
        Err(ShimError::Child { message })
    }
}

fn become_engine(
    spec: &ShimSpec,
    place: &Place<'_>,
    engine: &CriuSpec,
    socket: BorrowedFd<'_>,
    go: &OwnedFd,
) -> Result<std::convert::Infallible, ShimError> {
    child::wait_for_go(go)?;
    let _ = rustix::process::setsid();
    join_new_session_keyring().map_err(ShimError::system("leave the session keyring"))?;
    // Process 1 gets the control groups that it is born in as the root of what it sees, as at a cold start.
    unshare_cgroup().map_err(ShimError::system("unshare the cgroup namespace"))?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(ShimError::file("make private", "/"))?;
    root::mount_on(&spec.root, place.root)?;
    join_namespace(place.network).map_err(ShimError::system("join the network namespace"))?;
    criu::become_engine(engine, &[socket]).map_err(ShimError::Engine)
}

/// Ends and reaps whatever a failed restore has left.
fn clear(spec: &ShimSpec) {
    let _ = cgroup::kill(&spec.cgroup);
    cgroup::wait_until_empty(&spec.cgroup, CLEARING_LIMIT);
    while let Ok(Some(_)) = waitpid(None, WaitOptions::NOHANG) {}
    let _ = std::fs::remove_dir(ROOT);
}
