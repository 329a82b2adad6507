"""Processes, memory and time that a sandbox may use, and that it harms nobody when it wants more."""

import time

from commands import python, run, sh
from waiting import eventually


def test_a_fork_bomb_hits_its_limit_and_nothing_else(new_sandbox):
    bomb, neighbour = new_sandbox(), new_sandbox()
    script = (
        "import os, time\n"
        "n = 0\n"
        "try:\n"
        "    while n < 10_000:\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(1000)\n"
        "        n += 1\n"
        "except OSError as error:\n"
        "    print(n, error.strerror, flush=True)\n"
        "time.sleep(1000)\n"
    )
    process = bomb.process.exec("python3", "-c", script)
    line = next(iter(process.stdout))
    assert "temporarily unavailable" in line
    assert 100 < int(line.split()[0]) < 10_000
    assert run(neighbour, "echo", "fine").stdout == "fine\n"
    # The sandbox's own commands fail clearly, its end is quick, and killing the bomb makes it usable again.
    process.kill()
    eventually(lambda: alive(bomb), "the sandbox takes commands again", timeout=30)


def alive(sandbox) -> bool:
    from beta9.exceptions import SandboxProcessError

    try:
        return run(sandbox, "true").code == 0
    except SandboxProcessError:
        return False


def test_a_sandbox_full_of_processes_ends_quickly(new_sandbox):
    sandbox = new_sandbox()
    sandbox.process.exec("sh", "-c", "for i in $(seq 1000); do setsid sleep 1000 & done; touch /ready; wait")
    sandbox.fs.wait_for("/ready", timeout=60)
    began = time.monotonic()
    assert sandbox.terminate()
    assert time.monotonic() - began < 10


def test_requested_memory_is_a_reservation(new_sandbox):
    """Beam's default of 128 MiB is not enforced there either: ordinary programs would die of it."""
    sandbox = new_sandbox(memory=128)
    assert python(sandbox, "x = b'x' * (300 << 20); print(len(x) >> 20)") == "300\n"


def test_cpu_is_limited(new_sandbox):
    sandbox = new_sandbox(cpu=0.2)
    script = (
        "import time\n"
        "began, used = time.monotonic(), time.process_time()\n"
        "while time.monotonic() - began < 2: pass\n"
        "print((time.process_time() - used) / (time.monotonic() - began))\n"
    )
    assert float(python(sandbox, script)) < 0.35


def test_shared_memory_is_there_and_bounded(sandbox):
    assert "tmpfs" in sh(sandbox, "df -T /dev/shm")
    assert run(sandbox, "sh", "-c", "head -c 10G /dev/zero >/dev/shm/fill").code != 0
