//! Writing out what is in private memory.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use fermata_sys::page_map::{guards, own_pages};
use fermata_sys::tracee::read_memory;

use super::memory;
use super::task::Task;
use crate::NativeError;
use crate::image::{Backing, Mapping, Memory, PageRun};

const PAGE_BYTES: usize = 4096;
/// How much is read at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// Where pages go, one after another; those of zeros are left out.
#[derive(Debug)]
pub(crate) struct PagesFile<'a> {
    pub(crate) file: &'a File,
    pub(crate) end: u64,
    buffer: Vec<u8>,
}

impl<'a> PagesFile<'a> {
    pub(crate) fn new(file: &'a File, end: u64) -> Self {
        Self {
            file,
            end,
            buffer: vec![0; 1 << 20],
        }
    }
}

/// Completes a process's memory from a stopped process that has it: `task` itself, or its copy.
pub(crate) fn write(
    task: &Task,
    source_pid: i32,
    memory: &mut Memory,
    pages: &mut PagesFile<'_>,
) -> Result<(), NativeError> {
    let failed = || task.failed("write out the memory");
    let flags = memory::flags(source_pid).map_err(failed())?;
    let page_map = File::open(format!("/proc/{source_pid}/pagemap")).map_err(failed())?;
    let mut flags = flags.iter().peekable();
    for mapping in &mut memory.mappings {
        // Written while the tree stood still.
        if mapping.advice.dont_fork {
            continue;
        }
        while flags.next_if(|flags| flags.start < mapping.start).is_some() {}
        match flags.peek() {
            Some(flags) if flags.start == mapping.start => {
                memory::apply(mapping, &flags.words).map_err(|reason| task.unheld(reason))?;
            }
            _ => return Err(task.unheld("its copy lacks a part of its memory")),
        }
        write_mapping(task, source_pid, &page_map, mapping, pages)?;
    }
    Ok(())
}

/// Writes what a copy does not have (`MADV_DONTFORK`), from the process itself, which stands still.
pub(crate) fn write_uncopied(
    task: &Task,
    copy_pid: i32,
    mappings: &mut [Mapping],
    pages: &mut PagesFile<'_>,
) -> Result<(), NativeError> {
    let failed = || task.failed("compare the copy of the memory");
    let text = std::fs::read_to_string(format!("/proc/{copy_pid}/maps")).map_err(failed())?;
    let copied: HashSet<u64> = text
        .lines()
        .filter_map(|line| u64::from_str_radix(line.split('-').next()?, 16).ok())
        .collect();
    let missing = |mapping: &&mut Mapping| !copied.contains(&mapping.start);
    let mut missing = mappings.iter_mut().filter(missing).peekable();
    if missing.peek().is_none() {
        return Ok(());
    }
    let flags = memory::flags(task.host_pid).map_err(failed())?;
    let page_map = File::open(format!("/proc/{}/pagemap", task.host_pid)).map_err(failed())?;
    for mapping in missing {
        if let Some(flags) = flags.iter().find(|flags| flags.start == mapping.start) {
            memory::apply(mapping, &flags.words).map_err(|reason| task.unheld(reason))?;
        }
        if !mapping.advice.dont_fork {
            return Err(task.unheld("its copy lacks a part of its memory"));
        }
        write_mapping(task, task.host_pid, &page_map, mapping, pages)?;
    }
    Ok(())
}

fn write_mapping(
    task: &Task,
    source_pid: i32,
    page_map: &File,
    mapping: &mut Mapping,
    pages: &mut PagesFile<'_>,
) -> Result<(), NativeError> {
    let failed = || task.failed("write out the memory");
    let (start, end) = (mapping.start, mapping.end);
    mapping.guards = guards(page_map.as_fd(), start, end).map_err(failed())?;
    let is_private = match &mapping.backing {
        Backing::Anonymous | Backing::PrivateFile { .. } => true,
        Backing::Object { shared, .. } => !shared,
        Backing::SharedFile { .. } | Backing::Vdso(_) => false,
    };
    if !is_private {
        return Ok(());
    }
    let own = own_pages(page_map.as_fd(), start, end).map_err(failed())?;
    // The kernel has guards among what is swapped out.
    let own = without(&own, &mapping.guards);
    write_ranges(source_pid, mapping, &own, pages).map_err(failed())
}

/// `ranges` without what is in `others`; both by address.
fn without(ranges: &[(u64, u64)], others: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut left = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        let mut at = *start;
        for (from, to) in others.iter().filter(|(from, to)| to > start && from < end) {
            if *from > at {
                left.push((at, *from));
            }
            at = at.max(*to);
        }
        if at < *end {
            left.push((at, *end));
        }
    }
    left
}

fn write_ranges(
    source_pid: i32,
    mapping: &mut Mapping,
    ranges: &[(u64, u64)],
    pages: &mut PagesFile<'_>,
) -> io::Result<()> {
    // The page below a private page of zeros need not be zero itself: only where there is none below may it be left out.
    let keep_zeros = !matches!(mapping.backing, Backing::Anonymous);
    for (start, end) in ranges {
        let mut at = *start;
        while at < *end {
            let length = (end - at).min(CHUNK_BYTES);
            let size = usize::try_from(length).unwrap_or(pages.buffer.len());
            let mut buffer = std::mem::take(&mut pages.buffer);
            let result = read_memory(source_pid, &[(at, size)], &mut buffer[..size])
                .and_then(|count| {
                    if count == size {
                        Ok(())
                    } else {
                        Err(io::ErrorKind::UnexpectedEof.into())
                    }
                })
                .and_then(|()| write_chunk(at, &buffer[..size], keep_zeros, mapping, pages));
            pages.buffer = buffer;
            result?;
            at += length;
        }
    }
    Ok(())
}

/// Writes the pages that are not zero, in as few runs as there are.
fn write_chunk(
    address: u64,
    chunk: &[u8],
    keep_zeros: bool,
    mapping: &mut Mapping,
    pages: &mut PagesFile<'_>,
) -> io::Result<()> {
    let mut at = 0;
    while at < chunk.len() {
        let kept = |page: &[u8]| keep_zeros || !is_zero(page);
        let same = |wanted: bool| {
            chunk[at..]
                .chunks(PAGE_BYTES)
                .take_while(|page| kept(page) == wanted)
                .map(<[u8]>::len)
                .sum::<usize>()
        };
        let left_out = same(false);
        if left_out > 0 {
            at += left_out;
            continue;
        }
        let length = same(true);
        pages
            .file
            .write_all_at(&chunk[at..at + length], pages.end)?;
        push(
            &mut mapping.pages,
            PageRun {
                start: address + at as u64,
                bytes: length as u64,
                offset: pages.end,
            },
        );
        pages.end += length as u64;
        at += length;
    }
    Ok(())
}

fn push(runs: &mut Vec<PageRun>, run: PageRun) {
    match runs.last_mut() {
        Some(last)
            if last.start + last.bytes == run.start && last.offset + last.bytes == run.offset =>
        {
            last.bytes += run.bytes;
        }
        _ => runs.push(run),
    }
}

fn is_zero(page: &[u8]) -> bool {
    // Compared with itself, shifted by one: as quick as memcmp(3).
    page.first() == Some(&0) && page[..page.len() - 1] == page[1..]
}
