//! The frame that a thread returns through: all of its registers, its mask and its stack for signals, at once.
//!
//! `struct rt_sigframe` of arch/x86: an address, `struct ucontext`, `siginfo_t`; and the extended state, which it points to.

use crate::NativeError;
use crate::image::Thread;

use super::assembler::Assembler;

// asm/sigcontext.h, asm/ucontext.h
const EXTENDED_STATE: u64 = 1;
const STACK_SEGMENT: u64 = 2;
const STRICT_STACK_SEGMENT: u64 = 4;
const MAGIC_1: u32 = 0x4650_5853;
const MAGIC_2: u32 = 0x4650_5845;
/// Where the kernel looks for [`MAGIC_1`]: bytes of the legacy area that are reserved for software.
const SOFTWARE: usize = 464;
/// Where the header of the extended area begins; the components that it has are its first word.
const HEADER: usize = 512;

const SIGINFO_BYTES: usize = 128;

/// `struct user_regs_struct`
const REGISTERS: usize = 27;

/// Adds the frame; returns the stack pointer with which `rt_sigreturn` finds it.
pub(crate) fn add(assembler: &mut Assembler, thread: &Thread) -> Result<u64, NativeError> {
    let state = extended_state(thread)?;
    let state = assembler.add(&state, 64);
    let registers: [u64; REGISTERS] =
        thread
            .registers
            .as_slice()
            .try_into()
            .map_err(|_| NativeError::Image {
                reason: format!("thread {} has no registers", thread.tid),
            })?;
    let [
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r11,
        r10,
        r9,
        r8,
        rax,
        rcx,
        rdx,
        rsi,
        rdi,
        _,
        rip,
        cs,
        flags,
        rsp,
        ss,
        ..,
    ] = registers;
    let (stack, stack_flags, stack_bytes) = thread.alternate_stack;
    let words = [
        // To where a handler would return; nobody does.
        0,
        // struct ucontext
        EXTENDED_STATE | STACK_SEGMENT | STRICT_STACK_SEGMENT,
        0,
        stack,
        u64::from(stack_flags),
        stack_bytes,
        // struct sigcontext
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rdi,
        rsi,
        rbp,
        rbx,
        rdx,
        rax,
        rcx,
        rsp,
        rip,
        flags,
        // cs, gs, fs, ss: 16 bits each
        (cs & 0xffff) | (ss & 0xffff) << 48,
        0,
        0,
        0,
        0,
        state,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        thread.signal_mask,
    ];
    let frame = assembler.add_words(words);
    assembler.add(&[0; SIGINFO_BYTES], 8);
    // The kernel expects that the address has been taken off.
    Ok(frame + 8)
}

/// As the kernel leaves it on a signal's stack.
fn extended_state(thread: &Thread) -> Result<Vec<u8>, NativeError> {
    let mut state = thread.extended_state.clone();
    let features = state
        .get(HEADER..HEADER + 8)
        .and_then(|bytes| bytes.first_chunk())
        .map(|bytes| u64::from_ne_bytes(*bytes))
        .ok_or_else(|| NativeError::Image {
            reason: format!("thread {} has no extended state", thread.tid),
        })?;
    let bytes = u32::try_from(state.len()).map_err(|_| NativeError::Image {
        reason: format!("thread {} has too much extended state", thread.tid),
    })?;
    // struct _fpx_sw_bytes
    let mut software = Vec::with_capacity(48);
    software.extend_from_slice(&MAGIC_1.to_ne_bytes());
    software.extend_from_slice(&(bytes + 4).to_ne_bytes());
    software.extend_from_slice(&features.to_ne_bytes());
    software.extend_from_slice(&bytes.to_ne_bytes());
    software.resize(48, 0);
    state[SOFTWARE..SOFTWARE + 48].copy_from_slice(&software);
    state.extend_from_slice(&MAGIC_2.to_ne_bytes());
    Ok(state)
}
