//! What can go wrong in a capture or a restore.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a tree could not be captured or played on.
#[derive(Debug, thiserror::Error)]
pub enum NativeError {
    /// The tree holds something that this engine cannot hold. Nothing was changed.
    #[error("{owner} cannot be held: {reason}")]
    Unheld {
        /// Who has it.
        owner: Owner,
        /// What it is, in plain words (`descriptor 7 is a perf event`).
        reason: String,
    },
    /// A process is in the middle of something that cannot be interrupted, such as `vfork(2)`. The next try will work.
    #[error("{owner} cannot be held at this moment")]
    Busy {
        /// Which.
        owner: Owner,
    },
    /// A step of a capture.
    #[error("cannot {action} of {owner}")]
    Capture {
        /// What was being done: `read the memory map`, say.
        action: &'static str,
        /// Of whom.
        owner: Owner,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A step of a restore.
    #[error("cannot {action} of {owner}")]
    Restore {
        /// What was being done.
        action: String,
        /// Of whom.
        owner: Owner,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// An image that cannot be right, whoever made it.
    #[error("the image is damaged: {reason}")]
    Image {
        /// What is wrong in it.
        reason: String,
    },
    /// A file of the snapshot.
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

impl NativeError {
    /// For `map_err` on file operations.
    pub(crate) fn file<E: Into<io::Error>>(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::File {
            action,
            path: path.into(),
            source: source.into(),
        }
    }
}

/// A process, as it is seen inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its pid, or its thread's.
    pub pid: i32,
    /// `/proc/PID/comm`.
    pub name: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "process {} ({})", self.pid, self.name)
    }
}
