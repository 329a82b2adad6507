//! What this process has of the vdso, as an image would have it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use fermata_native::image::{Backing, MadviseFlags, Mapping, VdsoPart};

/// The vdso at another place.
pub(crate) struct Moved {
    pub(crate) mappings: Vec<Mapping>,
    /// The address of `__vdso_clock_gettime` there.
    pub(crate) clock: u64,
    pub(crate) digest: [u8; 32],
}

/// Its mappings, moved to `start`.
pub(crate) fn moved_to(start: u64) -> Moved {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let parts: Vec<(VdsoPart, u64, u64)> = maps
        .lines()
        .filter_map(|line| {
            let part = match line.rsplit(' ').next().unwrap() {
                "[vvar]" => VdsoPart::Variables,
                "[vvar_vclock]" => VdsoPart::VirtualClocks,
                "[vdso]" => VdsoPart::Code,
                _ => return None,
            };
            let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let address = |text| u64::from_str_radix(text, 16).unwrap();
            Some((part, address(start), address(end)))
        })
        .collect();
    let origin = parts[0].1;
    let (_, code_start, code_end) = *parts.last().unwrap();
    let mut code = vec![0; usize::try_from(code_end - code_start).unwrap()];
    File::open("/proc/self/mem")
        .unwrap()
        .read_exact_at(&mut code, code_start)
        .unwrap();
    let clock = symbol(&code, "__vdso_clock_gettime");
    let mappings = parts
        .into_iter()
        .map(|(part, from, to)| Mapping {
            start: start + from - origin,
            end: start + to - origin,
            protection: 0,
            backing: Backing::Vdso(part),
            grows_down: false,
            locked: None,
            unreserved: false,
            droppable: false,
            guards: Vec::new(),
            advice: MadviseFlags::default(),
            pages: Vec::new(),
        })
        .collect();
    Moved {
        mappings,
        clock: start + code_start - origin + clock,
        digest: blake3::hash(&code).into(),
    }
}

/// The value of a dynamic symbol of a 64 bit ELF file (elf(5)).
fn symbol(file: &[u8], name: &str) -> u64 {
    const SHT_DYNSYM: u64 = 11;
    let number = |at: usize, bytes: usize| {
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(&file[at..at + bytes]);
        u64::from_le_bytes(value)
    };
    let place = |at: usize, bytes: usize| usize::try_from(number(at, bytes)).unwrap();
    let (headers, header_bytes, count) = (place(0x28, 8), place(0x3a, 2), place(0x3c, 2));
    let section = |index: usize| headers + index * header_bytes;
    let symbols = (0..count)
        .map(section)
        .find(|header| number(header + 4, 4) == SHT_DYNSYM)
        .unwrap();
    let names = place(section(place(symbols + 0x28, 4)) + 0x18, 8);
    let (first, bytes) = (place(symbols + 0x18, 8), place(symbols + 0x20, 8));
    (first..first + bytes)
        .step_by(24)
        .find(|at| {
            let text = &file[names + place(*at, 4)..];
            text.starts_with(name.as_bytes()) && text[name.len()] == 0
        })
        .map(|at| number(at + 8, 8))
        .unwrap()
}
