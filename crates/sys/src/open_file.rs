//! Open file descriptions: telling them apart, and moving descriptors about by number.

use std::cmp::Ordering;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd};

// linux/kcmp.h
const KCMP_FILE: libc::c_int = 0;
const KCMP_FILES: libc::c_int = 2;
const KCMP_EPOLL_TFD: libc::c_int = 7;

// linux/timerfd.h: _IOW('T', 0, __u64)
const TFD_IOC_SET_TICKS: libc::Ioctl = 0x4008_5400;

/// `struct f_owner_ex`
#[repr(C)]
struct SignalOwner {
    kind: libc::c_int,
    pid: libc::pid_t,
}

/// Orders two descriptors by their open file description; equal means that they share it.
///
/// # Errors
/// What `kcmp(2)` says.
pub fn compare(first: BorrowedFd<'_>, second: BorrowedFd<'_>) -> io::Result<Ordering> {
    let own = own_pid();
    ordering(kcmp(
        own,
        own,
        KCMP_FILE,
        first.as_raw_fd().unsigned_abs().into(),
        second.as_raw_fd().unsigned_abs().into(),
    )?)
}

/// Orders two tasks by their descriptor table; equal means that they share it.
///
/// # Errors
/// What `kcmp(2)` says.
pub fn compare_tables(first: i32, second: i32) -> io::Result<Ordering> {
    ordering(kcmp(first, second, KCMP_FILES, 0, 0)?)
}

/// Whether what `epoll` watches as number `watched`, the `nth` entry with this number, is the description of `file`.
///
/// # Errors
/// What `kcmp(2)` says (`ENOENT`: there is no such entry).
pub fn is_watched(
    file: BorrowedFd<'_>,
    epoll: BorrowedFd<'_>,
    watched: i32,
    nth: u32,
) -> io::Result<bool> {
    // `struct kcmp_epoll_slot`
    let slot: [u32; 3] = [
        epoll.as_raw_fd().unsigned_abs(),
        watched.unsigned_abs(),
        nth,
    ];
    let own = own_pid();
    let result = kcmp(
        own,
        own,
        KCMP_EPOLL_TFD,
        file.as_raw_fd().unsigned_abs().into(),
        slot.as_ptr().expose_provenance() as u64,
    )?;
    Ok(result == 0)
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

fn ordering(result: i64) -> io::Result<Ordering> {
    match result {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn kcmp(first: i32, second: i32, kind: libc::c_int, a: u64, b: u64) -> io::Result<i64> {
    // SAFETY: reads at most the epoll slot that `is_watched` points to, which outlives the call.
    match unsafe { libc::syscall(libc::SYS_kcmp, first, second, kind, a, b) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// Whether somebody asked to be sent signals about this file (`F_SETOWN`, `F_SETSIG`).
///
/// # Errors
/// What `fcntl(2)` says.
pub fn has_signal_owner(file: BorrowedFd<'_>) -> io::Result<bool> {
    const F_GETOWN_EX: libc::c_int = 16;
    const F_GETSIG: libc::c_int = 11;
    let mut owner = SignalOwner { kind: 0, pid: 0 };
    // SAFETY: `owner` is valid for writing.
    if unsafe { libc::fcntl(file.as_raw_fd(), F_GETOWN_EX, &raw mut owner) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: no pointers.
    let signal = unsafe { libc::fcntl(file.as_raw_fd(), F_GETSIG) };
    if signal == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(owner.pid != 0 || signal != 0)
}

/// Makes `target` refer to what `source` refers to. Whatever had that number is closed behind its owner's back: only for a
/// process that lays out its descriptors by number.
///
/// # Errors
/// What `dup3(2)` says.
pub fn place(source: i32, target: i32, close_on_execute: bool) -> io::Result<()> {
    let flags = if close_on_execute { libc::O_CLOEXEC } else { 0 };
    if source == target {
        let flags = if close_on_execute {
            libc::FD_CLOEXEC
        } else {
            0
        };
        // SAFETY: no pointers.
        return check(unsafe { libc::fcntl(source, libc::F_SETFD, flags) });
    }
    // SAFETY: no pointers; the caller gave up ownership of `target`.
    check(unsafe { libc::dup3(source, target, flags) })
}

/// Moves a descriptor to a free number of at least `floor`, and gives up ownership of it.
///
/// # Errors
/// What `fcntl(2)` says (`EINVAL`: `floor` is above the limit of open files).
pub fn move_above(file: OwnedFd, floor: i32) -> io::Result<i32> {
    if file.as_raw_fd() >= floor {
        return Ok(file.into_raw_fd());
    }
    // SAFETY: no pointers; a new descriptor is made.
    let number = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, floor) };
    check(number)?;
    Ok(number)
}

/// A descriptor that had to make room.
#[derive(Debug)]
pub struct Displaced {
    copy: OwnedFd,
    number: i32,
    close_on_execute: bool,
}

/// Sets aside what has this number, if anything, at a number of at least `floor`.
///
/// # Errors
/// What `fcntl(2)` says.
pub fn displace(number: i32, floor: i32) -> io::Result<Option<Displaced>> {
    // SAFETY: no pointers.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags == -1 {
        return match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EBADF) => Ok(None),
            error => Err(error),
        };
    }
    // SAFETY: no pointers; a new descriptor is made.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, floor) };
    check(copy)?;
    Ok(Some(Displaced {
        // SAFETY: fcntl returned a new descriptor that nobody else owns.
        copy: unsafe { OwnedFd::from_raw_fd(copy) },
        number,
        close_on_execute: flags & libc::FD_CLOEXEC != 0,
    }))
}

impl Displaced {
    /// Gives it its number back, closing what has it now.
    ///
    /// # Errors
    /// What `dup3(2)` says.
    pub fn put_back(self) -> io::Result<()> {
        place(self.copy.as_raw_fd(), self.number, self.close_on_execute)
    }
}

/// Adds an entry to an epoll, both by number, with events and data as they are.
///
/// # Errors
/// What `epoll_ctl(2)` says.
pub fn watch(epoll: i32, target: i32, events: u32, data: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events, u64: data };
    // SAFETY: `event` is valid for reading.
    check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, target, &raw mut event) })
}

/// Closes all descriptors from `first` to `last`, whoever owns them: only for a process that lays out its descriptors by number.
///
/// # Errors
/// What `close_range(2)` says.
pub fn close_all(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: no pointers; the caller gave up ownership of the range.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `signalfd(2)`: a descriptor that gives the signals of `mask`, signal 1 the lowest bit.
///
/// # Errors
/// What `signalfd(2)` says.
pub fn signal_descriptor(mask: u64) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads the eight bytes of `mask`; -1 asks for a new descriptor.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            &raw const mask,
            size_of::<u64>(),
            libc::SFD_CLOEXEC,
        )
    };
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    check(descriptor)?;
    // SAFETY: signalfd returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Gives a timer of `timerfd_create(2)` expirations that were not read yet.
///
/// # Errors
/// What the ioctl says (`ENOTTY`: a kernel without checkpoint support; `EINVAL`: none).
pub fn set_ticks(timer: BorrowedFd<'_>, ticks: u64) -> io::Result<()> {
    // SAFETY: the kernel reads the eight bytes of `ticks`.
    check(unsafe { libc::ioctl(timer.as_raw_fd(), TFD_IOC_SET_TICKS, &raw const ticks) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn a_duplicate_shares_its_description_and_another_open_does_not() {
        let first = std::fs::File::open("/dev/null").unwrap();
        let duplicate = first.try_clone().unwrap();
        let other = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(
            compare(first.as_fd(), duplicate.as_fd()).unwrap(),
            Ordering::Equal
        );
        let order = compare(first.as_fd(), other.as_fd()).unwrap();
        assert_ne!(order, Ordering::Equal);
        assert_eq!(
            compare(other.as_fd(), first.as_fd()).unwrap(),
            order.reverse()
        );
    }

    #[test]
    fn an_epoll_tells_which_description_it_watches() {
        use rustix::event::{EventfdFlags, epoll, eventfd};
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let watched = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let other = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let data = epoll::EventData::new_u64(1);
        epoll::add(&poll, &watched, data, epoll::EventFlags::IN).unwrap();
        let number = watched.as_raw_fd();
        assert!(is_watched(watched.as_fd(), poll.as_fd(), number, 0).unwrap());
        assert!(!is_watched(other.as_fd(), poll.as_fd(), number, 0).unwrap());
        assert!(is_watched(watched.as_fd(), poll.as_fd(), number, 1).is_err());
    }

    #[test]
    fn what_was_displaced_gets_its_number_back() {
        let first = std::fs::File::open("/dev/null").unwrap();
        let other = std::fs::File::open("/dev/zero").unwrap();
        let number = move_above(OwnedFd::from(first.try_clone().unwrap()), 700).unwrap();
        assert!(number >= 700);
        let displaced = displace(number, 700).unwrap().unwrap();
        place(other.as_raw_fd(), number, true).unwrap();
        displaced.put_back().unwrap();
        // SAFETY: `move_above` gave up ownership of this number, and it was put back.
        let returned = unsafe { OwnedFd::from_raw_fd(number) };
        assert_eq!(
            compare(first.as_fd(), returned.as_fd()).unwrap(),
            Ordering::Equal
        );
        assert!(displace(number + 1000, 0).unwrap().is_none());
    }
}
