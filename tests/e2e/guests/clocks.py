"""Watches all clocks for steps backwards, and whether the wall clock is where the file's times are."""

import os
import time

from guest import check, goes_on, is_ready, right

CLOCKS = (time.CLOCK_MONOTONIC, time.CLOCK_MONOTONIC_RAW, time.CLOCK_BOOTTIME)
last = [time.clock_gettime_ns(clock) for clock in CLOCKS]
is_ready()
while goes_on():
    now = [time.clock_gettime_ns(clock) for clock in CLOCKS]
    for clock, before, after in zip(CLOCKS, last, now, strict=True):
        check(after >= before, "clock", clock, "ran backwards by", before - after, "ns")
    last = now
open("/now", "w").close()
check(abs(os.stat("/now").st_mtime - time.time()) < 5, "the wall clock is not the kernel's")
check(time.time() - os.stat("/tmp/finish").st_mtime < 120, "the wall clock is behind")
right()
