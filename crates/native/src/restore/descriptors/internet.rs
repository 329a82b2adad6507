//! TCP and UDP sockets.
//!
//! ```text
//!  both ends: bound ─► queues numbered ─► connected by word alone (TCP_REPAIR) ─► what was received put in ─► in use
//!                                                                         then: what was not, sent as usual ─┘
//! ```

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use fermata_sys::socket::set_option;
use fermata_sys::tcp_repair::{self, HandshakeOption, TcpQueue};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, bind, connect, getsockname,
    listen, send, shutdown, socket_with, sockopt,
};

use super::Failure;
use super::sockets::set_options;
use crate::image::{InternetSocket, InternetState, SocketOption, TcpAgreement, TcpStream, options};

/// Where the bytes of either direction begin to be counted. Nobody sees that.
const SEQUENCES: (u32, u32) = (0x1000_0000, 0x2000_0000);
/// The kernel makes one buffer of it.
const PIECE_BYTES: usize = 16 << 10;
/// Below it no buffer has to be made larger.
const SMALL_BYTES: usize = 32 << 10;

fn step(action: &str) -> impl FnOnce(Errno) -> Failure {
    Failure::to(action)
}

fn repairing(error: std::io::Error) -> Failure {
    Failure::to("make a connection")(error)
}

/// A socket without another end.
pub(super) fn alone(image: &InternetSocket) -> Result<OwnedFd, Failure> {
    let kind = if image.is_datagram {
        SocketType::DGRAM
    } else {
        SocketType::STREAM
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let end =
        socket_with(family(image), kind, flags, None).map_err(step("make an internet socket"))?;
    set_options(&end, &image.options)?;
    if let Some(local) = image.local {
        bind(&end, &local).map_err(step(&format!("bind to {local}")))?;
    }
    match image.state {
        InternetState::Listening { backlog } => {
            listen(&end, backlog.cast_signed()).map_err(step("listen on an internet socket"))?;
        }
        InternetState::Connected { peer } => {
            connect(&end, &peer).map_err(step(&format!("connect to {peer}")))?;
        }
        _ => {}
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

/// Both ends of a connection.
pub(super) fn connected(
    first: &InternetSocket,
    second: &InternetSocket,
) -> Result<(OwnedFd, OwnedFd), Failure> {
    let stream = |socket: &InternetSocket| match &socket.state {
        InternetState::Stream(stream) => Ok(stream.clone()),
        _ => Err(Failure::damaged("a connection")),
    };
    let (one, other) = (stream(first)?, stream(second)?);
    let ends = (bound(first)?, bound(second)?);
    join((&ends.0, &one), (&ends.1, &other))?;
    for (end, socket, stream) in [(&ends.0, first, &one), (&ends.1, second, &other)] {
        send_rest(end, &stream.unreceived)?;
        settle(end, &socket.options)?;
    }
    // After both have sent: what is received by an end that is shut resets the other.
    for (end, stream) in [(&ends.0, &one), (&ends.1, &other)] {
        shut(end, stream)?;
    }
    Ok(ends)
}

/// An end whose other end was closed.
pub(super) fn left_alone(image: &InternetSocket, stream: &TcpStream) -> Result<OwnedFd, Failure> {
    let end = bound(image)?;
    let other = bound(&InternetSocket {
        local: Some(stream.remote),
        options: Vec::new(),
        ..image.clone()
    })?;
    let local = image
        .local
        .ok_or_else(|| Failure::damaged("a connection"))?;
    join((&end, stream), (&other, &counterpart(stream, local)))?;
    drop(other);
    settle(&end, &image.options)?;
    shut(&end, stream)?;
    Ok(end)
}

/// A connection that has come to its end: what was received, then perhaps an error, then the end.
pub(super) fn ended(image: &InternetSocket, queue: &[u8], reset: bool) -> Result<OwnedFd, Failure> {
    let loopback = if image.is_v6 {
        SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0)
    } else {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)
    };
    let any = InternetSocket {
        local: Some(loopback),
        options: Vec::new(),
        ..image.clone()
    };
    let (end, other) = (bound(&any)?, bound(&any)?);
    let address = |file: &OwnedFd| {
        getsockname(file)
            .and_then(SocketAddr::try_from)
            .map_err(step("name a connection"))
    };
    let stream = TcpStream {
        peer: None,
        remote: address(&other)?,
        queue: queue.to_vec(),
        unreceived: Vec::new(),
        has_ended: true,
        is_deaf: false,
        agreement: TcpAgreement {
            options: 0,
            send_scale: 0,
            receive_scale: 0,
            segment_bytes: 1460,
        },
    };
    join(
        (&end, &stream),
        (&other, &counterpart(&stream, address(&end)?)),
    )?;
    if reset {
        // Closed without lingering, it sends a reset (socket(7)), which over the loopback is there when the call returns.
        sockopt::set_socket_linger(&other, Some(Duration::ZERO))
            .map_err(step("break a connection"))?;
        drop(other);
    } else {
        drop(other);
        shutdown(&end, Shutdown::Both).map_err(step("end a connection"))?;
    }
    settle(&end, &image.options)?;
    Ok(end)
}

/// The other end of a stream, of which nothing is known.
fn counterpart(stream: &TcpStream, remote: SocketAddr) -> TcpStream {
    TcpStream {
        peer: None,
        remote,
        queue: Vec::new(),
        unreceived: Vec::new(),
        has_ended: false,
        is_deaf: false,
        agreement: TcpAgreement {
            send_scale: stream.agreement.receive_scale,
            receive_scale: stream.agreement.send_scale,
            ..stream.agreement
        },
    }
}

/// A socket in repair, which lets it have any address.
fn bound(image: &InternetSocket) -> Result<OwnedFd, Failure> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let end = socket_with(family(image), SocketType::STREAM, flags, None)
        .map_err(step("make an internet socket"))?;
    // Only before it is bound.
    let only = options::find(&image.options, options::IPV6, options::ONLY_V6);
    if let Some(only) = only {
        set_option(end.as_fd(), options::IPV6, options::ONLY_V6, only).map_err(repairing)?;
    }
    tcp_repair::begin(end.as_fd()).map_err(repairing)?;
    let local = image
        .local
        .ok_or_else(|| Failure::damaged("a connection"))?;
    bind(&end, &local).map_err(step(&format!("bind to {local}")))?;
    Ok(end)
}

/// Connects two ends that are in repair, with what each has received.
fn join(first: (&OwnedFd, &TcpStream), second: (&OwnedFd, &TcpStream)) -> Result<(), Failure> {
    let (one, other) = SEQUENCES;
    connect_repaired(first, second.1.agreement, (one, other))?;
    connect_repaired(second, first.1.agreement, (other, one))?;
    let window = |end: &OwnedFd| tcp_repair::own_window(end.as_fd()).map_err(repairing);
    let windows = (window(first.0)?, window(second.0)?);
    for (end, received, own, others) in [
        (first.0, other, windows.0, windows.1),
        (second.0, one, windows.1, windows.0),
    ] {
        tcp_repair::set_windows(end.as_fd(), received, own, others).map_err(repairing)?;
    }
    for (end, _) in [first, second] {
        tcp_repair::end(end.as_fd()).map_err(repairing)?;
    }
    Ok(())
}

fn connect_repaired(
    (end, stream): (&OwnedFd, &TcpStream),
    other: TcpAgreement,
    (sent, received): (u32, u32),
) -> Result<(), Failure> {
    // linux/tcp.h, and the numbers in packets.
    const TIMESTAMPS: u8 = 1;
    const SELECTIVE: u8 = 2;
    const SCALED: u8 = 4;
    let socket = end.as_fd();
    if stream.queue.len() > SMALL_BYTES {
        // Its own size is set again afterwards.
        sockopt::set_socket_recv_buffer_size_force(end, stream.queue.len() * 2)
            .map_err(step("make a buffer larger"))?;
    }
    let length = u32::try_from(stream.queue.len()).map_err(|_| Failure::damaged("a connection"))?;
    tcp_repair::set_sequence(socket, TcpQueue::Sent, sent).map_err(repairing)?;
    tcp_repair::set_sequence(socket, TcpQueue::Received, received.wrapping_sub(length))
        .map_err(repairing)?;
    connect(end, &stream.remote).map_err(step(&format!("connect to {}", stream.remote)))?;
    let agreement = stream.agreement;
    let mut agreed = vec![HandshakeOption {
        code: 2,
        value: other.segment_bytes,
    }];
    if agreement.options & SCALED != 0 {
        agreed.push(HandshakeOption {
            code: 3,
            value: u32::from(agreement.send_scale) | u32::from(agreement.receive_scale) << 16,
        });
    }
    if agreement.options & SELECTIVE != 0 {
        agreed.push(HandshakeOption { code: 4, value: 0 });
    }
    if agreement.options & TIMESTAMPS != 0 {
        agreed.push(HandshakeOption { code: 8, value: 0 });
    }
    tcp_repair::agree(socket, &agreed).map_err(repairing)?;
    tcp_repair::select(socket, Some(TcpQueue::Received)).map_err(repairing)?;
    for piece in stream.queue.chunks(PIECE_BYTES) {
        let put = send(end, piece, SendFlags::DONTWAIT).map_err(step("fill a connection"))?;
        if put != piece.len() {
            return Err(step("fill a connection")(Errno::AGAIN));
        }
    }
    tcp_repair::select(socket, None).map_err(repairing)
}

/// What the other end does not take stays in the queue of this one.
fn send_rest(end: &OwnedFd, mut bytes: &[u8]) -> Result<(), Failure> {
    if bytes.len() > SMALL_BYTES {
        sockopt::set_socket_send_buffer_size_force(end, bytes.len() * 2)
            .map_err(step("make a buffer larger"))?;
    }
    while !bytes.is_empty() {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = send(end, bytes, flags).map_err(step("send over a connection"))?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

/// Sets all options but those that matter only to a handshake or to multicasts. (An accepted socket has other values of these than
/// a new one, and no stream can set them.)
fn settle(end: &OwnedFd, held: &[SocketOption]) -> Result<(), Failure> {
    let held: Vec<SocketOption> = held
        .iter()
        .filter(|option| !options::NOT_OF_STREAMS.contains(&(option.level, option.name)))
        .cloned()
        .collect();
    set_options(end, &held)
}

fn shut(end: &OwnedFd, stream: &TcpStream) -> Result<(), Failure> {
    let how = match (stream.is_deaf, stream.has_ended) {
        (false, false) => return Ok(()),
        (true, false) => Shutdown::Read,
        (false, true) => Shutdown::Write,
        (true, true) => Shutdown::Both,
    };
    shutdown(end, how).map_err(step("shut a connection down"))
}
