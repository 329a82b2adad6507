//! Requests to `criu swrk` and what comes back.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use prost::Message as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

use super::rpc::{Request, RequestType, Response};
use crate::CheckpointError;

/// CRIU's own limit of a message is larger, but its answers are a few hundred bytes.
const ANSWER_BYTES: usize = 64 << 10;

/// Both ends of a conversation; the second is for CRIU.
pub(super) fn pair() -> Result<(Conversation, OwnedFd), CheckpointError> {
    let (ours, its) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(CheckpointError::conversation("make a socket for"))?;
    Ok((Conversation { socket: ours }, its))
}

/// Our end.
#[derive(Debug)]
pub(super) struct Conversation {
    socket: OwnedFd,
}

/// How a conversation came to its end.
pub(super) enum Outcome {
    /// CRIU gave its answer.
    Answered(Response),
    /// CRIU is gone.
    Ended,
    /// The limit passed.
    TimedOut,
}

impl Conversation {
    /// Asks, hands every notification to `notified` until the answer comes. `false` from there makes CRIU give up and undo.
    ///
    /// `engine` refers to CRIU's process: the end of the socket does not tell of its death, because what it was restoring still
    /// has that open.
    pub(super) fn ask(
        &self,
        request: &Request,
        engine: BorrowedFd<'_>,
        limit: Duration,
        notified: &mut dyn FnMut(&str, Option<i32>) -> bool,
    ) -> Result<Outcome, CheckpointError> {
        let deadline = Instant::now() + limit;
        if !self.send(request)? {
            return Ok(Outcome::Ended);
        }
        loop {
            let response = match self.receive(engine, deadline)? {
                Received::Response(response) => response,
                Received::End => return Ok(Outcome::Ended),
                Received::Nothing => return Ok(Outcome::TimedOut),
            };
            if response.r#type() != RequestType::Notify {
                return Ok(Outcome::Answered(response));
            }
            let notification = response.notify.unwrap_or_default();
            let go_on = notified(notification.script(), notification.pid);
            let reply = Request {
                r#type: RequestType::Notify.into(),
                notify_success: Some(go_on),
                opts: None,
            };
            if !self.send(&reply)? {
                return Ok(Outcome::Ended);
            }
        }
    }

    /// `false` when there is nobody any more.
    fn send(&self, request: &Request) -> Result<bool, CheckpointError> {
        match send(&self.socket, &request.encode_to_vec(), SendFlags::NOSIGNAL) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Ok(false),
            Err(error) => Err(CheckpointError::conversation("speak to")(error)),
        }
    }

    fn receive(
        &self,
        engine: BorrowedFd<'_>,
        deadline: Instant,
    ) -> Result<Received, CheckpointError> {
        let failed = |error: io::Error| CheckpointError::conversation("hear from")(error);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Received::Nothing);
            }
            let timeout = Timespec::try_from(left).ok();
            let mut descriptors = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::new(&engine, PollFlags::IN),
            ];
            match poll(&mut descriptors, timeout.as_ref()) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(failed(error.into())),
            }
            // What it said before it ended still counts.
            if descriptors[0].revents().is_empty() {
                return Ok(Received::End);
            }
            let mut buffer = vec![0; ANSWER_BYTES];
            return match recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => Ok(Received::End),
                Ok((length, _)) => Response::decode(&buffer[..length])
                    .map(Received::Response)
                    .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error))),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => Err(failed(error.into())),
            };
        }
    }
}

enum Received {
    Response(Response),
    End,
    Nothing,
}

impl AsFd for Conversation {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
