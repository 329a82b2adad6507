//! The part of a program that makes the memory.

use std::collections::HashMap;

use crate::NativeError;
use crate::image::{Backing, Mapping, Memory, VdsoPart};

use super::assembler::{Assembler, List};
use super::fill;
use super::place::Here;
use fermata_sys::interpreter::{Expect, calls};

// linux/mman.h
const PROT_READ: u32 = 1;
const PROT_WRITE: u32 = 2;
const MAP_SHARED: u64 = 0x1;
const MAP_PRIVATE: u64 = 0x2;
const MAP_DROPPABLE: u64 = 0x8;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_GROWSDOWN: u64 = 0x100;
const MAP_NORESERVE: u64 = 0x4000;
const MAP_STACK: u64 = 0x2_0000;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
const MREMAP_MAYMOVE_FIXED: u64 = 3;
const MADV_GUARD_INSTALL: u64 = 102;
const MLOCK_ONFAULT: u64 = 1;

/// The end of a program's addresses (`TASK_SIZE` with four levels of page tables).
pub(crate) const END: u64 = 0x7fff_ffff_f000;

/// Files that mappings need, open in this process.
#[derive(Debug, Default)]
pub(crate) struct Files {
    pub(crate) by_path: HashMap<(String, bool), i32>,
    pub(crate) objects: Vec<i32>,
    pub(crate) pages: i32,
    pub(crate) executable: i32,
}

/// A mapping of the kernel's, where it is and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vdso {
    pub(crate) part: VdsoPart,
    pub(crate) start: u64,
    pub(crate) bytes: u64,
}

/// Where the program lies: what it must not unmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) start: u64,
    /// Behind the program there is room for the vDSO on its way.
    pub(crate) program_end: u64,
    pub(crate) end: u64,
}

/// Gives up all memory but the region, and makes the image's.
pub(crate) fn add(
    assembler: &mut Assembler,
    list: &mut List,
    memory: &Memory,
    files: &Files,
    here: &Here,
    region: Region,
    huge_pages: bool,
) -> Result<(), NativeError> {
    let mut place = region.program_end;
    let mut parked = Vec::new();
    for vdso in &here.vdso {
        let arguments = [
            vdso.start,
            vdso.bytes,
            vdso.bytes,
            MREMAP_MAYMOVE_FIXED,
            place,
        ];
        let call = list.call(assembler, "move the vDSO", calls::MREMAP, arguments);
        call.expect = Expect::Exactly(place);
        parked.push(Vdso {
            start: place,
            ..*vdso
        });
        place += vdso.bytes;
    }
    let unmap = "give up its memory";
    list.call(assembler, unmap, calls::MUNMAP, [0, region.start]);
    list.call(
        assembler,
        unmap,
        calls::MUNMAP,
        [region.end, END - region.end],
    );
    for mapping in &memory.mappings {
        if !matches!(mapping.backing, Backing::Vdso(_)) {
            map(assembler, list, mapping, files)?;
        }
    }
    fill::add(assembler, list, memory, files.pages, huge_pages);
    for mapping in &memory.mappings {
        settle(assembler, list, mapping);
    }
    restore_vdso(assembler, list, memory, here, &parked)?;
    set_layout(assembler, list, memory, files.executable);
    Ok(())
}

fn map(
    assembler: &mut Assembler,
    list: &mut List,
    mapping: &Mapping,
    files: &Files,
) -> Result<(), NativeError> {
    let missing = |what: &str| NativeError::Image {
        reason: format!("a mapping of {what} that is not there"),
    };
    let file = |path: &String, writable: bool| {
        let found = files.by_path.get(&(path.clone(), writable)).copied();
        found.ok_or_else(|| missing(path))
    };
    let (flags, descriptor, offset) = match &mapping.backing {
        // A type of its own, in place of private.
        Backing::Anonymous if mapping.droppable => (MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0),
        Backing::Anonymous => (MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
        Backing::PrivateFile { path, offset } => (MAP_PRIVATE, file(path, false)?, *offset),
        Backing::SharedFile {
            path,
            offset,
            writable,
        } => (MAP_SHARED, file(path, *writable)?, *offset),
        Backing::Object {
            object,
            offset,
            shared,
        } => {
            let descriptor = usize::try_from(*object)
                .ok()
                .and_then(|at| files.objects.get(at))
                .ok_or_else(|| missing("a shared object"))?;
            let kind = if *shared { MAP_SHARED } else { MAP_PRIVATE };
            (kind, *descriptor, *offset)
        }
        Backing::Vdso(_) => return Ok(()),
    };
    let extra = [
        (mapping.grows_down, MAP_GROWSDOWN | MAP_STACK),
        (mapping.unreserved, MAP_NORESERVE),
    ]
    .into_iter()
    .filter(|(set, _)| *set)
    .fold(0, |all, (_, flag)| all | flag);
    let protection = if mapping.pages.is_empty() {
        mapping.protection
    } else {
        mapping.protection | PROT_WRITE
    };
    let arguments = [
        mapping.start,
        mapping.end - mapping.start,
        u64::from(protection),
        flags | extra | MAP_FIXED_NOREPLACE,
        i64::from(descriptor).cast_unsigned(),
        offset,
    ];
    let call = list.call(assembler, "map memory", calls::MMAP, arguments);
    call.expect = Expect::Exactly(mapping.start);
    Ok(())
}

/// What could not be given at the begin.
fn settle(assembler: &mut Assembler, list: &mut List, mapping: &Mapping) {
    let range = [mapping.start, mapping.end - mapping.start];
    let [start, bytes] = range;
    if !mapping.pages.is_empty() && mapping.protection & PROT_WRITE == 0 {
        let arguments = [start, bytes, u64::from(mapping.protection)];
        list.call(assembler, "protect memory", calls::MPROTECT, arguments);
    }
    let advice = mapping.advice;
    // linux/mman.h
    for (set, advice) in [
        (advice.sequential, 2),
        (advice.random, 1),
        (advice.dont_fork, 10),
        (advice.mergeable, 12),
        (advice.huge_pages, 14),
        (advice.no_huge_pages, 15),
        (advice.dont_dump, 16),
        (advice.wipe_on_fork, 18),
    ] {
        if set && !matches!(mapping.backing, Backing::Vdso(_)) {
            let arguments = [start, bytes, advice];
            list.call(assembler, "advise about memory", calls::MADVISE, arguments);
        }
    }
    for (start, end) in &mapping.guards {
        let arguments = [*start, end - start, MADV_GUARD_INSTALL];
        list.call(assembler, "guard memory", calls::MADVISE, arguments);
    }
    // After the guards, which locked memory does not take.
    if let Some(on_fault) = mapping.locked {
        let flags = if on_fault { MLOCK_ONFAULT } else { 0 };
        let arguments = [start, bytes, flags];
        let call = list.call(assembler, "lock memory", calls::MLOCK2, arguments);
        // It is locked also when it cannot be populated because something in it cannot be read, which is told (mlock(2)).
        let is_whole = mapping.backing == Backing::Anonymous && mapping.guards.is_empty();
        if !is_whole || mapping.protection & PROT_READ == 0 {
            call.expect = Expect::Anything;
        }
    }
}

fn restore_vdso(
    assembler: &mut Assembler,
    list: &mut List,
    memory: &Memory,
    here: &Here,
    parked: &[Vdso],
) -> Result<(), NativeError> {
    let another = || NativeError::Image {
        reason: "its vDSO is not that of this kernel".to_owned(),
    };
    // Its code finds its variables by their distance.
    let theirs = memory
        .mappings
        .iter()
        .filter_map(|mapping| match mapping.backing {
            Backing::Vdso(part) => Some((part, mapping.start, mapping.end - mapping.start)),
            _ => None,
        });
    let ours = here
        .vdso
        .iter()
        .map(|vdso| (vdso.part, vdso.start, vdso.bytes));
    let theirs = shape(theirs);
    if theirs.is_empty() {
        for vdso in parked {
            let range = [vdso.start, vdso.bytes];
            list.call(assembler, "give up the vDSO", calls::MUNMAP, range);
        }
        return Ok(());
    }
    if theirs != shape(ours) || memory.vdso_digest != here.vdso_digest {
        return Err(another());
    }
    let parts = memory
        .mappings
        .iter()
        .filter_map(|mapping| match mapping.backing {
            Backing::Vdso(part) => Some((part, mapping)),
            _ => None,
        });
    for (part, mapping) in parts {
        let bytes = mapping.end - mapping.start;
        let vdso = parked
            .iter()
            .find(|vdso| vdso.part == part && vdso.bytes == bytes)
            .ok_or_else(another)?;
        let arguments = [
            vdso.start,
            bytes,
            bytes,
            MREMAP_MAYMOVE_FIXED,
            mapping.start,
        ];
        let call = list.call(assembler, "move the vDSO", calls::MREMAP, arguments);
        call.expect = Expect::Exactly(mapping.start);
    }
    Ok(())
}

/// Kinds, distances from the first and sizes.
fn shape(parts: impl Iterator<Item = (VdsoPart, u64, u64)>) -> Vec<(VdsoPart, u64, u64)> {
    let mut origin = None;
    parts
        .map(|(part, start, bytes)| (part, start - *origin.get_or_insert(start), bytes))
        .collect()
}

/// `struct prctl_mm_map`
fn set_layout(assembler: &mut Assembler, list: &mut List, memory: &Memory, executable: i32) {
    const PR_SET_MM: u64 = 35;
    const PR_SET_MM_MAP: u64 = 14;
    const MAP_BYTES: u64 = 104;
    let layout = &memory.layout;
    let vector = assembler.add_words(layout.auxiliary_vector.iter().copied());
    let vector_bytes = layout.auxiliary_vector.len() as u64 * 8;
    let map = assembler.add_words([
        layout.start_code,
        layout.end_code,
        layout.start_data,
        layout.end_data,
        layout.start_brk,
        layout.brk,
        layout.start_stack,
        layout.arg_start,
        layout.arg_end,
        layout.env_start,
        layout.env_end,
        vector,
        vector_bytes | u64::from(executable.cast_unsigned()) << 32,
    ]);
    let arguments = [PR_SET_MM, PR_SET_MM_MAP, map, MAP_BYTES, 0];
    list.call(assembler, "describe its memory", calls::PRCTL, arguments);
}
