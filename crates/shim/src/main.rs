//! The shim: keeper of one sandbox on the host.
//!
//! ```text
//! fermata-shim RUN_DIRECTORY
//!    reads spec.json ── clone3 ──► child: mounts, limits ── execve ──► agent (process 1)
//!    listens on shim.sock                                                │
//!    stdout: "ready PID" once the agent listens ◄────────────────────────┘
//!    process 1 ends ──► exit.json, control groups removed, exit
//! ```
//!
//! With a captured tree in spec.json, process 1 is restored from it instead ([`restore`]).
//!
//! The daemon also starts the checkpoint engine through this program (`fermata-shim engine`): what has to be done between clone
//! and `execve` is done in a program with one thread.
//!
//! Single-threaded, because a clone without `execve` of a multi-threaded program is undefined behaviour, and small, because there
//! is one a sandbox. It outlives the daemon that started it.

mod archive;
mod capture;
mod cgroup;
mod child;
mod control;
mod engine;
mod error;
mod restore;
mod root;
mod start;
mod temporary;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use error::ShimError;
use fermata_protocol::{ShimSpec, error_chain, run_files};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let chain = error_chain(&error);
            // The daemon reads the first line of stdout; the log keeps the words for a daemon that was not there.
            let _ = writeln!(std::io::stdout(), "error {}", chain.replace('\n', " "));
            let _ = writeln!(std::io::stderr(), "{chain}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), ShimError> {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let arguments = arguments.collect::<Vec<_>>();
    match arguments.as_slice() {
        arguments if name == "tar" => archive::run(arguments),
        [directory] => keep(directory.into()),
        [word, spec, network] if word == "engine" => engine::serve(spec, network),
        [word, spec] if word == "learn-kernel" => engine::learn_kernel(spec),
        _ => Err(ShimError::Usage),
    }
}

/// Makes the sandbox of this run directory and keeps it.
fn keep(directory: PathBuf) -> Result<(), ShimError> {
    // Relative names from here on: a unix socket's address has room for only 107 bytes of path (unix(7)).
    std::env::set_current_dir(&directory).map_err(|source| ShimError::File {
        action: "enter",
        path: directory,
        source,
    })?;
    let spec = read_spec()?;
    // A session of its own, so that a terminal or a service manager that ends the daemon's session leaves it alone.
    // Fails only when it is a session leader already.
    let _ = rustix::process::setsid();
    let control = control::Control::open()?;
    let started = match &spec.restore {
        None => start::start(&spec)?,
        Some(restore) => restore::restore(&spec, restore)?,
    };
    announce(started.pid);
    control.serve(&spec, &started)
}

fn read_spec() -> Result<ShimSpec, ShimError> {
    let text = std::fs::read(run_files::SPEC).map_err(|source| ShimError::File {
        action: "read",
        path: run_files::SPEC.into(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(ShimError::Spec)
}

/// Tells the daemon that process 1 listens. A daemon that has died meanwhile finds the sandbox by its socket.
fn announce(pid: i32) {
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "ready {pid}");
    let _ = stdout.flush();
    // The daemon waits for the end of this stream.
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}
