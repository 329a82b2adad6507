//! What a process has to be for its program to be built: an image may come from anybody.
//!
//! Only what is not left to the kernel to refuse: what would be cut off, wrap around, mean something else, or take more memory than
//! the image has bytes.

use crate::NativeError;
use crate::image::{Alive, Backing, Credentials, Mapping, Memory, SeccompFilter, Thread};

use super::address_space::END;

const PAGE_BYTES: u64 = 4096;
/// Far more than the kernel's default limit (`vm.max_map_count`), which may be raised.
const MOST_MAPPINGS: usize = 1 << 20;
/// `mm->saved_auxv` has room for far fewer.
const MOST_AUXILIARY_WORDS: usize = 512;
const MOST_THREADS: usize = 1 << 16;
/// `NGROUPS_MAX`
const MOST_GROUPS: usize = 65536;
/// `BPF_MAXINSNS`; all of a thread's together: `MAX_INSNS_PER_PATH` of kernel/seccomp.c.
const MOST_INSTRUCTIONS: usize = 4096;
const MOST_INSTRUCTIONS_TOGETHER: usize = 32768;
/// `sizeof(siginfo_t)`
const SIGNAL_BYTES: usize = 128;
/// The last one.
const SIGNALS: i32 = 64;
/// SIGKILL and SIGSTOP can neither be handled nor wait.
const NEVER_HELD: [i32; 2] = [9, 19];
/// A mask of more processors than any kernel is built for (`NR_CPUS`).
const MOST_PROCESSOR_WORDS: usize = 128;

pub(super) fn damaged(reason: String) -> NativeError {
    NativeError::Image { reason }
}

/// Looks at all of it; `objects` is how many shared objects there are, `pages_bytes` the size of the pages file.
pub(super) fn process(
    pid: i32,
    alive: &Alive,
    objects: usize,
    pages_bytes: u64,
) -> Result<(), NativeError> {
    memory(&alive.memory, objects, pages_bytes)?;
    threads(pid, alive)?;
    for action in &alive.actions {
        signal(action.signal)?;
    }
    pending(&alive.pending)?;
    if let Some(stopped_by) = alive.stopped_by
        && !(1..=SIGNALS).contains(&stopped_by)
    {
        return Err(damaged(format!(
            "process {pid} is stopped by signal {stopped_by}"
        )));
    }
    Ok(())
}

pub(super) fn memory(memory: &Memory, objects: usize, pages_bytes: u64) -> Result<(), NativeError> {
    if memory.mappings.len() > MOST_MAPPINGS {
        return Err(damaged("too many mappings".to_owned()));
    }
    if memory.layout.auxiliary_vector.len() > MOST_AUXILIARY_WORDS {
        return Err(damaged("an auxiliary vector that is too long".to_owned()));
    }
    let mut end = PAGE_BYTES;
    for mapping in &memory.mappings {
        if mapping.start < end {
            return Err(wrong(mapping, "overlaps the one before"));
        }
        range(mapping)?;
        backing(mapping, objects)?;
        pages(mapping, pages_bytes)?;
        guards(mapping)?;
        end = mapping.end;
    }
    Ok(())
}

fn range(mapping: &Mapping) -> Result<(), NativeError> {
    let is_aligned =
        mapping.start.is_multiple_of(PAGE_BYTES) && mapping.end.is_multiple_of(PAGE_BYTES);
    if !is_aligned || mapping.start >= mapping.end || mapping.end > END {
        return Err(wrong(mapping, "is not a range of pages of a program"));
    }
    // PROT_READ | PROT_WRITE | PROT_EXEC
    if mapping.protection & !7 != 0 {
        return Err(wrong(mapping, "has an unknown protection"));
    }
    Ok(())
}

fn backing(mapping: &Mapping, objects: usize) -> Result<(), NativeError> {
    let offset = match &mapping.backing {
        Backing::Anonymous | Backing::Vdso(_) => return Ok(()),
        Backing::PrivateFile { offset, .. } | Backing::SharedFile { offset, .. } => *offset,
        Backing::Object { object, offset, .. } => {
            if usize::try_from(*object).is_ok_and(|object| object >= objects) {
                return Err(wrong(mapping, "is of an object that there is not"));
            }
            *offset
        }
    };
    let ends_in_file = offset
        .checked_add(mapping.end - mapping.start)
        .is_some_and(|end| i64::try_from(end).is_ok());
    if !offset.is_multiple_of(PAGE_BYTES) || !ends_in_file {
        return Err(wrong(mapping, "has an impossible offset"));
    }
    Ok(())
}

fn pages(mapping: &Mapping, pages_bytes: u64) -> Result<(), NativeError> {
    let is_private = match mapping.backing {
        Backing::Anonymous | Backing::PrivateFile { .. } => true,
        Backing::Object { shared, .. } => !shared,
        Backing::SharedFile { .. } | Backing::Vdso(_) => false,
    };
    if !mapping.pages.is_empty() && !is_private {
        return Err(wrong(mapping, "is shared and has pages of its own"));
    }
    let mut end = mapping.start;
    for run in &mapping.pages {
        let is_aligned = [run.start, run.bytes, run.offset]
            .iter()
            .all(|value| value.is_multiple_of(PAGE_BYTES));
        let run_end = run.start.checked_add(run.bytes);
        let is_inside = run.start >= end && run_end.is_some_and(|end| end <= mapping.end);
        let held_end = run.offset.checked_add(run.bytes);
        let is_held = held_end.is_some_and(|end| end <= pages_bytes);
        if !is_aligned || run.bytes == 0 || !is_inside || !is_held {
            return Err(wrong(mapping, "has pages that are not its own or not held"));
        }
        end = run.start + run.bytes;
    }
    Ok(())
}

fn guards(mapping: &Mapping) -> Result<(), NativeError> {
    let mut before = mapping.start;
    for (start, end) in &mapping.guards {
        let is_aligned = start.is_multiple_of(PAGE_BYTES) && end.is_multiple_of(PAGE_BYTES);
        if !is_aligned || *start < before || end <= start || *end > mapping.end {
            return Err(wrong(mapping, "has guards that are not in it"));
        }
        before = *end;
    }
    Ok(())
}

fn threads(pid: i32, alive: &Alive) -> Result<(), NativeError> {
    let mut ids: Vec<i32> = alive.threads.iter().map(|thread| thread.tid).collect();
    let leads = ids.first() == Some(&pid);
    ids.sort_unstable();
    ids.dedup();
    let is_positive = ids.first().is_some_and(|first| *first > 0);
    if !leads || !is_positive || ids.len() != alive.threads.len() || ids.len() > MOST_THREADS {
        return Err(damaged(format!("the threads of process {pid}")));
    }
    alive.threads.iter().try_for_each(thread)
}

fn thread(thread: &Thread) -> Result<(), NativeError> {
    /// `SCHED_FLAG_RESET_ON_FORK`
    const KNOWN_FLAGS: u64 = 1;
    /// Has parameters that an image does not have.
    const SCHED_DEADLINE: u32 = 6;
    let tid = thread.tid;
    credentials(tid, &thread.credentials)?;
    filters(tid, &thread.seccomp)?;
    pending(&thread.pending)?;
    let scheduling = &thread.scheduling;
    if scheduling.flags & !KNOWN_FLAGS != 0 || scheduling.policy == SCHED_DEADLINE {
        return Err(damaged(format!("how thread {tid} is scheduled")));
    }
    if thread.processors.len() > MOST_PROCESSOR_WORDS {
        return Err(damaged(format!("the processors of thread {tid}")));
    }
    Ok(())
}

fn credentials(tid: i32, credentials: &Credentials) -> Result<(), NativeError> {
    // To the calls it means: as it is.
    let all = credentials.users.iter().chain(&credentials.groups);
    if all.copied().any(|id| id == u32::MAX) {
        return Err(damaged(format!("thread {tid} has no identity")));
    }
    if credentials.supplementary.len() > MOST_GROUPS {
        return Err(damaged(format!("thread {tid} is in too many groups")));
    }
    Ok(())
}

fn filters(tid: i32, filters: &[SeccompFilter]) -> Result<(), NativeError> {
    /// `SECCOMP_FILTER_FLAG_LOG`, `SECCOMP_FILTER_FLAG_SPEC_ALLOW`
    const KNOWN_FLAGS: u64 = 0b110;
    let lengths = || filters.iter().map(|filter| filter.instructions.len());
    let together: usize = lengths().sum();
    if lengths().any(|length| length > MOST_INSTRUCTIONS) || together > MOST_INSTRUCTIONS_TOGETHER {
        return Err(damaged(format!(
            "thread {tid} has longer filters than the kernel takes"
        )));
    }
    if let Some(filter) = filters
        .iter()
        .find(|filter| filter.flags & !KNOWN_FLAGS != 0)
    {
        let flags = filter.flags;
        return Err(damaged(format!(
            "thread {tid} has a filter with flags {flags:#x}"
        )));
    }
    Ok(())
}

fn pending(pending: &[Vec<u8>]) -> Result<(), NativeError> {
    for information in pending {
        let Some(number) = information.first_chunk() else {
            return Err(damaged("a signal without information".to_owned()));
        };
        signal(i32::from_ne_bytes(*number))?;
        if information.len() != SIGNAL_BYTES {
            return Err(damaged("a signal with half of its information".to_owned()));
        }
    }
    Ok(())
}

fn signal(signal: i32) -> Result<(), NativeError> {
    if !(1..=SIGNALS).contains(&signal) || NEVER_HELD.contains(&signal) {
        return Err(damaged(format!("signal {signal} is handled or waits")));
    }
    Ok(())
}

fn wrong(mapping: &Mapping, what: &str) -> NativeError {
    damaged(format!(
        "the mapping at {:#x}-{:#x} {what}",
        mapping.start, mapping.end
    ))
}
