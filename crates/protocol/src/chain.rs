//! How errors are put into words for another process.

use std::error::Error;
use std::fmt::Write as _;

/// An error and all its causes on one line, as a `Failure`'s message carries them.
#[must_use]
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // Writing to a string cannot fail.
        let _ = write!(line, ": {cause}");
        next = cause.source();
    }
    line
}
