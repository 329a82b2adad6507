//! What is opened again by its name, and files that have lost theirs.

use std::io;
use std::os::fd::AsFd as _;

use rustix::fs::{AtFlags, FileType, OFlags, SeekFrom};

use super::opened::Opened;
use super::{DescriptorCollector, reopen};
use crate::NativeError;
use crate::image::{NamelessFile, OpenFile};

const REMOVED: &str = " (deleted)";
/// Kept in the image, which is written and read as one; CRIU keeps larger ones.
const NAMELESS_BYTES_AT_MOST: u64 = 64 << 20;
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

    /// It has no name any more; a name may also end as the kernel marks those.
    pub(super) fn is_removed(&self) -> bool {
        self.stat.st_nlink == 0 && self.link.ends_with(REMOVED)
    }

    /// Something to be opened again by its path, which must lead to it now.
    pub(super) fn named(&self) -> Result<OpenFile, NativeError> {
        self.refuse_file_system()?;
        if !self.leads_here(&self.link)? {
            return Err(self.unheld(&match self.link.strip_suffix(REMOVED) {
                Some(path) => format!("is {path}, which was removed but has other names"),
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

    fn keep_nameless(&self) -> Result<NamelessFile, NativeError> {
        self.refuse_file_system()?;
        let bytes = u64::try_from(self.stat.st_size).map_err(|_| self.not_understood())?;
        let stored = u64::try_from(self.stat.st_blocks).map_err(|_| self.not_understood())? * 512;
        if stored.min(bytes) > NAMELESS_BYTES_AT_MOST {
            return Err(self.unheld(&format!(
                "is a removed file of {bytes} bytes, too many to hold"
            )));
        }
        let path = self.link.strip_suffix(REMOVED).unwrap_or(&self.link);
        let directory = match path.rsplit_once('/') {
            Some(("", _)) | None => "/",
            Some((directory, _)) => directory,
        };
        let content = content(self, bytes).map_err(self.failed("read a removed file"))?;
        Ok(NamelessFile {
            directory: directory.to_owned(),
            mode: self.stat.st_mode & 0o7777,
            user: self.stat.st_uid,
            group: self.stat.st_gid,
            bytes,
            times: [
                (self.stat.st_atime, nanoseconds(self.stat.st_atime_nsec)),
                (self.stat.st_mtime, nanoseconds(self.stat.st_mtime_nsec)),
            ],
            content,
        })
    }
}

impl DescriptorCollector<'_> {
    /// A file without a name, kept once however many have it open.
    pub(super) fn nameless(&mut self, opened: &Opened<'_>) -> Result<OpenFile, NativeError> {
        let identity = opened.identity();
        let known = self
            .nameless
            .iter()
            .position(|(other, _)| *other == identity);
        let place = match known {
            Some(place) => place,
            None => {
                self.nameless.push((identity, opened.keep_nameless()?));
                self.nameless.len() - 1
            }
        };
        Ok(OpenFile::Nameless {
            file: super::place_in_list(place),
            position: opened.info.position,
        })
    }
}

/// Below a second, so it always fits.
fn nanoseconds(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(0)
}

/// Through a description of our own: reading and looking for holes must not move the sandbox's offset.
fn content(opened: &Opened<'_>, bytes: u64) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let file = reopen(opened.file.as_fd(), OFlags::RDONLY | OFlags::NOATIME)?;
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
