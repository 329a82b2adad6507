"""A shell with job control on a terminal of its own: jobs, stopped ones too, window size, the foreground group."""

import fcntl
import os
import pty
import select
import struct
import termios
import time

from guest import await_finish, check, is_ready, right

shell, terminal = pty.fork()
if shell == 0:
    os.environ["PS1"] = "prompt> "
    os.execv("/bin/bash", ["bash", "--norc", "--noprofile", "-i"])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))


unread = ""


def until(words: str) -> str:
    global unread
    deadline = time.monotonic() + 20
    while words not in unread:
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        check(ready, "the terminal does not say", words, "but", repr(unread))
        unread += os.read(terminal, 4096).decode(errors="replace")
    before, _, unread = unread.partition(words)
    return before


def await_foreground() -> int:
    """Until a job has the terminal."""
    deadline = time.monotonic() + 20
    while (group := os.tcgetpgrp(terminal)) == shell:
        check(time.monotonic() < deadline, "no job is in the foreground")
        time.sleep(0.005)
    return group


def type_in(line: str) -> None:
    os.write(terminal, line.encode() + b"\n")


until("prompt> ")
type_in("mark=kept; sleep 1000 & echo started-$((1 + 1))")
until("started-2")
# Says so itself once it runs: before that it would not hear control-Z.
type_in("sh -c 'echo up-$((1 + 1)); exec sleep 2000'")
until("up-2")
await_foreground()
os.write(terminal, b"\x1a")  # control-Z
until("Stopped")
until("prompt> ")
type_in("cat >/typed")
foreground = await_foreground()
settings = termios.tcgetattr(terminal)
is_ready()
await_finish()

check(os.tcgetpgrp(terminal) == foreground, "another foreground group")
check(termios.tcgetattr(terminal) == settings, "other settings")
check(fcntl.ioctl(terminal, termios.TIOCGWINSZ, bytes(8))[:4] == struct.pack("HH", 33, 111), "the window's size")
type_in("a line for cat")
os.write(terminal, b"\x04")  # control-D
until("prompt> ")
with open("/typed") as file:
    check(file.read() == "a line for cat\n", "what was typed got lost")
type_in("jobs; echo end-$mark")
jobs = until("end-kept")
check("Running" in jobs and "Stopped" in jobs, jobs)
until("prompt> ")
type_in("kill %1; fg %2")
await_foreground()
os.write(terminal, b"\x03")  # control-C
until("prompt> ")
type_in("stty size; exit 5")
until("33 111")
check(os.waitstatus_to_exitcode(os.waitpid(shell, 0)[1]) == 5, "the shell's exit code")
right()
