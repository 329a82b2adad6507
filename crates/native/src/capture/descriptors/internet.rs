//! TCP and UDP.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use fermata_sys::socket::option;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType, getpeername, getsockname};

use super::opened::Opened;
use super::{Found, Kind};
use crate::NativeError;
use crate::image::{InternetSocket, InternetState, OpenFile, options};

/// `TCP_INFO`, and its states (`tcp_states.h`).
const INFORMATION: i32 = 11;
const CLOSED: u8 = 7;
const LISTENING: u8 = 10;
/// `tcpi_sacked`, which for a listening socket is its backlog.
const BACKLOG_AT: usize = 28;

/// A TCP connection as it was found: whether it can be held depends on who has its other end.
pub(super) struct Connection {
    pub(super) socket: InternetSocket,
    ends: (SocketAddr, SocketAddr),
}

impl Opened<'_> {
    pub(super) fn internet(
        &self,
        domain: AddressFamily,
        kind: SocketType,
    ) -> Result<Kind, NativeError> {
        let is_v6 = domain == AddressFamily::INET6;
        let is_datagram = kind == SocketType::DGRAM;
        let mut levels = vec![(options::SOCKET, options::OF_SOCKET)];
        levels.push(if is_datagram {
            (options::UDP, options::OF_UDP)
        } else {
            (options::TCP, options::OF_TCP)
        });
        levels.push((options::IP, options::OF_IP));
        if is_v6 {
            levels.push((options::IPV6, options::OF_IPV6));
        }
        let local =
            getsockname(self.file).map_err(self.failed("ask for the address of a socket"))?;
        let local = SocketAddr::try_from(local).map_err(|_| self.not_understood())?;
        let peer = getpeername(self.file)
            .ok()
            .flatten()
            .and_then(|address| SocketAddr::try_from(address).ok());
        let state = if is_datagram {
            self.refuse_unread()?;
            peer.map_or(InternetState::Unconnected, |peer| {
                InternetState::Connected { peer }
            })
        } else {
            self.stream_state()?
        };
        let mut held = self.options(&levels)?;
        if matches!(state, InternetState::Broken) {
            // What came of both ends' wishes, not what can be asked for.
            held.retain(|option| (option.level, option.name) != options::NEGOTIATED);
        }
        let socket = InternetSocket {
            is_v6,
            is_datagram,
            local: (local.port() != 0).then_some(local),
            state,
            options: held,
        };
        Ok(match (state, peer) {
            (InternetState::Broken, Some(peer)) => Kind::Connection(Connection {
                socket,
                ends: (canonical(local), canonical(peer)),
            }),
            _ => Kind::Complete(OpenFile::Internet(socket)),
        })
    }

    fn stream_state(&self) -> Result<InternetState, NativeError> {
        let information = option(self.file.as_fd(), options::TCP, INFORMATION)
            .map_err(self.failed("ask for the state of a socket"))?;
        let state = information.first().copied();
        match state.ok_or_else(|| self.not_understood())? {
            LISTENING => {
                let backlog = information
                    .get(BACKLOG_AT..)
                    .and_then(|bytes| bytes.first_chunk())
                    .ok_or_else(|| self.not_understood())?;
                Ok(InternetState::Listening {
                    backlog: u32::from_ne_bytes(*backlog),
                })
            }
            CLOSED if !self.has_ended()? => Ok(InternetState::Unconnected),
            _ => Ok(InternetState::Broken),
        }
    }

    /// A closed socket that was connected before says so; one that never was does not.
    fn has_ended(&self) -> Result<bool, NativeError> {
        Ok(self.events(PollFlags::RDHUP)?.contains(PollFlags::RDHUP))
    }

    fn refuse_unread(&self) -> Result<(), NativeError> {
        let events = self.events(PollFlags::IN)?;
        if events.intersects(PollFlags::IN | PollFlags::ERR) {
            return Err(
                self.unheld("is a socket with datagrams or errors that were not received yet")
            );
        }
        Ok(())
    }

    pub(super) fn events(&self, asked: PollFlags) -> Result<PollFlags, NativeError> {
        let mut polled = [PollFd::new(self.file, asked)];
        poll(&mut polled, Some(&Timespec::default())).map_err(self.failed("poll a socket"))?;
        Ok(polled[0].revents())
    }
}

impl Connection {
    /// It ends unless its other end is in the tree too.
    pub(super) fn leads_outside(&self, found: &[Found]) -> bool {
        let (local, peer) = self.ends;
        !found.iter().any(
            |other| matches!(&other.kind, Kind::Connection(other) if other.ends == (peer, local)),
        )
    }
}

/// An IPv6 socket may be the other end of an IPv4 one.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
