//! Ends the TCP connections of a restored sandbox that lead out of it.
//!
//! The other end belongs to the sandbox that was captured, if to anyone. A connection whose both ends are in this network namespace
//! goes on. `sock_diag(7)` lists and destroys; a program sees `ECONNABORTED`.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use fermata_sys::clone::join_namespace;
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

// linux/sock_diag.h, linux/netlink.h, linux/inet_diag.h
const DIAG_BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;
const HEADER_BYTES: usize = 16;
/// `struct inet_diag_sockid`.
const SOCKET_ID_BYTES: usize = 48;
const TCP: u8 = 6;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// All states (`tcp_states.h`) but `LISTEN`, `TIME_WAIT` and `CLOSE`: those that a program holds an end of a connection in.
const CONNECTED: u32 = !(1 << 10 | 1 << 6 | 1 << 7);
/// What the kernel puts into one datagram of a dump at most (netlink(7)).
const DATAGRAM_BYTES: usize = 32 << 10;

/// Address and port of both ends, the own one first.
type Ends = (IpAddr, u16, IpAddr, u16);

#[derive(Debug)]
struct Connection {
    family: u8,
    /// As the kernel told it, cookie included, so that no other socket can be meant.
    id: [u8; SOCKET_ID_BYTES],
    ends: Ends,
}

/// Destroys every TCP connection of `network` whose other end is not there too.
pub(super) fn close_outside(network: BorrowedFd<'_>) -> io::Result<()> {
    let socket = diagnosis_socket(network)?;
    let mut connections = list(&socket, IPV4)?;
    connections.extend(list(&socket, IPV6)?);
    for connection in outside(&connections) {
        match destroy(&socket, connection) {
            // It has ended by itself.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOENT.raw_os_error()) => {
            }
            other => other?,
        }
    }
    Ok(())
}

fn outside(connections: &[Connection]) -> impl Iterator<Item = &Connection> {
    let present: HashSet<Ends> = connections
        .iter()
        .map(|connection| connection.ends)
        .collect();
    connections.iter().filter(move |connection| {
        let (address, port, peer, peer_port) = connection.ends;
        !present.contains(&(peer, peer_port, address, port))
    })
}

/// A socket belongs to the namespace that its maker was in, and stays there.
fn diagnosis_socket(network: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let own = rustix::fs::open(
        "/proc/self/ns/net",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    join_namespace(network)?;
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    );
    join_namespace(own.as_fd())?;
    Ok(socket?)
}

fn list(socket: &OwnedFd, family: u8) -> io::Result<Vec<Connection>> {
    let request = message(
        DIAG_BY_FAMILY,
        DUMP,
        family,
        CONNECTED,
        &[0; SOCKET_ID_BYTES],
    );
    let mut connections = Vec::new();
    exchange(socket, &request, &mut |body| {
        connections.extend(parse(body));
    })?;
    Ok(connections)
}

fn destroy(socket: &OwnedFd, connection: &Connection) -> io::Result<()> {
    let request = message(
        DESTROY,
        ACKNOWLEDGE,
        connection.family,
        u32::MAX,
        &connection.id,
    );
    exchange(socket, &request, &mut |_| {})
}

/// `struct inet_diag_req_v2` behind its header.
fn message(kind: u16, flags: u16, family: u8, states: u32, id: &[u8; SOCKET_ID_BYTES]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&[family, TCP, 0, 0]);
    bytes.extend_from_slice(&states.to_ne_bytes());
    bytes.extend_from_slice(id);
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes
}

fn exchange(socket: &OwnedFd, request: &[u8], each: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    send(socket, request, SendFlags::empty())?;
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let (length, _) = recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some(header) = rest.first_chunk::<HEADER_BYTES>() {
            let [a, b, c, d, kind_low, kind_high, ..] = *header;
            let length = u32::from_ne_bytes([a, b, c, d]) as usize;
            let Some(body) = rest.get(HEADER_BYTES..length) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            match u16::from_ne_bytes([kind_low, kind_high]) {
                // Both begin with a negative error number, or zero.
                MESSAGE_ERROR | MESSAGE_DONE => return verdict(body),
                _ => each(body),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn verdict(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(0) | None => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
    }
}

/// `struct inet_diag_msg`: family, state, timer, retransmissions, then the id.
fn parse(body: &[u8]) -> Option<Connection> {
    let family = *body.first()?;
    let id: [u8; SOCKET_ID_BYTES] = *body.get(4..)?.first_chunk()?;
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = *id.get(at..)?.first_chunk()?;
        Some(match family {
            IPV4 => Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into(),
            // An IPv6 socket may be the other end of an IPv4 one.
            _ => Ipv6Addr::from(bytes).to_canonical(),
        })
    };
    Some(Connection {
        family,
        id,
        ends: (address(4)?, port(0), address(20)?, port(2)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn connection(ends: (&str, u16, &str, u16)) -> Connection {
        Connection {
            family: IPV4,
            id: [0; SOCKET_ID_BYTES],
            ends: (
                ends.0.parse().unwrap(),
                ends.1,
                ends.2.parse().unwrap(),
                ends.3,
            ),
        }
    }

    #[test]
    fn a_connection_with_both_ends_here_is_inside() {
        let connections = [
            connection(("127.0.0.1", 1000, "127.0.0.1", 80)),
            connection(("127.0.0.1", 80, "127.0.0.1", 1000)),
            connection(("10.0.0.2", 1000, "1.1.1.1", 443)),
            connection(("127.0.0.1", 80, "127.0.0.1", 1001)),
        ];
        let ports = outside(&connections)
            .map(|connection| connection.ends.3)
            .collect::<Vec<_>>();
        assert_eq!(ports, [443, 1001]);
    }

    #[test]
    fn the_kernel_lists_both_ends_also_across_families() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _server = listener.accept().unwrap();
        let own = rustix::fs::open("/proc/self/ns/net", OFlags::RDONLY, Mode::empty()).unwrap();
        let socket = diagnosis_socket(own.as_fd()).unwrap();
        let mut connections = list(&socket, IPV4).unwrap();
        connections.extend(list(&socket, IPV6).unwrap());
        let client_port = client.local_addr().unwrap().port();
        let found = connections
            .iter()
            .filter(|connection| {
                [connection.ends.1, connection.ends.3].contains(&client_port)
                    && [connection.ends.1, connection.ends.3].contains(&port)
            })
            .count();
        assert_eq!(found, 2, "{connections:?}");
        assert!(outside(&connections).all(|connection| connection.ends.1 != client_port));
    }
}
