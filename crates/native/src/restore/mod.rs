//! Playing a captured tree on.

pub mod program;

use std::convert::Infallible;
use std::os::fd::OwnedFd;

use crate::NativeError;
use crate::image::Image;

/// How the processes and the shim tell each other where they are.
#[derive(Debug)]
pub struct Signals {
    /// Words of whoever cannot go on.
    pub failure: OwnedFd,
    /// A byte of each process that is ready to go on.
    pub arrived: OwnedFd,
    /// Ends when all may go on.
    pub go: OwnedFd,
}

/// Becomes the tree: the calling process is process 1 of new namespaces, in its root.
///
/// # Errors
/// `Restore`, `Image`, `File`; also of other processes, by [`Signals::failure`].
pub fn play_on(
    _image: &Image,
    _pages: OwnedFd,
    _signals: Signals,
) -> Result<Infallible, NativeError> {
    todo!()
}
