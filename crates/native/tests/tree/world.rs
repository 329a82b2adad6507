//! A pid namespace in which a tree is grown, and what is seen in it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use fermata_native::NativeError;
use fermata_native::image::{Alive, Process};
use fermata_native::restore::tree::{Foreground, Growth, Plan, grow, plan};
use fermata_sys::birth::{Parent, Side, clone_with_pid};
use fermata_sys::clone::{Cloned, Namespaces, clone_process};
use fermata_sys::ending::exit_now;
use fermata_sys::terminal::Terminal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, Signal, WaitOptions};

/// Long enough for a loaded machine, short enough for a hang to be noticed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the last line of a report says.
const END: &str = "end\n";

/// What `/proc` shows of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sight {
    pub(crate) name: String,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// Its wait status, if it is a zombie.
    pub(crate) ended: Option<i32>,
    /// The foreground group of its terminal; -1 without one.
    pub(crate) foreground: i32,
    /// Signals that wait for it, the process's and the thread's.
    pub(crate) pending: u64,
}

/// What came of a growth.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) processes: BTreeMap<i32, Sight>,
    /// The last pid that was given.
    pub(crate) last_pid: i32,
    /// From the call of `grow` until process 1 plays.
    pub(crate) took: Duration,
}

/// What the processes do besides being there.
#[derive(Debug, Default)]
pub(crate) struct Doing {
    /// Taken by every leader that has one.
    pub(crate) terminal: Option<Terminal>,
    /// Set by the leader.
    pub(crate) foreground: Option<i32>,
    /// Dies in `lead_session`, `groups_are_set` or `play`.
    pub(crate) dies: Option<(i32, Moment)>,
    /// Fails there.
    pub(crate) fails: Option<(i32, Moment)>,
    /// A pid that somebody has already.
    pub(crate) squatter: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    LeadSession,
    GroupsAreSet,
    Play,
}

/// Grows a tree in namespaces of its own and looks at it from within.
///
/// # Errors
/// What a process of the tree reported, or nothing if it ended without a word.
pub(crate) fn see(processes: &[Process], doing: Doing) -> Result<Seen, String> {
    let foregrounds = doing
        .foreground
        .iter()
        .flat_map(|&group| {
            let leader =
                |process: &&Process| has_terminal(process) && process.session == process.pid;
            let session = processes.iter().find(leader).unwrap().pid;
            [Foreground { session, group }]
        })
        .collect::<Vec<_>>();
    let plan = plan(processes, &foregrounds).unwrap();
    let (report_reader, report_writer) = rustix::pipe::pipe().unwrap();
    let (failure_reader, failure_writer) = rustix::pipe::pipe().unwrap();
    let pid = match clone_process(Namespaces::SANDBOX, None).unwrap() {
        Cloned::Child => {
            // The tree ends with the test, however that ends.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
            drop((report_reader, failure_reader));
            be_process_1(&plan, doing, report_writer, &failure_writer);
        }
        Cloned::Parent { pid, .. } => World(Pid::from_raw(pid).unwrap()),
    };
    drop((report_writer, failure_writer, doing));
    let report = read_until(&report_reader, END);
    let seen = report.ends_with(END).then(|| Seen::parse(&report));
    // With process 1 everybody ends, and so whoever may write to the other pipe.
    drop(pid);
    let failure = read_until(&failure_reader, "\0");
    match seen {
        Some(seen) if failure.is_empty() => Ok(seen),
        _ => Err(failure),
    }
}

/// Process 1, ended and reaped when this is dropped.
struct World(Pid);

impl Drop for World {
    fn drop(&mut self) {
        rustix::process::kill_process(self.0, Signal::KILL).unwrap();
        rustix::process::waitpid(Some(self.0), WaitOptions::empty()).unwrap();
    }
}

fn read_until(pipe: &OwnedFd, end: &str) -> String {
    let mut pipe = File::from(pipe.try_clone().unwrap());
    let (mut text, mut buffer) = (Vec::new(), [0; 65536]);
    let deadline = Instant::now() + PATIENCE;
    while !text.ends_with(end.as_bytes()) {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap();
        let ready = poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&timeout)).unwrap();
        assert!(
            ready > 0,
            "nothing came after {:?}",
            String::from_utf8_lossy(&text)
        );
        match pipe.read(&mut buffer).unwrap() {
            0 => break,
            count => text.extend_from_slice(&buffer[..count]),
        }
    }
    String::from_utf8(text).unwrap()
}

fn be_process_1(plan: &Plan<'_>, doing: Doing, report: OwnedFd, failure: &OwnedFd) -> ! {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", flags).unwrap();
    mount("proc", "/proc", "proc", MountFlags::empty(), None).unwrap();
    if let Some(squatter) = doing.squatter
        && clone_with_pid(squatter, Parent::Caller).unwrap() == Side::New
    {
        stay();
    }
    let mut growth = Recorder {
        doing,
        report: report.into(),
        start: Instant::now(),
    };
    let Err(error) = grow(plan, failure.as_fd(), &mut growth);
    write!(
        File::from(failure.try_clone().unwrap()),
        "{}",
        chain(&error)
    )
    .unwrap();
    exit_now(127);
}

fn chain(error: &NativeError) -> String {
    let cause = error.source().map(|source| format!(": {source}"));
    format!("{error}{}\n", cause.unwrap_or_default())
}

struct Recorder {
    doing: Doing,
    report: File,
    start: Instant,
}

impl Recorder {
    fn at(&self, process: &Process, moment: Moment) -> Result<(), NativeError> {
        if self.doing.dies == Some((process.pid, moment)) {
            // Not by a signal, which process 1 of a namespace does not take from itself.
            exit_now(0);
        }
        if self.doing.fails == Some((process.pid, moment)) {
            return Err(NativeError::Image {
                reason: format!("{} {moment:?}", process.pid),
            });
        }
        Ok(())
    }
}

impl Growth for Recorder {
    fn lead_session(&mut self, leader: &Process) -> Result<(), NativeError> {
        self.at(leader, Moment::LeadSession)?;
        if let (Some(terminal), true) = (&self.doing.terminal, has_terminal(leader)) {
            rustix::process::ioctl_tiocsctty(&terminal.programs).unwrap();
        }
        Ok(())
    }

    fn groups_are_set(&mut self, leader: &Process) -> Result<(), NativeError> {
        self.at(leader, Moment::GroupsAreSet)?;
        if let (Some(terminal), Some(group)) = (&self.doing.terminal, self.doing.foreground) {
            let group = Pid::from_raw(group).unwrap();
            rustix::termios::tcsetpgrp(&terminal.programs, group).unwrap();
        }
        Ok(())
    }

    fn play(&mut self, process: &Process, _: &Alive) -> Result<Infallible, NativeError> {
        self.at(process, Moment::Play)?;
        if process.pid == 1 {
            let took = self.start.elapsed();
            self.report.write_all(report(took).as_bytes()).unwrap();
        }
        stay();
    }
}

fn stay() -> ! {
    loop {
        rustix::event::pause();
    }
}

fn has_terminal(process: &Process) -> bool {
    matches!(&process.state, fermata_native::image::State::Alive(alive) if alive.terminal.is_some())
}

/// The namespace's processes, a line each, and what else is to be known.
fn report(took: Duration) -> String {
    let mut lines = String::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .parse::<i32>()
            .is_ok()
        {
            let stat = std::fs::read_to_string(path.join("stat")).unwrap();
            let status = std::fs::read_to_string(path.join("status")).unwrap();
            let pending = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
            };
            let pending = pending("SigPnd:") | pending("ShdPnd:");
            lines += &format!("{} {pending}\n", stat.trim());
        }
    }
    let last_pid = std::fs::read_to_string("/proc/sys/kernel/ns_last_pid").unwrap();
    let nanoseconds = took.as_nanos();
    format!("{lines}{} {nanoseconds}\n{END}", last_pid.trim())
}

impl Seen {
    fn parse(report: &str) -> Self {
        let mut lines = report.lines().rev().skip(1);
        let (last_pid, took_ns) = lines.next().unwrap().split_once(' ').unwrap();
        Self {
            processes: lines.map(Sight::parse).collect(),
            last_pid: last_pid.parse().unwrap(),
            took: Duration::from_nanos(took_ns.parse().unwrap()),
        }
    }
}

impl Sight {
    /// `proc_pid_stat(5)`, and the pending signals after it.
    fn parse(line: &str) -> (i32, Self) {
        let (head, tail) = line.rsplit_once(')').unwrap();
        let (pid, name) = head.split_once(" (").unwrap();
        let fields = tail.split_whitespace().collect::<Vec<_>>();
        let number = |place: usize| fields[place].parse::<i32>().unwrap();
        let sight = Self {
            name: name.to_owned(),
            parent: number(1),
            group: number(2),
            session: number(3),
            ended: (fields[0] == "Z").then(|| number(49)),
            foreground: number(5),
            pending: fields[50].parse().unwrap(),
        };
        (pid.parse().unwrap(), sight)
    }
}
