//! What is held of a tree: plain data, written to `state` beside the pages in `pages`.
//!
//! Numbers of the kernel's interface (flags, signals, resources) are kept as they are there. Pids are those inside the sandbox.

mod descriptors;
mod encoding;
mod memory;
mod process;

use serde::{Deserialize, Serialize};

pub use descriptors::*;
pub use encoding::{PAGES_FILE, STATE_FILE, VERSION};
pub use memory::{Backing, Layout, MadviseFlags, Mapping, Memory, PageRun, SharedObject, VdsoPart};
pub use process::{
    Alive, Credentials, IntervalTimer, Limit, PosixTimer, Process, Rseq, Scheduling, SeccompFilter,
    SignalAction, State, Thread,
};

/// A captured tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// The sandbox's clocks at the instant.
    pub clocks: Clocks,
    /// Parents before their children; the first is process 1.
    pub processes: Vec<Process>,
    /// Open file descriptions and what they lead to; descriptors refer to them.
    pub descriptions: Descriptions,
    /// Memory that is shared between mappings, or that a descriptor refers to.
    pub shared_objects: Vec<SharedObject>,
    /// What is in the file systems that live in memory.
    pub temporary: Vec<TemporaryFilesystem>,
}

impl Image {
    /// The highest id that a process or thread has.
    #[must_use]
    pub fn last_pid(&self) -> i32 {
        let threads = self.living().flat_map(|(_, alive)| &alive.threads);
        let processes = self.processes.iter().map(|process| process.pid);
        threads
            .map(|thread| thread.tid)
            .chain(processes)
            .max()
            .unwrap_or(1)
    }

    /// The processes that run.
    pub fn living(&self) -> impl Iterator<Item = (&Process, &Alive)> {
        self.processes
            .iter()
            .filter_map(|process| match &process.state {
                State::Alive(alive) => Some((process, alive)),
                State::Zombie { .. } => None,
            })
    }
}

/// Clocks that go on where they were, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
}

/// A tmpfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemporaryFilesystem {
    /// Where it is mounted, inside.
    pub path: String,
    /// Its archive, a file beside the state.
    pub archive: String,
}
