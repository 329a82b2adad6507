//! The last step of a process that is played on: a list of system calls, run while its memory is taken away and made anew.
//!
//! ```text
//! rbx ─► operation ─► operation ─► clone ─────────► operation ─► ... ─► sigreturn: the program goes on
//!                                    └─► (child) ─► list of the new thread
//! r12 ─► where to report an unexpected result, before the process ends
//! ```
//!
//! Position independent, without a stack and without memory of its own; lists are data, built and tested elsewhere.

use std::arch::{asm, global_asm};

/// What an operation must have for a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Anything but an error.
    Success,
    /// This.
    Exactly(u64),
    /// It does not matter.
    Anything,
}

/// A system call of a list, as it stands in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Its number.
    pub number: u64,
    /// Its arguments.
    pub arguments: [u64; 6],
    /// What it must return.
    pub expect: Expect,
    /// Where the list of a thread that it makes is; 0 for none.
    pub child: u64,
    /// The address and the length of the words that are written when it returns something else.
    pub complaint: (u64, u64),
}

/// The size of an [`Operation`] in memory.
pub const OPERATION_BYTES: usize = 12 * 8;

/// The size of what is at [`Entry::report`].
pub const REPORT_BYTES: usize = 48;

/// In place of a call's number: the list ends, and the frame at the first argument is returned to (`rt_sigreturn`, sigreturn(2)).
pub const RETURN: u64 = u64::MAX;

// The fields of an operation: 0 number, 8 arguments, 56 kind of expectation, 64 expected, 72 child, 80 words, 88 their length.
// The block at r12: 0 descriptor, 8 three characters, 16 two vectors of writev(2).
global_asm!(
    ".pushsection .rodata.fermata_interpreter, \"a\", @progbits",
    ".globl fermata_interpreter_start",
    ".globl fermata_interpreter_end",
    "fermata_interpreter_start:",
    "2:",
    "mov rax, [rbx]",
    "cmp rax, -1",
    "je 8f",
    "mov rdi, [rbx + 8]",
    "mov rsi, [rbx + 16]",
    "mov rdx, [rbx + 24]",
    "mov r10, [rbx + 32]",
    "mov r8, [rbx + 40]",
    "mov r9, [rbx + 48]",
    "syscall",
    "test rax, rax",
    "jnz 3f",
    "mov rdx, [rbx + 72]",
    "test rdx, rdx",
    "jz 3f",
    "mov rbx, rdx",
    "jmp 2b",
    "3:",
    "mov rdx, [rbx + 56]",
    "cmp rdx, 2",
    "je 5f",
    "cmp rdx, 1",
    "je 4f",
    "cmp rax, -4095",
    "jae 6f",
    "jmp 5f",
    "4:",
    "cmp rax, [rbx + 64]",
    "jne 6f",
    "5:",
    "add rbx, 96",
    "jmp 2b",
    // The words and the error's number in three hexadecimal digits, with one call: whoever reads them gets them whole.
    "6:",
    "mov r13, rax",
    "neg r13",
    "mov ecx, 3",
    "7:",
    "mov eax, r13d",
    "and eax, 15",
    "cmp eax, 10",
    "jb 9f",
    "add eax, 39",
    "9:",
    "add eax, 48",
    "mov [r12 + rcx + 7], al",
    "shr r13, 4",
    "dec ecx",
    "jnz 7b",
    "mov rax, [rbx + 80]",
    "mov [r12 + 16], rax",
    "mov rax, [rbx + 88]",
    "mov [r12 + 24], rax",
    "lea rax, [r12 + 8]",
    "mov [r12 + 32], rax",
    "mov qword ptr [r12 + 40], 3",
    "mov eax, 20",
    "mov rdi, [r12]",
    "lea rsi, [r12 + 16]",
    "mov edx, 2",
    "syscall",
    "mov eax, 231",
    "mov edi, 127",
    "syscall",
    "ud2",
    "8:",
    "mov rsp, [rbx + 8]",
    "mov eax, 15",
    "syscall",
    "ud2",
    "fermata_interpreter_end:",
    ".popsection",
);

unsafe extern "C" {
    static fermata_interpreter_start: u8;
    static fermata_interpreter_end: u8;
}

impl Operation {
    /// As it stands in memory.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; OPERATION_BYTES] {
        let (kind, expected) = match self.expect {
            Expect::Success => (0, 0),
            Expect::Exactly(value) => (1, value),
            Expect::Anything => (2, 0),
        };
        let [a, b, c, d, e, f] = self.arguments;
        let (words, length) = self.complaint;
        let all = [
            self.number,
            a,
            b,
            c,
            d,
            e,
            f,
            kind,
            expected,
            self.child,
            words,
            length,
        ];
        let mut bytes = [0; OPERATION_BYTES];
        for (slot, word) in bytes.as_chunks_mut().0.iter_mut().zip(all) {
            *slot = word.to_ne_bytes();
        }
        bytes
    }
}

/// The interpreter's code.
#[must_use]
pub fn code() -> &'static [u8] {
    let start = &raw const fermata_interpreter_start;
    let end = &raw const fermata_interpreter_end;
    // SAFETY: both are symbols of the block above, the second behind the first, and nothing writes there.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// A program in memory, ready to be entered.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Where a copy of [`code`] is, executable.
    pub code: u64,
    /// The list of the calling thread.
    pub list: u64,
    /// Where the descriptor for complaints is written, and behind it room, [`REPORT_BYTES`] in all.
    pub report: u64,
}

/// Becomes the program: nothing of this one is left.
///
/// # Safety
/// The entry leads to what it says, and the list to a program that ends in [`RETURN`]. It may do anything to the memory of this
/// process, which has no other thread.
pub unsafe fn enter(entry: Entry) -> ! {
    // SAFETY: by this function's contract; nothing of the caller is used again.
    unsafe {
        asm!(
            "mov rbx, rdx",
            "mov r12, rcx",
            "jmp rax",
            in("rax") entry.code,
            in("rdx") entry.list,
            in("rcx") entry.report,
            options(noreturn),
        )
    }
}

/// Numbers of system calls that programs are made of.
pub mod calls {
    #![expect(missing_docs, reason = "each is the call of its name")]
    pub const WRITE: libc::c_long = libc::SYS_write;
    pub const READ: libc::c_long = libc::SYS_read;
    pub const PREADV: libc::c_long = libc::SYS_preadv;
    pub const MMAP: libc::c_long = libc::SYS_mmap;
    pub const MUNMAP: libc::c_long = libc::SYS_munmap;
    pub const MREMAP: libc::c_long = libc::SYS_mremap;
    pub const MPROTECT: libc::c_long = libc::SYS_mprotect;
    pub const MADVISE: libc::c_long = libc::SYS_madvise;
    pub const PRCTL: libc::c_long = libc::SYS_prctl;
    pub const ARCH_PRCTL: libc::c_long = libc::SYS_arch_prctl;
    pub const CLONE3: libc::c_long = libc::SYS_clone3;
    pub const CLOSE_RANGE: libc::c_long = libc::SYS_close_range;
    pub const SET_ROBUST_LIST: libc::c_long = libc::SYS_set_robust_list;
    pub const SET_TID_ADDRESS: libc::c_long = libc::SYS_set_tid_address;
    pub const RSEQ: libc::c_long = libc::SYS_rseq;
    pub const SETGROUPS: libc::c_long = libc::SYS_setgroups;
    pub const SETRESUID: libc::c_long = libc::SYS_setresuid;
    pub const SETRESGID: libc::c_long = libc::SYS_setresgid;
    pub const SETFSUID: libc::c_long = libc::SYS_setfsuid;
    pub const SETFSGID: libc::c_long = libc::SYS_setfsgid;
    pub const CAPSET: libc::c_long = libc::SYS_capset;
    pub const SECCOMP: libc::c_long = libc::SYS_seccomp;
    pub const SCHED_SETATTR: libc::c_long = libc::SYS_sched_setattr;
    pub const SCHED_SETAFFINITY: libc::c_long = libc::SYS_sched_setaffinity;
    pub const MLOCK2: libc::c_long = libc::SYS_mlock2;
    pub const IOPRIO_SET: libc::c_long = libc::SYS_ioprio_set;
    pub const RT_TGSIGQUEUEINFO: libc::c_long = libc::SYS_rt_tgsigqueueinfo;
    pub const RT_SIGQUEUEINFO: libc::c_long = libc::SYS_rt_sigqueueinfo;
    pub const RT_SIGACTION: libc::c_long = libc::SYS_rt_sigaction;
    pub const SETITIMER: libc::c_long = libc::SYS_setitimer;
    pub const TIMER_CREATE: libc::c_long = libc::SYS_timer_create;
    pub const TIMER_SETTIME: libc::c_long = libc::SYS_timer_settime;
    pub const PRLIMIT64: libc::c_long = libc::SYS_prlimit64;
    pub const KILL: libc::c_long = libc::SYS_kill;
}

#[cfg(test)]
mod tests;
