# Files that stay open are the point.
# ruff: noqa: SIM115
"""Hundreds of open files with positions and flags; deleted, renamed and locked ones; an open directory."""

import contextlib
import fcntl
import os
import sys
import tempfile

from guest import await_finish, check, is_ready, right

COUNT = int(sys.argv[1])
os.makedirs("/many", exist_ok=True)
opened = []
for number in range(COUNT):
    file = os.open(f"/many/{number}", os.O_RDWR | os.O_CREAT | (os.O_APPEND if number % 2 else 0), 0o600)
    os.write(file, b"%08d" % number * 3)
    os.lseek(file, number % 20, os.SEEK_SET)
    opened.append(file)
for number in range(0, COUNT, 5):
    os.unlink(f"/many/{number}")

deleted = tempfile.TemporaryFile()
deleted.write(os.urandom(3 << 20))
deleted.flush()
deleted.seek(0)
content = deleted.read()
deleted.seek(1234)
spooled = tempfile.NamedTemporaryFile("w+")
spooled.write("temporary")
spooled.flush()
renamed = open("/before", "w+")
os.rename("/before", "/after")
linked = open("/linked", "w+")
os.link("/linked", "/other-name")
os.unlink("/linked")
os.makedirs("/gone/in/there")
lost = os.open("/gone/in/there", os.O_RDONLY | os.O_DIRECTORY)
os.rmdir("/gone/in/there")
here = os.open("/many", os.O_RDONLY | os.O_DIRECTORY)
os.chdir("/many")
os.umask(0o027)
locked = open("/locked", "w")
fcntl.flock(locked, fcntl.LOCK_EX)
record = open("/records", "w+")
record.write("x" * 100)
record.flush()
fcntl.lockf(record, fcntl.LOCK_EX, 10, 5)
duplicate = os.dup(opened[3])
system = os.open("/usr/bin/env", os.O_RDONLY)

is_ready()
await_finish()

for number, file in enumerate(opened):
    check(os.lseek(file, 0, os.SEEK_CUR) == number % 20, "position of", number)
    check(os.pread(file, 100, 0) == b"%08d" % number * 3, "content of", number)
    check(bool(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_APPEND) == bool(number % 2), "flags of", number)
    check(os.fstat(file).st_nlink == (number % 5 != 0), "name of", number)
check(deleted.tell() == 1234, "position of the deleted file")
deleted.seek(0)
check(deleted.read() == content, "content of the deleted file")
with open(spooled.name) as again:
    check(again.read() == "temporary", "the temporary file")
spooled.close()
check(os.readlink(f"/proc/self/fd/{renamed.fileno()}") == "/after", "the renamed file")
linked.write("through the deleted name")
linked.flush()
with open("/other-name") as other:
    check(other.read() == "through the deleted name", "the other name")
check(os.listdir(lost) == [] and os.fstat(lost).st_nlink == 0, "the deleted directory")
check(os.getcwd() == "/many" and len(os.listdir(here)) == COUNT - len(opened[::5]), "the directory")
check(os.umask(0o022) == 0o027, "umask")
with open("/locked") as rival, contextlib.suppress(BlockingIOError):
    fcntl.flock(rival, fcntl.LOCK_SH | fcntl.LOCK_NB)
    check(False, "the lock is gone")
child = os.fork()
if child == 0:
    with contextlib.suppress(BlockingIOError):
        fcntl.lockf(open("/records", "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 7)
        os._exit(1)
    os._exit(0)
check(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the record lock is gone")
os.lseek(duplicate, 7, os.SEEK_SET)
check(os.lseek(opened[3], 0, os.SEEK_CUR) == 7, "the duplicate is another file")
check(os.read(system, 4) == b"\x7fELF")
right()
