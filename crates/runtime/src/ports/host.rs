//! The host's side: listeners and the ports they take.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::net::{TcpListener, TcpSocket};

use crate::RuntimeError;

/// How many connections may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: u32 = 1024;

/// Where the ports of sandboxes are to be found on the host.
#[derive(Debug)]
pub struct HostPorts {
    address: IpAddr,
    range: Option<RangeInclusive<u16>>,
    /// How many were taken: the next one is looked for behind the last, so that a port that was just given up does not at once
    /// lead to another sandbox.
    taken: AtomicU16,
}

/// Listens, but takes no connection yet.
#[derive(Debug)]
pub struct Listener {
    pub(super) listener: TcpListener,
    pub(super) port: u16,
}

impl Listener {
    /// The port of the host.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl HostPorts {
    /// Ports of this address, from this range; without one, the system chooses.
    #[must_use]
    pub fn new(address: IpAddr, range: Option<RangeInclusive<u16>>) -> Self {
        Self {
            address,
            range,
            taken: AtomicU16::new(0),
        }
    }

    /// Listens at a free port.
    ///
    /// # Errors
    /// [`RuntimeError::NoFreePort`], [`RuntimeError::Listen`]
    pub fn listen(&self) -> Result<Listener, RuntimeError> {
        let Some(range) = &self.range else {
            return self.listen_at(0);
        };
        let (first, last) = (*range.start(), *range.end());
        for _ in range.clone() {
            let step = u32::from(self.taken.fetch_add(1, Ordering::Relaxed));
            let length = u32::from(last - first) + 1;
            let port = first + u16::try_from(step % length).unwrap_or(0);
            match self.listen_at(port) {
                Err(error) if error.is_address_in_use() => {}
                other => return other,
            }
        }
        Err(RuntimeError::NoFreePort { first, last })
    }

    /// Listens at this very port.
    ///
    /// # Errors
    /// [`RuntimeError::Listen`]; [`RuntimeError::is_address_in_use`] tells whether another port may do.
    pub fn listen_at(&self, port: u16) -> Result<Listener, RuntimeError> {
        let address = SocketAddr::new(self.address, port);
        let listen = || {
            let socket = if address.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            // Connections of a server before, still in TIME_WAIT, are no obstacle.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let listener = socket.listen(BACKLOG)?;
            let port = listener.local_addr()?.port();
            io::Result::Ok(Listener { listener, port })
        };
        listen().map_err(|source| RuntimeError::Listen { address, source })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn a_range_is_used_up_and_what_is_given_back_is_used_last() {
        // A range that is free now: found by asking for any port, and only tried as far as it is free.
        let (first, held) = loop {
            let any = HostPorts::new(LOOPBACK, None).listen().unwrap();
            let next = any.port().checked_add(1);
            let pair = next.and_then(|next| HostPorts::new(LOOPBACK, None).listen_at(next).ok());
            if let Some(pair) = pair {
                break (any.port(), [any, pair]);
            }
        };
        drop(held);
        let ports = HostPorts::new(LOOPBACK, Some(first..=first + 1));
        let one = ports.listen().unwrap();
        assert_eq!(one.port(), first);
        drop(one);
        let two = ports.listen().unwrap();
        assert_eq!(two.port(), first + 1);
        let again = ports.listen().unwrap();
        assert_eq!(again.port(), first);
        assert!(matches!(
            ports.listen(),
            Err(RuntimeError::NoFreePort { .. })
        ));
        drop(two);
        assert_eq!(ports.listen().unwrap().port(), first + 1);
    }

    #[tokio::test]
    async fn a_taken_port_is_told_from_other_failures() {
        let ports = HostPorts::new(LOOPBACK, None);
        let taken = ports.listen().unwrap();
        assert!(
            ports
                .listen_at(taken.port())
                .unwrap_err()
                .is_address_in_use()
        );
        // TEST-NET-1: no address of this machine.
        let nowhere = HostPorts::new(Ipv4Addr::new(192, 0, 2, 1).into(), None);
        assert!(!nowhere.listen().unwrap_err().is_address_in_use());
    }
}
