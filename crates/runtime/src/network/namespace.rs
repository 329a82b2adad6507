//! Namespaces as files, and being inside one.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use fermata_sys::network_namespace::unshare_network;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::netlink::Socket;
use super::{INSIDE_ADDRESS, INSIDE_GATEWAY, INSIDE_PREFIX, link, translation};
use crate::RuntimeError;

/// Follows the calling thread, unlike `/proc/self`, which is the first thread.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// The network namespace of the calling thread.
pub(super) fn current() -> Result<OwnedFd, RuntimeError> {
    open(Path::new(OWN_NAMESPACE))
}

pub(super) fn open(path: &Path) -> Result<OwnedFd, RuntimeError> {
    File::open(path)
        .map(OwnedFd::from)
        .map_err(file("open", path))
}

/// Runs `work` on a thread of its own inside a namespace: a thread that cannot get back must not serve anybody else.
pub(super) fn within<T: Send>(
    namespace: &OwnedFd,
    work: impl FnOnce() -> Result<T, RuntimeError> + Send,
) -> Result<T, RuntimeError> {
    thread::scope(|scope| {
        let inside = thread::Builder::new()
            .name("network".to_owned())
            .spawn_scoped(scope, move || {
                enter(namespace)?;
                work()
            })
            .map_err(system("start a thread"))?;
        match inside.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn enter(namespace: &OwnedFd) -> Result<(), RuntimeError> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|errno| system("enter a network namespace")(errno.into()))
}

/// The directory of the pinned namespaces, shared, as iproute2 does for its own: whoever has got a copy of the mounts (a
/// service in its own mount namespace) must lose them when we do, or the namespace would live on.
pub(super) fn prepare_directory(directory: &Path) -> Result<(), RuntimeError> {
    std::fs::create_dir_all(directory).map_err(file("make", directory))?;
    let share = || mount_change(directory, MountPropagationFlags::SHARED);
    match share() {
        Ok(()) => Ok(()),
        // Not a mount point yet.
        Err(rustix::io::Errno::INVAL) => mount_bind(directory, directory).and_then(|()| share()),
        Err(errno) => Err(errno),
    }
    .map_err(|errno| file("share the mounts under", directory)(errno.into()))
}

/// Undoes [`prepare_directory`]; nothing may be pinned in it.
pub(super) fn remove_directory(directory: &Path) -> Result<(), RuntimeError> {
    unpin(directory)?;
    match std::fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(file("remove", directory)(error))
        }
        _ => Ok(()),
    }
}

/// Unmounts whatever is at `path`.
fn unpin(path: &Path) -> Result<(), RuntimeError> {
    loop {
        match unmount(path, UnmountFlags::DETACH) {
            // There may be one mount on another after a crash.
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(file("unmount", path)(errno.into())),
        }
    }
}

/// Lets go of the namespace pinned at `path`, and removes the file.
pub(super) fn remove(path: &Path) -> Result<(), RuntimeError> {
    unpin(path)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// What a new namespace is called and where its packets come from.
#[derive(Debug)]
pub(super) struct Plan {
    /// Where it is pinned.
    pub(super) path: PathBuf,
    /// The host's end.
    pub(super) interface: String,
    /// The address by which the host knows it.
    pub(super) transfer_address: Ipv4Addr,
}

/// Makes a namespace with everything in it, and the host's side. An error or a crash leaves remains: [`remove`] and the
/// interface are the caller's to clean.
pub(super) fn make(host: &OwnedFd, plan: &Plan) -> Result<(), RuntimeError> {
    within(host, || {
        let mut outside = Socket::route().map_err(system("open a netlink socket"))?;
        unshare_network().map_err(system("make a network namespace"))?;
        let namespace = current()?;
        File::create(&plan.path).map_err(file("make", &plan.path))?;
        mount_bind(OWN_NAMESPACE, &plan.path)
            .map_err(|errno| file("mount a network namespace at", &plan.path)(errno.into()))?;
        translation::install(plan.transfer_address)
            .map_err(system("set the address translation inside"))?;
        set_inside_options()?;
        let mut inside = Socket::route().map_err(system("open a netlink socket"))?;
        link::set_up(&mut inside, link::LOOPBACK)
            .map_err(system("start the loopback interface"))?;
        link::add_pair(&mut outside, &plan.interface, namespace.as_fd())
            .map_err(system("make a pair of interfaces"))?;
        link::set_up(&mut inside, link::INSIDE).map_err(system("start the interface inside"))?;
        link::add_inside_address(&mut inside, INSIDE_ADDRESS, INSIDE_PREFIX, INSIDE_GATEWAY)
            .map_err(system("set the address inside"))?;
        // Only now may a packet pass.
        enter(host)?;
        set_outside_options(&plan.interface)?;
        let index = link::index_of(&mut outside, &plan.interface)
            .map_err(system("find the host's interface"))?;
        link::set_up(&mut outside, index).map_err(system("start the host's interface"))?;
        link::add_host_route(&mut outside, plan.transfer_address, index)
            .map_err(system("set the route to a sandbox"))?;
        wait_until_running(&mut inside).map_err(system("wait for the interface inside"))
    })
}

fn wait_until_running(inside: &mut Socket) -> io::Result<()> {
    // It takes less than a millisecond on an idle machine.
    const LIMIT: Duration = Duration::from_secs(5);
    const STEP: Duration = Duration::from_micros(200);
    let deadline = Instant::now() + LIMIT;
    while !link::is_running(inside, link::INSIDE)? {
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(STEP);
    }
    Ok(())
}

/// For the namespace of the calling thread, before its `eth0` is there.
fn set_inside_options() -> Result<(), RuntimeError> {
    // No outbound IPv6, and so no address that would promise it; loopback exists already and keeps ::1.
    set_option_if_there("net/ipv6/conf/default/disable_ipv6", "1")?;
    // As Docker: any user may ping, and listen on low ports.
    set_option("net/ipv4/ping_group_range", "0 2147483647")?;
    set_option("net/ipv4/ip_unprivileged_port_start", "0")
}

/// For the host's end, before it is up.
fn set_outside_options(interface: &str) -> Result<(), RuntimeError> {
    set_option_if_there(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "1")?;
    set_option(&forwarding_option(interface), "1")
}

/// Whether packets that come from `interface` are forwarded.
pub(super) fn forwarding(interface: &str) -> PathBuf {
    option_path(&forwarding_option(interface))
}

fn forwarding_option(interface: &str) -> String {
    format!("net/ipv4/conf/{interface}/forwarding")
}

/// Sets a kernel option of the calling thread's namespace.
pub(super) fn set_option(name: &str, value: &str) -> Result<(), RuntimeError> {
    let path = option_path(name);
    // Not `fs::write`, which would create: these files exist or the option does not.
    OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(file("write", &path))
}

/// As [`set_option`], for what a kernel may be built without.
fn set_option_if_there(name: &str, value: &str) -> Result<(), RuntimeError> {
    if option_path(name).exists() {
        set_option(name, value)
    } else {
        Ok(())
    }
}

/// The path of a kernel option.
pub(super) fn option_path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

/// For `map_err` on what was done with a file.
pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RuntimeError {
    move |source| RuntimeError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

/// For `map_err` on system calls.
pub(super) fn system(action: &'static str) -> impl FnOnce(io::Error) -> RuntimeError {
    move |source| RuntimeError::System { action, source }
}
