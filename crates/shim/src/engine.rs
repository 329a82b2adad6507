//! Starting the checkpoint engine for the daemon, which has threads and so cannot prepare a process of its own.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io::Write as _;

use fermata_checkpoint::criu;
use fermata_protocol::EngineSpec;

use crate::error::ShimError;

/// Becomes the engine. Its socket is standard input; standard output is what holds the sandbox frozen, kept open to its end.
pub(crate) fn serve(spec: &OsStr) -> Result<(), ShimError> {
    let EngineSpec::Criu(spec) = parse(spec)?;
    // A session of its own, so that a terminal or a service manager that ends the daemon's session leaves it alone: it has
    // the sandbox's processes in its hands.
    let _ = rustix::process::setsid();
    // For the same reason it should not be what the kernel ends when memory runs out.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    criu::leave_mount_namespace().map_err(ShimError::Engine)?;
    let descriptors = [rustix::stdio::stdin(), rustix::stdio::stdout()];
    let result: Result<Infallible, _> = criu::become_engine(&spec, &descriptors);
    match result {
        Ok(never) => match never {},
        Err(error) => Err(ShimError::Engine(error)),
    }
}

/// Prints what the engine finds out about this kernel.
pub(crate) fn learn_kernel(spec: &OsStr) -> Result<(), ShimError> {
    let EngineSpec::Criu(spec) = parse(spec)?;
    criu::leave_mount_namespace().map_err(ShimError::Engine)?;
    let facts = criu::learn_kernel(&spec).map_err(ShimError::Engine)?;
    std::io::stdout()
        .write_all(&facts)
        .map_err(ShimError::system("print"))
}

fn parse(spec: &OsStr) -> Result<EngineSpec, ShimError> {
    serde_json::from_slice(spec.as_encoded_bytes()).map_err(ShimError::Spec)
}
