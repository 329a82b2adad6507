"""Takes from the machine what a reboot takes, of one server. Everybody else's is left alone.

What this cannot do is start the clocks again; a server that lived in a time namespace far ahead looks the same later.
"""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from host import commands
from leftovers import leftovers
from server import Server
from waiting import eventually

CLAIMS = Path("/run/fermata/network")


def reboot(server: Server) -> None:
    """The server is down afterwards."""
    directory = server.data_directory
    sandboxes = os.listdir(directory / "run/sandboxes")
    server.kill()
    _end_processes(directory, sandboxes)
    _unmount(directory)
    _forget_network(directory)
    # What CRIU knows of the kernel is of another boot.
    for facts in (directory / "engines").glob("kernel-*"):
        facts.unlink()
    assert leftovers(directory) == []


def _end_processes(directory: Path, sandboxes: list[str]) -> None:
    groups = [group for name in sandboxes for group in Path("/sys/fs/cgroup").rglob(name) if group.is_dir()]
    shims = {pid for pid, command in commands() if f"{directory}/run/sandboxes/" in command}
    assert len(shims) == len(sandboxes)
    inside = {int(pid) for group in groups for pid in (group / "cgroup.procs").read_text().split()}
    for pid in (*shims, *inside):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (*shims, *inside)), "all have ended")
    for group in groups:
        group.rmdir()


def _unmount(directory: Path) -> None:
    def points() -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [point for line in lines if (point := line.split()[4]).startswith(f"{directory}/")]

    for point in reversed(points()):
        subprocess.run(["umount", "--lazy", point], check=True)
    assert points() == []
    listed = subprocess.run(
        ["losetup", "--list", "--noheadings", "--output=NAME,BACK-FILE"], capture_output=True, text=True
    )
    for line in listed.stdout.splitlines():
        device, file = line.split(maxsplit=1)
        if file.startswith(f"{directory}/"):
            subprocess.run(["losetup", "--detach", device], check=True)
    # When nobody is left in a copy of the mounts: a program that is just starting has one.
    eventually(lambda: leftovers(directory) == [], "the pool is let go of")


def _forget_network(directory: Path) -> None:
    claim = next(claim for claim in CLAIMS.glob("[0-9]*") if claim.read_text().endswith(f"\n{directory}/run"))
    number = int(claim.name)
    prefix = f"fermata{number:x}-"
    # Interfaces go with their namespaces, which nothing pins any more.
    eventually(lambda: not [name for name in os.listdir("/sys/class/net") if name.startswith(prefix)], "they are gone")
    subprocess.run(["nft", "delete", "table", "inet", f"fermata_{number}"], check=True)
    claim.write_text("")
