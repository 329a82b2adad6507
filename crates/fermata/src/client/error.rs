//! Why the server was not reached or did not do it.

use fermata_gateway::rest::model::ErrorDetail;
use tokio_tungstenite::tungstenite;

use crate::failure::Explain;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("FERMATA_URL is {url:?}, which is not of the form http://HOST:PORT")]
    Url { url: String },
    #[error("FERMATA_URL is set, but FERMATA_TOKEN is not")]
    TokenMissing,
    #[error("the token is not one that HTTP can carry")]
    Token,
    #[error("cannot prepare for HTTP")]
    Prepare(#[source] reqwest::Error),
    #[error("cannot reach the server at {url}")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{}", .detail.message)]
    Refused { detail: ErrorDetail },
    #[error("the server answered {status} without saying why")]
    Unexplained { status: reqwest::StatusCode },
    #[error("the server's answer broke off")]
    BrokenOff(#[source] reqwest::Error),
    #[error("the server's answer is not what was asked for")]
    Answer(#[source] serde_json::Error),
    #[error("the server's answer lacks the header {name}")]
    HeaderMissing { name: &'static str },
    #[error("the session with the process broke off")]
    Session(#[source] Box<tungstenite::Error>),
    #[error("the session with the process ended without its exit code: {reason}")]
    SessionEnded { reason: String },
    #[error("no {what} has the id {prefix}, or one that begins so")]
    Unknown { what: &'static str, prefix: String },
    #[error("{prefix} may be any of these: {}", candidates.join(", "))]
    Ambiguous {
        prefix: String,
        candidates: Vec<String>,
    },
}

impl Explain for ClientError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unreachable { source, .. } if source.is_connect() => {
                "is `fermata serve` running there?"
            }
            Self::Session(_) | Self::SessionEnded { .. } => {
                "the process may still run: `fermata ps SANDBOX`, then `fermata logs -f SANDBOX PID`"
            }
            Self::TokenMissing => "`eval \"$(fermata env)\"` sets both, on the server's machine",
            Self::Unknown {
                what: "sandbox", ..
            } => "`fermata ps -a` lists all sandboxes",
            Self::Unknown { what: "image", .. } => "`fermata image ls` lists all images",
            Self::Refused { detail } => match detail.kind.as_str() {
                "unauthenticated" => {
                    "FERMATA_TOKEN must be the token in the server's data directory"
                }
                "resource_exhausted" => "stop sandboxes or remove images to make room",
                _ => return None,
            },
            _ => return None,
        };
        Some(hint.to_owned())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { detail } if detail.kind != "unauthenticated" => 1,
            Self::Unknown { .. } | Self::Ambiguous { .. } => 1,
            _ => 2,
        }
    }
}
