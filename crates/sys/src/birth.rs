//! Making a process with a chosen pid, from a single-threaded program.

use std::io;

/// Whose child the new process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The caller's.
    Caller,
    /// That of the caller's parent (`CLONE_PARENT`); process 1 of a pid namespace may not ask for it.
    CallersParent,
}

/// Which side of a [`clone_with_pid`] this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The new process.
    New,
    /// The caller.
    Old,
}

/// Splits this process in two. The new one has this pid in the innermost pid namespace, a copy of the memory and of the
/// descriptors, and tells its end by `SIGCHLD`.
///
/// The C library keeps the caller's thread id in its copy, so the new process must not call what uses it: `raise(3)`, recursive
/// and error checking mutexes.
///
/// # Errors
/// `EINVAL` when the caller has more than one thread: locks held by the others would stay locked for ever in the new process.
/// `EEXIST` when the pid is taken. Otherwise what `clone3(2)` says.
pub fn clone_with_pid(pid: i32, parent: Parent) -> io::Result<Side> {
    // SAFETY: no pointers; for a caller with one thread this changes nothing, for others it fails (unshare(2)).
    if unsafe { libc::unshare(libc::CLONE_THREAD) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: clone_args is plain data for which all-zero is valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    match parent {
        Parent::Caller => arguments.exit_signal = libc::SIGCHLD as u64,
        // The kernel takes the caller's own exit signal and refuses another.
        Parent::CallersParent => arguments.flags = libc::CLONE_PARENT as u64,
    }
    arguments.set_tid = std::ptr::from_ref(&pid) as u64;
    arguments.set_tid_size = 1;
    // SAFETY: the arguments, and the pid that they point to, live through the call, and their sizes are passed. Without CLONE_VM
    // the new process runs on a copy of this memory, as after fork(2), and no other thread's locks are in that copy.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            std::ptr::from_mut(&mut arguments),
            size_of::<libc::clone_args>(),
        )
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::New),
        _ => Ok(Side::Old),
    }
}

/// Where a process is in the tree, as its pid namespace numbers it; 0 is somebody outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
}

/// Where the caller is. (rustix holds these ids in a type that cannot express somebody outside.)
#[must_use]
pub fn own_standing() -> Standing {
    Standing {
        // SAFETY: takes nothing and cannot fail.
        parent: unsafe { libc::getppid() },
        // SAFETY: 0 means the caller, for whom it cannot fail.
        group: unsafe { libc::getpgid(0) },
        // SAFETY: 0 means the caller, for whom it cannot fail.
        session: unsafe { libc::getsid(0) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_has_a_parent_a_group_and_a_session() {
        let standing = own_standing();
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, fields) = stat
            .rsplit_once(") S ")
            .or_else(|| stat.rsplit_once(") R "))
            .unwrap();
        let Standing {
            parent,
            group,
            session,
        } = standing;
        assert!(
            fields.starts_with(&format!("{parent} {group} {session} ")),
            "{standing:?} {stat}"
        );
    }

    #[test]
    fn a_program_with_threads_may_not_split() {
        // The harness runs tests on threads of their own.
        let error = clone_with_pid(1, Parent::Caller).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
