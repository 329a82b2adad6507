//! The part of a program that is the process's: signals, timers, limits, threads.

use fermata_sys::interpreter::{Expect, calls};

use crate::image::{Alive, IntervalTimer, PosixTimer};

use super::assembler::{Assembler, List};

const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
const SIGCHLD: i32 = 17;
const SECOND_NS: u64 = 1_000_000_000;
/// Nothing is left of it while its signal waits; only when that is taken does the kernel start it again (`posixtimer_rearm_itimer`).
const ITIMER_REAL: u64 = 0;

/// Actions and waiting signals. All are blocked in every thread until the end.
pub(super) fn signals(assembler: &mut Assembler, list: &mut List, pid: i32, alive: &Alive) {
    const SIGNAL_SET_BYTES: u64 = 8;
    let words = "set up signals";
    let default = assembler.add_words([0; 4]);
    // The default drops one that has come from a child that was made to end (`do_sigaction`): the program was told before.
    let told = [
        i64::from(SIGCHLD).cast_unsigned(),
        default,
        0,
        SIGNAL_SET_BYTES,
    ];
    list.call(assembler, words, calls::RT_SIGACTION, told);
    for signal in 1..=64_i32 {
        let set = alive.actions.iter().find(|action| action.signal == signal);
        let action = set.map_or(default, |action| {
            assembler.add_words([action.handler, action.flags, action.restorer, action.mask])
        });
        let arguments = [
            i64::from(signal).cast_unsigned(),
            action,
            0,
            SIGNAL_SET_BYTES,
        ];
        // KILL and STOP have none.
        list.call(assembler, words, calls::RT_SIGACTION, arguments)
            .expect = match signal {
            9 | 19 => Expect::Anything,
            _ => Expect::Success,
        };
    }
    for pending in &alive.pending {
        let info = assembler.add(pending, 8);
        let arguments = [i64::from(pid).cast_unsigned(), number_of(pending), info];
        list.call(assembler, words, calls::RT_SIGQUEUEINFO, arguments);
    }
}

/// Signals that wait for one thread, sent by itself.
pub(super) fn thread_signals(
    assembler: &mut Assembler,
    list: &mut List,
    pid: i32,
    tid: i32,
    pending: &[Vec<u8>],
) {
    for pending in pending {
        let info = assembler.add(pending, 8);
        let arguments = [
            i64::from(pid).cast_unsigned(),
            i64::from(tid).cast_unsigned(),
            number_of(pending),
            info,
        ];
        list.call(
            assembler,
            "set up signals",
            calls::RT_TGSIGQUEUEINFO,
            arguments,
        );
    }
}

/// `si_signo`
fn number_of(info: &[u8]) -> u64 {
    info.first_chunk()
        .map_or(0, |bytes| u64::from(u32::from_ne_bytes(*bytes)))
}

pub(super) fn timers(assembler: &mut Assembler, list: &mut List, alive: &Alive) {
    let words = "set up timers";
    for (which, timer) in (0..).zip(&alive.interval_timers) {
        if timer.remaining_ns != 0 || (which == ITIMER_REAL && timer.interval_ns != 0) {
            let place = add_timer(assembler, timer, 1000);
            list.call(assembler, words, calls::SETITIMER, [which, place, 0]);
        }
    }
    if alive.posix_timers.is_empty() {
        return;
    }
    let restore = |on| [PR_TIMER_CREATE_RESTORE_IDS, on, 0, 0, 0];
    list.call(assembler, words, calls::PRCTL, restore(1));
    for timer in &alive.posix_timers {
        create_timer(assembler, list, timer);
    }
    list.call(assembler, words, calls::PRCTL, restore(0));
}

fn create_timer(assembler: &mut Assembler, list: &mut List, timer: &PosixTimer) {
    let words = "set up timers";
    // struct sigevent: value, signal, kind, thread
    let signal = u64::from(timer.signal.cast_unsigned());
    let kind = u64::from(timer.notify.cast_unsigned());
    let thread = u64::from(timer.tid.cast_unsigned());
    let event = assembler.add_words([timer.value, signal | kind << 32, thread, 0, 0, 0, 0, 0]);
    let id = assembler.add(&timer.id.to_ne_bytes(), 4);
    let clock = i64::from(timer.clock).cast_unsigned();
    list.call(assembler, words, calls::TIMER_CREATE, [clock, event, id]);
    if timer.timer.remaining_ns != 0 {
        let place = add_timer(assembler, &timer.timer, 1);
        let id = i64::from(timer.id).cast_unsigned();
        list.call(assembler, words, calls::TIMER_SETTIME, [id, 0, place, 0]);
    }
}

/// `struct itimerval` or `struct itimerspec`, by the unit of the fraction.
fn add_timer(assembler: &mut Assembler, timer: &IntervalTimer, unit_ns: u64) -> u64 {
    // What is left must not become nothing, which would disarm it.
    let left = timer.remaining_ns.max(unit_ns);
    assembler.add_words([
        timer.interval_ns / SECOND_NS,
        timer.interval_ns % SECOND_NS / unit_ns,
        left / SECOND_NS,
        left % SECOND_NS / unit_ns,
    ])
}

/// Limits that are not what they are to be already. `current` are those of this process.
pub(super) fn limits(
    assembler: &mut Assembler,
    list: &mut List,
    alive: &Alive,
    current: &[(u64, u64)],
) {
    for limit in &alive.limits {
        let wanted = (limit.current, limit.maximum);
        let place = usize::try_from(limit.resource).unwrap_or(usize::MAX);
        if current.get(place) == Some(&wanted) {
            continue;
        }
        let value = assembler.add_words([limit.current, limit.maximum]);
        let arguments = [0, u64::from(limit.resource), value, 0];
        list.call(assembler, "set its limits", calls::PRLIMIT64, arguments);
    }
}
