//! Makes sockets again.
//!
//! ```text
//!  first   connected unix sockets: both ends at once; a named end is accepted by a listener that is there for a moment only
//!  then    bound and listening ones, which want the same names for good
//! ```

use std::os::fd::{AsFd as _, OwnedFd};

use fermata_sys::socket::{option, set_option};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, accept_with, bind, connect,
    getsockname, listen, send, shutdown, socket_with, socketpair, sockopt,
};

use super::{At, Failure, names};
use crate::image::{
    Descriptions, InternetSocket, InternetState, OpenFile, SocketOption, UnixSocket, UnixState,
    options,
};

/// `SO_SNDBUFFORCE`, `SO_RCVBUFFORCE`: `CAP_NET_ADMIN` may exceed `net.core.wmem_max`.
const FORCED: [(i32, i32); 2] = [(options::SEND_BUFFER, 32), (options::RECEIVE_BUFFER, 33)];
/// `RCV_SHUTDOWN`, `SEND_SHUTDOWN`
const NOT_RECEIVING: u8 = 1;
const NOT_SENDING: u8 = 2;

/// Every socket of an image, by its place.
pub(super) fn open_all(image: &Descriptions) -> Result<Vec<Option<OwnedFd>>, At> {
    let mut sockets: Vec<Option<OwnedFd>> = image.list.iter().map(|_| None).collect();
    let unix = |place: usize| match image.list.get(place).map(|open| &open.file) {
        Some(OpenFile::Unix(socket)) => Some(socket),
        _ => None,
    };
    for (place, description) in image.list.iter().enumerate() {
        let at = |failure| (u32::try_from(place).ok(), failure);
        let OpenFile::Unix(socket) = &description.file else {
            continue;
        };
        match socket.state {
            UnixState::Connected { peer } if peer as usize > place => {
                let peer = peer as usize;
                let other = unix(peer)
                    .filter(|other| matches!(other.state, UnixState::Connected { peer } if peer as usize == place))
                    .ok_or_else(|| at(Failure::damaged("a connection")))?;
                let (end, other_end) = connected(socket, other).map_err(at)?;
                sockets[place] = Some(end);
                sockets[peer] = Some(other_end);
            }
            UnixState::Orphaned { reset } => {
                sockets[place] = Some(orphaned(socket, reset).map_err(at)?);
            }
            _ => {}
        }
    }
    for (place, description) in image.list.iter().enumerate() {
        let at = |failure| (u32::try_from(place).ok(), failure);
        match &description.file {
            OpenFile::Unix(socket)
                if matches!(
                    socket.state,
                    UnixState::Unconnected | UnixState::Listening { .. }
                ) =>
            {
                sockets[place] = Some(alone(socket).map_err(at)?);
            }
            OpenFile::Internet(socket) if socket.state != InternetState::Broken => {
                sockets[place] = Some(internet(socket).map_err(at)?);
            }
            _ => {}
        }
    }
    // Last: they take whatever port is free.
    for (place, description) in image.list.iter().enumerate() {
        let at = |failure| (u32::try_from(place).ok(), failure);
        match &description.file {
            OpenFile::Internet(socket) if socket.state == InternetState::Broken => {
                let end = broken(family(socket)).map_err(at)?;
                set_options(&end, &socket.options).map_err(at)?;
                sockets[place] = Some(end);
            }
            _ => {}
        }
    }
    Ok(sockets)
}

/// Both ends of a connection, with what is on its way.
fn connected(first: &UnixSocket, second: &UnixSocket) -> Result<(OwnedFd, OwnedFd), Failure> {
    let (one, other) = match (&first.name, &second.name) {
        (None, None) => pair(first.kind)?,
        (Some(_), None) => {
            let (accepted, connected) = accepted(first)?;
            (accepted, connected)
        }
        (None, Some(_)) => {
            let (accepted, connected) = accepted(second)?;
            (connected, accepted)
        }
        (Some(_), Some(_)) => return Err(Failure::damaged("a connection with two names")),
    };
    fill(&one, &second.queue)?;
    fill(&other, &first.queue)?;
    for (end, socket) in [(&one, first), (&other, second)] {
        set_options(end, &socket.options)?;
        shut_down(end, socket.shutdown)?;
    }
    Ok((one, other))
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

fn orphaned(socket: &UnixSocket, reset: bool) -> Result<OwnedFd, Failure> {
    let (end, peer) = match &socket.name {
        None => pair(socket.kind)?,
        Some(_) => accepted(socket)?,
    };
    fill(&peer, &socket.queue)?;
    if reset {
        // An end that is closed with something unread resets the other (unix(7)).
        fill(&end, &[vec![0]])?;
    }
    set_options(&end, &socket.options)?;
    drop(peer);
    Ok(end)
}

/// Sends messages that the other end is to find.
fn fill(sender: &OwnedFd, queue: &[Vec<u8>]) -> Result<(), Failure> {
    let step = || Failure::to::<Errno>("fill the queue of a unix socket");
    if queue.is_empty() {
        return Ok(());
    }
    let bytes: usize = queue.iter().map(Vec::len).sum();
    // Accounted to the sender; its own size is set again afterwards.
    if bytes > 64 << 10 {
        let _ = sockopt::set_socket_send_buffer_size_force(sender, bytes * 2);
    }
    for message in queue {
        let sent =
            send(sender, message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(step())?;
        if sent != message.len() {
            return Err(step()(Errno::AGAIN));
        }
    }
    Ok(())
}

fn shut_down(socket: &OwnedFd, directions: u8) -> Result<(), Failure> {
    let how = match (
        directions & NOT_RECEIVING != 0,
        directions & NOT_SENDING != 0,
    ) {
        (false, false) => return Ok(()),
        (true, false) => Shutdown::Read,
        (false, true) => Shutdown::Write,
        (true, true) => Shutdown::Both,
    };
    shutdown(socket, how).map_err(Failure::to("shut a socket down"))
}

/// A socket that is connected to nobody.
fn alone(socket: &UnixSocket) -> Result<OwnedFd, Failure> {
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

fn internet(image: &InternetSocket) -> Result<OwnedFd, Failure> {
    let kind = if image.is_datagram {
        SocketType::DGRAM
    } else {
        SocketType::STREAM
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let end = socket_with(family(image), kind, flags, None)
        .map_err(Failure::to("make an internet socket"))?;
    set_options(&end, &image.options)?;
    if let Some(local) = image.local {
        bind(&end, &local).map_err(Failure::to(format!("bind to {local}")))?;
    }
    match image.state {
        InternetState::Listening { backlog } => listen(&end, backlog.cast_signed())
            .map_err(Failure::to("listen on an internet socket"))?,
        InternetState::Connected { peer } => {
            connect(&end, &peer).map_err(Failure::to(format!("connect to {peer}")))?;
        }
        InternetState::Unconnected | InternetState::Broken => {}
    }
    Ok(end)
}

fn family(image: &InternetSocket) -> AddressFamily {
    if image.is_v6 {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    }
}

/// A connection that the other end has reset.
fn broken(family: AddressFamily) -> Result<OwnedFd, Failure> {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
    let step = || Failure::to::<Errno>("make a connection to break it");
    let flags = SocketFlags::CLOEXEC;
    let make = || socket_with(family, SocketType::STREAM, flags, None).map_err(step());
    let loopback = if family == AddressFamily::INET6 {
        SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0)
    } else {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)
    };
    let listener = make()?;
    bind(&listener, &loopback).map_err(step())?;
    listen(&listener, 1).map_err(step())?;
    let end = make()?;
    let address = getsockname(&listener).map_err(step())?;
    connect(&end, &address).map_err(step())?;
    let other = accept_with(&listener, flags).map_err(step())?;
    // Closed without lingering, it sends a reset (socket(7)), which over the loopback is there when the call returns.
    sockopt::set_socket_linger(&other, Some(std::time::Duration::ZERO)).map_err(step())?;
    drop(other);
    Ok(end)
}

/// Sets what differs from what a new socket has.
fn set_options(socket: &OwnedFd, held: &[SocketOption]) -> Result<(), Failure> {
    for wanted in held {
        let (level, name) = (wanted.level, wanted.name);
        let current = option(socket.as_fd(), level, name);
        if current.is_ok_and(|current| current == wanted.value) {
            continue;
        }
        let forced = FORCED
            .iter()
            .find(|(plain, _)| level == options::SOCKET && name == *plain);
        let result = match forced {
            // The kernel tells twice what it was given (socket(7)).
            Some((_, forced)) => {
                let number = options::number(held, level, name)
                    .ok_or_else(|| Failure::damaged("a socket option"))?;
                set_option(socket.as_fd(), level, *forced, &(number / 2).to_ne_bytes())
            }
            None => set_option(socket.as_fd(), level, name, &wanted.value),
        };
        result.map_err(Failure::to(format!("set socket option {level}:{name}")))?;
    }
    Ok(())
}
