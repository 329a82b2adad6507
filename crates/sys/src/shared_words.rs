//! Words of memory that a process shares with all it is split into: for futexes and counters.

use std::io;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU32;

/// Words, all zero at first, that stay the same ones in processes cloned later.
#[derive(Debug)]
pub struct SharedWords {
    first: NonNull<AtomicU32>,
    count: usize,
}

impl SharedWords {
    /// Maps them.
    ///
    /// # Errors
    /// What `mmap(2)` says, `EINVAL` if none are asked for.
    pub fn new(count: usize) -> io::Result<Self> {
        // SAFETY: without MAP_FIXED a new mapping takes nobody's place.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                count.saturating_mul(size_of::<AtomicU32>()),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { first, count })
    }
}

impl Deref for SharedWords {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        // SAFETY: the mapping is this long, page-aligned, zeroed (a valid AtomicU32) and lives as long as `self`; other processes
        // write to it only as atomics.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: this mapping is owned, and nothing borrowed from `self` outlives it.
        unsafe {
            libc::munmap(
                self.first.as_ptr().cast(),
                self.count * size_of::<AtomicU32>(),
            )
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn words_are_zero_and_their_own() {
        let words = SharedWords::new(3000).unwrap();
        words[2999].store(7, Ordering::Relaxed);
        assert_eq!(words.len(), 3000);
        assert_eq!(words[2998].load(Ordering::Relaxed), 0);
        assert_eq!(words[2999].load(Ordering::Relaxed), 7);
    }

    #[test]
    fn no_words_cannot_be_mapped() {
        assert!(SharedWords::new(0).is_err());
    }
}
