//! The part of a program that is a thread's own.

use fermata_sys::interpreter::{Expect, calls};

use crate::NativeError;
use crate::image::{Credentials, SeccompFilter, Thread};

use super::Waiting;
use super::assembler::{Assembler, List};
use super::frame::{self, FS_BASE, GS_BASE};

// asm/prctl.h, linux/prctl.h
const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const PR_SET_PDEATHSIG: u64 = 1;
const PR_SET_DUMPABLE: u64 = 4;
const PR_SET_NAME: u64 = 15;
const PR_CAPBSET_DROP: u64 = 24;
const PR_SET_SECUREBITS: u64 = 28;
const PR_SET_TIMERSLACK: u64 = 29;
const PR_SET_NO_NEW_PRIVS: u64 = 38;
const PR_CAP_AMBIENT: u64 = 47;
const PR_CAP_AMBIENT_RAISE: u64 = 2;
/// `SECBIT_NO_SETUID_FIXUP`: a change of users leaves capabilities alone.
const NO_SETUID_FIXUP: u64 = 4;
/// `_LINUX_CAPABILITY_VERSION_3`
const CAPABILITY_VERSION: u64 = 0x2008_0522;
const SECCOMP_SET_MODE_FILTER: u64 = 1;
const DEFAULT_SLACK_NS: u64 = 50_000;

/// What it is to the kernel as soon as it exists.
pub(super) fn begin(
    assembler: &mut Assembler,
    list: &mut List,
    thread: &Thread,
) -> Result<(), NativeError> {
    let registers = frame::registers(thread)?;
    let base = |at: usize| registers[at];
    let words = "set up a thread";
    list.call(
        assembler,
        words,
        calls::ARCH_PRCTL,
        [ARCH_SET_FS, base(FS_BASE)],
    );
    if base(GS_BASE) != 0 {
        list.call(
            assembler,
            words,
            calls::ARCH_PRCTL,
            [ARCH_SET_GS, base(GS_BASE)],
        );
    }
    let (head, length) = thread.robust_list;
    if head != 0 {
        list.call(assembler, words, calls::SET_ROBUST_LIST, [head, length]);
    }
    list.call(
        assembler,
        words,
        calls::SET_TID_ADDRESS,
        [thread.clear_tid_address],
    );
    if let Some(rseq) = thread.rseq {
        let arguments = [
            rseq.address,
            u64::from(rseq.size),
            u64::from(rseq.flags),
            u64::from(rseq.signature),
        ];
        list.call(assembler, "register rseq", calls::RSEQ, arguments);
    }
    // Sixteen bytes with the zero at the end (prctl(2)).
    let mut name = thread.name.clone().into_bytes();
    name.resize(16, 0);
    name[15] = 0;
    let name = assembler.add(&name, 1);
    list.call(assembler, words, calls::PRCTL, [PR_SET_NAME, name, 0, 0, 0]);
    if thread.timer_slack_ns != DEFAULT_SLACK_NS {
        let arguments = [PR_SET_TIMERSLACK, thread.timer_slack_ns, 0, 0, 0];
        list.call(assembler, words, calls::PRCTL, arguments);
    }
    schedule(assembler, list, thread);
    Ok(())
}

fn schedule(assembler: &mut Assembler, list: &mut List, thread: &Thread) {
    let scheduling = &thread.scheduling;
    let words = "schedule a thread";
    if (scheduling.policy, scheduling.nice, scheduling.flags) != (0, 0, 0) {
        // struct sched_attr
        let size_and_policy = 56 | u64::from(scheduling.policy) << 32;
        let nice = u64::from(scheduling.nice.cast_unsigned());
        let attributes = assembler.add_words([
            size_and_policy,
            scheduling.flags,
            nice | u64::from(scheduling.priority) << 32,
            0,
            0,
            0,
            0,
        ]);
        list.call(assembler, words, calls::SCHED_SETATTR, [0, attributes, 0]);
    }
    if !thread.processors.is_empty() {
        let bytes = thread.processors.len() as u64 * 8;
        let processors = assembler.add_words(thread.processors.iter().copied());
        // None of them may be there any more: all the others, then.
        let arguments = [0, bytes, processors];
        list.call(assembler, words, calls::SCHED_SETAFFINITY, arguments)
            .expect = Expect::Anything;
    }
    // None, or the default of the best-effort class (ioprio_set(2)).
    if !matches!(scheduling.io_priority, 0 | 0x4004) {
        let priority = i64::from(scheduling.io_priority).cast_unsigned();
        list.call(assembler, words, calls::IOPRIO_SET, [1, 0, priority]);
    }
}

/// Whom it acts as, and what it may. Without `no_new_privs` a filter can only be installed with the capabilities that go.
pub(super) fn become_itself(
    assembler: &mut Assembler,
    list: &mut List,
    thread: &Thread,
    dumpable: u32,
) {
    let Credentials {
        users,
        groups,
        supplementary,
        capabilities: [inheritable, permitted, effective, bounding, ambient],
        secure_bits,
    } = &thread.credentials;
    let words = "take on its identity";
    let setting = |assembler: &mut Assembler, list: &mut List, option, value| {
        list.call(assembler, words, calls::PRCTL, [option, value, 0, 0, 0])
            .expect = Expect::Success;
    };
    setting(assembler, list, PR_SET_SECUREBITS, NO_SETUID_FIXUP);
    for capability in 0..64_u64 {
        if bounding >> capability & 1 == 0 {
            // Fails with EINVAL past the last one.
            let arguments = [PR_CAPBSET_DROP, capability, 0, 0, 0];
            list.call(assembler, words, calls::PRCTL, arguments).expect = Expect::Anything;
        }
    }
    let mut bytes = Vec::with_capacity(supplementary.len() * 4);
    for group in supplementary {
        bytes.extend_from_slice(&group.to_ne_bytes());
    }
    let list_of_groups = assembler.add(&bytes, 8);
    let count = supplementary.len() as u64;
    list.call(assembler, words, calls::SETGROUPS, [count, list_of_groups]);
    let ids = |ids: &[u32; 4]| ids.map(u64::from);
    let [real, effective_group, saved, file_system] = ids(groups);
    list.call(
        assembler,
        words,
        calls::SETRESGID,
        [real, effective_group, saved],
    );
    if file_system != effective_group {
        list.call(assembler, words, calls::SETFSGID, [file_system]);
    }
    let [real, effective_user, saved, file_system] = ids(users);
    list.call(
        assembler,
        words,
        calls::SETRESUID,
        [real, effective_user, saved],
    );
    if file_system != effective_user {
        list.call(assembler, words, calls::SETFSUID, [file_system]);
    }
    setting(assembler, list, PR_SET_SECUREBITS, u64::from(*secure_bits));
    if thread.parent_death_signal != 0 {
        let signal = i64::from(thread.parent_death_signal).cast_unsigned();
        setting(assembler, list, PR_SET_PDEATHSIG, signal);
    }
    // What a change of identity has reset (prctl(2)); 2 is given by the kernel only.
    if dumpable < 2 {
        setting(assembler, list, PR_SET_DUMPABLE, u64::from(dumpable));
    }
    if !thread.no_new_privileges {
        install(assembler, list, &thread.seccomp);
    }
    let header = assembler.add_words([CAPABILITY_VERSION]);
    // Two elements of effective, permitted, inheritable: the lower halves, then the upper ones.
    let sets = [0, 4].map(|half| {
        [effective, permitted, inheritable].map(|set| {
            let bytes = set.to_le_bytes();
            [
                bytes[half],
                bytes[half + 1],
                bytes[half + 2],
                bytes[half + 3],
            ]
        })
    });
    let sets = sets.concat().concat();
    let sets = assembler.add(&sets, 8);
    list.call(assembler, words, calls::CAPSET, [header, sets]);
    for capability in (0..64_u64).filter(|capability| ambient >> capability & 1 == 1) {
        let arguments = [PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0];
        list.call(assembler, words, calls::PRCTL, arguments);
    }
    if thread.no_new_privileges {
        setting(assembler, list, PR_SET_NO_NEW_PRIVS, 1);
    }
}

fn install(assembler: &mut Assembler, list: &mut List, filters: &[SeccompFilter]) {
    for filter in filters {
        let mut bytes = Vec::with_capacity(filter.instructions.len() * 8);
        for packed in &filter.instructions {
            // struct sock_filter: code, jt, jf, k
            let [c0, c1, jt, jf, k0, k1, k2, k3] = packed.to_be_bytes();
            bytes.extend_from_slice(&u16::from_be_bytes([c0, c1]).to_ne_bytes());
            bytes.extend_from_slice(&[jt, jf]);
            bytes.extend_from_slice(&u32::from_be_bytes([k0, k1, k2, k3]).to_ne_bytes());
        }
        let count = filter.instructions.len() as u64;
        let instructions = assembler.add_once(bytes);
        let program = assembler.add_words([count & 0xffff, instructions]);
        let arguments = [SECCOMP_SET_MODE_FILTER, filter.flags, program];
        list.call(assembler, "install its filters", calls::SECCOMP, arguments);
    }
}

/// Waits with all others, and goes on. `last` is what the process does when it may.
pub(super) fn end(
    assembler: &mut Assembler,
    list: &mut List,
    thread: &Thread,
    waiting: Waiting,
    last: impl FnOnce(&mut Assembler, &mut List),
) -> Result<(), NativeError> {
    let frame = frame::add(assembler, thread)?;
    let byte = assembler.add(&[1], 1);
    let number = |descriptor: i32| i64::from(descriptor).cast_unsigned();
    let arrived = [number(waiting.arrived), byte, 1];
    list.call(assembler, "report", calls::WRITE, arrived);
    let go = [number(waiting.go), byte, 1];
    // Closed already when another thread of the process was quicker: it may go on just as well.
    list.call(assembler, "wait", calls::READ, go).expect = Expect::Anything;
    last(assembler, list);
    if thread.no_new_privileges {
        install(assembler, list, &thread.seccomp);
    }
    list.end(frame);
    Ok(())
}
