//! Sockets.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// An option that `setsockopt(2)` sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketOption {
    /// `SOL_*` or `IPPROTO_*`
    pub level: i32,
    /// Its name there.
    pub name: i32,
    /// As `getsockopt(2)` gave it.
    pub value: Vec<u8>,
}

/// A unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixSocket {
    /// `SOCK_STREAM`, `SOCK_DGRAM`, `SOCK_SEQPACKET`
    pub kind: u32,
    /// What it is bound to.
    pub name: Option<UnixName>,
    /// What it is to others.
    pub state: UnixState,
    /// What was not received yet, all sent by the peer; a stream's is one message.
    pub queue: Vec<Vec<u8>>,
    /// `RCV_SHUTDOWN` 1, `SEND_SHUTDOWN` 2
    pub shutdown: u8,
    /// All that are held.
    pub options: Vec<SocketOption>,
}

/// What a unix socket is to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnixState {
    /// To nobody anything.
    Unconnected,
    /// `listen(2)`
    Listening {
        /// How many may wait.
        backlog: u32,
    },
    /// Connected to another description, and that to this one.
    Connected {
        /// Its place in the list.
        peer: u32,
    },
    /// Was connected to one that is closed.
    Orphaned {
        /// The other end was closed before it had received everything: `ECONNRESET` is to be told.
        reset: bool,
    },
}

/// What a unix socket is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnixName {
    /// Without its leading zero byte.
    Abstract(Vec<u8>),
    /// A path.
    Path {
        /// As it was given to `bind(2)`, relative perhaps.
        path: Vec<u8>,
        /// The file, unless it was removed.
        file: Option<UnixFile>,
    },
}

/// A file that stands for a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixFile {
    /// Its path, absolute, inside.
    pub path: Vec<u8>,
    /// `st_mode & 0o7777`
    pub mode: u32,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
}

/// A TCP or UDP socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InternetSocket {
    /// `AF_INET6`, otherwise `AF_INET`
    pub is_v6: bool,
    /// `SOCK_DGRAM`, otherwise `SOCK_STREAM`
    pub is_datagram: bool,
    /// What it is bound to, if it is.
    pub local: Option<SocketAddr>,
    /// What it is to others.
    pub state: InternetState,
    /// All that are held.
    pub options: Vec<SocketOption>,
}

/// What a TCP or UDP socket is to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum InternetState {
    /// To nobody anything.
    Unconnected,
    /// `listen(2)`
    Listening {
        /// How many may wait.
        backlog: u32,
    },
    /// A datagram socket with a default destination.
    Connected {
        /// Whose datagrams it takes and where its own go.
        peer: SocketAddr,
    },
    /// A stream that has ended, or whose other end is not in the tree: it comes back as if the other end had reset it.
    Broken,
}
