//! The state file: a line that can be read by anybody, then the image.

use std::path::Path;

use super::Image;
use crate::NativeError;

/// The file of processes, descriptors and mappings.
pub const STATE_FILE: &str = "state";
/// The file of pages.
pub const PAGES_FILE: &str = "pages";

const FORMAT: &str = "fermata-processes";
/// What this program writes, and all that it reads.
pub const VERSION: u32 = 1;

/// No tree is that large; a length in a damaged file may be.
const MOST_BYTES: u64 = 1 << 30;

impl Image {
    /// As it stands in the file.
    ///
    /// # Errors
    /// `Image`: it is too large to be written.
    pub fn encode(&self) -> Result<Vec<u8>, NativeError> {
        let line = format!("{FORMAT} {VERSION}\n").into_bytes();
        postcard::to_extend(self, line).map_err(damaged)
    }

    /// Reads what [`Image::encode`] has made.
    ///
    /// # Errors
    /// `Image`
    pub fn decode(bytes: &[u8]) -> Result<Self, NativeError> {
        let line = format!("{FORMAT} {VERSION}\n");
        let body = bytes
            .strip_prefix(line.as_bytes())
            .ok_or_else(|| NativeError::Image {
                reason: format!("it does not begin with \"{}\"", line.trim_end()),
            })?;
        postcard::from_bytes(body).map_err(damaged)
    }

    /// Reads a snapshot's state.
    ///
    /// # Errors
    /// `File`, `Image`.
    pub fn read(directory: &Path) -> Result<Self, NativeError> {
        let path = directory.join(STATE_FILE);
        let size = std::fs::metadata(&path)
            .map_err(NativeError::file("look at", &path))?
            .len();
        if size > MOST_BYTES {
            return Err(NativeError::Image {
                reason: format!("its state has {size} bytes"),
            });
        }
        let bytes = std::fs::read(&path).map_err(NativeError::file("read", &path))?;
        Self::decode(&bytes)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn damaged(error: postcard::Error) -> NativeError {
    NativeError::Image {
        reason: error.to_string(),
    }
}
