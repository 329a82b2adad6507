//! What unix sockets have not received yet, looked at without taking it.
//!
//! ```text
//!  found: … socket …            queue of the socket: bytes ── bytes + descriptors (SCM_RIGHTS)
//!              └── its queue ─────────────────────────────────────────┴─► looked at as any other: found: … socket … passed
//! ```
//!
//! What is passed may have a queue too, or be the socket itself: the list of what was found is gone through while it grows.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use fermata_sys::socket::{peek_whole_messages, set_option};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SocketType, recvmsg,
};

use super::fdinfo::FdInfo;
use super::{DescriptorCollector, Found, Kind};
use crate::NativeError;
use crate::image::{Message, UnixState, options};

/// More than the default limit of what one message may hold (`net.core.wmem_max`).
const PEEK_BYTES: usize = 1 << 20;
/// With each message comes who sent it.
const SENDER_OPTIONS: [i32; 2] = [options::PASS_CREDENTIALS, options::PASS_PIDFD];

/// A message with duplicates of what is passed.
struct Peeked {
    bytes: Vec<u8>,
    passed: Vec<OwnedFd>,
}

impl DescriptorCollector<'_> {
    /// Reads the queues of all sockets, and looks at what is found in them.
    pub(super) fn read_queues(&mut self) -> Result<(), NativeError> {
        let mut index = 0;
        while let Some(found) = self.found.get(index) {
            let messages = found.queue()?;
            let mut queue = Vec::with_capacity(messages.len());
            for message in messages {
                let passed = message.passed.into_iter();
                queue.push(Message {
                    bytes: message.bytes,
                    passed: passed
                        .map(|file| self.add_passed(index, file))
                        .collect::<Result<_, _>>()?,
                });
            }
            if let Kind::Unix(end) = &mut self.found[index].kind {
                end.socket.queue = queue;
            }
            index += 1;
        }
        Ok(())
    }

    /// The place of a description that a socket is to receive.
    fn add_passed(&mut self, socket: usize, file: OwnedFd) -> Result<u32, NativeError> {
        let (task, number) = {
            let socket = &self.found[socket];
            (socket.task.clone(), socket.number)
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let failed = |source| NativeError::Capture {
            action: "read a descriptor that is passed",
            owner: task.owner(),
            source,
        };
        let own = rustix::fs::open("/proc/self", flags, Mode::empty())
            .map_err(|error| failed(error.into()))?;
        let info = FdInfo::read(&own, file.as_raw_fd()).map_err(failed)?;
        self.add(&task, &own, number, file.as_raw_fd(), &info, file)
    }
}

impl Found {
    fn queue(&self) -> Result<Vec<Peeked>, NativeError> {
        let Kind::Unix(end) = &self.kind else {
            return Ok(Vec::new());
        };
        let socket = &end.socket;
        if matches!(socket.state, UnixState::Listening { .. }) {
            return Ok(Vec::new());
        }
        let number =
            |name| options::number(&socket.options, options::SOCKET, name).unwrap_or_default();
        if number(options::PEEK_OFFSET) != -1 {
            return Err(self.unheld("is a unix socket that is being peeked into (SO_PEEK_OFF)"));
        }
        let mut polled = [PollFd::new(&self.file, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default()))
            .map_err(|error| self.failed("poll a socket")(error.into()))?;
        let events = polled[0].revents();
        if !events.contains(PollFlags::IN) {
            return Ok(Vec::new());
        }
        let kind = SocketType::from_raw(socket.kind);
        // Asking a stream for more than it has would take its error away, and asking for any message does.
        if kind != SocketType::STREAM && events.contains(PollFlags::ERR) {
            return Err(self.unheld("is a unix socket with an error not yet told"));
        }
        let messages = self
            .peek_all(kind)
            .map_err(self.failed("peek into a socket"));
        // Whatever came of it.
        self.set_offset(-1)
            .map_err(self.failed("end peeking into a socket"))?;
        let messages = messages?
            .ok_or_else(|| self.unheld("is a unix socket with something unknown in its queue"))?;
        if !messages.is_empty() && socket.state == UnixState::Unconnected {
            return Err(self.unheld("is a unix socket with messages of several senders"));
        }
        if !messages.is_empty() && SENDER_OPTIONS.into_iter().any(|name| number(name) != 0) {
            return Err(self.unheld("is a unix socket with messages that tell their sender"));
        }
        Ok(messages)
    }

    /// Where the next peek begins; each goes on where the last one ended, until the offset is taken away (`socket(7)`).
    fn set_offset(&self, offset: i32) -> io::Result<()> {
        let value = offset.to_ne_bytes();
        set_option(
            self.file.as_fd(),
            options::SOCKET,
            options::PEEK_OFFSET,
            &value,
        )
    }

    fn peek_all(&self, kind: SocketType) -> io::Result<Option<Vec<Peeked>>> {
        let mut buffer = vec![0; PEEK_BYTES];
        if kind == SocketType::STREAM {
            return self.peek_stream(&mut buffer);
        }
        self.set_offset(0)?;
        let mut messages = Vec::new();
        while let Some(message) = self.peek(&mut buffer)? {
            // Packets that nobody will send any more.
            if message.bytes.is_empty() && message.passed.is_empty() && kind != SocketType::DGRAM {
                break;
            }
            messages.push(message);
        }
        Ok(Some(messages))
    }

    /// A read of a stream ends behind the message that passes descriptors, and may begin before it.
    fn peek_stream(&self, buffer: &mut [u8]) -> io::Result<Option<Vec<Peeked>>> {
        let waiting = rustix::io::ioctl_fionread(&self.file)?;
        let waiting = i32::try_from(waiting).map_err(io::Error::other)?;
        let mut messages: Vec<Peeked> = Vec::new();
        let mut at = 0;
        while at < waiting {
            self.set_offset(at)?;
            let Some(mut message) = self.peek(buffer)?.filter(|it| !it.bytes.is_empty()) else {
                return Ok(None);
            };
            let length = i32::try_from(message.bytes.len()).map_err(io::Error::other)?;
            if !message.passed.is_empty() {
                // The last message of these is the one that something comes with.
                self.set_offset(at)?;
                let short = message.bytes.len() - 1;
                let begin = peek_whole_messages(self.file.as_fd(), &mut buffer[..short])?;
                let passing = message.bytes.split_off(begin);
                append(&mut messages, message.bytes);
                messages.push(Peeked {
                    bytes: passing,
                    passed: message.passed,
                });
            } else {
                append(&mut messages, message.bytes);
            }
            at += length;
        }
        Ok(Some(messages))
    }

    fn peek(&self, buffer: &mut [u8]) -> io::Result<Option<Peeked>> {
        // `SCM_MAX_FD` of the kernel.
        let mut space = [std::mem::MaybeUninit::uninit();
            rustix::cmsg_space!(ScmRights(253), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let pieces = &mut [io::IoSliceMut::new(buffer)];
        let received = match recvmsg(&self.file, pieces, &mut control, flags) {
            Ok(received) => received,
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let passed = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(files) => Some(files),
                _ => None,
            })
            .flatten()
            .collect();
        let cut = ReturnFlags::CTRUNC | ReturnFlags::TRUNC;
        // A message longer than the greatest buffer of a socket cannot be.
        if received.flags.intersects(cut) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let bytes = buffer[..received.bytes].to_vec();
        Ok(Some(Peeked { bytes, passed }))
    }
}

/// Bytes of a stream need not be told apart, unless something came with those before.
fn append(messages: &mut Vec<Peeked>, bytes: Vec<u8>) {
    match messages.last_mut() {
        _ if bytes.is_empty() => {}
        Some(last) if last.passed.is_empty() => last.bytes.extend_from_slice(&bytes),
        _ => messages.push(Peeked {
            bytes,
            passed: Vec::new(),
        }),
    }
}
