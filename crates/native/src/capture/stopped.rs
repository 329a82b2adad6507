//! A tree whose threads stand still under `ptrace(2)`.
//!
//! ```text
//! frozen by its control group ─► every thread seized ─► thawed: still stopped, but able to run what is injected
//!                                                           └─► dropped: as it was found
//! ```

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::Duration;

use fermata_sys::tracee::{Registers, Stop, Tracee};

use super::procfs::{Stat, Status};
use super::task::Task;
use crate::{NativeError, Owner};

/// What tells of the end of a process that fork(2) made.
const SIGCHLD: i32 = 17;

/// How long a thread may take to stop. All of them are frozen, so it is microseconds.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// All processes of a sandbox, parents first, with every thread stopped. Dropping it lets them go on as they were.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) processes: Vec<StoppedProcess>,
}

#[derive(Debug)]
pub(crate) struct StoppedProcess {
    pub(crate) task: Task,
    /// The parent's pid inside, 0 for process 1.
    pub(crate) parent: i32,
    pub(crate) stat: Stat,
    pub(crate) status: Status,
    /// The leader first; none of a zombie.
    pub(crate) threads: Vec<StoppedThread>,
}

/// Lets go of its thread as it was found.
#[derive(Debug)]
pub(crate) struct StoppedThread {
    /// `None` once it has been let go.
    tracee: Option<Tracee>,
    pub(crate) tid: i32,
    pub(crate) status: Status,
    /// The signal that had stopped it before, as by job control.
    pub(crate) stopped_by: Option<i32>,
    /// As they were found.
    pub(crate) registers: Registers,
    /// As it was found.
    pub(crate) signal_mask: u64,
}

/// A thread that was asked to stop.
struct Seized {
    tracee: Option<Tracee>,
}

impl Drop for Seized {
    fn drop(&mut self) {
        if let Some(tracee) = self.tracee.take() {
            let _ = tracee.wait_for_stop(STOP_LIMIT);
            let _ = tracee.detach();
        }
    }
}

impl StoppedThread {
    pub(crate) fn tracee(&self) -> io::Result<&Tracee> {
        self.tracee
            .as_ref()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    pub(crate) fn host_tid(&self) -> io::Result<i32> {
        Ok(self.tracee()?.tid())
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        if let Some(tracee) = self.tracee.take() {
            // They fail only for a thread that was killed meanwhile.
            let _ = tracee.set_signal_mask(self.signal_mask);
            let _ = tracee.set_registers(&self.registers);
            let _ = tracee.detach();
        }
    }
}

impl StoppedProcess {
    pub(crate) fn is_zombie(&self) -> bool {
        self.threads.is_empty()
    }

    /// Whether it has ended since it was found.
    pub(crate) fn has_vanished(&self) -> bool {
        !self.is_zombie() && has_ended(self.task.host_pid)
    }

    /// How much of its memory is locked now.
    pub(crate) fn locked_kib(&self) -> Result<u64, NativeError> {
        let (status, _) = read(&self.task, &format!("/proc/{}", self.task.host_pid))?;
        Ok(status.locked_kib)
    }

    /// The leader of a process that is no zombie.
    pub(crate) fn leader(&self) -> Result<&StoppedThread, NativeError> {
        self.threads
            .first()
            .ok_or_else(|| self.task.unheld("it has ended"))
    }
}

impl Stopped {
    /// Stops everything that descends from `init_pid`. The control group is frozen, so that nothing is made or ends meanwhile;
    /// `members` are the processes in it.
    pub(crate) fn seize(init_pid: i32, members: &[i32]) -> Result<Self, NativeError> {
        let found = Self::seize_all(init_pid, members);
        // Nothing that runs can end what is frozen, but SIGKILL does.
        match members.iter().find(|pid| has_ended(**pid)) {
            Some(pid) if found.is_err() => Err(NativeError::Busy {
                owner: Owner {
                    pid: *pid,
                    name: "killed meanwhile".to_owned(),
                },
            }),
            _ => found,
        }
    }

    fn seize_all(init_pid: i32, members: &[i32]) -> Result<Self, NativeError> {
        let mut processes = find(init_pid)?;
        refuse_strangers(&processes, members)?;
        let mut seized = Vec::with_capacity(processes.len());
        // Asked first and waited for afterwards: they stop side by side.
        for process in &processes {
            seized.push(seize_threads(process)?);
        }
        for (process, seized) in processes.iter_mut().zip(seized) {
            for thread in seized {
                let stopped = wait(&process.task, thread)?;
                process.threads.push(stopped);
            }
        }
        Ok(Self { processes })
    }

    /// The pid inside of a process that the host calls `host_pid`.
    pub(crate) fn pid_inside(&self, host_pid: i32) -> Option<i32> {
        self.processes
            .iter()
            .find(|process| process.task.host_pid == host_pid)
            .map(|process| process.task.pid)
    }
}

fn has_ended(host_pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{host_pid}/stat"));
    !stat
        .and_then(|text| Stat::parse(&text))
        .is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// Processes by descent, breadth first, zombies included.
fn find(init_pid: i32) -> Result<Vec<StoppedProcess>, NativeError> {
    let mut found: Vec<StoppedProcess> = Vec::new();
    let mut inside = HashMap::new();
    let mut pending = vec![init_pid];
    let mut at = 0;
    while let Some(host_pid) = pending.get(at).copied() {
        at += 1;
        let mut task = Task {
            host_pid,
            pid: host_pid,
            name: String::new(),
        };
        let (status, stat) = read(&task, &format!("/proc/{host_pid}"))?;
        task.pid = status.pid;
        task.name.clone_from(&status.name);
        let parent = match inside.get(&stat.parent) {
            Some(parent) => *parent,
            None if host_pid == init_pid => 0,
            None => return Err(task.unheld("its parent is outside of the sandbox")),
        };
        inside.insert(host_pid, task.pid);
        if stat.state != 'Z' {
            for tid in threads(&task)? {
                let path = format!("/proc/{host_pid}/task/{tid}/children");
                let children =
                    std::fs::read_to_string(path).map_err(task.failed("list the children"))?;
                let children = children.split_ascii_whitespace();
                pending.extend(children.filter_map(|pid| pid.parse::<i32>().ok()));
            }
        }
        found.push(StoppedProcess {
            task,
            parent,
            stat,
            status,
            threads: Vec::new(),
        });
    }
    Ok(found)
}

fn read(task: &Task, directory: &str) -> Result<(Status, Stat), NativeError> {
    let text = |name: &str| std::fs::read_to_string(format!("{directory}/{name}"));
    let status = text("status").and_then(|text| Status::parse(&text));
    let stat = text("stat").and_then(|text| Stat::parse(&text));
    Ok((
        status.map_err(task.failed("read the status"))?,
        stat.map_err(task.failed("read the state"))?,
    ))
}

/// A process in the control group that does not descend from process 1 was put there from outside.
fn refuse_strangers(found: &[StoppedProcess], members: &[i32]) -> Result<(), NativeError> {
    let known: HashSet<i32> = found.iter().map(|process| process.task.host_pid).collect();
    let Some(stranger) = members.iter().find(|pid| !known.contains(pid)) else {
        return Ok(());
    };
    let name = std::fs::read_to_string(format!("/proc/{stranger}/comm")).unwrap_or_default();
    let task = Task {
        host_pid: *stranger,
        pid: *stranger,
        name: name.trim_end().to_owned(),
    };
    Err(task.unheld("it does not descend from process 1"))
}

fn threads(task: &Task) -> Result<Vec<i32>, NativeError> {
    let failed = || task.failed("list the threads");
    let mut tids = std::fs::read_dir(format!("/proc/{}/task", task.host_pid))
        .map_err(failed())?
        .map(|entry| {
            let name = entry.map_err(failed())?.file_name();
            name.to_string_lossy()
                .parse()
                .map_err(|_| failed()(io::Error::from(io::ErrorKind::InvalidData)))
        })
        .collect::<Result<Vec<i32>, _>>()?;
    // The leader first, whatever the order of the numbers.
    tids.sort_by_key(|tid| (*tid != task.host_pid, *tid));
    Ok(tids)
}

fn seize_threads(process: &StoppedProcess) -> Result<Vec<Seized>, NativeError> {
    let task = &process.task;
    if process.stat.state == 'Z' {
        return Ok(Vec::new());
    }
    if process.status.tracer != 0 {
        return Err(task.unheld("it is traced (ptrace(2))"));
    }
    if process.stat.exit_signal != SIGCHLD {
        let signal = process.stat.exit_signal;
        return Err(task.unheld(format!("its end is told by signal {signal}")));
    }
    let mut seized = Vec::new();
    for tid in threads(task)? {
        // Everything is frozen, so this is no disk's doing: vfork(2) whose child has not executed its program yet. It cannot be
        // stopped before that.
        let stat = std::fs::read_to_string(format!("/proc/{}/task/{tid}/stat", task.host_pid))
            .and_then(|text| Stat::parse(&text))
            .map_err(task.failed("read the state"))?;
        match stat.state {
            'D' => {
                return Err(NativeError::Busy {
                    owner: task.owner(),
                });
            }
            'Z' | 'X' if tid == task.host_pid => {
                return Err(task.unheld("its first thread has ended before the others"));
            }
            'Z' | 'X' => continue,
            _ => {}
        }
        let tracee = Tracee::seize(tid).map_err(task.failed("take hold of a thread"))?;
        let interrupted = tracee.interrupt();
        seized.push(Seized {
            tracee: Some(tracee),
        });
        interrupted.map_err(task.failed("stop a thread"))?;
    }
    Ok(seized)
}

fn wait(task: &Task, mut seized: Seized) -> Result<StoppedThread, NativeError> {
    let gone = || task.failed("stop a thread")(io::Error::from(io::ErrorKind::NotConnected));
    let tracee = seized.tracee.as_ref().ok_or_else(gone)?;
    let stopped_by = match tracee
        .wait_for_stop(STOP_LIMIT)
        .map_err(task.failed("stop a thread"))?
    {
        Stop::Asked => None,
        Stop::Stopped(signal) => Some(signal),
        // Frozen tasks get no signal, but one may have been on its way when they were frozen; it would be lost.
        Stop::Signal(_) | Stop::Cloned => {
            return Err(NativeError::Busy {
                owner: task.owner(),
            });
        }
        Stop::Ended(_) => {
            seized.tracee = None;
            return Err(NativeError::Busy {
                owner: task.owner(),
            });
        }
    };
    let directory = format!("/proc/{}/task/{}", task.host_pid, tracee.tid());
    let (status, _) = read(task, &directory)?;
    let read = || Ok::<_, io::Error>((tracee.registers()?, tracee.signal_mask()?));
    let (registers, signal_mask) = read().map_err(task.failed("read the registers"))?;
    Ok(StoppedThread {
        tracee: seized.tracee.take(),
        tid: status.pid,
        status,
        stopped_by,
        registers,
        signal_mask,
    })
}
