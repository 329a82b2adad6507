//! Starting the checkpoint engine for the daemon, which has threads and so cannot prepare a process of its own.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io::Write as _;
use std::os::fd::AsFd as _;

use fermata_checkpoint::criu;
use fermata_protocol::{CriuSpec, EngineSpec};
use fermata_sys::clone::join_namespace;

use crate::error::ShimError;
use crate::start::open_namespace;

/// Becomes the engine, in the sandbox's network namespace. Its socket is standard input; standard output is what holds the sandbox frozen, kept open to its end.
pub(crate) fn serve(spec: &OsStr, network: &OsStr) -> Result<(), ShimError> {
    let spec = parse(spec)?;
    // A session of its own, so that a terminal or a service manager that ends the daemon's session leaves it alone: it has
    // the sandbox's processes in its hands.
    let _ = rustix::process::setsid();
    // For the same reason it should not be what the kernel ends when memory runs out.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    criu::leave_mount_namespace().map_err(ShimError::Engine)?;
    let network = open_namespace(network.as_ref())?;
    join_namespace(network.as_fd()).map_err(ShimError::system("join the network namespace"))?;
    let descriptors = [rustix::stdio::stdin(), rustix::stdio::stdout()];
    let result: Result<Infallible, _> = criu::become_engine(&spec, &descriptors);
    match result {
        Ok(never) => match never {},
        Err(error) => Err(ShimError::Engine(error)),
    }
}

/// Prints what the engine finds out about this kernel.
pub(crate) fn learn_kernel(spec: &OsStr) -> Result<(), ShimError> {
    let spec = parse(spec)?;
    criu::leave_mount_namespace().map_err(ShimError::Engine)?;
    let facts = criu::learn_kernel(&spec).map_err(ShimError::Engine)?;
    std::io::stdout()
        .write_all(&facts)
        .map_err(ShimError::system("print"))
}

fn parse(spec: &OsStr) -> Result<CriuSpec, ShimError> {
    match serde_json::from_slice(spec.as_encoded_bytes()).map_err(ShimError::Spec)? {
        EngineSpec::Criu(spec) => Ok(spec),
        EngineSpec::Native => Err(ShimError::Usage),
    }
}
