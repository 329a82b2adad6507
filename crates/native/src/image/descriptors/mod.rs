//! Descriptors, and the open file descriptions that they refer to (`open(2)` has the difference).
//!
//! ```text
//!  process ── Descriptor ──► Description ── OpenFile ──► a path
//!  process ── Descriptor ──┘     │                   ├─► a Pipe, NamelessFile, SharedObject: shared by several descriptions
//!                                └─ flags, lock      └─► state of its own: counter, mask, timer, socket
//! ```

pub(crate) mod options;
mod sockets;

use serde::{Deserialize, Serialize};

pub use sockets::{
    InternetSocket, InternetState, Message, SocketOption, TcpAgreement, TcpStream, UnixFile,
    UnixName, UnixSocket, UnixState,
};

/// All open file descriptions of a tree.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Descriptions {
    /// Referred to by their place here.
    pub list: Vec<Description>,
    /// Pipes and FIFOs.
    pub pipes: Vec<Pipe>,
    /// Files that were removed while they were open.
    pub nameless: Vec<NamelessFile>,
    /// Pseudo-terminals of which an end is open.
    pub terminals: Vec<Terminal>,
}

/// A descriptor of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Its number.
    pub number: i32,
    /// Its place in [`Descriptions::list`].
    pub description: u32,
    /// `FD_CLOEXEC`
    pub close_on_execute: bool,
}

/// An open file description.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Status flags and access mode as `F_GETFL` tells them.
    pub flags: u32,
    /// What is open.
    pub file: OpenFile,
    /// Locks that belong to it: `flock(2)` and `F_OFD_SETLK`.
    pub locks: Vec<Lock>,
}

/// What a description leads to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum OpenFile {
    /// Something that is opened again by its name: a regular file, a directory, a device, or anything with `O_PATH`.
    Path {
        /// Inside.
        path: String,
        /// `st_mode & S_IFMT`, which must be the same again.
        kind: u32,
        /// `lseek(2)`; 0 for what has no position.
        position: u64,
    },
    /// A file without a name.
    Nameless {
        /// Its place in [`Descriptions::nameless`].
        file: u32,
        /// `lseek(2)`
        position: u64,
    },
    /// A memfd.
    Object {
        /// Its place in [`super::Image::shared_objects`].
        object: u32,
        /// `lseek(2)`
        position: u64,
    },
    /// An end of a pipe, or a FIFO; the access mode of the flags tells which end.
    Pipe {
        /// Its place in [`Descriptions::pipes`].
        pipe: u32,
    },
    /// `eventfd(2)`
    Event {
        /// Its counter.
        count: u64,
        /// `EFD_SEMAPHORE`
        semaphore: bool,
    },
    /// `epoll(7)`
    Poll {
        /// What it watches.
        watches: Vec<Watch>,
    },
    /// `signalfd(2)`
    Signals {
        /// Those it accepts, signal 1 the lowest bit.
        mask: u64,
    },
    /// `timerfd_create(2)`
    Timer(Timer),
    /// An end of a pseudo-terminal.
    Terminal {
        /// Its number, that of `/dev/pts/N`.
        number: u32,
        /// The end of the terminal emulator (`/dev/ptmx`), otherwise that of the programs.
        is_controller: bool,
    },
    /// `unix(7)`
    Unix(UnixSocket),
    /// `ip(7)`, `ipv6(7)`
    Internet(InternetSocket),
}

/// A pipe, with what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipe {
    /// The path of a FIFO.
    pub path: Option<String>,
    /// `F_GETPIPE_SZ`
    pub capacity_bytes: u32,
    /// What was not read yet: pieces as they are to be written, one a packet where an end is in packet mode (`O_DIRECT`).
    pub content: Vec<Vec<u8>>,
    /// One end is closed, and the other has been told. A FIFO that was never opened at the other end is not.
    pub hung_up: bool,
}

/// A file whose last name was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamelessFile {
    /// Where it was.
    pub directory: String,
    /// `st_mode & 0o7777`
    pub mode: u32,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
    /// Its size.
    pub bytes: u64,
    /// Access and modification: seconds and nanoseconds.
    pub times: [(i64, i64); 2],
    /// Its content where there is no hole: offset and bytes.
    pub content: Vec<(u64, Vec<u8>)>,
}

/// A pseudo-terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// That of `/dev/pts/N`.
    pub number: u32,
    /// What opens a controller end in the devpts that it is in.
    pub multiplexer: String,
    /// `struct termios2`
    pub settings: Vec<u8>,
    /// Rows, columns, and both in pixels.
    pub window: [u16; 4],
    /// `TIOCSPTLCK`
    pub is_locked: bool,
    /// `TIOCPKT`
    pub is_packet_mode: bool,
    /// The programs' end was open once and is closed, which reads of the controller tell.
    pub hung_up: bool,
    /// What programs have written and the controller has not read.
    pub output: Vec<u8>,
    /// What has been typed of a line that is not whole yet.
    pub half_line: Vec<u8>,
    /// The foreground process group, if it controls a session.
    pub foreground: Option<i32>,
}

/// An entry of an epoll.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// The description watched.
    pub description: u32,
    /// The number it had when it was added: `epoll_ctl(2)` finds the entry by both.
    pub number: i32,
    /// `EPOLL*`
    pub events: u32,
    /// Given back with each event.
    pub data: u64,
    /// Who added it, where that matters: a signalfd tells the signals of the process that added it.
    pub process: Option<i32>,
}

/// A timer that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timer {
    /// `CLOCK_*`
    pub clock: i32,
    /// How it was set: `TFD_TIMER_*`.
    pub flags: u32,
    /// Expirations that were not read yet.
    pub ticks: u64,
    /// Until the next one; 0 when it is not armed.
    pub remaining_ns: u64,
    /// After that.
    pub interval_ns: u64,
    /// The wall clock's time of the next one, if that is what it was set to.
    pub at_ns: Option<u64>,
}

/// A lock on a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Which interface made it.
    pub kind: LockKind,
    /// Whether others may not even read.
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// How many; none: to the end, however far that moves.
    pub bytes: Option<u64>,
}

/// Interfaces for locks; they differ in whom a lock belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockKind {
    /// `flock(2)`
    Whole,
    /// `F_OFD_SETLK`
    Description,
    /// `F_SETLK`: a process's.
    Process(i32),
}
