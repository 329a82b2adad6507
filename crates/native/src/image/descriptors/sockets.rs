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
    /// What was not received yet, all sent by the peer; a stream's is cut only where descriptors are passed.
    pub queue: Vec<Message>,
    /// `RCV_SHUTDOWN` 1, `SEND_SHUTDOWN` 2
    pub shutdown: u8,
    /// All that are held.
    pub options: Vec<SocketOption>,
}

/// What was sent at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The descriptions that are passed with it (`SCM_RIGHTS`).
    pub passed: Vec<u32>,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// A stream within the sandbox.
    Stream(TcpStream),
    /// A stream that has come to its end.
    Ended {
        /// What was not received yet.
        queue: Vec<u8>,
        /// An error is to be told after that.
        reset: bool,
    },
    /// A stream whose other end is not in the tree: it comes back as if that had reset it.
    Broken,
}

/// An end of a TCP connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpStream {
    /// The description of the other end; none if it was closed.
    pub peer: Option<u32>,
    /// The address of the other end.
    pub remote: SocketAddr,
    /// What was received and not read yet.
    pub queue: Vec<u8>,
    /// What was sent behind that and not received yet.
    pub unreceived: Vec<u8>,
    /// It will send no more.
    pub has_ended: bool,
    /// It was shut for reading by its owner.
    pub is_deaf: bool,
    /// What both ends have agreed upon.
    pub agreement: TcpAgreement,
}

/// What was said when a connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpAgreement {
    /// `TCPI_OPT_*`
    pub options: u8,
    /// How far the windows that this end gets are shifted.
    pub send_scale: u8,
    /// And those that it tells.
    pub receive_scale: u8,
    /// The largest segment that this end takes.
    pub segment_bytes: u32,
}
