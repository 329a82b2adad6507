//! The terminal that the user sits at.

use std::io::{self, IsTerminal as _};

use fermata_gateway::rest::model::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::failure::Explain;

/// The terminal cannot be used as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TerminalError {
    #[error("--tty was asked for, but stdin is not a terminal")]
    NotATerminal,
    #[error("cannot {action} the terminal")]
    Mode {
        action: &'static str,
        #[source]
        source: io::Error,
    },
}

impl Explain for TerminalError {
    fn hint(&self) -> Option<String> {
        matches!(self, Self::NotATerminal).then(|| "leave --tty out when input is piped".to_owned())
    }

    fn exit_code(&self) -> u8 {
        2
    }
}

/// Passes every key on as it is typed, until dropped: then the terminal is as it was, whatever happened meanwhile.
#[derive(Debug)]
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    pub(crate) fn enter() -> Result<Self, TerminalError> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Err(TerminalError::NotATerminal);
        }
        let failed = |action| {
            move |error: rustix::io::Errno| TerminalError::Mode {
                action,
                source: error.into(),
            }
        };
        let before = tcgetattr(&stdin).map_err(failed("read the mode of"))?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(failed("set the mode of"))?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nobody is left to tell, and `reset` helps.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

/// Its size now; `None` when stdout is not a terminal.
pub(crate) fn size() -> Option<TerminalSize> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(TerminalSize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}
