//! Files, directories and devices, by name or without one.

use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{
    CWD, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;

use super::Failure;
use crate::image::NamelessFile;

/// What `F_SETFL` can change; all else is given to `open(2)`.
const CHANGEABLE: OFlags = OFlags::APPEND
    .union(OFlags::NONBLOCK)
    .union(OFlags::DIRECT)
    .union(OFlags::NOATIME);
/// What an open of another kind would do besides opening.
const ONCE: OFlags = OFlags::CREATE
    .union(OFlags::EXCL)
    .union(OFlags::TRUNC)
    .union(OFlags::TMPFILE.difference(OFlags::DIRECTORY));

pub(super) fn open_path(
    path: &str,
    kind: u32,
    flags: OFlags,
    position: u64,
) -> Result<OwnedFd, Failure> {
    let step = |action: &str| Failure::to::<Errno>(format!("{action} {path}"));
    // The path is what the kernel showed, so nothing in it is a link; the last part is one only for O_PATH | O_NOFOLLOW.
    let resolve = if flags.contains(OFlags::PATH) {
        ResolveFlags::NO_MAGICLINKS
    } else {
        ResolveFlags::NO_SYMLINKS
    };
    let file = rustix::fs::openat2(CWD, path, opening(flags), Mode::empty(), resolve)
        .map_err(step("open"))?;
    let stat = rustix::fs::fstat(&file).map_err(step("look at"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::from_raw_mode(kind) {
        return Err(step("find the same kind of file at")(Errno::INVAL));
    }
    if position != 0 {
        rustix::fs::seek(&file, SeekFrom::Start(position)).map_err(step("set the position of"))?;
    }
    Ok(file)
}

/// Another description of what a descriptor leads to.
pub(super) fn open_again(file: &OwnedFd, flags: OFlags, position: u64) -> Result<OwnedFd, Failure> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = opening(flags) - OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map_err(Failure::to("open a file without a name"))?;
    if position != 0 {
        rustix::fs::seek(&file, SeekFrom::Start(position))
            .map_err(Failure::to("set the position of a file"))?;
    }
    Ok(file)
}

fn opening(flags: OFlags) -> OFlags {
    let flags = flags - ONCE;
    if flags.contains(OFlags::PATH) {
        return (flags & (OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW)) | OFlags::CLOEXEC;
    }
    // Not to wait for anything, whatever is found there.
    (flags - CHANGEABLE) | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC
}

/// Sets the flags that the description had.
pub(super) fn set_status_flags(file: &OwnedFd, flags: OFlags) -> Result<(), Failure> {
    if flags.contains(OFlags::PATH) {
        return Ok(());
    }
    let wanted = flags & CHANGEABLE;
    let current = rustix::fs::fcntl_getfl(file).map_err(Failure::to("ask for status flags"))?;
    if current & CHANGEABLE != wanted {
        rustix::fs::fcntl_setfl(file, wanted).map_err(Failure::to("set status flags"))?;
    }
    Ok(())
}

/// A file without a name, made again.
pub(super) struct Nameless {
    file: OwnedFd,
}

impl Nameless {
    pub(super) fn make(image: &NamelessFile) -> Result<Self, Failure> {
        let step = |action| Failure::to::<Errno>(format!("{action} a removed file"));
        // Its directory may be gone too; then the file system of the root stands in.
        let file = Self::make_in(&image.directory)
            .or_else(|_| Self::make_in("/"))
            .map_err(step("make"))?;
        rustix::fs::ftruncate(&file, image.bytes).map_err(step("size"))?;
        for (offset, piece) in &image.content {
            write_at(&file, piece, *offset).map_err(step("fill"))?;
        }
        rustix::fs::fchown(
            &file,
            Some(Uid::from_raw(image.user)),
            Some(Gid::from_raw(image.group)),
        )
        .map_err(step("give away"))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(image.mode))
            .map_err(step("set the mode of"))?;
        let [access, modification] = image
            .times
            .map(|(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec });
        rustix::fs::futimens(
            &file,
            &Timestamps {
                last_access: access,
                last_modification: modification,
            },
        )
        .map_err(step("set the times of"))?;
        Ok(Self { file })
    }

    fn make_in(directory: &str) -> rustix::io::Result<OwnedFd> {
        rustix::fs::open(
            directory,
            OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )
    }

    pub(super) fn open(&self, flags: OFlags, position: u64) -> Result<OwnedFd, Failure> {
        open_again(&self.file, flags, position)
    }
}

fn write_at(file: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::pwrite(file, bytes, offset)?;
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}
