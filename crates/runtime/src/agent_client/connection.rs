//! Connections to one agent.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fermata_protocol::agent::{Request, Response};
use fermata_protocol::{FrameError, frame};
use prost::Message as _;
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{AddressFamily, SocketAddrUnix, sockopt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::namespace_socket;

/// More are closed after use.
const MAX_IDLE: usize = 4;
/// A sandbox that is frozen, or too busy to accept, does not hold the connecting thread for ever.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for the agent to close its end.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// One connection, between calls.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
}

impl Connection {
    /// Connects to an abstract socket as it is named inside a network namespace.
    pub(super) async fn open(network_namespace: &Path, name: &[u8]) -> io::Result<Self> {
        let socket = namespace_socket::open(network_namespace, AddressFamily::UNIX).await?;
        let address = SocketAddrUnix::new_abstract_name(name)?;
        let socket = match rustix::net::connect(&socket, &address) {
            Ok(()) => socket,
            // The agent has yet to take others (unix(7)); there is no event to wait for but in a blocking call.
            Err(Errno::AGAIN) => {
                let connected =
                    tokio::task::spawn_blocking(move || wait_to_connect(socket, &address));
                connected.await.map_err(io::Error::other)??
            }
            Err(errno) => return Err(errno.into()),
        };
        Ok(Self {
            stream: UnixStream::from_std(socket.into())?,
        })
    }

    /// Whether the other side has closed, or said something unasked: either way, it is of no more use.
    fn is_stale(&self) -> bool {
        let mut byte = [0];
        !matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    pub(super) async fn send(&mut self, request: &Request) -> Result<(), FrameError> {
        let bytes = frame::encode(request)?;
        self.stream
            .write_all(&bytes)
            .await
            .map_err(FrameError::Transfer)
    }

    pub(super) async fn receive(&mut self) -> Result<Response, FrameError> {
        let mut prefix = [0; 4];
        self.stream
            .read_exact(&mut prefix)
            .await
            .map_err(FrameError::Transfer)?;
        let mut body = vec![0; frame::body_length(prefix)?];
        self.stream
            .read_exact(&mut body)
            .await
            .map_err(FrameError::Transfer)?;
        Response::decode(prost::bytes::Bytes::from(body)).map_err(FrameError::Decode)
    }

    /// Closes, and waits until the agent has closed too, so that nothing of the connection is left in the sandbox.
    pub(super) async fn close(mut self) {
        let farewell = async {
            self.stream.shutdown().await?;
            let mut ignored = [0; 4096];
            while self.stream.read(&mut ignored).await? > 0 {}
            io::Result::Ok(())
        };
        // An agent that is broken or late is not worth more than the wait.
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await;
    }
}

fn wait_to_connect(socket: OwnedFd, address: &SocketAddrUnix) -> io::Result<OwnedFd> {
    // Bounds connect as well (socket(7), SO_SNDTIMEO).
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(CONNECT_TIMEOUT))?;
    ioctl_fionbio(&socket, false)?;
    rustix::net::connect(&socket, address)?;
    ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

/// Connections kept for the next call.
#[derive(Debug, Default)]
pub(super) struct Idle {
    connections: Mutex<Vec<Connection>>,
}

impl Idle {
    pub(super) fn take(&self) -> Option<Connection> {
        let mut connections = self.lock();
        // The one used last is the least likely to be stale.
        std::iter::from_fn(|| connections.pop()).find(|connection| !connection.is_stale())
    }

    pub(super) fn put(&self, connection: Connection) {
        let mut connections = self.lock();
        if connections.len() < MAX_IDLE {
            connections.push(connection);
        }
    }

    pub(super) async fn close_all(&self) {
        let connections = std::mem::take(&mut *self.lock());
        for connection in connections {
            connection.close().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
