//! Unix sockets, as far as they can be made before all descriptions are open.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, accept_with, connect, getsockname, listen, socket_with,
    socketpair,
};

use super::sockets::{set_options, shut_down};
use super::{Failure, names};
use crate::image::{UnixSocket, UnixState};

/// Both ends of a connection.
pub(super) fn connected(
    first: &UnixSocket,
    second: &UnixSocket,
) -> Result<(OwnedFd, OwnedFd), Failure> {
    match (&first.name, &second.name) {
        (None, None) => pair(first.kind),
        (Some(_), None) => accepted(first),
        (None, Some(_)) => {
            let (accepted, connected) = accepted(second)?;
            Ok((connected, accepted))
        }
        (Some(_), Some(_)) => Err(Failure::damaged("a connection with two names")),
    }
}

fn pair(kind: u32) -> Result<(OwnedFd, OwnedFd), Failure> {
    socketpair(
        AddressFamily::UNIX,
        SocketType::from_raw(kind),
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(Failure::to("connect two unix sockets"))
}

/// The end that has its listener's name, and the other.
fn accepted(named: &UnixSocket) -> Result<(OwnedFd, OwnedFd), Failure> {
    let step = || Failure::to::<Errno>("connect two unix sockets by a name");
    let name = named
        .name
        .as_ref()
        .ok_or_else(|| Failure::damaged("a connection"))?;
    let kind = SocketType::from_raw(named.kind);
    if kind == SocketType::DGRAM {
        let (one, other) = pair(named.kind)?;
        names::bind_for_good(&one, name)?;
        return Ok((one, other));
    }
    let listener = unix_socket(kind)?;
    let binding = names::bind_for_a_moment(&listener, name)?;
    listen(&listener, 1).map_err(step())?;
    let client = unix_socket(kind)?;
    let address = getsockname(&listener).map_err(step())?;
    binding
        .reach(|| connect(&client, &address))
        .map_err(step())?;
    let server =
        accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).map_err(step())?;
    binding.end()?;
    Ok((server, client))
}

/// A socket, and the other end that is to be closed.
pub(super) fn orphaned(socket: &UnixSocket) -> Result<(OwnedFd, OwnedFd), Failure> {
    match &socket.name {
        None => pair(socket.kind),
        Some(_) => accepted(socket),
    }
}

/// A socket that is connected to nobody.
pub(super) fn alone(socket: &UnixSocket) -> Result<OwnedFd, Failure> {
    let end = unix_socket(SocketType::from_raw(socket.kind))?;
    set_options(&end, &socket.options)?;
    if let Some(name) = &socket.name {
        names::bind_for_good(&end, name)?;
    }
    if let UnixState::Listening { backlog } = socket.state {
        listen(&end, backlog.cast_signed()).map_err(Failure::to("listen on a unix socket"))?;
    }
    shut_down(&end, socket.shutdown)?;
    Ok(end)
}

fn unix_socket(kind: SocketType) -> Result<OwnedFd, Failure> {
    socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(Failure::to("make a unix socket"))
}
