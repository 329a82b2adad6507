//! Makes sockets again.
//!
//! ```text
//!  first   connected unix sockets: both ends at once; a named end is accepted by a listener that is there for a moment only
//!  then    bound and listening ones, which want the same names for good
//!  then    TCP connections, which do not mind what listens on their ports
//!  last    what is on its way, when every description is open: it may be on its way itself
//! ```

use std::os::fd::{AsFd as _, OwnedFd};

use fermata_sys::socket::{option, pass_descriptors, set_option};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, send, shutdown, sockopt};

use super::{At, Failure, internet, unix};
use crate::image::{
    Descriptions, InternetState, Message, OpenFile, SocketOption, UnixState, options,
};

/// `SO_SNDBUFFORCE`, `SO_RCVBUFFORCE`: `CAP_NET_ADMIN` may exceed `net.core.wmem_max`.
const FORCED: [(i32, i32); 2] = [(options::SEND_BUFFER, 32), (options::RECEIVE_BUFFER, 33)];
/// `RCV_SHUTDOWN`, `SEND_SHUTDOWN`
const NOT_RECEIVING: u8 = 1;
const NOT_SENDING: u8 = 2;

/// Every socket of an image.
pub(super) struct OpenSockets {
    /// By their place.
    ends: Vec<Option<OwnedFd>>,
    unfilled: Vec<Unfilled>,
}

/// A connected unix socket whose queue is empty yet.
struct Unfilled {
    place: usize,
    end: OwnedFd,
    /// The other end.
    sender: OwnedFd,
    /// The other end is to be closed with something unread, which resets this one (`unix(7)`).
    reset: bool,
}

impl OpenSockets {
    pub(super) fn open(image: &Descriptions) -> Result<Self, At> {
        let mut sockets = Self {
            ends: image.list.iter().map(|_| None).collect(),
            unfilled: Vec::new(),
        };
        sockets.open_connected(image)?;
        sockets.open_bound(image)?;
        sockets.open_streams(image)?;
        Ok(sockets)
    }

    /// The socket at a place, once.
    pub(super) fn take(&mut self, place: usize) -> Option<OwnedFd> {
        self.ends.get_mut(place)?.take()
    }

    fn open_connected(&mut self, image: &Descriptions) -> Result<(), At> {
        let unix = |place: usize| match image.list.get(place).map(|open| &open.file) {
            Some(OpenFile::Unix(socket)) => Some(socket),
            _ => None,
        };
        for (place, description) in image.list.iter().enumerate() {
            let at = at(place);
            let OpenFile::Unix(socket) = &description.file else {
                continue;
            };
            match socket.state {
                UnixState::Connected { peer } if peer as usize > place => {
                    let peer = peer as usize;
                    let other = unix(peer)
                        .filter(|other| matches!(other.state, UnixState::Connected { peer } if peer as usize == place))
                        .ok_or_else(|| at(Failure::damaged("a connection")))?;
                    let (end, other_end) = unix::connected(socket, other).map_err(at)?;
                    self.is_to_fill(place, &end, &other_end, false)
                        .map_err(at)?;
                    self.is_to_fill(peer, &other_end, &end, false).map_err(at)?;
                    self.ends[place] = Some(end);
                    self.ends[peer] = Some(other_end);
                }
                UnixState::Orphaned { reset } => {
                    let (end, peer) = unix::orphaned(socket).map_err(at)?;
                    self.is_to_fill(place, &end, &peer, reset).map_err(at)?;
                    self.ends[place] = Some(end);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn is_to_fill(
        &mut self,
        place: usize,
        end: &OwnedFd,
        sender: &OwnedFd,
        reset: bool,
    ) -> Result<(), Failure> {
        let copy = |file: &OwnedFd| file.try_clone().map_err(Failure::to("keep a unix socket"));
        self.unfilled.push(Unfilled {
            place,
            end: copy(end)?,
            sender: copy(sender)?,
            reset,
        });
        Ok(())
    }

    fn open_bound(&mut self, image: &Descriptions) -> Result<(), At> {
        for (place, description) in image.list.iter().enumerate() {
            let end = match &description.file {
                OpenFile::Unix(socket)
                    if matches!(
                        socket.state,
                        UnixState::Unconnected | UnixState::Listening { .. }
                    ) =>
                {
                    unix::alone(socket)
                }
                OpenFile::Internet(socket)
                    if matches!(
                        socket.state,
                        InternetState::Unconnected
                            | InternetState::Listening { .. }
                            | InternetState::Connected { .. }
                    ) =>
                {
                    internet::alone(socket)
                }
                _ => continue,
            };
            self.ends[place] = Some(end.map_err(at(place))?);
        }
        Ok(())
    }

    fn open_streams(&mut self, image: &Descriptions) -> Result<(), At> {
        let sockets = || {
            image
                .list
                .iter()
                .enumerate()
                .filter_map(|(place, open)| match &open.file {
                    OpenFile::Internet(socket) => Some((place, socket)),
                    _ => None,
                })
        };
        for (place, socket) in sockets() {
            let InternetState::Stream(stream) = &socket.state else {
                continue;
            };
            let Some(peer) = stream.peer.map(|peer| peer as usize) else {
                let end = internet::left_alone(socket, stream).map_err(at(place))?;
                self.ends[place] = Some(end);
                continue;
            };
            if peer < place {
                continue;
            }
            let (_, other) = sockets()
                .find(|(other, _)| *other == peer)
                .ok_or_else(|| at(place)(Failure::damaged("a connection")))?;
            let (end, other_end) = internet::connected(socket, other).map_err(at(place))?;
            self.ends[place] = Some(end);
            self.ends[peer] = Some(other_end);
        }
        // Last: they take whatever port is free.
        for (place, socket) in sockets() {
            let end = match &socket.state {
                InternetState::Broken => internet::ended(socket, &[], true),
                InternetState::Ended { queue, reset } => internet::ended(socket, queue, *reset),
                _ => continue,
            };
            self.ends[place] = Some(end.map_err(at(place))?);
        }
        Ok(())
    }

    /// Sends what is on its way, and sets up what was connected for that. `numbers` are those of all descriptions.
    pub(super) fn fill(self, image: &Descriptions, numbers: &[i32]) -> Result<(), At> {
        let unix = |place: usize| match image.list.get(place).map(|open| &open.file) {
            Some(OpenFile::Unix(socket)) => Ok(socket),
            _ => Err(at(place)(Failure::damaged("a socket"))),
        };
        for unfilled in &self.unfilled {
            let at = at(unfilled.place);
            fill(&unfilled.sender, &unix(unfilled.place)?.queue, numbers).map_err(at)?;
            if unfilled.reset {
                let unread = Message {
                    bytes: vec![0],
                    passed: Vec::new(),
                };
                fill(&unfilled.end, &[unread], numbers).map_err(at)?;
            }
        }
        // After all were filled: sizes and shut ends are in the way of that.
        for unfilled in &self.unfilled {
            let at = at(unfilled.place);
            let socket = unix(unfilled.place)?;
            set_options(&unfilled.end, &socket.options).map_err(at)?;
            if !matches!(socket.state, UnixState::Orphaned { .. }) {
                shut_down(&unfilled.end, socket.shutdown).map_err(at)?;
            }
        }
        Ok(())
    }
}

fn at(place: usize) -> impl Fn(Failure) -> At + Copy {
    move |failure| (u32::try_from(place).ok(), failure)
}

/// Sends messages that the other end is to find.
fn fill(sender: &OwnedFd, queue: &[Message], numbers: &[i32]) -> Result<(), Failure> {
    let step = || Failure::to::<Errno>("fill the queue of a unix socket");
    if queue.is_empty() {
        return Ok(());
    }
    let bytes: usize = queue.iter().map(|message| message.bytes.len()).sum();
    // Accounted to the sender; its own size is set again afterwards.
    if bytes > 64 << 10 {
        let _ = sockopt::set_socket_send_buffer_size_force(sender, bytes * 2);
    }
    for message in queue {
        let sent = if message.passed.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            send(sender, &message.bytes, flags).map_err(step())?
        } else {
            let passed = message
                .passed
                .iter()
                .map(|place| numbers.get(*place as usize).copied())
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| Failure::damaged("a descriptor that is passed"))?;
            pass_descriptors(sender.as_fd(), &message.bytes, &passed)
                .map_err(Failure::to("pass descriptors to a unix socket"))?
        };
        if sent != message.bytes.len() {
            return Err(step()(Errno::AGAIN));
        }
    }
    Ok(())
}

pub(super) fn shut_down(socket: &OwnedFd, directions: u8) -> Result<(), Failure> {
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

/// Sets what differs from what a new socket has.
pub(super) fn set_options(socket: &OwnedFd, held: &[SocketOption]) -> Result<(), Failure> {
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
