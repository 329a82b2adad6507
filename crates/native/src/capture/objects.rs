//! Shared memory without a name in any file system.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use rustix::fs::{SealFlags, SeekFrom, fcntl_get_seals, seek};

use super::descriptors::SharedObjects;
use crate::image::{PageRun, SharedObject};
use crate::{NativeError, Owner};

const PAGE_BYTES: u64 = 4096;

/// What mappings and descriptors refer to; each object once.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    places: HashMap<(u64, u64), u32>,
    found: Vec<Found>,
}

#[derive(Debug)]
struct Found {
    file: OwnedFd,
    memfd_name: Option<String>,
    bytes: u64,
    mode: u32,
    seals: u32,
}

impl Objects {
    /// The place of an object; `path` is what `proc(5)` calls it.
    pub(crate) fn place(
        &mut self,
        file: BorrowedFd<'_>,
        path: &str,
        owner: &Owner,
    ) -> Result<u32, NativeError> {
        let look = || -> io::Result<_> {
            let file = File::from(file.try_clone_to_owned()?);
            let status = file.metadata()?;
            Ok((file, status))
        };
        let (file, status) = look().map_err(|source| NativeError::Capture {
            action: "look at the shared memory",
            owner: owner.clone(),
            source,
        })?;
        let next = u32::try_from(self.found.len()).map_err(|_| NativeError::Unheld {
            owner: owner.clone(),
            reason: "it has too much shared memory".to_owned(),
        })?;
        let key = (status.dev(), status.ino());
        if let Some(place) = self.places.get(&key) {
            return Ok(*place);
        }
        let memfd_name = path
            .strip_prefix("/memfd:")
            .map(|name| name.strip_suffix(" (deleted)").unwrap_or(name).to_owned());
        let seals = fcntl_get_seals(&file).unwrap_or(SealFlags::empty());
        self.places.insert(key, next);
        self.found.push(Found {
            memfd_name,
            bytes: status.len(),
            mode: status.mode() & 0o7777,
            seals: seals.bits(),
            file: file.into(),
        });
        Ok(next)
    }

    /// Copies what they hold behind the end of the pages file. The tree stands still, because nothing else keeps them of one
    /// instant.
    pub(crate) fn copy(self, pages: &File, end: &mut u64) -> io::Result<Vec<SharedObject>> {
        self.found
            .into_iter()
            .map(|found| {
                let runs = copy_data(&found, pages, end)?;
                Ok(SharedObject {
                    memfd_name: found.memfd_name,
                    bytes: found.bytes,
                    seals: found.seals,
                    mode: found.mode,
                    pages: runs,
                })
            })
            .collect()
    }
}

impl SharedObjects for Objects {
    fn object(&mut self, file: BorrowedFd<'_>, owner: &Owner) -> Result<u32, NativeError> {
        let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let path = std::fs::read_link(link).map_err(|source| NativeError::Capture {
            action: "look at the shared memory",
            owner: owner.clone(),
            source,
        })?;
        self.place(file, &path.to_string_lossy(), owner)
    }
}

fn copy_data(found: &Found, pages: &File, end: &mut u64) -> io::Result<Vec<PageRun>> {
    // A description of its own: the offset of the program's must not move.
    let path = format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&found.file)
    );
    let file = File::open(path)?;
    let mut runs = Vec::new();
    let mut at = 0;
    while at < found.bytes {
        let start = match seek(file.as_fd(), SeekFrom::Data(at)) {
            Ok(start) => start / PAGE_BYTES * PAGE_BYTES,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let stop = seek(file.as_fd(), SeekFrom::Hole(start))?.next_multiple_of(PAGE_BYTES);
        let run = PageRun {
            start,
            bytes: stop - start,
            offset: *end,
        };
        copy_range(&file, pages, run)?;
        *end += run.bytes;
        runs.push(run);
        at = stop;
    }
    Ok(runs)
}

fn copy_range(file: &File, pages: &File, run: PageRun) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    while done < run.bytes {
        let length = usize::try_from(run.bytes - done)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let buffer = &mut buffer[..length];
        // The object's last page may be a part of one.
        let count = file.read_at(buffer, run.start + done)?;
        if count == 0 {
            break;
        }
        pages.write_all_at(&buffer[..count], run.offset + done)?;
        done += count as u64;
    }
    Ok(())
}
