//! What can go wrong in a capture or a restore.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a tree could not be captured or restored.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// There is no engine on this machine.
    #[error("memory snapshots need CRIU: {reason}")]
    NoEngine {
        /// What was tried.
        reason: String,
    },
    /// The tree holds something that the engine cannot hold.
    #[error("{} cannot be held: {reason}", Subject(.process.as_ref()))]
    Refused {
        /// The process that has it, where the engine said so.
        process: Option<Process>,
        /// The resource, in the engine's words.
        reason: String,
        /// The end of the engine's log.
        log: String,
    },
    /// A process is in the middle of something that cannot be interrupted.
    #[error("{} cannot be held at this moment", Subject(Some(.process)))]
    Busy {
        /// Which.
        process: Process,
    },
    /// The engine could not play the tree on.
    #[error("the captured processes cannot be played on: {reason}")]
    NotRestored {
        /// In the engine's words.
        reason: String,
        /// The end of the engine's log.
        log: String,
    },
    /// The engine ended in the middle of its work, or was ended.
    #[error("the checkpoint engine ended in the middle of its work ({status})")]
    EngineEnded {
        /// How it ended.
        status: ExitStatus,
        /// The end of the engine's log.
        log: String,
    },
    /// It took longer than allowed and was ended.
    #[error("the checkpoint engine did not come to an end within {seconds} s")]
    TimedOut {
        /// The limit.
        seconds: u64,
    },
    /// What was to happen at the instant of the capture failed.
    #[error("cannot hold what belongs to the memory")]
    AtInstant(#[source] io::Error),
    /// What was to happen before the restored tree goes on failed.
    #[error("cannot prepare the restored processes")]
    BeforeResume(#[source] io::Error),
    /// The engine could not be spoken to.
    #[error("cannot {action} the checkpoint engine")]
    Conversation {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The engine said something that it should not.
    #[error("the checkpoint engine answered what was not asked")]
    Answer,
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
    /// Another program that is needed failed.
    #[error("{program} failed ({status}): {output}")]
    Program {
        /// Its name.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// Its last words.
        output: String,
    },
}

/// What a caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointErrorKind {
    /// This machine, or this tree, cannot.
    Unsupported,
    /// There is no room left.
    NoSpace,
    /// The next try may work.
    Retryable,
    /// A bug, or a broken machine.
    Internal,
}

/// A process of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// As it is seen inside.
    pub pid: i32,
    /// `/proc/PID/comm`.
    pub name: String,
}

struct Subject<'a>(Option<&'a Process>);

impl fmt::Display for Subject<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(process) => write!(formatter, "process {} ({})", process.pid, process.name),
            None => formatter.write_str("the sandbox"),
        }
    }
}

impl CheckpointError {
    /// The row of the table that maps errors to the codes of an interface.
    #[must_use]
    pub fn kind(&self) -> CheckpointErrorKind {
        match self {
            Self::NoEngine { .. } => CheckpointErrorKind::Unsupported,
            Self::Refused { log, .. } | Self::NotRestored { log, .. } if is_no_space(log) => {
                CheckpointErrorKind::NoSpace
            }
            Self::Refused { .. } => CheckpointErrorKind::Unsupported,
            Self::AtInstant(source)
            | Self::BeforeResume(source)
            | Self::Conversation { source, .. }
            | Self::File { source, .. }
                if source.kind() == io::ErrorKind::StorageFull =>
            {
                CheckpointErrorKind::NoSpace
            }
            Self::Busy { .. }
            | Self::NotRestored { .. }
            | Self::EngineEnded { .. }
            | Self::TimedOut { .. } => CheckpointErrorKind::Retryable,
            Self::AtInstant(_)
            | Self::BeforeResume(_)
            | Self::Conversation { .. }
            | Self::Answer
            | Self::File { .. }
            | Self::Program { .. } => CheckpointErrorKind::Internal,
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

    /// For `map_err` on what is done with the engine's process and socket.
    pub(crate) fn conversation<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Conversation {
            action,
            source: source.into(),
        }
    }
}

fn is_no_space(log: &str) -> bool {
    log.contains("No space left on device") || log.contains("Disk quota exceeded")
}
