//! Removing whole trees, without following links out of them.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::directory::without_trailing_slashes;
use super::{shown, still_wanted};
use crate::connection::Caller;
use crate::failure::Refusal;

/// How often a directory into which somebody keeps writing is emptied anew.
const ATTEMPTS: u32 = 16;

/// A directory being emptied.
struct Level {
    directory: Dir,
    /// Its name in the level above; for the first one the whole path.
    name: CString,
    attempts: u32,
}

/// Removes a file, a link, or a directory with all that is in it. What is not there needs no removing.
pub(super) fn remove(caller: &Caller, path: &Path) -> Result<(), Refusal> {
    let path = without_trailing_slashes(path);
    let refused = |error: io::Error| Refusal::os("remove", shown(path), &error);
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(refused)?,
    };
    let root = Path::new("/").symlink_metadata().map_err(refused)?;
    if (metadata.dev(), metadata.ino()) == (root.dev(), root.ino()) {
        return Err(Refusal::invalid("remove /: the root cannot be removed"));
    }
    if path.file_name().is_none() {
        return Err(Refusal::invalid(format!(
            "remove {}: the path does not end in a name",
            path.display()
        )));
    }
    if metadata.is_dir() {
        remove_tree(caller, path)
    } else {
        gone(unlinkat(CWD, path, AtFlags::empty())).map_err(|error| refused(error.into()))
    }
}

/// Walks with a stack of its own: trees may be deeper than a thread's stack.
fn remove_tree(caller: &Caller, path: &Path) -> Result<(), Refusal> {
    let refused = |error: Errno| Refusal::os("remove", shown(path), &error.into());
    let below = |name: &[u8], error: Errno| {
        let whole = [shown(path), b"/", name].concat();
        Refusal::os("remove", whole, &error.into())
    };
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| refused(Errno::INVAL))?;
    let mut levels = match open_level(CWD, name, 0) {
        Ok(level) => vec![level],
        Err(error) => return gone(Err(error)).map_err(refused),
    };
    while let Some(level) = levels.last_mut() {
        still_wanted(caller)?;
        match level.directory.next() {
            Some(entry) => {
                let entry = entry.map_err(refused)?;
                if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    continue;
                }
                match remove_entry(&level.directory, entry.file_name(), entry.file_type()) {
                    Ok(None) => {}
                    Ok(Some(deeper)) => levels.push(deeper),
                    Err(error) => return Err(below(entry.file_name().to_bytes(), error)),
                }
            }
            None => {
                let Some(Level { name, attempts, .. }) = levels.pop() else {
                    break;
                };
                let above = match levels.last() {
                    Some(level) => level.directory.fd().map_err(refused)?,
                    None => CWD,
                };
                let again = match unlinkat(above, &name, AtFlags::REMOVEDIR) {
                    Err(Errno::NOTEMPTY) if attempts < ATTEMPTS => {
                        Some(open_level(above, name, attempts + 1).map_err(refused)?)
                    }
                    outcome => {
                        gone(outcome).map_err(|error| below(name.to_bytes(), error))?;
                        None
                    }
                };
                levels.extend(again);
            }
        }
    }
    Ok(())
}

/// Removes one entry, or opens it if it is a directory that must be emptied first.
fn remove_entry(
    directory: &Dir,
    name: &std::ffi::CStr,
    kind: FileType,
) -> Result<Option<Level>, Errno> {
    let above = directory.fd()?;
    if kind != FileType::Directory {
        match unlinkat(above, name, AtFlags::empty()) {
            // Not every filesystem tells the kind in its listing.
            Err(Errno::ISDIR | Errno::PERM) => {}
            outcome => return gone(outcome).map(|()| None),
        }
    }
    match open_level(above, name.to_owned(), 0) {
        Ok(level) => Ok(Some(level)),
        // Replaced meanwhile by something that is no directory.
        Err(Errno::NOTDIR | Errno::LOOP) => {
            gone(unlinkat(above, name, AtFlags::empty())).map(|()| None)
        }
        Err(error) => gone(Err(error)).map(|()| None),
    }
}

fn open_level(above: impl std::os::fd::AsFd, name: CString, attempts: u32) -> Result<Level, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let descriptor = openat(above, &name, flags, Mode::empty())?;
    Ok(Level {
        directory: Dir::new(descriptor)?,
        name,
        attempts,
    })
}

/// Somebody else has removed it already: all the same.
fn gone(outcome: Result<(), Errno>) -> Result<(), Errno> {
    match outcome {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixStream;

    use fermata_protocol::agent::failure::Kind;

    use super::*;

    fn caller() -> Caller {
        Caller::new(UnixStream::pair().unwrap().0)
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (tree, outside) = (root.path().join("tree"), root.path().join("outside"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).unwrap();
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        remove(&caller(), &tree).unwrap();
        remove(&caller(), &link.join("")).unwrap();
        assert!(!tree.exists() && !link.is_symlink() && outside.join("kept").exists());
        remove(&caller(), &tree).unwrap();
    }

    #[test]
    fn the_root_and_paths_without_a_name_are_refused() {
        for path in [
            "/",
            "//",
            "/.",
            "/tmp/..",
            "/proc/self/root/.",
            "/proc/self/root/",
        ] {
            // The last one ends in a link, which as such could be removed; the kernel refuses that.
            let refusal = remove(&caller(), Path::new(path)).unwrap_err();
            assert!(
                matches!(refusal.kind, Kind::InvalidArgument | Kind::PermissionDenied),
                "{path}: {refusal:?}"
            );
        }
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let mut above = openat(CWD, root.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..800 {
            rustix::fs::mkdirat(&above, "directory", Mode::from_raw_mode(0o755)).unwrap();
            above = openat(&above, "directory", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let top = root.path().join("directory");
        remove(&caller(), &top).unwrap();
        assert!(!top.exists());
    }
}
