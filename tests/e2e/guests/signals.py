"""Timers, handlers, blocked signals that are pending, stopped children, alarms that are due."""

import os
import signal
import time

from guest import await_finish, check, goes_on, is_ready, right

ticks = 0
heard = 0


def on_tick(*_: object) -> None:
    global ticks
    ticks += 1


def on_user(*_: object) -> None:
    global heard
    heard += 1


signal.signal(signal.SIGALRM, on_tick)
signal.signal(signal.SIGUSR1, on_user)
signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
# Stays pending for all of the time that it is held.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM})
os.kill(os.getpid(), signal.SIGUSR2)
wake, write_end = os.pipe2(os.O_NONBLOCK)
signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

stopped = os.fork()
if stopped == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(7)
check(os.WIFSTOPPED(os.waitpid(stopped, os.WUNTRACED)[1]))

sender = os.fork()
if sender == 0:
    sent = 0
    parent = os.getppid()
    while goes_on():
        os.kill(parent, signal.SIGUSR1)
        time.sleep(0.001)
    os._exit(0)

is_ready()
before = time.monotonic()
await_finish()
check(signal.sigpending() == {signal.SIGUSR2}, "pending:", signal.sigpending())
check(signal.getitimer(signal.ITIMER_REAL)[1] > 0, "the timer is gone")
last = ticks
deadline = time.monotonic() + 20
while ticks == last:
    check(time.monotonic() < deadline, "the timer does not tick any more")
    time.sleep(0.01)
check(signal.sigwait({signal.SIGUSR2}) == signal.SIGUSR2)
with open(f"/proc/{stopped}/stat") as status:
    check(status.read().rsplit(")")[-1].split()[0] == "T", "the stopped child runs")
os.kill(stopped, signal.SIGCONT)
check(os.waitstatus_to_exitcode(os.waitpid(stopped, 0)[1]) == 7)
check(os.waitstatus_to_exitcode(os.waitpid(sender, 0)[1]) == 0)
check(heard > 0 and os.read(wake, 1), "no signal came")
check(time.monotonic() >= before, "the clock ran backwards")
right()
