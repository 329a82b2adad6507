//! Why a call is refused, in the words that the daemon's callers see.

use std::io;

use fermata_protocol::agent::Failure;
use fermata_protocol::agent::failure::Kind;
use rustix::io::Errno;

/// A refused call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    pub(crate) errno: i32,
}

impl Refusal {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            errno: 0,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }

    /// `stat /x: no such file or directory`, as callers know it from other programs.
    pub(crate) fn os(action: &str, subject: impl AsRef<[u8]>, error: &io::Error) -> Self {
        Self::of_errno(
            kind_of(error),
            &format!("{action} {}", readable(subject.as_ref())),
            error,
        )
    }

    pub(crate) fn of_errno(kind: Kind, what: &str, error: &io::Error) -> Self {
        Self {
            kind,
            message: format!("{what}: {}", reason(error)),
            errno: error.raw_os_error().unwrap_or(0),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self {
            kind: refusal.kind.into(),
            message: refusal.message,
            errno: refusal.errno,
        }
    }
}

pub(crate) fn readable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The system's words for an error: lower case, without the number.
pub(crate) fn reason(error: &io::Error) -> String {
    let mut text = error.to_string();
    if let Some(end) = text.find(" (os error ") {
        text.truncate(end);
    }
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            text.replace_range(..first.len_utf8(), &first.to_lowercase().to_string());
        }
        _ => {}
    }
    text
}

/// The kind that programs tell errors apart by.
pub(crate) fn kind_of(error: &io::Error) -> Kind {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => Kind::NotFound,
        Some(Errno::EXIST) => Kind::AlreadyExists,
        Some(
            Errno::INVAL
            | Errno::NAMETOOLONG
            | Errno::LOOP
            | Errno::TOOBIG
            | Errno::ILSEQ
            | Errno::SPIPE,
        ) => Kind::InvalidArgument,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Kind::PermissionDenied,
        Some(Errno::NOSPC | Errno::DQUOT) => Kind::NoSpace,
        Some(Errno::NOEXEC) => Kind::NotExecutable,
        Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::FBIG) => {
            Kind::ResourceExhausted
        }
        Some(Errno::BUSY | Errno::TXTBSY | Errno::NOTEMPTY | Errno::XDEV | Errno::PIPE) => {
            Kind::FailedPrecondition
        }
        Some(Errno::NOTDIR) => Kind::NotADirectory,
        Some(Errno::ISDIR) => Kind::IsADirectory,
        _ if error.kind() == io::ErrorKind::OutOfMemory => Kind::ResourceExhausted,
        _ => Kind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_worded_as_callers_expect_them() {
        let refusal = Refusal::os("stat", "/x", &Errno::NOENT.into());
        assert_eq!(refusal.message, "stat /x: no such file or directory");
        assert_eq!(refusal.kind, Kind::NotFound);
        assert_eq!(refusal.errno, Errno::NOENT.raw_os_error());
    }

    #[test]
    fn abbreviations_keep_their_case() {
        assert!(reason(&Errno::BADRQC.into()).starts_with("invalid"));
        assert_eq!(reason(&io::Error::other("RPC broke")), "RPC broke");
    }
}
