//! Pipes and FIFOs.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};

use super::opened::Opened;
use super::{DescriptorCollector, Found, place_in_list};
use crate::NativeError;
use crate::image::{OpenFile, Pipe};

/// A pipe, and the descriptions that lead to it.
pub(super) struct PipeEnds {
    identity: (u64, u64),
    path: Option<String>,
    /// By their places among the found ones.
    readers: Vec<usize>,
    writers: Vec<usize>,
}

impl DescriptorCollector<'_> {
    /// The description about to be found is an end of a pipe.
    pub(super) fn pipe(&mut self, opened: &Opened<'_>) -> Result<OpenFile, NativeError> {
        let identity = opened.identity();
        let path = if opened.link.starts_with("pipe:") {
            None
        } else if opened.leads_here(&opened.link)? {
            Some(opened.link.clone())
        } else {
            return Err(opened.unheld(&format!("is {}, a FIFO without a name", opened.link)));
        };
        let known = self.pipes.iter().position(|pipe| pipe.identity == identity);
        let place = known.unwrap_or_else(|| {
            self.pipes.push(PipeEnds {
                identity,
                path,
                readers: Vec::new(),
                writers: Vec::new(),
            });
            self.pipes.len() - 1
        });
        let description = self.found.len();
        let (reads, writes) = access(opened.flags());
        if reads {
            self.pipes[place].readers.push(description);
        }
        if writes {
            self.pipes[place].writers.push(description);
        }
        Ok(OpenFile::Pipe {
            pipe: place_in_list(place),
        })
    }
}

/// Whether a description reads, and whether it writes.
fn access(flags: OFlags) -> (bool, bool) {
    match flags & OFlags::ACCMODE {
        OFlags::WRONLY => (false, true),
        OFlags::RDWR => (true, true),
        _ => (true, false),
    }
}

impl PipeEnds {
    pub(super) fn read(self, found: &[Found]) -> Result<Pipe, NativeError> {
        let Some(any) = self.readers.first().or_else(|| self.writers.first()) else {
            return Err(NativeError::Image {
                reason: "a pipe without ends".to_owned(),
            });
        };
        let any = &found[*any];
        let capacity_bytes = rustix::pipe::fcntl_getpipe_size(&any.file)
            .ok()
            .and_then(|bytes| u32::try_from(bytes).ok())
            .ok_or_else(|| any.unheld("is a pipe of unknown size"))?;
        let events = events(&any.file).map_err(any.failed("poll a pipe"))?;
        let hung_up = events.intersects(PollFlags::HUP | PollFlags::ERR);
        // A FIFO may have had no writer ever, and nobody outside reaches it.
        let is_one_ended = self.readers.is_empty() || self.writers.is_empty();
        if self.path.is_none() && is_one_ended && !hung_up {
            return Err(any.unheld("is a pipe whose other end is held outside the sandbox"));
        }
        let is_packets = self
            .writers
            .iter()
            .any(|writer| found[*writer].flags & OFlags::DIRECT.bits() != 0);
        let waiting = rustix::io::ioctl_fionread(&any.file)
            .map_err(|error| any.failed("ask how full a pipe is")(error.into()))?;
        let content = match self.readers.first() {
            _ if waiting == 0 => Vec::new(),
            // Nobody can read it any more, or reopen it without a name.
            None if self.path.is_none() => Vec::new(),
            None => {
                return Err(any.unheld("is a FIFO that is full of data and not read by anybody"));
            }
            Some(reader) => {
                let reader = &found[*reader];
                let content = peek(&reader.file, capacity_bytes, is_packets)
                    .map_err(reader.failed("read a pipe"))?;
                if content.iter().map(Vec::len).sum::<usize>() as u64 != waiting {
                    return Err(reader.unheld("is a pipe that could not be read whole"));
                }
                content
            }
        };
        Ok(Pipe {
            path: self.path,
            capacity_bytes,
            content,
            hung_up,
        })
    }
}

/// What is pending on a file right now.
fn events(file: &OwnedFd) -> io::Result<PollFlags> {
    let mut polled = [PollFd::new(file, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default()))?;
    Ok(polled[0].revents())
}

/// A copy of the content by `tee(2)`, which takes nothing out.
fn peek(reader: &OwnedFd, capacity_bytes: u32, is_packets: bool) -> io::Result<Vec<Vec<u8>>> {
    let (copy, copier) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let capacity_bytes = usize::try_from(capacity_bytes).map_err(io::Error::other)?;
    rustix::pipe::fcntl_setpipe_size(&copier, capacity_bytes)?;
    rustix::pipe::tee(reader, &copier, usize::MAX >> 1, SpliceFlags::NONBLOCK)?;
    drop(copier);
    let mut pieces = Vec::new();
    loop {
        let mut piece = Vec::with_capacity(capacity_bytes);
        match rustix::io::read(&copy, rustix::buffer::spare_capacity(&mut piece)) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(_) => pieces.push(piece),
            Err(error) => return Err(error.into()),
        }
    }
    // Only packets end a read before the buffer is full.
    Ok(if is_packets || pieces.is_empty() {
        pieces
    } else {
        vec![pieces.concat()]
    })
}
