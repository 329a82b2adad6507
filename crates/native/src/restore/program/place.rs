//! Where a program lies: where neither this process nor the one that it becomes has anything.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::image::{Memory, VdsoPart};

use super::address_space::{Region, Vdso};

/// Between the heaps of programs that are linked to a fixed place and the place of all others, where nothing is by itself.
const FIRST: u64 = 0x2000_0000_0000;
const LAST: u64 = 0x5000_0000_0000;
/// Left free around it, so that nothing grows into it.
const DISTANCE: u64 = 1 << 20;

/// The memory of this process.
#[derive(Debug)]
pub(crate) struct Here {
    taken: Vec<(u64, u64)>,
    pub(crate) vdso: Vec<Vdso>,
    /// [`Memory::vdso_digest`], of this process.
    pub(crate) vdso_digest: [u8; 32],
}

impl Here {
    pub(crate) fn read() -> io::Result<Self> {
        let mut here = Self::parse(&std::fs::read_to_string("/proc/self/maps")?)?;
        if let Some(code) = here.vdso.iter().find(|vdso| vdso.part == VdsoPart::Code) {
            let bytes = usize::try_from(code.bytes).map_err(|_| io::ErrorKind::InvalidData)?;
            let mut content = vec![0; bytes];
            File::open("/proc/self/mem")?.read_exact_at(&mut content, code.start)?;
            here.vdso_digest = blake3::hash(&content).into();
        }
        Ok(here)
    }

    pub(super) fn parse(maps: &str) -> io::Result<Self> {
        let mut here = Self {
            taken: Vec::new(),
            vdso: Vec::new(),
            vdso_digest: [0; 32],
        };
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| {
                let (start, end) = range.split_once('-')?;
                let address = |text| u64::from_str_radix(text, 16).ok();
                Some((address(start)?, address(end)?))
            });
            let (start, end) = range.ok_or(io::ErrorKind::InvalidData)?;
            here.taken.push((start, end));
            let part = match line.rsplit(' ').next() {
                Some("[vvar]") => VdsoPart::Variables,
                Some("[vvar_vclock]") => VdsoPart::VirtualClocks,
                Some("[vdso]") => VdsoPart::Code,
                _ => continue,
            };
            here.vdso.push(Vdso {
                part,
                start,
                bytes: end - start,
            });
        }
        Ok(here)
    }

    /// A place for a program of this size, and for the vDSO behind it.
    pub(crate) fn find_place(&self, memory: &Memory, bytes: u64) -> Option<Region> {
        let vdso: u64 = self.vdso.iter().map(|vdso| vdso.bytes).sum();
        let needed = bytes + vdso;
        let theirs = memory
            .mappings
            .iter()
            .map(|mapping| (mapping.start, mapping.end));
        let mut taken: Vec<(u64, u64)> = self.taken.iter().copied().chain(theirs).collect();
        taken.sort_unstable();
        let mut start = FIRST;
        for (from, to) in taken {
            if to <= start {
                continue;
            }
            if from >= start + needed + DISTANCE {
                break;
            }
            start = to + DISTANCE;
        }
        let end = start.checked_add(needed)?;
        (end < LAST).then_some(Region {
            start,
            program_end: start + bytes,
            end,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::program::tests::{anonymous, memory};

    #[test]
    fn a_program_lies_where_nothing_is() {
        let here = Here::parse("200000000000-200000010000 r-xp 0 00:00 0 x\n7ff000000000-7ff000002000 r-xp 0 00:00 0 [vdso]\n").unwrap();
        let theirs = [
            (0x2000_0020_0000, 0x2000_0100_0000),
            (0x7000_0000_0000, 0x7000_0001_0000),
        ];
        let theirs = memory(theirs.map(|(start, end)| anonymous(start, end)).to_vec());
        let region = here.find_place(&theirs, 0x5000).unwrap();
        assert_eq!(region.start, 0x2000_0110_0000);
        assert_eq!(
            (
                region.program_end - region.start,
                region.end - region.program_end
            ),
            (0x5000, 0x2000)
        );
        assert!(
            here.find_place(&memory(vec![anonymous(0x1000, LAST)]), 0x1000)
                .is_none()
        );
    }
}
