//! The main thread: accepts connections, reaps children and takes output, and never blocks on anything else.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::agent::Agent;
use crate::arguments::Options;
use crate::connection::{self, Caller};
use crate::process::{Attention, HeldBack, READ_BYTES, StreamName, reap};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Enough for the deepest pattern that is accepted; only touched pages count.
const STACK_BYTES: usize = 1 << 20;
/// When nothing has happened for so long, memory that only work needs is given back.
const REST_AFTER: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};
/// How long the main thread waits for the rest of a request that it must serve itself.
const INLINE_PATIENCE: Duration = Duration::from_secs(1);

/// The agent cannot begin its work.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub(crate) struct StartupError {
    action: &'static str,
    #[source]
    source: io::Error,
}

fn cannot<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> StartupError {
    move |error| StartupError {
        action,
        source: error.into(),
    }
}

/// What an event is about: a serial or a connection's number above, the sort below.
const KIND_BITS: u32 = 2;
const KIND_SELF: u64 = 0;
const KIND_STDOUT: u64 = 1;
const KIND_STDERR: u64 = 2;
const KIND_CONNECTION: u64 = 3;

const LISTENER: u64 = KIND_SELF;
const SIGNALS: u64 = 1 << KIND_BITS | KIND_SELF;

/// The name under which a process's stream is watched.
pub(crate) fn source_key(serial: u64, name: StreamName) -> u64 {
    let kind = match name {
        StreamName::Stdout => KIND_STDOUT,
        StreamName::Stderr => KIND_STDERR,
    };
    serial << KIND_BITS | kind
}

/// Serves for ever.
pub(crate) fn run(options: &Options) -> Result<Infallible, StartupError> {
    fermata_sys::own_memory::keep_heap_small();
    fermata_sys::process::keep_descriptors_from_children()
        .map_err(cannot("keep inherited descriptors from processes"))?;
    std::env::set_current_dir("/").map_err(cannot("enter the root directory"))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // Orphans fall to process 1 by themselves; in tests, which are not process 1, to us too.
    if !rustix::process::getpid().is_init() {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(cannot("adopt orphans"))?;
    }
    let signals = fermata_sys::process::child_signals().map_err(cannot("watch children"))?;
    let listener = listen(&options.socket_name).map_err(cannot("listen"))?;
    let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(cannot("make an epoll"))?;
    for (descriptor, key) in [(&listener, LISTENER), (&signals, SIGNALS)] {
        epoll::add(&epoll, descriptor, EventData::new_u64(key), EventFlags::IN)
            .map_err(cannot("watch the listener"))?;
    }
    let mut server = Server {
        agent: Arc::new(Agent::new(epoll)),
        listener,
        signals,
        allow_local_peers: options.allow_local_peers,
        spare: spare_descriptor(),
        connections: HashMap::new(),
        next_connection: 0,
        threads: Arc::new(AtomicUsize::new(0)),
        held_back: HeldBack::default(),
        buffer: vec![0; READ_BYTES].into(),
    };
    if let Some(number) = options.ready_descriptor {
        report_ready(number).map_err(cannot("report that the agent is ready"))?;
    }
    let mut events = Vec::with_capacity(64);
    let mut has_worked = true;
    loop {
        events.clear();
        // In this order: at rest, as little code as possible is touched.
        let held_back = server.held_back.patience();
        let patience = match held_back {
            None => has_worked.then_some(REST_AFTER),
            Some(patience) => Timespec::try_from(patience).ok(),
        };
        // It can only be interrupted: the descriptors and the buffer are ours.
        let waited = epoll::wait(
            &server.agent.epoll,
            rustix::buffer::spare_capacity(&mut events),
            patience.as_ref(),
        );
        has_worked = !events.is_empty();
        if waited == Ok(0) && held_back.is_none() {
            fermata_sys::own_memory::trim_heap();
            fermata_sys::own_memory::release_program_pages();
        }
        for event in &events {
            let key = event.data.u64();
            // A bug costs one event, not the sandbox.
            let _ = catch_unwind(AssertUnwindSafe(|| server.handle(key)));
        }
        if held_back.is_some() {
            server.held_back.look(&server.agent, Instant::now());
        }
    }
}

fn listen(name: &[u8]) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn report_ready(number: i32) -> io::Result<()> {
    let descriptor = fermata_sys::process::inherited_descriptor(number).ok_or(Errno::BADF)?;
    File::from(descriptor).write_all(&[1])
}

fn spare_descriptor() -> Option<File> {
    File::open("/").ok()
}

struct Server {
    agent: Arc<Agent>,
    listener: OwnedFd,
    signals: OwnedFd,
    allow_local_peers: bool,
    /// Given up to accept and refuse a connection when descriptors have run out, or it would stay pending and keep the
    /// main thread busy for ever.
    spare: Option<File>,
    connections: HashMap<u64, Connection>,
    next_connection: u64,
    threads: Arc<AtomicUsize>,
    held_back: HeldBack,
    buffer: Box<[u8]>,
}

struct Connection {
    caller: Arc<Caller>,
    /// No thread could be made: the main thread answers, and nothing that blocks.
    inline: bool,
}

impl Server {
    fn handle(&mut self, key: u64) {
        let number = key >> KIND_BITS;
        match (key & ((1 << KIND_BITS) - 1), key) {
            (KIND_CONNECTION, _) => self.connection_event(number),
            (KIND_STDOUT, _) => self.take_output(number, StreamName::Stdout),
            (KIND_STDERR, _) => self.take_output(number, StreamName::Stderr),
            (_, SIGNALS) => {
                while rustix::io::read(&self.signals, &mut *self.buffer)
                    .is_ok_and(|bytes| bytes > 0)
                {}
                reap(&self.agent, &mut self.buffer);
            }
            _ => self.accept(),
        }
    }

    fn take_output(&mut self, serial: u64, name: StreamName) {
        let Some(process) = self.agent.table().watched(serial) else {
            return;
        };
        match process.take_output(&self.agent.epoll, name, &mut self.buffer) {
            Attention::WhenReadable => {}
            Attention::At(latest) => self.held_back.add(serial, name, latest),
            Attention::Never => self.agent.table().stop_watching(&process),
        }
    }

    fn accept(&mut self) {
        match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
            Ok(socket) => self.admit(socket.into()),
            Err(Errno::MFILE | Errno::NFILE) => {
                self.spare = None;
                drop(rustix::net::accept_with(
                    &self.listener,
                    SocketFlags::CLOEXEC,
                ));
                self.spare = spare_descriptor();
            }
            // The peer went away again, or another look is worth while: the listener stays readable if so.
            Err(_) => {}
        }
    }

    /// Only the host may command this sandbox: a peer in this pid namespace is one of its own processes.
    fn admit(&mut self, socket: UnixStream) {
        use std::os::fd::AsFd as _;
        match fermata_sys::process::peer_process(socket.as_fd()) {
            Ok(None) => {}
            Ok(Some(_)) if self.allow_local_peers => {}
            Ok(Some(_)) | Err(_) => return,
        }
        self.next_connection += 1;
        let number = self.next_connection;
        let caller = Arc::new(Caller::new(socket));
        let key = EventData::new_u64(number << KIND_BITS | KIND_CONNECTION);
        let hang_up = EventFlags::RDHUP | EventFlags::ONESHOT;
        if epoll::add(&self.agent.epoll, caller.socket(), key, hang_up).is_err() {
            return;
        }
        let inline = self.spawn_thread(&caller).is_err();
        if inline {
            caller.serve_inline();
            let readable = EventFlags::IN | EventFlags::RDHUP;
            let bounded = caller
                .socket()
                .set_read_timeout(Some(INLINE_PATIENCE))
                .is_ok()
                && caller
                    .socket()
                    .set_write_timeout(Some(INLINE_PATIENCE))
                    .is_ok()
                && epoll::modify(&self.agent.epoll, caller.socket(), key, readable).is_ok();
            if !bounded {
                return;
            }
        }
        self.connections
            .insert(number, Connection { caller, inline });
    }

    fn spawn_thread(&self, caller: &Arc<Caller>) -> io::Result<()> {
        let (agent, caller) = (Arc::clone(&self.agent), Arc::clone(caller));
        let threads = Arc::clone(&self.threads);
        threads.fetch_add(1, Ordering::Relaxed);
        let spawned = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // Requests catch their own panics; this is for the frames around them.
                let _ = catch_unwind(AssertUnwindSafe(|| connection::serve(&agent, &caller)));
                drop(caller);
                if threads.fetch_sub(1, Ordering::Relaxed) == 1 {
                    fermata_sys::own_memory::trim_heap();
                }
            });
        if spawned.is_err() {
            self.threads.fetch_sub(1, Ordering::Relaxed);
        }
        spawned.map(drop)
    }

    fn connection_event(&mut self, number: u64) {
        let Some(connection) = self.connections.get(&number) else {
            return;
        };
        if connection.inline && connection::serve_once(&self.agent, &connection.caller) {
            return;
        }
        connection.caller.hang_up();
        self.connections.remove(&number);
    }
}
