//! What a process and its threads are, apart from memory and descriptors.

use std::fs;
use std::io;

use fermata_sys::injection::{Call, calls};
use fermata_sys::sharing;
use rustix::process::Resource;

use super::inject::Room;
use super::procfs::Status;
use super::stopped::{Stopped, StoppedProcess, StoppedThread};
use super::threads::{self, resumable};
use crate::NativeError;
use crate::image::{
    Clocks, Credentials, IntervalTimer, Limit, PosixTimer, Rseq, Scheduling, SeccompFilter,
    SignalAction, Thread,
};

// linux/prctl.h
const PR_GET_PDEATHSIG: u64 = 2;
const PR_GET_DUMPABLE: u64 = 3;
const PR_GET_TSC: u64 = 25;
const PR_GET_SECUREBITS: u64 = 27;
const PR_GET_TIMERSLACK: u64 = 30;
const PR_GET_CHILD_SUBREAPER: u64 = 37;
const PR_GET_TID_ADDRESS: u64 = 40;
const PR_GET_THP_DISABLE: u64 = 42;
const PR_GET_IO_FLUSHER: u64 = 58;
const PR_GET_MDWE: u64 = 66;
const PR_TSC_ENABLE: u32 = 1;
/// asm/prctl.h
const ARCH_GET_XCOMP_PERM: u64 = 0x1022;
/// `XFEATURE_MASK_XTILE`: their configuration, their data.
const TILES: u64 = 0b11 << 17;
/// What a process has to ask for.
const TILE_DATA: u64 = 1 << 18;

const CLOCK_MONOTONIC: u64 = 1;
const CLOCK_BOOTTIME: u64 = 7;
const SECOND_NS: u64 = 1_000_000_000;

const SIGNALS: i32 = 64;
const SIGNAL_SET_BYTES: u64 = 8;
/// `struct kernel_sigaction`
const ACTION_BYTES: usize = 32;
/// `struct itimerval`, `struct itimerspec`
const TIMER_BYTES: usize = 32;
/// `stack_t`
const STACK_BYTES: usize = 24;

/// The most calls that [`of_process`] makes, and the bytes they write.
pub(crate) fn room_for(timers: usize) -> (usize, usize) {
    let calls = SIGNALS as usize + 15 + timers;
    (calls, calls * ACTION_BYTES)
}

/// What only the process itself can find out.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) clocks: Clocks,
    pub(crate) brk: u64,
    pub(crate) dumpable: u32,
    pub(crate) is_subreaper: bool,
    pub(crate) huge_pages_disabled: bool,
    pub(crate) actions: Vec<SignalAction>,
    pub(crate) interval_timers: [IntervalTimer; 3],
    pub(crate) posix_timers: Vec<PosixTimer>,
}

/// A list of calls under construction, with a place for what each writes.
struct Questions {
    calls: Vec<Call>,
    answers: u64,
}

impl Questions {
    fn new(room: &Room<'_>, most: usize) -> Self {
        Self {
            calls: Vec::new(),
            answers: room.results(most),
        }
    }

    /// Where the next call may write.
    fn place(&self) -> u64 {
        self.answers + (self.calls.len() * ACTION_BYTES) as u64
    }

    fn ask<const COUNT: usize>(&mut self, number: i64, arguments: [u64; COUNT]) -> usize {
        self.calls.push(Call::new(number, arguments));
        self.calls.len() - 1
    }
}

/// What was answered.
struct Answers {
    calls: Vec<Call>,
    bytes: Vec<u8>,
}

impl Answers {
    fn get(
        questions: Questions,
        room: &Room<'_>,
        thread: &StoppedThread,
        most: usize,
    ) -> io::Result<Self> {
        let mut calls = questions.calls;
        room.run(thread, &mut calls)?;
        let mut bytes = vec![0; calls.len() * ACTION_BYTES];
        room.read_results(most, &mut bytes)?;
        Ok(Self { calls, bytes })
    }

    fn result(&self, at: usize) -> io::Result<u64> {
        let result = self.calls[at].result;
        u64::try_from(result)
            .map_err(|_| io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(0)))
    }

    fn small(&self, at: usize) -> io::Result<u32> {
        u32::try_from(self.result(at)?).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// The words that a call wrote.
    fn words(&self, at: usize) -> io::Result<[u64; 4]> {
        self.result(at)?;
        let bytes = &self.bytes[at * ACTION_BYTES..][..ACTION_BYTES];
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Ok(words)
    }

    /// A 32-bit number that a call wrote.
    fn half(&self, at: usize) -> io::Result<u32> {
        Ok((self.words(at)?[0] & 0xffff_ffff) as u32)
    }
}

pub(crate) fn of_process(
    process: &StoppedProcess,
    room: &Room<'_>,
    timers: &[PosixTimer],
) -> Result<Asked, NativeError> {
    let failed = || process.task.failed("read the settings");
    let (most, _) = room_for(timers.len());
    let mut questions = Questions::new(room, most);
    let brk = questions.ask(calls::BRK, [0]);
    let mut setting = |option: u64| questions.ask(calls::PRCTL, [option, 0, 0, 0, 0]);
    let dumpable = setting(PR_GET_DUMPABLE);
    let huge_pages = setting(PR_GET_THP_DISABLE);
    let refused = [
        (setting(PR_GET_MDWE), "it denies itself executable memory"),
        (setting(PR_GET_IO_FLUSHER), "it is an I/O flusher"),
    ];
    let mut pointed = |option: u64| {
        let place = questions.place();
        questions.ask(calls::PRCTL, [option, place, 0, 0, 0])
    };
    let subreaper = pointed(PR_GET_CHILD_SUBREAPER);
    let tsc = pointed(PR_GET_TSC);
    // Inside, because clocks may have an offset there (time_namespaces(7)).
    let mut clock = |clock: u64| {
        let place = questions.place();
        questions.ask(calls::CLOCK_GETTIME, [clock, place])
    };
    let monotonic = clock(CLOCK_MONOTONIC);
    let boot = clock(CLOCK_BOOTTIME);
    let place = questions.place();
    let tiles = questions.ask(calls::ARCH_PRCTL, [ARCH_GET_XCOMP_PERM, place]);
    let interval: Vec<usize> = (0..3)
        .map(|which| {
            let place = questions.place();
            questions.ask(calls::GETITIMER, [which, place])
        })
        .collect();
    let posix: Vec<usize> = timers
        .iter()
        .map(|timer| {
            let place = questions.place();
            let id = i64::from(timer.id).cast_unsigned();
            questions.ask(calls::TIMER_GETTIME, [id, place])
        })
        .collect();
    let set = process.status.ignored | process.status.caught;
    let actions: Vec<(i32, usize)> = (1..=SIGNALS)
        .filter(|signal| set >> (signal - 1) & 1 == 1)
        .map(|signal| {
            let place = questions.place();
            let number = i64::from(signal).cast_unsigned();
            let asked = [number, 0, place, SIGNAL_SET_BYTES];
            (signal, questions.ask(calls::RT_SIGACTION, asked))
        })
        .collect();

    let leader = process.leader()?;
    let answers = Answers::get(questions, room, leader, most).map_err(failed())?;
    for (at, reason) in refused {
        // Older kernels do not know the setting, and then it is not set.
        if answers.result(at).is_ok_and(|value| value != 0) {
            return Err(process.task.unheld(reason));
        }
    }
    if answers.half(tsc).map_err(failed())? != PR_TSC_ENABLE {
        return Err(process
            .task
            .unheld("it has the time stamp counter disabled"));
    }
    // Kernels and processors without them do not know the question.
    if answers
        .words(tiles)
        .is_ok_and(|words| words[0] & TILE_DATA != 0)
    {
        return Err(process.task.unheld("it may use tile registers (AMX)"));
    }
    let read = || {
        let mut interval_timers = [IntervalTimer::default(); 3];
        for (timer, at) in interval_timers.iter_mut().zip(&interval) {
            // Microseconds here, nanoseconds at timer_gettime(2).
            *timer = timer_of(answers.words(*at)?, 1000);
        }
        let mut posix_timers = timers.to_vec();
        for (timer, at) in posix_timers.iter_mut().zip(&posix) {
            timer.timer = timer_of(answers.words(*at)?, 1);
        }
        let actions = actions.iter().map(|(signal, at)| {
            let [handler, flags, restorer, mask] = answers.words(*at)?;
            Ok(SignalAction {
                signal: *signal,
                handler,
                flags,
                restorer,
                mask,
            })
        });
        let clock = |at: usize| {
            let [seconds, nanoseconds, ..] = answers.words(at)?;
            Ok::<_, io::Error>(
                seconds
                    .saturating_mul(SECOND_NS)
                    .saturating_add(nanoseconds),
            )
        };
        Ok::<_, io::Error>(Asked {
            clocks: Clocks {
                monotonic_ns: clock(monotonic)?,
                boot_ns: clock(boot)?,
            },
            brk: answers.result(brk)?,
            dumpable: answers.small(dumpable)?,
            is_subreaper: answers.half(subreaper)? != 0,
            huge_pages_disabled: answers.result(huge_pages)? != 0,
            actions: actions.collect::<io::Result<_>>()?,
            interval_timers,
            posix_timers,
        })
    };
    read().map_err(failed())
}

/// Interval first, then what is left; seconds and a fraction each.
fn timer_of([interval_s, interval, left_s, left]: [u64; 4], unit_ns: u64) -> IntervalTimer {
    let nanoseconds = |seconds: u64, fraction: u64| {
        seconds
            .saturating_mul(SECOND_NS)
            .saturating_add(fraction.saturating_mul(unit_ns))
    };
    IntervalTimer {
        remaining_ns: nanoseconds(left_s, left),
        interval_ns: nanoseconds(interval_s, interval),
    }
}

/// `/proc/PID/timers`, without what is left of them.
pub(crate) fn posix_timers(
    process: &StoppedProcess,
    stopped: &Stopped,
) -> Result<Vec<PosixTimer>, NativeError> {
    let task = &process.task;
    let text = fs::read_to_string(format!("/proc/{}/timers", task.host_pid))
        .map_err(task.failed("list the timers"))?;
    let mut timers = Vec::new();
    let invalid = || task.failed("list the timers")(io::Error::from(io::ErrorKind::InvalidData));
    for block in text.split("ID: ").skip(1) {
        timers.push(timer_in(block, process, stopped).ok_or_else(invalid)?);
    }
    Ok(timers)
}

fn timer_in(block: &str, process: &StoppedProcess, stopped: &Stopped) -> Option<PosixTimer> {
    const SIGEV_SIGNAL: i32 = 0;
    const SIGEV_NONE: i32 = 1;
    const SIGEV_THREAD: i32 = 2;
    const SIGEV_THREAD_ID: i32 = 4;
    let field = |name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim())
    };
    let (signal, value) = field("signal:")?.split_once('/')?;
    let (kind, whom) = field("notify:")?.split_once('/')?;
    let (whose, host_id) = whom.split_once('.')?;
    let host_id: i32 = host_id.parse().ok()?;
    let notify = match kind {
        "signal" => SIGEV_SIGNAL,
        "none" => SIGEV_NONE,
        "thread" => SIGEV_THREAD,
        _ => return None,
    };
    let (flag, tid) = match whose {
        "tid" => {
            let thread = process
                .threads
                .iter()
                .find(|thread| thread.host_tid().is_ok_and(|tid| tid == host_id))?;
            (SIGEV_THREAD_ID, thread.tid)
        }
        // Of another process: none that can be made again.
        _ if stopped.pid_inside(host_id)? != process.task.pid => return None,
        _ => (0, 0),
    };
    Some(PosixTimer {
        id: block.lines().next()?.trim().parse().ok()?,
        clock: field("ClockID:")?.parse().ok()?,
        notify: notify | flag,
        signal: signal.trim().parse().ok()?,
        value: u64::from_str_radix(value.trim(), 16).ok()?,
        tid,
        timer: IntervalTimer::default(),
    })
}

pub(crate) fn limits(process: &StoppedProcess) -> Result<Vec<Limit>, NativeError> {
    const ALL: [Resource; 16] = [
        Resource::Cpu,
        Resource::Fsize,
        Resource::Data,
        Resource::Stack,
        Resource::Core,
        Resource::Rss,
        Resource::Nproc,
        Resource::Nofile,
        Resource::Memlock,
        Resource::As,
        Resource::Locks,
        Resource::Sigpending,
        Resource::Msgqueue,
        Resource::Nice,
        Resource::Rtprio,
        Resource::Rttime,
    ];
    let task = &process.task;
    // prlimit(2) wants CAP_SYS_RESOURCE for processes of other users, which root need not have; proc(5) does not.
    let text = fs::read_to_string(format!("/proc/{}/limits", task.host_pid))
        .map_err(task.failed("read the limits"))?;
    let limits: Option<Vec<Limit>> = ALL
        .iter()
        .zip(LIMIT_NAMES)
        .map(|(resource, name)| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let mut words = line.split_ascii_whitespace().map(|word| match word {
                "unlimited" => Some(u64::MAX),
                number => number.parse().ok(),
            });
            Some(Limit {
                resource: *resource as u32,
                current: words.next()??,
                maximum: words.next()??,
            })
        })
        .collect();
    limits
        .ok_or_else(|| task.failed("read the limits")(io::Error::from(io::ErrorKind::InvalidData)))
}

/// As `/proc/PID/limits` names them, in the order of their numbers.
const LIMIT_NAMES: [&str; 16] = [
    "Max cpu time",
    "Max file size",
    "Max data size",
    "Max stack size",
    "Max core file size",
    "Max resident set",
    "Max processes",
    "Max open files",
    "Max locked memory",
    "Max address space",
    "Max file locks",
    "Max pending signals",
    "Max msgqueue size",
    "Max nice priority",
    "Max realtime priority",
    "Max realtime timeout",
];

pub(crate) fn of_thread(
    process: &StoppedProcess,
    thread: &StoppedThread,
    room: &Room<'_>,
    filters: &mut Filters,
) -> Result<Thread, NativeError> {
    let failed = || process.task.failed("read the settings of a thread");
    threads::refuse_unheld(process, thread)?;
    let (most, _) = room_for(0);
    let mut questions = Questions::new(room, most);
    let place = questions.place();
    let stack = questions.ask(calls::SIGALTSTACK, [0, place]);
    let mut pointed = |option: u64| {
        let place = questions.place();
        questions.ask(calls::PRCTL, [option, place, 0, 0, 0])
    };
    let clear_tid = pointed(PR_GET_TID_ADDRESS);
    let death_signal = pointed(PR_GET_PDEATHSIG);
    let secure_bits = questions.ask(calls::PRCTL, [PR_GET_SECUREBITS, 0, 0, 0, 0]);
    let slack = questions.ask(calls::PRCTL, [PR_GET_TIMERSLACK, 0, 0, 0, 0]);
    let answers = Answers::get(questions, room, thread, most).map_err(failed())?;

    let mut read = || {
        let tracee = thread.tracee()?;
        let [stack_address, stack_flags, stack_bytes, _] = answers.words(stack)?;
        let rseq = tracee.rseq()?.map(|rseq| Rseq {
            address: rseq.address,
            size: rseq.size,
            signature: rseq.signature,
            flags: rseq.flags,
        });
        let scheduling = sharing::scheduling(tracee.tid())?;
        let Status {
            users,
            groups,
            supplementary,
            capabilities,
            ..
        } = thread.status.clone();
        Ok::<_, io::Error>(Thread {
            tid: thread.tid,
            name: thread.status.name.clone(),
            registers: resumable(process.task.host_pid, thread, rseq)?,
            extended_state: tracee.extended_state()?,
            signal_mask: thread.signal_mask,
            pending: tracee.pending_signals(false)?,
            alternate_stack: (
                stack_address,
                (stack_flags & 0xffff_ffff) as u32,
                stack_bytes,
            ),
            clear_tid_address: answers.words(clear_tid)?[0],
            robust_list: sharing::robust_list(tracee.tid())?,
            rseq,
            parent_death_signal: answers.half(death_signal)?.cast_signed(),
            credentials: Credentials {
                users,
                groups,
                supplementary,
                capabilities,
                secure_bits: answers.small(secure_bits)?,
            },
            scheduling: Scheduling {
                policy: scheduling.policy,
                nice: scheduling.nice,
                priority: scheduling.priority,
                flags: scheduling.flags,
                io_priority: sharing::io_priority(tracee.tid())?,
            },
            processors: processors(tracee.tid())?,
            timer_slack_ns: answers.result(slack)?,
            no_new_privileges: thread.status.no_new_privileges,
            seccomp: filters.of(thread)?,
        })
    };
    const {
        assert!(TIMER_BYTES <= ACTION_BYTES && STACK_BYTES <= ACTION_BYTES);
    }
    let held = read().map_err(failed())?;
    if uses_tiles(&held.extended_state) {
        return Err(process.task.unheld("it uses tile registers (AMX)"));
    }
    Ok(held)
}

/// By the header of the extended state, which says what is in use.
fn uses_tiles(extended_state: &[u8]) -> bool {
    const HEADER: usize = 512;
    let used = extended_state.get(HEADER..).and_then(<[u8]>::first_chunk);
    used.is_some_and(|used| u64::from_ne_bytes(*used) & TILES != 0)
}

/// The processors that a thread keeps to, if they are not all that this program may use.
fn processors(tid: i32) -> io::Result<Vec<u64>> {
    let found = sharing::processors(tid)?;
    if found == sharing::processors(0)? {
        return Ok(Vec::new());
    }
    Ok(found)
}

/// Filters are the same for nearly all threads, and reading one takes long.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    known: Vec<Vec<SeccompFilter>>,
}

impl Filters {
    fn of(&mut self, thread: &StoppedThread) -> io::Result<Vec<SeccompFilter>> {
        const FILTER_MODE: u32 = 2;
        match thread.status.seccomp_mode {
            0 => return Ok(Vec::new()),
            FILTER_MODE => {}
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
        let tracee = thread.tracee()?;
        let mut filters = Vec::new();
        while let Some(instructions) = tracee.seccomp_filter(filters.len())? {
            filters.push(SeccompFilter {
                flags: 0,
                instructions,
            });
        }
        if !self.known.contains(&filters) {
            self.known.push(filters.clone());
        }
        Ok(filters)
    }
}
