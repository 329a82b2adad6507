//! A model of an address space, in which the memory's part of a program has to end with the image's mappings.

use std::collections::BTreeMap;

use fermata_sys::interpreter::{OPERATION_BYTES, RETURN};
use proptest::prelude::*;

use super::address_space::{self, END};
use super::assembler::{Assembled, PAGE_BYTES};
use super::place::Here;
use super::*;
use crate::image::{Layout, MadviseFlags, Mapping, Memory, PageRun, VdsoPart};

const PAGES: i32 = 600;
const OBJECT: i32 = 601;
const BASE: u64 = 0x3000_0000_0000;
/// Room for the vDSO behind the program.
const PROGRAM_END: u64 = BASE + (1 << 30);

pub(super) fn anonymous(start: u64, end: u64) -> Mapping {
    Mapping {
        start,
        end,
        protection: 3,
        backing: Backing::Anonymous,
        grows_down: false,
        locked: None,
        unreserved: false,
        droppable: false,
        advice: MadviseFlags::default(),
        pages: Vec::new(),
        guards: Vec::new(),
    }
}

pub(super) fn memory(mappings: Vec<Mapping>) -> Memory {
    Memory {
        layout: Layout::default(),
        mappings,
        vdso_digest: [7; 32],
    }
}

/// A page as the model sees it.
#[derive(Debug, Clone, Default, PartialEq)]
struct Page {
    protection: u64,
    flags: u64,
    descriptor: u64,
    offset: u64,
    /// Where in the pages file its content is from.
    content: Option<u64>,
    advice: Vec<u64>,
    locked: Option<u64>,
    guard: bool,
    /// Of the vDSO, which of its pages.
    kernel: Option<u64>,
}

/// What is mapped, by address, but for the program itself.
#[derive(Debug, Default)]
struct Model {
    pages: BTreeMap<u64, Page>,
}

struct Call {
    number: i64,
    arguments: [u64; 6],
    /// 0 success, 1 exactly what follows, 2 anything.
    expect: (u64, u64),
}

/// What is in memory when a program is laid out.
struct Written(Assembled);

impl Written {
    fn words(&self, address: u64, count: u64) -> Vec<u64> {
        let from = usize::try_from(address - self.0.base).unwrap();
        let to = from + usize::try_from(count * 8).unwrap();
        let words = self.0.bytes[from..to].as_chunks().0;
        words.iter().map(|word| u64::from_ne_bytes(*word)).collect()
    }

    fn calls(&self) -> Vec<Call> {
        let mut calls = Vec::new();
        for at in (self.0.list..).step_by(OPERATION_BYTES) {
            let words = self.words(at, 12);
            if words[0] == RETURN {
                break;
            }
            calls.push(Call {
                number: words[0].cast_signed(),
                arguments: words[1..7].try_into().unwrap(),
                expect: (words[7], words[8]),
            });
        }
        calls
    }
}

impl Model {
    fn range(&mut self, start: u64, bytes: u64) -> impl Iterator<Item = &mut Page> {
        let count = self.pages.range(start..start + bytes).count() as u64;
        assert_eq!(count, bytes.div_ceil(PAGE_BYTES), "a hole at {start:#x}");
        self.pages
            .range_mut(start..start + bytes)
            .map(|(_, page)| page)
    }

    fn run(&mut self, call: &Call, written: &Written) {
        let [first, second, third, fourth, fifth, sixth] = call.arguments;
        match call.number {
            calls::MMAP => self.map(first, second, [third, fourth, fifth, sixth], call.expect),
            calls::MUNMAP => {
                let (start, end) = (first, first + second);
                assert!(
                    end <= BASE || start >= PROGRAM_END,
                    "the program is unmapped"
                );
                self.pages.retain(|at, _| !(start..end).contains(at));
            }
            calls::MREMAP => {
                assert_eq!((second, fourth), (third, 3));
                assert_eq!(call.expect, (1, fifth));
                for at in (0..second).step_by(4096) {
                    let page = self.pages.remove(&(first + at)).unwrap();
                    assert!(page.kernel.is_some());
                    assert_eq!(self.pages.insert(fifth + at, page), None, "moved over");
                }
            }
            calls::MPROTECT => self
                .range(first, second)
                .for_each(|page| page.protection = third),
            calls::MLOCK2 => self
                .range(first, second)
                .for_each(|page| page.locked = Some(third)),
            calls::MADVISE => self.advise(first, second, third, call.expect),
            calls::PREADV => {
                assert_eq!((first, fifth), (u64::from(PAGES.cast_unsigned()), 0));
                self.read(&written.words(second, third * 2), fourth, call.expect);
            }
            calls::PRCTL => assert_eq!((first, second), (35, 14)),
            other => panic!("system call {other}"),
        }
    }

    fn map(
        &mut self,
        start: u64,
        bytes: u64,
        [protection, flags, descriptor, offset]: [u64; 4],
        expect: (u64, u64),
    ) {
        const FIXED_NOREPLACE: u64 = 0x10_0000;
        assert_eq!(expect, (1, start));
        assert_eq!(flags & FIXED_NOREPLACE, FIXED_NOREPLACE);
        for at in (0..bytes).step_by(4096) {
            let page = Page {
                protection,
                flags: flags & !FIXED_NOREPLACE,
                descriptor,
                offset: offset + at,
                ..Page::default()
            };
            assert_eq!(self.pages.insert(start + at, page), None, "mapped over");
        }
    }

    fn advise(&mut self, start: u64, bytes: u64, advice: u64, expect: (u64, u64)) {
        for page in self.range(start, bytes) {
            match advice {
                // Populating and collapsing leave nothing that a program could see, and may fail.
                23 | 25 => assert_eq!((expect.0, page.protection & 2), (2, 2)),
                102 => {
                    assert_eq!(
                        (page.content, page.locked),
                        (None, None),
                        "a guard throws pages away"
                    );
                    page.guard = true;
                }
                _ => page.advice.push(advice),
            }
        }
    }

    fn read(&mut self, parts: &[u64], mut offset: u64, expect: (u64, u64)) {
        assert!(parts.len() <= 2 * 1024);
        let before = offset;
        for part in parts.as_chunks::<2>().0 {
            for page in self.range(part[0], part[1]) {
                assert_eq!(page.protection & 2, 2, "not writable while it is filled");
                assert_eq!(page.content.replace(offset), None, "filled twice");
                offset += PAGE_BYTES;
            }
        }
        assert_eq!(expect, (1, offset - before));
    }
}

fn kernel_pages(vdso: u64) -> impl Iterator<Item = (u64, Page)> {
    (0..6).map(move |page| {
        let held = Page {
            kernel: Some(page),
            ..Page::default()
        };
        (vdso + page * PAGE_BYTES, held)
    })
}

/// Four pages of variables, two of code.
const PARTS: [(VdsoPart, u64, u64); 2] = [(VdsoPart::Variables, 0, 4), (VdsoPart::Code, 4, 6)];

fn expected(mappings: &[Mapping]) -> BTreeMap<u64, Page> {
    let mut pages = BTreeMap::new();
    for mapping in mappings {
        let (descriptor, offset, mut flags) = match mapping.backing {
            Backing::Object { offset, shared, .. } => (
                u64::from(OBJECT.cast_unsigned()),
                offset,
                if shared { 1 } else { 2 },
            ),
            Backing::Vdso(_) => continue,
            _ => (u64::MAX, 0, 0x20 | if mapping.droppable { 8 } else { 2 }),
        };
        for (set, flag) in [(mapping.grows_down, 0x2_0100), (mapping.unreserved, 0x4000)] {
            flags |= if set { flag } else { 0 };
        }
        let advice = [
            (mapping.advice.dont_fork, 10),
            (mapping.advice.no_huge_pages, 15),
            (mapping.advice.dont_dump, 16),
        ];
        let advice: Vec<u64> = advice
            .into_iter()
            .filter(|(set, _)| *set)
            .map(|(_, number)| number)
            .collect();
        for address in (mapping.start..mapping.end).step_by(4096) {
            let run = mapping
                .pages
                .iter()
                .find(|run| (run.start..run.start + run.bytes).contains(&address));
            let page = Page {
                protection: u64::from(mapping.protection),
                flags,
                descriptor,
                offset: offset + address - mapping.start,
                content: run.map(|run| run.offset + address - run.start),
                advice: advice.clone(),
                locked: mapping.locked.map(u64::from),
                guard: mapping
                    .guards
                    .iter()
                    .any(|(start, end)| (*start..*end).contains(&address)),
                kernel: None,
            };
            pages.insert(address, page);
        }
    }
    pages
}

/// A mapping by its gap to the one before and its size, with runs of pages by gap, size and gap in the pages file, all in pages.
fn mappings() -> impl Strategy<Value = Vec<Mapping>> {
    let run = (0..4_u64, 1..600_u64, 0..2_u64);
    let mapping = (
        (0..3_u64, 1..1500_u64, 0..8_u32, 0..4_u8),
        (
            any::<bool>(),
            any::<bool>(),
            any::<[bool; 3]>(),
            any::<Option<bool>>(),
        ),
        prop::collection::vec(run, 0..5),
    );
    prop::collection::vec(mapping, 0..8).prop_map(|mappings| {
        let (mut start, mut offset) = (0x10_0000, 0);
        mappings
            .into_iter()
            .map(
                |(
                    (gap, pages, protection, kind),
                    (grows_down, unreserved, advice, locked),
                    runs,
                )| {
                    start += gap * PAGE_BYTES;
                    let mut mapping = Mapping {
                        protection,
                        grows_down,
                        unreserved,
                        locked,
                        droppable: kind == 3,
                        advice: MadviseFlags {
                            dont_fork: advice[0],
                            dont_dump: advice[1],
                            no_huge_pages: advice[2],
                            ..MadviseFlags::default()
                        },
                        backing: match kind {
                            1 | 2 => Backing::Object {
                                object: 0,
                                offset: PAGE_BYTES,
                                shared: kind == 1,
                            },
                            _ => Backing::Anonymous,
                        },
                        ..anonymous(start, start + pages * PAGE_BYTES)
                    };
                    let mut at = mapping.start;
                    for (gap, pages, held_gap) in runs {
                        at += gap * PAGE_BYTES;
                        offset += held_gap * PAGE_BYTES;
                        let bytes = (pages * PAGE_BYTES).min(mapping.end.saturating_sub(at));
                        // Every second gap is a guard.
                        if held_gap == 1 && gap > 0 && at < mapping.end {
                            mapping.guards.push((at - gap * PAGE_BYTES, at));
                        }
                        if bytes > 0 && kind != 1 {
                            mapping.pages.push(PageRun {
                                start: at,
                                bytes,
                                offset,
                            });
                            offset += bytes;
                        }
                        at += bytes;
                    }
                    start = mapping.end;
                    mapping
                },
            )
            .collect()
    })
}

fn with_vdso(mut mappings: Vec<Mapping>, vdso: Option<u64>) -> Vec<Mapping> {
    let parts = vdso.into_iter().flat_map(|vdso| {
        PARTS.map(|(part, from, to)| Mapping {
            backing: Backing::Vdso(part),
            ..anonymous(vdso + from * PAGE_BYTES, vdso + to * PAGE_BYTES)
        })
    });
    mappings.extend(parts);
    mappings
}

fn here(vdso: u64) -> Here {
    let lines = PARTS.map(|(part, from, to)| {
        let name = if part == VdsoPart::Code {
            "[vdso]"
        } else {
            "[vvar]"
        };
        format!(
            "{:x}-{:x} r-xp 0 00:00 0 {name}\n",
            vdso + from * PAGE_BYTES,
            vdso + to * PAGE_BYTES
        )
    });
    let mut here = Here::parse(&lines.concat()).unwrap();
    here.vdso_digest = [7; 32];
    here
}

/// Lays the memory's part out.
fn lay_out(memory: &Memory, here: &Here, huge_pages: bool) -> Result<Written, NativeError> {
    let files = Files {
        objects: vec![OBJECT],
        pages: PAGES,
        ..Files::default()
    };
    let region = Region {
        start: BASE,
        program_end: PROGRAM_END,
        end: PROGRAM_END + 6 * PAGE_BYTES,
    };
    let mut assembler = Assembler::new(BASE, 5, "process 1 (test)".to_owned());
    let mut list = List::default();
    address_space::add(
        &mut assembler,
        &mut list,
        memory,
        &files,
        here,
        region,
        huge_pages,
    )?;
    list.end(0);
    Ok(Written(assembler.finish(&list)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_program_ends_with_exactly_the_mappings_of_the_image(
        mappings in mappings(),
        huge_pages: bool,
        theirs in prop::option::of((0..4_u64).prop_map(|place| 0x7000_0000_0000 + place * PAGE_BYTES)),
    ) {
        const OURS: u64 = 0x7000_0000_3000;
        let memory = memory(with_vdso(mappings, theirs));
        validate::memory(&memory, 1, 1 << 40).unwrap();
        let written = lay_out(&memory, &here(OURS), huge_pages).unwrap();
        let mut model = Model { pages: kernel_pages(OURS).collect() };
        // What this process has of its own: below, where the image has something, too, and above.
        for at in [0x1000, 0x10_0000, 0x11_0000, BASE - PAGE_BYTES, 0x7abc_0000_0000, END - PAGE_BYTES] {
            model.pages.insert(at, Page { protection: 5, ..Page::default() });
        }
        for call in written.calls() {
            model.run(&call, &written);
        }
        let mut expected = expected(&memory.mappings);
        expected.extend(theirs.into_iter().flat_map(kernel_pages));
        prop_assert_eq!(model.pages, expected);
    }

    #[test]
    fn wild_mappings_are_refused(
        ranges in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u32>()), 1..4),
        run in any::<(u64, u64, u64)>(),
    ) {
        let mut mappings: Vec<Mapping> = ranges
            .into_iter()
            .map(|(start, end, protection)| Mapping { protection, ..anonymous(start, end) })
            .collect();
        mappings[0].pages.push(PageRun { start: run.0, bytes: run.1, offset: run.2 });
        prop_assert!(validate::memory(&memory(mappings), 0, 1 << 20).is_err());
    }
}

#[test]
fn memory_that_cannot_be_is_refused() {
    let good = || anonymous(0x10_0000, 0x20_0000);
    let with = |change: &dyn Fn(&mut Mapping)| {
        let mut mapping = good();
        change(&mut mapping);
        mapping
    };
    let run = |start, bytes, offset| {
        vec![PageRun {
            start,
            bytes,
            offset,
        }]
    };
    let object = |object, offset| Backing::Object {
        object,
        offset,
        shared: true,
    };
    for (what, mapping) in [
        ("empty", anonymous(0x10_0000, 0x10_0000)),
        ("the first page", anonymous(0, 0x1000)),
        ("odd", anonymous(0x10_0001, 0x20_0000)),
        ("of the kernel", anonymous(0x10_0000, END + PAGE_BYTES)),
        ("protection", with(&|mapping| mapping.protection = 8)),
        ("object", with(&|mapping| mapping.backing = object(1, 0))),
        (
            "offset",
            with(&|mapping| mapping.backing = object(0, u64::MAX - 4095)),
        ),
        (
            "outside",
            with(&|mapping| mapping.pages = run(0x20_0000, 4096, 0)),
        ),
        (
            "not held",
            with(&|mapping| mapping.pages = run(0x10_0000, 8192, 4096)),
        ),
        (
            "nothing",
            with(&|mapping| mapping.pages = run(0x10_0000, 0, 0)),
        ),
        (
            "wraps",
            with(&|mapping| mapping.pages = run(0x10_0000, u64::MAX - 4095, 0)),
        ),
        (
            "guards outside",
            with(&|mapping| mapping.guards = vec![(0xf_f000, 0x10_1000)]),
        ),
        (
            "guards twice",
            with(&|mapping| mapping.guards = vec![(0x10_0000, 0x10_2000), (0x10_1000, 0x10_3000)]),
        ),
        (
            "shared with pages",
            with(&|mapping| {
                mapping.backing = object(0, 0);
                mapping.pages = run(0x10_0000, 4096, 0);
            }),
        ),
    ] {
        assert!(
            validate::memory(&memory(vec![mapping]), 1, 8192).is_err(),
            "{what}"
        );
    }
    assert!(
        validate::memory(&memory(vec![good(), good()]), 1, 8192).is_err(),
        "overlap"
    );
    assert!(validate::memory(&memory(vec![good()]), 1, 8192).is_ok());
}

#[test]
fn another_vdso_is_refused() {
    const PLACE: u64 = 0x7000_0000_0000;
    let same = || memory(with_vdso(Vec::new(), Some(PLACE)));
    assert!(lay_out(&same(), &here(PLACE), true).is_ok());
    let mut another_code = same();
    another_code.vdso_digest = [8; 32];
    let mut another_shape = same();
    another_shape.mappings[1].start += PAGE_BYTES;
    another_shape.mappings[1].end += PAGE_BYTES;
    let mut half = same();
    half.mappings.remove(0);
    for memory in [another_code, another_shape, half] {
        let error = lay_out(&memory, &here(PLACE), true).err().unwrap();
        assert_eq!(
            error.to_string(),
            "the image is damaged: its vDSO is not that of this kernel"
        );
    }
}
