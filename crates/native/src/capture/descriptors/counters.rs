//! Descriptions that are a number or two: counters, timers, signal sets.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{Timespec, timerfd_gettime};

use super::fdinfo::FdInfo;
use super::opened::Opened;
use crate::NativeError;
use crate::image::{OpenFile, Timer};

/// `CLOCK_REALTIME` and `CLOCK_REALTIME_ALARM`: what is set to a time of theirs means that time, however late it is then.
const WALL_CLOCKS: [i32; 2] = [0, 8];
/// `TFD_TIMER_ABSTIME`
const AT_TIME: u32 = 1;
const NANOSECONDS: u64 = 1_000_000_000;

impl Opened<'_> {
    pub(super) fn event(&self) -> Result<OpenFile, NativeError> {
        let count = self.info.hexadecimal("eventfd-count");
        let semaphore = self.info.decimal("eventfd-semaphore");
        match (count, semaphore) {
            (Some(count), Some(semaphore)) => Ok(OpenFile::Event {
                count,
                semaphore: semaphore != 0,
            }),
            _ => Err(self.not_understood()),
        }
    }

    pub(super) fn signals(&self) -> Result<OpenFile, NativeError> {
        let mask = self.info.hexadecimal("sigmask");
        Ok(OpenFile::Signals {
            mask: mask.ok_or_else(|| self.not_understood())?,
        })
    }

    pub(super) fn timer(&self) -> Result<OpenFile, NativeError> {
        let time = timerfd_gettime(self.file).map_err(self.failed("ask a timer"))?;
        // Asking counted the expirations of an interval that nobody had read, so the count is to be read after it.
        let info = self
            .read_again()
            .map_err(self.failed("read a descriptor"))?;
        let remaining_ns = nanoseconds(time.it_value).ok_or_else(|| self.not_understood())?;
        let interval_ns = nanoseconds(time.it_interval).ok_or_else(|| self.not_understood())?;
        self.describe_timer(&info, remaining_ns, interval_ns)
            .map(OpenFile::Timer)
            .ok_or_else(|| self.not_understood())
    }

    fn describe_timer(&self, info: &FdInfo, remaining_ns: u64, interval_ns: u64) -> Option<Timer> {
        let clock = i32::try_from(info.decimal("clockid")?).ok()?;
        let flags = u32::from_str_radix(info.value("settime flags")?, 8).ok()?;
        let is_at = WALL_CLOCKS.contains(&clock) && flags & AT_TIME != 0 && remaining_ns != 0;
        let at_ns = if is_at {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
            Some(
                u64::try_from(now.as_nanos())
                    .ok()?
                    .checked_add(remaining_ns)?,
            )
        } else {
            None
        };
        Some(Timer {
            clock,
            flags,
            ticks: info.decimal("ticks")?,
            remaining_ns,
            interval_ns,
            at_ns,
        })
    }

    /// The state of a duplicate, which is that of the original.
    fn read_again(&self) -> io::Result<FdInfo> {
        use std::os::fd::AsRawFd as _;
        let own = rustix::fs::open(
            "/proc/self",
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        FdInfo::read(&own, self.file.as_raw_fd())
    }
}

fn nanoseconds(time: Timespec) -> Option<u64> {
    let seconds = u64::try_from(time.tv_sec).ok()?.checked_mul(NANOSECONDS)?;
    seconds.checked_add(u64::try_from(time.tv_nsec).ok()?)
}
