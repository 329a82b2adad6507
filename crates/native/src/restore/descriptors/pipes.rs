//! Pipes and FIFOs.

use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

use super::Failure;
use super::files::set_status_flags;
use crate::image::Pipe;

/// A pipe from which ends are opened. Its own ends are closed with it, when those of the tree are open.
pub(super) struct OpenPipe {
    image: Pipe,
    /// One that reads and one that writes; for a FIFO the same, or none.
    ends: Option<(OwnedFd, OwnedFd)>,
}

impl OpenPipe {
    pub(super) fn make(image: &Pipe) -> Result<Self, Failure> {
        let ends = match &image.path {
            None => Some(
                pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
                    .map_err(Failure::to("make a pipe"))?,
            ),
            // Whoever opens the other end first tells the readers that it was opened, which cannot be taken back.
            Some(_) if image.content.is_empty() && !image.hung_up => None,
            Some(path) => {
                let both = open_fifo(path, OFlags::RDWR)?;
                let copy = both.try_clone().map_err(Failure::to("open a FIFO"))?;
                Some((both, copy))
            }
        };
        Ok(Self {
            image: image.clone(),
            ends,
        })
    }

    /// An end of its own.
    pub(super) fn open(&self, flags: OFlags) -> Result<OwnedFd, Failure> {
        let access = flags & OFlags::ACCMODE;
        let end = match (&self.image.path, &self.ends) {
            (Some(path), _) => open_fifo(path, access)?,
            (None, Some((reader, writer))) => {
                let end = if access == OFlags::WRONLY {
                    writer
                } else {
                    reader
                };
                let path = format!("/proc/self/fd/{}", end.as_raw_fd());
                rustix::fs::open(
                    path,
                    access | OFlags::NONBLOCK | OFlags::CLOEXEC,
                    Mode::empty(),
                )
                .map_err(Failure::to("open an end of a pipe"))?
            }
            (None, None) => return Err(Failure::damaged("a pipe")),
        };
        if self.image.path.is_some() {
            self.size(&end)?;
        }
        Ok(end)
    }

    /// Puts in what was in it.
    pub(super) fn fill(&self) -> Result<(), Failure> {
        let Some((_, writer)) = &self.ends else {
            return Ok(());
        };
        self.size(writer)?;
        if self.image.content.is_empty() {
            return Ok(());
        }
        // Packets are cut where writes end, but only in packet mode (pipe(2)).
        if self.image.content.len() > 1 {
            set_status_flags(writer, OFlags::NONBLOCK | OFlags::DIRECT)?;
        }
        for piece in &self.image.content {
            let written = rustix::io::write(writer, piece).map_err(Failure::to("fill a pipe"))?;
            if written != piece.len() {
                return Err(Failure::to("fill a pipe")(Errno::AGAIN));
            }
        }
        Ok(())
    }

    fn size(&self, end: &OwnedFd) -> Result<(), Failure> {
        let step = || Failure::to::<Errno>("size a pipe");
        let wanted = self.image.capacity_bytes as usize;
        if fcntl_getpipe_size(end).map_err(step())? != wanted {
            fcntl_setpipe_size(end, wanted).map_err(step())?;
        }
        Ok(())
    }
}

fn open_fifo(path: &str, access: OFlags) -> Result<OwnedFd, Failure> {
    let step = || Failure::to::<Errno>(format!("open the FIFO {path}"));
    let flags = access | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(step())?;
    let stat = rustix::fs::fstat(&file).map_err(step())?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
        return Err(step()(Errno::INVAL));
    }
    Ok(file)
}
