//! Processes and their threads.

use serde::{Deserialize, Serialize};

use super::{Descriptor, Memory};

/// A process of the tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its parent's; 0 for process 1.
    pub parent: i32,
    /// Its process group; the leader may have ended.
    pub group: i32,
    /// Its session; the leader may have ended. 0: that of somebody outside, which only process 1 and its group may be in.
    pub session: i32,
    /// `/proc/PID/comm`.
    pub name: String,
    /// Whether there is more to it.
    pub state: State,
}

/// What is left of a process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "zombies are rare")]
pub enum State {
    /// It runs.
    Alive(Alive),
    /// It has ended and nobody has waited for it yet.
    Zombie {
        /// As `wait(2)` tells it.
        status: i32,
    },
}

/// A process that runs, or is stopped by a signal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alive {
    /// The leader first; it has the process's pid.
    pub threads: Vec<Thread>,
    /// Its address space.
    pub memory: Memory,
    /// Its open descriptors, by number.
    pub descriptors: Vec<Descriptor>,
    /// Its working directory.
    pub working_directory: String,
    /// Its root directory; `/` unless it called `chroot(2)`.
    pub root: String,
    /// Its file mode creation mask.
    pub umask: u32,
    /// Actions that are not the default.
    pub actions: Vec<SignalAction>,
    /// Signals that wait for any of its threads, as `siginfo_t`.
    pub pending: Vec<Vec<u8>>,
    /// All limits.
    pub limits: Vec<Limit>,
    /// `ITIMER_REAL`, `ITIMER_VIRTUAL`, `ITIMER_PROF`.
    pub interval_timers: [IntervalTimer; 3],
    /// Timers made by `timer_create(2)`.
    pub posix_timers: Vec<PosixTimer>,
    /// `PR_GET_DUMPABLE`.
    pub dumpable: u32,
    /// `PR_GET_CHILD_SUBREAPER`.
    pub is_subreaper: bool,
    /// `/proc/PID/oom_score_adj`.
    pub oom_score_adjustment: i32,
    /// `personality(2)`.
    pub personality: u32,
    /// `PR_GET_THP_DISABLE`.
    pub huge_pages_disabled: bool,
    /// The signal that stopped it, if it is stopped.
    pub stopped_by: Option<i32>,
    /// The terminal that controls its session: the N of `/dev/pts/N`.
    pub terminal: Option<u32>,
}

/// A thread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Thread {
    /// Its id.
    pub tid: i32,
    /// Its name.
    pub name: String,
    /// `struct user_regs_struct`, ready to go on: an interrupted system call is set up to begin again.
    pub registers: Vec<u64>,
    /// The extended state as `NT_X86_XSTATE` has it.
    pub extended_state: Vec<u8>,
    /// Blocked signals.
    pub signal_mask: u64,
    /// Signals that wait for this thread, as `siginfo_t`.
    pub pending: Vec<Vec<u8>>,
    /// `sigaltstack(2)`: address, flags, size.
    pub alternate_stack: (u64, u32, u64),
    /// `set_tid_address(2)`.
    pub clear_tid_address: u64,
    /// `set_robust_list(2)`: head and length.
    pub robust_list: (u64, u64),
    /// Restartable sequences, where registered.
    pub rseq: Option<Rseq>,
    /// `PR_GET_PDEATHSIG`.
    pub parent_death_signal: i32,
    /// Whom it acts as.
    pub credentials: Credentials,
    /// How it is scheduled.
    pub scheduling: Scheduling,
    /// `sched_getaffinity(2)`: a bit a processor; empty when it is what the sandbox began with.
    pub processors: Vec<u64>,
    /// `PR_GET_TIMERSLACK`.
    pub timer_slack_ns: u64,
    /// `PR_GET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
    /// The filters it lives under, the first installed first.
    pub seccomp: Vec<SeccompFilter>,
}

/// `rseq(2)`, as `PTRACE_GET_RSEQ_CONFIGURATION` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rseq {
    /// Where the area is.
    pub address: u64,
    /// How large.
    pub size: u32,
    /// What precedes abort handlers.
    pub signature: u32,
    /// Of the registration.
    pub flags: u32,
}

/// A seccomp program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompFilter {
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u64,
    /// Instructions, packed as `fermata_sys::seccomp` has them.
    pub instructions: Vec<u64>,
}

/// Ids and capabilities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Real, effective, saved, file system.
    pub users: [u32; 4],
    /// Real, effective, saved, file system.
    pub groups: [u32; 4],
    /// Supplementary groups.
    pub supplementary: Vec<u32>,
    /// Inheritable, permitted, effective, bounding, ambient.
    pub capabilities: [u64; 5],
    /// `PR_GET_SECUREBITS`.
    pub secure_bits: u32,
}

/// `sched_getattr(2)` and `ioprio_get(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduling {
    /// `SCHED_*`.
    pub policy: u32,
    /// Nice value.
    pub nice: i32,
    /// Priority of real time policies.
    pub priority: u32,
    /// Flags.
    pub flags: u64,
    /// `ioprio_get(2)`.
    pub io_priority: i32,
}

/// `struct kernel_sigaction`, of a signal whose action is not the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalAction {
    /// Which.
    pub signal: i32,
    /// `SIG_IGN` or an address.
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// What a handler returns to.
    pub restorer: u64,
    /// What is blocked meanwhile.
    pub mask: u64,
}

/// One of `getrlimit(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// Soft limit.
    pub current: u64,
    /// Hard limit.
    pub maximum: u64,
}

/// What is left of an interval timer; both zero when it is not armed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntervalTimer {
    /// Until it fires.
    pub remaining_ns: u64,
    /// After that.
    pub interval_ns: u64,
}

/// A timer of `timer_create(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PosixTimer {
    /// Its id.
    pub id: i32,
    /// `CLOCK_*`.
    pub clock: i32,
    /// `SIGEV_*`.
    pub notify: i32,
    /// The signal it sends.
    pub signal: i32,
    /// `sigev_value`.
    pub value: u64,
    /// For `SIGEV_THREAD_ID`.
    pub tid: i32,
    /// What is left of it.
    pub timer: IntervalTimer,
}
