//! Playing a captured tree on, in the shim.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use fermata_protocol::CriuSpec;
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};

use super::conversation::{self, Conversation, Outcome};
use super::log;
use super::rpc::{CgroupMode, NetworkLock, Options, Request, RequestType};
use crate::{CheckpointError, faults};

const LIMIT: Duration = Duration::from_secs(120);

/// In the caller's working directory, because that of the capture stays as it is.
const LOG: &str = "restore.log";

/// A place where the tree is put: made by the caller, in the child that becomes CRIU.
#[derive(Debug, Clone, Copy)]
pub struct Stage<'a> {
    /// The capture's directory.
    pub images: &'a Path,
    /// Where, in the mount namespace of CRIU, the new root filesystem is mounted.
    pub root: &'a Path,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Process 1, a child of the caller.
    pub init_pid: i32,
}

/// Restores. `start` makes the child, which joins the tree's network namespace and passes the descriptor to
/// [`super::become_engine`], and returns its pid. `before_resume` is called with process 1 when all is in place and no task has run yet.
///
/// # Errors
/// [`CheckpointError`]. Tasks may be left, all of them in CRIU's control group: the caller kills what is in it, and reaps.
pub fn restore(
    spec: &CriuSpec,
    stage: &Stage<'_>,
    start: &mut dyn FnMut(&CriuSpec, BorrowedFd<'_>) -> std::io::Result<i32>,
    before_resume: &mut dyn FnMut(i32) -> std::io::Result<()>,
) -> Result<Restored, CheckpointError> {
    let images = File::open(stage.images).map_err(CheckpointError::file("open", stage.images))?;
    let here = File::open(".").map_err(CheckpointError::file("open", "."))?;
    let (conversation, its_end) = conversation::pair()?;
    let pid = start(spec, its_end.as_fd()).map_err(CheckpointError::conversation("start"))?;
    drop(its_end);
    let mut engine = Running(Pid::from_raw(pid));
    let pidfd = engine.pidfd()?;
    let request = Request {
        r#type: RequestType::Restore.into(),
        opts: Some(options(stage, &images, &here)),
        notify_success: None,
    };
    let talked = talk(
        &conversation,
        &request,
        &engine,
        pidfd.as_fd(),
        before_resume,
    );
    drop(conversation);
    if talked.is_err() {
        engine.kill();
    }
    let ended = engine.wait();
    let text = log::read(Path::new(LOG));
    match talked? {
        Talked::Refused(response) => Err(log::not_restored(&text, &response)),
        Talked::Restored(init_pid) => {
            // Of no use any more, and one more file a sandbox.
            let _ = std::fs::remove_file(LOG);
            let _ = std::fs::remove_file("stats-restore");
            Ok(Restored { init_pid })
        }
        Talked::Ended => Err(CheckpointError::EngineEnded {
            status: ended?,
            log: log::tail(&text),
        }),
    }
}

enum Talked {
    Restored(i32),
    Refused(super::rpc::Response),
    Ended,
}

fn talk(
    conversation: &Conversation,
    request: &Request,
    engine: &Running,
    pidfd: BorrowedFd<'_>,
    before_resume: &mut dyn FnMut(i32) -> std::io::Result<()>,
) -> Result<Talked, CheckpointError> {
    let mut init_pid = None;
    let mut prepared = None;
    let outcome = conversation.ask(request, pidfd, LIMIT, &mut |stage, pid| {
        if faults::is_armed(stage) {
            engine.kill();
        }
        init_pid = pid.or(init_pid);
        // "post-restore" comes earlier, while sockets are still in repair mode.
        if stage != "pre-resume" {
            return true;
        }
        let result = init_pid.map_or_else(
            || Err(std::io::Error::other("CRIU did not say which process is 1")),
            &mut *before_resume,
        );
        let go_on = result.is_ok();
        prepared = Some(result);
        go_on
    })?;
    if let Some(Err(error)) = prepared {
        return Err(CheckpointError::BeforeResume(error));
    }
    match outcome {
        Outcome::Answered(response) if response.success && prepared.is_some() => response
            .restore
            .map(|result| Talked::Restored(result.pid))
            .ok_or(CheckpointError::Answer),
        Outcome::Answered(response) if !response.success => Ok(Talked::Refused(response)),
        Outcome::Answered(_) => Err(CheckpointError::Answer),
        Outcome::Ended => Ok(Talked::Ended),
        Outcome::TimedOut => Err(CheckpointError::TimedOut {
            seconds: LIMIT.as_secs(),
        }),
    }
}

fn options(stage: &Stage<'_>, images: &File, here: &File) -> Options {
    Options {
        // CRIU opens both through /proc of whoever made the socket.
        images_dir_fd: images.as_raw_fd(),
        work_dir_fd: Some(here.as_raw_fd()),
        log_file: Some(LOG.to_owned()),
        log_level: Some(log::LEVEL),
        notify_scripts: Some(true),
        root: Some(stage.root.to_string_lossy().into_owned()),
        // Process 1 becomes a child of CRIU's parent, which is the shim.
        rst_sibling: Some(true),
        manage_cgroups_mode: Some(CgroupMode::Ignore.into()),
        network_lock: Some(NetworkLock::Skip.into()),
        tcp_established: Some(true),
        file_locks: Some(true),
        orphan_pts_master: Some(true),
        link_remap: Some(true),
        ..Options::default()
    }
}

/// A child that is waited for whatever happens.
struct Running(Option<Pid>);

impl Running {
    fn pidfd(&self) -> Result<OwnedFd, CheckpointError> {
        self.0
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(CheckpointError::conversation("hold on to"))
    }

    fn kill(&self) {
        if let Some(pid) = self.0 {
            // Not reaped yet, so the pid is still its own.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    fn wait(&mut self) -> Result<std::process::ExitStatus, CheckpointError> {
        use std::os::unix::process::ExitStatusExt as _;
        let pid = self.0.take();
        let status = rustix::io::retry_on_intr(|| waitpid(pid, WaitOptions::empty()))
            .map_err(CheckpointError::conversation("wait for"))?;
        Ok(std::process::ExitStatus::from_raw(
            status.map_or(0, |(_, status)| status.as_raw()),
        ))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.is_some() {
            self.kill();
            let _ = self.wait();
        }
    }
}
