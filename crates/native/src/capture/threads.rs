//! Making a stopped thread's registers ready to go on in another process.

use std::io;

use fermata_sys::sharing;
use fermata_sys::tracee::{REGISTER_WORDS, Registers};

use super::inject::read_exactly;
use super::stopped::{StoppedProcess, StoppedThread};
use crate::NativeError;
use crate::image::Rseq;

// linux/errno.h: a call that was interrupted and is to begin again; the kernel tells a tracer, never a program.
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;

// x86-64 numbers
const NANOSLEEP: u64 = 35;
const CLOCK_NANOSLEEP: u64 = 230;
const TIMER_ABSTIME: u64 = 1;

/// The length of `syscall`.
const SYSCALL_BYTES: u64 = 2;

/// Refuses what only programs of other kinds have.
pub(crate) fn refuse_unheld(
    process: &StoppedProcess,
    thread: &StoppedThread,
) -> Result<(), NativeError> {
    /// `__USER_CS`, `__USER_DS`: code of 64 bits and its data.
    const FLAT: (u64, u64) = (0x33, 0x2b);
    /// Only `SCHED_DEADLINE` has parameters of its own.
    const SCHED_DEADLINE: u32 = 6;
    let task = &process.task;
    let registers = &thread.registers;
    let selectors = [registers.ds, registers.es, registers.fs, registers.gs];
    if (registers.cs, registers.ss) != FLAT || selectors != [0; 4] {
        return Err(task.unheld("it uses segments, as programs of 32 bits do"));
    }
    let scheduling = thread.host_tid().and_then(sharing::scheduling);
    let scheduling = scheduling.map_err(task.failed("read the scheduling"))?;
    if scheduling.policy == SCHED_DEADLINE {
        return Err(task.unheld("it is scheduled by deadlines (sched(7))"));
    }
    Ok(())
}

/// The registers with which a thread goes on: an interrupted call begins again. What the kernel remembers of one
/// (`restart_syscall(2)`) is lost with the process, so that a wait with a limit waits all of it again; a sleep tells what is left.
pub(crate) fn resumable(
    host_pid: i32,
    thread: &StoppedThread,
    rseq: Option<Rseq>,
) -> io::Result<Vec<u64>> {
    let mut registers = thread.registers;
    restart(&mut registers);
    if let Some(rseq) = rseq {
        leave_critical_section(host_pid, &mut registers, rseq)?;
    }
    Ok(words(&registers))
}

fn restart(registers: &mut Registers) {
    if registers.orig_rax.cast_signed() < 0 {
        return;
    }
    match registers.rax.cast_signed() {
        ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND => {}
        ERESTART_RESTARTBLOCK => match registers.orig_rax {
            // The kernel has written there what is left.
            NANOSLEEP if registers.rsi != 0 => registers.rdi = registers.rsi,
            CLOCK_NANOSLEEP if registers.r10 != 0 && registers.rsi & TIMER_ABSTIME == 0 => {
                registers.rdx = registers.r10;
            }
            _ => {}
        },
        _ => return,
    }
    registers.rax = registers.orig_rax;
    registers.rip -= SYSCALL_BYTES;
}

/// A thread that is preempted in a critical section goes on at its abort handler (`rseq(2)`); to the kernel, it is not preempted
/// when it appears in another process.
fn leave_critical_section(host_pid: i32, registers: &mut Registers, rseq: Rseq) -> io::Result<()> {
    /// `offsetof(struct rseq, rseq_cs)`
    const SECTION: u64 = 8;
    let mut pointer = [0; 8];
    read_exactly(host_pid, rseq.address + SECTION, &mut pointer)?;
    let section = u64::from_ne_bytes(pointer);
    if section == 0 {
        return Ok(());
    }
    // struct rseq_cs: version and flags, start, length, abort handler
    let mut bytes = [0; 32];
    read_exactly(host_pid, section, &mut bytes)?;
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at * 8..][..8]);
        u64::from_ne_bytes(word)
    };
    if registers.rip.wrapping_sub(word(1)) < word(2) {
        registers.rip = word(3);
    }
    Ok(())
}

/// In the order of `struct user_regs_struct`.
fn words(registers: &Registers) -> Vec<u64> {
    let r = registers;
    let words: [u64; REGISTER_WORDS] = [
        r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10, r.r9, r.r8, r.rax, r.rcx, r.rdx,
        r.rsi, r.rdi, r.orig_rax, r.rip, r.cs, r.eflags, r.rsp, r.ss, r.fs_base, r.gs_base, r.ds,
        r.es, r.fs, r.gs,
    ];
    words.to_vec()
}
