//! From a process of our own to CRIU.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fermata_protocol::CriuSpec;
use fermata_sys::execute::{close_on_execute_from, duplicate_to, execute};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use super::SOCKET_DESCRIPTOR;

/// Where CRIU looks for what it knows of the kernel. It believes it only on a tmpfs, which a reboot empties.
const FACTS_DIRECTORY: &str = "/run";
const FACTS: &str = "/run/criu.kdat";

/// Why CRIU could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct LaunchError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Turns the calling process into CRIU, which serves the first of `descriptors`; the others follow it as 4, 5, …
///
/// The process must be single-threaded and in a mount namespace of its own whose mounts reach no other.
///
/// # Errors
/// [`LaunchError`]; it never returns otherwise.
pub fn become_engine(
    spec: &CriuSpec,
    descriptors: &[BorrowedFd<'_>],
) -> Result<Infallible, LaunchError> {
    bring_kernel_facts(spec);
    // Out of the way of the numbers that are given out, before any of these is overwritten.
    let held = descriptors
        .iter()
        .map(|descriptor| rustix::io::fcntl_dupfd_cloexec(descriptor, 64))
        .collect::<Result<Vec<OwnedFd>, _>>()
        .map_err(failed("pass descriptors to", command_path(spec)))?;
    null_standard_streams().map_err(failed("open", Path::new("/dev/null")))?;
    let mut number = SOCKET_DESCRIPTOR;
    for descriptor in &held {
        duplicate_to(descriptor.as_fd(), number)
            .map_err(failed("pass descriptors to", command_path(spec)))?;
        number += 1;
    }
    close_on_execute_from(number.cast_unsigned())
        .map_err(failed("pass descriptors to", command_path(spec)))?;
    let mut arguments = spec.command.clone();
    arguments.extend(["swrk".to_owned(), SOCKET_DESCRIPTOR.to_string()]);
    let arguments = c_strings(&arguments);
    let mut environment = vec![format!("PATH={}", spec.search_path)];
    environment.extend(
        spec.preload
            .iter()
            .map(|object| format!("LD_PRELOAD={}", object.display())),
    );
    let environment = c_strings(&environment);
    Err(failed("execute", command_path(spec))(execute(
        &arguments,
        &environment,
    )))
}

/// Keeps what is mounted here from the rest of the machine; what is unmounted there still goes away here.
///
/// # Errors
/// [`LaunchError`]
pub fn leave_mount_namespace() -> Result<(), LaunchError> {
    fermata_sys::clone::unshare_mounts().map_err(failed("leave the mounts of", Path::new("/")))?;
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .map_err(failed("detach", Path::new("/")))
}

/// Lets CRIU look at the kernel and returns what it noted; for a process in a mount namespace of its own.
///
/// # Errors
/// [`LaunchError`]
pub fn learn_kernel(spec: &CriuSpec) -> Result<Vec<u8>, LaunchError> {
    cover_facts().map_err(failed("cover", Path::new(FACTS_DIRECTORY)))?;
    let run = || {
        let (program, arguments) = spec
            .command
            .split_first()
            .ok_or(io::ErrorKind::InvalidInput)?;
        Command::new(program)
            .args(arguments)
            .arg("check")
            .env("PATH", &spec.search_path)
            .stdout(Stdio::null())
            .status()
    };
    run().map_err(failed("execute", command_path(spec)))?;
    std::fs::read(FACTS).map_err(failed("read", Path::new(FACTS)))
}

fn cover_facts() -> rustix::io::Result<()> {
    mount(
        "tmpfs",
        FACTS_DIRECTORY,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        c"mode=700,size=1m",
    )
}

/// Without them CRIU finds out itself, which takes 70 ms: no reason to give up.
fn bring_kernel_facts(spec: &CriuSpec) {
    let Some(path) = &spec.kernel_facts else {
        return;
    };
    // What is covered by the mount could not be reached any more.
    if spec.command.iter().any(|word| word.starts_with("/run/")) {
        return;
    }
    let Ok(facts) = std::fs::read(path) else {
        return;
    };
    if cover_facts().is_ok() {
        let _ = std::fs::write(FACTS, facts);
    }
}

fn null_standard_streams() -> rustix::io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)
}

fn command_path(spec: &CriuSpec) -> &Path {
    Path::new(spec.command.first().map_or("", String::as_str))
}

fn failed<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl Fn(E) -> LaunchError {
    let path = path.to_owned();
    move |source| LaunchError {
        action,
        path: path.clone(),
        source: source.into(),
    }
}

/// Strings that come from JSON; one with a zero byte would only be cut short.
fn c_strings(texts: &[String]) -> Vec<CString> {
    texts
        .iter()
        .map(|text| CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default())
        .collect()
}
