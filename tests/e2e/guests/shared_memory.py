# Files that stay open are the point.
# ruff: noqa: SIM115
"""Memory that processes share: anonymous, of a file, in /dev/shm, and of a deleted file. Both sides see each write."""

import ctypes
import mmap
import os
import tempfile
from multiprocessing import shared_memory

from guest import check, goes_on, is_ready, right

SIZE = 1 << 20


def mappings() -> list[mmap.mmap]:
    path = "/mapped"
    with open(path, "wb") as file:
        file.truncate(SIZE)
    of_file = os.open(path, os.O_RDWR)
    deleted = tempfile.TemporaryFile()
    deleted.truncate(SIZE)
    in_memory = os.memfd_create("guest")
    os.ftruncate(in_memory, SIZE)
    return [
        mmap.mmap(-1, SIZE),
        mmap.mmap(of_file, SIZE),
        mmap.mmap(deleted.fileno(), SIZE),
        mmap.mmap(in_memory, SIZE),
    ]


def word(memory, at: int) -> ctypes.c_uint64:
    return ctypes.c_uint64.from_buffer(memory, at)


named = shared_memory.SharedMemory(create=True, size=SIZE, name="guest")
check(os.path.exists("/dev/shm/guest"))
maps = [*mappings(), named.buf]
private = mmap.mmap(os.open("/mapped", os.O_RDWR), SIZE, flags=mmap.MAP_PRIVATE)
private[SIZE - 8 :] = b"only me!"
# Ping and pong in each mapping, at its beginning and in its last page.
child = os.fork()
turn = 0 if child else 1
cells = [(word(memory, 0), word(memory, SIZE - 64)) for memory in maps]
if child:
    is_ready()
rounds = 0
while True:
    for first, last in cells:
        while first.value % 2 != turn:
            if not child and os.getppid() == 1:
                os._exit(3)
            os.sched_yield()
        check(first.value == 2 * rounds + turn, "a write was lost", first.value, rounds)
        check(last.value == first.value, "two pages of one mapping are of different instants")
        last.value += 1
        first.value += 1
    rounds += 1
    # Both stop after the same round: the parent decides before its turn, and tells in a cell that only it writes.
    stop = word(maps[0], 128)
    if child and not goes_on():
        stop.value = stop.value or rounds + 1
    if stop.value == rounds:
        break
if not child:
    os._exit(0)
check(os.waitpid(child, 0)[1] == 0, "the child is not content")
check(private[SIZE - 8 :] == b"only me!", "a private page was lost")
with open("/mapped", "rb") as file:
    check(int.from_bytes(file.read(8), "little") == 2 * rounds, "the file is not the memory")
right()
