//! Starting programs and keeping track of children, for process 1 of a sandbox.
//!
//! ```text
//! fork ──► child: signals, session or group, limits, stdio, chdir, exec ──► program
//!   │         └─ a step failed: {step, errno} into a close-on-exec pipe, exit 127
//!   └────► parent: knows the pid at once; `Launched::wait_for_exec` reads the pipe (end of file: exec succeeded)
//! ```
//!
//! `std::process` is not used because its one error cannot say whether the working directory or the program was missing,
//! and because the pid must be known before exec so that a child which dies at once is not reaped as a stranger.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::process::{Pid, Rlimit};

/// The number of signals of Linux, and the size of a set of them as the kernel counts it.
const SIGNALS: libc::c_long = 64;
const SIGNAL_SET_BYTES: usize = 8;

/// What the child was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchStep {
    /// Signals, session, group, limits or standard streams.
    Prepare,
    /// Entering the working directory.
    WorkingDirectory,
    /// Executing the program.
    Execute,
}

/// The child could not become the program.
#[derive(Debug, thiserror::Error)]
#[error("cannot {}", match step {
    LaunchStep::Prepare => "prepare the process",
    LaunchStep::WorkingDirectory => "enter the working directory",
    LaunchStep::Execute => "execute the program",
})]
pub struct LaunchError {
    /// Where it failed.
    pub step: LaunchStep,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Whom the child belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// A process group of its own.
    Group,
    /// A session of its own, with its standard input as the controlling terminal.
    Terminal,
}

/// A program to start.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The file to execute; relative to `working_directory`.
    pub program: &'a CStr,
    /// argv.
    pub arguments: &'a [CString],
    /// The whole environment, `NAME=value`.
    pub environment: &'a [CString],
    /// Entered before exec.
    pub working_directory: &'a CStr,
    /// Standard input, output and error. Must not themselves be descriptors 0 to 2.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Group or session.
    pub session: Session,
    /// Limit of open files of the program; `None`: the caller's.
    pub open_files: Option<Rlimit>,
    /// Make the program an ordinary candidate of the kernel's out-of-memory killer although the caller is exempt.
    pub reset_oom_score: bool,
}

/// A child that was made and is on its way to exec.
#[derive(Debug)]
pub struct Launched {
    /// The child.
    pub pid: Pid,
    report: File,
}

impl Launched {
    /// Blocks until the child executes its program or fails to.
    ///
    /// # Errors
    /// [`LaunchError`]; the child then ends with code 127.
    pub fn wait_for_exec(mut self) -> Result<(), LaunchError> {
        let mut report = [0; 5];
        match self.report.read_exact(&mut report) {
            // Nothing came: exec closed the pipe (or the child was killed before, which its exit status will tell).
            Err(_) => Ok(()),
            Ok(()) => {
                let [step, errno @ ..] = report;
                Err(LaunchError {
                    step: match step {
                        0 => LaunchStep::Prepare,
                        1 => LaunchStep::WorkingDirectory,
                        _ => LaunchStep::Execute,
                    },
                    source: io::Error::from_raw_os_error(i32::from_ne_bytes(errno)),
                })
            }
        }
    }
}

/// Everything the child needs, in the shape the system calls want: the child may not allocate.
struct ChildPlan {
    program: *const libc::c_char,
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    working_directory: *const libc::c_char,
    stdio: [libc::c_int; 3],
    session: Session,
    open_files: Option<libc::rlimit>,
    reset_oom_score: bool,
    report: libc::c_int,
}

/// Makes a child that executes a program, with default signal dispositions, an empty signal mask and umask 022.
///
/// # Errors
/// The errno of `pipe2` or `fork` (`EAGAIN`: a process limit).
pub fn launch(launch: &Launch<'_>) -> io::Result<Launched> {
    let (report, child_report) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(io::Error::from)?;
    let plan = ChildPlan {
        program: launch.program.as_ptr(),
        arguments: terminated(launch.arguments),
        environment: terminated(launch.environment),
        working_directory: launch.working_directory.as_ptr(),
        stdio: launch.stdio.map(|stream| stream.as_raw_fd()),
        session: launch.session,
        open_files: launch.open_files.map(|limit| libc::rlimit {
            rlim_cur: limit.current.unwrap_or(libc::RLIM_INFINITY),
            rlim_max: limit.maximum.unwrap_or(libc::RLIM_INFINITY),
        }),
        reset_oom_score: launch.reset_oom_score,
        report: child_report.as_raw_fd(),
    };
    // SAFETY: fork has no memory preconditions; the child calls only `run_child`, which keeps to async-signal-safe calls.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: this is the child of fork, and every pointer of the plan outlives this call in its copy of the memory.
        0 => unsafe { run_child(&plan) },
        pid => Ok(Launched {
            pid: Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?,
            report: File::from(report),
        }),
    }
}

fn terminated(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([ptr::null()])
        .collect()
}

/// # Safety
/// Only in the child of a fork, with valid pointers in `plan`. Uses nothing but async-signal-safe calls (signal-safety(7)).
#[expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "a straight run of system calls under one precondition"
)]
unsafe fn run_child(plan: &ChildPlan) -> ! {
    // SAFETY: system calls on plain numbers, and on pointers valid by this function's contract.
    unsafe {
        if let Err(errno) = prepare_child(plan) {
            fail(plan.report, 0, errno);
        }
        if libc::chdir(plan.working_directory) != 0 {
            fail(plan.report, 1, last_errno());
        }
        libc::execve(
            plan.program,
            plan.arguments.as_ptr(),
            plan.environment.as_ptr(),
        );
        fail(plan.report, 2, last_errno())
    }
}

/// # Safety
/// As [`run_child`].
#[expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "a straight run of system calls under one precondition"
)]
unsafe fn prepare_child(plan: &ChildPlan) -> Result<(), i32> {
    // SAFETY: system calls on plain numbers and on values on this stack.
    unsafe {
        // Rust ignores SIGPIPE, and ignored signals stay ignored across exec (execve(2)). KILL and STOP refuse, which is
        // fine. Not by signal(3), which hides the two signals that the C library keeps for itself.
        let default = [0_usize; 4];
        for signal in 1..=SIGNALS {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null_mut::<usize>(),
                SIGNAL_SET_BYTES,
            );
        }
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        check(libc::sigprocmask(
            libc::SIG_SETMASK,
            none.as_ptr(),
            ptr::null_mut(),
        ))?;
        libc::umask(0o022);
        match plan.session {
            Session::Group => check(libc::setpgid(0, 0))?,
            Session::Terminal => {
                check(libc::setsid())?;
                check(libc::ioctl(plan.stdio[0], libc::TIOCSCTTY, 0))?;
            }
        }
        if plan.reset_oom_score {
            let file = libc::open(
                c"/proc/self/oom_score_adj".as_ptr(),
                libc::O_WRONLY | libc::O_CLOEXEC,
            );
            // Without a mounted /proc there is nothing to write to, and the program still has a right to run.
            if file >= 0 {
                libc::write(file, b"0".as_ptr().cast(), 1);
            }
        }
        if let Some(limit) = &plan.open_files {
            check(libc::setrlimit(libc::RLIMIT_NOFILE, limit))?;
        }
        for (target, source) in (0..).zip(plan.stdio) {
            check(libc::dup2(source, target))?;
        }
        Ok(())
    }
}

fn check(result: libc::c_int) -> Result<(), i32> {
    if result == -1 {
        Err(last_errno())
    } else {
        Ok(())
    }
}

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// # Safety
/// Only in the child of a fork.
unsafe fn fail(report: libc::c_int, step: u8, errno: i32) -> ! {
    let mut message = [step, 0, 0, 0, 0];
    message[1..].copy_from_slice(&errno.to_ne_bytes());
    // SAFETY: `message` is valid for its length; five bytes into an empty pipe are written whole (pipe(7)).
    unsafe { libc::write(report, message.as_ptr().cast(), message.len()) };
    // SAFETY: ends this process without running the parent's exit handlers.
    unsafe { libc::_exit(127) }
}

/// A child that has ended and is not yet reaped, so that its pid cannot be anybody else's.
///
/// # Errors
/// The errno of `waitid`, except `ECHILD`, which means that there is none.
pub fn ended_child() -> io::Result<Option<Pid>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: `info` is valid for writing.
    let result = unsafe {
        libc::waitid(
            libc::P_ALL,
            0,
            info.as_mut_ptr(),
            libc::WEXITED | libc::WNOHANG | libc::WNOWAIT,
        )
    };
    if result == -1 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ECHILD) => Ok(None),
            _ => Err(error),
        };
    }
    // SAFETY: zeroed is a valid siginfo_t, and waitid filled it or left it.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills the child's fields; when no child has ended si_pid stays 0 (waitid(2)).
    Ok(Pid::from_raw(unsafe { info.si_pid() }))
}

/// Blocks `SIGCHLD` in the calling thread (threads made later inherit that) and returns a non-blocking descriptor that is
/// readable when one is pending.
///
/// # Errors
/// The errno of `pthread_sigmask` or `signalfd`.
pub fn child_signals() -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is valid for writing.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: `set` was initialised by sigemptyset.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD) };
    // SAFETY: `set` is initialised; no old mask is asked for.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut()) };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(result));
    }
    // SAFETY: `set` is initialised; -1 asks for a new descriptor.
    let descriptor =
        unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
    if descriptor == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: signalfd returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The pid of a unix socket's peer as this pid namespace sees it; `None` when the peer is outside.
///
/// # Errors
/// The errno of `getsockopt`.
pub fn peer_process(socket: BorrowedFd<'_>) -> io::Result<Option<Pid>> {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length =
        libc::socklen_t::try_from(size_of_val(&credentials)).map_err(io::Error::other)?;
    // SAFETY: `credentials` and `length` are valid for writing, and `length` is the size of `credentials`. (rustix's
    // `socket_peercred` holds the pid in a non-zero type and so cannot express a peer outside the namespace.)
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(Pid::from_raw(credentials.pid))
}

/// Takes ownership of a descriptor this program was started with; `None` when it is not open or is a standard stream.
#[must_use]
pub fn inherited_descriptor(number: i32) -> Option<OwnedFd> {
    // SAFETY: F_GETFD only reads the descriptor table.
    if number <= 2 || unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return None;
    }
    // SAFETY: it is open; by convention the parent passed it for us alone, and callers ask once, at start.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes every descriptor above the standard streams close on exec: what this program was started with by accident shall
/// not go on to the programs it starts.
///
/// # Errors
/// The errno of `close_range`.
pub fn keep_descriptors_from_children() -> io::Result<()> {
    // JUSTIFICATION: through syscall(2), because static programs may be built against a C library older than the wrapper.
    // SAFETY: with this flag close_range closes nothing; it only sets a flag on open descriptors.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3 as libc::c_uint,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends a signal to a process group; any number is allowed, also those of real-time signals.
///
/// # Errors
/// The errno of `kill` (`ESRCH`: the group has no member).
pub fn signal_group(group: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes plain numbers; a positive pid negated names a group.
    match unsafe { libc::kill(-group.as_raw_nonzero().get(), signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a process with this pid exists, if only as a zombie.
#[must_use]
pub fn is_alive(pid: Pid) -> bool {
    rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
}
