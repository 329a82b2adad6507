//! The native driver: the shim captures and restores by itself (crate `fermata-native`).
//!
//! ```text
//! daemon ── Capture ──► shim: tree stopped, read, copied ── Instant ──► at_instant ── GoOn ──► Captured … Done
//! ```
//!
//! The tree is the shim's: it is process 1's parent, and what it has begun in a process it brings to an end, whatever becomes of the
//! daemon.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use fermata_protocol::shim::{
    Capture, Failure, GoOn, Request, Response, request::Call, response::Result as Answer,
};
use fermata_protocol::{EngineSpec, FrameError, RestoreSpec, frame, run_files};

use crate::{CheckpointError, Checkpointer, Engine, Process, Remainder, Tree};

/// What it is called in manifests.
pub const NAME: &str = "native";

/// How long the shim may take for its part. A sandbox stands still until the first answer.
const LIMIT: Duration = Duration::from_secs(60);
/// For writing out what is in memory.
const WRITE_LIMIT: Duration = Duration::from_secs(600);

/// Captures and restores by the sandbox's shim.
#[derive(Debug, Clone, Copy, Default)]
pub struct Native;

impl Checkpointer for Native {
    fn engine(&self) -> Engine {
        Engine {
            name: NAME.to_owned(),
            version: fermata_native::image::VERSION.to_string(),
        }
    }

    fn capture(
        &self,
        tree: &Tree<'_>,
        into: &Path,
        at_instant: &mut dyn FnMut() -> io::Result<()>,
    ) -> Result<Option<Box<dyn Remainder>>, CheckpointError> {
        let mut conversation = Conversation::with(tree.shim)?;
        conversation.say(Call::Capture(Capture {
            directory: into.to_string_lossy().into_owned(),
        }))?;
        match conversation.hear()? {
            Answer::Instant(_) => {}
            other => return Err(unexpected(other)),
        }
        // Hanging up tells the shim that it was in vain.
        at_instant().map_err(CheckpointError::AtInstant)?;
        conversation.say(Call::GoOn(GoOn {}))?;
        match conversation.hear()? {
            Answer::Captured(_) => Ok(Some(Box::new(conversation))),
            other => Err(unexpected(other)),
        }
    }

    fn restore_spec(&self, images: &Path) -> RestoreSpec {
        RestoreSpec {
            images: images.to_owned(),
            engine: EngineSpec::Native,
        }
    }
}

/// A connection to the shim; closing it ends what it was made for.
#[derive(Debug)]
struct Conversation {
    stream: UnixStream,
}

impl Conversation {
    fn with(run_directory: &Path) -> Result<Self, CheckpointError> {
        let connect = || {
            // The path of a socket has room for only 107 bytes (unix(7)).
            let directory = File::open(run_directory)?;
            let number = directory.as_raw_fd();
            let socket = run_files::SOCKET;
            let stream = UnixStream::connect(format!("/proc/self/fd/{number}/{socket}"))?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
            Ok::<_, io::Error>(stream)
        };
        connect()
            .map(|stream| Self { stream })
            .map_err(CheckpointError::conversation("connect to"))
    }

    fn say(&mut self, call: Call) -> Result<(), CheckpointError> {
        let request = Request { call: Some(call) };
        frame::write(&mut self.stream, &request).map_err(transfer("ask"))
    }

    fn hear(&mut self) -> Result<Answer, CheckpointError> {
        let response: Option<Response> = frame::read(&mut self.stream).map_err(transfer("hear"))?;
        response
            .and_then(|response| response.result)
            .ok_or(CheckpointError::Answer)
    }
}

impl Remainder for Conversation {
    fn write(mut self: Box<Self>) -> Result<(), CheckpointError> {
        self.stream
            .set_read_timeout(Some(WRITE_LIMIT))
            .map_err(CheckpointError::conversation("wait for"))?;
        match self.hear()? {
            Answer::Done(_) => Ok(()),
            other => Err(unexpected(other)),
        }
    }
}

fn transfer(action: &'static str) -> impl FnOnce(FrameError) -> CheckpointError {
    move |error| {
        let source = match error {
            FrameError::Transfer(source) => source,
            other => io::Error::other(other),
        };
        CheckpointError::Conversation { action, source }
    }
}

fn unexpected(answer: Answer) -> CheckpointError {
    match answer {
        Answer::Failure(failure) => from_failure(failure),
        _ => CheckpointError::Answer,
    }
}

fn from_failure(failure: Failure) -> CheckpointError {
    let Some(unheld) = failure.unheld else {
        let source = match failure.errno {
            0 => io::Error::other(failure.message),
            errno => io::Error::from_raw_os_error(errno),
        };
        return CheckpointError::Conversation {
            action: "capture with",
            source,
        };
    };
    let process = Process {
        pid: unheld.pid,
        name: unheld.name,
    };
    if unheld.for_the_moment {
        return CheckpointError::Busy { process };
    }
    CheckpointError::Refused {
        process: (unheld.pid != 0).then_some(process),
        reason: unheld.reason,
        log: String::new(),
    }
}
