//! What `sock_diag(7)` tells of unix sockets, which nothing else does: who is connected to whom.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use fermata_sys::clone::join_namespace;
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

// linux/sock_diag.h, linux/netlink.h, linux/unix_diag.h
const DIAG_BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;
const HEADER_BYTES: usize = 16;
/// `UDIAG_SHOW_VFS`, `_PEER`, `_ICONS`, `_RQLEN`
const SHOW: u32 = 0x2 | 0x4 | 0x8 | 0x10;
const ATTRIBUTE_FILE: u16 = 1;
const ATTRIBUTE_PEER: u16 = 2;
const ATTRIBUTE_WAITING: u16 = 3;
const ATTRIBUTE_QUEUES: u16 = 4;
const ATTRIBUTE_SHUTDOWN: u16 = 6;
const DATAGRAM_BYTES: usize = 32 << 10;
/// `TCP_LISTEN`, which unix sockets use too.
const LISTENING: u8 = 10;

/// A unix socket.
#[derive(Debug, Default, Clone)]
pub(super) struct UnixDiagnosis {
    pub(super) is_listening: bool,
    /// The inode of the socket it is connected to; 0: one that nobody has open (any more, or yet).
    pub(super) peer: Option<u32>,
    /// The inode of the file it is bound to.
    pub(super) file: Option<u32>,
    /// Connections that wait to be accepted.
    pub(super) waiting: usize,
    /// How many may, when it listens.
    pub(super) backlog: u32,
    pub(super) shutdown: u8,
}

/// All unix sockets of the network namespace of a process, by inode.
pub(super) fn unix_sockets(process: &OwnedFd) -> io::Result<HashMap<u64, UnixDiagnosis>> {
    let socket = diagnosis_socket(process)?;
    send(&socket, &request(), SendFlags::empty())?;
    let mut sockets = HashMap::new();
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let (length, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some(header) = rest.first_chunk::<HEADER_BYTES>() {
            let [a, b, c, d, kind_low, kind_high, ..] = *header;
            let length = u32::from_ne_bytes([a, b, c, d]) as usize;
            let body = rest
                .get(HEADER_BYTES..length)
                .ok_or(io::ErrorKind::InvalidData)?;
            match u16::from_ne_bytes([kind_low, kind_high]) {
                MESSAGE_ERROR => {
                    let errno = body
                        .first_chunk()
                        .map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                    return Err(io::Error::from_raw_os_error(-errno));
                }
                MESSAGE_DONE => return Ok(sockets),
                _ => {
                    let (inode, diagnosis) = parse(body).ok_or(io::ErrorKind::InvalidData)?;
                    sockets.insert(inode, diagnosis);
                }
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// A socket belongs to the namespace that its maker was in, and stays there.
fn diagnosis_socket(process: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::open("/proc/self/ns/net", flags, Mode::empty())?;
    let network = rustix::fs::openat(process, "ns/net", flags, Mode::empty())?;
    join_namespace(network.as_fd())?;
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    );
    join_namespace(own.as_fd())?;
    Ok(socket?)
}

/// `struct unix_diag_req` behind its header.
fn request() -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend_from_slice(&DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    // Family, protocol, padding; all states; no inode; what to show; no cookie.
    bytes.extend_from_slice(&[1, 0, 0, 0]);
    bytes.extend_from_slice(&u32::MAX.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&SHOW.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes
}

/// `struct unix_diag_msg`: family, type, state, padding, inode, cookie; then attributes.
fn parse(body: &[u8]) -> Option<(u64, UnixDiagnosis)> {
    let number = |bytes: &[u8]| Some(u32::from_ne_bytes(*bytes.first_chunk()?));
    let mut diagnosis = UnixDiagnosis {
        is_listening: *body.get(2)? == LISTENING,
        ..UnixDiagnosis::default()
    };
    let inode = number(body.get(4..)?)?;
    let mut rest = body.get(16..)?;
    while let Some(&[a, b, c, d]) = rest.first_chunk() {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..length)?;
        match u16::from_ne_bytes([c, d]) {
            ATTRIBUTE_FILE => diagnosis.file = Some(number(value)?),
            ATTRIBUTE_PEER => diagnosis.peer = Some(number(value)?),
            ATTRIBUTE_WAITING => diagnosis.waiting = value.len() / 4,
            ATTRIBUTE_QUEUES => diagnosis.backlog = number(value.get(4..)?)?,
            ATTRIBUTE_SHUTDOWN => diagnosis.shutdown = *value.first()?,
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some((inode.into(), diagnosis))
}
