//! Why a copy failed.

use std::io;
use std::path::PathBuf;

use crate::failure::Explain;

#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    #[error("one side must be in a sandbox and the other one not")]
    Sides,
    #[error("cannot {action} {path}")]
    Local {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not in the sandbox")]
    NotInside { path: String },
    #[error("{path} is a directory")]
    Directory { path: String },
    #[error("{path} has no name to copy it under")]
    Nameless { path: String },
    #[error("the sandbox has an entry named {name:?}, which no file can have")]
    ForeignName { name: String },
    #[error("cannot make the symbolic link {path} in the sandbox: `ln` ended with {code}")]
    Link { path: String, code: i32 },
    #[error("{} were copied, but not these, which are neither files, directories nor symbolic links: {}", .copied, .left_out.join(", "))]
    LeftOut { copied: u64, left_out: Vec<String> },
    #[error("cannot read the content of {path}")]
    Content {
        path: String,
        #[source]
        source: reqwest::Error,
    },
}

impl Explain for CopyError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Sides => {
                "write the path in the sandbox as SANDBOX:/path, and go through a local file between two sandboxes"
            }
            Self::Directory { .. } => "only a file can be copied to stdout",
            _ => return None,
        };
        Some(hint.to_owned())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Sides => 2,
            _ => 1,
        }
    }
}
