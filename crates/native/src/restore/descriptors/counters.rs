//! Descriptions that are a number or two: counters and timers.

use std::os::fd::{AsFd as _, OwnedFd};

use fermata_sys::open_file;
use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::Failure;
use crate::image::Timer;

const NANOSECONDS: u64 = 1_000_000_000;

pub(super) fn event(count: u64, semaphore: bool) -> Result<OwnedFd, Failure> {
    let mut flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    flags.set(EventfdFlags::SEMAPHORE, semaphore);
    let event = eventfd(0, flags).map_err(Failure::to("make an event counter"))?;
    if count != 0 {
        rustix::io::write(&event, &count.to_ne_bytes())
            .map_err(Failure::to("set an event counter"))?;
    }
    Ok(event)
}

pub(super) fn timer(image: &Timer) -> Result<OwnedFd, Failure> {
    let clock = match image.clock {
        0 => TimerfdClockId::Realtime,
        1 => TimerfdClockId::Monotonic,
        7 => TimerfdClockId::Boottime,
        8 => TimerfdClockId::RealtimeAlarm,
        9 => TimerfdClockId::BoottimeAlarm,
        _ => return Err(Failure::damaged("a timer")),
    };
    let timer = timerfd_create(clock, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
        .map_err(Failure::to("make a timer"))?;
    if image.remaining_ns != 0 {
        // Clocks that are not the wall's go on where they were, so a time of theirs is as good as what is left until then.
        let (flags, value) = match image.at_ns {
            Some(at) => (TimerfdTimerFlags::from_bits_retain(image.flags), at),
            None => (TimerfdTimerFlags::empty(), image.remaining_ns),
        };
        let time = Itimerspec {
            it_interval: timespec(image.interval_ns)?,
            it_value: timespec(value)?,
        };
        timerfd_settime(&timer, flags, &time).map_err(Failure::to("set a timer"))?;
    }
    if image.ticks != 0 {
        open_file::set_ticks(timer.as_fd(), image.ticks)
            .map_err(Failure::to("set the expirations of a timer"))?;
    }
    Ok(timer)
}

fn timespec(nanoseconds: u64) -> Result<Timespec, Failure> {
    let part = |value: u64| i64::try_from(value).map_err(|_| Failure::damaged("a time"));
    Ok(Timespec {
        tv_sec: part(nanoseconds / NANOSECONDS)?,
        tv_nsec: part(nanoseconds % NANOSECONDS)?,
    })
}
