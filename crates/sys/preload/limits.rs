//! Loaded into CRIU: reads the resource limits of processes of other users from /proc where the kernel refuses to tell them.
//!
//! `prlimit(2)` tells them only to who has `CAP_SYS_RESOURCE`, which root lacks on a machine that is itself a container, but
//! anyone may read /proc/PID/limits. Without this no sandbox could be held there in which a program runs under another user.
//! CRIU asks through `syscall(2)`, which this takes the place of.
#![no_std]

use core::arch::asm;
use core::ffi::{c_int, c_long};

// asm/unistd_64.h
const READ: c_long = 0;
const OPEN: c_long = 2;
const CLOSE: c_long = 3;
const PRLIMIT64: c_long = 302;
// asm/errno.h
const EPERM: c_long = 1;
const LAST_ERRNO: c_long = 4095;

/// Sixteen lines of at most 80 characters below one of titles.
const TEXT_BYTES: usize = 2048;
/// Where the soft and the hard limit begin in a line (proc_pid_limits(5), fs/proc/base.c).
const COLUMNS: [usize; 2] = [26, 47];

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Not variadic, as that of libc is: the registers and the place on the stack are the same (System V ABI, 3.2.3).
///
/// # Safety
/// As for the system call that is asked for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    // SAFETY: passed on as it came.
    let result = unsafe { raw([number, a, b, c, d, e, f]) };
    let asks_only = c == 0 && d != 0;
    if result == -EPERM && number == PRLIMIT64 && asks_only {
        if let Some(limits) = limits(a, b) {
            // SAFETY: where the caller wants a `struct rlimit64`, soft and hard limit.
            unsafe { (d as *mut [u64; 2]).write(limits) };
            return 0;
        }
    }
    if (-LAST_ERRNO..0).contains(&result) {
        // SAFETY: libc's errno of this thread.
        unsafe { __errno_location().write(-result as c_int) };
        return -1;
    }
    result
}

/// Soft and hard limit of a process.
fn limits(pid: c_long, resource: c_long) -> Option<[u64; 2]> {
    let path = path(pid)?;
    let mut text = [0_u8; TEXT_BYTES];
    // SAFETY: the path ends with a zero byte and lives through the call; flags 0 are O_RDONLY.
    let file = unsafe { raw([OPEN, path.as_ptr() as c_long, 0, 0, 0, 0, 0]) };
    if file < 0 {
        return None;
    }
    // SAFETY: as many bytes are read as there is room for. /proc gives all of it at once.
    let read = unsafe { raw([READ, file, text.as_mut_ptr() as c_long, TEXT_BYTES as c_long, 0, 0, 0]) };
    // SAFETY: opened above, and used by nobody else.
    unsafe { raw([CLOSE, file, 0, 0, 0, 0, 0]) };
    let text = text.get(..usize::try_from(read).ok()?)?;
    // In the order of the resources' numbers, below the titles.
    let line = text.split(|byte| *byte == b'\n').nth(usize::try_from(resource).ok()? + 1)?;
    let column = |start: usize| match line.get(start..)?.split(|byte| *byte == b' ').next()? {
        b"unlimited" => Some(u64::MAX),
        digits => number(digits),
    };
    Some([column(COLUMNS[0])?, column(COLUMNS[1])?])
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// `/proc/PID/limits`, ended by zeros.
fn path(pid: c_long) -> Option<[u8; 40]> {
    let mut digits = [0; 20];
    let mut first = digits.len();
    let mut rest = u64::try_from(pid).ok()?;
    while rest > 0 {
        first = first.checked_sub(1)?;
        *digits.get_mut(first)? = b'0' + u8::try_from(rest % 10).ok()?;
        rest /= 10;
    }
    let mut path = [0; 40];
    let parts = b"/proc/".iter().chain(digits.get(first..)?).chain(b"/limits");
    for (place, byte) in path.iter_mut().zip(parts) {
        *place = *byte;
    }
    Some(path)
}

/// # Safety
/// As for the system call.
unsafe fn raw([number, a, b, c, d, e, f]: [c_long; 7]) -> c_long {
    let result;
    // SAFETY: the kernel's calling convention on x86-64: it overwrites rcx, r11 and the result.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}
