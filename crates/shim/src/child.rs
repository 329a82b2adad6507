//! The way from a fresh clone to the agent: everything here runs as process 1 of the new pid namespace.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use fermata_protocol::ShimSpec;
use fermata_sys::clone::{join_namespace, join_new_session_keyring, unshare_cgroup};
use fermata_sys::execute::{close_on_execute_from, duplicate_to, execute};
use fermata_sys::seccomp::{install_filter, limit_capabilities};
use rustix::io::Errno;

use crate::error::ShimError;
use crate::root;

/// Descriptors that the child gets from the shim.
#[derive(Debug)]
pub(crate) struct Inherited {
    /// The network namespace to join.
    pub(crate) network: OwnedFd,
    /// A byte comes when the child is in all of its control groups.
    pub(crate) go: OwnedFd,
    /// The agent writes a byte when it listens.
    pub(crate) ready: OwnedFd,
}

/// The descriptor on which the agent reports that it listens.
const READY_DESCRIPTOR: i32 = 3;

/// Sets everything up and becomes the agent.
pub(crate) fn become_init(spec: &ShimSpec, inherited: &Inherited) -> Result<Infallible, ShimError> {
    wait_for_go(&inherited.go)?;
    let _ = rustix::process::setsid();
    join_new_session_keyring().map_err(ShimError::system("leave the session keyring"))?;
    join_namespace(inherited.network.as_fd())
        .map_err(ShimError::system("join the network namespace"))?;
    unshare_cgroup().map_err(ShimError::system("unshare the cgroup namespace"))?;
    rustix::system::sethostname(spec.hostname.as_bytes())
        .map_err(ShimError::system("set the host name"))?;
    root::enter(spec)?;
    null_standard_streams()?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // Out of memory inside means the end of some program, not of process 1 and with it everything; the agent sets what it
    // starts back to 0. Refused without CAP_SYS_RESOURCE, and then the sandbox is only less robust.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");

    let arguments = c_strings(spec.init.iter().map(String::as_str))?;
    let environment = spec
        .environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect::<Vec<_>>();
    let environment = c_strings(environment.iter().map(String::as_str))?;

    let ready = inherited.ready.as_raw_fd();
    if ready == READY_DESCRIPTOR {
        rustix::io::fcntl_setfd(&inherited.ready, rustix::io::FdFlags::empty())
            .map_err(ShimError::system("keep the ready pipe"))?;
    } else {
        duplicate_to(inherited.ready.as_fd(), READY_DESCRIPTOR)
            .map_err(ShimError::system("keep the ready pipe"))?;
    }
    close_on_execute_from(READY_DESCRIPTOR.cast_unsigned() + 1)
        .map_err(ShimError::system("mark descriptors"))?;

    if spec.security.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(ShimError::system("set no_new_privs"))?;
    }
    // Filters first: without no_new_privs installing one needs CAP_SYS_ADMIN. What follows is allowed by them.
    for program in &spec.security.seccomp {
        install_filter(program).map_err(ShimError::system("install the seccomp filter"))?;
    }
    limit_capabilities(spec.security.capabilities)
        .map_err(ShimError::system("drop capabilities"))?;

    let error = execute(&arguments, &environment);
    Err(ShimError::file(
        "execute",
        spec.init.first().map_or("", String::as_str),
    )(error))
}

/// Returns when the shim has put this process where it belongs.
pub(crate) fn wait_for_go(pipe: &OwnedFd) -> Result<(), ShimError> {
    let mut go = [0];
    match rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut go)) {
        Ok(1) => Ok(()),
        Ok(_) => Err(ShimError::System {
            action: "start without the shim",
            source: Errno::PIPE.into(),
        }),
        Err(error) => Err(ShimError::system("wait for the shim")(error)),
    }
}

/// Ends the child without running anything that belongs to the shim it was copied from.
#[expect(
    clippy::exit,
    reason = "a failed clone must end here and not return into the shim's code"
)]
pub(crate) fn leave() -> ! {
    std::process::exit(127)
}

fn null_standard_streams() -> Result<(), ShimError> {
    let null = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(ShimError::file("open", "/dev/null"))?;
    let redirect = || {
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)
    };
    redirect().map_err(ShimError::system("redirect the standard streams"))
}

fn c_strings<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<CString>, ShimError> {
    texts
        .map(|text| {
            CString::new(text).map_err(|_| ShimError::System {
                action: "pass an argument with a zero byte",
                source: Errno::INVAL.into(),
            })
        })
        .collect()
}
