//! What every sandbox may do: Docker's defaults.

use fermata_protocol::SecuritySpec;

use crate::seccomp::{SeccompError, default_profile};

/// Docker's default capabilities: chown, `dac_override`, fowner, fsetid, kill, setgid, setuid, setpcap, `net_bind_service`, `net_raw`,
/// `sys_chroot`, mknod, `audit_write`, setfcap (numbers of capability.h).
const CAPABILITIES: u64 = 0xa804_25fb;

/// Paths of /proc and /sys that show or change the host; Docker's `MaskedPaths`.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Docker's `ReadonlyPaths`.
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The security part of a shim's specification.
///
/// `no_new_privs` stays off as it does in Docker: with it `sudo`, `su` and `ping` stop working.
///
/// # Errors
/// [`SeccompError`]
pub fn default_security() -> Result<SecuritySpec, SeccompError> {
    let paths = |names: &[&str]| names.iter().map(Into::into).collect();
    Ok(SecuritySpec {
        capabilities: CAPABILITIES,
        no_new_privileges: false,
        seccomp: default_profile()?,
        masked_paths: paths(MASKED),
        read_only_paths: paths(READ_ONLY),
    })
}
