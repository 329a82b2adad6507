//! Stands in for tar(1), which CRIU calls for what is in `/dev` and `/dev/shm`.
//!
//! The real one has to be started with a shell and gzip(1), four times while a sandbox stands still, and compresses: for a large
//! `/dev/shm` that would take longer than all else. Only this program reads what it has written, so the form is its own:
//!
//! ```text
//! Entry (a frame) · bytes of its extents · Entry · …      a directory comes before what is in it
//! ```

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use fermata_protocol::frame;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, SeekFrom, Timespec, Timestamps, Uid, XattrFlags,
};

use crate::error::ShimError;

/// Something in the tree.
#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(bytes = "vec", tag = "1")]
    path: Vec<u8>,
    /// `st_mode`, kind included.
    #[prost(uint32, tag = "2")]
    mode: u32,
    #[prost(uint32, tag = "3")]
    user: u32,
    #[prost(uint32, tag = "4")]
    group: u32,
    #[prost(uint64, tag = "5")]
    device: u64,
    #[prost(int64, tag = "6")]
    modified_s: i64,
    #[prost(int64, tag = "7")]
    modified_ns: i64,
    #[prost(uint64, tag = "8")]
    bytes: u64,
    /// Of a symbolic link.
    #[prost(bytes = "vec", tag = "9")]
    target: Vec<u8>,
    /// An earlier entry that this is another name of; all but the path is that one's.
    #[prost(bytes = "vec", tag = "10")]
    same_as: Vec<u8>,
    #[prost(message, repeated, tag = "11")]
    attributes: Vec<Attribute>,
    /// Where there is data, in order.
    #[prost(message, repeated, tag = "12")]
    extents: Vec<Extent>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Attribute {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Extent {
    #[prost(uint64, tag = "1")]
    start: u64,
    #[prost(uint64, tag = "2")]
    bytes: u64,
}

/// Does what tar(1) would do with the arguments that CRIU gives it.
pub(crate) fn run(arguments: &[OsString]) -> Result<(), ShimError> {
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let directory = arguments
        .iter()
        .position(|argument| argument == "--directory")
        .and_then(|at| arguments.get(at + 1))
        .ok_or(ShimError::Usage)?;
    // From here on all paths are relative, and no entry leads out of the directory.
    std::env::set_current_dir(directory).map_err(ShimError::file("enter", directory))?;
    if has("--create") {
        let output = rustix::io::dup(rustix::stdio::stdout())
            .map_err(ShimError::system("write the archive"))?;
        create(&mut File::from(output)).map_err(ShimError::system("write the archive"))
    } else if has("--extract") {
        let input = rustix::io::dup(rustix::stdio::stdin())
            .map_err(ShimError::system("read the archive"))?;
        extract(&mut File::from(input)).map_err(ShimError::system("read the archive"))
    } else {
        Err(ShimError::Usage)
    }
}

/// Archives the working directory.
pub(crate) fn create(output: &mut File) -> io::Result<()> {
    let file_system = std::fs::metadata(".")?.dev();
    let mut names = HashMap::new();
    let mut pending = vec![PathBuf::from(".")];
    while let Some(path) = pending.pop() {
        let mut entry = describe(&path)?;
        let status = path.symlink_metadata()?;
        if status.nlink() > 1 && !status.is_dir() {
            let first = names.entry(status.ino()).or_insert_with(|| path.clone());
            if *first != path {
                entry = Entry {
                    path: entry.path,
                    same_as: first.as_os_str().as_bytes().to_vec(),
                    ..Entry::default()
                };
            }
        }
        let data = if status.is_file() && entry.same_as.is_empty() {
            let file = File::open(&path)?;
            entry.extents = extents(&file, status.len())?;
            Some(file)
        } else {
            None
        };
        frame::write(output, &entry).map_err(io::Error::other)?;
        for extent in &entry.extents {
            if let Some(file) = &data {
                rustix::fs::seek(file, SeekFrom::Start(extent.start))?;
                copy(file, output, extent.bytes)?;
            }
        }
        // What is mounted on it is another file system's.
        if status.is_dir() && status.dev() == file_system {
            for child in std::fs::read_dir(&path)? {
                pending.push(child?.path());
            }
        }
    }
    Ok(())
}

fn describe(path: &Path) -> io::Result<Entry> {
    let status = path.symlink_metadata()?;
    Ok(Entry {
        path: path.as_os_str().as_bytes().to_vec(),
        mode: status.mode(),
        user: status.uid(),
        group: status.gid(),
        device: status.rdev(),
        modified_s: status.mtime(),
        modified_ns: status.mtime_nsec(),
        bytes: status.len(),
        target: if status.is_symlink() {
            std::fs::read_link(path)?.into_os_string().into_vec()
        } else {
            Vec::new()
        },
        same_as: Vec::new(),
        attributes: attributes(path)?,
        extents: Vec::new(),
    })
}

fn attributes(path: &Path) -> io::Result<Vec<Attribute>> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, names.as_mut_slice()) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length =
                rustix::fs::lgetxattr(path, OsStr::from_bytes(name), value.as_mut_slice())?;
            value.truncate(length);
            Ok(Attribute {
                name: name.to_vec(),
                value,
            })
        })
        .collect()
}

/// Holes stay holes: a shared memory segment is often much larger than what is in it.
fn extents(file: &File, bytes: u64) -> io::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut at = 0;
    while at < bytes {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        at = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(bytes);
        extents.push(Extent {
            start,
            bytes: at - start,
        });
    }
    Ok(extents)
}

/// Makes the archived tree in the working directory.
pub(crate) fn extract(input: &mut File) -> io::Result<()> {
    let mut directories = Vec::new();
    while let Some(entry) = frame::read::<Entry>(input).map_err(io::Error::other)? {
        let path = PathBuf::from(OsString::from_vec(entry.path.clone()));
        if !entry.same_as.is_empty() {
            std::fs::hard_link(OsStr::from_bytes(&entry.same_as), &path)?;
            continue;
        }
        make(&path, &entry, input)?;
        if FileType::from_raw_mode(entry.mode) == FileType::Directory {
            directories.push((path, entry));
        } else {
            set_time(&path, &entry)?;
        }
    }
    // Making what is in a directory changes its time.
    for (path, entry) in directories {
        set_time(&path, &entry)?;
    }
    Ok(())
}

fn make(path: &Path, entry: &Entry, input: &mut File) -> io::Result<()> {
    let kind = FileType::from_raw_mode(entry.mode);
    match kind {
        FileType::Directory => {
            // The top is there, and so is what CRIU has made to mount on.
            if !path.is_dir() {
                std::fs::create_dir(path)?;
            }
        }
        FileType::RegularFile => {
            let file = File::create_new(path)?;
            file.set_len(entry.bytes)?;
            for extent in &entry.extents {
                rustix::fs::seek(&file, SeekFrom::Start(extent.start))?;
                copy(input, &file, extent.bytes)?;
            }
        }
        FileType::Symlink => std::os::unix::fs::symlink(OsStr::from_bytes(&entry.target), path)?,
        _ => rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), entry.device)?,
    }
    let owner = (Uid::from_raw(entry.user), Gid::from_raw(entry.group));
    let no_follow = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(CWD, path, Some(owner.0), Some(owner.1), no_follow)?;
    // After the owner, whose change takes setuid bits away.
    if kind != FileType::Symlink {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(entry.mode & 0o7777))?;
    }
    for attribute in &entry.attributes {
        let name = OsStr::from_bytes(&attribute.name);
        rustix::fs::lsetxattr(path, name, &attribute.value, XattrFlags::empty())?;
    }
    Ok(())
}

fn set_time(path: &Path, entry: &Entry) -> io::Result<()> {
    let time = Timespec {
        tv_sec: entry.modified_s,
        tv_nsec: entry.modified_ns,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::utimensat(
        CWD,
        path,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

fn copy(from: &File, mut to: &File, bytes: u64) -> io::Result<()> {
    if io::copy(&mut from.take(bytes), &mut to)? == bytes {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
