//! Carries a plan out: begun by process 1, gone on with by every process that it makes.
//!
//! ```text
//!  process 1:  clone 7 ──────────────────────────────► bury ─► release ─► play
//!  process 7:          └ lead session ─ clone 8 ─ ... ─ end       │
//!  process 8:                                └ enter group ───────┴──► play
//! ```
//!
//! All run the same code with the same plan, and each takes the steps that are its own when their turn comes ([`Baton`]).
//! A process that fails says so through a pipe and has process 1 give up, with which the pid namespace ends. One that dies is missed
//! by its parent.

use std::convert::Infallible;
use std::error::Error;
use std::ffi::CString;
use std::fmt::Write as _;
use std::io;
use std::os::fd::BorrowedFd;

use fermata_sys::birth::{Parent, Side, Standing, clone_with_pid, own_standing};
use fermata_sys::ending::{end_by_signal, exit_now, keep_ended_children};
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus};

use super::baton::{Baton, Turn};
use super::census::owner;
use super::plan::{Action, Plan, Role};
use crate::image::{Alive, Process, State};
use crate::{NativeError, Owner};

/// The exit code of a process that could not take its place.
const FAILURE_CODE: i32 = 127;

/// What is written to a pipe whole (`PIPE_BUF`, pipe(7)).
const MESSAGE_BYTES: usize = 4096;

/// What the tree's processes do besides taking their places.
pub trait Growth {
    /// In a living leader right after `setsid(2)`, before it has children that belong to its session: takes the controlling terminal,
    /// which they then inherit.
    ///
    /// # Errors
    /// Whatever went wrong; the growth fails.
    fn lead_session(&mut self, leader: &Process) -> Result<(), NativeError>;

    /// In a living leader whose session has a terminal, when every process is in its group and the foreground group is there:
    /// sets it, which only a process of that session may. Ghosts are still there and hold copies of all descriptors.
    ///
    /// # Errors
    /// Whatever went wrong; the growth fails.
    fn groups_are_set(&mut self, leader: &Process) -> Result<(), NativeError>;

    /// In every living process, last, when ghosts are gone and zombies have ended. Does not return unless it failed.
    ///
    /// # Errors
    /// Whatever went wrong. Nobody else is stopped by that: whoever reads the pipe has to end the tree.
    fn play(&mut self, process: &Process, alive: &Alive) -> Result<Infallible, NativeError>;
}

/// Makes the tree, in process 1 of a pid namespace that has no other process, with one thread and all capabilities. `/proc`, if it is
/// mounted, is that of the namespace.
///
/// `SIGCHLD` is set to its default and unblocked, in all processes, so that no end of a ghost or zombie leaves it pending.
///
/// # Errors
/// In process 1 what failed there, or that another process failed. What failed in another was written to `failure` before, one line.
/// The caller has to end process 1 then, which ends all. In other processes this never returns.
pub fn grow(
    plan: &Plan<'_>,
    failure: BorrowedFd<'_>,
    growth: &mut dyn Growth,
) -> Result<Infallible, NativeError> {
    let baton = Baton::new(plan.actors.len()).map_err(|source| NativeError::Restore {
        action: "share memory with the children".to_owned(),
        owner: owner(&plan.processes[0]),
        source,
    })?;
    let mut grower = Grower {
        plan,
        baton,
        failure,
        actor: 0,
    };
    let Err(error) = grower.run(growth);
    grower.report(&error);
    Err(error)
}

/// One process on its way to its place.
struct Grower<'a> {
    plan: &'a Plan<'a>,
    baton: Baton,
    failure: BorrowedFd<'a>,
    /// Who this is.
    actor: usize,
}

impl Drop for Grower<'_> {
    /// No child may return into the code that process 1 was called from, not even by a panic.
    fn drop(&mut self) {
        if self.actor != 0 {
            self.baton.fail();
            exit_now(FAILURE_CODE);
        }
    }
}

impl Grower<'_> {
    fn run(&mut self, growth: &mut dyn Growth) -> Result<Infallible, NativeError> {
        let plan = self.plan;
        keep_ended_children().map_err(self.failed("set the signals"))?;
        for (number, step) in plan.steps.iter().enumerate() {
            if step.actor != self.actor {
                continue;
            }
            self.wait(|baton| baton.wait_for_step(step.actor, number))?;
            self.take(step.action, number, growth)?;
            // The new process has nothing to pass on: whoever cloned it does.
            if self.actor == step.actor {
                self.pass(number + 1)?;
            }
        }
        if self.actor == 0 {
            self.wait(|baton| baton.wait_for_step(0, plan.steps.len()))?;
            // New processes should get ids that are not in the tree's memory. Where /proc does not allow that, they get free
            // ones anyway.
            let _ = std::fs::write("/proc/sys/kernel/ns_last_pid", plan.greatest_id.to_string());
            self.baton
                .release()
                .map_err(self.failed("release the children"))?;
        } else {
            self.wait(Baton::wait_for_release)?;
        }
        match plan
            .processes
            .get(self.actor)
            .map(|process| (process, &process.state))
        {
            Some((process, State::Alive(alive))) => {
                self.check_standing(process)?;
                self.adopt_orphans(alive.is_subreaper)?;
                growth.play(process, alive)
            }
            // Its last step was to end.
            _ => Err(self.failed("have the end")(io::Error::from(
                io::ErrorKind::InvalidData,
            ))),
        }
    }

    fn take(
        &mut self,
        action: Action,
        number: usize,
        growth: &mut dyn Growth,
    ) -> Result<(), NativeError> {
        match action {
            Action::Clone(child) => self.bear(child, Parent::Caller),
            Action::CloneSibling(sibling) => self.bear(sibling, Parent::CallersParent),
            Action::LeadSession => {
                self.make_session()?;
                match self.living() {
                    Some(leader) => growth.lead_session(leader),
                    None => Ok(()),
                }
            }
            Action::EnterGroup(group) => rustix::process::setpgid(None, Pid::from_raw(group))
                .map_err(self.failed(format!("set group {group}"))),
            Action::AdoptOrphans(adopt) => self.adopt_orphans(adopt),
            Action::GroupsAreSet => match self.living() {
                Some(leader) => growth.groups_are_set(leader),
                None => Ok(()),
            },
            Action::End => self.end(number),
            Action::Bury(child) => self.see_end(child, WaitIdOptions::EXITED),
            Action::Mourn(child) => {
                self.see_end(child, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
            }
        }
    }

    fn bear(&mut self, born: usize, parent: Parent) -> Result<(), NativeError> {
        let pid = self.plan.actors[born].pid;
        match clone_with_pid(pid, parent).map_err(self.failed(format!("make child {pid}")))? {
            Side::New => self.actor = born,
            Side::Old => {}
        }
        Ok(())
    }

    fn make_session(&self) -> Result<(), NativeError> {
        let made = match rustix::process::setsid() {
            // Whoever made process 1 may have done it.
            Err(Errno::PERM) if self.actor == 0 && own_standing().session == 1 => Ok(()),
            made => made.map(drop),
        };
        made.map_err(self.failed("make the session"))
    }

    /// Not what should be here but what is.
    fn check_standing(&self, process: &Process) -> Result<(), NativeError> {
        let planned = Standing {
            parent: process.parent,
            group: process.group,
            session: process.session,
        };
        let standing = own_standing();
        if standing != planned {
            let source = io::Error::other(format!("it is in {standing:?}, not {planned:?}"));
            return Err(self.failed("complete the making")(source));
        }
        Ok(())
    }

    fn adopt_orphans(&self, adopt: bool) -> Result<(), NativeError> {
        // Any pid means yes.
        rustix::process::set_child_subreaper(adopt.then_some(Pid::INIT))
            .map_err(self.failed("set the adoption of orphans"))
    }

    /// As the image says. The turn is passed on before.
    fn end(&self, number: usize) -> Result<(), NativeError> {
        if let Some(name) = self
            .plan
            .processes
            .get(self.actor)
            .and_then(|process| CString::new(process.name.as_str()).ok())
        {
            rustix::thread::set_name(&name).map_err(self.failed("set the name"))?;
        }
        self.pass(number + 1)?;
        let status = self.plan.status(self.actor);
        let signal = status & 0x7f;
        if signal == 0 {
            exit_now(status >> 8);
        }
        Err(self.failed(format!("have signal {signal} be the end"))(
            end_by_signal(signal),
        ))
    }

    /// Waits for the end of a child and that it is the planned one.
    fn see_end(&self, child: usize, options: WaitIdOptions) -> Result<(), NativeError> {
        let planned = self.plan.status(child);
        let pid = self.plan.actors[child].pid;
        let seen = rustix::io::retry_on_intr(|| wait(pid, options))
            .map_err(self.failed(format!("see the end of child {pid}")))?;
        if seen != Some(planned) {
            return Err(self.died(child));
        }
        Ok(())
    }

    fn pass(&self, number: usize) -> Result<(), NativeError> {
        let next = self.plan.steps.get(number).map_or(0, |step| step.actor);
        self.baton
            .pass(next, number)
            .map_err(self.failed("pass the turn"))
    }

    fn wait(&self, turn: impl Fn(&Baton) -> io::Result<Turn>) -> Result<(), NativeError> {
        loop {
            match turn(&self.baton).map_err(self.failed("wait for the turn"))? {
                Turn::Come => return Ok(()),
                Turn::Late => self.miss_children()?,
                Turn::Failed => {
                    return Err(self.failed("complete the tree")(io::Error::other(
                        "another process failed",
                    )));
                }
            }
        }
    }

    /// Finds out whether a child has ended that should not have.
    fn miss_children(&self) -> Result<(), NativeError> {
        let progress = self.baton.progress();
        for (child, actor) in self.plan.actors.iter().enumerate().skip(1) {
            // A helper is whose it just is; if it is not ours, the kernel says so.
            let is_ours = actor.parent == self.actor || actor.role == Role::Helper;
            if is_ours
                && self.plan.is_alive(child, progress)
                && let Ok(Some(_)) = wait(
                    actor.pid,
                    WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT,
                )
                // It may have been just about to.
                && self.plan.is_alive(child, self.baton.progress())
            {
                return Err(self.died(child));
            }
        }
        Ok(())
    }

    fn living(&self) -> Option<&Process> {
        self.plan
            .processes
            .get(self.actor)
            .filter(|process| matches!(process.state, State::Alive(_)))
    }

    fn owner(&self, actor: usize) -> Owner {
        match self.plan.processes.get(actor) {
            Some(process) => owner(process),
            None => Owner {
                pid: self.plan.actors[actor].pid,
                name: match self.plan.actors[actor].role {
                    Role::SessionGhost => "for an ended session leader",
                    Role::GroupGhost => "for an ended group leader",
                    Role::Process | Role::Helper => "for a moment",
                }
                .to_owned(),
            },
        }
    }

    fn failed<E: Into<io::Error>>(
        &self,
        action: impl Into<String>,
    ) -> impl FnOnce(E) -> NativeError {
        let owner = self.owner(self.actor);
        let action = action.into();
        move |source| NativeError::Restore {
            action,
            owner,
            source: source.into(),
        }
    }

    fn died(&self, actor: usize) -> NativeError {
        NativeError::Restore {
            action: "complete the making".to_owned(),
            owner: self.owner(actor),
            source: io::Error::other("it ended on the way"),
        }
    }

    /// Process 1 tells its caller, the others whoever is at the end of the pipe.
    fn report(&self, error: &NativeError) {
        if self.actor == 0 {
            return;
        }
        let mut line = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            // Writing to a string cannot fail.
            let _ = write!(line, ": {cause}");
            next = cause.source();
        }
        let mut line = line.into_bytes();
        line.truncate(MESSAGE_BYTES - 1);
        line.push(b'\n');
        // There is nobody else to tell.
        let _ = rustix::io::write(self.failure, &line);
    }
}

/// The status of an ended child.
fn wait(pid: i32, options: WaitIdOptions) -> rustix::io::Result<Option<i32>> {
    let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    let ended = rustix::process::waitid(WaitId::Pid(pid), options)?;
    Ok(
        ended.map(|status: WaitIdStatus| match status.terminating_signal() {
            Some(signal) => signal,
            None => status.exit_status().unwrap_or(-1) << 8,
        }),
    )
}
