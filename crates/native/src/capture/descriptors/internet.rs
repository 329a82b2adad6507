//! TCP and UDP.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use fermata_sys::socket::option;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SocketType, getpeername, getsockname, recv};

use super::Kind;
use super::connections::{Connection, agreement};
use super::opened::Opened;
use crate::NativeError;
use crate::image::{InternetSocket, InternetState, OpenFile, SocketOption, options};

/// `TCP_INFO`, and its states (`tcp_states.h`).
const INFORMATION: i32 = 11;
/// `TCP_ULP`
const LAYER: i32 = 31;
const CLOSED: u8 = 7;
const LISTENING: u8 = 10;
/// `tcpi_sacked`, which for a listening socket is its backlog.
const BACKLOG_AT: usize = 28;

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
        // Nothing to be read when there is none (tls(7)).
        if option(self.file.as_fd(), options::TCP, LAYER).is_ok_and(|layer| !layer.is_empty()) {
            return Err(self.unheld("is a TCP socket that the kernel encrypts (TCP_ULP)"));
        }
        let local =
            getsockname(self.file).map_err(self.failed("ask for the address of a socket"))?;
        let local = SocketAddr::try_from(local).map_err(|_| self.not_understood())?;
        let peer = getpeername(self.file)
            .ok()
            .flatten()
            .and_then(|address| SocketAddr::try_from(address).ok());
        let mut socket = InternetSocket {
            is_v6,
            is_datagram,
            local: (local.port() != 0).then_some(local),
            state: InternetState::Unconnected,
            options: self.options(&levels)?,
        };
        if !is_datagram {
            // Some cannot be set, or tell what came of both ends' wishes.
            socket.options.retain(options::is_of_streams);
        }
        if is_datagram {
            self.refuse_unread()?;
            self.refuse_multicast()?;
            if let Some(peer) = peer {
                socket.state = InternetState::Connected { peer };
            }
            return Ok(Kind::Complete(OpenFile::Internet(socket)));
        }
        let information = option(self.file.as_fd(), options::TCP, INFORMATION)
            .map_err(self.failed("ask for the state of a socket"))?;
        let state = *information.first().ok_or_else(|| self.not_understood())?;
        match (state, peer) {
            (LISTENING, _) => socket.state = self.listening(&information)?,
            (CLOSED, _) if !self.has_ended()? => {}
            (CLOSED, _) => {
                socket.state = InternetState::Ended {
                    queue: self.received(&socket.options)?,
                    reset: self.events(PollFlags::IN)?.contains(PollFlags::ERR),
                };
            }
            (_, Some(remote)) => {
                let agreement = agreement(&information).ok_or_else(|| self.not_understood())?;
                return Ok(Kind::Connection(Connection {
                    queue: self.received(&socket.options)?,
                    socket,
                    state,
                    ends: (local, remote),
                    is_deaf: self.has_ended()?,
                    agreement,
                }));
            }
            // On its way to somewhere.
            (_, None) => socket.state = InternetState::Broken,
        }
        Ok(Kind::Complete(OpenFile::Internet(socket)))
    }

    fn listening(&self, information: &[u8]) -> Result<InternetState, NativeError> {
        let backlog = information
            .get(BACKLOG_AT..)
            .and_then(|bytes| bytes.first_chunk())
            .ok_or_else(|| self.not_understood())?;
        Ok(InternetState::Listening {
            backlog: u32::from_ne_bytes(*backlog),
        })
    }

    /// What was received and not read.
    fn received(&self, held: &[SocketOption]) -> Result<Vec<u8>, NativeError> {
        let offset = options::number(held, options::SOCKET, options::PEEK_OFFSET);
        if offset.is_some_and(|offset| offset != -1) {
            return Err(self.unheld("is a TCP socket that is being peeked into (SO_PEEK_OFF)"));
        }
        if self.events(PollFlags::PRI)?.contains(PollFlags::PRI) {
            return Err(self.unheld("is a TCP socket with urgent data"));
        }
        let waiting = rustix::io::ioctl_fionread(self.file)
            .map_err(self.failed("ask how much a socket has received"))?;
        let mut queue = vec![0; usize::try_from(waiting).map_err(|_| self.not_understood())?];
        if !queue.is_empty() {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            let (length, _) = recv(self.file, queue.as_mut_slice(), flags)
                .map_err(self.failed("peek into a socket"))?;
            if length != queue.len() {
                return Err(self.unheld("is a TCP socket that could not be read whole"));
            }
        }
        Ok(queue)
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

    /// Which socket is a member of a group cannot be asked; that there is one in the network can.
    fn refuse_multicast(&self) -> Result<(), NativeError> {
        let read = |name: &str| {
            let path = format!("/proc/{}/net/{name}", self.task.host_pid);
            match std::fs::read_to_string(path) {
                // A kernel without IPv6.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
                other => other.map_err(self.failed("look for multicast groups")),
            }
        };
        if has_group(&read("igmp")?) || has_group_v6(&read("igmp6")?) {
            return Err(self.unheld("is a datagram socket where multicast groups were joined"));
        }
        Ok(())
    }

    pub(super) fn events(&self, asked: PollFlags) -> Result<PollFlags, NativeError> {
        let mut polled = [PollFd::new(self.file, asked)];
        poll(&mut polled, Some(&Timespec::default())).map_err(self.failed("poll a socket"))?;
        Ok(polled[0].revents())
    }
}

/// `/proc/net/igmp`: a line for each device, then its groups, `010000E0 1 0:00000000 0`. All are in the one of all hosts.
fn has_group(text: &str) -> bool {
    text.lines()
        .skip(1)
        .filter(|line| line.starts_with('\t'))
        .filter_map(|line| line.split_whitespace().next())
        .any(|group| group != "010000E0")
}

/// `/proc/net/igmp6`: number and name of a device, the group. The kernel joins those of all nodes and of its own addresses.
fn has_group_v6(text: &str) -> bool {
    text.lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .any(|group| {
            let is_of_all = matches!(
                group,
                "ff010000000000000000000000000001" | "ff020000000000000000000000000001"
            );
            !is_of_all && !group.starts_with("ff0200000000000000000001ff")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_the_kernel_are_told_from_those_of_programs() {
        let usual = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
            1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n";
        assert!(!has_group(usual));
        let joined = format!("{usual}\t\t\t\tFB0000E0     1 0:00000000\t\t0\n");
        assert!(has_group(&joined));
        let usual = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n\
            2    eth0            ff0200000000000000000001ff000002     1 00000004 0\n";
        assert!(!has_group_v6(usual));
        let joined = "2    eth0            ff0200000000000000000000000000fb     1 00000004 0\n";
        assert!(has_group_v6(joined));
    }
}
