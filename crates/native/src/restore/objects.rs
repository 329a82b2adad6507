//! Shared memory, made again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, ftruncate, memfd_create};

use crate::image::SharedObject;

/// What a mapping without a name is called afterwards: it must be made as one with a name to be shared.
const NAMELESS: &str = "shared";

/// Makes all of them, at numbers of at least `floor`.
pub(super) fn make(
    objects: &[SharedObject],
    pages: BorrowedFd<'_>,
    floor: RawFd,
) -> io::Result<Vec<OwnedFd>> {
    let pages = File::from(pages.try_clone_to_owned()?);
    objects
        .iter()
        .map(|object| {
            let file = make_one(object, &pages)?;
            Ok(rustix::io::fcntl_dupfd_cloexec(&file, floor)?)
        })
        .collect()
}

fn make_one(object: &SharedObject, pages: &File) -> io::Result<OwnedFd> {
    let name = object.memfd_name.as_deref().unwrap_or(NAMELESS);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create(name, flags)?;
    ftruncate(&file, object.bytes)?;
    fchmod(&file, Mode::from_raw_mode(object.mode))?;
    let file = File::from(file);
    let mut buffer = vec![0; 1 << 20];
    for run in &object.pages {
        let end = run.bytes.min(object.bytes.saturating_sub(run.start));
        let mut done = 0;
        while done < end {
            let length = usize::try_from(end - done)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            pages.read_exact_at(&mut buffer[..length], run.offset + done)?;
            file.write_all_at(&buffer[..length], run.start + done)?;
            done += length as u64;
        }
    }
    let seals = SealFlags::from_bits_retain(object.seals);
    if !seals.is_empty() {
        fcntl_add_seals(file.as_fd(), seals)?;
    }
    Ok(file.into())
}
