//! Making a process in new namespaces, from a single-threaded program.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Namespaces a new process can get; values of `clone(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespaces(u64);

impl Namespaces {
    /// pid, mount, ipc and uts.
    ///
    /// The network namespace is joined, not made; the time namespace has to be unshared beforehand
    /// ([`unshare_time_for_children`]); the cgroup namespace afterwards ([`unshare_cgroup`]), when the child is where its root
    /// is to be.
    pub const SANDBOX: Self = Self(
        (libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS) as u64,
    );

    /// None: only a copy of the process.
    pub const NONE: Self = Self(0);

    /// mount only: for a program that restores a sandbox, which makes the others itself.
    pub const RESTORER: Self = Self(libc::CLONE_NEWNS as u64);
}

/// `CLONE_INTO_CGROUP` of `clone(2)`; libc's constant is of a type too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a [`clone_process`] this is.
#[derive(Debug)]
pub enum Cloned {
    /// The new process.
    Child,
    /// The old one.
    Parent {
        /// The child, as this process sees it.
        pid: i32,
        /// Refers to the child even after its pid has been given to another.
        pidfd: OwnedFd,
    },
}

/// Splits this process in two, the new one in new namespaces and, with `cgroup`, born in that cgroup v2 directory.
///
/// # Errors
/// `EINVAL` when the caller has more than one thread: locks held by the others would stay locked for ever in the child.
/// Otherwise what `clone3(2)` says.
pub fn clone_process(namespaces: Namespaces, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut pidfd: i32 = -1;
    // SAFETY: clone_args is plain data for which all-zero is valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = namespaces.0 | libc::CLONE_PIDFD as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    if let Some(directory) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::try_from(directory.as_raw_fd())
            .map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    }
    // SAFETY: the arguments live through the call and their size is passed. Without CLONE_VM the child runs on a copy of
    // this memory, as after fork(2), and there is no other thread whose locks the copy could have caught.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            std::ptr::from_mut(&mut arguments),
            size_of::<libc::clone_args>(),
        )
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent {
            pid: i32::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?,
            // SAFETY: CLONE_PIDFD stored a new descriptor that nobody else owns.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Puts children made from now on into a new time namespace; the caller stays where it is (`time_namespaces(7)`).
///
/// # Errors
/// What `unshare(2)` says.
pub fn unshare_time_for_children() -> io::Result<()> {
    // SAFETY: no pointers; CLONE_NEWTIME changes nothing for the calling process itself.
    if unsafe { libc::unshare(libc::CLONE_NEWTIME) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes the control groups that this process is in the root of what it sees of them (`cgroup_namespaces(7)`).
///
/// # Errors
/// What `unshare(2)` says.
pub fn unshare_cgroup() -> io::Result<()> {
    // SAFETY: no pointers; only the view of control groups changes.
    if unsafe { libc::unshare(libc::CLONE_NEWCGROUP) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Moves the calling thread into a namespace.
///
/// # Errors
/// What `setns(2)` says.
pub fn join_namespace(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers; the descriptor is valid for the call.
    if unsafe { libc::setns(namespace.as_raw_fd(), 0) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Leaves the session keyring of whoever started this program, as runc does: keys of the host must not be reachable.
///
/// # Errors
/// What `keyctl(2)` says.
pub fn join_new_session_keyring() -> io::Result<()> {
    // SAFETY: a null name asks for an anonymous keyring; no memory is touched.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives the calling process a copy of its mounts, of its own (`mount_namespaces(7)`).
///
/// # Errors
/// What `unshare(2)` says.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: no pointers; only the view of mounts changes.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
