//! What can go wrong in the storage.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use crate::id::{Digest, SnapshotId, UpperId};

/// Why an operation of the pool failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// A file, directory, mount or device could not be used.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A host program is missing or cannot be started.
    #[error("cannot run {program}")]
    Spawn {
        /// Which.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A host program failed.
    #[error("{program} failed ({status}): {output}")]
    Program {
        /// Which.
        program: &'static str,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it printed.
        output: String,
    },
    /// A host program failed because a disk is full.
    #[error("{program} ran out of space")]
    ProgramNoSpace {
        /// Which.
        program: &'static str,
    },
    /// No such upper.
    #[error("upper {id} was not found")]
    UpperNotFound {
        /// As asked.
        id: UpperId,
    },
    /// The id is taken.
    #[error("upper {id} exists already")]
    UpperExists {
        /// As asked.
        id: UpperId,
    },
    /// No such snapshot.
    #[error("snapshot {id} was not found")]
    SnapshotNotFound {
        /// As asked.
        id: SnapshotId,
    },
    /// The id is taken.
    #[error("snapshot {id} exists already")]
    SnapshotExists {
        /// As asked.
        id: SnapshotId,
    },
    /// No such layer.
    #[error("layer {digest} was not found")]
    LayerNotFound {
        /// As asked.
        digest: Digest,
    },
    /// The file of a layer is not what its name says.
    #[error("layer {digest} is damaged: {reason}")]
    DamagedLayer {
        /// Which.
        digest: Digest,
        /// What was found.
        reason: String,
    },
    /// What `mkfs.erofs` made cannot be used.
    #[error("{path} is not a usable EROFS image: {reason}")]
    NotErofs {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A name that `mkfs.erofs` would cut short.
    #[error("a layer cannot hold the name of {path}: it is longer than 254 bytes")]
    NameTooLong {
        /// Which file.
        path: PathBuf,
    },
    /// The wanted driver cannot work here.
    #[error("the {driver} driver cannot be used here: {reason}")]
    DriverUnavailable {
        /// Which.
        driver: &'static str,
        /// Why not.
        reason: String,
    },
    /// The disk is too small for a pool.
    #[error("the pool needs {needed} bytes but only {available} are free")]
    TooLittleSpace {
        /// At least.
        needed: u64,
        /// There are.
        available: u64,
    },
    /// Another process has the pool open.
    #[error("the pool in {path} is in use by another process")]
    InUse {
        /// Its directory.
        path: PathBuf,
    },
    /// Not a valid id.
    #[error("{text:?} is not a valid {kind}")]
    InvalidId {
        /// Of what.
        kind: &'static str,
        /// As given, shortened.
        text: String,
    },
    /// A thread of the pool cannot be started.
    #[error("cannot start a thread")]
    Thread {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A note that the pool keeps about itself cannot be understood.
    #[error("cannot understand {path}")]
    Record {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl PoolError {
    /// Whether what was asked for is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(
            self,
            Self::UpperNotFound { .. } | Self::SnapshotNotFound { .. } | Self::LayerNotFound { .. }
        )
    }

    /// Whether a full disk or quota is at the bottom of this.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        if matches!(
            self,
            Self::ProgramNoSpace { .. } | Self::TooLittleSpace { .. }
        ) {
            return true;
        }
        let mut cause: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>()
                && matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                )
            {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// For `map_err`: an [`io::Error`] or errno with what was tried on which path.
    pub(crate) fn file<E: Into<io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::File {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_full_disk_is_recognised_and_nothing_else_is() {
        let file = |errno: Errno| PoolError::file::<Errno>("write", Path::new("/x"))(errno);
        assert!(file(Errno::NOSPC).is_no_space());
        assert!(file(Errno::DQUOT).is_no_space());
        assert!(
            PoolError::ProgramNoSpace {
                program: "mkfs.erofs"
            }
            .is_no_space()
        );
        assert!(
            PoolError::TooLittleSpace {
                needed: 2,
                available: 1
            }
            .is_no_space()
        );
        assert!(!file(Errno::IO).is_no_space());
    }

    #[test]
    fn the_message_does_not_repeat_its_source() {
        let error = PoolError::file::<Errno>("write", Path::new("/x"))(Errno::NOSPC);
        assert_eq!(error.to_string(), "cannot write /x");
        assert!(error.source().is_some());
    }
}
