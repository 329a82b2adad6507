//! What can be wrong with a snapshot.

use std::io;
use std::path::PathBuf;

/// Why a snapshot could not be sealed or read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It was never finished.
    #[error("{} holds no finished memory snapshot", directory.display())]
    Missing {
        /// The snapshot's directory.
        directory: PathBuf,
    },
    /// A later program made it.
    #[error("{} has format {found}, which this program does not know", path.display())]
    Version {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It is not what was written.
    #[error("{} is corrupt: {reason}", path.display())]
    Corrupt {
        /// The manifest or a part.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A file operation.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl ManifestError {
    /// Whether a full disk is the cause.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }

    /// For `map_err` on file operations.
    pub(super) fn file<E: Into<io::Error>>(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::File {
            action,
            path: path.into(),
            source: source.into(),
        }
    }

    pub(super) fn corrupt(path: PathBuf, reason: impl Into<String>) -> Self {
        Self::Corrupt {
            path,
            reason: reason.into(),
        }
    }
}
