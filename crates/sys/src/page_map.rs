//! Which pages of a process have content of their own (`PAGEMAP_SCAN`, Documentation/admin-guide/mm/pagemap.rst).

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// `_IOWR('f', 16, struct pm_scan_arg)`
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;

const FILE: u64 = 1 << 2;
const PRESENT: u64 = 1 << 3;
const SWAPPED: u64 = 1 << 4;
const ZERO: u64 = 1 << 5;
/// Kernel 6.15; never set by older ones.
const GUARD: u64 = 1 << 8;

/// How many regions are asked for at once.
const REGIONS: usize = 512;

#[repr(C)]
#[derive(Clone, Copy)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

#[repr(C)]
#[derive(Default)]
struct Arguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// The ranges of addresses from `start` to `end` that have pages of the process's own: neither a file's, nor the zero page.
///
/// # Errors
/// What `ioctl(2)` says about `/proc/PID/pagemap`; `EINVAL` from kernels that have no `PAGEMAP_SCAN` (before 6.7).
pub fn own_pages(page_map: BorrowedFd<'_>, start: u64, end: u64) -> io::Result<Vec<(u64, u64)>> {
    scan(
        page_map,
        Arguments {
            start,
            end,
            category_inverted: FILE | ZERO,
            category_mask: FILE | ZERO,
            category_anyof_mask: PRESENT | SWAPPED,
            return_mask: PRESENT,
            ..Arguments::default()
        },
    )
}

/// The ranges of addresses from `start` to `end` that are guards (`MADV_GUARD_INSTALL`).
///
/// # Errors
/// As [`own_pages`].
pub fn guards(page_map: BorrowedFd<'_>, start: u64, end: u64) -> io::Result<Vec<(u64, u64)>> {
    let found = scan(
        page_map,
        Arguments {
            start,
            end,
            category_mask: GUARD,
            return_mask: GUARD,
            ..Arguments::default()
        },
    );
    match found {
        // This kernel does not know them.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Vec::new()),
        other => other,
    }
}

fn scan(page_map: BorrowedFd<'_>, mut arguments: Arguments) -> io::Result<Vec<(u64, u64)>> {
    let mut regions = [Region {
        start: 0,
        end: 0,
        categories: 0,
    }; REGIONS];
    let mut found: Vec<(u64, u64)> = Vec::new();
    arguments.size = size_of::<Arguments>() as u64;
    arguments.vec = regions.as_mut_ptr().expose_provenance() as u64;
    arguments.vec_len = REGIONS as u64;
    while arguments.start < arguments.end {
        // SAFETY: the arguments and the regions that they point to live through the call.
        let count = unsafe { libc::ioctl(page_map.as_raw_fd(), PAGEMAP_SCAN, &raw mut arguments) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for region in &regions[..count] {
            match found.last_mut() {
                Some((_, end)) if *end == region.start => *end = region.end,
                _ => found.push((region.start, region.end)),
            }
        }
        if arguments.walk_end <= arguments.start {
            break;
        }
        arguments.start = arguments.walk_end;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    use std::os::fd::AsFd as _;

    #[test]
    fn only_written_pages_are_a_process_s_own() {
        const PAGE: usize = 4096;
        let length = 64 * PAGE;
        // SAFETY: a new mapping; nothing else refers to it.
        let memory = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .unwrap();
        for page in [3, 4, 9] {
            // SAFETY: inside of the mapping.
            unsafe {
                memory
                    .cast::<u8>()
                    .wrapping_add(page * PAGE)
                    .write_volatile(1);
            }
        }
        // SAFETY: inside of the mapping; reading maps the zero page.
        unsafe { memory.cast::<u8>().wrapping_add(20 * PAGE).read_volatile() };
        let map = std::fs::File::open("/proc/self/pagemap").unwrap();
        let start = memory.expose_provenance() as u64;
        let own = own_pages(map.as_fd(), start, start + length as u64).unwrap();
        let page = PAGE as u64;
        assert_eq!(
            own,
            [
                (start + 3 * page, start + 5 * page),
                (start + 9 * page, start + 10 * page)
            ]
        );
        assert!(
            guards(map.as_fd(), start, start + length as u64)
                .unwrap()
                .is_empty()
        );
        // SAFETY: the mapping made above, not used any more.
        unsafe { munmap(memory, length) }.unwrap();
    }
}
