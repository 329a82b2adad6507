//! The registration of restartable sequences (`rseq(2)`) that the C library makes for each thread at its start.

use std::arch::{asm, global_asm};
use std::io;

/// Before each abort handler of x86-64; `RSEQ_SIG` of glibc.
const SIGNATURE: u32 = 0x5305_3053;
/// `RSEQ_FLAG_UNREGISTER`
const UNREGISTER: i32 = 1;
/// `getauxval(3)`: the size that the kernel would like, which newer C libraries register.
const AT_RSEQ_FEATURE_SIZE: libc::c_ulong = 27;
/// The size of the first version, which older ones register.
const FIRST_BYTES: u64 = 32;

// glibc has these since 2.35; with an older one their addresses are null, which a Rust `static` could not express.
global_asm!(".weak __rseq_offset", ".weak __rseq_size");

/// Ends the registration of this thread. The kernel writes to its area whenever the thread has been away, and kills a process
/// whose area is gone; so it is to be called before that memory is given up.
///
/// # Errors
/// What `rseq(2)` says.
pub fn unregister() -> io::Result<()> {
    let Some((area, size)) = registered() else {
        return Ok(());
    };
    // SAFETY: no pointers.
    let wanted = unsafe { libc::getauxval(AT_RSEQ_FEATURE_SIZE) };
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    // It has to be told with the length that it was made with, which is not what `__rseq_size` has in newer libraries.
    for length in [
        FIRST_BYTES,
        wanted.next_multiple_of(FIRST_BYTES),
        wanted,
        u64::from(size),
    ] {
        // SAFETY: unregistering takes the address as a number to compare with.
        let result = unsafe { libc::syscall(libc::SYS_rseq, area, length, UNREGISTER, SIGNATURE) };
        if result == 0 {
            return Ok(());
        }
        last = io::Error::last_os_error();
    }
    Err(last)
}

/// The address and what the library says is its size; none if it has registered none.
fn registered() -> Option<(usize, u32)> {
    let offset: *const isize;
    let size: *const u32;
    // SAFETY: reads two entries of the global offset table.
    unsafe {
        asm!(
            "mov {offset}, [rip + __rseq_offset@GOTPCREL]",
            "mov {size}, [rip + __rseq_size@GOTPCREL]",
            offset = out(reg) offset,
            size = out(reg) size,
            options(nostack, readonly, preserves_flags)
        );
    };
    if offset.is_null() || size.is_null() {
        return None;
    }
    // SAFETY: not null, so the C library defines it, and writes to it at start only.
    let offset = unsafe { offset.read() };
    // SAFETY: as above.
    let size = unsafe { size.read() };
    if size == 0 {
        return None;
    }
    let thread: usize;
    // SAFETY: the first word at fs is its own address (the x86-64 ABI of thread-local storage).
    unsafe { asm!("mov {}, fs:[0]", out(reg) thread, options(nostack, readonly, preserves_flags)) };
    Some((thread.wrapping_add_signed(offset), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_registered_once_and_not_twice() {
        // A thread of its own: that of the harness goes on as it was.
        let outcome = std::thread::spawn(|| {
            registered()?;
            // One that is registered can be ended once; the second time says that there is none.
            Some((
                unregister().is_ok(),
                unregister().map_err(|error| error.raw_os_error()),
            ))
        });
        if let Some((first, second)) = outcome.join().unwrap() {
            assert!(first);
            assert_eq!(second, Err(Some(libc::EINVAL)));
        }
    }
}
