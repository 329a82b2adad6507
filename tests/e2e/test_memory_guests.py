"""Programs that check themselves, held at a random moment and played on twice beside the original: all are right."""

import os
import random
import time

import pytest
from beta9.abstractions.sandbox import SandboxInstance
from guest_programs import finish, start

# How often a busy guest is held, while it runs on.
CYCLES = int(os.environ.get("FERMATA_TEST_CYCLES", "10"))
# How many lives a guest goes through.
LIVES = int(os.environ.get("FERMATA_TEST_CYCLES", "200"))


def some_time() -> None:
    """A random moment is the point: nothing that happens in the guest is awaited."""
    time.sleep(random.uniform(0, 0.3))


@pytest.mark.parametrize(
    "guest",
    [
        ("counter",),
        ("appender",),
        ("threads",),
        ("many_threads", "1000"),
        ("asyncio_sockets",),
        ("processes",),
        ("pipelines",),
        ("sqlite_writer", "wal"),
        ("sqlite_writer", "delete"),
        ("shared_memory",),
        ("signals",),
        ("sockets",),
        ("files", "500"),
        ("terminal",),
        ("memory_hog", "200"),
        ("clocks",),
    ],
    ids=" ".join,
)
def test_played_on_twice_beside_the_original(new_sandbox, hold, play_on, guest):
    original = new_sandbox()
    process = start(original, *guest)
    some_time()
    snapshot = hold(original)
    beside = [play_on(snapshot), play_on(snapshot)]
    some_time()
    for sandbox in (original, *beside):
        finish(sandbox, process.pid)


@pytest.mark.parametrize("guest", [("counter",), ("sqlite_writer", "wal")], ids=" ".join)
def test_held_again_and_again(new_sandbox, hold, play_on, server, guest):
    """Of many snapshots of a busy writer, each is of one instant."""
    original = new_sandbox()
    process = start(original, *guest)
    for _ in range(CYCLES):
        some_time()
        snapshot = hold(original)
        held = play_on(snapshot)
        finish(held, process.pid)
        held.terminate()
        server.api("DELETE", f"/snapshots/{snapshot}")
    finish(original, process.pid)


def test_held_killed_and_played_on(new_sandbox, hold, play_on, server):
    """A journal goes through many lives, each from a snapshot of the one before; not one line is lost."""
    sandbox = new_sandbox()
    process = start(sandbox, "appender")
    written = 0
    for _ in range(LIVES):
        some_time()
        before = written
        written = length(sandbox)
        assert written > before
        snapshot = hold(sandbox)
        at_least = written
        sandbox.terminate()
        sandbox = play_on(snapshot)
        written = length(sandbox)
        assert written >= at_least
    finish(sandbox, process.pid)


def length(sandbox: SandboxInstance) -> int:
    return sandbox.fs.stat_file("/journal").size
