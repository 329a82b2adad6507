//! The only place that writes to stdout and stderr: data to the one, talk to the other.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::failure::{Explain, Failure};

/// Output as the user wants it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    json: bool,
    colour: bool,
}

/// Stdout is full or gone.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to stdout")]
pub(crate) struct PrintError(#[from] io::Error);

impl Explain for PrintError {
    fn exit_code(&self) -> u8 {
        // As if SIGPIPE, which the standard library ignores, had ended this program.
        if self.is_closed_output() { 141 } else { 2 }
    }

    fn is_closed_output(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

impl Printer {
    pub(crate) fn new(json: bool) -> Self {
        // no-color.org: present and not empty.
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            json,
            colour: !refused && io::stderr().is_terminal(),
        }
    }

    /// Whether data is to be JSON.
    pub(crate) fn json(self) -> bool {
        self.json
    }

    /// A line of data.
    pub(crate) fn line(self, text: &str) -> Result<(), PrintError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.write_all(b"\n")?;
        Ok(stdout.flush()?)
    }

    /// Data as it is.
    pub(crate) fn bytes(self, data: &[u8]) -> Result<(), PrintError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(data)?;
        Ok(stdout.flush()?)
    }

    /// A document of data.
    pub(crate) fn document(self, value: &impl Serialize) -> Result<(), PrintError> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
        self.line(&text)
    }

    /// The document, or the same for people.
    pub(crate) fn either(
        self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), PrintError> {
        if self.json {
            self.document(value)
        } else {
            self.line(&text())
        }
    }

    /// The child's stderr, byte for byte.
    pub(crate) fn child_stderr(self, data: &[u8]) {
        // There is nowhere else to complain to.
        let _ = io::stderr().lock().write_all(data);
    }

    /// A remark for the person at the terminal.
    pub(crate) fn talk(self, text: &str) {
        // As above.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// What went wrong and what to do.
    pub(crate) fn failure(self, failure: &Failure) {
        if failure.is_closed_output() {
            return;
        }
        self.talk(&format!(
            "{} {}",
            self.paint("error:", "1;31"),
            failure.line()
        ));
        if let Some(hint) = failure.hint() {
            self.talk(&format!("{} {hint}", self.paint("hint:", "1;36")));
        }
    }

    /// Something to mind.
    pub(crate) fn warning(self, text: &str) {
        self.talk(&format!("{} {text}", self.paint("warning:", "1;33")));
    }

    fn paint(self, text: &str, style: &str) -> String {
        if self.colour {
            format!("\x1b[{style}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
