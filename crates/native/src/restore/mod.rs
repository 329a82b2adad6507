//! Playing a captured tree on.
//!
//! ```text
//! process 1: shared memory and descriptions opened ─► tree grown ─► each process: descriptors installed ─► program
//! ```

pub mod descriptors;
mod objects;
pub mod program;
pub mod tree;

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use fermata_sys::own_process;

use crate::image::{Alive, Image, Process, State};
use crate::{NativeError, Owner};

use descriptors::OpenDescriptions;
use program::{Program, Resources, Waiting};
use tree::{Foreground, Growth, grow, plan};

/// How the processes and the shim tell each other where they are.
#[derive(Debug)]
pub struct Signals {
    /// Words of whoever cannot go on.
    pub failure: OwnedFd,
    /// A byte of each thread that is ready to go on.
    pub arrived: OwnedFd,
    /// Ends when all may go on.
    pub go: OwnedFd,
}

/// Becomes the tree: the calling process is process 1 of new namespaces, in its root, with one thread.
///
/// # Errors
/// `Restore`, `Image`, `File`. They have been told by [`Signals::failure`], as those of all processes are.
pub fn play_on(image: &Image, pages: OwnedFd, signals: Signals) -> Result<Infallible, NativeError> {
    // By number: once the descriptors are in place, this may be another's.
    let early = signals
        .failure
        .try_clone()
        .map_or(-1, IntoRawFd::into_raw_fd);
    let (waiting, failure, pages) =
        make_way(image, signals, pages).inspect_err(|error| tell(early, error))?;
    let begun = begin(image, pages, waiting).and_then(|growing| {
        let plan = plan(&image.processes, &foregrounds(image))?;
        Ok((growing, plan))
    });
    let (mut growing, plan) = begun.inspect_err(|error| tell(waiting.failure, error))?;
    grow(&plan, failure.as_fd(), &mut growing)
}

fn make_way(
    image: &Image,
    signals: Signals,
    pages: OwnedFd,
) -> Result<(Waiting, OwnedFd, OwnedFd), NativeError> {
    let failed = failed(first(image)?);
    own_process::raise_file_limit().map_err(failed("raise the limit of open files"))?;
    lift(floor(image)?, signals, pages).map_err(failed("move descriptors"))
}

fn begin(image: &Image, pages: OwnedFd, waiting: Waiting) -> Result<Growing, NativeError> {
    let above = waiting.go + 1;
    let objects = objects::make(&image.shared_objects, pages.as_fd(), above).map_err(failed(
        first(image)?,
    )(
        "make the shared memory",
    ))?;
    Ok(Growing {
        descriptions: descriptors::open(image, &objects, above)?,
        pages,
        objects,
        waiting,
    })
}

fn first(image: &Image) -> Result<&Process, NativeError> {
    image.processes.first().ok_or_else(|| NativeError::Image {
        reason: "it has no process".to_owned(),
    })
}

/// Last words, to a descriptor that is known by its number.
fn tell(number: RawFd, error: &NativeError) {
    own_process::write_to(number, chain(error).as_bytes());
}

/// The groups that terminals have in their foreground, by the sessions that they control.
fn foregrounds(image: &Image) -> Vec<Foreground> {
    let terminals = image.descriptions.terminals.iter();
    terminals
        .filter_map(|terminal| {
            let group = terminal.foreground?;
            let (leader, _) = image.living().find(|(process, alive)| {
                process.session == process.pid && alive.terminal == Some(terminal.number)
            })?;
            Some(Foreground {
                session: leader.session,
                group,
            })
        })
        .collect()
}

/// Above the number of any descriptor of the tree.
fn floor(image: &Image) -> Result<RawFd, NativeError> {
    /// No system allows more (`sysctl_nr_open_max` of fs/file.c), and there is room above.
    const MOST: RawFd = 1 << 30;
    let numbers = image
        .living()
        .flat_map(|(_, alive)| &alive.descriptors)
        .map(|descriptor| descriptor.number);
    let mut floor = 3;
    for number in numbers {
        if !(0..MOST).contains(&number) {
            return Err(NativeError::Image {
                reason: format!("a descriptor with the number {number}"),
            });
        }
        floor = floor.max(number + 1);
    }
    Ok(floor)
}

/// Puts what every process waits by at three numbers in a row from `floor`, and the pages above.
fn lift(floor: RawFd, signals: Signals, pages: OwnedFd) -> io::Result<(Waiting, OwnedFd, OwnedFd)> {
    let above = floor + 3;
    let copy = |file: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(file, above);
    // Copies first: the numbers may be taken by any of these.
    let failure = copy(signals.failure.as_fd())?;
    let another = failure.try_clone()?;
    let arrived = copy(signals.arrived.as_fd())?;
    let go = copy(signals.go.as_fd())?;
    let lifted = copy(pages.as_fd())?;
    drop((signals, pages));
    let waiting = Waiting {
        failure: floor,
        arrived: floor + 1,
        go: floor + 2,
    };
    for (from, to) in [
        (failure, waiting.failure),
        (arrived, waiting.arrived),
        (go, waiting.go),
    ] {
        fermata_sys::execute::duplicate_to(from.as_fd(), to)?;
    }
    Ok((waiting, another, lifted))
}

fn owner(process: &Process) -> Owner {
    Owner {
        pid: process.pid,
        name: process.name.clone(),
    }
}

fn failed<E: Into<io::Error>>(
    process: &Process,
) -> impl Fn(&'static str) -> Box<dyn FnOnce(E) -> NativeError> {
    let owner = owner(process);
    move |action| {
        let owner = owner.clone();
        Box::new(move |source| NativeError::Restore {
            action: action.to_owned(),
            owner,
            source: source.into(),
        })
    }
}

/// What the tree's processes do while it grows.
struct Growing {
    descriptions: OpenDescriptions,
    pages: OwnedFd,
    objects: Vec<OwnedFd>,
    waiting: Waiting,
}

impl Growth for Growing {
    fn lead_session(&mut self, leader: &Process) -> Result<(), NativeError> {
        match &leader.state {
            State::Alive(Alive {
                terminal: Some(terminal),
                ..
            }) => self.descriptions.lead_session(*terminal),
            _ => Ok(()),
        }
    }

    fn groups_are_set(&mut self, _leader: &Process) -> Result<(), NativeError> {
        self.descriptions.set_foreground()
    }

    fn play(&mut self, process: &Process, alive: &Alive) -> Result<Infallible, NativeError> {
        own_process::block_all_signals().map_err(failed(process)("block signals"))?;
        settle(process, alive)?;
        let resources = Resources {
            pages: self.pages.as_fd(),
            objects: &self.objects,
            waiting: self.waiting,
        };
        let program = Program::prepare(process, alive, resources)?;
        self.descriptions
            .install(&alive.descriptors, program.keep())?;
        let Err(error) = program.run(&owner(process));
        // Nothing but what the program keeps is open any more.
        tell(self.waiting.failure, &error);
        Err(error)
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// What belongs to the process and needs no program.
fn settle(process: &Process, alive: &Alive) -> Result<(), NativeError> {
    let failed = |action| failed::<io::Error>(process)(action);
    let adjustment = alive.oom_score_adjustment.to_string();
    match std::fs::write("/proc/self/oom_score_adj", adjustment) {
        // Lowering it needs CAP_SYS_RESOURCE, which the sandbox was without, too: as at a cold start.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        other => other.map_err(failed("set the out-of-memory score"))?,
    }
    own_process::set_personality(alive.personality).map_err(failed("set the personality"))?;
    own_process::disable_huge_pages(alive.huge_pages_disabled)
        .map_err(failed("set up the memory"))?;
    if alive.root != "/" {
        rustix::process::chroot(alive.root.as_str())
            .map_err(|error| failed("change the root")(error.into()))?;
    }
    rustix::process::chdir(alive.working_directory.as_str())
        .map_err(|error| failed("enter the working directory")(error.into()))?;
    let mask = rustix::fs::Mode::from_raw_mode(alive.umask);
    rustix::process::umask(mask);
    Ok(())
}
