//! What a restored sandbox must not share with the one it comes from.

use std::io;

use fermata_protocol::{ShimSpec, error_chain};
use fermata_sys::clone::join_namespace;
use rustix::fs::{Mode, OFlags};

use crate::root;

/// Gives the tree its own host name and network files, before any task of it runs.
pub(super) fn renew(spec: &ShimSpec, init_pid: i32) -> io::Result<()> {
    set_host_name(&spec.hostname, init_pid)?;
    // A magic link: it leads to the root of process 1 whatever its path is here. Below it nothing is resolved from here.
    let root = rustix::fs::open(
        format!("/proc/{init_pid}/root"),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for (path, content) in &spec.files {
        root::write_file(&root, path, content)
            .map_err(|error| io::Error::other(error_chain(&error)))?;
    }
    Ok(())
}

fn set_host_name(name: &str, init_pid: i32) -> io::Result<()> {
    let open =
        |path: String| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let own = open("/proc/self/ns/uts".to_owned())?;
    let its = open(format!("/proc/{init_pid}/ns/uts"))?;
    use std::os::fd::AsFd as _;
    join_namespace(its.as_fd())?;
    let result = rustix::system::sethostname(name.as_bytes());
    join_namespace(own.as_fd())?;
    Ok(result?)
}
