//! The device allow-list of a control group: an eBPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE`.
//!
//! cgroup v2 has no `devices.allow` file; the program decides instead (Documentation/admin-guide/cgroup-v2.rst, "Device
//! controller"). It also works on the unified hierarchy of a hybrid machine, so one mechanism serves both.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// A kind of device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Character device.
    Character,
    /// Block device.
    Block,
}

/// One rule: what is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Which kind.
    pub kind: DeviceKind,
    /// Major number; `None` for any.
    pub major: Option<u16>,
    /// Minor number; `None` for any.
    pub minor: Option<u16>,
    /// Whether opening is allowed; making a node with `mknod` always is when the rule matches.
    pub open: bool,
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const PROGRAM_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_TYPE_CGROUP_DEVICE: u32 = 6;
const ACCESS_MKNOD: i32 = 1;
const COMMAND_LOAD: i32 = 5;
const COMMAND_ATTACH: i32 = 8;

/// Registers: r2 kind, r3 access bits, r4 major, r5 minor; r1 is the context the kernel passes.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let instruction = |code, destination: u8, source: u8, offset, immediate| Instruction {
        code,
        registers: destination | (source << 4),
        offset,
        immediate,
    };
    const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
    const MOVE_REGISTER: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
    const AND: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
    const SHIFT_RIGHT: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
    const JUMP_UNLESS_EQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
    const MOVE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
    const EXIT: u8 = 0x95;

    // struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }, access_type = access << 16 | kind
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let kind = match rule.kind {
            DeviceKind::Block => 1,
            DeviceKind::Character => 2,
        };
        let mut tests = vec![(2, kind)];
        if !rule.open {
            tests.push((3, ACCESS_MKNOD));
        }
        tests.extend(rule.major.map(|major| (4, i32::from(major))));
        tests.extend(rule.minor.map(|minor| (5, i32::from(minor))));
        let count = i16::try_from(tests.len()).unwrap_or(0);
        for (position, (register, value)) in (0_i16..).zip(tests) {
            // Past the remaining tests and the two instructions that allow.
            let skip = count - position - 1 + 2;
            code.push(instruction(JUMP_UNLESS_EQUAL, register, 0, skip, value));
        }
        code.push(instruction(MOVE, 0, 0, 0, 1));
        code.push(instruction(EXIT, 0, 0, 0, 0));
    }
    code.push(instruction(MOVE, 0, 0, 0, 0));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

/// The leading part of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// The leading part of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

fn bpf<T>(command: i32, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the attributes are plain `repr(C)` data of the passed size and live through the call; pointers inside them
    // point to memory that the callers below keep alive.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

fn number(descriptor: RawFd) -> io::Result<u32> {
    u32::try_from(descriptor).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))
}

/// A loaded device filter; one can be attached to any number of control groups.
#[derive(Debug)]
pub struct DeviceFilter(OwnedFd);

impl DeviceFilter {
    /// Loads a filter that allows what any of the rules allows, and nothing else.
    ///
    /// # Errors
    /// What `bpf(2)` says.
    pub fn load(rules: &[DeviceRule]) -> io::Result<Self> {
        let instructions = program(rules);
        let attributes = LoadAttributes {
            program_type: PROGRAM_TYPE_CGROUP_DEVICE,
            instruction_count: u32::try_from(instructions.len())
                .map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
            instructions: instructions.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buffer: 0,
            kernel_version: 0,
            flags: 0,
        };
        let descriptor = bpf(COMMAND_LOAD, &attributes)?;
        // SAFETY: the kernel just made this descriptor for us (close-on-exec, as all bpf descriptors).
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Puts the filter in force for a cgroup v2 directory; it stays until the directory is removed.
    ///
    /// # Errors
    /// What `bpf(2)` says.
    pub fn attach(&self, cgroup: BorrowedFd<'_>) -> io::Result<()> {
        let attributes = AttachAttributes {
            target: number(cgroup.as_raw_fd())?,
            program: number(self.0.as_raw_fd())?,
            attach_type: ATTACH_TYPE_CGROUP_DEVICE,
            flags: 0,
        };
        bpf(COMMAND_ATTACH, &attributes).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_accepts_the_program() {
        let rules = [
            DeviceRule {
                kind: DeviceKind::Character,
                major: None,
                minor: None,
                open: false,
            },
            DeviceRule {
                kind: DeviceKind::Block,
                major: None,
                minor: None,
                open: false,
            },
            DeviceRule {
                kind: DeviceKind::Character,
                major: Some(1),
                minor: Some(3),
                open: true,
            },
            DeviceRule {
                kind: DeviceKind::Character,
                major: Some(136),
                minor: None,
                open: true,
            },
        ];
        DeviceFilter::load(&rules).unwrap();
    }
}
