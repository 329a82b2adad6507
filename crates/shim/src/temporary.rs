//! File systems that live in memory: no snapshot of a disk has what is in them.
//!
//! ```text
//!  /dev        made by every start ── as it was made? ── yes: not held
//!   ├ pts …    others' own                           └── no:  archived; a restore empties it first
//!   └ shm      archived unless it is empty
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use fermata_native::image::TemporaryFilesystem;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::ShimError;
use crate::{archive, root};

const DEVICES: &str = "/dev";
const DEVICES_ARCHIVE: &str = "dev";
/// The file system that programs share memory by.
const SHARED_MEMORY: &str = "/dev/shm";
const SHARED_MEMORY_ARCHIVE: &str = "shm";

/// Archives what a sandbox has in memory, as far as a restore would not make it by itself. `/dev` before what is mounted in it.
pub(crate) fn hold(root: &OwnedFd, into: &Path) -> Result<Vec<TemporaryFilesystem>, ShimError> {
    let mut held = Vec::new();
    let devices = open_inside(root, DEVICES)?;
    if !is_as_made(&devices).map_err(ShimError::file("list", DEVICES))? {
        held.push(archive_of(&devices, DEVICES, into, DEVICES_ARCHIVE)?);
    }
    let shared_memory = open_inside(root, SHARED_MEMORY)?;
    if !is_empty(&shared_memory).map_err(ShimError::file("list", SHARED_MEMORY))? {
        let name = SHARED_MEMORY_ARCHIVE;
        held.push(archive_of(&shared_memory, SHARED_MEMORY, into, name)?);
    }
    Ok(held)
}

/// Makes the working root's file system at `path` what it was.
pub(crate) fn fill(path: &str, archive: &mut File) -> Result<(), ShimError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory =
        rustix::fs::open(path, flags, Mode::empty()).map_err(ShimError::file("open", path))?;
    empty(&directory).map_err(ShimError::file("empty", path))?;
    in_directory(directory.as_fd(), || archive::extract(archive))
        .map_err(ShimError::file("fill", path))
}

/// Below the sandbox's root nothing is resolved from here.
fn open_inside(root: &OwnedFd, path: &str) -> Result<OwnedFd, ShimError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
        .map_err(ShimError::file("open", path))
}

fn archive_of(
    directory: &OwnedFd,
    path: &str,
    into: &Path,
    name: &str,
) -> Result<TemporaryFilesystem, ShimError> {
    let file = into.join(name);
    let mut file = File::create_new(&file).map_err(ShimError::file("make", file))?;
    in_directory(directory.as_fd(), || archive::create(&mut file))
        .map_err(ShimError::file("hold", path))?;
    Ok(TemporaryFilesystem {
        path: path.to_owned(),
        archive: name.to_owned(),
    })
}

/// Archives are made and unpacked where this program is; it comes back.
fn in_directory(
    directory: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let here = File::open(".")?;
    rustix::process::fchdir(directory)?;
    let result = work();
    rustix::process::fchdir(&here)?;
    result
}

fn entries(directory: &OwnedFd) -> io::Result<Vec<std::ffi::CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

fn is_empty(directory: &OwnedFd) -> io::Result<bool> {
    Ok(entries(directory)?.is_empty())
}

/// Removes all but what something is mounted on. At a start no directory has anything in it.
fn empty(directory: &OwnedFd) -> io::Result<()> {
    for name in entries(directory)? {
        match rustix::fs::unlinkat(directory, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::ISDIR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether `/dev` is what [`root`] makes of it. Its entries get another time with every start, but only once.
fn is_as_made(directory: &OwnedFd) -> io::Result<bool> {
    let top = rustix::fs::fstat(directory)?;
    if !is_plain(&top, FileType::Directory, root::DIRECTORY_MODE) || !is_untouched(&top) {
        return Ok(false);
    }
    let names = entries(directory)?;
    let expected = root::DEVICES.len() + root::LINKS.len() + root::MOUNTED_ON_DEVICES.len();
    if names.len() != expected {
        return Ok(false);
    }
    for name in names {
        let stat = rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let name = name.to_string_lossy();
        let is_it = if let Some((_, major, minor)) =
            root::DEVICES.iter().find(|(known, ..)| *known == name)
        {
            is_plain(&stat, FileType::CharacterDevice, root::DEVICE_MODE)
                && stat.st_rdev == rustix::fs::makedev(*major, *minor)
                && is_untouched(&stat)
        } else if let Some((_, target)) = root::LINKS.iter().find(|(known, _)| *known == name) {
            let link = rustix::fs::readlinkat(directory, name.as_ref(), Vec::new())?;
            is_plain(&stat, FileType::Symlink, 0o777)
                && link.to_bytes() == target.as_bytes()
                && is_untouched(&stat)
        } else if let Some((_, mode)) = root::MOUNTED_ON_DEVICES
            .iter()
            .find(|(known, _)| *known == name)
        {
            is_plain(&stat, FileType::Directory, *mode)
        } else {
            false
        };
        if !is_it {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_plain(stat: &Stat, kind: FileType, mode: u32) -> bool {
    let is_single = kind == FileType::Directory || stat.st_nlink == 1;
    FileType::from_raw_mode(stat.st_mode) == kind
        && stat.st_mode & 0o7777 == mode
        && (stat.st_uid, stat.st_gid) == (0, 0)
        && is_single
}

/// Whatever is done to an inode moves its change time, and nobody can set that.
fn is_untouched(stat: &Stat) -> bool {
    (stat.st_mtime, stat.st_mtime_nsec) == (stat.st_ctime, stat.st_ctime_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_told_from_what_was_changed() {
        let directory = tempfile::tempdir().unwrap();
        let open = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap()
        };
        std::fs::set_permissions(
            directory.path(),
            std::os::unix::fs::PermissionsExt::from_mode(root::DIRECTORY_MODE),
        )
        .unwrap();
        for (name, mode) in root::MOUNTED_ON_DEVICES {
            let path = directory.path().join(name);
            rustix::fs::mkdir(&path, Mode::empty()).unwrap();
            rustix::fs::chmod(&path, Mode::from_raw_mode(mode)).unwrap();
        }
        root::make_devices(directory.path()).unwrap();
        assert!(is_as_made(&open()).unwrap());
        let null = directory.path().join("null");
        rustix::fs::chmod(&null, Mode::from_raw_mode(0o600)).unwrap();
        assert!(!is_as_made(&open()).unwrap());
        // Back again, but later than it was made.
        rustix::fs::chmod(&null, Mode::from_raw_mode(0o666)).unwrap();
        assert!(!is_as_made(&open()).unwrap());
        empty(&open()).unwrap();
        assert_eq!(
            entries(&open()).unwrap().len(),
            root::MOUNTED_ON_DEVICES.len()
        );
    }
}
