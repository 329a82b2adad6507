//! Copies of address spaces, so that a program goes on while what it had in memory is written out.
//!
//! ```text
//! process ─ clone(CLONE_VM) ─► helper ─ closes its files, setsid(), clone() ─► copy: never runs, has the memory of the instant
//!                                └─ ends; the copy is process 1's child now, which reaps it as any orphan
//! ```
//!
//! No signal tells the program's parents of either (exit signal 0), and no descriptor stays open because of them.

use std::io;
use std::time::Duration;

use fermata_sys::injection::{Call, calls};
use fermata_sys::tracee::{Stop, Tracee};

use super::inject::Room;
use super::stopped::StoppedProcess;

const CLONE_VM: u64 = 0x100;
/// `__WALL`: children whatever their exit signal.
const WAIT_ALL: u64 = 0x4000_0000;
const BIRTH_LIMIT: Duration = Duration::from_secs(5);

/// A stopped process with the memory that another one had. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Copy {
    tracee: Tracee,
}

/// How many calls [`Copy::make`] runs at once.
pub(crate) const CALLS: usize = 3;

impl Copy {
    pub(crate) fn make(process: &StoppedProcess, room: &Room<'_>) -> io::Result<Self> {
        let leader = process.threads.first().ok_or(io::ErrorKind::NotFound)?;
        let mut share = [Call::new(calls::CLONE, [CLONE_VM, 0, 0, 0, 0])];
        let helper = room.run(leader, &mut share)?;
        let helper_pid = share[0].result;
        let Some(helper) = helper else {
            return Err(io::Error::from_raw_os_error(
                i32::try_from(-helper_pid).unwrap_or(0),
            ));
        };
        let copied = (|| {
            wait_until_born(&helper)?;
            let calls = [
                Call::new(calls::CLOSE_RANGE, [0, u64::from(u32::MAX), 0]),
                // Who ends the program's process group means the program.
                Call::new(calls::SETSID, []),
                Call::new(calls::CLONE, [0, 0, 0, 0, 0]),
            ];
            room.run_to_the_end(&helper, leader, &calls)
        })();
        if copied.is_err() {
            let _ = kill(&helper);
        }
        let mut reap = [Call::new(
            calls::WAIT4,
            [helper_pid.cast_unsigned(), 0, WAIT_ALL, 0],
        )];
        room.run(leader, &mut reap)?;
        // No memory, or too many processes.
        let copy = copied?.ok_or(io::ErrorKind::OutOfMemory)?;
        let copy = Self { tracee: copy };
        wait_until_born(&copy.tracee)?;
        Ok(copy)
    }

    pub(crate) fn host_pid(&self) -> i32 {
        self.tracee.tid()
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // Fails only when it is gone.
        let _ = kill(&self.tracee);
    }
}

fn wait_until_born(tracee: &Tracee) -> io::Result<()> {
    match tracee.wait_for_stop(BIRTH_LIMIT)? {
        Stop::Asked | Stop::Stopped(_) | Stop::Signal(_) | Stop::Cloned => Ok(()),
        Stop::Ended(_) => Err(io::ErrorKind::NotFound.into()),
    }
}

fn kill(tracee: &Tracee) -> io::Result<()> {
    let pid = rustix::process::Pid::from_raw(tracee.tid()).ok_or(io::ErrorKind::NotFound)?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    while !matches!(tracee.wait_for_stop(BIRTH_LIMIT)?, Stop::Ended(_)) {}
    Ok(())
}
