//! What is opened again by its name.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, OFlags, SeekFrom};

use super::opened::Opened;
use super::removed::REMOVED;
use super::{Kind, reopen};
use crate::NativeError;
use crate::image::OpenFile;

const PROC_MAGIC: u64 = 0x9fa0;
const MQUEUE_MAGIC: u64 = 0x1980_0202;
/// Memory devices, and `/dev/tty` is not among them: it needs a session.
const DEVICES: [(u32, u32, &str); 5] = [
    (1, 3, "/dev/null"),
    (1, 5, "/dev/zero"),
    (1, 7, "/dev/full"),
    (1, 8, "/dev/random"),
    (1, 9, "/dev/urandom"),
];

impl Opened<'_> {
    /// A memfd: nothing else without a name on a mount without a place.
    pub(super) fn is_memory_file(&self) -> bool {
        self.link.starts_with("/memfd:")
            && self.link.ends_with(REMOVED)
            && self.stat.st_nlink == 0
            && rustix::fs::fcntl_get_seals(self.file) != Err(rustix::io::Errno::INVAL)
    }

    /// The name that it was opened by is gone; a name may also end as the kernel marks those.
    pub(super) fn removed(&self) -> Result<Option<Kind>, NativeError> {
        if !self.link.ends_with(REMOVED) || self.stat.st_nlink > 0 && self.leads_here(&self.link)? {
            return Ok(None);
        }
        self.refuse_file_system()?;
        Ok(Some(Kind::Removed {
            position: self.info.position,
        }))
    }

    /// Something to be opened again by its path, which must lead to it now.
    pub(super) fn named(&self) -> Result<OpenFile, NativeError> {
        self.refuse_file_system()?;
        if !self.leads_here(&self.link)? {
            return Err(self.unheld(&match self.link.strip_suffix(REMOVED) {
                Some(path) => format!("is {path}, which was removed"),
                None => format!("is {}, which another file hides", self.link),
            }));
        }
        Ok(OpenFile::Path {
            path: self.link.clone(),
            kind: FileType::from_raw_mode(self.stat.st_mode).as_raw_mode(),
            position: self.info.position,
        })
    }

    pub(super) fn device(&self) -> Result<OpenFile, NativeError> {
        let device = self.stat.st_rdev;
        let device = (rustix::fs::major(device), rustix::fs::minor(device));
        let known = DEVICES
            .iter()
            .find(|(major, minor, _)| (*major, *minor) == device);
        let Some((_, _, usual)) = known else {
            return Err(self.unheld(&format!(
                "is the device {} ({}:{})",
                self.link, device.0, device.1
            )));
        };
        let path = if self.leads_here(&self.link)? {
            self.link.as_str()
        } else {
            usual
        };
        Ok(OpenFile::Path {
            path: path.to_owned(),
            kind: FileType::CharacterDevice.as_raw_mode(),
            position: 0,
        })
    }

    pub(super) fn leads_here(&self, path: &str) -> Result<bool, NativeError> {
        let relative = match path.strip_prefix('/') {
            Some("") => ".",
            Some(relative) => relative,
            None => return Ok(false),
        };
        match rustix::fs::statat(self.root, relative, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok((stat.st_dev, stat.st_ino) == self.identity()
                && FileType::from_raw_mode(stat.st_mode)
                    == FileType::from_raw_mode(self.stat.st_mode)),
            Err(
                rustix::io::Errno::NOENT
                | rustix::io::Errno::NOTDIR
                | rustix::io::Errno::NAMETOOLONG,
            ) => Ok(false),
            Err(error) => Err(self.failed("look for the path of a descriptor")(error)),
        }
    }

    fn refuse_file_system(&self) -> Result<(), NativeError> {
        let system = rustix::fs::fstatfs(self.file)
            .map_err(self.failed("ask for the file system of a descriptor"))?;
        let magic = system.f_type.cast_unsigned();
        let about_process = |part: &str| part.parse::<u32>().is_ok();
        if magic == PROC_MAGIC && self.link.split('/').skip(1).any(about_process) {
            return Err(self.unheld(&format!("is about a process ({})", self.link)));
        }
        if magic == MQUEUE_MAGIC && self.stat.st_nlink > 0 && !self.is_directory() {
            return Err(self.unheld(&format!("is the message queue {}", self.link)));
        }
        Ok(())
    }

    fn is_directory(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Directory
    }
}

/// Through a description of our own: reading and looking for holes must not move the sandbox's offset.
pub(super) fn content(file: BorrowedFd<'_>, bytes: u64) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let file = reopen(file, OFlags::RDONLY | OFlags::NOATIME)?;
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < bytes {
        let start = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&file, SeekFrom::Hole(start))?.min(bytes);
        let length = usize::try_from(end - start).map_err(io::Error::other)?;
        let mut piece = vec![0; length];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut piece, start)?;
        pieces.push((start, piece));
        at = end;
    }
    Ok(pieces)
}
