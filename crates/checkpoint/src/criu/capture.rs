//! Capturing a tree.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use fermata_protocol::{CriuSpec, EngineSpec};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};

use super::conversation::{self, Outcome};
use super::rpc::{CgroupMode, NetworkLock, Options, Request, RequestType};
use super::{log, unheld};
use crate::{CheckpointError, Tree, faults};

/// A sandbox stands still all the while; whoever waits for longer has been given up on.
const LIMIT: Duration = Duration::from_secs(300);

const LOG: &str = "capture.log";

/// Written by CRIU about itself; no part of the capture.
const STATISTICS: &str = "stats-dump";

pub(super) fn capture(
    spec: &CriuSpec,
    launcher: &Path,
    tree: &Tree<'_>,
    into: &Path,
    at_instant: &mut dyn FnMut() -> std::io::Result<()>,
) -> Result<(), CheckpointError> {
    unheld::refuse(tree)?;
    let directory = File::open(into).map_err(CheckpointError::file("open", into))?;
    let request = Request {
        r#type: RequestType::Dump.into(),
        opts: Some(options(tree, &directory)),
        notify_success: None,
    };
    let (conversation, its_end) = conversation::pair()?;
    let mut engine = Running(launch(spec, launcher, its_end, tree)?);
    let pidfd = engine.pidfd()?;
    let mut instant = None;
    let outcome = conversation.ask(&request, pidfd.as_fd(), LIMIT, &mut |stage, _| {
        if faults::is_armed(stage) {
            engine.kill();
        }
        // Everything has been read and no task has been let go yet.
        if stage != "post-dump" {
            return true;
        }
        let result = at_instant();
        let go_on = result.is_ok();
        instant = Some(result);
        go_on
    });
    // Its end, not its answer, says that it has let go of every task.
    drop(conversation);
    let outcome = match outcome {
        Ok(outcome @ (Outcome::Answered(_) | Outcome::Ended)) => outcome,
        Ok(Outcome::TimedOut) => {
            engine.kill();
            Outcome::TimedOut
        }
        Err(error) => {
            engine.kill();
            engine.wait()?;
            return Err(error);
        }
    };
    let status = engine.wait()?;

    let path = into.join(LOG);
    let text = log::read(&path);
    match (outcome, instant) {
        (_, Some(Err(error))) => Err(CheckpointError::AtInstant(error)),
        (Outcome::Answered(response), Some(Ok(()))) if response.success && status.success() => {
            for name in [LOG, STATISTICS] {
                let path = into.join(name);
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(CheckpointError::file("remove", path)(error));
                    }
                    _ => {}
                }
            }
            Ok(())
        }
        (Outcome::Answered(response), _) if !response.success => {
            Err(log::refusal(&text, &response, tree.init_pid))
        }
        (Outcome::TimedOut, _) => Err(CheckpointError::TimedOut {
            seconds: LIMIT.as_secs(),
        }),
        _ => Err(CheckpointError::EngineEnded {
            status,
            log: log::tail(&text),
        }),
    }
}

fn options(tree: &Tree<'_>, directory: &File) -> Options {
    Options {
        images_dir_fd: directory.as_raw_fd(),
        work_dir_fd: Some(directory.as_raw_fd()),
        log_file: Some(LOG.to_owned()),
        log_level: Some(log::LEVEL),
        notify_scripts: Some(true),
        pid: Some(tree.init_pid),
        leave_running: Some(true),
        freeze_cgroup: Some(tree.cgroup.to_string_lossy().into_owned()),
        manage_cgroups_mode: Some(CgroupMode::Ignore.into()),
        network_lock: Some(NetworkLock::Skip.into()),
        tcp_established: Some(true),
        // Connections that nobody has accepted yet; their other end learns of it at a restore.
        tcp_skip_in_flight: Some(true),
        file_locks: Some(true),
        orphan_pts_master: Some(true),
        // Deleted files that are still open: whatever their size, the caller's room is the limit.
        ghost_limit: Some(u32::MAX),
        // Deleted names of files that live on under others. CRIU removes its helper names again before the tree goes on.
        link_remap: Some(true),
        ..Options::default()
    }
}

/// Through the launcher, because only a program of our own can set things up between the start of a process and CRIU.
fn launch(
    spec: &CriuSpec,
    launcher: &Path,
    socket: OwnedFd,
    tree: &Tree<'_>,
) -> Result<Child, CheckpointError> {
    let start = CheckpointError::conversation("start");
    let failed = |source| CheckpointError::Conversation {
        action: "start",
        source,
    };
    let text = serde_json::to_string(&EngineSpec::Criu(spec.clone()))
        .map_err(|error| failed(error.into()))?;
    let lease = tree.lease.try_clone_to_owned().map_err(start)?;
    Command::new(launcher)
        .arg("engine")
        .arg(text)
        .arg(format!("/proc/{}/ns/net", tree.init_pid))
        .env_clear()
        // Standard streams, because these are inherited without a moment in which other children could inherit them too.
        .stdin(Stdio::from(socket))
        .stdout(Stdio::from(lease))
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)
}

/// A child that is waited for whatever happens.
#[derive(Debug)]
struct Running(Child);

impl Running {
    fn pid(&self) -> Result<Pid, CheckpointError> {
        i32::try_from(self.0.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(rustix::io::Errno::SRCH)
            .map_err(CheckpointError::conversation("hold on to"))
    }

    fn pidfd(&self) -> Result<OwnedFd, CheckpointError> {
        pidfd_open(self.pid()?, PidfdFlags::empty())
            .map_err(CheckpointError::conversation("hold on to"))
    }

    fn kill(&mut self) {
        // Fails only when it has been waited for.
        let _ = self.0.kill();
    }

    /// Processes that it made to try the kernel out sleep for good when it is killed, with a copy of the lease. It leads a
    /// process group; while it has not been reaped nobody else can get that number.
    fn wait(mut self) -> Result<ExitStatus, CheckpointError> {
        let pid = self.pid()?;
        waitid(
            WaitId::Pid(pid),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        )
        .map_err(CheckpointError::conversation("wait for"))?;
        // Fails when there are none, or it ended before it had a group.
        let _ = kill_process_group(pid, Signal::KILL);
        self.0
            .wait()
            .map_err(CheckpointError::conversation("wait for"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.wait();
    }
}
