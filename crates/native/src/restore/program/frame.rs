//! The frame that a thread returns through: all of its registers, its mask and its stack for signals, at once.
//!
//! `struct rt_sigframe` of arch/x86: an address, `struct ucontext`, `siginfo_t`; and the extended state, which it points to.

use fermata_sys::extended_state;

use crate::NativeError;
use crate::image::Thread;

use super::address_space::END;
use super::assembler::Assembler;
use super::validate::damaged;

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
const CODE_SEGMENT: usize = 17;
const STACK_REGISTER: usize = 20;
pub(super) const FS_BASE: usize = 21;
pub(super) const GS_BASE: usize = 22;
/// ds, es, fs, gs.
const SELECTORS: usize = 23;

/// `MINSIGSTKSZ`
const SMALLEST_STACK_BYTES: u64 = 2048;
/// Of a real machine far below this.
const MOST_STATE_BYTES: usize = 64 << 10;
/// Where MXCSR is, of 32 bits; its upper 16 do not exist.
const CONTROL: usize = 24;
/// The registers of AMX, which a process has to be permitted: none that is held is.
const TILES: u64 = 0b11 << 17;

/// The registers, if they are a program's of 64 bits.
pub(super) fn registers(thread: &Thread) -> Result<[u64; REGISTERS], NativeError> {
    /// `__USER_CS`, `__USER_DS`
    const FLAT: [u64; 2] = [0x33, 0x2b];
    let wrong = |what: &str| damaged(format!("thread {} {what}", thread.tid));
    let registers: [u64; REGISTERS] = thread
        .registers
        .as_slice()
        .try_into()
        .map_err(|_| wrong("has no registers"))?;
    if [registers[CODE_SEGMENT], registers[STACK_REGISTER]] != FLAT
        || registers[SELECTORS..] != [0; 4]
    {
        return Err(wrong("uses segments that programs of 64 bits do not have"));
    }
    if registers[FS_BASE] >= END || registers[GS_BASE] >= END {
        return Err(wrong("has its own data outside of what programs can reach"));
    }
    Ok(registers)
}

/// Adds the frame; returns the stack pointer with which `rt_sigreturn` finds it.
pub(crate) fn add(assembler: &mut Assembler, thread: &Thread) -> Result<u64, NativeError> {
    let state = extended_state(thread)?;
    let state = assembler.add(&state, 64);
    let registers = registers(thread)?;
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
    let (stack, stack_flags, stack_bytes) = alternate_stack(thread)?;
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

/// As the kernel leaves it on a signal's stack; what is not, it would take without a word only the oldest part of.
fn extended_state(thread: &Thread) -> Result<Vec<u8>, NativeError> {
    let wrong = |what: &str| damaged(format!("thread {}: extended state {what}", thread.tid));
    let state = &thread.extended_state;
    let minimum = extended_state::MINIMUM_BYTES as usize;
    if state.len() < minimum || state.len() > MOST_STATE_BYTES {
        return Err(wrong("of an impossible size"));
    }
    let word = |at: usize| {
        let bytes = state[at..].first_chunk().copied().unwrap_or_default();
        u64::from_ne_bytes(bytes)
    };
    let (used, compacted) = (word(HEADER), word(HEADER + 8));
    if compacted != 0 || state[HEADER + 16..minimum].iter().any(|byte| *byte != 0) {
        return Err(wrong("in a form that is not standard"));
    }
    if word(CONTROL) & 0xffff_0000 != 0 {
        return Err(wrong("with bits of MXCSR that do not exist"));
    }
    let available = extended_state::components() & !TILES;
    if used & !available != 0 {
        return Err(wrong(&format!(
            "with components {used:#x}, of which {available:#x} can be had here"
        )));
    }
    // Only what is used: what ptrace(2) gives is larger than a frame may be where the kernel hands out components on request.
    let end = (2..63)
        .filter(|component| used & 1 << component != 0)
        .map(|component| extended_state::end_of(component) as usize)
        .fold(minimum, usize::max);
    let mut state = state
        .get(..end)
        .ok_or_else(|| wrong("that ends too early"))?
        .to_vec();
    let bytes = u32::try_from(end).map_err(|_| wrong("of an impossible size"))?;
    // struct _fpx_sw_bytes
    let mut software = Vec::with_capacity(48);
    software.extend_from_slice(&MAGIC_1.to_ne_bytes());
    software.extend_from_slice(&(bytes + 4).to_ne_bytes());
    // All, so that what is not used is as at the begin and not as it was here.
    software.extend_from_slice(&available.to_ne_bytes());
    software.extend_from_slice(&bytes.to_ne_bytes());
    software.resize(48, 0);
    state[SOFTWARE..SOFTWARE + 48].copy_from_slice(&software);
    state.extend_from_slice(&MAGIC_2.to_ne_bytes());
    Ok(state)
}

/// `rt_sigreturn` ignores what is wrong in it (`restore_altstack` of kernel/signal.c), so it is looked at here.
fn alternate_stack(thread: &Thread) -> Result<(u64, u32, u64), NativeError> {
    const ON_STACK: u32 = 1;
    const DISABLED: u32 = 2;
    const DISARMED_BY_ITSELF: u32 = 1 << 31;
    let (address, flags, bytes) = thread.alternate_stack;
    let is_usable = bytes >= SMALLEST_STACK_BYTES && address < END;
    match flags & !DISARMED_BY_ITSELF {
        DISABLED => Ok(thread.alternate_stack),
        0 | ON_STACK if is_usable => Ok(thread.alternate_stack),
        _ => Err(damaged(format!(
            "thread {} has an impossible stack for signals",
            thread.tid
        ))),
    }
}
