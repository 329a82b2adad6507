//! Visiting the files below a path.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::{shown, still_wanted};
use crate::connection::Caller;
use crate::failure::Refusal;

/// Not files that anybody wrote; some of them never end.
const SKIPPED: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Opens every regular file at or below `start`, in the order of their names, hidden ones too. Links are followed at
/// `start` only. What cannot be read, or vanishes meanwhile, is left out.
pub(super) fn visit_files(
    caller: &Caller,
    start: &Path,
    mut visit: impl FnMut(&Path, File) -> Result<ControlFlow<()>, Refusal>,
) -> Result<(), Refusal> {
    let refused = |error: io::Error| Refusal::os("search", shown(start), &error);
    let metadata = fs::metadata(start).map_err(refused)?;
    if !metadata.is_dir() {
        if let Some(file) = open(start, OFlags::empty()).map_err(refused)? {
            // One file only: whether it wants to go on makes no difference.
            let _ = visit(start, file)?;
        }
        return Ok(());
    }
    let skipped: Vec<_> = SKIPPED
        .iter()
        .filter_map(|path| fs::metadata(path).ok())
        .map(|metadata| (metadata.dev(), metadata.ino()))
        .collect();
    // Shows early that the start itself cannot be read, which must not look like an empty directory.
    fs::read_dir(start).map_err(refused)?;
    let mut pending = vec![start.to_owned()];
    while let Some(path) = pending.pop() {
        still_wanted(caller)?;
        let is_directory = path == start || is_plain_directory(&path, &skipped);
        if is_directory {
            pending.extend(entries_last_first(&path));
        } else if let Ok(Some(file)) = open(&path, OFlags::NOFOLLOW)
            && visit(&path, file)?.is_break()
        {
            break;
        }
    }
    Ok(())
}

fn is_plain_directory(path: &Path, skipped: &[(u64, u64)]) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| {
        metadata.is_dir() && !skipped.contains(&(metadata.dev(), metadata.ino()))
    })
}

fn entries_last_first(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort_unstable_by(|one, other| other.cmp(one));
    paths
}

/// `None` for what is not a regular file.
fn open(path: &Path, flags: OFlags) -> io::Result<Option<File>> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    Ok(file.metadata()?.is_file().then_some(file))
}
