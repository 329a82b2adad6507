//! What can go wrong in a shim.

use std::io;
use std::path::PathBuf;

use fermata_checkpoint::CheckpointError;
use fermata_checkpoint::criu::LaunchError;
use fermata_native::NativeError;

/// Why the shim gave up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShimError {
    #[error(
        "usage: fermata-shim RUN_DIRECTORY | fermata-shim engine SPEC NETWORK | fermata-shim learn-kernel SPEC"
    )]
    Usage,
    #[error("cannot {action} {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot understand the sandbox's specification")]
    Spec(#[source] serde_json::Error),
    #[error("cannot {action}")]
    System {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot set up the sandbox: {message}")]
    Child { message: String },
    #[error("process 1 ended before it was ready")]
    InitEnded,
    #[error(transparent)]
    Restore(CheckpointError),
    #[error(transparent)]
    Native(NativeError),
    #[error(transparent)]
    Engine(LaunchError),
}

impl ShimError {
    /// For `map_err` on system calls.
    pub(crate) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            action,
            source: source.into(),
        }
    }

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
