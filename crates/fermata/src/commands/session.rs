//! One process in the foreground: its input from here, its output to here, its exit code as ours.
//!
//! ```text
//! stdin ── thread ──► input ─┐
//! SIGWINCH ────────► size ───┼─► socket ─► process
//! SIGINT, SIGTERM ─► signal ─┘ (by a call of its own, so that it passes blocked input)
//! stdout, stderr ◄───────────── socket ◄── process
//! ```

use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;

use bytes::Bytes;
use fermata_engine::SandboxId;
use fermata_gateway::rest::attach_frame::{ClientFrame, OutputStream, ServerFrame};
use fermata_gateway::rest::model::{StartProcess, TerminalSize};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::arguments::ProcessFlags;
use crate::client::{AttachmentInput, Client, ClientError};
use crate::failure::{Explain, Failure};
use crate::printer::Printer;
use crate::terminal::{self, RawMode};

/// Until the real size is known.
const CUSTOMARY_SIZE: TerminalSize = TerminalSize {
    rows: 24,
    columns: 80,
};

const INPUT_PIECE_BYTES: usize = 64 << 10;

/// The kernel refused a signal handler.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for signals")]
struct SignalsError(#[source] std::io::Error);

impl Explain for SignalsError {
    fn exit_code(&self) -> u8 {
        2
    }
}

/// What `--json` prints when the process has ended.
#[derive(Debug, Serialize)]
struct Finished<'a> {
    sandbox: &'a SandboxId,
    pid: i32,
    exit_code: i32,
    stdout: String,
    stderr: String,
}

/// Starts the command, stays with it until it ends, and gives its exit code.
pub(super) async fn run(
    client: &Client,
    sandbox: &SandboxId,
    flags: &ProcessFlags,
    env: Vec<(String, String)>,
    command: Vec<String>,
    printer: Printer,
) -> Result<ExitCode, Failure> {
    let takes_input = flags.interactive || !std::io::stdin().is_terminal();
    // Before the process is started: if the terminal cannot be had, nothing has happened.
    let raw = if flags.tty {
        Some(RawMode::enter()?)
    } else {
        None
    };
    let process = StartProcess {
        argv: command,
        cwd: flags.workdir.clone(),
        env: env.into_iter().collect(),
        tty: flags
            .tty
            .then(|| terminal::size().unwrap_or(CUSTOMARY_SIZE)),
        stdin: takes_input,
        request_id: uuid::Uuid::now_v7().to_string(),
    };
    let pid = client.start(sandbox, &process).await?;
    let mut sink = Sink::new(printer);
    let code = converse(client, sandbox, pid, takes_input, flags.tty, &mut sink).await;
    drop(raw);
    if code.as_ref().is_err_and(Failure::is_closed_output) {
        // What the process would get from a pipe of its own. It may have ended by now.
        let _ = client.signal(sandbox, pid, Signals::BROKEN_PIPE).await;
    }
    let code = code?;
    if let Sink::Kept { stdout, stderr, .. } = &sink {
        printer.document(&Finished {
            sandbox,
            pid,
            exit_code: code,
            stdout: String::from_utf8_lossy(stdout).into_owned(),
            stderr: String::from_utf8_lossy(stderr).into_owned(),
        })?;
    }
    Ok(exit_code(code))
}

/// Where output goes: on as it comes, or into one document at the end.
#[derive(Debug)]
pub(super) enum Sink {
    Passed(Printer),
    Kept {
        stdout: Vec<u8>,
        stderr: Vec<u8>,
        printer: Printer,
    },
}

impl Sink {
    fn new(printer: Printer) -> Self {
        if printer.json() {
            Self::Kept {
                stdout: Vec::new(),
                stderr: Vec::new(),
                printer,
            }
        } else {
            Self::Passed(printer)
        }
    }

    /// Takes a message; gives the exit code when it is the last.
    pub(super) fn take(&mut self, frame: ServerFrame) -> Result<Option<i32>, Failure> {
        match (frame, self) {
            (ServerFrame::Exit(code), _) => return Ok(Some(code)),
            (ServerFrame::Failure(reason), _) => {
                return Err(ClientError::SessionEnded { reason }.into());
            }
            (
                ServerFrame::Dropped(stream, bytes),
                Self::Passed(printer) | Self::Kept { printer, .. },
            ) => {
                printer.warning(&dropped(stream, bytes));
            }
            (ServerFrame::Output(OutputStream::Stdout, data), Self::Passed(printer)) => {
                printer.bytes(&data)?;
            }
            (ServerFrame::Output(OutputStream::Stderr, data), Self::Passed(printer)) => {
                printer.child_stderr(&data);
            }
            (ServerFrame::Output(OutputStream::Stdout, data), Self::Kept { stdout, .. }) => {
                stdout.extend(data);
            }
            (ServerFrame::Output(OutputStream::Stderr, data), Self::Kept { stderr, .. }) => {
                stderr.extend(data);
            }
        }
        Ok(None)
    }
}

/// What to say about output that is gone.
pub(super) fn dropped(stream: OutputStream, bytes: u64) -> String {
    let stream = match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    };
    format!("{bytes} bytes of {stream} were dropped, because they were not read in time")
}

async fn converse(
    client: &Client,
    sandbox: &SandboxId,
    pid: i32,
    takes_input: bool,
    tty: bool,
    sink: &mut Sink,
) -> Result<i32, Failure> {
    let mut signals = Signals::new()?;
    let (input, mut output) = client.attach(sandbox, pid).await?;
    let (tell, told) = mpsc::channel(4);
    if takes_input {
        read_stdin(tell.clone());
    }
    let talk = talk(input, told);
    tokio::pin!(talk);
    let mut talking = true;
    loop {
        tokio::select! {
            frame = output.next() => match frame? {
                Some(frame) => if let Some(code) = sink.take(frame)? {
                    return Ok(code);
                },
                None => return Ok(client.wait(sandbox, pid, 0).await?.exit_code.ok_or(
                    ClientError::SessionEnded { reason: "the server closed it".to_owned() },
                )?),
            },
            // A process that takes no input any more may still have much to say.
            _ = &mut talk, if talking => talking = false,
            number = signals.next() => match number {
                Signals::RESIZE if tty => {
                    if let Some(size) = terminal::size() {
                        // A lost resize is mended by the next one.
                        let _ = tell.try_send(ClientFrame::Resize(size));
                    }
                }
                Signals::RESIZE => {}
                number => client.signal(sandbox, pid, number).await?,
            },
        }
    }
}

async fn talk(
    mut input: AttachmentInput,
    mut told: mpsc::Receiver<ClientFrame>,
) -> Result<(), ClientError> {
    while let Some(frame) = told.recv().await {
        input.send(&frame).await?;
    }
    input.end().await
}

/// A thread, because reading a terminal or a pipe cannot be cancelled. It is left behind when the process ends.
fn read_stdin(tell: mpsc::Sender<ClientFrame>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; INPUT_PIECE_BYTES];
        let mut stdin = std::io::stdin().lock();
        loop {
            let data = match stdin.read(&mut buffer) {
                Ok(length) => Bytes::copy_from_slice(&buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                // Nothing more can come from it, which is what its end means.
                Err(_) => Bytes::new(),
            };
            let end = data.is_empty();
            if tell.blocking_send(ClientFrame::Input(data)).is_err() || end {
                return;
            }
        }
    });
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    resize: Signal,
}

impl Signals {
    const HANG_UP: i32 = 1;
    const INTERRUPT: i32 = 2;
    const BROKEN_PIPE: i32 = 13;
    const TERMINATE: i32 = 15;
    const RESIZE: i32 = 28;

    fn new() -> Result<Self, SignalsError> {
        let listen = |kind| signal(kind).map_err(SignalsError);
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            resize: listen(SignalKind::window_change())?,
        })
    }

    /// Its number, as signal(7) has it for x86-64 and aarch64.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => Self::INTERRUPT,
            _ = self.terminate.recv() => Self::TERMINATE,
            _ = self.hang_up.recv() => Self::HANG_UP,
            _ = self.resize.recv() => Self::RESIZE,
        }
    }
}

/// Codes are bytes; a code that is none means a failure of some kind.
fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_kept_apart_until_the_exit_code_comes() {
        let mut sink = Sink::new(Printer::new(true));
        let output = |stream, text: &'static str| {
            ServerFrame::Output(stream, Bytes::from_static(text.as_bytes()))
        };
        assert_eq!(sink.take(output(OutputStream::Stdout, "a")).unwrap(), None);
        assert_eq!(sink.take(output(OutputStream::Stderr, "b")).unwrap(), None);
        assert_eq!(sink.take(output(OutputStream::Stdout, "c")).unwrap(), None);
        assert_eq!(sink.take(ServerFrame::Exit(143)).unwrap(), Some(143));
        let Sink::Kept { stdout, stderr, .. } = sink else {
            panic!("passed on")
        };
        assert_eq!(
            (stdout.as_slice(), stderr.as_slice()),
            (&b"ac"[..], &b"b"[..])
        );
    }

    #[test]
    fn a_session_that_broke_off_is_an_error_and_not_an_exit() {
        let mut sink = Sink::new(Printer::new(true));
        sink.take(ServerFrame::Failure("gone".to_owned()))
            .unwrap_err();
    }
}
