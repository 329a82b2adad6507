//! System calls that another process is made to run, one after another, without a stop in between.
//!
//! What is put into it is position independent: code first, then the list.
//!
//! ```text
//! rbx ─► call: number, six arguments, result ─► call ─► ... ─► tgkill(itself): the tracer sees the signal and drops it
//! ```

use std::arch::global_asm;

global_asm!(
    ".pushsection .rodata.fermata_injection, \"a\", @progbits",
    ".globl fermata_injection_start",
    ".globl fermata_injection_end",
    "fermata_injection_start:",
    "2:",
    "mov rax, [rbx]",
    "mov rdi, [rbx + 8]",
    "mov rsi, [rbx + 16]",
    "mov rdx, [rbx + 24]",
    "mov r10, [rbx + 32]",
    "mov r8, [rbx + 40]",
    "mov r9, [rbx + 48]",
    "syscall",
    "mov [rbx + 56], rax",
    "add rbx, 64",
    "jmp 2b",
    "fermata_injection_end:",
    ".popsection",
);

unsafe extern "C" {
    static fermata_injection_start: u8;
    static fermata_injection_end: u8;
}

/// A system call to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Call {
    /// Its number.
    pub number: u64,
    /// Its arguments.
    pub arguments: [u64; 6],
    /// What it returned: a negative error number, or the result.
    pub result: i64,
}

/// The size of a [`Call`] in memory.
pub const CALL_BYTES: usize = size_of::<Call>();

impl Call {
    /// With up to six arguments.
    #[must_use]
    pub fn new<const COUNT: usize>(number: libc::c_long, given: [u64; COUNT]) -> Self {
        let mut arguments = [0; 6];
        arguments[..COUNT].copy_from_slice(&given);
        Self {
            number: number.cast_unsigned(),
            arguments,
            result: 0,
        }
    }

    /// As it stands in memory.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; CALL_BYTES] {
        let [a, b, c, d, e, f] = self.arguments;
        let words = [self.number, a, b, c, d, e, f, self.result.cast_unsigned()];
        let mut bytes = [0; CALL_BYTES];
        for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// The result among a call's bytes.
    #[must_use]
    pub fn result_in(bytes: &[u8; CALL_BYTES]) -> i64 {
        let [.., a, b, c, d, e, f, g, h] = *bytes;
        i64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }
}

/// The code that runs a list whose address is in `rbx`.
#[must_use]
pub fn code() -> &'static [u8] {
    let start = &raw const fermata_injection_start;
    let end = &raw const fermata_injection_end;
    // SAFETY: both are symbols of the block above, the second behind the first, and nothing writes there.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// Numbers of system calls that captures have processes run.
pub mod calls {
    #![expect(missing_docs, reason = "each is the call of its name")]
    pub const MMAP: libc::c_long = libc::SYS_mmap;
    pub const MUNMAP: libc::c_long = libc::SYS_munmap;
    pub const TGKILL: libc::c_long = libc::SYS_tgkill;
    pub const EXIT_GROUP: libc::c_long = libc::SYS_exit_group;
    pub const CLONE: libc::c_long = libc::SYS_clone;
    pub const CLOSE_RANGE: libc::c_long = libc::SYS_close_range;
    pub const SETSID: libc::c_long = libc::SYS_setsid;
    pub const WAIT4: libc::c_long = libc::SYS_wait4;
    pub const BRK: libc::c_long = libc::SYS_brk;
    pub const ARCH_PRCTL: libc::c_long = libc::SYS_arch_prctl;
    pub const PRCTL: libc::c_long = libc::SYS_prctl;
    pub const RT_SIGACTION: libc::c_long = libc::SYS_rt_sigaction;
    pub const SIGALTSTACK: libc::c_long = libc::SYS_sigaltstack;
    pub const GETITIMER: libc::c_long = libc::SYS_getitimer;
    pub const TIMER_GETTIME: libc::c_long = libc::SYS_timer_gettime;
    pub const CLOCK_GETTIME: libc::c_long = libc::SYS_clock_gettime;
}
