//! Installing seccomp programs and dropping capabilities.

use std::io;

/// One classic BPF instruction, packed into a `u64` as code ‖ jt ‖ jf ‖ k from the high end.
pub type PackedInstruction = u64;

/// Installs a seccomp program for the calling thread and what it starts.
///
/// Unlike `seccompiler::apply_filter` this does not set `no_new_privs`, which would break `sudo` and other set-uid programs;
/// the caller needs `CAP_SYS_ADMIN` instead (`seccomp(2)`).
///
/// # Errors
/// What `seccomp(2)` says; `EINVAL` for a program that is empty or too long.
pub fn install_filter(program: &[PackedInstruction]) -> io::Result<()> {
    let mut instructions: Vec<libc::sock_filter> = program
        .iter()
        .map(|packed| {
            let [c0, c1, jt, jf, k0, k1, k2, k3] = packed.to_be_bytes();
            libc::sock_filter {
                code: u16::from_be_bytes([c0, c1]),
                jt,
                jf,
                k: u32::from_be_bytes([k0, k1, k2, k3]),
            }
        })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len())
            .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: the program points to `len` instructions that live through the call; the kernel copies and verifies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            std::ptr::from_ref(&program),
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Packs an instruction for [`install_filter`].
#[must_use]
pub fn pack(code: u16, jt: u8, jf: u8, k: u32) -> PackedInstruction {
    let [c0, c1] = code.to_be_bytes();
    let [k0, k1, k2, k3] = k.to_be_bytes();
    u64::from_be_bytes([c0, c1, jt, jf, k0, k1, k2, k3])
}

/// Sets bounding, permitted, effective and inheritable set to `mask` and clears the ambient set, as runc does for Docker's
/// default: a program started by root gets all of `mask` anew at each `execve(2)`.
///
/// # Errors
/// What `prctl(2)` or `capset(2)` say.
pub fn limit_capabilities(mask: u64) -> io::Result<()> {
    for capability in 0..64_u64 {
        // SAFETY: no pointers.
        let known = unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) };
        if known == -1 {
            break; // past the kernel's last capability
        }
        if mask & (1 << capability) == 0 {
            // SAFETY: no pointers.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } == -1 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    // SAFETY: no pointers.
    if unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    } == -1
    {
        return Err(io::Error::last_os_error());
    }

    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    /// `_LINUX_CAPABILITY_VERSION_3`: two data elements, 64 bits.
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let half = |shift: u32| {
        let bits = u32::try_from((mask >> shift) & 0xffff_ffff).unwrap_or(0);
        Data {
            effective: bits,
            permitted: bits,
            inheritable: 0,
        }
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 takes a header and exactly two data elements; both live through the call.
    let result =
        unsafe { libc::syscall(libc::SYS_capset, std::ptr::from_ref(&header), data.as_ptr()) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_program_is_refused_by_the_kernel() {
        assert_eq!(
            install_filter(&[]).unwrap_err().raw_os_error(),
            Some(libc::EINVAL)
        );
    }
}
