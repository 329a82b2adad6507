//! Reading and writing parts of files.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use fermata_protocol::agent::FileChunk;
use rustix::fs::OFlags;

use super::{directory, shown};
use crate::failure::Refusal;

/// The most that one answer carries.
const MAX_CHUNK_BYTES: u64 = 8 << 20;
/// The mode of new files when nobody says otherwise.
const USUAL_MODE: u32 = 0o644;

/// A FIFO without another end must not hold us up, and no terminal become ours.
fn guarded(options: &mut OpenOptions) -> &mut OpenOptions {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    options.custom_flags(flags.bits().cast_signed())
}

pub(super) fn read(path: &Path, offset: u64, length: u64) -> Result<FileChunk, Refusal> {
    let refused = |error: io::Error| Refusal::os("read", shown(path), &error);
    let file = guarded(OpenOptions::new().read(true))
        .open(path)
        .map_err(refused)?;
    let size = regular(&file, path, "read")?;
    let wanted = match length {
        0 => MAX_CHUNK_BYTES,
        length => length.min(MAX_CHUNK_BYTES),
    };
    // Files of /proc say that they have no size: then the answer is only as large as what is read.
    let expected = size.saturating_sub(offset).clamp(1, wanted);
    let mut data = Vec::new();
    data.try_reserve_exact(usize::try_from(expected).unwrap_or(0))
        .map_err(|_| refused(io::ErrorKind::OutOfMemory.into()))?;
    let mut end = false;
    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
    while data.len() < wanted && !end {
        let filled = data.len();
        let room = (wanted - filled).min(data.capacity().saturating_sub(filled).max(4096));
        data.resize(filled + room, 0);
        let position = offset.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
        let bytes = match file.read_at(&mut data[filled..], position) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                data.truncate(filled);
                continue;
            }
            other => other.map_err(refused)?,
        };
        data.truncate(filled + bytes);
        end = bytes == 0;
    }
    let reached = offset.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
    Ok(FileChunk {
        data: data.into(),
        end: end || (size > 0 && reached >= size),
        size_bytes: size,
    })
}

pub(super) fn write(path: &Path, offset: u64, mode: u32, data: &[u8]) -> Result<(), Refusal> {
    let refused = |error: io::Error| Refusal::os("write", shown(path), &error);
    let file = if offset == 0 {
        create(path, mode).map_err(refused)?
    } else {
        guarded(OpenOptions::new().write(true))
            .open(path)
            .map_err(refused)?
    };
    regular(&file, path, "write")?;
    if offset == 0 {
        file.set_len(0).map_err(refused)?;
    }
    file.write_all_at(data, offset).map_err(refused)
}

/// Opens a file for writing; a new one gets exactly this mode.
fn create(path: &Path, mode: u32) -> io::Result<File> {
    let new = |path: &Path| {
        guarded(OpenOptions::new().write(true).create_new(true))
            .mode(0o600)
            .open(path)
    };
    let created = match new(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            directory::create_parents(path)?;
            new(path)
        }
        other => other,
    };
    let mode = if mode == 0 { USUAL_MODE } else { mode & 0o7777 };
    match created {
        Ok(file) => {
            file.set_permissions(Permissions::from_mode(mode))?;
            Ok(file)
        }
        // There, or a link that leads to where nothing is yet.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            guarded(OpenOptions::new().write(true).create(true))
                .mode(mode)
                .open(path)
        }
        Err(error) => Err(error),
    }
}

/// The size of a regular file; anything else has no parts at offsets.
fn regular(file: &File, path: &Path, action: &str) -> Result<u64, Refusal> {
    let metadata: fs::Metadata = file
        .metadata()
        .map_err(|error| Refusal::os(action, shown(path), &error))?;
    if metadata.is_dir() {
        return Err(Refusal::os(
            action,
            shown(path),
            &rustix::io::Errno::ISDIR.into(),
        ));
    }
    if !metadata.is_file() {
        return Err(Refusal::invalid(format!(
            "{action} {}: not a regular file",
            path.display()
        )));
    }
    Ok(metadata.len())
}

#[cfg(test)]
mod tests {
    use fermata_protocol::agent::failure::Kind;

    use super::*;

    #[test]
    fn parts_written_at_offsets_are_read_back() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("new/dir/file");
        write(&path, 0, 0o4751, b"hello").unwrap();
        write(&path, 5, 0, b" world").unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o751);
        let part = read(&path, 3, 4).unwrap();
        assert_eq!(
            (&part.data[..], part.end, part.size_bytes),
            (&b"lo w"[..], false, 11)
        );
        let rest = read(&path, 7, 0).unwrap();
        assert_eq!((&rest.data[..], rest.end), (&b"orld"[..], true));
        let beyond = read(&path, 11, 4).unwrap();
        assert_eq!((beyond.data.len(), beyond.end), (0, true));
        write(&path, 0, 0o600, b"x").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"x");
        let kept = path.metadata().unwrap().permissions().mode();
        assert_eq!(kept & 0o777, 0o751);
    }

    #[test]
    fn files_that_say_they_are_empty_are_read_to_their_end() {
        let chunk = read(Path::new("/proc/self/status"), 0, 0).unwrap();
        assert!(chunk.end && chunk.data.starts_with(b"Name:"));
        let first = read(Path::new("/proc/self/status"), 0, 5).unwrap();
        assert_eq!((&first.data[..], first.end), (&b"Name:"[..], false));
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused_at_once() {
        let root = tempfile::tempdir().unwrap();
        let fifo = root.path().join("fifo");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(read(&fifo, 0, 0).unwrap_err().kind, Kind::InvalidArgument);
        assert!(write(&fifo, 0, 0, b"x").is_err());
        let directory = read(root.path(), 0, 0).unwrap_err();
        assert_eq!(directory.kind, Kind::IsADirectory);
        assert!(directory.message.ends_with(": is a directory"));
        let written = write(root.path(), 0, 0, b"x").unwrap_err();
        assert_eq!(written.kind, Kind::IsADirectory);
        let missing = write(&root.path().join("missing"), 4, 0, b"x").unwrap_err();
        assert_eq!(missing.kind, Kind::NotFound);
        assert!(missing.message.contains("no such file or directory"));
    }

    #[test]
    fn a_link_to_nowhere_is_written_through() {
        let root = tempfile::tempdir().unwrap();
        let (link, target) = (root.path().join("link"), root.path().join("target"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write(&link, 0, 0o640, b"x").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"x");
        assert!(link.is_symlink());
    }
}
