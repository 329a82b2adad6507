//! Opens the descriptions of a tree again, and lays them out as descriptors of each process.
//!
//! ```text
//!  process 1 ── open ──► every description, once, at a number >= floor
//!     └── clone ──► each process inherits all ── install ──► 0, 1, 2, … as they were; the others closed
//! ```

mod counters;
mod files;
mod internet;
mod names;
mod pipes;
mod polls;
mod sockets;
mod terminals;
mod unix;

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use fermata_sys::open_file;
use fermata_sys::record_lock::{LockOwner, lock_range};
use fermata_sys::terminal_state as state;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::image::{Description, Descriptions, Descriptor, Image, Lock, LockKind, OpenFile, State};
use crate::{NativeError, Owner};
use files::Nameless;
use pipes::OpenPipe;
use sockets::OpenSockets;
use terminals::{InheritedTerminal, OpenTerminal};

/// The descriptions of a tree, open in this process and in those that it makes.
///
/// They are known by number, not owned: what a process does not need [`OpenDescriptions::install`] closes, and the numbers of the
/// others are the program's own.
#[derive(Debug)]
pub struct OpenDescriptions {
    /// By their place in the image.
    numbers: Vec<i32>,
    /// To be added by the process that added them before: the epoll's number, and the entry.
    watches: Vec<polls::OwnWatch>,
    /// To be taken by the process that had them.
    locks: Vec<ProcessLock>,
    terminals: Vec<InheritedTerminal>,
}

/// A lock that belongs to a process.
#[derive(Debug)]
struct ProcessLock {
    process: i32,
    description: u32,
    lock: Lock,
}

/// What went wrong with one description, before it is known whose it is.
pub(crate) struct Failure {
    action: String,
    source: io::Error,
}

impl Failure {
    pub(crate) fn to<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self {
            action,
            source: source.into(),
        }
    }

    /// The owner is the process that this one is about to become.
    fn of_caller(self) -> NativeError {
        NativeError::Restore {
            action: self.action,
            owner: Owner {
                pid: own_pid(),
                name: "being restored".to_owned(),
            },
            source: self.source,
        }
    }

    /// For what only an image that was tampered with can hold.
    pub(crate) fn damaged(what: &str) -> Self {
        Self {
            action: format!("make sense of {what}"),
            source: io::ErrorKind::InvalidData.into(),
        }
    }
}

/// Opens every description of an image at a number of at least `floor`, in the process that is going to make the tree.
///
/// # Errors
/// [`NativeError::Restore`] with the first process that has the description.
pub fn open(
    image: &Image,
    objects: &[OwnedFd],
    floor: i32,
) -> Result<OpenDescriptions, NativeError> {
    Opening::new(&image.descriptions, objects, floor)
        .and_then(Opening::open)
        .map_err(|(place, failure)| NativeError::Restore {
            action: failure.action,
            owner: owner(image, place),
            source: failure.source,
        })
}

/// A failure and the description it is about.
type At = (Option<u32>, Failure);

struct Opening<'a> {
    image: &'a Descriptions,
    objects: &'a [OwnedFd],
    floor: i32,
    nameless: Vec<Nameless>,
    pipes: Vec<OpenPipe>,
    terminals: Vec<OpenTerminal>,
}

impl<'a> Opening<'a> {
    fn new(image: &'a Descriptions, objects: &'a [OwnedFd], floor: i32) -> Result<Self, At> {
        let general = |failure| (None, failure);
        raise_limit()
            .map_err(|error| general(Failure::to("raise the limit of open files")(error)))?;
        Ok(Self {
            image,
            objects,
            floor,
            nameless: image
                .nameless
                .iter()
                .map(Nameless::make)
                .collect::<Result<_, _>>()
                .map_err(general)?,
            pipes: image
                .pipes
                .iter()
                .map(OpenPipe::make)
                .collect::<Result<_, _>>()
                .map_err(general)?,
            terminals: terminals::make_all(image).map_err(general)?,
        })
    }

    fn open(self) -> Result<OpenDescriptions, At> {
        let mut sockets = OpenSockets::open(self.image)?;
        let mut numbers = Vec::with_capacity(self.image.list.len());
        let mut locks = Vec::new();
        for (place, description) in (0_u32..).zip(&self.image.list) {
            let number = self
                .open_one(description, sockets.take(place as usize))
                .map_err(|failure| (Some(place), failure))?;
            numbers.push(number);
            locks.extend(description.locks.iter().filter_map(|lock| {
                let LockKind::Process(process) = lock.kind else {
                    return None;
                };
                Some(ProcessLock {
                    process,
                    description: place,
                    lock: *lock,
                })
            }));
        }
        for pipe in &self.pipes {
            pipe.fill().map_err(|failure| (None, failure))?;
        }
        sockets.fill(self.image, &numbers)?;
        let watches = polls::add_watches(self.image, &numbers, self.floor)?;
        let terminals = self
            .terminals
            .into_iter()
            .filter_map(|terminal| terminal.inherit(self.floor).transpose())
            .collect::<Result<_, _>>()
            .map_err(|failure| (None, failure))?;
        Ok(OpenDescriptions {
            numbers,
            watches,
            locks,
            terminals,
        })
    }

    fn open_one(&self, description: &Description, socket: Option<OwnedFd>) -> Result<i32, Failure> {
        let flags = OFlags::from_bits_retain(description.flags);
        let file = match &description.file {
            OpenFile::Path {
                path,
                kind,
                position,
            } => files::open_path(path, *kind, flags, *position)?,
            OpenFile::Nameless { file, position } => self
                .nameless
                .get(*file as usize)
                .ok_or_else(|| Failure::damaged("a removed file"))?
                .open(flags, *position)?,
            OpenFile::Object { object, position } => {
                let object = self
                    .objects
                    .get(*object as usize)
                    .ok_or_else(|| Failure::damaged("a memory file"))?;
                files::open_again(object, flags, *position)?
            }
            OpenFile::Pipe { pipe } => self
                .pipes
                .get(*pipe as usize)
                .ok_or_else(|| Failure::damaged("a pipe"))?
                .open(flags)?,
            OpenFile::Event { count, semaphore } => counters::event(*count, *semaphore)?,
            OpenFile::Signals { mask } => open_file::signal_descriptor(*mask)
                .map_err(Failure::to("make a signal descriptor"))?,
            OpenFile::Timer(timer) => counters::timer(timer)?,
            OpenFile::Poll { .. } => polls::epoll()?,
            OpenFile::Terminal {
                number,
                is_controller,
            } => self
                .terminals
                .iter()
                .find(|terminal| terminal.number() == *number)
                .ok_or_else(|| Failure::damaged("a terminal"))?
                .open(*is_controller, flags)?,
            OpenFile::Unix(_) | OpenFile::Internet(_) => {
                socket.ok_or_else(|| Failure::damaged("a socket"))?
            }
        };
        files::set_status_flags(&file, flags)?;
        take_locks(&file, &description.locks)?;
        open_file::move_above(file, self.floor)
            .map_err(Failure::to("move a descriptor out of the way"))
    }
}

/// Takes the locks that belong to a description.
fn take_locks(file: &OwnedFd, locks: &[Lock]) -> Result<(), Failure> {
    for lock in locks {
        match lock.kind {
            LockKind::Whole => flock(
                file,
                if lock.exclusive {
                    FlockOperation::NonBlockingLockExclusive
                } else {
                    FlockOperation::NonBlockingLockShared
                },
            )
            .map_err(Failure::to("lock a file"))?,
            LockKind::Description => lock_range(
                file.as_raw_fd(),
                LockOwner::Description,
                lock.exclusive,
                lock.start,
                lock.bytes,
            )
            .map_err(Failure::to("lock a part of a file"))?,
            LockKind::Process(_) => {}
        }
    }
    Ok(())
}

impl OpenDescriptions {
    /// Makes `/dev/pts/{terminal}` control the session that the caller has just begun.
    ///
    /// # Errors
    /// [`NativeError::Restore`], also when the image does not have that terminal.
    pub fn lead_session(&self, terminal: u32) -> Result<(), NativeError> {
        self.terminals
            .iter()
            .find(|known| known.number == terminal)
            .ok_or_else(|| Failure::damaged("a controlling terminal"))
            .and_then(|known| {
                state::control_session(known.programs).map_err(Failure::to(format!(
                    "control a session by terminal {terminal}"
                )))
            })
            .map_err(Failure::of_caller)
    }

    /// Sets the foreground process group of the caller's controlling terminal, when all groups exist. Each session leader does.
    ///
    /// # Errors
    /// [`NativeError::Restore`]
    pub fn set_foreground(&self) -> Result<(), NativeError> {
        for terminal in &self.terminals {
            let Some(group) = terminal.foreground else {
                continue;
            };
            let is_own = state::set_foreground(terminal.programs, group)
                .map_err(Failure::to("set the foreground of a terminal"))
                .map_err(Failure::of_caller)?;
            if is_own {
                break;
            }
        }
        Ok(())
    }

    /// Lays out the descriptors of the calling process and closes all others but `keep`: the last step before its memory is
    /// replaced, since whatever the program had open is gone then.
    ///
    /// # Errors
    /// [`NativeError::Restore`]
    pub fn install(&self, descriptors: &[Descriptor], keep: &[i32]) -> Result<(), NativeError> {
        self.lay_out(own_pid(), descriptors, keep)
            .map_err(Failure::of_caller)
    }

    fn lay_out(&self, pid: i32, descriptors: &[Descriptor], keep: &[i32]) -> Result<(), Failure> {
        for descriptor in descriptors {
            let number = self
                .numbers
                .get(descriptor.description as usize)
                .ok_or_else(|| Failure::damaged("a descriptor"))?;
            open_file::place(*number, descriptor.number, descriptor.close_on_execute).map_err(
                Failure::to(format!("make descriptor {}", descriptor.number)),
            )?;
        }
        for watch in self.watches.iter().filter(|watch| watch.process == pid) {
            watch.add()?;
        }
        let mut kept: Vec<i32> = descriptors
            .iter()
            .map(|descriptor| descriptor.number)
            .chain(keep.iter().copied())
            .collect();
        kept.sort_unstable();
        close_others(&kept).map_err(Failure::to("close descriptors"))?;
        // Closing any descriptor of a file gives up the locks that the process has on it (fcntl_locking(2)): only now.
        for owned in self.locks.iter().filter(|owned| owned.process == pid) {
            let descriptor = descriptors
                .iter()
                .find(|descriptor| descriptor.description == owned.description)
                .ok_or_else(|| Failure::damaged("a lock"))?;
            lock_range(
                descriptor.number,
                LockOwner::Process,
                owned.lock.exclusive,
                owned.lock.start,
                owned.lock.bytes,
            )
            .map_err(Failure::to("lock a part of a file"))?;
        }
        Ok(())
    }
}

/// Closes everything but the given numbers, in order.
fn close_others(kept: &[i32]) -> io::Result<()> {
    let mut first = 0;
    for number in kept {
        let number = u32::try_from(*number).map_err(|_| io::ErrorKind::InvalidData)?;
        if number > first {
            open_file::close_all(first, number - 1)?;
        }
        first = first.max(number + 1);
    }
    open_file::close_all(first, u32::MAX)
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

fn raise_limit() -> rustix::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
}

/// Whose a description is: the first process that has it, or process 1 for what belongs to nobody in particular.
fn owner(image: &Image, place: Option<u32>) -> Owner {
    image
        .processes
        .iter()
        .find(|process| match (&process.state, place) {
            (_, None) => true,
            (State::Alive(alive), Some(place)) => alive
                .descriptors
                .iter()
                .any(|descriptor| descriptor.description == place),
            (State::Zombie { .. }, Some(_)) => false,
        })
        .map_or_else(
            || Owner {
                pid: 1,
                name: "unknown".to_owned(),
            },
            |process| Owner {
                pid: process.pid,
                name: process.name.clone(),
            },
        )
}
