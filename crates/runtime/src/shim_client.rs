//! Starting a shim and speaking to it.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use fermata_protocol::shim::{
    Exit, Freeze, Kill, Request, Response, Status, StatusResult, Thaw, WaitExit, request::Call,
    response::Result as Answer,
};
use fermata_protocol::{ExitRecord, FrameError, ShimSpec, frame, run_files};
use prost::Message as _;
use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::RuntimeError;

const PEER: &str = "shim";

/// Speaks to the shim that keeps the sandbox of one run directory.
#[derive(Debug, Clone)]
pub struct ShimClient {
    run_directory: PathBuf,
}

/// A frozen sandbox. Dropping it lets the sandbox go on, so does the daemon's death.
#[derive(Debug)]
pub struct Frozen {
    stream: UnixStream,
}

/// Starts a shim for `spec` in `run_directory` and waits until the sandbox's agent is ready.
///
/// # Errors
/// [`RuntimeError::NotStarted`] with the shim's own words, [`RuntimeError::Spawn`], [`RuntimeError::File`].
pub async fn start_shim(
    program: &Path,
    run_directory: &Path,
    spec: &ShimSpec,
) -> Result<ShimClient, RuntimeError> {
    let path = run_directory.join(run_files::SPEC);
    let text = serde_json::to_vec(spec).map_err(|error| RuntimeError::File {
        action: "encode",
        path: path.clone(),
        source: error.into(),
    })?;
    let file = |action, path: &Path| {
        let path = path.to_owned();
        move |source| RuntimeError::File {
            action,
            path,
            source,
        }
    };
    std::fs::write(&path, text).map_err(file("write", &path))?;
    let log_path = run_directory.join(run_files::LOG);
    let log = std::fs::File::create(&log_path).map_err(file("make", &log_path))?;
    // Without a working directory or a hook std uses posix_spawn(3), which does not copy the daemon's page tables as fork(2)
    // does; the shim changes its directory itself.
    let mut child = tokio::process::Command::new(program)
        .arg(run_directory)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|source| RuntimeError::Spawn {
            program: "the shim",
            source,
        })?;
    let mut words = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout
            .read_to_string(&mut words)
            .await
            .map_err(|source| RuntimeError::Connect { peer: PEER, source })?;
    }
    // Dropping the child neither kills nor leaks it: tokio reaps it when it ends.
    drop(child);
    if words.starts_with("ready ") {
        Ok(ShimClient::new(run_directory.to_owned()))
    } else {
        let reason = words.trim().trim_start_matches("error ");
        Err(RuntimeError::NotStarted {
            reason: if reason.is_empty() {
                "the shim ended without a word".to_owned()
            } else {
                reason.to_owned()
            },
        })
    }
}

/// What the shim recorded at the end of process 1; `None` when it did not come to that.
#[must_use]
pub fn exit_record(run_directory: &Path) -> Option<ExitRecord> {
    let text = std::fs::read(run_directory.join(run_files::EXIT)).ok()?;
    serde_json::from_slice(&text).ok()
}

impl ShimClient {
    /// Makes no connection yet.
    #[must_use]
    pub fn new(run_directory: PathBuf) -> Self {
        Self { run_directory }
    }

    /// Process 1 and whether the sandbox is frozen.
    ///
    /// # Errors
    /// [`RuntimeError::Connect`] when there is no shim.
    pub async fn status(&self) -> Result<StatusResult, RuntimeError> {
        match call(&mut self.connect().await?, Call::Status(Status {})).await? {
            Answer::Status(status) => Ok(status),
            other => Err(unexpected(other)),
        }
    }

    /// Stops every process of the sandbox until the returned value is dropped.
    ///
    /// # Errors
    /// [`RuntimeError::Shim`] when they do not stand still in time; they run on then.
    pub async fn freeze(&self, limit: Duration) -> Result<Frozen, RuntimeError> {
        let mut stream = self.connect().await?;
        let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        match call(&mut stream, Call::Freeze(Freeze { timeout_ms })).await? {
            Answer::Done(_) => Ok(Frozen { stream }),
            other => Err(unexpected(other)),
        }
    }

    /// Kills every process of the sandbox.
    ///
    /// # Errors
    /// [`RuntimeError::Connect`] when there is no shim.
    pub async fn kill(&self) -> Result<(), RuntimeError> {
        match call(&mut self.connect().await?, Call::Kill(Kill {})).await? {
            Answer::Done(_) => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Waits until process 1 has ended and nothing of the sandbox is left.
    ///
    /// # Errors
    /// [`RuntimeError::Call`] when the shim dies without having said so: see [`exit_record`] then.
    pub async fn wait_exit(&self) -> Result<Exit, RuntimeError> {
        match call(&mut self.connect().await?, Call::WaitExit(WaitExit {})).await? {
            Answer::Exit(exit) => Ok(exit),
            other => Err(unexpected(other)),
        }
    }

    async fn connect(&self) -> Result<UnixStream, RuntimeError> {
        let attempt = async {
            // A unix address holds 107 bytes of path; through the directory's descriptor any run directory fits.
            let directory = rustix::fs::open(
                &self.run_directory,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let path = format!(
                "/proc/self/fd/{}/{}",
                directory.as_raw_fd(),
                run_files::SOCKET
            );
            UnixStream::connect(path).await
        };
        attempt
            .await
            .map_err(|source: io::Error| RuntimeError::Connect { peer: PEER, source })
    }
}

impl AsFd for Frozen {
    /// The freeze lasts for as long as anyone has this open.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Frozen {
    /// Lets the sandbox go on and waits until it does.
    ///
    /// # Errors
    /// [`RuntimeError::Shim`], [`RuntimeError::Call`].
    pub async fn thaw(mut self) -> Result<(), RuntimeError> {
        match call(&mut self.stream, Call::Thaw(Thaw {})).await? {
            Answer::Done(_) => Ok(()),
            other => Err(unexpected(other)),
        }
    }
}

fn unexpected(answer: Answer) -> RuntimeError {
    match answer {
        Answer::Failure(failure) => RuntimeError::Shim {
            message: failure.message,
        },
        _ => RuntimeError::UnexpectedAnswer { peer: PEER },
    }
}

async fn call(stream: &mut UnixStream, call: Call) -> Result<Answer, RuntimeError> {
    let failed = |source| RuntimeError::Call { peer: PEER, source };
    let transfer = |source| failed(FrameError::Transfer(source));
    let request = frame::encode(&Request { call: Some(call) }).map_err(failed)?;
    stream.write_all(&request).await.map_err(transfer)?;
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await.map_err(transfer)?;
    let mut body = vec![0; frame::body_length(prefix).map_err(failed)?];
    stream.read_exact(&mut body).await.map_err(transfer)?;
    Response::decode(body.as_slice())
        .map_err(|source| failed(FrameError::Decode(source)))?
        .result
        .ok_or(RuntimeError::UnexpectedAnswer { peer: PEER })
}
