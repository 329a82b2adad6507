//! Where a server listens and what it wants to hear: left in its data directory for the programs beside it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::DEFAULT_DATA_DIR;
use crate::failure::Explain;
use crate::variables;

/// The file with the [`Endpoints`].
pub(crate) const ENDPOINTS_FILE: &str = "endpoints.json";
/// The file with the token.
pub(crate) const TOKEN_FILE: &str = "token";

/// The real addresses of a running server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoints {
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) pid: u32,
}

/// Why no server was found on this machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointError {
    #[error("no server is running with the data directory {directory}")]
    NoServer { directory: PathBuf },
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is damaged")]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

impl Explain for EndpointError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoServer { .. } => Some(
                "start one with `fermata serve`, name its directory with --data-dir or FERMATA_DATA_DIR, or set FERMATA_URL and FERMATA_TOKEN"
                    .to_owned(),
            ),
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run as root, or set FERMATA_URL and FERMATA_TOKEN".to_owned())
            }
            Self::Read { .. } | Self::Damaged { .. } => None,
        }
    }

    fn exit_code(&self) -> u8 {
        2
    }
}

/// The data directory that is meant.
pub(crate) fn data_directory(flag: Option<PathBuf>) -> PathBuf {
    flag.or_else(|| variables::read(variables::DATA_DIR).map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR))
}

/// The addresses of the server that runs with this data directory.
pub(crate) fn endpoints(directory: &Path) -> Result<Endpoints, EndpointError> {
    let path = directory.join(ENDPOINTS_FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(EndpointError::NoServer {
                directory: directory.to_owned(),
            });
        }
        Err(source) => return Err(EndpointError::Read { path, source }),
    };
    serde_json::from_slice(&text).map_err(|source| EndpointError::Damaged { path, source })
}

/// The token of the environment, else of this data directory.
pub(crate) fn token(directory: &Path) -> Result<String, EndpointError> {
    if let Some(token) = variables::read(variables::TOKEN) {
        return Ok(token);
    }
    let path = directory.join(TOKEN_FILE);
    std::fs::read_to_string(&path)
        .map(|text| text.trim().to_owned())
        .map_err(|source| EndpointError::Read { path, source })
}
