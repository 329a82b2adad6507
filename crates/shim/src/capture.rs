//! Capturing the sandbox's processes with the native engine.
//!
//! ```text
//! frozen ─► seized, thawed, read ─► [instant] ─► frozen, let go ─► a child of the shim writes out what the copies hold
//! ```

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use fermata_native::capture::{Held, Seized};
use fermata_native::{NativeError, Owner};
use fermata_protocol::{ShimSpec, error_chain};
use fermata_sys::clone::{Cloned, Namespaces, clone_process};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::error::ShimError;
use crate::start::Started;
use crate::{cgroup, child, temporary};

/// For what is frozen to be frozen again.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);

/// A child of the shim that writes; killed and reaped when it is dropped, and the copies with it.
#[derive(Debug)]
pub(crate) struct Writing {
    /// Ends when the writer does; until then it has said why it failed.
    words: File,
    writer: Pid,
    /// After the writer: it reads what these keep.
    held: Option<Held>,
    reaped: bool,
}

/// Captures a sandbox that is frozen, and leaves it so. `at_instant` is called while it stands still.
pub(crate) fn capture(
    spec: &ShimSpec,
    started: &Started,
    directory: &Path,
    at_instant: &mut dyn FnMut() -> Result<(), ShimError>,
) -> Result<Writing, ShimError> {
    let members = cgroup::members(&spec.cgroup)?;
    let seized = Seized::take(started.pid, &members).map_err(ShimError::Native)?;
    // Still stopped, but only so can it run what is injected.
    cgroup::thaw(&spec.cgroup)?;
    let held = hold(spec, started, &seized, directory).and_then(|held| {
        at_instant()?;
        Ok(held)
    });
    let frozen = cgroup::freeze(&spec.cgroup, FREEZE_LIMIT);
    seized.let_go();
    let held = held?;
    frozen?;
    write(held, directory)
}

fn hold(
    spec: &ShimSpec,
    started: &Started,
    seized: &Seized,
    directory: &Path,
) -> Result<Held, ShimError> {
    if crate::start::mounts(started.pid)? != started.mounts {
        return Err(unheld("the sandbox has changed its mounts"));
    }
    let root = open_root(started.pid)?;
    let temporary = temporary::hold(&root, directory)?;
    seized
        .hold(directory, temporary, &spec.root.upper)
        .map_err(ShimError::Native)
}

fn unheld(reason: &str) -> ShimError {
    ShimError::Native(NativeError::Unheld {
        owner: Owner {
            pid: 0,
            name: String::new(),
        },
        reason: reason.to_owned(),
    })
}

/// A magic link: it leads to the root of process 1 whatever its path is here. Below it nothing is resolved from here.
fn open_root(init_pid: i32) -> Result<OwnedFd, ShimError> {
    let path = format!("/proc/{init_pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, Mode::empty()).map_err(ShimError::file("open", path))
}

fn write(held: Held, directory: &Path) -> Result<Writing, ShimError> {
    let (reader, writer) =
        pipe_with(PipeFlags::CLOEXEC).map_err(ShimError::system("make a pipe"))?;
    let cloned =
        clone_process(Namespaces::NONE, None).map_err(ShimError::system("clone the writer"))?;
    let pid = match cloned {
        Cloned::Child => {
            drop(reader);
            if let Err(error) = held.write(directory) {
                let _ = File::from(writer).write_all(error_chain(&error).as_bytes());
            }
            child::leave();
        }
        Cloned::Parent { pid, .. } => pid,
    };
    let writer = Pid::from_raw(pid)
        .ok_or_else(|| ShimError::system("hold on to the writer")(rustix::io::Errno::SRCH))?;
    Ok(Writing {
        words: File::from(reader),
        writer,
        held: Some(held),
        reaped: false,
    })
}

impl Writing {
    /// Readable when it has come to an end.
    pub(crate) fn end(&self) -> BorrowedFd<'_> {
        self.words.as_fd()
    }

    /// What came of it; for when it has come to an end.
    pub(crate) fn finish(mut self) -> Result<(), ShimError> {
        let mut message = String::new();
        self.words
            .read_to_string(&mut message)
            .map_err(ShimError::system("hear from the writer"))?;
        let status = self.reap()?;
        match (message.is_empty(), status) {
            (true, true) => Ok(()),
            (true, false) => Err(ShimError::Child {
                message: "the writer was killed".to_owned(),
            }),
            (false, _) => Err(ShimError::Child { message }),
        }
    }

    /// Whether it ended by itself.
    fn reap(&mut self) -> Result<bool, ShimError> {
        let status = rustix::io::retry_on_intr(|| waitpid(Some(self.writer), WaitOptions::empty()))
            .map_err(ShimError::system("reap the writer"))?;
        self.reaped = true;
        self.held = None;
        fermata_sys::own_memory::trim_heap();
        Ok(status.is_some_and(|(_, status)| status.exited()))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = kill_process(self.writer, Signal::KILL);
            let _ = self.reap();
        }
    }
}
