//! What all threads share.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::process::{Budget, Starts, Table};

/// All output that is held at one time, of all processes together.
const OUTPUT_BUDGET_BYTES: usize = 256 << 20;

/// The agent's state. Lock order: `table` before the state of any process; nothing is locked while `starts` is.
#[derive(Debug)]
pub(crate) struct Agent {
    /// Where output sources and connections are watched.
    pub(crate) epoll: OwnedFd,
    pub(crate) table: Mutex<Table>,
    pub(crate) starts: Starts,
    pub(crate) budget: Arc<Budget>,
    pub(crate) started_at_unix_nanos: u64,
    /// The limit that was found at the start, for the processes; the agent's own is raised.
    pub(crate) open_files: Rlimit,
    /// The agent is exempt from the out-of-memory killer; its processes must not be.
    pub(crate) reset_oom_score: bool,
}

impl Agent {
    pub(crate) fn new(epoll: OwnedFd) -> Self {
        let open_files = getrlimit(Resource::Nofile);
        // Two pipes a process need many descriptors. Raising up to the hard limit is always allowed; if it fails all the
        // same, fewer processes can run, which is answered when it happens.
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: open_files.maximum,
                ..open_files
            },
        );
        let oom_score = std::fs::read_to_string("/proc/self/oom_score_adj");
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            epoll,
            table: Mutex::default(),
            starts: Starts::default(),
            budget: Arc::new(Budget::new(OUTPUT_BUDGET_BYTES)),
            started_at_unix_nanos: since_epoch
                .map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(0)),
            open_files,
            reset_oom_score: oom_score.is_ok_and(|score| score.starts_with('-')),
        }
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

/// Locks whatever a panic elsewhere left behind: process 1 goes on, and every critical section leaves its data usable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
