"""What a server that has ended must not leave on the machine."""

import os
import subprocess
from pathlib import Path


def leftovers(data_directory: Path) -> list[str]:
    """One line for each thing that is still there because of this data directory."""
    return [*_mounts(data_directory), *_processes(data_directory), *_loop_devices(data_directory)]


def _mounts(data_directory: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [f"mount: {line}" for line in lines if str(data_directory) in line]


def _processes(data_directory: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(data_directory) in command:
            found.append(f"process: {entry.name} {command}")
    return found


def _loop_devices(data_directory: Path) -> list[str]:
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            file = backing.read_text().strip()
        except OSError:
            continue
        if file.startswith(str(data_directory)):
            found.append(f"loop device: {backing.parts[3]} {file}")
    return found


def nft_tables() -> set[str]:
    answer = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
    return set(answer.stdout.splitlines())


def links() -> set[str]:
    return {entry.name for entry in Path("/sys/class/net").iterdir()}
