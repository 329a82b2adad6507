//! The command line.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

/// What the agent was told at its start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// The abstract name to listen on.
    pub(crate) socket_name: Vec<u8>,
    /// For tests: accept peers of this pid namespace.
    pub(crate) allow_local_peers: bool,
    /// Gets one byte once connections are accepted.
    pub(crate) ready_descriptor: Option<i32>,
}

/// The command line makes no sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArgumentError {
    #[error("unknown argument {0:?}")]
    Unknown(OsString),
    #[error("{0} needs a value")]
    MissingValue(&'static str),
    #[error("{0:?} is not a descriptor number")]
    NotADescriptor(OsString),
}

pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Options, ArgumentError> {
    let mut options = Options {
        socket_name: fermata_protocol::AGENT_SOCKET_NAME.to_vec(),
        allow_local_peers: false,
        ready_descriptor: None,
    };
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--allow-local-peers") => options.allow_local_peers = true,
            Some("--socket-name") => {
                options.socket_name = arguments
                    .next()
                    .ok_or(ArgumentError::MissingValue("--socket-name"))?
                    .into_vec();
            }
            Some("--ready-fd") => {
                let value = arguments
                    .next()
                    .ok_or(ArgumentError::MissingValue("--ready-fd"))?;
                let number = value.to_str().and_then(|text| text.parse().ok());
                options.ready_descriptor =
                    Some(number.ok_or(ArgumentError::NotADescriptor(value))?);
            }
            _ => return Err(ArgumentError::Unknown(argument)),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Options, ArgumentError> {
        parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn without_arguments_only_the_host_may_command() {
        let options = parsed(&[]).unwrap();
        assert_eq!(options.socket_name, fermata_protocol::AGENT_SOCKET_NAME);
        assert!(!options.allow_local_peers);
        assert_eq!(options.ready_descriptor, None);
    }

    #[test]
    fn every_argument_is_understood_or_refused() {
        let options = parsed(&[
            "--socket-name",
            "x",
            "--allow-local-peers",
            "--ready-fd",
            "3",
        ]);
        assert_eq!(
            options.unwrap(),
            Options {
                socket_name: b"x".to_vec(),
                allow_local_peers: true,
                ready_descriptor: Some(3),
            }
        );
        assert!(matches!(
            parsed(&["--what"]),
            Err(ArgumentError::Unknown(_))
        ));
        assert!(matches!(
            parsed(&["--socket-name"]),
            Err(ArgumentError::MissingValue(_))
        ));
        assert!(matches!(
            parsed(&["--ready-fd", "x"]),
            Err(ArgumentError::NotADescriptor(_))
        ));
    }
}
