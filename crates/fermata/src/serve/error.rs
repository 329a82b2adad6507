//! Why the server did not start or did not end well.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use fermata_engine::{EngineError, ErrorKind};

use crate::failure::Explain;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("the server must run as root")]
    NotRoot,
    #[error("cannot start threads")]
    Threads(#[source] io::Error),
    #[error("cannot listen for signals")]
    Signals(#[source] io::Error),
    #[error("cannot {action} {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another server{} uses the data directory {directory}", process(*.pid))]
    Locked {
        directory: PathBuf,
        pid: Option<u32>,
    },
    #[error("the token in {origin} is not usable: {reason}")]
    Token {
        origin: String,
        reason: &'static str,
    },
    #[error("cannot listen for {what} on {address}")]
    Bind {
        what: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the program {name} was not found: not in {}", list(.searched))]
    Program {
        name: &'static str,
        searched: Vec<PathBuf>,
    },
    #[error("cannot open the engine")]
    Open(#[source] EngineError),
    #[error("cannot open the Beam gateway's records")]
    BeamStore(#[source] fermata_gateway::beam::StoreError),
    #[error("the {what} listener broke down")]
    Http {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the gRPC listener broke down")]
    Grpc(#[source] tonic::transport::Error),
    #[error("a listener's task broke down")]
    Task(#[source] tokio::task::JoinError),
    #[error("cannot shut the engine down")]
    ShutDown(#[source] EngineError),
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    paths.join(", nor in ")
}

impl Explain for ServeError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotRoot => "namespaces, mounts and control groups need it: try sudo",
            Self::Locked { .. } => "stop it, or give this one another --data-dir",
            Self::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                "choose another address with --grpc or --http; port 0 takes a free one"
            }
            Self::Open(error) if error.kind() == ErrorKind::Internal => {
                "`fermata doctor` checks what this machine lacks"
            }
            Self::Program { .. } => {
                "it comes with fermata: install it again, or `cargo build --workspace`"
            }
            Self::Token { .. } => "make one with `openssl rand -hex 32`, or remove the file",
            _ => return None,
        };
        Some(hint.to_owned())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::NotRoot
            | Self::Locked { .. }
            | Self::Token { .. }
            | Self::Program { .. }
            | Self::Bind { .. } => 2,
            _ => 1,
        }
    }
}
