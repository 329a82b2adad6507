//! This process, before it becomes another one.

use std::ffi::CString;
use std::io;
use std::ptr;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};

use crate::interpreter::{Entry, enter};

/// `RLIM_NLIMITS`
const LIMITS: u32 = 16;

/// How the memory of a program is called in `/proc/PID/maps`.
pub const PROGRAM_NAME: &str = "fermata-program";

/// All limits, by number: soft and hard.
///
/// # Errors
/// What `prlimit(2)` says.
pub fn limits() -> io::Result<Vec<(u64, u64)>> {
    (0..LIMITS)
        .map(|resource| {
            let mut limit = libc::rlimit64 {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: the limit lives through the call.
            let result = unsafe { libc::prlimit64(0, resource, ptr::null(), &raw mut limit) };
            if result == -1 {
                return Err(io::Error::last_os_error());
            }
            Ok((limit.rlim_cur, limit.rlim_max))
        })
        .collect()
}

/// Raises the soft limit of open files to the hard one.
///
/// # Errors
/// What `setrlimit(2)` says.
pub fn raise_file_limit() -> io::Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    Ok(rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?)
}

/// Blocks every signal.
///
/// # Errors
/// What `rt_sigprocmask(2)` says.
pub fn block_all_signals() -> io::Result<()> {
    let all = u64::MAX;
    // SAFETY: the set lives through the call; its size is passed. Not sigprocmask(3), which leaves out two signals.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const all,
            ptr::null::<u64>(),
            size_of::<u64>(),
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sets the execution domain.
///
/// # Errors
/// What `personality(2)` says.
pub fn set_personality(personality: u32) -> io::Result<()> {
    // SAFETY: a number only.
    if unsafe { libc::personality(personality.into()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `prctl(2)` with a number.
///
/// # Errors
/// What it says.
fn set(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: numbers only.
    if unsafe { libc::prctl(option, value, 0, 0, 0) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether transparent huge pages are kept from its memory.
///
/// # Errors
/// What `prctl(2)` says.
pub fn disable_huge_pages(on: bool) -> io::Result<()> {
    set(libc::PR_SET_THP_DISABLE, on.into())
}

/// Writes to a descriptor that is known by its number only; for last words, which nobody may be there to hear.
pub fn write_to(number: i32, bytes: &[u8]) {
    // SAFETY: the bytes live through the call; a number that is not open is an error that is ignored.
    unsafe { libc::write(number, bytes.as_ptr().cast(), bytes.len()) };
}

/// Puts a program where it is to be: code first, then what it may write to. From a memfd with a name, by which a later capture knows
/// that it is no part of what it becomes.
///
/// # Errors
/// What `memfd_create(2)`, `write(2)` and `mmap(2)` say; `EEXIST` when something is there.
pub fn place_program(base: u64, bytes: &[u8], code_bytes: u64) -> io::Result<()> {
    let name = CString::new(PROGRAM_NAME)?;
    let file = memfd_create(name.as_c_str(), MemfdFlags::CLOEXEC)?;
    let mut written = 0;
    while written < bytes.len() {
        written += rustix::io::pwrite(&file, &bytes[written..], written as u64)?;
    }
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let code_bytes_here = usize::try_from(code_bytes).map_err(|_| invalid())?;
    let data_bytes = bytes
        .len()
        .checked_sub(code_bytes_here)
        .ok_or_else(invalid)?;
    let parts = [
        (base, code_bytes_here, 0, ProtFlags::READ | ProtFlags::EXEC),
        (
            base + code_bytes,
            data_bytes,
            code_bytes,
            ProtFlags::READ | ProtFlags::WRITE,
        ),
    ];
    for (address, length, offset, protection) in parts {
        let address = usize::try_from(address).map_err(|_| invalid())?;
        // SAFETY: nothing is replaced (MAP_FIXED_NOREPLACE), so no memory in use changes.
        unsafe {
            mmap(
                ptr::without_provenance_mut(address),
                length,
                protection,
                MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE,
                &file,
                offset,
            )
        }?;
    }
    Ok(())
}

/// Becomes what was placed. To be called only with the entry of a program placed by [`place_program`], laid out for that place;
/// another one ends this process.
pub fn enter_program(entry: Entry) -> ! {
    // SAFETY: what is at the entry takes all memory away, so that nothing of this program can be hurt by it; a wrong entry faults.
    unsafe { enter(entry) }
}
