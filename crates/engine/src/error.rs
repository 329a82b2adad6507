//! What can go wrong, by kind.

use crate::model::{
    ImageId, InvalidId, InvalidPort, PortNumber, SandboxId, SandboxStatus, SnapshotId,
};

/// The closed list of kinds; gateways map each to their own codes by one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such thing.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The request is wrong in itself.
    InvalidArgument,
    /// The request does not fit the present state.
    FailedPrecondition,
    /// A limit or a full disk.
    ResourceExhausted,
    /// May not be done.
    PermissionDenied,
    /// Not offered.
    Unsupported,
    /// May work when tried again.
    Unavailable,
    /// A bug or a broken environment.
    Internal,
}

/// Why an operation of the engine failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// No such sandbox.
    #[error("sandbox {id} was not found")]
    SandboxNotFound {
        /// As asked.
        id: SandboxId,
    },
    /// No such image.
    #[error("image {id} was not found")]
    ImageNotFound {
        /// As asked.
        id: ImageId,
    },
    /// The wanted id is taken.
    #[error("sandbox {id} exists already")]
    SandboxExists {
        /// As asked.
        id: SandboxId,
    },
    /// The sandbox is not running.
    #[error("sandbox {id} is not running: it is {status:?}")]
    NotRunning {
        /// Which.
        id: SandboxId,
        /// What it is instead.
        status: SandboxStatus,
    },
    /// The image is needed.
    #[error("image {id} is in use by {users}")]
    ImageInUse {
        /// Which.
        id: ImageId,
        /// By what.
        users: String,
    },
    /// The port is not exposed.
    #[error("port {port} of sandbox {id} is not exposed")]
    PortNotExposed {
        /// Of which sandbox.
        id: SandboxId,
        /// As asked.
        port: PortNumber,
    },
    /// The sandbox exposes as many ports as it may.
    #[error("sandbox {id} exposes {limit} ports already, which is the most")]
    TooManyPorts {
        /// Which.
        id: SandboxId,
        /// How many there may be.
        limit: usize,
    },
    /// Not a port.
    #[error(transparent)]
    InvalidPort(#[from] InvalidPort),
    /// No such memory snapshot.
    #[error("memory snapshot {id} was not found")]
    SnapshotNotFound {
        /// As asked.
        id: SnapshotId,
    },
    /// The memory snapshot is needed.
    #[error("memory snapshot {id} is in use by {users}")]
    SnapshotInUse {
        /// Which.
        id: SnapshotId,
        /// By what.
        users: String,
    },
    /// This server has nothing to capture and restore processes with.
    #[error("memory snapshots are not possible on this server: {reason}")]
    NoCheckpointer {
        /// Why.
        reason: String,
    },
    /// This machine cannot play the memory snapshot on.
    #[error(
        "memory snapshot {id} cannot be played on here: {reason} (its filesystem can be used as image {image})"
    )]
    NotPlayable {
        /// Which.
        id: SnapshotId,
        /// Its filesystem half.
        image: ImageId,
        /// Why not.
        reason: String,
        /// Whether it may work later on this machine.
        retryable: bool,
    },
    /// The memory snapshot could not be written.
    #[error("cannot write memory snapshot {id}")]
    Snapshot {
        /// Which.
        id: SnapshotId,
        /// Why.
        #[source]
        source: fermata_checkpoint::ManifestError,
    },
    /// The processes could not be captured.
    #[error("cannot {action} the processes of sandbox {id}")]
    Checkpoint {
        /// What was tried.
        action: &'static str,
        /// Of which.
        id: SandboxId,
        /// Why.
        #[source]
        source: fermata_checkpoint::CheckpointError,
    },
    /// Not an id.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// A field has a value that makes no sense.
    #[error("invalid {field}: {reason}")]
    InvalidArgument {
        /// Which field.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Not offered by this server.
    #[error("{what} is not supported by this server{hint}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What to do instead, with its leading separator; may be empty.
        hint: &'static str,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The storage failed.
    #[error("storage failed for {subject}")]
    Pool {
        /// For what.
        subject: String,
        /// Why.
        #[source]
        source: fermata_pool::PoolError,
    },
    /// The sandbox could not be made, reached or ended.
    #[error("cannot {action} sandbox {id}")]
    Runtime {
        /// What was tried.
        action: &'static str,
        /// Which.
        id: SandboxId,
        /// Why.
        #[source]
        source: fermata_runtime::RuntimeError,
    },
    /// The machine could not be prepared.
    #[error("cannot {action}")]
    Host {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: fermata_runtime::RuntimeError,
    },
    /// The records could not be read or written.
    #[error("cannot {action} in the database")]
    Database {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// A file of the server's own could not be used.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl EngineError {
    /// Which kind this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::SandboxNotFound { .. }
            | Self::ImageNotFound { .. }
            | Self::SnapshotNotFound { .. }
            | Self::PortNotExposed { .. } => ErrorKind::NotFound,
            Self::SandboxExists { .. } => ErrorKind::AlreadyExists,
            Self::NotRunning { .. } | Self::ImageInUse { .. } | Self::SnapshotInUse { .. } => {
                ErrorKind::FailedPrecondition
            }
            Self::NotPlayable { retryable, .. } => {
                if *retryable {
                    ErrorKind::Unavailable
                } else {
                    ErrorKind::FailedPrecondition
                }
            }
            Self::InvalidId(_) | Self::InvalidPort(_) | Self::InvalidArgument { .. } => {
                ErrorKind::InvalidArgument
            }
            Self::TooManyPorts { .. } => ErrorKind::ResourceExhausted,
            Self::Unsupported { .. } | Self::NoCheckpointer { .. } => ErrorKind::Unsupported,
            Self::Checkpoint { source, .. } => source.kind().into(),
            Self::ShuttingDown => ErrorKind::Unavailable,
            Self::Pool { source, .. } => {
                if source.is_no_space() {
                    ErrorKind::ResourceExhausted
                } else {
                    ErrorKind::Internal
                }
            }
            Self::Runtime { source, .. } | Self::Host { source, .. } => source.kind().into(),
            Self::Snapshot { source, .. } => {
                if source.is_no_space() {
                    ErrorKind::ResourceExhausted
                } else {
                    ErrorKind::Internal
                }
            }
            Self::Database { .. } | Self::File { .. } => ErrorKind::Internal,
        }
    }

    /// The whole chain of causes on one line, for logs and for callers whose protocol has one string.
    #[must_use]
    pub fn chain(&self) -> String {
        fermata_runtime::error_chain(self)
    }
}

impl From<fermata_checkpoint::CheckpointErrorKind> for ErrorKind {
    fn from(kind: fermata_checkpoint::CheckpointErrorKind) -> Self {
        use fermata_checkpoint::CheckpointErrorKind as Kind;
        match kind {
            Kind::Unsupported => Self::Unsupported,
            Kind::NoSpace => Self::ResourceExhausted,
            Kind::Retryable => Self::Unavailable,
            Kind::Internal => Self::Internal,
        }
    }
}

impl From<fermata_runtime::RuntimeErrorKind> for ErrorKind {
    fn from(kind: fermata_runtime::RuntimeErrorKind) -> Self {
        use fermata_runtime::RuntimeErrorKind as Kind;
        match kind {
            Kind::NotFound => Self::NotFound,
            Kind::AlreadyExists => Self::AlreadyExists,
            Kind::InvalidArgument => Self::InvalidArgument,
            Kind::FailedPrecondition => Self::FailedPrecondition,
            Kind::ResourceExhausted => Self::ResourceExhausted,
            Kind::PermissionDenied => Self::PermissionDenied,
            Kind::Unavailable => Self::Unavailable,
            Kind::Internal => Self::Internal,
        }
    }
}
