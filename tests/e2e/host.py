"""Looking at a sandbox's processes from the host."""

import os
from pathlib import Path

from beta9.abstractions.sandbox import SandboxInstance
from server import Server
from waiting import eventually


def shim_of(server: Server, sandbox: SandboxInstance) -> int:
    """The process that keeps the sandbox: the one that was started with its run directory."""
    found = [pid for pid, command in shims_of(server) if sandbox.sandbox_id() in command]
    assert len(found) == 1, found
    return found[0]


def shims_of(server: Server) -> list[tuple[int, str]]:
    """Without their children: those are called the same until they are another program."""
    mark = f"{server.data_directory}/run/sandboxes/"
    found = {pid: command for pid, command in commands() if mark in command}
    return [(pid, command) for pid, command in found.items() if parent_of(pid) not in found]


def writers_of(server: Server) -> set[int]:
    """Children of shims that write out what was captured."""
    mark = f"{server.data_directory}/run/sandboxes/"
    found = {pid for pid, command in commands() if mark in command}
    return {pid for pid in found if parent_of(pid) in found}


def parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


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
