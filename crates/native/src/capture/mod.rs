//! Capturing a tree.
//!
//! ```text
//! caller: control group frozen ─► Seized::take ─► caller: thawed ─► hold ─► [instant] ─► caller: frozen again ─► let_go
//!                                                                                             └─► Held::write, as it runs
//! ```
//!
//! To be called by the parent of process 1 and by one thread: `ptrace(2)` belongs to that. What is dropped on the way leaves the
//! tree as it was.

mod copy;
pub mod descriptors;
mod facts;
mod inject;
mod ipc;
mod memory;
mod objects;
mod pages;
mod procfs;
mod stopped;
mod task;
mod threads;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use fermata_sys::sharing::{Shared, compare};

use crate::image::{
    Alive, Clocks, Descriptions, Descriptor, Image, Memory, Process, SharedObject, State,
    TemporaryFilesystem,
};
use crate::{NativeError, image};

pub use task::Task;

use copy::Copy;
use descriptors::DescriptorCollector;
use inject::Room;
use objects::Objects;
use pages::PagesFile;
use stopped::{Stopped, StoppedProcess};

/// A tree whose threads stand still.
#[derive(Debug)]
pub struct Seized {
    stopped: Stopped,
}

/// Everything about the tree, at one instant, but what is in private memory.
#[derive(Debug)]
pub struct Held {
    image: Image,
    /// Of each living process, in the image's order.
    copies: Vec<(Task, Copy)>,
    pages: File,
    pages_end: u64,
}

impl Seized {
    /// Stops every thread that descends from process 1. The control group is frozen by the caller; `members` are its processes.
    ///
    /// # Errors
    /// `Unheld`, `Busy`, `Capture`.
    pub fn take(init_pid: i32, members: &[i32]) -> Result<Self, NativeError> {
        let stopped = Stopped::seize(init_pid, members)?;
        Ok(Self { stopped })
    }

    /// Reads the tree. The control group is thawed now, or what is injected would never run.
    ///
    /// `directory` gets what cannot wait: shared memory, and `temporary` says what the caller puts there by itself. `upper` is the
    /// directory that has what the sandbox changed in its root.
    ///
    /// # Errors
    /// `Unheld`, `Capture`, `File`.
    pub fn hold(
        &self,
        directory: &Path,
        temporary: Vec<TemporaryFilesystem>,
        upper: &Path,
    ) -> Result<Held, NativeError> {
        let held = self.read(upper, directory, temporary);
        // What went wrong is not it, then: SIGKILL ends also what stands still.
        match self
            .stopped
            .processes
            .iter()
            .find(|process| process.has_vanished())
        {
            Some(vanished) if held.is_err() => Err(NativeError::Busy {
                owner: vanished.task.owner(),
            }),
            _ => held,
        }
    }

    fn read(
        &self,
        upper: &Path,
        directory: &Path,
        temporary: Vec<TemporaryFilesystem>,
    ) -> Result<Held, NativeError> {
        self.refuse_unheld()?;
        let path = directory.join(image::PAGES_FILE);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(NativeError::file("make", &path))?;
        let mut pages = PagesFile::new(&file, 0);
        let mut objects = Objects::default();
        let mut filters = facts::Filters::default();
        let mut clocks = None;
        let (mut of_processes, descriptions) = self.descriptors(&mut objects, upper)?;
        let mut processes = Vec::with_capacity(self.stopped.processes.len());
        let mut copies = Vec::new();
        for process in &self.stopped.processes {
            let state = if process.is_zombie() {
                State::Zombie {
                    status: process.stat.exit_status,
                }
            } else {
                let (mut alive, copy) =
                    self.alive(process, &mut objects, &mut filters, &mut pages, &mut clocks)?;
                alive.descriptors = of_processes.remove(&process.task.pid).unwrap_or_default();
                copies.push((process.task.clone(), copy));
                State::Alive(alive)
            };
            processes.push(Process {
                pid: process.task.pid,
                parent: process.parent,
                group: process.status.group,
                session: process.status.session,
                name: process.task.name.clone(),
                state,
            });
        }
        let shared_objects: Vec<SharedObject> = objects
            .copy(&file, &mut pages.end)
            .map_err(NativeError::file("write shared memory to", &path))?;
        let pages_end = pages.end;
        let clocks = clocks.ok_or_else(|| NativeError::Image {
            reason: "there is no process".to_owned(),
        })?;
        Ok(Held {
            image: Image {
                clocks,
                processes,
                descriptions,
                shared_objects,
                temporary,
            },
            copies,
            pages: file,
            pages_end,
        })
    }

    fn descriptors(
        &self,
        objects: &mut Objects,
        upper: &Path,
    ) -> Result<(HashMap<i32, Vec<Descriptor>>, Descriptions), NativeError> {
        let mut collector = DescriptorCollector::new(objects).with_upper(upper);
        let mut of_processes = HashMap::new();
        for process in &self.stopped.processes {
            if !process.is_zombie() {
                let found = collector.add_process(&process.task)?;
                of_processes.insert(process.task.pid, found);
            }
        }
        Ok((of_processes, collector.finish()?))
    }

    /// Lets the tree go on; it is frozen by its control group if the caller has done so again.
    pub fn let_go(self) {
        drop(self);
    }

    fn refuse_unheld(&self) -> Result<(), NativeError> {
        if let Some(init) = self.stopped.processes.first() {
            ipc::refuse(&init.task)?;
        }
        for process in &self.stopped.processes {
            self.refuse_shared_tables(process)?;
            refuse_namespaces(process, &self.stopped)?;
        }
        self.refuse_shared_between_processes()
    }

    /// Threads share all that processes can share; one that does not is no thread as `pthreads(7)` has them.
    fn refuse_shared_tables(&self, process: &StoppedProcess) -> Result<(), NativeError> {
        let Some((leader, others)) = process.threads.split_first() else {
            return Ok(());
        };
        let failed = || process.task.failed("compare the threads");
        for thread in others {
            for (shared, what) in [
                (Shared::Descriptors, "descriptors"),
                (Shared::FileSystem, "a working directory"),
            ] {
                let first = leader.host_tid().map_err(failed())?;
                let second = thread.host_tid().map_err(failed())?;
                if compare(first, second, shared).map_err(failed())?.is_ne() {
                    let tid = thread.tid;
                    return Err(process
                        .task
                        .unheld(format!("its thread {tid} has {what} of its own")));
                }
            }
        }
        Ok(())
    }

    fn refuse_shared_between_processes(&self) -> Result<(), NativeError> {
        let living: Vec<&StoppedProcess> = self
            .stopped
            .processes
            .iter()
            .filter(|process| !process.is_zombie())
            .collect();
        for (shared, what) in [
            (Shared::Memory, "its memory"),
            (Shared::Descriptors, "its table of descriptors"),
            (Shared::FileSystem, "its working directory"),
        ] {
            let mut failure = None;
            let mut sorted = living.clone();
            let mut order = |first: &StoppedProcess, second: &StoppedProcess| {
                compare(first.task.host_pid, second.task.host_pid, shared).unwrap_or_else(|error| {
                    failure = Some(first.task.failed("compare the processes")(error));
                    std::cmp::Ordering::Less
                })
            };
            sorted.sort_by(|first, second| order(first, second));
            let same = sorted
                .windows(2)
                .find(|pair| order(pair[0], pair[1]).is_eq());
            if let Some(pair) = same {
                let other = pair[0].task.pid;
                return Err(pair[1]
                    .task
                    .unheld(format!("it shares {what} with process {other}")));
            }
            if let Some(error) = failure {
                return Err(error);
            }
        }
        Ok(())
    }

    fn alive(
        &self,
        process: &StoppedProcess,
        objects: &mut Objects,
        filters: &mut facts::Filters,
        pages: &mut PagesFile<'_>,
        clocks: &mut Option<Clocks>,
    ) -> Result<(Alive, Copy), NativeError> {
        let task = &process.task;
        let maps = memory::maps(process)?;
        let mut mappings = memory::mappings(process, &maps, objects)?;
        if process.status.locked_kib != 0 {
            let flags = memory::flags(task.host_pid).map_err(task.failed("read the memory map"))?;
            memory::note_locks(&mut mappings, &flags);
        }
        let timers = facts::posix_timers(process, &self.stopped)?;
        let (calls, results) = facts::room_for(timers.len());
        let room = Room::make(process, &maps, calls.max(copy::CALLS), results)
            .map_err(task.failed("make room in the memory"))?;
        // What is mapped from now on is locked at once, the room too.
        if process.locked_kib()? != process.status.locked_kib {
            return Err(task.unheld("it locks all memory that it will have (mlockall(2))"));
        }
        let asked = facts::of_process(process, &room, &timers)?;
        clocks.get_or_insert(asked.clocks);
        let threads = process
            .threads
            .iter()
            .map(|thread| facts::of_thread(process, thread, &room, filters))
            .collect::<Result<_, _>>()?;
        let leader = process.leader()?;
        let link = |name: &str| {
            let path = std::fs::read_link(format!("/proc/{}/{name}", task.host_pid))
                .map_err(task.failed("find the working directory"))?;
            path.into_os_string()
                .into_string()
                .map_err(|_| task.unheld(format!("its {name} is not UTF-8")))
        };
        let working_directory = link("cwd")?;
        if working_directory.ends_with(" (deleted)") {
            return Err(task.unheld("its working directory is not there any more"));
        }
        let number = |name: &str, radix: u32| {
            let text = std::fs::read_to_string(format!("/proc/{}/{name}", task.host_pid))
                .map_err(task.failed("read the settings"))?;
            i64::from_str_radix(text.trim(), radix).map_err(|_| {
                task.failed("read the settings")(std::io::Error::from(
                    std::io::ErrorKind::InvalidData,
                ))
            })
        };
        let pending = leader
            .tracee()
            .and_then(|tracee| tracee.pending_signals(true))
            .map_err(task.failed("read the signals"))?;
        let copy = Copy::make(process, &room).map_err(task.failed("copy the memory"))?;
        pages::write_uncopied(task, copy.host_pid(), &mut mappings, pages)?;
        let alive = Alive {
            threads,
            memory: Memory {
                layout: memory::layout(process, asked.brk)?,
                mappings,
                vdso_digest: memory::vdso_digest(process, &maps)?,
            },
            descriptors: Vec::new(),
            working_directory,
            root: link("root")?,
            umask: process.status.umask,
            actions: asked.actions,
            pending,
            limits: facts::limits(process)?,
            interval_timers: asked.interval_timers,
            posix_timers: asked.posix_timers,
            dumpable: asked.dumpable,
            is_subreaper: asked.is_subreaper,
            oom_score_adjustment: i32::try_from(number("oom_score_adj", 10)?).unwrap_or(0),
            personality: u32::try_from(number("personality", 16)?).unwrap_or(0),
            huge_pages_disabled: asked.huge_pages_disabled,
            stopped_by: leader.stopped_by,
            terminal: terminal(process)?,
        };
        drop(room);
        Ok((alive, copy))
    }
}

/// The N of `/dev/pts/N`.
fn terminal(process: &StoppedProcess) -> Result<Option<u32>, NativeError> {
    // linux/major.h; the number is put together by new_encode_dev().
    const PSEUDOTERMINAL: u32 = 136;
    match process.stat.terminal {
        0 => Ok(None),
        device if device >> 8 & 0xfff == PSEUDOTERMINAL => {
            Ok(Some(device & 0xff | device >> 12 & 0xf_ff00))
        }
        device => Err(process
            .task
            .unheld(format!("its terminal is the device {device:#x}"))),
    }
}

/// Namespaces of its own are more than a sandbox's restore makes.
fn refuse_namespaces(process: &StoppedProcess, stopped: &Stopped) -> Result<(), NativeError> {
    let Some(init) = stopped.processes.first() else {
        return Ok(());
    };
    if process.is_zombie() || process.task.pid == init.task.pid {
        return Ok(());
    }
    for kind in ["mnt", "net", "pid", "user", "uts", "ipc", "time", "cgroup"] {
        let namespace = |task: &Task| {
            std::fs::read_link(format!("/proc/{}/ns/{kind}", task.host_pid))
                .map_err(task.failed("look at the namespaces"))
        };
        if namespace(&process.task)? != namespace(&init.task)? {
            return Err(process
                .task
                .unheld(format!("it has a namespace of its own ({kind})")));
        }
    }
    Ok(())
}

impl Held {
    /// The processes that hold the memory, to be killed if this program ends without dropping them.
    pub fn copies(&self) -> impl Iterator<Item = i32> {
        self.copies.iter().map(|(_, copy)| copy.host_pid())
    }

    /// Writes what is in memory, and the state. The tree runs meanwhile.
    ///
    /// # Errors
    /// `Unheld` for what only now could be seen, `Capture`, `File`.
    pub fn write(mut self, directory: &Path) -> Result<(), NativeError> {
        let mut pages = PagesFile::new(&self.pages, self.pages_end);
        let alive =
            self.image
                .processes
                .iter_mut()
                .filter_map(|process| match &mut process.state {
                    State::Alive(alive) => Some(alive),
                    State::Zombie { .. } => None,
                });
        for (alive, (task, copy)) in alive.zip(&self.copies) {
            pages::write(task, copy.host_pid(), &mut alive.memory, &mut pages)?;
        }
        let path = directory.join(image::STATE_FILE);
        let bytes = self.image.encode()?;
        let write = || File::create_new(&path)?.write_all(&bytes);
        write().map_err(NativeError::file("write", &path))
    }
}
