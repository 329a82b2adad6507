//! What can go wrong between the daemon and a sandbox.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use fermata_protocol::FrameError;
use fermata_protocol::agent::failure::Kind as AgentKind;

/// The closed list of kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeErrorKind {
    /// No such file or process inside the sandbox.
    NotFound,
    /// It is there already.
    AlreadyExists,
    /// The request is wrong in itself.
    InvalidArgument,
    /// The request does not fit the present state.
    FailedPrecondition,
    /// A limit or a full disk.
    ResourceExhausted,
    /// May not be done.
    PermissionDenied,
    /// The sandbox does not answer; may work when tried again.
    Unavailable,
    /// A bug or a broken environment.
    Internal,
}

/// Why an operation on a sandbox failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The agent refused a call; its own words say why.
    #[error("{message}")]
    Refused {
        /// For programs.
        kind: AgentKind,
        /// For people.
        message: String,
        /// The error number behind it; 0 for none.
        errno: i32,
    },
    /// The agent or the shim cannot be reached.
    #[error("cannot connect to the {peer}")]
    Connect {
        /// `agent` or `shim`.
        peer: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A call was cut off.
    #[error("the {peer} broke off a call")]
    Call {
        /// `agent` or `shim`.
        peer: &'static str,
        /// Why.
        #[source]
        source: FrameError,
    },
    /// A peer answered with something else than was asked for.
    #[error("the {peer} gave an answer that does not fit the call")]
    UnexpectedAnswer {
        /// `agent` or `shim`.
        peer: &'static str,
    },
    /// The shim could not do what it was told.
    #[error("the shim failed: {message}")]
    Shim {
        /// Its words.
        message: String,
    },
    /// The shim ended before the sandbox was there.
    #[error("the sandbox did not start: {reason}")]
    NotStarted {
        /// What the shim said last.
        reason: String,
    },
    /// A file of the machine or of the server could not be used.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A host program failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Which.
        program: &'static str,
        /// What it printed.
        output: String,
    },
    /// A host program could not be started.
    #[error("cannot run {program}")]
    Spawn {
        /// Which.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A system call failed.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A network policy cannot be understood.
    #[error("{network:?} is not a network in CIDR form")]
    InvalidNetwork {
        /// As given.
        network: String,
    },
    /// An allow-list is too long.
    #[error("{given} networks are more than the {limit} that an allow-list may have")]
    TooManyNetworks {
        /// How many there are.
        given: usize,
        /// How many there may be.
        limit: usize,
    },
    /// No such network slot, or nobody uses it.
    #[error("network slot {number} is not in use")]
    UnknownSlot {
        /// As asked.
        number: u32,
    },
    /// Another server with the same run directory is alive.
    #[error("the network of {} belongs to another running server", run_directory.display())]
    NetworkInUse {
        /// Whose.
        run_directory: PathBuf,
    },
    /// Too many servers on this machine.
    #[error("all {limit} network ranges of this machine are in use by other servers")]
    NoFreeInstance {
        /// How many there can be.
        limit: u8,
    },
    /// A port of the host cannot be listened at.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Every port that sandboxes may be reached by is in use.
    #[error("all ports of this host from {first} to {last} are in use")]
    NoFreePort {
        /// The first of the range.
        first: u16,
        /// The last of it.
        last: u16,
    },
    /// Nothing can be exposed any more.
    #[error("the ports of the sandbox are closed: it has ended")]
    PortsClosed,
    /// No address is left for another sandbox.
    #[error("no free network slot: {in_use} are in use")]
    NoFreeSlot {
        /// How many.
        in_use: usize,
    },
}

impl RuntimeError {
    /// Whether somebody else has the port.
    #[must_use]
    pub fn is_address_in_use(&self) -> bool {
        matches!(self, Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }

    /// Which kind this is.
    #[must_use]
    pub fn kind(&self) -> RuntimeErrorKind {
        match self {
            Self::Refused { kind, .. } => match kind {
                AgentKind::NotFound => RuntimeErrorKind::NotFound,
                AgentKind::AlreadyExists => RuntimeErrorKind::AlreadyExists,
                AgentKind::InvalidArgument
                | AgentKind::NotADirectory
                | AgentKind::IsADirectory
                | AgentKind::NotExecutable => RuntimeErrorKind::InvalidArgument,
                AgentKind::PermissionDenied => RuntimeErrorKind::PermissionDenied,
                AgentKind::NoSpace | AgentKind::ResourceExhausted => {
                    RuntimeErrorKind::ResourceExhausted
                }
                AgentKind::FailedPrecondition => RuntimeErrorKind::FailedPrecondition,
                AgentKind::Internal => RuntimeErrorKind::Internal,
            },
            Self::Connect { .. } | Self::Call { .. } => RuntimeErrorKind::Unavailable,
            Self::InvalidNetwork { .. } | Self::TooManyNetworks { .. } => {
                RuntimeErrorKind::InvalidArgument
            }
            Self::NoFreeSlot { .. } | Self::NoFreeInstance { .. } | Self::NoFreePort { .. } => {
                RuntimeErrorKind::ResourceExhausted
            }
            Self::UnknownSlot { .. } => RuntimeErrorKind::NotFound,
            Self::NetworkInUse { .. } | Self::PortsClosed => RuntimeErrorKind::FailedPrecondition,
            Self::UnexpectedAnswer { .. }
            | Self::Shim { .. }
            | Self::NotStarted { .. }
            | Self::File { .. }
            | Self::Program { .. }
            | Self::Spawn { .. }
            | Self::Listen { .. }
            | Self::System { .. } => RuntimeErrorKind::Internal,
        }
    }
}
