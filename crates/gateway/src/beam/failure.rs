//! Failures in the Beam client's words.
//!
//! Most answers carry `ok` and `error_msg`; where an answer has no room for an error, it is a gRPC status.

use fermata_engine::{EngineError, ErrorKind, RuntimeError, error_chain};
use tonic::{Code, Status};

use super::store::StoreError;
use super::wire::{gateway, pod};

/// The client asks again, for up to two minutes, when `error_msg` is exactly this.
const ASK_AGAIN: &str = "Failed to connect to sandbox";

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum BeamError {
    /// The client looks for these words.
    #[error("Container not found: {id}")]
    ContainerNotFound { id: String },
    #[error("Container not running: {id} ({status})")]
    ContainerNotRunning { id: String, status: String },
    #[error("Stub not found: {id}")]
    StubNotFound { id: String },
    #[error("{what}: not supported by this server yet")]
    Unsupported { what: String },
    #[error("{reason}")]
    Invalid { reason: String },
    #[error("the answer is too large: {reason}")]
    TooLarge { reason: String },
    #[error(transparent)]
    Engine(EngineError),
    #[error(transparent)]
    Agent(#[from] RuntimeError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<EngineError> for BeamError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::SandboxNotFound { id } => Self::ContainerNotFound { id: id.into() },
            EngineError::NotRunning { id, status } => Self::ContainerNotRunning {
                id: id.into(),
                status: super::lifecycle::status_word(status).to_owned(),
            },
            other => Self::Engine(other),
        }
    }
}

impl BeamError {
    pub(super) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }

    pub(super) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid {
            reason: reason.into(),
        }
    }

    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::ContainerNotFound { .. } | Self::StubNotFound { .. } => ErrorKind::NotFound,
            Self::ContainerNotRunning { .. } => ErrorKind::FailedPrecondition,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Invalid { .. } => ErrorKind::InvalidArgument,
            Self::TooLarge { .. } => ErrorKind::ResourceExhausted,
            Self::Engine(error) => error.kind(),
            Self::Agent(error) => error.kind().into(),
            Self::Store(_) => ErrorKind::Internal,
        }
    }

    /// Whether asking again may help.
    pub(super) fn is_transient(&self) -> bool {
        self.kind() == ErrorKind::Unavailable
    }

    pub(super) fn chain(&self) -> String {
        error_chain(self)
    }

    fn log(&self) {
        if self.kind() == ErrorKind::Internal {
            tracing::error!(error = %self.chain(), "call failed");
        } else {
            tracing::debug!(error = %self.chain(), "call refused");
        }
    }
}

impl From<BeamError> for Status {
    fn from(error: BeamError) -> Self {
        error.log();
        Self::new(code_of(error.kind()), error.chain())
    }
}

/// The one table from kinds to gRPC codes.
fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Internal => Code::Internal,
    }
}

/// An answer that has room for a failure.
pub(super) trait Answer: Clone + Send + Sync + 'static {
    /// Whether the client repeats the call by itself when it is told to ask again.
    const REPEATED: bool;

    /// `ok = false` with these words.
    fn failed(message: String) -> Self;

    /// A failure in the words that make the client do the right thing.
    fn failure(error: &BeamError) -> Self {
        error.log();
        if Self::REPEATED && error.is_transient() {
            Self::failed(ASK_AGAIN.to_owned())
        } else {
            Self::failed(error.chain())
        }
    }
}

macro_rules! answers {
    ($repeated:literal, $field:ident: $($message:path),+ $(,)?) => {
        $(impl Answer for $message {
            const REPEATED: bool = $repeated;

            fn failed(message: String) -> Self {
                let mut answer = Self::default();
                answer.$field = message;
                answer
            }
        })+
    };
}

answers!(
    true, error_msg:
    pod::PodSandboxExecResponse,
    pod::PodSandboxStatusResponse,
    pod::PodSandboxStdoutResponse,
    pod::PodSandboxStderrResponse,
    pod::PodSandboxKillResponse,
    pod::PodSandboxListProcessesResponse,
    pod::PodSandboxUploadFileResponse,
    pod::PodSandboxDownloadFileResponse,
    pod::PodSandboxStatFileResponse,
    pod::PodSandboxListFilesResponse,
    pod::PodSandboxDeleteFileResponse,
    pod::PodSandboxCreateDirectoryResponse,
    pod::PodSandboxDeleteDirectoryResponse,
    pod::PodSandboxReplaceInFilesResponse,
    pod::PodSandboxFindInFilesResponse,
    pod::PodSandboxExposePortResponse,
    pod::PodSandboxListUrlsResponse,
    pod::PodSandboxUpdateNetworkPermissionsResponse,
    pod::PodSandboxConnectResponse,
    pod::PodSandboxUpdateTtlResponse,
    gateway::StopContainerResponse,
);
answers!(
    false, error_msg:
    pod::CreatePodResponse,
    pod::PodSandboxCreateImageFromFilesystemResponse,
    pod::PodSandboxSnapshotMemoryResponse,
    pod::PodSandboxSnapshotDisksResponse,
    gateway::ListContainersResponse,
    gateway::CheckpointContainerResponse,
);
answers!(false, err_msg: gateway::GetOrCreateStubResponse);

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    const KINDS: [ErrorKind; 9] = [
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        ErrorKind::InvalidArgument,
        ErrorKind::FailedPrecondition,
        ErrorKind::ResourceExhausted,
        ErrorKind::PermissionDenied,
        ErrorKind::Unsupported,
        ErrorKind::Unavailable,
        ErrorKind::Internal,
    ];

    fn unreachable_agent() -> BeamError {
        BeamError::Agent(RuntimeError::Connect {
            peer: "agent",
            source: io::ErrorKind::ConnectionRefused.into(),
        })
    }

    #[test]
    fn every_kind_has_its_own_code() {
        let mut codes: Vec<i32> = KINDS.iter().map(|kind| code_of(*kind).into()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), KINDS.len());
    }

    #[test]
    fn an_unreachable_agent_makes_the_client_ask_again_where_it_can() {
        let exec = pod::PodSandboxExecResponse::failure(&unreachable_agent());
        assert!(!exec.ok);
        assert_eq!(exec.error_msg, ASK_AGAIN);
        let snapshot =
            pod::PodSandboxCreateImageFromFilesystemResponse::failure(&unreachable_agent());
        assert!(
            snapshot.error_msg.contains("cannot connect to the agent"),
            "{}",
            snapshot.error_msg
        );
    }

    #[test]
    fn nothing_else_says_what_the_client_takes_as_a_request_to_repeat() {
        let errors = [
            BeamError::from(EngineError::SandboxNotFound {
                id: "a".parse().unwrap(),
            }),
            BeamError::from(EngineError::NotRunning {
                id: "a".parse().unwrap(),
                status: fermata_engine::SandboxStatus::Stopped,
            }),
            BeamError::unsupported("gpu"),
            BeamError::StubNotFound { id: "a".to_owned() },
        ];
        for error in errors {
            let said = pod::PodSandboxExecResponse::failure(&error)
                .error_msg
                .to_lowercase();
            for trigger in [
                "failed to connect",
                "failed to get sandbox",
                "not ready",
                "deadline exceeded",
                "become ready",
            ] {
                assert!(!said.contains(trigger), "{said:?}");
            }
        }
    }

    #[test]
    fn an_unknown_sandbox_is_named_as_the_client_expects() {
        let error = BeamError::from(EngineError::SandboxNotFound {
            id: "abc".parse().unwrap(),
        });
        assert_eq!(error.chain(), "Container not found: abc");
        assert_eq!(Status::from(error).code(), Code::NotFound);
    }
}
