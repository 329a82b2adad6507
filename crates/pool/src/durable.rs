//! Files and names that are still there after a power cut: write under another name, sync, rename, sync the directory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::{PoolError, Result};

/// Makes a directory and those above it.
pub(crate) fn create_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(PoolError::file("make directory", path))
}

/// Waits until the names in a directory are on disk.
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(PoolError::file("sync", path))
}

/// Gives the complete file or tree at `from` its final name. The content must have been synced. Both on one filesystem.
pub(crate) fn publish(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(PoolError::file("rename to", to))?;
    sync_directory(parent(to))
}

/// Writes a small file so that a reader sees the old or the new content, never a part.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = Temporary::new(parent(path).join(format!(".new-{name}")));
    fs::write(temporary.path(), content).map_err(PoolError::file("write", temporary.path()))?;
    sync_file(temporary.path())?;
    publish(temporary.path(), path)
}

/// Waits until a file's content is on disk.
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(PoolError::file("sync", path))
}

/// Removes a file or a tree; what is not there is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(PoolError::file("look at", path)(error)),
    };
    let removed = if found.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.map_err(PoolError::file("remove", path))
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or_else(|| Path::new("/"))
}

/// A file or tree that is removed when this goes out of scope; a published one is no longer there under this name.
#[derive(Debug)]
pub(crate) struct Temporary(PathBuf);

impl Temporary {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            // The next open of the pool removes what is left.
            tracing::warn!(path = %self.0.display(), error = &error as &dyn std::error::Error, "temporary data stays");
        }
    }
}
