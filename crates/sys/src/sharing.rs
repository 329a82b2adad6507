//! What two processes share, and how a thread is scheduled: `kcmp(2)`, `sched_getattr(2)`, `get_robust_list(2)`, `ioprio_get(2)`.

use std::cmp::Ordering;
use std::io;
use std::ptr;

/// What `kcmp(2)` compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Shared {
    /// The address space.
    Memory = 1,
    /// The table of descriptors.
    Descriptors = 2,
    /// Root, working directory, umask.
    FileSystem = 3,
}

/// Orders two tasks by what they have; equal when they share it.
///
/// # Errors
/// What `kcmp(2)` says.
pub fn compare(first: i32, second: i32, shared: Shared) -> io::Result<Ordering> {
    // SAFETY: numbers only.
    match unsafe { libc::syscall(libc::SYS_kcmp, first, second, shared as i32, 0, 0) } {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        -1 => Err(io::Error::last_os_error()),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// `struct sched_attr`, without the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulingAttributes {
    /// `SCHED_*`
    pub policy: u32,
    /// `SCHED_FLAG_*`
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Priority of a real time policy.
    pub priority: u32,
}

/// How a thread is scheduled.
///
/// # Errors
/// What `sched_getattr(2)` says.
pub fn scheduling(tid: i32) -> io::Result<SchedulingAttributes> {
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let mut attributes = Attributes::default();
    // SAFETY: the structure lives through the call and its size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_getattr,
            tid,
            ptr::from_mut(&mut attributes),
            size_of::<Attributes>(),
            0,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(SchedulingAttributes {
        policy: attributes.policy,
        flags: attributes.flags,
        nice: attributes.nice,
        priority: attributes.priority,
    })
}

/// The processors that a thread may run on, a bit each, without zeros at the end; 0: the calling thread.
///
/// # Errors
/// What `sched_getaffinity(2)` says.
pub fn processors(tid: i32) -> io::Result<Vec<u64>> {
    // NR_CPUS is at most 8192.
    let mut mask = vec![0_u64; 128];
    // SAFETY: the mask lives through the call and its size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            tid,
            size_of_val(mask.as_slice()),
            mask.as_mut_ptr(),
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    let used = mask
        .iter()
        .rposition(|word| *word != 0)
        .map_or(0, |last| last + 1);
    mask.truncate(used);
    Ok(mask)
}

/// `ioprio_get(2)` of a thread.
///
/// # Errors
/// What it says.
pub fn io_priority(tid: i32) -> io::Result<i32> {
    const WHO_PROCESS: i32 = 1;
    // SAFETY: numbers only.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, tid) };
    i32::try_from(result)
        .ok()
        .filter(|value| *value >= 0)
        .ok_or_else(io::Error::last_os_error)
}

/// The head of a thread's robust list and its length.
///
/// # Errors
/// What `get_robust_list(2)` says.
pub fn robust_list(tid: i32) -> io::Result<(u64, u64)> {
    let mut head = 0_u64;
    let mut length = 0_u64;
    // SAFETY: both numbers live through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_robust_list,
            tid,
            ptr::from_mut(&mut head),
            ptr::from_mut(&mut length),
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok((head, length))
}
