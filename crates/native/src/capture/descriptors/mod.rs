//! Descriptors of stopped processes.
//!
//! ```text
//!  /proc/PID/fd ─► each number ─ pidfd_getfd ─► a duplicate of ours ─ kcmp ─► seen before: the same description
//!                                                                      └────► new: looked at, kept until `finish`
//!  finish ─► what needs all of them: contents of pipes, peers of sockets, what an epoll watches
//! ```
//!
//! A duplicate answers every question (`fcntl`, `getsockopt`, `ioctl`, `MSG_PEEK`) without a word to the process. It also keeps the
//! description open, which nobody must notice: all are closed when the collector goes, which has to be before the tree runs on.

mod connections;
mod counters;
mod diagnosis;
mod fdinfo;
mod internet;
mod opened;
mod paths;
mod pipes;
mod polls;
mod queues;
mod removed;
mod sockets;
mod terminals;
mod unix;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use fermata_sys::open_file;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, getrlimit, setrlimit};

use super::Task;
use crate::image::{Description, Descriptions, Descriptor, Lock, LockKind, OpenFile};
use crate::{NativeError, Owner};
use connections::Connection;
use diagnosis::UnixDiagnosis;
use fdinfo::FdInfo;
use opened::Opened;
use pipes::PipeEnds;
use polls::Watched;
use unix::UnixEnd;

/// What keeps memory that mappings and descriptors share.
pub trait SharedObjects {
    /// The place of a memfd in [`crate::image::Image::shared_objects`].
    ///
    /// # Errors
    /// When it cannot be held.
    fn object(&mut self, file: BorrowedFd<'_>, owner: &Owner) -> Result<u32, NativeError>;
}

/// Gathers the open file descriptions of a tree.
pub struct DescriptorCollector<'a> {
    objects: &'a mut dyn SharedObjects,
    /// By device and inode; each list ordered as `kcmp(2)` orders descriptions.
    seen: HashMap<(u64, u64), Vec<usize>>,
    found: Vec<Found>,
    processes: Vec<Table>,
    pipes: Vec<PipeEnds>,
    unix_sockets: Option<HashMap<u64, UnixDiagnosis>>,
    root: Option<Rc<OwnedFd>>,
    upper: Option<PathBuf>,
    limit: Rlimit,
}

/// A description, and one descriptor that leads to it.
struct Found {
    file: OwnedFd,
    identity: (u64, u64),
    /// The first who had it.
    task: Task,
    number: i32,
    /// What its link shows.
    path: String,
    flags: u32,
    locks: Vec<Lock>,
    kind: Kind,
}

impl Found {
    fn unheld(&self, what: &str) -> NativeError {
        Opened::unheld_as(&self.task, self.number, what)
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> NativeError + use<> {
        let owner = self.task.owner();
        move |source| NativeError::Capture {
            action,
            owner,
            source,
        }
    }
}

/// What is known of a description before all of them are.
enum Kind {
    Complete(OpenFile),
    Poll(Vec<Watched>),
    Unix(UnixEnd),
    Connection(Connection),
    Removed { position: u64 },
}

/// A process that was added.
struct Table {
    task: Task,
    descriptors: Vec<Descriptor>,
}

impl std::fmt::Debug for DescriptorCollector<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("DescriptorCollector")
            .field("descriptions", &self.found.len())
            .field("processes", &self.processes.len())
            .finish_non_exhaustive()
    }
}

impl Drop for DescriptorCollector<'_> {
    fn drop(&mut self) {
        // Lowering the soft limit cannot fail, and below what is open it only keeps more from being opened.
        let _ = setrlimit(Resource::Nofile, self.limit);
    }
}

impl<'a> DescriptorCollector<'a> {
    /// A collector that has seen nothing; `objects` is asked about memory files.
    #[must_use]
    pub fn new(objects: &'a mut dyn SharedObjects) -> Self {
        let limit = getrlimit(Resource::Nofile);
        // A duplicate is held of every description of the tree, which may have more than one process may open.
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        );
        Self {
            objects,
            seen: HashMap::new(),
            found: Vec::new(),
            processes: Vec::new(),
            upper: None,
            pipes: Vec::new(),
            unix_sockets: None,
            root: None,
            limit,
        }
    }

    /// The directory that has what the sandbox changed in its root, where names of removed files are looked for.
    #[must_use]
    pub fn with_upper(mut self, upper: &Path) -> Self {
        self.upper = Some(upper.to_owned());
        self
    }

    /// Looks at every descriptor of a stopped process. The first one added is process 1.
    ///
    /// # Errors
    /// [`NativeError::Unheld`] for what cannot be held.
    pub fn add_process(&mut self, task: &Task) -> Result<Vec<Descriptor>, NativeError> {
        let failed = |action: &'static str| {
            move |source: io::Error| NativeError::Capture {
                action,
                owner: task.owner(),
                source,
            }
        };
        self.refuse_shared_table(task)?;
        let directory = format!("/proc/{}", task.host_pid);
        let process = rustix::fs::open(
            Path::new(&directory),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|error| failed("open the process directory")(error.into()))?;
        if self.root.is_none() {
            let root = rustix::fs::openat(
                &process,
                "root",
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|error| failed("open the root directory")(error.into()))?;
            self.root = Some(Rc::new(root));
        }
        let pidfd = Pid::from_raw(task.host_pid)
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()))
            .map_err(|error| failed("refer to")(error.into()))?;
        let numbers = numbers(&directory).map_err(failed("list the descriptors"))?;
        let mut descriptors = Vec::with_capacity(numbers.len());
        for number in numbers {
            let info = FdInfo::read(&process, number).map_err(failed("read a descriptor"))?;
            let file = rustix::process::pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty())
                .map_err(|error| failed("duplicate a descriptor")(error.into()))?;
            let description = self.add(task, &process, number, number, &info, file)?;
            descriptors.push(Descriptor {
                number,
                description,
                close_on_execute: info.close_on_execute,
            });
        }
        self.processes.push(Table {
            task: task.clone(),
            descriptors: descriptors.clone(),
        });
        Ok(descriptors)
    }

    /// What is known once every process was added.
    ///
    /// # Errors
    /// [`NativeError::Unheld`] for what cannot be held.
    pub fn finish(mut self) -> Result<Descriptions, NativeError> {
        self.read_queues()?;
        let pipes = std::mem::take(&mut self.pipes)
            .into_iter()
            .map(|ends| ends.read(&self.found))
            .collect::<Result<Vec<_>, _>>()?;
        let terminals = self.terminals()?;
        let names = self.other_names()?;
        let mut nameless = Vec::new();
        let mut list = Vec::with_capacity(self.found.len());
        for found in &self.found {
            let file = match &found.kind {
                Kind::Complete(file) => file.clone(),
                Kind::Poll(watched) => self.watches(found, watched)?,
                Kind::Removed { position } => {
                    self.removed(found, *position, &names, &mut nameless)?
                }
                Kind::Unix(end) => self.connected(found, end)?,
                Kind::Connection(connection) => self.stream(found, connection)?,
            };
            list.push(Description {
                flags: found.flags,
                file,
                locks: found.locks.clone(),
            });
        }
        Ok(Descriptions {
            list,
            pipes,
            terminals,
            nameless: nameless.into_iter().map(|(_, file)| file).collect(),
        })
    }

    /// The place of a description, looked at if it is new. `at` is its number in `process`.
    fn add(
        &mut self,
        task: &Task,
        process: &OwnedFd,
        number: i32,
        at: i32,
        info: &FdInfo,
        file: OwnedFd,
    ) -> Result<u32, NativeError> {
        let Some(root) = self.root.clone() else {
            return Err(Opened::unheld_as(
                task,
                number,
                "belongs to a process without root",
            ));
        };
        let opened = Opened::new(task, number, at, info, &file, process, root.as_fd())?;
        let identity = opened.identity();
        let (place, known) =
            self.search(identity, file.as_fd())
                .map_err(|source| NativeError::Capture {
                    action: "compare a descriptor",
                    owner: task.owner(),
                    source,
                })?;
        if let Some(index) = known {
            // Those of a process show only among its own descriptors.
            let own = opened.locks()?.into_iter();
            self.found[index]
                .locks
                .extend(own.filter(|lock| matches!(lock.kind, LockKind::Process(_))));
            return Ok(place_in_list(index));
        }
        opened.refuse_signal_owner()?;
        let locks = opened.locks()?;
        let kind = self.kind(&opened)?;
        let index = self.found.len();
        self.found.push(Found {
            identity,
            task: task.clone(),
            number,
            path: opened.link,
            flags: info.flags,
            locks,
            kind,
            file,
        });
        self.seen.entry(identity).or_default().insert(place, index);
        Ok(place_in_list(index))
    }

    /// Where among those of the same inode a description is, or would be.
    fn search(
        &self,
        identity: (u64, u64),
        file: BorrowedFd<'_>,
    ) -> io::Result<(usize, Option<usize>)> {
        let Some(list) = self.seen.get(&identity) else {
            return Ok((0, None));
        };
        let (mut low, mut high) = (0, list.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match open_file::compare(self.found[list[middle]].file.as_fd(), file)? {
                Ordering::Equal => return Ok((middle, Some(list[middle]))),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Ok((low, None))
    }

    fn kind(&mut self, opened: &Opened<'_>) -> Result<Kind, NativeError> {
        if opened.is_path_only() {
            return opened.named().map(Kind::Complete);
        }
        if let Some(name) = opened.anonymous() {
            return match name {
                "[eventfd]" => opened.event().map(Kind::Complete),
                "[timerfd]" => opened.timer().map(Kind::Complete),
                "[signalfd]" => opened.signals().map(Kind::Complete),
                "[eventpoll]" => opened.watched().map(Kind::Poll),
                other => Err(opened.unheld(&format!("is of a kind that cannot be held: {other}"))),
            };
        }
        let file = match FileType::from_raw_mode(opened.stat.st_mode) {
            FileType::Fifo => self.pipe(opened)?,
            FileType::RegularFile if opened.is_memory_file() => OpenFile::Object {
                object: self
                    .objects
                    .object(opened.file.as_fd(), &opened.task.owner())?,
                position: opened.info.position,
            },
            FileType::RegularFile => match opened.removed()? {
                Some(removed) => return Ok(removed),
                None => opened.named()?,
            },
            FileType::Directory => opened.named()?,
            FileType::CharacterDevice => match opened.terminal()? {
                Some(terminal) => terminal,
                None => opened.device()?,
            },
            FileType::Socket => return self.socket(opened),
            FileType::BlockDevice => return Err(opened.unheld("is a block device")),
            FileType::Symlink | FileType::Unknown => {
                return Err(opened.unheld("is of an unknown kind"));
            }
        };
        Ok(Kind::Complete(file))
    }

    /// Two tasks with one table would have one each afterwards.
    fn refuse_shared_table(&self, task: &Task) -> Result<(), NativeError> {
        let shares = |other: i32| {
            open_file::compare_tables(task.host_pid, other)
                .map(Ordering::is_eq)
                .map_err(|source| NativeError::Capture {
                    action: "compare the descriptor tables",
                    owner: task.owner(),
                    source,
                })
        };
        let refuse = |reason: String| {
            Err(NativeError::Unheld {
                owner: task.owner(),
                reason,
            })
        };
        for other in &self.processes {
            if shares(other.task.host_pid)? {
                return refuse(format!(
                    "its descriptors are those of process {} too",
                    other.task.pid
                ));
            }
        }
        let threads = std::fs::read_dir(format!("/proc/{}/task", task.host_pid))
            .and_then(|entries| {
                entries
                    .map(|entry| {
                        Ok(entry?
                            .file_name()
                            .to_str()
                            .and_then(|name| name.parse().ok()))
                    })
                    .collect::<io::Result<Vec<Option<i32>>>>()
            })
            .map_err(|source| NativeError::Capture {
                action: "list the threads",
                owner: task.owner(),
                source,
            })?;
        for thread in threads.into_iter().flatten() {
            if thread != task.host_pid && !shares(thread)? {
                return refuse("a thread has descriptors of its own".to_owned());
            }
        }
        Ok(())
    }
}

fn numbers(directory: &str) -> io::Result<Vec<i32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(format!("{directory}/fd"))? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        numbers.push(number.ok_or(io::ErrorKind::InvalidData)?);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A tree cannot have as many descriptions as do not fit: `fs.nr_open` is far below.
fn place_in_list(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// Opens what a duplicate of ours leads to a second time.
fn reopen(file: BorrowedFd<'_>, flags: OFlags) -> io::Result<File> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?.into())
}
