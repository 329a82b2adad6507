//! The seccomp profile of every sandbox: Docker's default allow-list, and `ENOSYS` for what cannot be held.
//!
//! Two programs, because a seccompiler program has one action for what does not match. The kernel runs all of them, the one
//! installed last first, and among equal actions takes the first one's error number (seccomp(2)): so the second program's `ENOSYS`
//! wins over the allow-list's `EPERM`.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Why the profile could not be compiled; a bug, since the profile is fixed.
#[derive(Debug, thiserror::Error)]
#[error("cannot compile the seccomp profile")]
pub struct SeccompError(#[from] seccompiler::BackendError);

/// The programs in the order of their installation, packed as the shim's specification wants them.
///
/// # Errors
/// [`SeccompError`]
pub(crate) fn default_profile() -> Result<Vec<Vec<u64>>, SeccompError> {
    Ok(vec![pack(&allow_list()?), pack(&unavailable()?)])
}

/// Everything Docker's default profile allows with Docker's default capabilities on x86-64, the rest is `EPERM`.
fn allow_list() -> Result<BpfProgram, SeccompError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = super::syscalls::ALLOWED
        .iter()
        .map(|number| (*number, Vec::new()))
        .collect();
    // personality: only those that change nothing dangerous (PER_LINUX, UNAME26, PER_LINUX32, both, and "tell me").
    let personalities = [0x0, 0x0002_0000, 0x8, 0x0002_0008, 0xffff_ffff]
        .into_iter()
        .map(|value| rule(&[equal(0, value)?]))
        .collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_personality, personalities);
    // clone: no new namespaces. clone3 keeps its flags in memory where a filter cannot look, see `unavailable`.
    let namespaces = (libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET)
        .cast_unsigned();
    let no_namespaces = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(namespaces.into()),
        0,
    )?;
    rules.insert(libc::SYS_clone, vec![rule(&[no_namespaces])?]);
    // socket: not AF_VSOCK, which would reach the hypervisor, nor AF_ALG, as Docker.
    let families = [libc::AF_VSOCK, libc::AF_ALG]
        .into_iter()
        .map(|family| {
            SeccompCondition::new(
                0,
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::Ne,
                u64::from(family.cast_unsigned()),
            )
        })
        .collect::<Result<Vec<_>, _>>()?;
    rules.insert(libc::SYS_socket, vec![rule(&families)?]);
    compile(
        rules,
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        SeccompAction::Allow,
    )
}

/// Answered as by a kernel that lacks them, so that programs fall back: `clone3` (to `clone`, as under Docker), and what keeps
/// state in the kernel that no checkpointer can hold.
fn unavailable() -> Result<BpfProgram, SeccompError> {
    let rules = [
        libc::SYS_clone3,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_userfaultfd,
    ]
    .into_iter()
    .map(|number| (number, Vec::new()))
    .collect();
    compile(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
    )
}

fn equal(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
}

fn rule(conditions: &[SeccompCondition]) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(conditions.to_vec())
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    mismatch: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, SeccompError> {
    Ok(SeccompFilter::new(rules, mismatch, matched, TargetArch::x86_64)?.try_into()?)
}

fn pack(program: &BpfProgram) -> Vec<u64> {
    program
        .iter()
        .map(|instruction| {
            fermata_sys::seccomp::pack(
                instruction.code,
                instruction.jt,
                instruction.jf,
                instruction.k,
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_fits_the_kernel_limit() {
        for program in default_profile().unwrap() {
            // BPF_MAXINSNS
            assert!((1..=4096).contains(&program.len()), "{}", program.len());
        }
    }

    #[test]
    fn dangerous_calls_are_not_allowed() {
        for number in [
            libc::SYS_mount,
            libc::SYS_bpf,
            libc::SYS_kexec_load,
            libc::SYS_init_module,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_pivot_root,
            libc::SYS_open_by_handle_at,
            libc::SYS_perf_event_open,
            libc::SYS_reboot,
            libc::SYS_swapon,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_clone,
            libc::SYS_personality,
            libc::SYS_socket,
        ] {
            assert!(
                !super::super::syscalls::ALLOWED.contains(&number),
                "{number}"
            );
        }
    }
}
