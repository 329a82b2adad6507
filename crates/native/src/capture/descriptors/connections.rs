//! TCP connections, once both ends are found, if both are in the tree.
//!
//! ```text
//!  one end:    received ── unreceived (sent by the other end, in its queue)      … counted by sequence numbers of both
//!  other end:  gone: ended by its word ─► what was received and the end of it are held
//!              elsewhere ─► broken
//! ```

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use fermata_sys::socket::outgoing_bytes;
use fermata_sys::tcp_repair::{self, TcpQueue};
use rustix::net::{RecvFlags, recv, sockopt};

use super::{DescriptorCollector, Found, Kind, place_in_list};
use crate::NativeError;
use crate::image::{InternetSocket, InternetState, OpenFile, TcpAgreement, TcpStream};

/// `tcp_states.h`
const FIN_WAIT_1: u8 = 4;
const FIN_WAIT_2: u8 = 5;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;
/// States in which an end has sent all that it will.
const ENDED: [u8; 4] = [FIN_WAIT_1, FIN_WAIT_2, LAST_ACK, CLOSING];
/// States in which an end knows that the other has.
const TOLD: [u8; 3] = [CLOSE_WAIT, LAST_ACK, CLOSING];
/// The kernel may keep the begin of a buffer that was acknowledged in part.
const ACKNOWLEDGED_BYTES: usize = 256 << 10;

/// A TCP connection as it was found: whether it can be held depends on who has its other end.
pub(super) struct Connection {
    /// All but its state.
    pub(super) socket: InternetSocket,
    pub(super) state: u8,
    /// Its own address, and that of the other end.
    pub(super) ends: (SocketAddr, SocketAddr),
    pub(super) queue: Vec<u8>,
    pub(super) is_deaf: bool,
    pub(super) agreement: TcpAgreement,
}

/// From `struct tcp_info`.
pub(super) fn agreement(information: &[u8]) -> Option<TcpAgreement> {
    const OPTIONS_AT: usize = 5;
    const SCALES_AT: usize = 6;
    const SEGMENT_AT: usize = 84;
    let scales = *information.get(SCALES_AT)?;
    Some(TcpAgreement {
        options: *information.get(OPTIONS_AT)?,
        send_scale: scales & 0xf,
        receive_scale: scales >> 4,
        segment_bytes: u32::from_ne_bytes(*information.get(SEGMENT_AT..)?.first_chunk()?),
    })
}

impl Connection {
    /// An IPv6 socket may be the other end of an IPv4 one.
    fn is_other_end_of(&self, other: &Self) -> bool {
        let canonical = |address: SocketAddr| (address.ip().to_canonical(), address.port());
        canonical(self.ends.0) == canonical(other.ends.1)
            && canonical(self.ends.1) == canonical(other.ends.0)
    }

    /// Both ends are addresses of the sandbox.
    fn is_within(&self) -> bool {
        let (local, remote) = self.ends;
        remote.ip().to_canonical().is_loopback() || local.ip() == remote.ip()
    }
}

impl DescriptorCollector<'_> {
    pub(super) fn stream(
        &self,
        own: &Found,
        connection: &Connection,
    ) -> Result<OpenFile, NativeError> {
        let other = self
            .found
            .iter()
            .enumerate()
            .find_map(|(place, found)| match &found.kind {
                Kind::Connection(other) if other.is_other_end_of(connection) => {
                    Some((place, found, other))
                }
                _ => None,
            });
        let mut stream = TcpStream {
            peer: None,
            remote: connection.ends.1,
            queue: connection.queue.clone(),
            unreceived: Vec::new(),
            has_ended: ENDED.contains(&connection.state),
            // Where the other end has not ended it, this one has.
            is_deaf: connection.is_deaf && !TOLD.contains(&connection.state),
            agreement: connection.agreement,
        };
        let state = match other {
            Some((place, found, _)) => {
                stream.peer = Some(place_in_list(place));
                stream.unreceived = own
                    .unreceived(&found.file, stream.has_ended)
                    .map_err(own.failed("look into a connection"))?
                    .ok_or_else(|| {
                        own.unheld("is a TCP connection that could not be read whole")
                    })?;
                InternetState::Stream(stream)
            }
            None if TOLD.contains(&connection.state) && connection.is_within() => {
                InternetState::Stream(stream)
            }
            None => InternetState::Broken,
        };
        Ok(OpenFile::Internet(InternetSocket {
            state,
            ..connection.socket.clone()
        }))
    }
}

impl Found {
    /// What this end has sent and the other has not received.
    fn unreceived(
        &self,
        other: &std::os::fd::OwnedFd,
        has_ended: bool,
    ) -> io::Result<Option<Vec<u8>>> {
        let outgoing = outgoing_bytes(self.file.as_fd())?;
        if outgoing == 0 {
            return Ok(Some(Vec::new()));
        }
        let (sender, receiver) = (Repair::begin(&self.file)?, Repair::begin(other)?);
        let sent = tcp_repair::sequence(sender.file.as_fd(), TcpQueue::Sent)?;
        let received = tcp_repair::sequence(receiver.file.as_fd(), TcpQueue::Received)?;
        // The end counts as a byte.
        let missing = match sent.wrapping_sub(received) {
            0 => 0,
            missing => missing - u32::from(has_ended),
        } as usize;
        if missing == 0 {
            return Ok(Some(Vec::new()));
        }
        tcp_repair::select(sender.file.as_fd(), Some(TcpQueue::Sent))?;
        let mut bytes = vec![0; outgoing as usize + ACKNOWLEDGED_BYTES];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let (length, _) = recv(sender.file, bytes.as_mut_slice(), flags)?;
        let begin = length.checked_sub(missing);
        Ok(begin.map(|begin| bytes[begin..length].to_vec()))
    }
}

/// A socket in repair, until it is dropped.
struct Repair<'a> {
    file: &'a std::os::fd::OwnedFd,
    is_reusable: bool,
}

impl<'a> Repair<'a> {
    fn begin(file: &'a std::os::fd::OwnedFd) -> io::Result<Self> {
        let is_reusable = sockopt::socket_reuseaddr(file)?;
        tcp_repair::begin(file.as_fd())?;
        Ok(Self { file, is_reusable })
    }
}

impl Drop for Repair<'_> {
    fn drop(&mut self) {
        // Neither can fail on a socket that let repair begin.
        let _ = tcp_repair::select(self.file.as_fd(), None);
        let _ = tcp_repair::end_silently(self.file.as_fd());
        let _ = sockopt::set_socket_reuseaddr(self.file, self.is_reusable);
    }
}
