//! Files that appear whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::error::ServeError;
use crate::endpoint::{ENDPOINTS_FILE, Endpoints};

/// Says where the server listens.
pub(super) fn publish(directory: &Path, endpoints: Endpoints) -> Result<(), ServeError> {
    let path = directory.join(ENDPOINTS_FILE);
    serde_json::to_vec(&endpoints)
        .map_err(io::Error::from)
        .and_then(|text| write_whole(directory, ENDPOINTS_FILE, &text))
        .map_err(|source| ServeError::File {
            action: "write",
            path,
            source,
        })
}

/// Says that it listens no more.
pub(super) fn withdraw(directory: &Path) -> Result<(), ServeError> {
    let path = directory.join(ENDPOINTS_FILE);
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(ServeError::File {
            action: "remove",
            path,
            source,
        }),
    }
}

/// Readable by the owner only.
pub(super) fn write_whole(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!(".{name}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}
