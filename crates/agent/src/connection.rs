//! One connection of the daemon: requests, one at a time.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use fermata_protocol::agent::{Failure, Request, Response, failure, response};
use fermata_protocol::{FrameError, frame};

use crate::agent::{Agent, lock};
use crate::dispatch;
use crate::process::Process;

/// The other side of a connection, as the work done for it sees it.
#[derive(Debug)]
pub(crate) struct Caller {
    socket: UnixStream,
    gone: AtomicBool,
    /// Served by the main thread, which must not block.
    inline: AtomicBool,
    /// The process that is being waited on for this caller.
    attended: Mutex<Option<Arc<Process>>>,
}

impl Caller {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            gone: AtomicBool::new(false),
            inline: AtomicBool::new(false),
            attended: Mutex::new(None),
        }
    }

    pub(crate) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    pub(crate) fn serve_inline(&self) {
        self.inline.store(true, Ordering::Release);
    }

    /// Whether blocking for this caller makes sense.
    pub(crate) fn can_wait(&self) -> bool {
        !self.inline.load(Ordering::Acquire) && !self.is_gone()
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The caller has closed the connection: whatever is being done for it ends soon.
    pub(crate) fn hang_up(&self) {
        self.gone.store(true, Ordering::Release);
        let attended = lock(&self.attended).clone();
        if let Some(process) = attended {
            process.wake();
        }
    }

    /// While the result lives, `hang_up` wakes the waiters of this process.
    pub(crate) fn attend(&self, process: &Arc<Process>) -> Attending<'_> {
        *lock(&self.attended) = Some(Arc::clone(process));
        Attending(self)
    }
}

pub(crate) struct Attending<'a>(&'a Caller);

impl Drop for Attending<'_> {
    fn drop(&mut self) {
        *lock(&self.0.attended) = None;
    }
}

/// Serves until the caller hangs up. The socket is then shut down; who holds it last closes it.
pub(crate) fn serve(agent: &Agent, caller: &Caller) {
    while serve_once(agent, caller) {}
    // Tells the main thread, too, when it was not the caller who ended it.
    let _ = caller.socket.shutdown(Shutdown::Both);
}

/// Reads one request and answers it; `false` when no more can come.
pub(crate) fn serve_once(agent: &Agent, caller: &Caller) -> bool {
    let mut socket = &caller.socket;
    let response = match frame::read::<Request>(&mut socket) {
        Ok(Some(request)) => dispatch::answer(agent, caller, request),
        // The frame was read to its end, so the next one can be found.
        Err(error @ FrameError::Decode(_)) => refused(
            failure::Kind::InvalidArgument,
            fermata_protocol::error_chain(&error),
        ),
        Ok(None) | Err(FrameError::Transfer(_) | FrameError::TooLarge { .. }) => return false,
    };
    let written = match frame::write(&mut socket, &response) {
        Err(FrameError::TooLarge { bytes }) => frame::write(
            &mut socket,
            &refused(
                failure::Kind::ResourceExhausted,
                format!("the answer of {bytes} bytes is too large"),
            ),
        ),
        written => written,
    };
    written.is_ok()
}

fn refused(kind: failure::Kind, message: String) -> Response {
    Response {
        result: Some(response::Result::Failure(Failure {
            kind: kind.into(),
            message,
            errno: 0,
        })),
    }
}
