//! How a process ends, and hears of its children's ends.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// The size of a set of signals as the kernel counts it.
const SIGNAL_SET_BYTES: usize = 8;

/// Ends this process at once: no exit handlers run, nothing is flushed, which both belong to the process it was copied from.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: takes a plain number and does not return.
    unsafe { libc::_exit(code) }
}

/// Ends this process by a signal, without a core dump. Returns only if that failed.
pub fn end_by_signal(signal: i32) -> io::Error {
    match try_end_by_signal(signal) {
        Ok(()) => io::Error::other("the signal did not end it"),
        Err(error) => error,
    }
}

fn try_end_by_signal(signal: i32) -> io::Result<()> {
    // A limit of 0 does not keep the kernel from dumping into a pipe (core(5)).
    // SAFETY: plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) })?;
    if signal != libc::SIGKILL {
        default_action(signal)?;
    }
    unblock(u64::MAX)?;
    // Not by raise(3), which believes a thread id that may be that of the process this one was copied from.
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: plain numbers.
    check(unsafe { libc::kill(pid, signal) })
}

/// Has ended children wait for [`waitid(2)`](https://man7.org/linux/man-pages/man2/waitid.2.html) with no `SIGCHLD` left pending.
///
/// # Errors
/// What `rt_sigaction(2)` and `rt_sigprocmask(2)` say.
pub fn keep_ended_children() -> io::Result<()> {
    default_action(libc::SIGCHLD)?;
    unblock(1 << (libc::SIGCHLD - 1))
}

/// Not by signal(3), which hides the two signals that the C library keeps for itself.
fn default_action(signal: i32) -> io::Result<()> {
    let default = [0_usize; 4];
    // SAFETY: `default` is a struct kernel_sigaction of zeroes: SIG_DFL, no flags; no old action is asked for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            default.as_ptr(),
            ptr::null_mut::<usize>(),
            SIGNAL_SET_BYTES,
        )
    };
    check(result)
}

fn unblock(signals: u64) -> io::Result<()> {
    let mut old = MaybeUninit::<u64>::uninit();
    // SAFETY: both sets are 8 bytes, as is said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_UNBLOCK,
            ptr::from_ref(&signals),
            old.as_mut_ptr(),
            SIGNAL_SET_BYTES,
        )
    };
    check(result)
}

fn check(result: impl Into<libc::c_long>) -> io::Result<()> {
    if result.into() == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
