//! The part of a program that fills the memory from the pages file: few calls, into memory that is there already.
//!
//! ```text
//! |---- run ----|######## 2 MiB ########|######## 2 MiB ########|-- run --|        hole        |--- run ---|
//!   populated      one page populated, then all collapsed          populated                     populated    ─► preadv
//! ```
//!
//! Reading 200 MB into fresh memory takes 107 ms on the machine of the first measurements, most of it a fault a page; collapsed
//! into huge pages before, 28 ms, which is what copying takes. `MADV_COLLAPSE` leaves no mark on a mapping, as `MADV_HUGEPAGE`
//! would, and no memory is taken that is not filled; it wants one page of each huge one to be there.

use fermata_sys::interpreter::{Expect, calls};

use super::assembler::{Assembler, List};
use crate::image::{Backing, Mapping, Memory, PageRun};

// linux/mman.h
const MADV_POPULATE_WRITE: u64 = 23;
const MADV_COLLAPSE: u64 = 25;

const PAGE_BYTES: u64 = 4096;
const HUGE_PAGE_BYTES: u64 = 2 << 20;
/// Below this a call of its own costs what it saves.
const LEAST_POPULATED_BYTES: u64 = 8 * PAGE_BYTES;

/// `IOV_MAX`
const VECTORS: usize = 1024;
/// A read is cut off at 2 GiB (read(2)).
const READ_BYTES: u64 = 1 << 30;

/// Fills every mapping, which are writable meanwhile.
pub(super) fn add(
    assembler: &mut Assembler,
    list: &mut List,
    memory: &Memory,
    pages: i32,
    huge_pages: bool,
) {
    for mapping in &memory.mappings {
        provide(assembler, list, mapping, huge_pages);
    }
    read(assembler, list, memory, pages);
}

/// Has memory ready. What cannot be had now is not missing yet: the read tries again, page by page.
fn provide(assembler: &mut Assembler, list: &mut List, mapping: &Mapping, huge_pages: bool) {
    let mut advise = |start: u64, end: u64, advice| {
        let arguments = [start, end - start, advice];
        list.call(assembler, "provide memory", calls::MADVISE, arguments)
            .expect = Expect::Anything;
    };
    let may_be_huge =
        huge_pages && mapping.backing == Backing::Anonymous && !mapping.advice.no_huge_pages;
    for (start, end) in pieces(&mapping.pages) {
        let first = start.next_multiple_of(HUGE_PAGE_BYTES);
        let last = end / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        let is_huge = may_be_huge && first < last;
        let small = if is_huge {
            [(start, first), (last, end)]
        } else {
            [(start, end), (end, end)]
        };
        for (start, end) in small {
            if end - start >= LEAST_POPULATED_BYTES {
                advise(start, end, MADV_POPULATE_WRITE);
            }
        }
        if is_huge {
            let mut page = first;
            while page < last {
                advise(page, page + PAGE_BYTES, MADV_POPULATE_WRITE);
                page += HUGE_PAGE_BYTES;
            }
            advise(first, last, MADV_COLLAPSE);
        }
    }
}

/// Neighbouring runs as one: start and end.
fn pieces(runs: &[PageRun]) -> Vec<(u64, u64)> {
    let mut pieces: Vec<(u64, u64)> = Vec::new();
    for run in runs {
        match pieces.last_mut() {
            Some((_, end)) if *end == run.start => *end += run.bytes,
            _ => pieces.push((run.start, run.start + run.bytes)),
        }
    }
    pieces
}

/// Reads the pages, as many with one call as the file has in one piece.
fn read(assembler: &mut Assembler, list: &mut List, memory: &Memory, pages: i32) {
    let mut vectors: Vec<(u64, u64)> = Vec::new();
    let mut begin = 0;
    let mut length = 0;
    let mut flush = |list: &mut List, vectors: &mut Vec<(u64, u64)>, begin: u64, length: u64| {
        if vectors.is_empty() {
            return;
        }
        let count = vectors.len() as u64;
        let place = assembler.add_words(vectors.drain(..).flat_map(|(at, bytes)| [at, bytes]));
        let arguments = [i64::from(pages).cast_unsigned(), place, count, begin, 0];
        let call = list.call(assembler, "read its memory", calls::PREADV, arguments);
        call.expect = Expect::Exactly(length);
    };
    let runs = memory.mappings.iter().flat_map(|mapping| &mapping.pages);
    for run in runs {
        let (mut start, mut offset, mut left) = (run.start, run.offset, run.bytes);
        while left > 0 {
            let bytes = left.min(READ_BYTES);
            if vectors.len() == VECTORS || begin + length != offset || length + bytes > READ_BYTES {
                flush(list, &mut vectors, begin, length);
                (begin, length) = (offset, 0);
            }
            match vectors.last_mut() {
                Some((at, size)) if *at + *size == start => *size += bytes,
                _ => vectors.push((start, bytes)),
            }
            length += bytes;
            (start, offset, left) = (start + bytes, offset + bytes, left - bytes);
        }
    }
    flush(list, &mut vectors, begin, length);
}
