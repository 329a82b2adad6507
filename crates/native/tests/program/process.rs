//! A child that becomes what an image says.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use fermata_native::image::{Image, State};
use fermata_native::restore::program::{Program, Resources, Waiting};
use fermata_native::{NativeError, Owner};
use fermata_sys::clone::{Cloned, Namespaces, clone_process};
use fermata_sys::execute::duplicate_to;
use fermata_sys::open_file::close_all;
use fermata_sys::own_process;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, waitpid};

const DEADLINE: Duration = Duration::from_secs(20);
/// Above every descriptor of this test.
const FLOOR: i32 = 500;

/// A restored process, killed and reaped when it is dropped.
pub(crate) struct Restored {
    pub(crate) pid: Pid,
    /// Its standard input.
    pub(crate) input: File,
    /// Its standard output.
    pub(crate) output: File,
    pub(crate) arrived: File,
    pub(crate) failure: File,
    go: Option<OwnedFd>,
    ended: bool,
}

/// Splits off a process that becomes the image's first one, as process 1 of a pid namespace.
pub(crate) fn restore(image: &Image, pages: &File, objects: &[OwnedFd]) -> Restored {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (arrived, go, failure) = (pipe(), pipe(), pipe());
    let (input, output) = (pipe(), pipe());
    match clone_process(Namespaces::SANDBOX, None).unwrap() {
        Cloned::Child => {
            drop((arrived.0, go.1, failure.0, input.1, output.0));
            let mut ends = [arrived.1, go.0, failure.1, input.0, output.1];
            if image.processes[0].pid != 1 {
                ends = split_again(ends);
            }
            let error = become_it(image, pages, objects, ends);
            eprintln!("{error:?}");
            std::process::exit(99);
        }
        Cloned::Parent { pid, .. } => Restored {
            pid: Pid::from_raw(pid).unwrap(),
            input: input.1.into(),
            output: output.0.into(),
            arrived: arrived.0.into(),
            failure: failure.0.into(),
            go: Some(go.1),
            ended: false,
        },
    }
}

/// Returns in a child only, and waits for it as process 1.
fn split_again(ends: [OwnedFd; 5]) -> [OwnedFd; 5] {
    match clone_process(Namespaces::RESTORER, None).unwrap() {
        Cloned::Child => ends,
        Cloned::Parent { pid, .. } => {
            drop(ends);
            let (_, status) = waitpid(Pid::from_raw(pid), WaitOptions::empty())
                .unwrap()
                .unwrap();
            std::process::exit(status.exit_status().unwrap_or(98));
        }
    }
}

fn become_it(
    image: &Image,
    pages: &File,
    objects: &[OwnedFd],
    [arrived, go, failure, input, output]: [OwnedFd; 5],
) -> NativeError {
    let process = &image.processes[0];
    let State::Alive(alive) = &process.state else {
        panic!("not alive");
    };
    let [arrived, go, failure] = [(arrived, 1), (go, 2), (failure, 0)].map(|(end, place)| {
        duplicate_to(end.as_fd(), FLOOR + place).unwrap();
        FLOOR + place
    });
    let waiting = Waiting {
        failure,
        arrived,
        go,
    };
    let resources = Resources {
        pages: pages.as_fd(),
        objects,
        waiting,
    };
    own_process::block_all_signals().unwrap();
    let program = match Program::prepare(process, alive, resources) {
        Ok(program) => program,
        Err(error) => return error,
    };
    assert!(program.keep().iter().all(|descriptor| *descriptor >= FLOOR));
    rustix::stdio::dup2_stdin(&input).unwrap();
    rustix::stdio::dup2_stdout(&output).unwrap();
    close_all(3, FLOOR.unsigned_abs() - 1).unwrap();
    let owner = Owner {
        pid: process.pid,
        name: process.name.clone(),
    };
    match program.run(&owner) {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

impl Restored {
    /// Waits until both threads are at the barrier, and fails with what was said if they do not get there.
    pub(crate) fn wait_until_arrived(&mut self) {
        for _ in 0..2 {
            let mut byte = [0];
            wait_readable(&self.arrived);
            if self.arrived.read(&mut byte).unwrap() == 0 {
                panic!("{}", self.failure());
            }
        }
    }

    /// What it complained of until all of its copies were closed.
    pub(crate) fn failure(&mut self) -> String {
        let mut words = String::new();
        wait_readable(&self.failure);
        self.failure.read_to_string(&mut words).unwrap();
        words
    }

    pub(crate) fn let_go(&mut self) {
        self.go = None;
    }

    pub(crate) fn send_byte(&mut self) {
        self.input.write_all(&[1]).unwrap();
    }

    pub(crate) fn report(&mut self) -> [u8; 256] {
        let mut report = [0; 256];
        wait_readable(&self.output);
        self.output.read_exact(&mut report).unwrap();
        report
    }

    /// Its pid on the host: the child's, or the child's child's.
    pub(crate) fn host_pid(&self) -> i32 {
        let child = self.pid.as_raw_nonzero().get();
        let children = std::fs::read_to_string(format!("/proc/{child}/task/{child}/children"));
        match children.unwrap().trim() {
            "" => child,
            grandchild => grandchild.parse().unwrap(),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_raw(self.host_pid()).unwrap(), signal).unwrap();
    }

    /// There is nothing to wait on for who is not the parent.
    pub(crate) fn wait_for_state(&self, state: &str) {
        let started = Instant::now();
        while self.status("status", "State") != state {
            assert!(started.elapsed() < DEADLINE, "{}", self.proc("status"));
            std::thread::yield_now();
        }
    }

    pub(crate) fn proc(&self, name: &str) -> String {
        let path = format!("/proc/{}/{name}", self.host_pid());
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The `status` file of its second thread.
    pub(crate) fn second_thread(&self) -> String {
        let process = self.host_pid();
        let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let other = threads
            .map(|thread| thread.unwrap().file_name().into_string().unwrap())
            .find(|thread| *thread != process.to_string());
        format!("task/{}/status", other.unwrap())
    }

    /// The value of a line of a `status` file.
    pub(crate) fn status(&self, file: &str, key: &str) -> String {
        let status = self.proc(file);
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{key} in {status}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let (_, status) = waitpid(Some(self.pid), WaitOptions::empty())
            .unwrap()
            .unwrap();
        self.ended = true;
        status.exit_status()
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        if !self.ended {
            // Failing means that it has ended, which is what is wanted.
            let _ = rustix::process::kill_process(self.pid, Signal::KILL);
            let _ = waitpid(Some(self.pid), WaitOptions::empty());
        }
    }
}

fn wait_readable(file: &File) {
    let started = Instant::now();
    let timeout = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    let ready = poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&timeout)).unwrap();
    assert!(ready > 0 || started.elapsed() < DEADLINE, "nothing came");
}
