"""Looking at a sandbox's processes from the host."""

import os
from pathlib import Path

from beta9.abstractions.sandbox import SandboxInstance
from server import Server
from waiting import eventually


def shim_of(server: Server, sandbox: SandboxInstance) -> int:
    """The process that keeps the sandbox: the one that was started with its run directory."""
    marks = (str(server.data_directory), sandbox.sandbox_id())
    found = [pid for pid, command in commands() if all(mark in command for mark in marks)]
    assert len(found) == 1, found
    return found[0]


def agent_of(server: Server, sandbox: SandboxInstance) -> int:
    """Process 1 of the sandbox, as the host sees it."""
    shim = shim_of(server, sandbox)
    children = Path(f"/proc/{shim}/task/{shim}/children").read_text().split()
    assert len(children) == 1, children
    return int(children[0])


def commands() -> list[tuple[int, str]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append(
                    (int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                )
            except OSError:
                continue
    return found


def engines_of(server: Server) -> list[int]:
    """What captures or restores at this moment, oldest first."""
    return sorted(pid for pid, command in commands() if str(server.engine) in command)


def cgroups_of(sandbox: SandboxInstance) -> list[Path]:
    return [path for path in Path("/sys/fs/cgroup").rglob(sandbox.sandbox_id()) if path.is_dir()]


def await_end(pid: int) -> None:
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), f"process {pid} ended")


def resident_kib(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
    return int(line.split()[1])
