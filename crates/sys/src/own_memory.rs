//! How a program keeps its own memory small while it has nothing to do.

use std::ptr;

/// The page size of the machines this runs on.
const PAGE_BYTES: usize = 4096;

/// Makes the allocator give memory back early and share one arena between threads: a program with many short threads and
/// large, rare buffers otherwise keeps what it needed once (mallopt(3)).
pub fn keep_heap_small() {
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        // Setting it also ends glibc's habit of raising it after the first large buffer is freed.
        (libc::M_MMAP_THRESHOLD, 64 << 10),
        (libc::M_TRIM_THRESHOLD, 128 << 10),
    ] {
        // SAFETY: mallopt takes plain numbers and takes the allocator's lock.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives free heap memory back to the system.
pub fn trim_heap() {
    // SAFETY: malloc_trim takes the allocator's lock.
    unsafe { libc::malloc_trim(0) };
}

/// Unmaps the program's own code and constants from its page tables. They stay in the page cache and come back by minor
/// faults as they are used, so that a program that sleeps does not count what only its start and its work needed.
pub fn release_program_pages() {
    // SAFETY: the callback fits the expected type and uses no data pointer.
    unsafe { libc::dl_iterate_phdr(Some(release_segments), ptr::null_mut()) };
}

/// # Safety
/// To be called by `dl_iterate_phdr` only.
unsafe extern "C" fn release_segments(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: dl_iterate_phdr passes a valid pointer.
    let info = unsafe { &*info };
    // SAFETY: it holds a valid array of this many program headers.
    let headers =
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    for header in headers {
        // Whatever may be written to holds more than the file does: relocated pointers, at least.
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            let Ok(start) = usize::try_from(info.dlpi_addr + header.p_vaddr) else {
                continue;
            };
            let Ok(memory) = usize::try_from(header.p_memsz) else {
                continue;
            };
            let first_page = start & !(PAGE_BYTES - 1);
            let length = start + memory - first_page;
            // SAFETY: the range is a private mapping of a file without a changed page (it never was writable), so what is
            // dropped is read again from the file on the next access, with the same content. Failure changes nothing.
            unsafe {
                libc::madvise(
                    ptr::with_exposed_provenance_mut(first_page),
                    length,
                    libc::MADV_DONTNEED,
                )
            };
        }
    }
    0
}
