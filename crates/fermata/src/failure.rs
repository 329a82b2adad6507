//! What the program says when something failed, and with which code it ends.

use std::error::Error;

/// An error that knows what to tell the person at the terminal.
pub(crate) trait Explain: Error {
    /// What to do about it.
    fn hint(&self) -> Option<String> {
        None
    }

    /// 1: what was asked for failed. 2: it could not be asked.
    fn exit_code(&self) -> u8 {
        1
    }

    /// Nothing went wrong but that nobody reads our output any more.
    fn is_closed_output(&self) -> bool {
        false
    }
}

/// Any failed command.
#[derive(Debug)]
pub(crate) struct Failure(Box<dyn Explain>);

impl<E: Explain + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl Failure {
    pub(crate) fn hint(&self) -> Option<String> {
        self.0.hint()
    }

    pub(crate) fn exit_code(&self) -> u8 {
        self.0.exit_code()
    }

    /// The error and its causes on one line.
    pub(crate) fn line(&self) -> String {
        chain(&*self.0)
    }

    /// Whether the reader of our output went away, which is its right.
    pub(crate) fn is_closed_output(&self) -> bool {
        self.0.is_closed_output()
    }
}

fn chain(error: &dyn Explain) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        // HTTP libraries repeat their causes.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = cause.source();
    }
    line.replace('\n', " ")
}
