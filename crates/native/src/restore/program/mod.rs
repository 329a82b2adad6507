//! What a process does to become one of the image's, from the moment that its descriptors are final: a list of system calls.
//!
//! ```text
//! Program::prepare: files of mappings opened, a place found, lists laid out ─► Program::run: interpreter entered
//!   main thread: vDSO parked ─ memory given up ─ mapped, filled, protected ─ threads cloned ─ itself ─┐
//!   other threads: itself ────────────────────────────────────────────────────────────────────────────┴─ wait ─ go on
//! ```

mod address_space;
mod assembler;
mod fill;
mod frame;
mod place;
mod process;
#[cfg(test)]
mod tests;
mod thread;
mod validate;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use fermata_sys::interpreter::{self, calls};
use fermata_sys::{own_process, restartable_sequences};
use rustix::fs::{Mode, OFlags};

use crate::image::{Alive, Backing, Process};
use crate::{NativeError, Owner};

use address_space::{Files, Region};
use assembler::{Assembled, Assembler, List};
use place::Here;

/// The descriptors by which a process waits for the others, in every process at these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Words of a failure are written here. The first of three numbers in a row.
    pub failure: RawFd,
    /// A byte of each thread.
    pub arrived: RawFd,
    /// Ends when all may go on.
    pub go: RawFd,
}

/// What all processes use.
#[derive(Debug, Clone, Copy)]
pub struct Resources<'a> {
    /// The pages file.
    pub pages: BorrowedFd<'a>,
    /// [`Image::shared_objects`], open.
    pub objects: &'a [OwnedFd],
    /// How it waits.
    pub waiting: Waiting,
}

/// Ready to be run.
#[derive(Debug)]
pub struct Program {
    assembled: Assembled,
    /// Kept open until the program closes them.
    files: Vec<OwnedFd>,
    keep: Vec<RawFd>,
}

const CLONE_THREAD: u64 = 0x100 // CLONE_VM
    | 0x200 // CLONE_FS
    | 0x400 // CLONE_FILES
    | 0x800 // CLONE_SIGHAND
    | 0x1_0000 // CLONE_THREAD
    | 0x4_0000; // CLONE_SYSVSEM

impl Program {
    /// Opens what the mappings need and lays the program out.
    ///
    /// # Errors
    /// `Image`, `File`, `Restore`.
    pub fn prepare(
        process: &Process,
        alive: &Alive,
        resources: Resources<'_>,
    ) -> Result<Self, NativeError> {
        let owner = Owner {
            pid: process.pid,
            name: process.name.clone(),
        };
        let failed = |action: &str| {
            let (action, owner) = (action.to_owned(), owner.clone());
            move |source| NativeError::Restore {
                action,
                owner,
                source,
            }
        };
        let pages_bytes = rustix::fs::fstat(resources.pages)
            .map_err(NativeError::file("look at", crate::image::PAGES_FILE))?
            .st_size;
        let pages_bytes = u64::try_from(pages_bytes).unwrap_or(0);
        validate::process(process.pid, alive, resources.objects.len(), pages_bytes)?;
        let floor = resources.waiting.go + 1;
        let mut opened = Opened::new(floor);
        let files = opened.files(alive, resources)?;
        let limits = own_process::limits().map_err(failed("read the limits"))?;
        let here = Here::read().map_err(failed("read the memory map"))?;
        let lay_out = |region: Region| {
            let assembler = Assembler::new(region.start, resources.waiting.failure, owner.to_string());
            assemble(assembler, process.pid, alive, resources.waiting, &files, &here, region, &limits)
        };
        // The size is the same everywhere, the place depends on it.
        let size = lay_out(Region {
            start: 1 << 40,
            program_end: 1 << 40,
            end: 1 << 40,
        })?
        .bytes
        .len() as u64;
        let region = here
            .find_place(&alive.memory, size)
            .ok_or_else(|| NativeError::Image {
                reason: format!("process {} leaves no room in its memory", process.pid),
            })?;
        let assembled = lay_out(region)?;
        let keep = opened.keep(resources);
        Ok(Self {
            assembled,
            files: opened.files,
            keep,
        })
    }

    /// Descriptors that must stay open.
    #[must_use]
    pub fn keep(&self) -> &[RawFd] {
        &self.keep
    }

    /// Becomes the process.
    ///
    /// # Errors
    /// `Restore` when the program cannot be put into place; afterwards it reports by itself.
    pub fn run(self, owner: &Owner) -> Result<Infallible, NativeError> {
        let Self {
            assembled, files, ..
        } = self;
        let Assembled {
            base,
            bytes,
            code_bytes,
            list,
            report,
        } = assembled;
        let failed = |action: &str| {
            let (action, owner) = (action.to_owned(), owner.clone());
            move |source| NativeError::Restore {
                action,
                owner,
                source,
            }
        };
        own_process::place_program(base, &bytes, code_bytes)
            .map_err(failed("place the program"))?;
        restartable_sequences::unregister().map_err(failed("leave the restartable sequences"))?;
        // The program closes them.
        std::mem::forget(files);
        own_process::enter_program(interpreter::Entry {
            code: base,
            list,
            report,
        })
    }
}

#[expect(clippy::too_many_arguments, reason = "all that a program is made of")]
fn assemble(
    mut assembler: Assembler,
    pid: i32,
    alive: &Alive,
    waiting: Waiting,
    files: &Files,
    here: &Here,
    region: Region,
    limits: &[(u64, u64)],
) -> Result<Assembled, NativeError> {
    let assembler = &mut assembler;
    let Some((leader, others)) = alive.threads.split_first() else {
        return Err(NativeError::Image {
            reason: format!("process {pid} has no thread"),
        });
    };
    let mut main = List::default();
    let huge_pages = !alive.huge_pages_disabled;
    address_space::add(assembler, &mut main, &alive.memory, files, here, region, huge_pages)?;
    // Everything but what it waits by; what is the program's own was moved below before.
    let first = i64::from(waiting.go + 1).cast_unsigned();
    main.call(assembler, "close files", calls::CLOSE_RANGE, [first, u64::from(u32::MAX), 0]);
    process::signals(assembler, &mut main, pid, alive);
    for thread in others {
        let mut list = List::default();
        thread::begin(assembler, &mut list, thread)?;
        process::thread_signals(assembler, &mut list, pid, thread.tid, &thread.pending);
        thread::become_itself(assembler, &mut list, thread, alive.dumpable);
        thread::end(assembler, &mut list, thread, waiting, |_, _| {})?;
        let child = assembler.add_list(&list);
        let tid = assembler.add(&thread.tid.to_ne_bytes(), 4);
        // struct clone_args up to set_tid_size
        let arguments = assembler.add_words([CLONE_THREAD, 0, 0, 0, 0, 0, 0, 0, tid, 1]);
        let call = main.call(assembler, "make a thread", calls::CLONE3, [arguments, 80]);
        call.child = child;
    }
    thread::begin(assembler, &mut main, leader)?;
    process::thread_signals(assembler, &mut main, pid, leader.tid, &leader.pending);
    process::timers(assembler, &mut main, alive);
    process::limits(assembler, &mut main, alive, limits);
    thread::become_itself(assembler, &mut main, leader, alive.dumpable);
    thread::end(assembler, &mut main, leader, waiting, |assembler, list| {
        let range = [waiting.failure, waiting.go].map(|number| i64::from(number).cast_unsigned());
        list.call(assembler, "close files", calls::CLOSE_RANGE, [range[0], range[1], 0]);
        if let Some(signal) = alive.stopped_by {
            let arguments = [pid, signal].map(|number| i64::from(number).cast_unsigned());
            list.call(assembler, "stop", calls::KILL, arguments);
        }
    })?;
    Ok(std::mem::replace(assembler, Assembler::new(0, 0, String::new())).finish(&main))
}

/// Files opened for a program, at numbers that no descriptor of the process has.
struct Opened {
    floor: RawFd,
    files: Vec<OwnedFd>,
}

impl Opened {
    fn new(floor: RawFd) -> Self {
        Self {
            floor,
            files: Vec::new(),
        }
    }

    fn open(&mut self, path: &str, writable: bool) -> Result<RawFd, NativeError> {
        let access = if writable {
            OFlags::RDWR
        } else {
            OFlags::RDONLY
        };
        let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = rustix::fs::open(path, flags, Mode::empty())
            .map_err(NativeError::file("open", path))?;
        self.lift(file.as_fd()).map_err(NativeError::file("open", path))
    }

    /// A copy above the floor.
    fn lift(&mut self, file: BorrowedFd<'_>) -> std::io::Result<RawFd> {
        let lifted = rustix::io::fcntl_dupfd_cloexec(file, self.floor)?;
        let number = lifted.as_raw_fd();
        self.files.push(lifted);
        Ok(number)
    }

    fn files(&mut self, alive: &Alive, resources: Resources<'_>) -> Result<Files, NativeError> {
        let lift = |opened: &mut Self, file: BorrowedFd<'_>| {
            opened
                .lift(file)
                .map_err(NativeError::file("keep", crate::image::PAGES_FILE))
        };
        let pages = lift(self, resources.pages)?;
        let objects = resources
            .objects
            .iter()
            .map(|object| lift(self, object.as_fd()))
            .collect::<Result<_, _>>()?;
        let executable = self.open(&alive.memory.layout.executable, false)?;
        let mut by_path = HashMap::new();
        for mapping in &alive.memory.mappings {
            let (path, writable) = match &mapping.backing {
                Backing::PrivateFile { path, .. } => (path, false),
                Backing::SharedFile { path, writable, .. } => (path, *writable),
                _ => continue,
            };
            let key = (path.clone(), writable);
            if let Entry::Vacant(place) = by_path.entry(key) {
                place.insert(self.open(path, writable)?);
            }
        }
        Ok(Files {
            by_path,
            objects,
            pages,
            executable,
        })
    }

    fn keep(&self, resources: Resources<'_>) -> Vec<RawFd> {
        let Waiting {
            failure,
            arrived,
            go,
        } = resources.waiting;
        let own = self.files.iter().map(std::os::fd::AsRawFd::as_raw_fd);
        [failure, arrived, go].into_iter().chain(own).collect()
    }
}
