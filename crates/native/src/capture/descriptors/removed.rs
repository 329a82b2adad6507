//! Files that were removed while they were open.
//!
//! ```text
//!  no name left            ─► its content is held
//!  other names (link(2))   ─► opened by one of those: looked for where it was, then wherever the sandbox has changed something
//!  of a lower layer        ─► overlayfs counts the names that the layer has; nobody can write it, so its content is held
//! ```

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::paths::content;
use super::{DescriptorCollector, Found, Kind, place_in_list};
use crate::NativeError;
use crate::image::{NamelessFile, OpenFile};

pub(super) const REMOVED: &str = " (deleted)";
/// Kept in the image, which is written and read as one; CRIU keeps larger ones.
const NAMELESS_BYTES_AT_MOST: u64 = 64 << 20;
/// The tree stands still meanwhile.
const DIRECTORIES_AT_MOST: usize = 20_000;

type Identity = (u64, u64);

/// Names by inode, and whether there can be none that was not found.
#[derive(Default)]
struct Search {
    wanted: HashSet<Identity>,
    names: HashMap<Identity, String>,
    directories: usize,
}

/// What there is to know about removed files before each is held.
pub(super) struct OtherNames {
    names: HashMap<Identity, String>,
    /// The device of the sandbox's root, if all that it has of its own was searched.
    searched: Option<u64>,
}

impl DescriptorCollector<'_> {
    /// Finds the names that removed files have left.
    pub(super) fn other_names(&self) -> Result<OtherNames, NativeError> {
        let mut search = Search::default();
        let mut removed = Vec::new();
        for found in &self.found {
            if matches!(found.kind, Kind::Removed { .. }) && stat(found)?.st_nlink > 0 {
                search.wanted.insert(found.identity);
                removed.push(found);
            }
        }
        let (Some(root), Some(first)) = (self.root.as_deref(), removed.first()) else {
            return Ok(OtherNames {
                names: search.names,
                searched: None,
            });
        };
        for found in &removed {
            search
                .look_into(root.as_fd(), directory_of(&found.path))
                .map_err(found.failed("look for another name of a removed file"))?;
        }
        let device = rustix::fs::fstat(root)
            .map_err(|error| first.failed("look at the root directory")(error.into()))?
            .st_dev;
        let is_left = search.wanted.iter().any(|(of, _)| *of == device);
        let searched = match &self.upper {
            Some(upper) if is_left => search
                .look_everywhere(root.as_fd(), upper)
                .map_err(first.failed("look for another name of a removed file"))?,
            _ => false,
        };
        Ok(OtherNames {
            names: search.names,
            searched: searched.then_some(device),
        })
    }

    /// A removed file: by another name, or with its content, kept once however many have it open.
    pub(super) fn removed(
        &self,
        found: &Found,
        position: u64,
        names: &OtherNames,
        kept: &mut Vec<(Identity, NamelessFile)>,
    ) -> Result<OpenFile, NativeError> {
        if let Some(name) = names.names.get(&found.identity) {
            return Ok(OpenFile::Path {
                path: name.clone(),
                kind: FileType::RegularFile.as_raw_mode(),
                position,
            });
        }
        let known = kept.iter().position(|(other, _)| *other == found.identity);
        let place = match known {
            Some(place) => place,
            None => {
                let stat = stat(found)?;
                let is_unwritable = OFlags::from_bits_retain(found.flags) & OFlags::ACCMODE
                    == OFlags::RDONLY
                    && names.searched == Some(found.identity.0);
                if stat.st_nlink > 0 && !is_unwritable {
                    let path = without_mark(&found.path);
                    return Err(
                        found.unheld(&format!("is {path}, removed, whose other name is unknown"))
                    );
                }
                kept.push((found.identity, keep(found, &stat)?));
                kept.len() - 1
            }
        };
        Ok(OpenFile::Nameless {
            file: place_in_list(place),
            position,
        })
    }
}

impl Search {
    /// Looks through one directory of the sandbox, if it is there.
    fn look_into(&mut self, root: BorrowedFd<'_>, directory: &str) -> io::Result<()> {
        let Some(directory_file) = open_below(root, directory)? else {
            return Ok(());
        };
        for entry in Dir::read_from(&directory_file)? {
            let entry = entry?;
            // Cheap, since xino=on (and a file system of one device) shows the number that stat(2) does.
            if !self.wanted.iter().any(|(_, inode)| *inode == entry.ino()) {
                continue;
            }
            let name = entry.file_name();
            let stat = match rustix::fs::statat(&directory_file, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            let Ok(name) = name.to_str() else {
                continue;
            };
            if self.wanted.remove(&(stat.st_dev, stat.st_ino)) {
                let path = format!("{}/{name}", directory.trim_end_matches('/'));
                self.names.insert((stat.st_dev, stat.st_ino), path);
            }
        }
        Ok(())
    }

    /// Looks through every directory in which the sandbox has changed something: a name that it made is in the upper. Whether
    /// it was not too much.
    fn look_everywhere(&mut self, root: BorrowedFd<'_>, upper: &Path) -> io::Result<bool> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let upper = rustix::fs::open(upper, flags, Mode::empty())?;
        let mut pending = vec![String::from("/")];
        let mut is_whole = true;
        while let Some(directory) = pending.pop() {
            if self.wanted.is_empty() {
                return Ok(is_whole);
            }
            self.directories += 1;
            if self.directories > DIRECTORIES_AT_MOST {
                return Ok(false);
            }
            self.look_into(root, &directory)?;
            let Some(changed) = open_below(upper.as_fd(), &directory)? else {
                continue;
            };
            for entry in Dir::read_from(&changed)? {
                let entry = entry?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..")
                    || !is_directory(&changed, name, entry.file_type())?
                {
                    continue;
                }
                match name.to_str() {
                    Ok(name) => {
                        pending.push(format!("{}/{name}", directory.trim_end_matches('/')));
                    }
                    Err(_) => is_whole = false,
                }
            }
        }
        Ok(is_whole)
    }
}

fn is_directory(parent: &OwnedFd, name: &std::ffi::CStr, kind: FileType) -> io::Result<bool> {
    if kind != FileType::Unknown {
        return Ok(kind == FileType::Directory);
    }
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn open_below(root: BorrowedFd<'_>, directory: &str) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(root, directory, flags, Mode::empty(), resolve) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn stat(found: &Found) -> Result<Stat, NativeError> {
    rustix::fs::fstat(&found.file)
        .map_err(|error| found.failed("look at a removed file")(error.into()))
}

fn without_mark(path: &str) -> &str {
    path.strip_suffix(REMOVED).unwrap_or(path)
}

fn directory_of(path: &str) -> &str {
    match without_mark(path).rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((directory, _)) => directory,
    }
}

fn keep(found: &Found, stat: &Stat) -> Result<NamelessFile, NativeError> {
    let number = |value: i64| {
        u64::try_from(value).map_err(|_| found.unheld("is shown by the kernel in an unknown form"))
    };
    let bytes = number(stat.st_size)?;
    let stored = number(stat.st_blocks)?.saturating_mul(512);
    if stored.min(bytes) > NAMELESS_BYTES_AT_MOST {
        return Err(found.unheld(&format!(
            "is a removed file of {bytes} bytes, too many to hold"
        )));
    }
    let content =
        content(found.file.as_fd(), bytes).map_err(found.failed("read a removed file"))?;
    Ok(NamelessFile {
        directory: directory_of(&found.path).to_owned(),
        mode: stat.st_mode & 0o7777,
        user: stat.st_uid,
        group: stat.st_gid,
        bytes,
        times: [
            (stat.st_atime, nanoseconds(stat.st_atime_nsec)),
            (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
        ],
        content,
    })
}

/// Below a second, so it always fits.
fn nanoseconds(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(0)
}
