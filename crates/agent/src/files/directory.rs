//! Making directories.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{CWD, Mode, chmod, mkdirat};
use rustix::io::Errno;

use super::shown;
use crate::failure::Refusal;

/// What a directory may be accessed by when nobody says otherwise.
const USUAL_MODE: u32 = 0o755;

/// Makes a directory and its parents; one that is there already stays as it is.
pub(super) fn create(path: &Path, mode: u32) -> Result<(), Refusal> {
    let mode = if mode == 0 { USUAL_MODE } else { mode & 0o7777 };
    create_with_parents(path, mode).map_err(|error| Refusal::os("mkdir", shown(path), &error))
}

/// Makes the directories above a path that are missing.
pub(super) fn create_parents(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => create_with_parents(parent, USUAL_MODE),
        None => Ok(()),
    }
}

// Not `create_dir_all`, which calls itself for each component: threads have small stacks here.
fn create_with_parents(path: &Path, mode: u32) -> io::Result<()> {
    let path = without_trailing_slashes(path);
    match create_one(path, mode) {
        Err(Errno::NOENT) => {}
        outcome => return Ok(outcome?),
    }
    let mut ancestors: Vec<_> = path.ancestors().skip(1).collect();
    while let Some(ancestor) = ancestors.pop() {
        // The empty ancestor of a relative path is the directory we are in.
        if !ancestor.as_os_str().is_empty() {
            create_one(ancestor, USUAL_MODE)?;
        }
    }
    Ok(create_one(path, mode)?)
}

fn create_one(path: &Path, mode: u32) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(mode);
    match mkdirat(CWD, path, mode) {
        // mkdir applies the umask, and the caller means what it says.
        Ok(()) => chmod(path, mode),
        Err(Errno::EXIST) if path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// `mkdir link/` and `lstat link/` follow the link, which nobody means who does not know.
pub(super) fn without_trailing_slashes(path: &Path) -> &Path {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/');
    // Nothing but slashes: the root.
    let end = end.map_or(1, |last| last + 1);
    Path::new(OsStr::from_bytes(&bytes[..end.min(bytes.len())]))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use fermata_protocol::agent::failure::Kind;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn parents_get_the_usual_mode_and_the_last_one_its_own() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/c/");
        create(&path, 0o1777).unwrap();
        assert_eq!(mode_of(&path), 0o1777);
        assert_eq!(mode_of(&root.path().join("a/b")), 0o755);
        create(&path, 0o700).unwrap();
        assert_eq!(mode_of(&path), 0o1777);
        create(&root.path().join("d"), 0).unwrap();
        assert_eq!(mode_of(&root.path().join("d")), 0o755);
    }

    #[test]
    fn a_file_in_the_way_is_named_for_what_it_is() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("f");
        std::fs::write(&file, "").unwrap();
        assert_eq!(create(&file, 0).unwrap_err().kind, Kind::AlreadyExists);
        let below = create(&file.join("x"), 0).unwrap_err();
        assert_eq!(below.kind, Kind::NotADirectory);
        assert!(below.message.ends_with(": not a directory"));
    }
}
