//! One server a data directory.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use fermata_sys::file_lock::lock_exclusively;

use super::error::ServeError;

const LOCK_FILE: &str = "daemon.lock";

/// For what a killed server was just starting.
const PATIENCE: Duration = Duration::from_secs(3);

/// Held as long as it lives; the kernel lets go of it however the process ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Takes the directory, making it when it is missing.
pub(super) fn take(directory: &Path) -> Result<Lock, ServeError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| ServeError::File {
            action,
            path,
            source,
        }
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed("create the data directory", directory))?;
    let path = directory.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        // Whoever holds the lock has written its pid into it.
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open", &path))?;
    if !lock_exclusively(&file, PATIENCE).map_err(failed("lock", &path))? {
        let mut text = String::new();
        let pid = file
            .read_to_string(&mut text)
            .ok()
            .and_then(|_length| text.trim().parse().ok());
        return Err(ServeError::Locked {
            directory: directory.to_owned(),
            pid,
        });
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed("write", &path))?;
    Ok(Lock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_server_is_told_who_holds_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let first = take(directory.path()).unwrap();
        let Err(ServeError::Locked { pid, .. }) = take(directory.path()) else {
            panic!("taken twice");
        };
        assert_eq!(pid, Some(std::process::id()));
        drop(first);
        take(directory.path()).unwrap();
    }
}
