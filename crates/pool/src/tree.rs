//! File trees as they are: copying one with everything that an inode can have, and counting one.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
    XattrFlags, chmodat, chownat, copy_file_range, ftruncate, ioctl_ficlone, lgetxattr, linkat,
    llistxattr, lsetxattr, mkdirat, mknodat, openat, readlinkat, seek, statat, symlinkat,
    utimensat,
};
use rustix::io::Errno;

use crate::driver::Usage;
use crate::{PoolError, Result};

/// The kernel's limits on an attribute's value and on a list of names (`xattr(7)`).
const XATTR_MAX: usize = 64 * 1024;
/// As much as one `copy_file_range(2)` call copies.
const COPY_CHUNK: usize = 1 << 30;

type SystemResult<T> = rustix::io::Result<T>;

/// Copies the tree at `source` to `target`, which must not exist. Both on one filesystem. Nothing is followed, nothing is
/// synced, and a failure leaves a part of the copy there.
pub(crate) fn copy(source: &Path, target: &Path) -> Result<()> {
    let found = statat(CWD, source, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(PoolError::file("look at", source))?;
    mkdirat(CWD, target, Mode::RWXU).map_err(PoolError::file("make directory", target))?;
    let open = |path: &Path| open_directory(CWD, path.as_os_str().as_bytes());
    let from = open(source).map_err(PoolError::file("open", source))?;
    let root = open(target).map_err(PoolError::file("open", target))?;
    let mut copying = Copying {
        root: root.as_fd(),
        linked: HashMap::new(),
        path: Vec::new(),
        reflinks: true,
    };
    copying
        .children(from.as_fd(), root.as_fd())
        .map_err(|errno| {
            let path = source.join(std::ffi::OsStr::from_bytes(&copying.path));
            PoolError::file("copy", &path)(errno)
        })?;
    copy_metadata(
        CWD,
        &c_string(source)?,
        CWD,
        &c_string(target)?,
        &found,
        &|_name| true,
    )
    .map_err(PoolError::file("copy", target))
}

/// Gives the directory `target` what the root of a layer says of itself; what overlayfs noted about that layer stays there.
pub(crate) fn copy_root_metadata(layer: &Path, target: &Path) -> Result<()> {
    let found = statat(CWD, layer, AtFlags::empty()).map_err(PoolError::file("look at", layer))?;
    let is_own = |name: &[u8]| !name.starts_with(b"trusted.overlay.");
    copy_metadata(
        CWD,
        &c_string(layer)?,
        CWD,
        &c_string(target)?,
        &found,
        &is_own,
    )
    .map_err(PoolError::file("set metadata of", target))
}

/// What the tree takes; hard links count once.
pub(crate) fn usage(root: &Path) -> Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = std::collections::HashSet::new();
    let mut directories: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            // The tree of a running sandbox changes under the walk.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(PoolError::file("list", &directory)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(PoolError::file("list", &directory))?;
            let Ok(found) = entry.metadata() else {
                continue;
            };
            usage.files += 1;
            if found.nlink() == 1 || found.is_dir() || linked.insert(found.ino()) {
                // stat(2): always in units of 512.
                usage.bytes += found.blocks() * 512;
            }
            if found.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    Ok(usage)
}

/// Some name in the tree with more bytes than that.
pub(crate) fn find_name_longer_than(root: &Path, limit: usize) -> Result<Option<PathBuf>> {
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).map_err(PoolError::file("list", &directory))? {
            let entry = entry.map_err(PoolError::file("list", &directory))?;
            if entry.file_name().len() > limit {
                return Ok(Some(entry.path()));
            }
            if entry
                .file_type()
                .map_err(PoolError::file("list", &directory))?
                .is_dir()
            {
                directories.push(entry.path());
            }
        }
    }
    Ok(None)
}

struct Copying<'a> {
    root: BorrowedFd<'a>,
    /// Where the first name of an inode with several was copied to.
    linked: HashMap<(u64, u64), Vec<u8>>,
    /// The name being copied, from the root; says where an error was.
    path: Vec<u8>,
    /// Until the filesystem says that it cannot.
    reflinks: bool,
}

impl Copying<'_> {
    fn children(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> SystemResult<()> {
        for entry in Dir::read_from(from)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let length = self.path.len();
            if length > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.to_bytes());
            self.entry(from, to, name)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn entry(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> SystemResult<()> {
        let found = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(found.st_mode);
        if found.st_nlink > 1 && kind != FileType::Directory {
            let inode = (found.st_dev, found.st_ino);
            if let Some(first) = self.linked.get(&inode) {
                return linkat(self.root, first.as_slice(), to, name, AtFlags::empty());
            }
            self.linked.insert(inode, self.path.clone());
        }
        match kind {
            FileType::Directory => {
                mkdirat(to, name, Mode::RWXU)?;
                let (from, to) = (open_directory(from, name)?, open_directory(to, name)?);
                self.children(from.as_fd(), to.as_fd())?;
            }
            FileType::RegularFile => self.content(from, to, name, found.st_size)?,
            FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?, to, name)?,
            // The mode is set with the other metadata, free of the umask.
            _ => mknodat(to, name, kind, Mode::RUSR, found.st_rdev)?,
        }
        // After the children: a default ACL would be inherited by them, and they would change the times.
        copy_metadata(from, name, to, name, &found, &|_name| true)
    }

    fn content(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        size: i64,
    ) -> SystemResult<()> {
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let from = openat(from, name, OFlags::RDONLY | flags, Mode::empty())?;
        let to = openat(
            to,
            name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | flags,
            Mode::RUSR,
        )?;
        if self.reflinks {
            match ioctl_ficlone(&to, &from) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::XDEV) => self.reflinks = false,
                // This file in particular, for instance one without checksums.
                Err(Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
        let size = u64::try_from(size).unwrap_or_default();
        copy_extents(&from, &to, size)?;
        ftruncate(&to, size)
    }
}

/// Copies the data, not the holes.
fn copy_extents(from: &OwnedFd, to: &OwnedFd, size: u64) -> SystemResult<()> {
    let mut position = 0;
    while position < size {
        let start = match seek(from, SeekFrom::Data(position)) {
            Ok(start) => start,
            // lseek(2): nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error),
        };
        let end = seek(from, SeekFrom::Hole(start))?;
        let (mut input, mut output) = (start, start);
        while input < end {
            let length = usize::try_from(end - input)
                .unwrap_or(COPY_CHUNK)
                .min(COPY_CHUNK);
            if copy_file_range(from, Some(&mut input), to, Some(&mut output), length)? == 0 {
                // Somebody made the file shorter meanwhile.
                return Ok(());
            }
        }
        position = end;
    }
    Ok(())
}

/// Owner, mode, attributes, times, in an order in which none undoes another: `chown(2)` clears setuid and capabilities.
fn copy_metadata(
    from: impl AsFd,
    from_name: &CStr,
    to: impl AsFd,
    to_name: &CStr,
    found: &Stat,
    wanted: &dyn Fn(&[u8]) -> bool,
) -> SystemResult<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    let owner = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
    chownat(
        to,
        to_name,
        Some(owner.0),
        Some(owner.1),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
        chmodat(
            to,
            to_name,
            Mode::from_raw_mode(found.st_mode),
            AtFlags::empty(),
        )?;
    }
    copy_attributes(
        &through_proc(from, from_name),
        &through_proc(to, to_name),
        wanted,
    )?;
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: found.st_atime,
            tv_nsec: nanoseconds(found.st_atime_nsec),
        },
        last_modification: Timespec {
            tv_sec: found.st_mtime,
            tv_nsec: nanoseconds(found.st_mtime_nsec),
        },
    };
    utimensat(to, to_name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

fn copy_attributes(from: &Path, to: &Path, wanted: &dyn Fn(&[u8]) -> bool) -> SystemResult<()> {
    let names = match read_grown(|buffer| llistxattr(from, buffer)) {
        Ok(names) => names,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error),
    };
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && wanted(name))
    {
        let value = read_grown(|buffer| lgetxattr(from, name, buffer))?;
        lsetxattr(to, name, &value, XattrFlags::empty())?;
    }
    Ok(())
}

/// Most lists and values are tiny; the buffer becomes large only when it must.
fn read_grown(mut read: impl FnMut(&mut [u8]) -> SystemResult<usize>) -> SystemResult<Vec<u8>> {
    let mut buffer = vec![0; 512];
    match read(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(XATTR_MAX, 0);
            let length = read(&mut buffer)?;
            buffer.truncate(length);
        }
        length => buffer.truncate(length?),
    }
    Ok(buffer)
}

/// The attribute calls have no form with a directory descriptor before Linux 6.13.
fn through_proc(directory: BorrowedFd<'_>, name: &CStr) -> PathBuf {
    let name = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
    if directory.as_raw_fd() == CWD.as_raw_fd() {
        return name.to_owned();
    }
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name)
}

fn open_directory(parent: impl AsFd, name: impl rustix::path::Arg) -> SystemResult<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map(File::from)
}

fn nanoseconds(value: u64) -> i64 {
    i64::try_from(value).unwrap_or_default()
}

fn c_string(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_nul| PoolError::file("copy", path)(Errno::INVAL))
}
